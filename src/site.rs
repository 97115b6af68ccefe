//! The port to a store's surroundings: the caller's identity, the trusted certificates, and EC2's permissions.
//!
//! `validate` checks a location with it; `aws` implements it. A method asks the real service, and changes nothing there
//! unless its documentation says so.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::error::ServiceError;
use crate::format::key::ObjectKey;
use crate::format::version::VersionId;

/// The fields of a certificate that an operator needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// The caller's identity, as the service reports it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `None` without STS: a store that is not AWS, with keys of its own.
    pub account: Option<String>,
    pub arn: String,
    /// `None` for credentials that do not expire.
    pub expiry: Option<Timestamp>,
}

/// The base credentials, or one hop.
#[derive(Debug)]
pub struct Step {
    /// 0 for the base.
    pub hop: usize,
    pub took: Duration,
    pub result: Result<Identity, ServiceError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    S3,
    Sts,
    Ec2,
}

/// How an endpoint is connected to.
#[derive(Debug, Clone)]
pub enum Handshake {
    /// The URL says `http`.
    Plain {
        url: String,
    },
    Tls {
        url: String,
        protocol: &'static str,
        certificate: Certificate,
    },
}

/// The IAM actions that snapshots and volumes need. Where one creates something with tags, EC2 asks for CreateTags as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ec2Action {
    DescribeVolumes,
    DescribeSnapshots,
    CreateVolume,
    CreateSnapshot,
    DeleteSnapshot,
}

impl Ec2Action {
    pub const ALL: [Self; 5] = [
        Self::DescribeVolumes,
        Self::DescribeSnapshots,
        Self::CreateVolume,
        Self::CreateSnapshot,
        Self::DeleteSnapshot,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DescribeVolumes => "DescribeVolumes",
            Self::DescribeSnapshots => "DescribeSnapshots",
            Self::CreateVolume => "CreateVolume",
            Self::CreateSnapshot => "CreateSnapshot",
            Self::DeleteSnapshot => "DeleteSnapshot",
        }
    }
}

/// What a dry run tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    Given,
    /// Refused for a snapshot that does not exist, as it is where the policy has a condition on the snapshot's tags.
    Unknown,
}

#[async_trait]
pub trait Site: Send + Sync {
    /// A text that names the trusted certificates.
    fn trusted(&self) -> String;

    /// The bundle's certificates; empty if only the system's are trusted.
    fn certificates(&self) -> Vec<Certificate>;

    /// Obtains the base credentials and each hop's again, up to the first failure.
    async fn who(&self) -> Vec<Step>;

    /// Connects to the service and closes the connection; `None` if this location does not use it.
    async fn handshake(&self, service: Service) -> Option<Result<Handshake, ServiceError>>;

    /// Milliseconds the server's clock is ahead of this host's; `None` before the first reply.
    fn skew(&self) -> Option<i64>;

    /// The bucket's region, if the store names it.
    async fn bucket_region(&self) -> Result<Option<String>, ServiceError>;

    /// Writes an object with SSE-S3, whatever is configured.
    async fn put_without_kms(&self, key: &ObjectKey, data: Bytes) -> Result<(), ServiceError>;

    /// Writes an object with `If-None-Match: *`, without the workaround for a store that refuses it.
    async fn put_if_absent(&self, key: &ObjectKey, data: Bytes) -> Result<(), ServiceError>;

    /// The key's current version, which may be a delete marker; `None` in a bucket that keeps none, [`Class::NotFound`] if there
    /// is no object.
    ///
    /// [`Class::NotFound`]: crate::error::Class::NotFound
    async fn version_of(&self, key: &ObjectKey) -> Result<Option<VersionId>, ServiceError>;

    /// Asks EC2 whether it would do this to what has these tags, without doing it.
    async fn dry_run(&self, action: Ec2Action, tags: &BTreeMap<String, String>) -> Result<Permission, ServiceError>;
}
