//! Servers on real loopback sockets: an S3 that checks signatures, and servers that follow a script; plain or over TLS
//! with a CA made on the spot.
//!
//! They run in a runtime of their own, so that a plain test that starts the real binary as a child can use them as well
//! as an async one. Everything ends, and its files go, when [`Servers`] is dropped.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use penstock::checksum::Algorithm;
use penstock::config;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::faults::proxy::Proxy;
use crate::uploads::Uploads;

pub(crate) const ACCESS_KEY: &str = "AKIATESTS3";
pub(crate) const SECRET_KEY: &str = "secret-of-the-tests";
/// A configuration's section with them.
pub(crate) const STATIC_KEYS: &str = r#"[locations.primary.credentials]
source = "static"
access_key_id = "AKIATESTS3"
secret_access_key = "secret-of-the-tests""#;
/// A second key the S3 server knows: what a scripted STS hands out.
pub(crate) const SESSION_ACCESS_KEY: &str = "ASIASESSION";
pub(crate) const SESSION_SECRET_KEY: &str = "secret-of-the-session";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    /// With a certificate of [`Servers::ca_path`], for `127.0.0.1` and `localhost`.
    Https,
    /// The same, expired.
    HttpsExpired,
    /// The same, for another name.
    HttpsOtherName,
}

/// What an S3 server knows of multipart uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Multipart {
    /// As s3s-fs does.
    AsServed,
    /// See [`Uploads`].
    AsInS3,
}

/// The runtime, the folder and the CA of a test's servers.
pub(crate) struct Servers {
    runtime: Option<tokio::runtime::Runtime>,
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    buckets: AtomicUsize,
}

/// A request as a server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    /// Only kept by a scripted server.
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Log = Arc<Mutex<Vec<Seen>>>;

pub(crate) struct S3Server {
    pub(crate) url: String,
    pub(crate) bucket: String,
    scheme: Scheme,
    ca_path: PathBuf,
    root: PathBuf,
    log: Log,
    refusal: Arc<Mutex<Refusal>>,
}

/// What some requests get in place of the real answer.
type Refusal = Box<dyn Fn(&Seen) -> Option<Answer> + Send>;

pub(crate) struct Scripted {
    pub(crate) url: String,
    log: Log,
}

/// What a scripted server answers: status and body.
pub(crate) type Answer = (u16, String);

impl Servers {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (issuer, pem) = authority("Penstock test CA");
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        Self { runtime: Some(runtime), folder, issuer, buckets: AtomicUsize::new(0) }
    }

    /// The CA every `Https…` server's certificate is signed by.
    pub(crate) fn ca_path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// For files of the test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An S3 with one empty bucket, [`ACCESS_KEY`] and [`SESSION_ACCESS_KEY`].
    pub(crate) fn s3(&self, scheme: Scheme) -> S3Server {
        self.s3_with(scheme, Multipart::AsServed)
    }

    /// The same, knowing of multipart uploads what S3 knows.
    pub(crate) fn s3_with_uploads(&self) -> S3Server {
        self.s3_with(Scheme::Http, Multipart::AsInS3)
    }

    fn s3_with(&self, scheme: Scheme, multipart: Multipart) -> S3Server {
        let number = self.buckets.fetch_add(1, Ordering::Relaxed);
        let (root, bucket) = (self.folder.path().join(format!("s3-{number}")), "backups".to_owned());
        std::fs::create_dir_all(root.join(&bucket)).unwrap();
        let mut auth = SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY);
        auth.register(SESSION_ACCESS_KEY.to_owned(), SESSION_SECRET_KEY.into());
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(&root).unwrap());
        builder.set_auth(auth);
        let (inner, log) = (builder.build(), Log::default());
        let refusal: Arc<Mutex<Refusal>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let (seen, refuse) = (log.clone(), Arc::clone(&refusal));
        let uploads = match multipart {
            Multipart::AsServed => None,
            Multipart::AsInS3 => Some(Arc::new(Uploads::new(root.clone()))),
        };
        let service = service_fn(move |request: Request<Incoming>| {
            let (inner, uploads) = (inner.clone(), uploads.clone());
            let head = see(&request, String::new());
            let refused = refuse.lock().unwrap()(&head);
            seen.lock().unwrap().push(head.clone());
            async move {
                if let Some((status, body)) = refused {
                    // As S3 does: a request is heard out before it is refused.
                    let _ = request.into_body().collect().await;
                    return Ok(Response::builder().status(status).body(s3s::Body::from(body)).unwrap());
                }
                let (path, query) = head.uri.split_once('?').unwrap_or((&head.uri, ""));
                if let Some(answer) = uploads.as_ref().and_then(|uploads| uploads.instead(&head.method, query)) {
                    return Ok::<_, std::io::Error>(answer);
                }
                let answer = Service::call(&inner, request)
                    .await
                    .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
                Ok(match uploads {
                    Some(uploads) if head.method == "POST" && query.starts_with("uploads") => {
                        uploads.created(path, answer).await
                    }
                    _ => answer,
                })
            }
        });
        let url = self.serve(scheme, service);
        S3Server { url, bucket, scheme, ca_path: self.ca_path(), root, log, refusal }
    }

    /// A server that answers each request with what `script` makes of it and of how many came before; the request IDs
    /// are `scripted-0`, `scripted-1`, …
    pub(crate) fn scripted(
        &self,
        scheme: Scheme,
        script: impl Fn(&Seen, usize) -> Answer + Send + Sync + 'static,
    ) -> Scripted {
        self.scripted_http(scheme, move |request, before| {
            let (status, body) = script(request, before);
            Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
        })
    }

    /// The same, where headers matter.
    pub(crate) fn scripted_http(
        &self,
        scheme: Scheme,
        script: impl Fn(&Seen, usize) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Scripted {
        let (log, script) = (Log::default(), Arc::new(script));
        let seen = log.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (seen, script) = (seen.clone(), script.clone());
            async move {
                let head = see(&request, String::new());
                let body = request.into_body().collect().await?.to_bytes();
                let request = Seen { body: String::from_utf8_lossy(&body).into_owned(), ..head };
                let before = {
                    let mut log = seen.lock().unwrap();
                    log.push(request.clone());
                    log.len() - 1
                };
                let mut response = script(&request, before);
                response.headers_mut().insert("x-amzn-requestid", format!("scripted-{before}").parse().unwrap());
                Ok::<_, hyper::Error>(response)
            }
        });
        Scripted { url: self.serve(scheme, service), log }
    }

    /// A node's metadata service in its second version: a token first, then what is asked for, by its path.
    pub(crate) fn metadata(&self, answers: Vec<(String, String)>) -> Scripted {
        const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
        self.scripted_http(Scheme::Http, move |request, _| {
            let with_token = request.header("x-aws-ec2-metadata-token") == Some("the-metadata-token");
            let (status, body) = match (request.method.as_str(), request.uri.as_str()) {
                ("PUT", "/latest/api/token") if request.header(TTL).is_some() => (200, "the-metadata-token".to_owned()),
                ("GET", _) if !with_token => (401, String::new()),
                ("GET", path) => match answers.iter().find(|(known, _)| known == path) {
                    Some((_, answer)) => (200, answer.clone()),
                    None => (404, String::new()),
                },
                _ => (404, String::new()),
            };
            Response::builder().status(status).header(TTL, "21600").body(Full::new(Bytes::from(body))).unwrap()
        })
    }

    /// The same, of a node in a role: the role's name, then its credentials.
    pub(crate) fn metadata_of_role(&self, role: &str, session: String) -> Scripted {
        let roles = "/latest/meta-data/iam/security-credentials/";
        self.metadata(vec![(roles.to_owned(), role.to_owned()), (format!("{roles}{role}"), session)])
    }

    /// A port where every connection is reset as soon as something has been sent to it.
    pub(crate) fn resetting(&self) -> String {
        let (listener, address) = self.listen();
        self.runtime().spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                // Closing with unread bytes is what makes the kernel send a reset.
                let _ = socket.read_u8().await;
            }
        });
        format!("http://{address}")
    }

    /// A port where nothing listens.
    pub(crate) fn refusing(&self) -> String {
        let (listener, address) = self.listen();
        drop(listener);
        format!("http://{address}")
    }

    /// A proxy in front of `s3`, faultless until it is told otherwise.
    pub(crate) fn proxy(&self, s3: &S3Server) -> Proxy {
        Proxy::start(self.runtime().handle(), self.listen(), &s3.url)
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().unwrap()
    }

    fn listen(&self) -> (TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let _inside = self.runtime().enter();
        (TcpListener::from_std(listener).unwrap(), address)
    }

    pub(crate) fn serve<S, B>(&self, scheme: Scheme, service: S) -> String
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: std::error::Error + Send + Sync + 'static,
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (listener, address) = self.listen();
        let tls = self.acceptor(scheme);
        let name = if tls.is_some() { "https" } else { "http" };
        self.runtime().spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (tls, service) = (tls.clone(), service.clone());
                tokio::spawn(async move {
                    // A client that goes away, or does not trust us, is the test's matter.
                    let _ = connection(socket, tls, service).await;
                });
            }
        });
        format!("{name}://{address}")
    }

    /// A certificate and its key as PEM files, for a server of another process.
    pub(crate) fn certificate(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.certified(Scheme::Https);
        let paths = (self.folder.path().join("server.pem"), self.folder.path().join("server.key"));
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    fn certified(&self, scheme: Scheme) -> (Certificate, KeyPair) {
        let names = match scheme {
            Scheme::Http | Scheme::Https | Scheme::HttpsExpired => ["127.0.0.1", "localhost", "s3.test"],
            Scheme::HttpsOtherName => ["192.0.2.1", "other.example", "another.example"],
        };
        let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Penstock test server");
        if scheme == Scheme::HttpsExpired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub(crate) fn acceptor(&self, scheme: Scheme) -> Option<TlsAcceptor> {
        if scheme == Scheme::Http {
            return None;
        }
        let (certificate, key) = self.certified(scheme);
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Some(TlsAcceptor::from(Arc::new(config)))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // A plain drop waits, and may not be done in an async test.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A CA of its own, and its certificate.
pub(crate) fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

async fn connection<S, B>(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    service: S,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: std::error::Error + Send + Sync + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    socket.set_nodelay(true)?;
    let http = hyper::server::conn::http1::Builder::new();
    match tls {
        Some(tls) => http.serve_connection(TokioIo::new(tls.accept(socket).await?), service).with_upgrades().await?,
        None => http.serve_connection(TokioIo::new(socket), service).with_upgrades().await?,
    }
    Ok(())
}

pub(crate) fn see(request: &Request<Incoming>, body: String) -> Seen {
    Seen {
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        headers: request.headers().clone(),
        body,
    }
}

impl S3Server {
    /// The beginning of a configuration: this bucket, at `url`, is `primary`, whose table is still open.
    pub(crate) fn toml(&self, node: &str, state: &Path, url: &str) -> String {
        format!(
            r#"cluster = "test"
node = "{node}"
state_dir = "{}"
[limits]
memory = "64MiB"
[locations.primary]
provider = "aws"
bucket = "{}"
region = "us-east-1"
s3_url = "{url}"
force_path_style = true"#,
            state.display(),
            self.bucket
        )
    }

    /// Answers requests for which `denied` holds with AccessDenied, from here on.
    pub(crate) fn deny(&self, denied: impl Fn(&Seen) -> bool + Send + 'static) {
        let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        self.refuse(move |request| denied(request).then(|| (403, body.to_owned())));
    }

    /// Answers as `refusal` says, where it says something, from here on.
    pub(crate) fn refuse(&self, refusal: impl Fn(&Seen) -> Option<Answer> + Send + 'static) {
        *self.refusal.lock().unwrap() = Box::new(refusal);
    }

    /// How many requests came, refused ones too.
    pub(crate) fn requests(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    /// The multipart uploads that are neither completed nor aborted.
    pub(crate) fn uploads_in_progress(&self) -> usize {
        let names = std::fs::read_dir(&self.root).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with(".upload-") && Path::new(name).extension().is_some_and(|end| end == "json"))
            .count()
    }

    /// Where the bucket's objects lie as files.
    pub(crate) fn folder(&self) -> PathBuf {
        self.root.join(&self.bucket)
    }

    /// A location for this server, with [`ACCESS_KEY`] and, over TLS, the private CA alone.
    pub(crate) fn location(&self) -> config::Location {
        let secure = self.scheme != Scheme::Http;
        let secret = |value: &str| config::SecretSource::Inline(config::Secret::new(value.to_owned()));
        config::Location {
            name: "test".into(),
            bucket: self.bucket.clone(),
            region: "eu-west-1".into(),
            prefix: String::new(),
            s3_url: Some(self.url.clone()),
            sts_url: None,
            ec2_url: None,
            force_path_style: true,
            certificate: secure.then(|| self.ca_path.clone()),
            certificate_mode: if secure { config::CertificateMode::Only } else { config::CertificateMode::Add },
            checksum: Algorithm::default(),
            storage_class: None,
            tags: std::collections::BTreeMap::new(),
            credentials: config::Credentials::Static {
                access_key_id: secret(ACCESS_KEY),
                secret_access_key: secret(SECRET_KEY),
                session_token: None,
            },
            assume_role: Vec::new(),
            client_encryption: None,
            object_lock: None,
            encryption: config::Encryption {
                mode: config::EncryptionMode::BucketDefault,
                kms_key_id: None,
                bucket_key: true,
            },
            upload: config::Upload {
                part_size: 16 << 20,
                concurrency: config::Concurrency::AtMost(4),
                object_size: 64 << 30,
                sign_payload: config::SignPayload::Auto,
            },
        }
    }
}

impl Scripted {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

/// A script that gives these answers in turn, and the last one from then on.
pub(crate) fn in_turn(answers: impl IntoIterator<Item = Answer>) -> impl Fn(&Seen, usize) -> Answer + Send + Sync {
    let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
    move |_, _| {
        let mut answers = answers.lock().unwrap();
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers.front().cloned().unwrap() }
    }
}
