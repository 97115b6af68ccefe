//! The AWS client on real sockets: whom it trusts, what it makes of a broken connection, and how it comes by credentials.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock::aws::{AwsLocation, Error as ConnectError};
use penstock::checksum::Algorithm;
use penstock::config::{CertificateMode, Credentials, Encryption, EncryptionMode, Hop, Location, Secret, SecretSource};
use penstock::disks::Tags;
use penstock::error::{Class, Classify as _};
use penstock::format::key::ObjectKey;
use penstock::metrics::Metrics;
use penstock::site::{Ec2Action, Site as _};
use penstock::store::{Error, Overwrite, PartNumber, Payload, UploadHandle};

use crate::servers::{
    ACCESS_KEY, Answer, S3Server, SESSION_ACCESS_KEY, SESSION_SECRET_KEY, Scheme, Scripted, Seen, Servers, authority,
    in_turn,
};

pub(crate) fn connect(location: &Location) -> AwsLocation {
    connect_in(location, |_| None).unwrap()
}

fn connect_in(
    location: &Location,
    env: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> Result<AwsLocation, ConnectError> {
    AwsLocation::connect_with(location, Metrics::new().location("test"), env)
}

async fn list(location: &Location) -> Result<(), Error> {
    connect(location).store().list("", None).await.map(drop)
}

fn trusting(server: &S3Server, path: PathBuf, mode: CertificateMode) -> Location {
    Location { certificate: Some(path), certificate_mode: mode, ..server.location() }
}

#[tokio::test]
async fn the_right_ca_is_trusted_in_either_mode() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    for mode in [CertificateMode::Only, CertificateMode::Add] {
        list(&trusting(&server, servers.ca_path(), mode)).await.unwrap();
    }
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_a_tls_failure_that_says_why() {
    let servers = Servers::start();
    let other = servers.folder().join("other.pem");
    std::fs::write(&other, authority("another CA").1).unwrap();
    let rows = [
        (Scheme::Https, other, "other.pem"),
        (Scheme::HttpsExpired, servers.ca_path(), "expired"),
        (Scheme::HttpsOtherName, servers.ca_path(), "other names"),
    ];
    for (scheme, bundle, word) in rows {
        let server = servers.s3(scheme);
        let error = list(&trusting(&server, bundle, CertificateMode::Only)).await.unwrap_err();
        let remedy = error.remedy.clone().unwrap_or_default();
        assert_eq!(error.class, Class::Tls, "{error}");
        assert!(remedy.contains(word), "{remedy}");
        assert!(error.to_string().contains("certificate") && !error.to_string().contains("dispatch"), "{error}");
        assert_eq!(server.requests(), 0);
    }
    let plain = servers.s3(Scheme::Http);
    let url = plain.url.replace("http:", "https:");
    let error = list(&Location { s3_url: Some(url), ..plain.location() }).await.unwrap_err();
    assert_eq!(error.class, Class::Tls, "{error}");
    assert!(error.remedy.unwrap().contains("does not speak TLS"));
}

#[test]
fn a_bundle_that_cannot_be_used_is_refused_before_any_request() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let file = |name: &str, content: &str| {
        let path = servers.folder().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let rows = [
        (servers.folder().join("missing.pem"), Class::Config, "no such file"),
        (servers.folder().to_owned(), Class::Config, "folder"),
        (file("empty.pem", ""), Class::Tls, "empty"),
        (file("garbage.pem", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"), Class::Tls, "PEM"),
        (file("text.pem", "not a certificate"), Class::Tls, "no PEM certificate"),
        (file("key.pem", &key), Class::Tls, "private key"),
    ];
    for (path, class, word) in rows {
        let error = connect_in(&trusting(&server, path, CertificateMode::Add), |_| None).unwrap_err();
        let report = error.report();
        assert_eq!(report.class, class, "{error}");
        assert!(report.message.contains(word) && report.message.contains("location test"), "{}", report.message);
        assert!(report.remedy.is_some());
    }
    assert_eq!(server.requests(), 0);
    let bad = Location { sts_url: Some("sts.example".into()), ..server.location() };
    assert!(matches!(connect_in(&bad, |_| None), Err(ConnectError::Url { key: "sts_url", .. })));
}

#[tokio::test]
async fn broken_connections_are_transient_and_told() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Http);
    let at = |url: String| Location { s3_url: Some(url), ..server.location() };
    let refused = list(&at(servers.refusing())).await.unwrap_err();
    assert_eq!(refused.class, Class::Transient);
    assert!(refused.to_string().contains("refused"), "{refused}");
    let reset = list(&at(servers.resetting())).await.unwrap_err();
    assert_eq!(reset.class, Class::Transient);
    assert!(reset.to_string().contains("reset") || reset.to_string().contains("closed"), "{reset}");
    let nowhere = list(&at("http://nowhere.invalid".into())).await.unwrap_err();
    assert_eq!(nowhere.class, Class::Transient, "{nowhere}");
    assert!(nowhere.remedy.clone().unwrap_or_default().contains("DNS"), "{nowhere} {:?}", nowhere.remedy);
}

#[tokio::test]
async fn a_body_that_ends_early_is_transient() {
    use futures_util::TryStreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let servers = Servers::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 8192]).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n1234").await.unwrap();
    });
    let location = Location { s3_url: Some(url), ..servers.s3(Scheme::Http).location() };
    let download = connect(&location).store().get(&ObjectKey::new("short"), None).await.unwrap();
    assert_eq!(download.length, 10);
    let error = download.body.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.to_string().contains("s3://backups/short"), "{error}");
}

#[tokio::test]
async fn a_wrong_secret_is_access_denied() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let secret = |value: &str| SecretSource::Inline(Secret::new(value.into()));
    let credentials = |id: &str| Credentials::Static {
        access_key_id: secret(id),
        secret_access_key: secret("not-the-secret"),
        session_token: None,
    };
    for id in [ACCESS_KEY, "AKIANOBODY"] {
        let error = list(&Location { credentials: credentials(id), ..server.location() }).await.unwrap_err();
        assert_eq!(error.class, Class::AccessDenied, "{error}");
        assert!(!format!("{error} {error:?}").contains("not-the-secret"));
    }
}

#[tokio::test]
async fn static_keys_are_read_from_their_files() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Http);
    let (id, secret) = (servers.folder().join("id"), servers.folder().join("secret"));
    std::fs::write(&id, format!("{ACCESS_KEY}\n")).unwrap();
    let credentials = Credentials::Static {
        access_key_id: SecretSource::File(id),
        secret_access_key: SecretSource::File(secret.clone()),
        session_token: None,
    };
    let location = Location { credentials, ..server.location() };
    let error = list(&location).await.unwrap_err();
    assert_eq!(error.class, Class::CredentialsUnavailable, "{error}");
    assert!(error.to_string().contains(&secret.display().to_string()), "{error}");
    std::fs::write(&secret, format!("{}\n", crate::servers::SECRET_KEY)).unwrap();
    list(&location).await.unwrap();
}

#[tokio::test]
async fn https_goes_through_the_proxy_of_the_environment() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let servers = Servers::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:pass@{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = socket.read(&mut request).await.unwrap();
            socket.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
            log.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
        }
    });
    let server = servers.s3(Scheme::Https);
    let remote = Location { s3_url: Some("https://s3.invalid:8443".into()), ..server.location() };
    let env = move |name: &str| (name == "HTTPS_PROXY").then(|| proxy.clone());
    let error = connect_in(&remote, env.clone()).unwrap().store().list("", None).await.unwrap_err();
    let asked = asked.lock().unwrap()[0].clone();
    assert!(asked.starts_with("CONNECT s3.invalid:8443 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz"), "{asked}");
    assert_eq!(error.class, Class::Config, "{error}");
    assert!(!format!("{error:?}").contains("pass@"), "{error:?}");
    // This host is reached without it.
    connect_in(&server.location(), env).unwrap().store().list("", None).await.unwrap();
}

pub(crate) const ROLE_A: &str = "arn:aws:iam::111111111111:role/Middle";
pub(crate) const ROLE_B: &str = "arn:aws:iam::222222222222:role/BackupWriter";

pub(crate) fn hop(role: &str, external_id: Option<&str>, duration: u64) -> Hop {
    Hop {
        role_arn: role.into(),
        external_id: external_id.map(|id| SecretSource::Inline(Secret::new(id.into()))),
        duration: Duration::from_secs(duration),
        session_name: "penstock-node1".into(),
    }
}

pub(crate) fn granted(id: &str, secret: &str, expiry: &str) -> Answer {
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>token-of-{id}</SessionToken>\
         <Expiration>{expiry}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    );
    (200, body)
}

pub(crate) fn refused(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>in-the-body</RequestId></ErrorResponse>"
    );
    (status, body)
}

pub(crate) const LATER: &str = "2099-01-01T00:00:00Z";

pub(crate) fn session() -> Answer {
    granted(SESSION_ACCESS_KEY, SESSION_SECRET_KEY, LATER)
}

pub(crate) fn chained(server: &S3Server, sts: &Scripted, hops: Vec<Hop>) -> Location {
    Location { sts_url: Some(sts.url.clone()), assume_role: hops, ..server.location() }
}

pub(crate) fn field(request: &Seen, name: &str) -> Option<String> {
    let pair = request.body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(pair.replace("%3A", ":").replace("%2F", "/"))
}

#[tokio::test]
async fn a_chain_of_two_hops_each_with_its_external_id() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let sts = servers.scripted(Scheme::Https, in_turn([granted("ASIAMIDDLE", "m", LATER), session()]));
    let hops = vec![hop(ROLE_A, Some("id-of-a"), 3600), hop(ROLE_B, Some("id-of-b"), 3600)];
    let aws = connect(&chained(&server, &sts, hops));
    assert_eq!(aws.credentials().expiry(), None);
    let payload = Payload::new("data", Algorithm::None);
    aws.store().put(&ObjectKey::new("through/two/hops"), payload, Overwrite::Refuse).await.unwrap();
    aws.store().list("", None).await.unwrap();

    let seen = sts.seen();
    assert_eq!(seen.len(), 2, "one refresh serves every request");
    let rows = [(ACCESS_KEY, ROLE_A, "id-of-a"), ("ASIAMIDDLE", ROLE_B, "id-of-b")];
    for (request, (caller, role, external_id)) in seen.iter().zip(rows) {
        assert!(request.header("authorization").unwrap().contains(caller), "{request:?}");
        assert_eq!(field(request, "Action").as_deref(), Some("AssumeRole"));
        assert_eq!(field(request, "RoleArn").as_deref(), Some(role));
        assert_eq!(field(request, "ExternalId").as_deref(), Some(external_id));
        assert_eq!(field(request, "RoleSessionName").as_deref(), Some("penstock-node1"));
        assert_eq!(field(request, "DurationSeconds").as_deref(), Some("3600"));
    }
    let put = &server.seen()[0];
    assert!(put.header("authorization").unwrap().contains(SESSION_ACCESS_KEY));
    assert_eq!(put.header("x-amz-security-token"), Some(format!("token-of-{SESSION_ACCESS_KEY}").as_str()));
    let expiry: jiff::Timestamp = aws.credentials().expiry().unwrap().try_into().unwrap();
    assert_eq!(expiry.to_string(), LATER);
    assert!(!format!("{aws:?}").contains(SESSION_SECRET_KEY));
}

#[tokio::test]
async fn the_hop_that_fails_is_named() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Http);
    let message = format!("User: x is not authorized to perform: sts:AssumeRole on resource: {ROLE_B}");
    let answers = [granted("ASIAMIDDLE", "m", LATER), refused(403, "AccessDenied", &message)];
    let sts = servers.scripted(Scheme::Http, in_turn(answers));
    let last = "arn:aws:iam::333333333333:role/Last";
    let hops = vec![hop(ROLE_A, None, 3600), hop(ROLE_B, Some("very-secret-id"), 3600), hop(last, None, 3600)];
    let aws = connect(&chained(&server, &sts, hops));
    let error = aws.store().list("", None).await.unwrap_err();
    assert_eq!(error.class, Class::TrustDenied, "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("ListObjectsV2") && text.contains(&format!("{ROLE_B} (hop 2 of 3)")), "{text}");
    assert!(!text.contains("very-secret-id"), "{text}");
    assert!(error.remedy.unwrap().contains("sts:ExternalId"));
    assert_eq!((error.service, error.request_id.as_deref()), ("sts", Some("scripted-1")));
    assert_eq!(field(&sts.seen()[0], "ExternalId"), None);
    assert_eq!(sts.seen().len(), 2, "a refusal is remembered, not asked for again");
    assert_eq!(server.requests(), 0);
    // Whoever asks at once is given the same answer.
    aws.store().list("", None).await.unwrap_err();
    assert_eq!(sts.seen().len(), 2);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_session_that_is_too_long_is_asked_for_again_with_an_hour() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let servers = Servers::start();
    let server = servers.s3(Scheme::Http);
    let sts = servers.scripted(Scheme::Http, |request, _| match field(request, "DurationSeconds").as_deref() {
        Some("3600") => session(),
        _ => refused(
            400,
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        ),
    });
    let s3 = servers.scripted(Scheme::Http, in_turn([expired_token(), empty_listing()]));
    let location = Location { s3_url: Some(s3.url.clone()), ..chained(&server, &sts, vec![hop(ROLE_B, None, 7200)]) };
    list(&location).await.unwrap();
    let durations: Vec<_> = sts.seen().iter().map(|request| field(request, "DurationSeconds").unwrap()).collect();
    assert_eq!(durations, ["7200", "3600", "3600"], "refused once, then never again");
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("STS refuses sessions of the configured duration").count(), 1, "{log}");
}

fn expired_token() -> Answer {
    (400, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>".into())
}

fn empty_listing() -> Answer {
    (200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".into())
}

/// One listing at an S3 whose first answer is `code`; what STS and S3 were asked, and the outcome.
async fn list_after(code: &'static str) -> (usize, Vec<String>, Result<(), Error>) {
    let servers = Servers::start();
    let sts =
        servers.scripted(Scheme::Http, in_turn([granted("ASIAFIRST", "1", LATER), granted("ASIASECOND", "2", LATER)]));
    let s3 = servers.scripted(Scheme::Http, move |_, before| {
        let expired = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        if before == 0 { (400, expired) } else { empty_listing() }
    });
    let server = servers.s3(Scheme::Http);
    let location = Location { s3_url: Some(s3.url.clone()), ..chained(&server, &sts, vec![hop(ROLE_B, None, 3600)]) };
    let result = list(&location).await;
    let key = |request: &Seen| request.header("authorization").unwrap().split(['=', '/']).nth(1).unwrap().to_owned();
    (sts.seen().len(), s3.seen().iter().map(key).collect(), result)
}

#[tokio::test]
async fn credentials_that_the_service_calls_expired_are_replaced_unseen() {
    for code in ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"] {
        let (asked, keys, result) = list_after(code).await;
        result.unwrap();
        assert_eq!((asked, keys), (2, vec!["ASIAFIRST".to_owned(), "ASIASECOND".to_owned()]), "{code}");
    }
    // EC2's word for either: what was obtained moments ago has not expired, so it is the clock.
    let (asked, keys, result) = list_after("RequestExpired").await;
    assert_eq!((asked, keys.len(), result.unwrap_err().class), (1, 1, Class::ClockSkew));
}

#[tokio::test]
async fn a_web_identity_is_read_from_its_file_and_taken_to_the_locations_sts() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let sts = servers.scripted(Scheme::Https, |_, _| {
        let (status, body) = session();
        (status, body.replace("AssumeRoleRe", "AssumeRoleWithWebIdentityRe"))
    });
    let file = servers.folder().join("token");
    std::fs::File::create(&file).unwrap().write_all(b"the.jwt\n").unwrap();
    let credentials = Credentials::WebIdentity { token_file: file, role_arn: ROLE_A.into() };
    list(&Location { credentials, ..chained(&server, &sts, Vec::new()) }).await.unwrap();
    let seen = sts.seen();
    assert_eq!(field(&seen[0], "Action").as_deref(), Some("AssumeRoleWithWebIdentity"));
    assert_eq!(field(&seen[0], "WebIdentityToken").as_deref(), Some("the.jwt"));
    assert_eq!(seen[0].header("authorization"), None);
}

#[tokio::test]
async fn what_is_in_files_is_read_again_when_a_service_calls_the_session_expired() {
    let servers = Servers::start();
    let sts = servers.scripted(Scheme::Https, |request, _| {
        let (status, body) = session();
        match field(request, "Action").as_deref() {
            Some("AssumeRoleWithWebIdentity") => (status, body.replace("AssumeRoleRe", "AssumeRoleWithWebIdentityRe")),
            _ => (status, body),
        }
    });
    let answer = |status, code: &str| {
        let error = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        (status, format!("<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"))
    };
    let good = || answer(412, "DryRunOperation");
    let ec2 = servers.scripted(Scheme::Https, in_turn([good(), answer(400, "ExpiredToken"), good()]));
    let (token, external_id) = (servers.folder().join("token"), servers.folder().join("external-id"));
    let write = |which: &str| {
        std::fs::write(&token, format!("{which}.jwt\n")).unwrap();
        std::fs::write(&external_id, format!("{which}-id\n")).unwrap();
    };
    write("first");
    let hop = Hop { external_id: Some(SecretSource::File(external_id.clone())), ..hop(ROLE_B, None, 3600) };
    let credentials = Credentials::WebIdentity { token_file: token.clone(), role_arn: ROLE_A.into() };
    let location = Location {
        credentials,
        ec2_url: Some(ec2.url.clone()),
        ..chained(&servers.s3(Scheme::Https), &sts, vec![hop])
    };
    let aws = connect(&location);
    aws.dry_run(Ec2Action::DescribeVolumes, &Tags::new()).await.unwrap();
    write("second");
    aws.dry_run(Ec2Action::DescribeVolumes, &Tags::new()).await.unwrap();
    assert_eq!(ec2.seen().len(), 3, "the refused request was made again");
    let read = |name: &str| sts.seen().iter().filter_map(|request| field(request, name)).collect::<Vec<_>>();
    assert_eq!(read("WebIdentityToken"), ["first.jwt", "second.jwt"]);
    assert_eq!(read("ExternalId"), ["first-id", "second-id"]);
}

#[tokio::test]
async fn ec2_trusts_the_private_ca_too() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let answer = |status, code: &str| {
        let body = format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors><RequestID>in-the-body</RequestID></Response>"
        );
        (status, body)
    };
    let ec2 = servers
        .scripted(Scheme::Https, in_turn([answer(412, "DryRunOperation"), answer(403, "UnauthorizedOperation")]));
    let location = Location { ec2_url: Some(ec2.url.clone()), ..server.location() };
    let aws = connect(&location);
    aws.dry_run(Ec2Action::DescribeVolumes, &Tags::new()).await.unwrap();
    assert_eq!(field(&ec2.seen()[0], "Action").as_deref(), Some("DescribeVolumes"));
    assert_eq!(field(&ec2.seen()[0], "DryRun").as_deref(), Some("true"));
    let denied = aws.dry_run(Ec2Action::DescribeVolumes, &Tags::new()).await.unwrap_err();
    assert_eq!((denied.class, denied.request_id.as_deref()), (Class::AccessDenied, Some("scripted-1")));
    assert!(denied.remedy.unwrap().contains("ec2:DescribeVolumes"));

    let other = servers.folder().join("other.pem");
    std::fs::write(&other, authority("another CA").1).unwrap();
    let error = connect(&Location { certificate: Some(other), ..location })
        .dry_run(Ec2Action::DescribeVolumes, &Tags::new())
        .await
        .unwrap_err();
    assert_eq!(error.class, Class::Tls, "{error}");
}

/// Everything that a new object is to be is said when it is made, of whichever way, and nowhere else: a part that names a key is refused.
#[tokio::test]
async fn what_a_new_object_is_to_be_is_said_once() {
    const KEY: &str = "arn:aws:kms:eu-west-1:222222222222:key/1234";
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let encryption = Encryption { mode: EncryptionMode::SseKms, kms_key_id: Some(KEY.to_owned()), bucket_key: true };
    let tags = [("team".to_owned(), "the platform".to_owned())].into();
    let storage_class = Some("STANDARD".to_owned());
    let location = Location { encryption, tags, storage_class, ..server.location() };
    let store = connect(&location).store();
    let payload = || Payload::new("data", location.checksum);
    let upload =
        UploadHandle { key: ObjectKey::new("parts"), id: store.create_upload(&ObjectKey::new("parts")).await.unwrap() };
    let part = store.upload_part(&upload, PartNumber::FIRST, payload()).await.unwrap();
    store.complete_upload(&upload, &[part], 4, payload().checksum).await.unwrap();
    store.put(&ObjectKey::new("whole"), payload(), Overwrite::Refuse).await.unwrap();
    let said = [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", KEY),
        ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
        ("x-amz-storage-class", "STANDARD"),
        ("x-amz-tagging", "team=the%20platform"),
    ];
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    for request in seen {
        let makes = request.uri.contains("?uploads") || request.uri.starts_with("/backups/whole");
        for (name, value) in said {
            assert_eq!(request.header(name), makes.then_some(value), "{} {}: {name}", request.method, request.uri);
        }
        assert_eq!(request.header("x-amz-trailer"), None, "{} {}", request.method, request.uri);
    }
}
