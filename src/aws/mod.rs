//! The AWS adapter: the only room that names an `aws_*` crate.
//!
//! [`AwsLocation::connect`] makes one of everything for a location: what is trusted ([`tls`]), one HTTP client, one
//! cache of credentials ([`credentials`]), and the S3 and EC2 clients that share them. It reads files and talks to
//! nobody: a bad CA bundle, URL or proxy is found here; what needs the network is found by the first request.
//! [`classify`] says what a failure means.

pub mod classify;
pub mod credentials;
mod ec2;
mod failure;
mod s3;
mod sts;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::{IdentityCache, StalledStreamProtectionConfig};

pub use self::ec2::Ec2Disks;
pub use self::s3::S3Store;

use self::classify::{Context, Service};
use self::failure::Call;
use self::tls::{BundleError, Trust};
use crate::config::{EncryptionMode, Location};
use crate::disks::Disks;
use crate::error::{Class, Classify, Report};
use crate::store::{self, Store};

/// TCP and TLS together; a node whose routes are fine needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One attempt of a request with no body to speak of. Requests with data have limits of their own (`s3`).
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(1);

/// STS answers at once or is ill, and a request of the engine waits for it.
const STS_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// The first attempt included, as the AWS CLI's standard mode has it. Parts are retried above that by the engine.
const ATTEMPTS: u32 = 3;

/// A download that yields nothing for this long has stalled.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// Reads an environment variable; passed in, so that nothing need be set to test it.
type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Why a location cannot even be connected.
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
    trust: Arc<Trust>,
    context: Arc<Context>,
}

impl AwsLocation {
    /// # Errors
    /// When the CA bundle, a URL or the environment's proxy cannot be used.
    pub fn connect(location: &Location) -> Result<Self, Error> {
        Self::connect_with(location, |name| std::env::var(name).ok())
    }

    /// As [`AwsLocation::connect`], with the proxy and the default chain's web identity read through `env`.
    ///
    /// # Errors
    /// The same.
    pub fn connect_with(
        location: &Location,
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
        let trust = Trust::load(location.certificate.as_deref(), location.certificate_mode)
            .map_err(|error| Error::Bundle { location: name(), error })?;
        for warning in trust.warnings(jiff::Timestamp::now()) {
            tracing::warn!(location = location.name, "{warning}");
        }
        let proxy = tls::proxy(&env).map_err(|message| Error::Proxy { location: name(), message })?;
        let shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(location.region.clone()))
            .http_client(trust.http_client(location.upload.concurrency, proxy))
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts(ATTEMPT_TIMEOUT))
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build())
            // The provider decides what is fresh, for every client alike.
            .identity_cache(IdentityCache::no_cache())
            .build();
        Ok(Self::assemble(location, trust, &shared, Arc::new(env)))
    }

    fn assemble(location: &Location, trust: Trust, shared: &SdkConfig, env: Env) -> Self {
        let at = |url: &Option<String>| shared.to_builder().clone_endpoint(url.as_deref());
        let impatient = at(&location.sts_url).timeout_config(timeouts(STS_ATTEMPT_TIMEOUT));
        let chain = sts::Chain::new(location, impatient.build(), trust.to_string(), env);
        let credentials = credentials::Provider::new(&location.name, Box::new(chain));
        let provider = SharedCredentialsProvider::new(credentials.clone());
        let with = |url: &Option<String>| at(url).credentials_provider(provider.clone()).build();
        let context = Arc::new(context(location));
        let store =
            S3Store::new(location, &with(&location.s3_url), credentials.clone(), context.clone(), trust.to_string());
        let ec2 = aws_sdk_ec2::Client::new(&with(&location.ec2_url));
        // A volume's key is its own, not the bucket's.
        let of_volumes = Arc::new(Context { sse_kms: false, kms_key: None, ..Context::clone(&context) });
        let disks = Arc::new(Ec2Disks::new(ec2.clone(), &sts::providers(shared), of_volumes, trust.to_string()));
        Self { store: Arc::new(store), ec2, disks, credentials, trust: Arc::new(trust), context }
    }

    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    #[must_use]
    pub fn disks(&self) -> Arc<dyn Disks> {
        self.disks.clone()
    }

    #[must_use]
    pub fn credentials(&self) -> &credentials::Provider {
        &self.credentials
    }

    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The client for snapshots and volumes.
    #[must_use]
    pub fn ec2(&self) -> &aws_sdk_ec2::Client {
        &self.ec2
    }

    /// Whether the role may describe volumes, without describing any: `DryRunOperation` is EC2's "yes".
    ///
    /// # Errors
    /// What stands in the way, classed.
    pub async fn check_ec2(&self) -> Result<(), store::Error> {
        let trust = self.trust.to_string();
        let call = Call {
            service: Service::Ec2,
            operation: "DescribeVolumes",
            resource: "volumes (dry run)".to_owned(),
            context: &self.context,
            trust: &trust,
        };
        match self.ec2.describe_volumes().dry_run(true).send().await {
            Ok(_) => Ok(()),
            Err(error) => match call.sdk(&error) {
                error if error.code.as_deref() == Some("DryRunOperation") => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Sets or leaves a builder's endpoint, in one expression.
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
        ..Context::default()
    }
}
