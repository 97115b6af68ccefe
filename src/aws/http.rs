//! The one HTTP client of a location: S3, STS, EC2 and the credential providers share its trust, its proxy and its pool.
//!
//! - **A changed CA bundle is used** by the first request after [`LOOK`]. Requests in flight keep their connections. A new bundle
//!   that cannot be used is logged, and the old one stays in use.
//! - **The error of a failed handshake describes the server's certificate**: subject, issuer, dates ([`super::handshake`]).
//!
//! Costs one `stat` of the file per [`LOOK`] with requests in it, and a second handshake after a failed one.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::handshake::{Shown, shake};
use super::tls::{BundleError, Trust, pem};
use super::transport;
use crate::config::CertificateMode;
use crate::error::Classify as _;
use crate::metrics;
use crate::network::Proxy;
use crate::store::READS;

/// How often the bundle's file is checked for changes.
pub const LOOK: Duration = Duration::from_secs(5);

/// S3 closes an idle connection after some tens of seconds; keeping it longer only makes the next request fail.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Idle connections for requests other than parts.
const POOL_SPARE: usize = READS;

/// The settings that the client and its trust are made from.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) location: String,
    pub(super) certificate: Option<PathBuf>,
    pub(super) mode: CertificateMode,
    /// The limit of parts in flight.
    pub(super) concurrency: usize,
    pub(super) proxy: Option<Proxy>,
    pub(super) metrics: metrics::Location,
}

/// Cheap to clone; all clones are one client.
#[derive(Clone)]
pub(super) struct Client {
    settings: Arc<Settings>,
    current: Arc<Mutex<Current>>,
}

struct Current {
    trust: Arc<Trust>,
    client: SharedHttpClient,
    file: Option<Stamp>,
    looked: Instant,
}

/// Identifies a version of the file: a new file has another inode, a rewritten one another time or length.
type Stamp = (u64, u64, i64, i64, u64);

impl Client {
    pub(super) fn new(settings: Settings) -> Result<Self, BundleError> {
        let file = stamp(&settings);
        let trust = Arc::new(load(&settings)?);
        let client = client(&trust, &settings);
        let current = Current { trust, client, file, looked: Instant::now() };
        Ok(Self { settings: Arc::new(settings), current: Arc::new(Mutex::new(current)) })
    }

    /// The certificates that are trusted now.
    pub(super) fn trust(&self) -> Arc<Trust> {
        self.current(Instant::now()).0
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.settings.proxy.as_ref()
    }

    fn current(&self, now: Instant) -> (Arc<Trust>, SharedHttpClient) {
        // No panic under this lock leaves it half changed.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(current.looked) >= LOOK {
            current.looked = now;
            let file = stamp(&self.settings);
            if file != current.file {
                current.file = file;
                self.reload(&mut current);
            }
        }
        (current.trust.clone(), current.client.clone())
    }

    fn reload(&self, current: &mut Current) {
        let location = &self.settings.location;
        match load(&self.settings) {
            Ok(trust) => {
                tracing::info!(
                    location,
                    certificates = trust.certificates().len(),
                    "{trust} changed: the new certificates are in use"
                );
                current.trust = Arc::new(trust);
                current.client = client(&current.trust, &self.settings);
            }
            Err(error) => {
                let remedy = error.report().remedy;
                tracing::error!(location, remedy, %error, "could not read the changed CA bundle: the old certificates stay in use");
            }
        }
    }
}

fn load(settings: &Settings) -> Result<Trust, BundleError> {
    let trust = Trust::load(settings.certificate.as_deref(), settings.mode)?;
    for warning in trust.warnings(jiff::Timestamp::now()) {
        tracing::warn!(location = settings.location, "{warning}: TLS handshakes that need it will fail");
    }
    let seconds = |expiry: jiff::Timestamp| expiry.as_duration().as_secs_f64();
    settings.metrics.certificate_expiry(trust.first_expiry().map(seconds));
    Ok(trust)
}

fn stamp(settings: &Settings) -> Option<Stamp> {
    let meta = std::fs::metadata(settings.certificate.as_ref()?).ok()?;
    Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

fn client(trust: &Trust, settings: &Settings) -> SharedHttpClient {
    let (context, proxy) = (tls_context(trust), settings.proxy.as_ref().and_then(proxy_config));
    let idle = settings.concurrency.saturating_add(POOL_SPARE);
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder().pool_idle_timeout(POOL_IDLE).pool_max_idle_per_host(idle);
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.set_proxy_config(proxy.clone());
        builder.tls_provider(Provider::rustls(CryptoMode::AwsLc)).tls_context(context.clone()).build()
    })
}

fn proxy_config(proxy: &Proxy) -> Option<ProxyConfig> {
    // A URL that the SDK does not take was refused when the environment was read.
    Some(ProxyConfig::https(proxy.url()).ok()?.no_proxy(proxy.direct()))
}

fn tls_context(trust: &Trust) -> TlsContext {
    let mut store = TrustStore::empty().with_native_roots(trust.adds_system_roots());
    for der in trust.ders() {
        store.add_pem_certificate(pem(der));
    }
    TlsContext::builder().with_trust_store(store).build().unwrap_or_default()
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("location", &self.settings.location).finish_non_exhaustive()
    }
}

impl HttpClient for Client {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let (trust, client) = self.current(Instant::now());
        let connector = client.http_connector(settings, components);
        SharedHttpConnector::new(Explaining { connector, trust, proxy: self.settings.proxy.clone() })
    }
}

/// Adds the server's certificate to the error of a failed handshake.
#[derive(Debug)]
struct Explaining {
    connector: SharedHttpConnector,
    trust: Arc<Trust>,
    proxy: Option<Proxy>,
}

/// A handshake that failed, in the chain of causes.
#[derive(Debug, thiserror::Error)]
#[error("{host}:{port}: {shown}")]
struct Refused {
    host: String,
    port: u16,
    shown: Shown,
    #[source]
    error: ConnectorError,
}

impl HttpConnector for Explaining {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (trust, proxy) = (self.trust.clone(), self.proxy.clone());
        let uri = request.uri().to_owned();
        let answer = self.connector.call(request);
        HttpConnectorFuture::new(async move {
            let error = match answer.await {
                Err(error) if transport::is_tls(&error) => error,
                other => return other,
            };
            let Some((host, port)) = host_and_port(&uri) else { return Err(error) };
            let (shown, _) = shake(&host, port, trust.roots(), proxy.as_ref()).await;
            let refused = Refused { host, port, shown, error };
            Err(ConnectorError::other(refused.into(), None).never_connected())
        })
    }
}

/// Host and port of an `https` URL.
pub(super) fn host_and_port(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest.split(['/', '?']).next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, 443),
    };
    Some((host.trim_matches(['[', ']']).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        let rows = [
            ("https://s3.eu-west-1.amazonaws.com/bucket/key?x=y:z", Some(("s3.eu-west-1.amazonaws.com", 443))),
            ("https://127.0.0.1:9000", Some(("127.0.0.1", 9000))),
            ("https://[::1]:9000/a", Some(("::1", 9000))),
            ("https://[::1]/a", Some(("::1", 443))),
            ("http://a", None),
        ];
        for (url, expected) in rows {
            assert_eq!(host_and_port(url), expected.map(|(host, port)| (host.to_owned(), port)), "{url}");
        }
    }
}
