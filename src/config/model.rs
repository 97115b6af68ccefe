//! The types of a checked configuration. Every value is valid: names fit, sizes are in range, references exist.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::cron::Cron;
use super::source::Source;
use crate::age::Recipient;
use crate::age::header::MAX_RECIPIENTS as MAX_IN_HEADER;
use crate::checksum::Algorithm;
use crate::format::codec::Compression;
use crate::format::key::Name;

#[derive(Debug, Clone)]
pub struct Config {
    pub cluster: Name,
    /// The host's name if the file has none.
    pub node: Name,
    pub state_dir: PathBuf,
    /// The private keys with which the commands that read backups open encrypted ones.
    pub identity_file: Option<PathBuf>,
    pub admin: Admin,
    pub log: Log,
    pub limits: Limits,
    pub kubernetes: Kubernetes,
    pub locations: BTreeMap<String, Location>,
    pub jobs: BTreeMap<Name, Job>,
}

/// How to reach the cluster's API server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kubernetes {
    /// `None`: the pod's service account, else `$KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the kubeconfig's current one.
    pub context: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: std::net::SocketAddr,
    pub socket: PathBuf,
    /// `None`: plain HTTP.
    pub tls: Option<AdminTls>,
}

/// The files of the admin server's certificate chain and key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    pub level: LogLevel,
}

/// The least severe events that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub(super) const WORDS: [(&str, Self); 5] = [
        ("info", Self::Info),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of buffers for every job together.
    pub memory: u64,
    pub concurrent_jobs: usize,
    /// Bytes per second for all jobs; `None` is no limit.
    pub bandwidth: Option<u64>,
    /// `0` in the file becomes the number of cores.
    pub compression_threads: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub name: String,
    pub bucket: String,
    pub region: String,
    pub prefix: String,
    pub s3_url: Option<String>,
    pub sts_url: Option<String>,
    pub ec2_url: Option<String>,
    pub force_path_style: bool,
    pub certificate: Option<PathBuf>,
    pub certificate_mode: CertificateMode,
    pub checksum: Algorithm,
    pub storage_class: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub credentials: Credentials,
    pub assume_role: Vec<Hop>,
    pub encryption: Encryption,
    /// `None`: objects are not encrypted here.
    pub client_encryption: Option<ClientEncryption>,
    /// `None`: objects are not locked, and no request is made for it.
    pub object_lock: Option<ObjectLock>,
    pub upload: Upload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateMode {
    /// The bundle is trusted besides the system's roots.
    #[default]
    Add,
    /// The bundle replaces them.
    Only,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The SDK's chain: environment, profile, web identity, container, instance role.
    Default,
    Static {
        access_key_id: SecretSource,
        secret_access_key: SecretSource,
        session_token: Option<SecretSource>,
    },
    Profile {
        profile: String,
    },
    WebIdentity {
        token_file: PathBuf,
        role_arn: String,
    },
}

/// One AssumeRole of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub role_arn: String,
    pub external_id: Option<SecretSource>,
    pub duration: Duration,
    pub session_name: String,
}

/// A secret in the configuration, or the file to read it from at each use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    Inline(Secret),
    File(PathBuf),
}

/// A string that is wiped when dropped, and that no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretSource {
    /// Reads the secret. A file's final line feed is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read or is not UTF-8; the error names the file, never its content.
    pub fn read(&self) -> std::io::Result<Secret> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let named =
                    |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                let mut text = Zeroizing::new(std::fs::read_to_string(path).map_err(named)?);
                let end = text.trim_end_matches(['\r', '\n']).len();
                text.truncate(end);
                Ok(Secret(text))
            }
        }
    }
}

/// To whom a location's objects are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEncryption {
    pub recipients: Recipients,
    /// An identity to which indexes are encrypted besides.
    pub index_identity_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// 1 to [`MAX_RECIPIENTS`], no two alike.
    Inline(Vec<Recipient>),
    /// A file to read at each run.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    pub mode: EncryptionMode,
    pub kms_key_id: Option<String>,
    pub bucket_key: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncryptionMode {
    /// No header is sent; the bucket decides.
    #[default]
    BucketDefault,
    SseS3,
    SseKms,
    DsseKms,
}

/// S3's Object Lock on everything that a backup needs (docs/decisions/0090).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    pub mode: LockMode,
    /// How long an object stays locked after the last time it was known to be needed.
    pub period: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has `s3:BypassGovernanceRetention` can end the lock.
    Governance,
    /// Nobody can.
    Compliance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    pub part_size: u64,
    pub concurrency: Concurrency,
    pub object_size: u64,
    pub sign_payload: SignPayload,
}

/// Requests in flight for one stream: parts of an upload, GETs of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// `0` in the file: adapted while the upload runs.
    Auto,
    /// From 1 to 1000.
    AtMost(u16),
}

/// The highest value that `concurrency = 0` reaches: 64 parts of 16 MiB are a GiB of memory.
pub const MOST_CONCURRENCY: u16 = 64;

impl Concurrency {
    #[must_use]
    pub const fn most(self) -> u16 {
        match self {
            Self::Auto => MOST_CONCURRENCY,
            Self::AtMost(most) => most,
        }
    }
}

/// The most recipients: with an index's identity, they fit one age header.
pub const MAX_RECIPIENTS: usize = MAX_IN_HEADER - 1;

/// Whether a request's signature covers its body (docs/decisions/0004).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignPayload {
    /// Over plain HTTP yes, over TLS no: TLS already protects the body, and a second SHA-256 costs as much as the first.
    #[default]
    Auto,
    Always,
    Never,
}

/// The default of [`Job::min_live`].
pub const MIN_LIVE: u16 = 300;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub name: Name,
    /// A key of [`Config::locations`].
    pub location: String,
    pub schedule: Option<Cron>,
    pub jitter: Duration,
    pub catch_up: CatchUp,
    pub time_zone: String,
    pub timeout: Option<Duration>,
    pub incremental: bool,
    /// The next backup is full if the last full one is older than this.
    pub full_every: Option<Duration>,
    /// Thousandths of an object that must be live for the next backup to refer to it.
    pub min_live: u16,
    pub compression: Compression,
    pub retention: Option<Retention>,
    pub before: Vec<Vec<String>>,
    pub after: Vec<Vec<String>>,
    /// For each command of `before` and `after`.
    pub hook_timeout: Duration,
    pub sources: Vec<Source>,
}

impl Job {
    /// Whether it saves the volumes of pods.
    #[must_use]
    pub fn saves_claims(&self) -> bool {
        self.sources.iter().any(|source| matches!(source.kind, super::SourceKind::Claims(_)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    #[default]
    Once,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub keep_last: Option<u32>,
    pub keep_daily: Option<u32>,
    pub keep_weekly: Option<u32>,
    pub keep_monthly: Option<u32>,
    pub keep_yearly: Option<u32>,
    pub keep_within: Option<Duration>,
    /// How long the objects of a deleted backup stay; `None`: [`crate::prune::GRACE`].
    pub grace: Option<Duration>,
}
