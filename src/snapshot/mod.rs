//! EBS snapshots: selects volumes, takes each snapshot exactly once, waits for it, deletes it, makes volumes from it.
//!
//! # Consistency
//! A snapshot has the state at the answer to CreateSnapshot; completing it may take an hour. So a run has two halves:
//! [`Session::capture`], while `before` keeps volumes frozen, and [`Session::settle`], after `after`. Only a snapshot that EC2 reports as
//! `completed` is recorded as such. One that is not complete when the waiting ends is recorded as `pending`, the backup is
//! `partial`, and a later run completes the manifest (the one case in which a manifest is written again; docs/decisions/0025).
//!
//! # Exactly once
//! CreateSnapshot has no client token. Each snapshot is created with the ids of the backup and the volume as tags; after a lost reply
//! the snapshot is looked for by them, and adopted, before another is created. Before a commit, snapshots with the backup's id that no
//! item names are deleted.
//!
//! # Crash consistency
//! A [`record`] in the state directory is written before the first creation, and again, with the whole manifest, when everything is
//! captured and only waiting is left. At the next start [`recover`] commits a captured backup, and deletes the snapshots of one that was
//! not captured: no manifest will ever name them.
//!
//! # Cost
//! One DescribeVolumes for 1000 volumes, one CreateSnapshot for each, and for each look at pending snapshots one DescribeSnapshots for
//! 200 of them, at most one a minute after the first two.
//!
//! # Accepted leaks
//! If the state directory is lost during a run, its snapshots stay. A person finds them by their tags (docs/ebs.md) and deletes them: no
//! backup at this location names them, but one at another location may (docs/decisions/0026).

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

/// Finds what is wrong with a backup's snapshots, item by item: missing, not complete, or another volume's.
///
/// # Errors
/// When EC2 does not list them.
pub async fn check(location: &Location, manifest: &Manifest) -> Result<Vec<(Name, Error)>, Error> {
    let ids: Vec<SnapshotId> = manifest.snapshots().map(|(_, snapshot)| snapshot.snapshot_id.clone()).collect();
    let seen = wait::look(&*location.disks, &ids).await?;
    let wrong = manifest.snapshots().filter_map(|(item, recorded)| {
        let error = restore::check(recorded, seen.get(&recorded.snapshot_id)).err()?;
        Some((item.name.clone(), error))
    });
    Ok(wrong.collect())
}

/// The backup that owns snapshots.
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
    #[error("source {source_name}: found no volume that {selection}")]
    Nothing { source_name: Name, selection: String },
    #[error("the volume {0} does not exist, or is being deleted")]
    NoVolume(VolumeId),
    #[error("could not take a snapshot of the volume {volume}: it is {state}")]
    Unusable { volume: VolumeId, state: String },
    #[error("could not take a snapshot of the volume {volume} in {minutes} minutes: {error}")]
    GaveUp {
        volume: VolumeId,
        minutes: u64,
        #[source]
        error: Box<ServiceError>,
    },
    #[error("the snapshot {0} does not exist any more: someone deleted it")]
    Gone(SnapshotId),
    #[error("the snapshot {0} was deleted, and is in the recycle bin")]
    InRecycleBin(SnapshotId),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("another Penstock is running the job {job}: it has locked {path}", path = path.display())]
    Running { job: Name, path: PathBuf },
    #[error("{key} {error}")]
    Manifest {
        key: ObjectKey,
        #[source]
        error: ManifestError,
    },
    #[error("the snapshot {id} is not complete yet{progress}")]
    NotComplete { id: SnapshotId, progress: String },
    #[error("the snapshot {id} is of the volume {found}; expected {expected}")]
    OtherVolume { id: SnapshotId, found: String, expected: VolumeId },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("the new volume {volume} is {state}")]
    BadVolume { volume: VolumeId, state: String },
    #[error("the volume {volume} was not available after {seconds} seconds; it may still become available")]
    Slow { volume: VolumeId, seconds: u64 },
    #[error("cancelled")]
    Cancelled,
}

impl Classify for Error {
    fn report(&self) -> Report {
        let report = |class| Report::new(class, self.to_string());
        match self {
            Self::Service(error) => error.report(),
            Self::GaveUp { error, .. } => Report { message: self.to_string(), ..error.report() },
            Self::Nothing { .. } => report(Class::Source).remedy(
                "check volumes, select_tags and attached_to; where there may be no volume, set on_no_match to \"warn\" or \"ignore\"",
            ),
            Self::NoVolume(_) => report(Class::NotFound).remedy("remove it from the job's volumes, or check the region"),
            Self::Unusable { .. } => report(Class::Source).remedy("look at the volume in the console"),
            Self::Gone(_) => report(Class::NotFound).remedy("run the job again"),
            Self::InRecycleBin(_) => report(Class::NotFound).remedy("restore it from the recycle bin, or run the job again"),
            Self::State(error) => error.report(),
            Self::Running { .. } => report(Class::Busy),
            Self::Manifest { error: ManifestError::Version(_) | ManifestError::Feature(_), .. } => report(Class::Compat),
            Self::Manifest { .. } => report(Class::Integrity),
            Self::NotComplete { .. } => report(Class::Busy).remedy("wait, or restore from an earlier backup"),
            Self::OtherVolume { .. } => report(Class::Integrity).remedy("the manifest has been changed: restore from another backup"),
            Self::NotFound(_) => report(Class::NotFound),
            Self::Usage(_) => report(Class::Config),
            Self::BadVolume { .. } => report(Class::Transient).remedy("delete it, and run the command again"),
            Self::Slow { volume, .. } => report(Class::Timeout)
                .remedy(format!("look at {volume} in the console; the same command again waits for the same volume")),
            Self::Cancelled => report(Class::Cancelled),
        }
    }
}
