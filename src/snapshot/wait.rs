//! Looking at pending snapshots, few requests for many of them, and what is seen put into the items.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Error, select};
use crate::backoff::Backoff;
use crate::disks::{self, Disks, MAX_FILTER_VALUES, Snapshot, SnapshotFilter, SnapshotState};
use crate::error::Classify as _;
use crate::format::ebs::{EbsSnapshot, SnapshotId, State};
use crate::format::manifest::{Content, Item, Outcome};

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
    Pending,
    /// How long EC2 took for it.
    Completed(Duration),
    Failed(Error),
}

/// Puts what EC2 says of a pending item's snapshot into the item.
pub(super) fn settle(item: &mut Item, snapshot: &Snapshot, now: jiff::Timestamp) -> Seen {
    let error = match &snapshot.state {
        SnapshotState::Pending(_) => return Seen::Pending,
        SnapshotState::Completed => {
            let Content::EbsSnapshot { snapshot: Some(recorded) } = &mut item.content else { return Seen::Pending };
            recorded.state = State::Completed;
            recorded.completed = snapshot.completed;
            item.outcome = Outcome::Success;
            let took = snapshot.completed.unwrap_or(now).duration_since(recorded.started);
            return Seen::Completed(took.try_into().unwrap_or_default());
        }
        SnapshotState::Failed(error) => error.clone().into(),
        SnapshotState::InRecycleBin => Error::InRecycleBin(snapshot.id.clone()),
    };
    fail(item, &error);
    Seen::Failed(error)
}

/// The item holds nothing any more but why.
pub(super) fn fail(item: &mut Item, error: &Error) {
    let report = error.report();
    tracing::error!(item = %item.name, class = %report.class, remedy = report.remedy, %error, "the snapshot failed; nothing of it is kept");
    item.outcome = Outcome::Failure;
    item.error = Some(report);
    item.content = Content::EbsSnapshot { snapshot: None };
}
