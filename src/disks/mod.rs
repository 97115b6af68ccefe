//! The port to a block service: what snapshots need of EC2, and nothing more.
//!
//! Implementations: [`memory::MemoryDisks`] for tests and `aws::ec2` for the real thing. A method is one request (a page, where
//! there are pages; the SDK's own attempts included); [`crate::retry`] wraps a block service in one that makes a failed request again. The actions behind it are the six that the role has: DescribeVolumes,
//! DescribeSnapshots, CreateSnapshot with CreateTags in the same call, CreateVolume, DeleteSnapshot.
//!
//! CreateSnapshot has no client token. An implementation must not repeat it by itself: after a reply that was lost, only
//! the caller can find out, by the snapshot's tags, whether there is one.

pub mod memory;

use std::collections::BTreeMap;

use async_trait::async_trait;

/// A request to the block service that failed.
pub use crate::error::ServiceError as Error;
use crate::format::ebs::{InstanceId, SnapshotId, VolumeId};

pub type Tags = BTreeMap<String, String>;

/// EC2 API Reference, "Filter": values of one filter.
pub const MAX_FILTER_VALUES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub id: VolumeId,
    pub size_gib: u32,
    pub availability_zone: String,
    /// As the service names it, `gp3`.
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
    /// `error`, `deleting`, `deleted`, or a state of the future: the service's word for it.
    Unusable(String),
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// `None` for a snapshot that is a copy.
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
    /// Percent, where the service says.
    Pending(Option<u8>),
    Completed,
    /// It failed at the service, with what that means.
    Failed(Error),
    /// Someone deleted it, and the recycle bin keeps it for now.
    InRecycleBin,
}

/// Which volumes. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// At most [`MAX_FILTER_VALUES`]; empty: any. Those that do not exist are not in the answer.
    pub ids: Vec<VolumeId>,
    pub tags: Tags,
    pub attached_to: Option<InstanceId>,
}

/// Which of this account's own snapshots. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// At most [`MAX_FILTER_VALUES`]; empty: any. Those that do not exist are not in the answer.
    pub ids: Vec<SnapshotId>,
    pub tags: Tags,
}

/// A page, in no order. It may be empty and yet not the last one.
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
    /// The same token and the same request make the same volume.
    pub client_token: String,
}

/// A new volume's encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// The snapshot's, and the account's default.
    Inherit,
    /// With the account's default key.
    DefaultKey,
    Key(String),
}

#[async_trait]
pub trait Disks: Send + Sync {
    async fn volumes(&self, filter: &VolumeFilter, from: Option<&str>) -> Result<Page<Volume>, Error>;
    /// A volume that [`Disks::create_volume`] has just promised. That it is not there, or no more, is an error whose class says why
    /// that is; soon after the creation it may also only not be there yet.
    async fn new_volume(&self, id: &VolumeId) -> Result<Volume, Error>;
    async fn snapshots(&self, filter: &SnapshotFilter, from: Option<&str>) -> Result<Page<Snapshot>, Error>;
    /// Starts one; not repeated by the implementation.
    async fn create_snapshot(&self, new: &NewSnapshot) -> Result<Snapshot, Error>;
    /// Success also when there is no such snapshot.
    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error>;
    async fn create_volume(&self, new: &NewVolume) -> Result<Volume, Error>;
    /// The instance this process runs on.
    async fn this_instance(&self) -> Result<InstanceId, Error>;
}
