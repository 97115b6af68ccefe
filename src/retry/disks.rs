//! The block service whose failed requests are made again.

use async_trait::async_trait;

use super::{Asked, Retrying};
use crate::disks::{Disks, Error, NewSnapshot, NewVolume, Page, Snapshot, SnapshotFilter, Volume, VolumeFilter};
use crate::format::ebs::{InstanceId, SnapshotId, VolumeId};

#[async_trait]
impl Disks for Retrying<dyn Disks> {
    async fn volumes(&self, filter: &VolumeFilter, from: Option<&str>) -> Result<Page<Volume>, Error> {
        let list = || self.inner.volumes(filter, from);
        self.request(Asked::ec2("DescribeVolumes", &"volumes"), list).await
    }

    async fn new_volume(&self, id: &VolumeId) -> Result<Volume, Error> {
        self.request(Asked::ec2("DescribeVolumes", id), || self.inner.new_volume(id)).await
    }

    async fn snapshots(&self, filter: &SnapshotFilter, from: Option<&str>) -> Result<Page<Snapshot>, Error> {
        let list = || self.inner.snapshots(filter, from);
        self.request(Asked::ec2("DescribeSnapshots", &"snapshots"), list).await
    }

    /// Sent once: only the caller can find out whether an attempt without an answer has created one.
    async fn create_snapshot(&self, new: &NewSnapshot) -> Result<Snapshot, Error> {
        self.inner.create_snapshot(new).await
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        self.request(Asked::ec2("DeleteSnapshot", id), || self.inner.delete_snapshot(id)).await
    }

    async fn create_volume(&self, new: &NewVolume) -> Result<Volume, Error> {
        let create = || self.inner.create_volume(new);
        self.request(Asked::ec2("CreateVolume", &new.snapshot), create).await
    }

    async fn this_instance(&self) -> Result<InstanceId, Error> {
        let ask = || self.inner.this_instance();
        self.request(Asked::ec2("GetMetadata", &"instance-id"), ask).await
    }
}
