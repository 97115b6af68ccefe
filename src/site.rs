//! The port to what surrounds a store: who one is there, whom one trusts, and what EC2 would allow.
//!
//! `validate` proves a location through it; `aws` implements it. A method asks the real service, and changes nothing there
//! except where it says so.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::error::ServiceError;
use crate::format::key::ObjectKey;

/// A certificate, as far as an operator cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Who the service says one is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `None` where nobody was asked: a store that is not AWS, with keys of its own.
    pub account: Option<String>,
    pub arn: String,
    /// `None` for credentials that do not expire.
    pub expiry: Option<Timestamp>,
}

/// The base credentials, or one hop from there.
#[derive(Debug)]
pub struct Step {
    /// 0 is the base.
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

/// How a connection to an endpoint is made.
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

/// What snapshots and volumes need, each by its IAM action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ec2Action {
    DescribeVolumes,
    DescribeSnapshots,
    CreateTags,
    CreateVolume,
    CreateSnapshot,
    DeleteSnapshot,
}

impl Ec2Action {
    pub const ALL: [Self; 6] = [
        Self::DescribeVolumes,
        Self::DescribeSnapshots,
        Self::CreateTags,
        Self::CreateVolume,
        Self::CreateSnapshot,
        Self::DeleteSnapshot,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DescribeVolumes => "DescribeVolumes",
            Self::DescribeSnapshots => "DescribeSnapshots",
            Self::CreateTags => "CreateTags",
            Self::CreateVolume => "CreateVolume",
            Self::CreateSnapshot => "CreateSnapshot",
            Self::DeleteSnapshot => "DeleteSnapshot",
        }
    }
}

#[async_trait]
pub trait Site: Send + Sync {
    /// What is trusted, in words.
    fn trusted(&self) -> String;

    /// The bundle's certificates; empty when only the system's are trusted.
    fn certificates(&self) -> Vec<Certificate>;

    /// Obtains the base credentials and each hop's anew, up to the first that fails.
    async fn who(&self) -> Vec<Step>;

    /// Connects to the service and hangs up; `None` when this location never speaks to it.
    async fn handshake(&self, service: Service) -> Option<Result<Handshake, ServiceError>>;

    /// Milliseconds the server's clock is ahead of this host's; `None` before the first reply.
    fn skew(&self) -> Option<i64>;

    /// The bucket's region, where the store says it.
    async fn bucket_region(&self) -> Result<Option<String>, ServiceError>;

    /// Writes an object with the store's own encryption (SSE-S3), whatever is configured.
    async fn put_without_kms(&self, key: &ObjectKey, data: Bytes) -> Result<(), ServiceError>;

    /// Writes an object with `If-None-Match: *`, whatever a store that refuses it makes of it.
    async fn put_if_absent(&self, key: &ObjectKey, data: Bytes) -> Result<(), ServiceError>;

    /// The version that the key has now, a delete marker's too; `None` in a bucket that keeps none, [`Class::NotFound`] where
    /// nothing is.
    ///
    /// [`Class::NotFound`]: crate::error::Class::NotFound
    async fn version_of(&self, key: &ObjectKey) -> Result<Option<String>, ServiceError>;

    /// Deletes one version for good.
    async fn delete_version(&self, key: &ObjectKey, version: &str) -> Result<(), ServiceError>;

    /// Whether EC2 would do it, without its being done.
    async fn dry_run(&self, action: Ec2Action) -> Result<(), ServiceError>;
}
