//! Deleting snapshots: with the backup that owns them.
//!
//! Only snapshots that carry the tags of this cluster and job are ever deleted, whatever a manifest names. One that is gone is
//! deleted; one that an AMI uses is kept and reported, and deleted when it is asked for again and no longer used.

use std::collections::BTreeSet;

use super::{Owner, select, tags, wait};
use crate::disks::{self, Disks, Snapshot, SnapshotFilter};
use crate::format::ebs::SnapshotId;
use crate::format::manifest::Manifest;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    pub deleted: Vec<SnapshotId>,
    /// With the reason.
    pub kept: Vec<(SnapshotId, String)>,
}

impl Deletion {
    pub(super) fn log(&self, owner: &Owner) {
        for id in &self.deleted {
            tracing::info!(backup = %owner.id, snapshot = %id, "snapshot deleted");
        }
        for (id, why) in &self.kept {
            tracing::warn!(backup = %owner.id, snapshot = %id, "snapshot kept: {why}");
        }
    }
}

/// Deletes the snapshots of a backup, found by their tags and by its manifest. To be repeated until it succeeds; the manifest
/// is deleted first, so that no reader meets a backup that is half gone.
///
/// # Errors
/// When the snapshots cannot be listed, or one cannot be deleted for another reason than being in use.
pub async fn backup(disks: &dyn Disks, manifest: &Manifest) -> Result<Deletion, disks::Error> {
    let owner = Owner::of(manifest);
    let named: Vec<SnapshotId> = manifest.snapshots().map(|(_, snapshot)| snapshot.snapshot_id.clone()).collect();
    if named.is_empty() {
        return Ok(Deletion::default());
    }
    let mut found = wait::look(disks, &named).await?;
    let filter = SnapshotFilter { tags: tags::of_backup(&owner), ..SnapshotFilter::default() };
    found.extend(select::snapshots(disks, &filter).await?.into_iter().map(|snapshot| (snapshot.id.clone(), snapshot)));
    let deletion = delete(disks, found.into_values(), &tags::of_backup(&owner)).await?;
    deletion.log(&owner);
    Ok(deletion)
}

/// Deletes the snapshots of a backup that are not in `named`.
pub(super) async fn all_but(
    disks: &dyn Disks,
    owner: &Owner,
    named: &BTreeSet<SnapshotId>,
) -> Result<Deletion, disks::Error> {
    let filter = SnapshotFilter { tags: tags::of_backup(owner), ..SnapshotFilter::default() };
    let found = select::snapshots(disks, &filter).await?;
    delete(disks, found.into_iter().filter(|snapshot| !named.contains(&snapshot.id)), &filter.tags).await
}

async fn delete(
    disks: &dyn Disks,
    snapshots: impl IntoIterator<Item = Snapshot>,
    must_carry: &disks::Tags,
) -> Result<Deletion, disks::Error> {
    let mut deletion = Deletion::default();
    for snapshot in snapshots {
        let id = &snapshot.id;
        if !tags::belongs(&snapshot, must_carry) {
            deletion.kept.push((id.clone(), "it does not carry this backup's tags".to_owned()));
            continue;
        }
        match disks.delete_snapshot(id).await {
            Ok(()) => deletion.deleted.push(id.clone()),
            Err(error) if error.code.as_deref() == Some("InvalidSnapshot.InUse") => {
                let why = format!("an AMI uses it; deregister that, and delete again: {}", error.message);
                deletion.kept.push((id.clone(), why));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(deletion)
}
