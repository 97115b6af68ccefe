//! EBS snapshots: which volumes, taking them exactly once, waiting for them, deleting them, and volumes from them.
//!
//! # Consistency
//! A snapshot is the moment CreateSnapshot was answered, not the hour it takes to complete. So a run has two halves:
//! [`Session::capture`], while whatever `before` froze is frozen, and [`Session::settle`], when it no longer is. Only a snapshot
//! that EC2 calls `completed` is recorded as one. What is not complete when the waiting ends is recorded as `pending`, the backup
//! is `partial`, and a later run finishes the record (the one case in which a manifest is written again; docs/decisions/0025).
//!
//! # Exactly once
//! CreateSnapshot has no client token. Each snapshot carries the backup's id and the volume's from its first moment on; after a
//! reply that was lost they are looked for, and adopted, before anything is created again. Before a commit, a snapshot with the
//! backup's id that its items do not name is deleted.
//!
//! # Crash consistency
//! A [`record`] in the state directory is written before the first creation, and again, with the whole manifest, when everything is
//! captured and only waiting is left. The next start ([`recover`]) commits what was captured, and deletes the snapshots of a
//! backup that was not: no manifest will ever name them.
//!
//! # Cost
//! One DescribeVolumes for 1000 volumes, one CreateSnapshot for each, and for each look at the pending ones a DescribeSnapshots for
//! 200 of them, at most one a minute after the first two.
//!
//! # Accepted leaks
//! With the state directory lost in the middle of a run, its snapshots stay. They are found by their tags (docs/ebs.md) and deleted
//! by a person: that no backup at this location names a snapshot does not say that none does (docs/decisions/0026).

mod create;
pub mod delete;
mod pace;
pub mod persistent_volume;
mod record;
pub mod recover;
pub mod restore;
mod select;
mod session;
mod tags;
#[cfg(test)]
mod tests;
mod wait;

use std::fmt;
use std::path::PathBuf;

pub use self::record::{Lock, Records};
pub use self::select::{Selection, select};
pub use self::session::{Progress, Session};
pub use self::tags::{BACKUP_ID, claim, labels};

use crate::error::{Class, Classify, Report, ServiceError};
use crate::format::ebs::{SnapshotId, VolumeId};
use crate::format::key::{BackupId, Chain, Name, ObjectKey};
use crate::format::manifest::{Manifest, ManifestError};
use crate::location::Location;
use crate::state;

/// What is wrong with the snapshots of a backup, item by item: one is gone, not complete, or another volume's.
///
/// # Errors
/// When they cannot be asked for.
pub async fn check(location: &Location, manifest: &Manifest) -> Result<Vec<(Name, Error)>, Error> {
    let ids: Vec<SnapshotId> = manifest.snapshots().map(|(_, snapshot)| snapshot.snapshot_id.clone()).collect();
    let seen = wait::look(&*location.disks, &ids).await?;
    let wrong = manifest.snapshots().filter_map(|(item, recorded)| {
        let error = restore::check(recorded, seen.get(&recorded.snapshot_id)).err()?;
        Some((item.name.clone(), error))
    });
    Ok(wrong.collect())
}

/// Whose snapshots: the backup that they are items of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub chain: Chain,
    pub id: BackupId,
}

impl Owner {
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self { chain: manifest.chain(), id: manifest.id.clone() }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Chain { cluster, job, node } = &self.chain;
        write!(f, "{cluster}/{job}/{node}@{}", self.id)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("source {source_name}: no volume {selection}")]
    Nothing { source_name: Name, selection: String },
    #[error("the volume {0} does not exist (any more), or is being deleted")]
    NoVolume(VolumeId),
    #[error("the volume {volume} is {state}: no snapshot can be taken of it")]
    Unusable { volume: VolumeId, state: String },
    #[error("{volume}: after {minutes} minutes of trying: {error}")]
    GaveUp {
        volume: VolumeId,
        minutes: u64,
        #[source]
        error: Box<ServiceError>,
    },
    #[error("the snapshot {0} has disappeared: someone deleted it")]
    Gone(SnapshotId),
    #[error("the snapshot {0} was deleted, and is in the recycle bin")]
    InRecycleBin(SnapshotId),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("another Penstock runs the job {job} now: it holds {path}", path = path.display())]
    Running { job: Name, path: PathBuf },
    #[error("{key} {error}")]
    Manifest {
        key: ObjectKey,
        #[source]
        error: ManifestError,
    },
    #[error("the snapshot {id} is not complete yet{progress}")]
    NotComplete { id: SnapshotId, progress: String },
    #[error("the snapshot {id} is of the volume {found}; the backup says {expected}")]
    OtherVolume { id: SnapshotId, found: String, expected: VolumeId },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("the new volume {volume} is {state}")]
    BadVolume { volume: VolumeId, state: String },
    #[error("the volume {volume} was not available after {seconds} seconds; it may still become so")]
    Slow { volume: VolumeId, seconds: u64 },
    #[error("cancelled")]
    Cancelled,
}

impl Classify for Error {
    fn report(&self) -> Report {
        let told = |class| Report::new(class, self.to_string());
        match self {
            Self::Service(error) => error.report(),
            Self::GaveUp { error, .. } => Report { message: self.to_string(), ..error.report() },
            Self::Nothing { .. } => told(Class::Source).remedy(
                "check volumes, select_tags and attached_to; where there may be no volume, set on_no_match to \"warn\" or \"ignore\"",
            ),
            Self::NoVolume(_) => told(Class::NotFound).remedy("take it out of the job's volumes, or check the region"),
            Self::Unusable { .. } => told(Class::Source).remedy("look at the volume in the console"),
            Self::Gone(_) => told(Class::NotFound).remedy("run the job again"),
            Self::InRecycleBin(_) => told(Class::NotFound).remedy("restore it from the recycle bin, or run the job again"),
            Self::State(error) => error.report(),
            Self::Running { .. } => told(Class::Busy),
            Self::Manifest { error: ManifestError::Version(_) | ManifestError::Feature(_), .. } => told(Class::Compat),
            Self::Manifest { .. } => told(Class::Integrity),
            Self::NotComplete { .. } => told(Class::Busy).remedy("wait, or restore from an earlier backup"),
            Self::OtherVolume { .. } => told(Class::Integrity).remedy("the manifest has been changed: restore from another backup"),
            Self::NotFound(_) => told(Class::NotFound),
            Self::Usage(_) => told(Class::Config),
            Self::BadVolume { .. } => told(Class::Transient).remedy("delete it, and run the command again"),
            Self::Slow { volume, .. } => told(Class::Timeout)
                .remedy(format!("look at {volume} in the console; the same command again waits for the same volume")),
            Self::Cancelled => told(Class::Cancelled),
        }
    }
}
