//! What goes with a backup and is not in the store.

use async_trait::async_trait;

use crate::error::ServiceError;
use crate::format::manifest::Manifest;
use crate::snapshot;

/// What a backup keeps outside of the store (EBS snapshots), to be deleted with it.
#[async_trait]
pub trait Outside: Send + Sync {
    /// Deletes what `manifest` names outside of the store. Called when the backup is gone and its grace period is over, and again
    /// with each run until it succeeds: what is gone already is success.
    async fn delete(&self, manifest: &Manifest) -> Result<(), ServiceError>;
}

#[async_trait]
impl Outside for snapshot::Service {
    /// A snapshot that an AMI uses is kept, with a warning, and is no failure: it goes as an orphan once nothing uses it.
    async fn delete(&self, manifest: &Manifest) -> Result<(), ServiceError> {
        self.delete_backup(manifest).await.map(drop)
    }
}
