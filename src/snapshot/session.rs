//! The snapshots of one run: taken, waited for, and then committed with the manifest or discarded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::record::{Lock, Record};
use super::wait::{self, Seen};
use super::{Error, Owner, Records, create, delete, tags};
use crate::backoff::random;
use crate::config::Ebs;
use crate::disks::{Snapshot, Volume};
use crate::error::{Classify as _, Retry};
use crate::format::ebs::{EbsSnapshot, SnapshotId, State};
use crate::format::key::Name;
use crate::format::manifest::{Item, Manifest};
use crate::location::Location;
use crate::metrics;

/// A snapshot that is missing from so many looks in a row is gone. By then minutes have passed, and EC2 lists new ones within seconds.
const MISSES: u32 = 7;

/// The progress, which a status page reads at any time.
#[derive(Debug, Default)]
pub struct Progress {
    pub snapshots: AtomicU64,
    pub completed: AtomicU64,
}

pub struct Session<'a> {
    location: &'a Location,
    record: Record<'a>,
    metrics: metrics::Job,
    earlier: usize,
    progress: &'a Progress,
    /// When the waiting for each pending snapshot ends; snapshots that are not waited for are not in it.
    deadlines: BTreeMap<SnapshotId, Instant>,
    creations: Creations,
}

/// The creations that EC2 was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Creations {
    None,
    /// One was interrupted: its snapshot may appear after the others are deleted.
    CutOff,
    Answered,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("record", &self.record).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Writes the record; sends nothing to EC2 yet. `earlier` snapshots of the job's earlier backups are still pending.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub fn begin(
        location: &'a Location,
        lock: &'a Lock,
        owner: &Owner,
        earlier: usize,
        progress: &'a Progress,
    ) -> Result<Self, Error> {
        let record =
            Records::new(&location.process.state_dir).begin(lock, location.name(), location.prefix(), owner)?;
        let metrics = location.process.metrics.job(owner.chain.job.as_str());
        Ok(Self {
            location,
            record,
            metrics,
            earlier,
            progress,
            deadlines: BTreeMap::new(),
            creations: Creations::None,
        })
    }

    /// Begins a snapshot of each volume.
    ///
    /// # Errors
    /// Only when cancelled. The caller must call [`Session::discard`] then.
    pub async fn capture(
        &mut self,
        ebs: &Ebs,
        volumes: &[&Volume],
        stop: &CancellationToken,
    ) -> Result<Vec<Result<EbsSnapshot, Error>>, Error> {
        self.creations = Creations::CutOff;
        let created = create::all(self.location, &self.record.saved.owner(), ebs, volumes, stop).await?;
        self.creations = Creations::Answered;
        let started = |(volume, created): (&&Volume, Result<Snapshot, Error>)| {
            created.map(|snapshot| self.started(volume, &snapshot, ebs.wait))
        };
        Ok(volumes.iter().zip(created).map(started).collect())
    }

    fn started(&mut self, volume: &Volume, snapshot: &Snapshot, wait: Option<Duration>) -> EbsSnapshot {
        if let Some(wait) = wait {
            self.deadlines.insert(snapshot.id.clone(), self.location.clock.now() + wait);
        }
        self.progress.snapshots.fetch_add(1, Ordering::Relaxed);
        EbsSnapshot {
            snapshot_id: snapshot.id.clone(),
            volume_id: volume.id.clone(),
            size_gib: volume.size_gib,
            availability_zone: volume.availability_zone.clone(),
            volume_type: volume.volume_type.clone(),
            iops: volume.iops,
            throughput: volume.throughput,
            encrypted: snapshot.encrypted || volume.encrypted,
            kms_key_id: snapshot.kms_key_id.clone().or_else(|| volume.kms_key_id.clone()),
            tags: tags::fill(BTreeMap::new(), &volume.tags).0,
            state: State::Pending,
            started: snapshot.started.unwrap_or_else(jiff::Timestamp::now),
            completed: None,
        }
    }

    /// Records that only waiting is left: if this process dies, the next start commits `manifest`.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub fn captured(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.record.captured(manifest)
    }

    /// Waits until each snapshot has ended or its time is over; then it stays pending. Also ends on a stop, or if EC2 refuses to show the
    /// snapshots: they exist, and a later run looks again. Returns the first failure of an item.
    pub async fn settle(&mut self, manifest: &mut Manifest, stop: &CancellationToken) -> Option<(Name, Error)> {
        let mut misses: BTreeMap<SnapshotId, u32> = BTreeMap::new();
        let mut failed = None;
        for look in 0.. {
            let waited_for = self.waited_for(&manifest.items);
            self.metrics.snapshots_pending(self.earlier + waited_for.len());
            let Some(last) = waited_for.iter().map(|(_, deadline)| *deadline).max() else { break };
            let left = last.duration_since(self.location.clock.now());
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.location.clock.sleep(wait::LOOKS.pause(look, random()).min(left)) => {}
            }
            let ids: Vec<SnapshotId> = waited_for.into_iter().map(|(id, _)| id).collect();
            let seen = tokio::select! {
                () = stop.cancelled() => break,
                seen = wait::look(&*self.location.disks, &ids) => seen,
            };
            match seen {
                Ok(seen) => failed = failed.or(self.seen(&mut manifest.items, &ids, &seen, &mut misses)),
                Err(error) if error.class.retry() == Retry::No => {
                    tracing::error!(class = %error.class, %error, "could not look at the pending snapshots: they stay pending; a later run looks again");
                    break;
                }
                Err(error) => tracing::warn!(class = %error.class, %error, "could not list snapshots: trying again"),
            }
        }
        // After a stop, the next look at the record or a prune deletes them.
        if !stop.is_cancelled() {
            self.strays(manifest).await;
        }
        failed
    }

    /// The pending snapshots that are still waited for.
    fn waited_for(&self, items: &[Item]) -> Vec<(SnapshotId, Instant)> {
        let now = self.location.clock.now();
        let waited_for = |id: SnapshotId| Some((id.clone(), *self.deadlines.get(&id).filter(|at| **at > now)?));
        wait::pending_ids(items).into_iter().filter_map(waited_for).collect()
    }

    /// What a look at `asked` has seen; only those of them can be missing from it.
    fn seen(
        &self,
        items: &mut [Item],
        asked: &[SnapshotId],
        seen: &BTreeMap<SnapshotId, Snapshot>,
        misses: &mut BTreeMap<SnapshotId, u32>,
    ) -> Option<(Name, Error)> {
        misses.retain(|id, _| !seen.contains_key(id));
        let is_gone = |id: &SnapshotId| {
            if !asked.contains(id) {
                return false;
            }
            let in_a_row = misses.entry(id.clone()).or_default();
            *in_a_row += 1;
            *in_a_row >= MISSES
        };
        let mut failed = None;
        for (item, ended) in wait::settle(items, seen, is_gone, &self.metrics) {
            match ended {
                Seen::Completed(took) => {
                    tracing::info!(%item, took_s = took.as_secs(), "snapshot completed");
                    self.progress.completed.fetch_add(1, Ordering::Relaxed);
                }
                Seen::Failed(error) => {
                    failed.get_or_insert((item, error));
                }
            }
        }
        failed
    }

    /// Deletes snapshots of this backup that no item names: of a creation whose reply was lost, or failed ones.
    async fn strays(&self, manifest: &Manifest) {
        let named = named(manifest);
        let owner = self.record.saved.owner();
        match delete::all_but(&*self.location.disks, &owner, &named).await {
            Ok(deletion) => deletion.log(&owner),
            Err(error) => tracing::warn!(class = %error.class, %error, "could not delete snapshots that no item names"),
        }
    }

    /// Closes the session after the commit. The manifest in the store now overrules the record, which stays as long as a snapshot is
    /// pending.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub fn committed(self, manifest: &Manifest) -> Result<(), Error> {
        let pending = wait::pending_ids(&manifest.items).len();
        self.metrics.snapshots_pending(self.earlier + pending);
        if pending > 0 {
            tracing::warn!(backup = %manifest.id, pending, "snapshots are still pending: a later run completes the backup");
            return Ok(());
        }
        self.record.remove()
    }

    /// Deletes every snapshot of a backup that will not be committed. The record stays until all are deleted.
    pub async fn discard(mut self) {
        self.metrics.snapshots_pending(self.earlier);
        if self.creations == Creations::None {
            if let Err(error) = self.record.remove() {
                tracing::warn!(%error, "could not remove the snapshot record: the next run removes it");
            }
            return;
        }
        // If this is interrupted, the next start must not commit the backup.
        if let Err(error) = self.record.creating() {
            tracing::error!(class = %error.class(), %error, "could not change the snapshot record: if this process dies now, the next start may commit the failed backup");
        }
        let owner = self.record.saved.owner();
        match delete::all_but(&*self.location.disks, &owner, &BTreeSet::new()).await {
            Ok(deletion) => {
                deletion.log(&owner);
                if deletion.kept.is_empty()
                    && self.creations == Creations::Answered
                    && let Err(error) = self.record.remove()
                {
                    tracing::warn!(%error, "could not remove the snapshot record: the next run removes it");
                }
            }
            Err(error) => {
                tracing::error!(class = %error.class, %error, "could not delete the failed backup's snapshots: a later run deletes them");
            }
        }
    }
}

pub(super) fn named(manifest: &Manifest) -> BTreeSet<SnapshotId> {
    manifest.snapshots().map(|(_, snapshot)| snapshot.snapshot_id.clone()).collect()
}
