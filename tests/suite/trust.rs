//! TLS on real sockets: a bundle that changes under work in flight, what a refused server showed, old versions, proxies over TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use penstock::aws::AwsLocation;
use penstock::config::{CertificateMode, Location};
use penstock::error::Class;
use penstock::format::key::ObjectKey;
use penstock::metrics::Metrics;
use penstock::site::{Handshake, Service, Site as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::aws_client::{ROLE_B, hop};
use crate::servers::{S3Server, Scheme, Servers, authority};

fn with_bundle(server: &S3Server, path: &Path) -> Location {
    Location { certificate: Some(path.to_owned()), certificate_mode: CertificateMode::Only, ..server.location() }
}

fn connect(location: &Location, metrics: &Metrics) -> AwsLocation {
    AwsLocation::connect_with(location, metrics.location("primary"), |_| None).unwrap()
}

/// Replaced as a mounted Secret is: another file behind the same name.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

async fn list(aws: &AwsLocation) -> Result<(), Class> {
    aws.store().list("", None).await.map(drop).map_err(|error| error.class)
}

/// Polls; the bound is for a broken reload only.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_mins(2), "not within two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_changed_bundle_is_taken_up_and_what_is_in_flight_goes_on() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    // More than the buffers of both ends take in: most of it is still to be sent when the bundle changes.
    let size = 48 << 20;
    fs::write(server.folder().join("large"), vec![9; size]).unwrap();
    let right = fs::read_to_string(servers.ca_path()).unwrap();
    let other = authority("another CA").1;
    let bundle = servers.folder().join("bundle.pem");
    fs::write(&bundle, &right).unwrap();
    let metrics = Metrics::new();
    let aws = connect(&with_bundle(&server, &bundle), &metrics);
    let download = aws.store().get(&ObjectKey::new("large"), None).await.unwrap();

    replace(&bundle, &other);
    until("the other CA is trusted", async || aws.trust().certificates()[0].subject.contains("another CA")).await;
    assert_eq!(list(&aws).await, Err(Class::Tls), "a new connection trusts the new bundle only");
    let bytes: Vec<_> = download.body.try_collect().await.unwrap();
    assert_eq!(bytes.iter().map(bytes::Bytes::len).sum::<usize>(), size, "the old connection was not touched");

    // A bundle that cannot be used changes nothing; several certificates in one are each trusted.
    replace(&bundle, &format!("{other}{right}"));
    until("both are trusted", async || list(&aws).await.is_ok()).await;
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    replace(&bundle, &format!("{right}{key}"));
    // Looked at by then, and refused; that nothing happens can only be waited for.
    tokio::time::sleep(penstock::aws::http::LOOK).await;
    assert_eq!((aws.trust().certificates().len(), list(&aws).await), (2, Ok(())));
    let families = metrics.gather();
    let expiry =
        families.iter().find(|family| family.name() == "penstock_certificate_expiry_timestamp_seconds").unwrap();
    assert!(expiry.get_metric()[0].get_gauge().get_value() > 1_800_000_000.0);
}

#[tokio::test]
async fn a_refused_handshake_says_what_the_server_showed() {
    let servers = Servers::start();
    let other = servers.folder().join("other.pem");
    fs::write(&other, authority("another CA").1).unwrap();
    let rows = [
        (Scheme::Https, other.clone(), "other.pem alone"),
        (Scheme::HttpsExpired, servers.ca_path(), "renew it"),
        (Scheme::HttpsOtherName, servers.ca_path(), "other names"),
    ];
    for (scheme, bundle, remedy) in rows {
        let server = servers.s3(scheme);
        let location = with_bundle(&server, &bundle);
        let error = connect(&location, &Metrics::new()).store().list("", None).await.unwrap_err();
        let endpoint = server.url.strip_prefix("https://").unwrap();
        for words in
            [endpoint, "CN=Penstock test server", "issued by CN=Penstock test CA", "valid from ", "certificate"]
        {
            assert!(error.message.contains(words), "{words}: {}", error.message);
        }
        assert_eq!((error.class, error.class.exit_code()), (Class::Tls, 78));
        assert!(error.remedy.as_ref().unwrap().contains(remedy), "{error:?}");
        let shaken = connect(&location, &Metrics::new()).handshake(Service::S3).await.unwrap();
        assert_eq!(shaken.unwrap_err().class, Class::Tls);
    }
    // STS, EC2: the same words, and the one that failed is named.
    let server = servers.s3(Scheme::Http);
    let sts = servers.scripted(Scheme::Https, |_, _| (200, String::new()));
    let location = Location {
        sts_url: Some(sts.url.clone()),
        ec2_url: Some(sts.url.clone()),
        assume_role: vec![hop(ROLE_B, None, 3600)],
        ..with_bundle(&server, &other)
    };
    let error = connect(&location, &Metrics::new()).store().list("", None).await.unwrap_err();
    assert_eq!((error.class, error.service), (Class::Tls, "sts"));
    assert!(error.message.contains("issued by CN=Penstock test CA"), "{error}");
    assert_eq!(sts.seen().len(), 0);
}

#[tokio::test]
async fn what_a_good_server_shows_is_told_too() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let aws = connect(&server.location(), &Metrics::new());
    let Handshake::Tls { url, protocol, certificate } = aws.handshake(Service::S3).await.unwrap().unwrap() else {
        panic!("it is TLS")
    };
    assert_eq!((url, protocol), (server.url.clone(), "TLSv1.3"));
    assert_eq!(
        (certificate.subject.as_str(), certificate.issuer.as_str()),
        ("CN=Penstock test server", "CN=Penstock test CA")
    );
    // Its own keys at another store: STS is never spoken to.
    assert!(aws.handshake(Service::Sts).await.is_none());
    assert_eq!(server.requests(), 0, "nothing is sent over it");
}

/// A server that picks TLS 1.1, as old appliances do: its ServerHello, byte by byte.
#[tokio::test]
async fn tls_1_1_is_refused() {
    let servers = Servers::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            // Record of TLS 1.1, handshake of 42 bytes; ServerHello of 38: version 3.2, random, no session, AES128-SHA, null.
            let mut hello = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
            hello.extend([7; 32]);
            hello.extend([0, 0, 0x2f, 0]);
            let _ = socket.write_all(&hello).await;
            let _ = socket.read(&mut [0; 4096]).await;
        }
    });
    let location = Location { s3_url: Some(url), ..servers.s3(Scheme::Https).location() };
    let error = connect(&location, &Metrics::new()).store().list("", None).await.unwrap_err();
    assert_eq!(error.class, Class::Tls, "{error}");
    assert!(error.message.contains("ServerDoesNotSupportTls12Or13") || error.message.contains("version"), "{error}");
}

/// A proxy that is itself reached over TLS: CONNECT, then bytes to and fro.
async fn proxy(servers: &Servers, target: String, asked: Arc<Mutex<Vec<String>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let tls = servers.acceptor(Scheme::Https).unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, target, asked) = (tls.clone(), target.clone(), asked.clone());
            tokio::spawn(async move {
                let Ok(mut client) = tls.accept(socket).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(client.read_u8().await.unwrap());
                }
                asked.lock().unwrap().push(String::from_utf8_lossy(&request).lines().next().unwrap().to_owned());
                let mut server = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn the_bundle_holds_for_a_proxy_and_for_what_is_behind_it() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let url = proxy(&servers, server.url.strip_prefix("https://").unwrap().to_owned(), asked.clone()).await;
    let env = move |name: &str| (name == "HTTPS_PROXY").then(|| url.clone());
    let through = |bundle: PathBuf| {
        let location = Location { s3_url: Some("https://s3.test:8443".into()), ..with_bundle(&server, &bundle) };
        AwsLocation::connect_with(&location, Metrics::new().location("primary"), env.clone()).unwrap()
    };
    let aws = through(servers.ca_path());
    assert_eq!(list(&aws).await, Ok(()));
    assert!(matches!(aws.handshake(Service::S3).await, Some(Ok(Handshake::Tls { .. }))));
    assert!(asked.lock().unwrap().iter().all(|line| line == "CONNECT s3.test:8443 HTTP/1.1"));
    assert!(asked.lock().unwrap().len() >= 2, "the handshake goes the same way");
    let other = servers.folder().join("other.pem");
    fs::write(&other, authority("another CA").1).unwrap();
    assert_eq!(list(&through(other)).await, Err(Class::Tls));
}
