//! Creating snapshots: many at a time, each exactly once.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::pace::{Next, next};
use super::{Error, Owner, select, tags};
use crate::backoff::random;
use crate::config::Ebs;
use crate::disks::{NewSnapshot, Snapshot, SnapshotFilter, Volume};
use crate::error::Class;
use crate::location::Location;

/// How long a volume's snapshot is tried for. Whatever `before` froze is frozen meanwhile.
const LIMIT: Duration = Duration::from_mins(30);

/// One snapshot for each volume, in their order.
///
/// # Errors
/// Only when cancelled. A creation that was in flight may still happen.
pub(super) async fn all(
    location: &Location,
    owner: &Owner,
    ebs: &Ebs,
    volumes: &[&Volume],
    stop: &CancellationToken,
) -> Result<Vec<Result<Snapshot, Error>>, Error> {
    let create = |(index, volume)| async move { (index, one(location, owner, ebs, volume).await) };
    // Made first and driven then: a stream that makes them as it goes is not `Send` enough for a task (rust-lang/rust#102211).
    let creations: Vec<_> = volumes.iter().copied().enumerate().map(create).collect();
    let created = stream::iter(creations).buffer_unordered(ebs.concurrency.max(1));
    let mut created: Vec<_> = tokio::select! {
        () = stop.cancelled() => return Err(Error::Cancelled),
        created = created.collect() => created,
    };
    created.sort_by_key(|(index, _)| *index);
    Ok(created.into_iter().map(|(_, created)| created).collect())
}

async fn one(location: &Location, owner: &Owner, ebs: &Ebs, volume: &Volume) -> Result<Snapshot, Error> {
    let new = NewSnapshot {
        volume: volume.id.clone(),
        // EC2 takes 255 characters; the tags say it all.
        description: format!("Penstock {owner} of {}", volume.id).chars().take(255).collect(),
        tags: tags::of_new_snapshot(owner, volume, ebs),
    };
    let start = location.clock.now();
    let mut failed = 0;
    loop {
        location.pace.turn(&*location.clock).await;
        let error = match location.disks.create_snapshot(&new).await {
            Ok(snapshot) => {
                location.pace.accepted();
                return Ok(snapshot);
            }
            Err(error) => error,
        };
        if error.class == Class::Throttled {
            location.pace.throttled();
        }
        failed += 1;
        let decided = next(&error, failed, random());
        let (Next::Again(pause) | Next::Look(pause)) = decided else { return Err(error.into()) };
        let tried = location.clock.now().duration_since(start);
        if tried + pause > LIMIT {
            let minutes = tried.as_secs() / 60;
            return Err(Error::GaveUp { volume: volume.id.clone(), minutes, error: Box::new(error) });
        }
        tracing::warn!(volume = %volume.id, class = %error.class, %error, pause_s = pause.as_secs(), "the snapshot is tried again");
        location.clock.sleep(pause).await;
        if matches!(decided, Next::Look(_))
            && let Some(snapshot) = look(location, owner, volume).await?
        {
            tracing::info!(volume = %volume.id, snapshot = %snapshot.id, "the snapshot had been created after all");
            return Ok(snapshot);
        }
    }
}

/// The snapshot of this volume in this backup, if there is one.
async fn look(location: &Location, owner: &Owner, volume: &Volume) -> Result<Option<Snapshot>, Error> {
    let filter = SnapshotFilter { tags: tags::of_volume(owner, &volume.id), ..SnapshotFilter::default() };
    let found = select::snapshots(&*location.disks, &filter).await?;
    Ok(found.into_iter().min_by_key(|snapshot| snapshot.started))
}
