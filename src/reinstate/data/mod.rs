//! Fills restored claims with their data, each by a Job in the cluster, before what uses them is restored.
//!
//! # What it promises
//! - **Nothing runs on a claim without its data.** The claims of a batch are filled before the next rank is restored. Where one could not be, its
//!   namespace is held: of custom resources, pods and workloads nothing is created there.
//! - **Nothing is overwritten.** A claim is filled only if this restore, or an earlier one that was interrupted, has created it: it has the annotation
//!   [`UNFILLED`] until its data is there. In the Job, `penstock restore --fill` refuses a volume with other files.
//! - **It goes on.** The annotation names the backup. Killed at any point and run again, the same backup is restored into the same claim, by the Job
//!   that is still there or by a new one. A text of somebody else's in its place is refused: it must name a backup of this claim.
//! - **It is not done twice.** A Job that has ended well stays until the annotation is gone ([`mark`]).
//! - **It leaves nothing.** Jobs, copies and service accounts are removed however the restore ends; after a kill by the next run.
//!
//! # What it costs
//! One listing of the cluster's backups and a manifest for each claim; three requests every [`LOOK`] for each Job that runs.

mod agent;
mod choice;
mod fill;
mod job;
mod look;
mod mark;
mod placement;
mod supplies;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

pub use self::choice::{AsOf, Chosen};
pub(super) use self::fill::{CLAIMS, Filling};
pub use self::job::Jobs;
pub(super) use self::placement::{Placement, users};
use crate::catalog::Catalog;
use crate::claims::{objects, wishes};
use crate::cluster::Cluster;
use crate::error::Report;
use crate::resources::patience::Patience;

/// The annotation of a claim whose data is not there yet: the backup that it gets.
pub(super) const UNFILLED: &str = "backup.penstock/unfilled";

/// Between two looks at a Job.
const LOOK: Duration = Duration::from_secs(2);

/// How long a Job may have no running pod. A cluster that adds a node for it takes some minutes.
const START: Duration = Duration::from_mins(10);

/// The data that a restore brings with the objects.
#[derive(Debug)]
pub struct Data<'a> {
    /// Where the claims' backups are.
    catalog: &'a Catalog,
    as_of: AsOf,
    jobs: Jobs,
    /// Namespaces in which something was made for Jobs, by this run or an earlier one.
    made: Mutex<BTreeSet<String>>,
}

impl<'a> Data<'a> {
    #[must_use]
    pub fn new(catalog: &'a Catalog, as_of: AsOf, jobs: Jobs) -> Self {
        Self { catalog, as_of, jobs, made: Mutex::default() }
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what was made for Jobs, with the Jobs.
    pub(super) async fn clean_up(&self, cluster: &dyn Cluster, patience: Patience) {
        let namespaces = std::mem::take(&mut *self.made());
        if !namespaces.is_empty() {
            supplies::remove(cluster, patience, &self.jobs, &namespaces).await;
        }
    }
}

/// What became of a claim's data, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Fill,
    Filled {
        warnings: Option<String>,
    },
    /// The claim was there before, or is filled already: its data stays as it is.
    There,
    /// Annotated: it has no backup, and shall have none.
    Excluded,
    NoBackup,
    Failed(Report),
}

impl Outcome {
    /// As reports show it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Filled { .. } => "filled",
            Self::There => "there",
            Self::Excluded => "excluded",
            Self::NoBackup => "no-backup",
            Self::Failed(_) => "failed",
        }
    }

    /// The claim's data is not as in a backup.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        match self {
            Self::NoBackup | Self::Failed(_) | Self::Filled { warnings: Some(_) } => true,
            Self::Fill | Self::Filled { warnings: None } | Self::There | Self::Excluded => false,
        }
    }
}

/// A claim, as the backup names it, and what became of its data.
#[derive(Debug, Clone, Copy)]
pub struct Volume<'a> {
    pub claim: &'a str,
    pub chosen: Option<&'a Chosen>,
    pub outcome: &'a Outcome,
}

/// Whether agents leave this claim out: it is none whose missing backup is a loss.
pub(super) fn is_excluded(claim: &Value) -> bool {
    objects::Claim::deserialize(claim).is_ok_and(|claim| wishes::excludes_itself(&claim))
}

fn annotation<'a>(claim: &'a Value, name: &str) -> Option<&'a str> {
    claim.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_left_out_as_the_agents_leave_it_out() {
        for value in ["true", " true ", "*"] {
            assert!(
                is_excluded(&json!({ "metadata": { "annotations": { "backup.penstock/exclude": value } } })),
                "{value}"
            );
        }
        let label =
            json!({ "metadata": { "labels": { "velero.io/exclude-from-backup": "true" }, "annotations": null } });
        assert!(is_excluded(&label));
        assert!(!is_excluded(&json!({ "metadata": { "annotations": { "backup.penstock/exclude": "data" } } })));
    }
}
