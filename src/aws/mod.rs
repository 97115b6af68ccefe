//! The AWS adapter: the only module that names an `aws_*` crate.
//!
//! [`AwsLocation::connect`] makes a location's trust ([`tls`]), HTTP client and cache of credentials ([`credentials`]), and the S3
//! and EC2 clients that share them. It reads files and makes no request: it finds a bad CA bundle, URL or proxy; errors that need
//! the network are found by the first request. [`classify`] gives a failure its class and remedy.

pub mod classify;
pub mod credentials;
mod decide;
mod dry_run;
mod ec2;
mod failure;
pub mod handshake;
pub mod http;
mod reply;
mod s3;
mod site;
mod sts;
pub mod tls;
mod transport;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{IdentityCache, StalledStreamProtectionConfig};

pub use self::ec2::Ec2Disks;
pub use self::s3::S3Store;

use self::classify::{Asked, Context, Service};
use self::tls::{BundleError, Trust};
pub use self::watch::Skew;
use self::watch::Watch;
use crate::config::{EncryptionMode, Location};
use crate::disks::Disks;
use crate::error::{Class, Classify, Report};
use crate::limits::Bandwidth;
use crate::metrics;
use crate::network::Proxy;
use crate::store::Store;

/// For TCP and TLS together, which take milliseconds on a working network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// For one attempt of a request with a small body or none. Requests with data have limits of their own (`s3`).
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(1);

/// STS answers at once or is in trouble, and a request of the engine waits for it.
const STS_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// The first attempt included, as in the AWS CLI's standard mode. The engine retries parts above that.
const ATTEMPTS: u32 = 3;

/// A download that yields no byte for this long has stalled.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// Reads an environment variable; passed in, so that tests need not set any.
type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Why a location's clients could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("location {location}: {error}")]
    Bundle {
        location: String,
        #[source]
        error: BundleError,
    },
    #[error("location {location}: {message}")]
    Proxy { location: String, message: String },
    #[error("location {location}: {key} = {url:?} is not a URL; expected https://HOST or http://HOST")]
    Url { location: String, key: &'static str, url: String },
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Bundle { error, .. } => Report { message: self.to_string(), ..error.report() },
            Self::Proxy { .. } | Self::Url { .. } => Report::new(Class::Config, self.to_string()),
        }
    }
}

/// A location's clients. Cheap to clone; all clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct AwsLocation {
    store: Arc<S3Store>,
    ec2: aws_sdk_ec2::Client,
    disks: Arc<Ec2Disks>,
    credentials: credentials::Provider,
    http: http::Client,
    skew: Skew,
    chain: Arc<sts::Chain>,
    addresses: Arc<Addresses>,
}

/// The configured endpoints.
#[derive(Debug)]
struct Addresses {
    bucket: String,
    region: String,
    force_path_style: bool,
    s3_url: Option<String>,
    sts_url: Option<String>,
    ec2_url: Option<String>,
}

impl AwsLocation {
    /// # Errors
    /// When the CA bundle, a URL or the environment's proxy cannot be used.
    pub fn connect(location: &Location, metrics: metrics::Location) -> Result<Self, Error> {
        Self::connect_with(location, metrics, |name| std::env::var(name).ok())
    }

    /// The same as [`AwsLocation::connect`], with the proxy and the default chain's web identity read through `env`.
    ///
    /// # Errors
    /// See [`AwsLocation::connect`].
    pub fn connect_with(
        location: &Location,
        metrics: metrics::Location,
        env: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let name = || location.name.clone();
        for (key, url) in [("s3_url", &location.s3_url), ("sts_url", &location.sts_url), ("ec2_url", &location.ec2_url)]
        {
            let fits = |url: &str| url.starts_with("https://") || url.starts_with("http://");
            if let Some(url) = url.as_deref().filter(|url| !fits(url)) {
                return Err(Error::Url { location: name(), key, url: url.to_owned() });
            }
        }
        let proxy = Proxy::from_environment(&env).map_err(|message| Error::Proxy { location: name(), message })?;
        let settings = http::Settings {
            location: name(),
            certificate: location.certificate.clone(),
            mode: location.certificate_mode,
            concurrency: location.upload.concurrency.most().into(),
            proxy,
            metrics: metrics.clone(),
        };
        let http = http::Client::new(settings).map_err(|error| Error::Bundle { location: name(), error })?;
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(location.region.clone()))
            .http_client(http.clone())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts(ATTEMPT_TIMEOUT))
            // Uploads are watched by `s3::body`, which knows about our own waits for bandwidth.
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled().upload_enabled(false).grace_period(STALL_GRACE).build(),
            )
            // `credentials` caches for all clients.
            .identity_cache(IdentityCache::no_cache())
            .build();
        Ok(Self::assemble(location, metrics, http, &shared, Arc::new(env)))
    }

    fn assemble(
        location: &Location,
        metrics: metrics::Location,
        http: http::Client,
        shared: &SdkConfig,
        env: Env,
    ) -> Self {
        let trust = http.trust();
        let at = |url: &Option<String>| shared.to_builder().clone_endpoint(url.as_deref());
        let impatient = at(&location.sts_url).timeout_config(timeouts(STS_ATTEMPT_TIMEOUT));
        let watch = |service, context| Watch {
            service,
            context: Arc::new(context),
            metrics: metrics.clone(),
            credentials: None,
            skew: Skew::default(),
        };
        let sts = watch(Service::Sts, Context::default());
        // An expiry is a time by STS's clock.
        let skew = sts.skew.clone();
        let chain = Arc::new(sts::Chain::new(location, impatient.build(), sts, trust.to_string(), env));
        let clock = Arc::new(move || skew.now());
        let credentials = credentials::Provider::new(&location.name, Box::new(chain.clone()), clock, metrics.clone());
        let provider = SharedCredentialsProvider::new(credentials.clone());
        let with = |url: &Option<String>| at(url).credentials_provider(provider.clone()).build();
        let signed = |service, context| Watch { credentials: Some(credentials.clone()), ..watch(service, context) };
        let s3 = signed(Service::S3, context(location));
        let skew = s3.skew.clone();
        let store = S3Store::new(location, &with(&location.s3_url), s3, trust.to_string());
        // A volume has a key of its own, not the bucket's.
        let ec2 = signed(Service::Ec2, Context { sse_kms: false, kms_key: None, ..context(location) });
        let of_volumes = ec2.context.clone();
        let ec2 =
            aws_sdk_ec2::config::Builder::from(&with(&location.ec2_url)).interceptor(ec2.clone()).retry_classifier(ec2);
        let ec2 = aws_sdk_ec2::Client::from_conf(ec2.build());
        let disks = Arc::new(Ec2Disks::new(ec2.clone(), &sts::providers(shared), of_volumes, trust.to_string()));
        let addresses = Arc::new(Addresses {
            bucket: location.bucket.clone(),
            region: location.region.clone(),
            force_path_style: location.force_path_style,
            s3_url: location.s3_url.clone(),
            sts_url: location.sts_url.clone(),
            ec2_url: location.ec2_url.clone(),
        });
        Self { store: Arc::new(store), ec2, disks, credentials, http, skew, chain, addresses }
    }

    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Returns the same location, which sends no faster than `bandwidth`.
    #[must_use]
    pub fn limited(self, bandwidth: Bandwidth) -> Self {
        Self { store: Arc::new(self.store.limited(bandwidth)), ..self }
    }

    #[must_use]
    pub fn disks(&self) -> Arc<dyn Disks> {
        self.disks.clone()
    }

    #[must_use]
    pub fn credentials(&self) -> &credentials::Provider {
        &self.credentials
    }

    /// The certificates that are trusted now: the bundle may have changed since the start.
    #[must_use]
    pub fn trust(&self) -> Arc<Trust> {
        self.http.trust()
    }

    /// How far S3's clock is ahead of this host's.
    #[must_use]
    pub fn skew(&self) -> &Skew {
        &self.skew
    }

    /// The client for snapshots and volumes.
    #[must_use]
    pub fn ec2(&self) -> &aws_sdk_ec2::Client {
        &self.ec2
    }
}

/// Sets a builder's endpoint if there is one, in one expression.
trait CloneEndpoint {
    fn clone_endpoint(self, url: Option<&str>) -> Self;
}

impl CloneEndpoint for aws_types::sdk_config::Builder {
    fn clone_endpoint(mut self, url: Option<&str>) -> Self {
        self.set_endpoint_url(url.map(str::to_owned));
        self
    }
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    // No `read_timeout`: in this SDK it runs from the first byte sent, so it would be a bare limit on a part's upload.
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(attempt).build()
}

fn context(location: &Location) -> Context {
    let sse_kms = match location.encryption.mode {
        EncryptionMode::SseKms | EncryptionMode::DsseKms => true,
        EncryptionMode::BucketDefault | EncryptionMode::SseS3 => false,
    };
    Context {
        sse_kms,
        kms_key: location.encryption.kms_key_id.clone(),
        role: location.assume_role.last().map(|hop| hop.role_arn.clone()),
        region: location.region.clone(),
        asked: Asked {
            checksum: location.checksum,
            storage_class: location.storage_class.clone().filter(|class| !class.is_empty()),
            tags: !location.tags.is_empty(),
            encryption: location.encryption.mode != EncryptionMode::BucketDefault,
        },
        ..Context::default()
    }
}
