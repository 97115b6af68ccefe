//! The port to a block service: the requests of EC2 that snapshots need, and no others.
//!
//! Implementations: [`memory::MemoryDisks`] for tests and `aws::ec2`. A method is one request (one page of a listing);
//! [`crate::retry`] repeats it. It uses the six actions that the role has: DescribeVolumes, DescribeSnapshots, CreateSnapshot
//! with CreateTags in the same call, CreateVolume, DeleteSnapshot.
//!
//! CreateSnapshot has no client token, so an implementation must not repeat it: after a lost reply only the caller can find
//! out, by the snapshot's tags, whether one was created.

pub mod memory;

use std::collections::BTreeMap;

use async_trait::async_trait;

/// A request to the block service that failed.
pub use crate::error::ServiceError as Error;
use crate::format::ebs::{InstanceId, SnapshotId, VolumeId};

pub type Tags = BTreeMap<String, String>;

/// The most values of one filter (EC2 API Reference, "Filter").
pub const MAX_FILTER_VALUES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub id: VolumeId,
    pub size_gib: u32,
    pub availability_zone: String,
    /// The service's name for it, `gp3`.
    pub volume_type: String,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub encrypted: bool,
    pub kms_key_id: Option<String>,
    pub tags: Tags,
    pub state: VolumeState,
    pub attached_to: Vec<InstanceId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeState {
    Creating,
    /// Available, or in use.
    Ready,
    /// `error`, `deleting`, `deleted`, or an unknown state: the service's name for it.
    Unusable(String),
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// `None` for a copied snapshot.
    pub volume_id: Option<VolumeId>,
    pub state: SnapshotState,
    pub started: Option<jiff::Timestamp>,
    pub completed: Option<jiff::Timestamp>,
    pub encrypted: bool,
    pub kms_key_id: Option<String>,
    pub tags: Tags,
}

#[derive(Debug, Clone)]
pub enum SnapshotState {
    /// The progress in percent, if the service gives it.
    Pending(Option<u8>),
    Completed,
    /// It failed at the service; the error has the class and the remedy.
    Failed(Error),
    /// Someone deleted it, and the recycle bin keeps it for now.
    InRecycleBin,
}

/// Selects volumes that fulfil all conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// At most [`MAX_FILTER_VALUES`]; empty: any. Those that do not exist are not in the answer.
    pub ids: Vec<VolumeId>,
    pub tags: Tags,
    pub attached_to: Option<InstanceId>,
}

/// Selects this account's own snapshots that fulfil all conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// At most [`MAX_FILTER_VALUES`]; empty: any. Those that do not exist are not in the answer.
    pub ids: Vec<SnapshotId>,
    pub tags: Tags,
}

/// A page, in no order. It may be empty and not be the last one.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next one starts; `None` on the last one.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    pub volume: VolumeId,
    pub description: String,
    pub tags: Tags,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    pub snapshot: SnapshotId,
    pub availability_zone: String,
    pub volume_type: String,
    pub size_gib: u32,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub encryption: Encryption,
    pub tags: Tags,
    /// Repeating the request with the same token creates no second volume.
    pub client_token: String,
}

/// A new volume's encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// The snapshot's encryption and the account's default.
    Inherit,
    /// With the account's default key.
    DefaultKey,
    Key(String),
}

#[async_trait]
pub trait Disks: Send + Sync {
    async fn volumes(&self, filter: &VolumeFilter, from: Option<&str>) -> Result<Page<Volume>, Error>;
    /// A volume that [`Disks::create_volume`] has just returned. An error if it does not exist, with a class for the reason; soon after
    /// the creation it may only not exist yet.
    async fn new_volume(&self, id: &VolumeId) -> Result<Volume, Error>;
    async fn snapshots(&self, filter: &SnapshotFilter, from: Option<&str>) -> Result<Page<Snapshot>, Error>;
    /// Starts a snapshot; the implementation does not repeat it.
    async fn create_snapshot(&self, new: &NewSnapshot) -> Result<Snapshot, Error>;
    /// Succeeds also when there is no such snapshot, which takes a second request where EC2 refuses to say so.
    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error>;
    async fn create_volume(&self, new: &NewVolume) -> Result<Volume, Error>;
    /// The instance this process runs on.
    async fn this_instance(&self) -> Result<InstanceId, Error>;
}
