//! Looking at pending snapshots, few requests for many of them, and what is seen put into the items.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{Error, select};
use crate::backoff::Backoff;
use crate::disks::{self, Disks, MAX_FILTER_VALUES, Snapshot, SnapshotFilter, SnapshotState};
use crate::error::Classify as _;
use crate::format::ebs::{EbsSnapshot, SnapshotId, State};
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Outcome};
use crate::metrics;

/// Before each look. Small volumes that have barely changed are complete within seconds.
pub(super) const LOOKS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), (100, 125));

/// Those of `ids` that exist.
pub(super) async fn look(
    disks: &dyn Disks,
    ids: &[SnapshotId],
) -> Result<BTreeMap<SnapshotId, Snapshot>, disks::Error> {
    let mut seen = BTreeMap::new();
    for ids in ids.chunks(MAX_FILTER_VALUES) {
        let filter = SnapshotFilter { ids: ids.to_vec(), ..SnapshotFilter::default() };
        let snapshots = select::snapshots(disks, &filter).await?;
        seen.extend(snapshots.into_iter().map(|snapshot| (snapshot.id.clone(), snapshot)));
    }
    Ok(seen)
}

/// The snapshot of an item that is still pending.
pub(super) fn pending(item: &Item) -> Option<&EbsSnapshot> {
    match &item.content {
        Content::EbsSnapshot { snapshot: Some(snapshot) } if snapshot.state == State::Pending => Some(snapshot),
        Content::EbsSnapshot { .. } | Content::Stream { .. } => None,
    }
}

pub(super) fn pending_ids(items: &[Item]) -> Vec<SnapshotId> {
    items.iter().filter_map(|item| Some(pending(item)?.snapshot_id.clone())).collect()
}

/// What one look makes of an item.
#[derive(Debug)]
pub(super) enum Seen {
    /// How long EC2 took for it.
    Completed(Duration),
    Failed(Error),
}

impl Seen {
    fn counted_by(self, metrics: &metrics::Job) -> Self {
        match &self {
            Self::Completed(took) => metrics.snapshot_ended(Outcome::Success, None, Some(*took)),
            Self::Failed(error) => metrics.snapshot_ended(Outcome::Failure, Some(error.class()), None),
        }
        self
    }
}

/// Puts what EC2 says of the pending snapshots into the items, and counts those that have ended. A snapshot that is not shown is pending
/// until `is_gone` says that it is gone. Returns the items that have ended.
pub(super) fn settle(
    items: &mut [Item],
    seen: &BTreeMap<SnapshotId, Snapshot>,
    mut is_gone: impl FnMut(&SnapshotId) -> bool,
    metrics: &metrics::Job,
) -> Vec<(Name, Seen)> {
    let mut ended = Vec::new();
    for item in items {
        let Some(id) = pending(item).map(|snapshot| snapshot.snapshot_id.clone()) else { continue };
        let error = match seen.get(&id).map(|snapshot| (&snapshot.state, snapshot.completed)) {
            Some((SnapshotState::Completed, completed)) => {
                if let Some(took) = complete(item, completed) {
                    ended.push((item.name.clone(), Seen::Completed(took).counted_by(metrics)));
                }
                continue;
            }
            Some((SnapshotState::Failed(error), _)) => error.clone().into(),
            Some((SnapshotState::InRecycleBin, _)) => Error::InRecycleBin(id),
            None if is_gone(&id) => Error::Gone(id),
            Some((SnapshotState::Pending(_), _)) | None => continue,
        };
        fail(item, &error);
        ended.push((item.name.clone(), Seen::Failed(error).counted_by(metrics)));
    }
    ended
}

/// The item's snapshot is complete. How long EC2 took.
fn complete(item: &mut Item, completed: Option<Timestamp>) -> Option<Duration> {
    let Content::EbsSnapshot { snapshot: Some(recorded) } = &mut item.content else { return None };
    recorded.state = State::Completed;
    recorded.completed = completed;
    item.outcome = Outcome::Success;
    let took = completed.unwrap_or_else(Timestamp::now).duration_since(recorded.started);
    Some(took.try_into().unwrap_or_default())
}

/// The item holds nothing any more but why.
fn fail(item: &mut Item, error: &Error) {
    let report = error.report();
    tracing::error!(item = %item.name, class = %report.class, remedy = report.remedy, %error, "the snapshot failed; nothing of it is kept");
    item.outcome = Outcome::Failure;
    item.error = Some(report);
    item.content = Content::EbsSnapshot { snapshot: None };
}
