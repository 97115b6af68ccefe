//! The snapshots of one run: taken, waited for, and either committed with the manifest or discarded.

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

/// A snapshot that so many looks in a row do not show is gone. By then minutes have passed, and EC2 shows new ones within seconds.
const MISSES: u32 = 7;

/// What a status page reads at any time.
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
    /// Until when each pending snapshot is waited for; those that are not waited for are not in it.
    deadlines: BTreeMap<SnapshotId, Instant>,
    /// A creation was cut off: its snapshot may appear later than anything that is deleted now.
    cut_off: bool,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("record", &self.record).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// Writes the record; nothing is asked of EC2 yet. Of the job's earlier backups `earlier` snapshots are pending still.
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
        Ok(Self { location, record, metrics, earlier, progress, deadlines: BTreeMap::new(), cut_off: false })
    }

    /// Begins a snapshot of each volume.
    ///
    /// # Errors
    /// Only when cancelled: [`Session::discard`] then.
    pub async fn capture(
        &mut self,
        ebs: &Ebs,
        volumes: &[&Volume],
        stop: &CancellationToken,
    ) -> Result<Vec<Result<EbsSnapshot, Error>>, Error> {
        self.cut_off = true;
        let created = create::all(self.location, &self.record.saved.owner(), ebs, volumes, stop).await?;
        self.cut_off = false;
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

    /// Writes down that only waiting is left: should this process die, the next start commits `manifest`.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub fn captured(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.record.captured(manifest)
    }

    /// Waits until each snapshot has ended or its time is over; those of the latter kind stay pending. A stop ends the waiting, as
    /// does a refusal to show the snapshots: they are there, and a later run looks again. Returns the first failure of an item.
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
                Ok(seen) => failed = failed.or(self.seen(&mut manifest.items, &seen, &mut misses)),
                Err(error) if error.class.retry() == Retry::No => {
                    tracing::error!(class = %error.class, %error, "the snapshots cannot be looked at: they stay pending");
                    break;
                }
                Err(error) => tracing::warn!(class = %error.class, %error, "the snapshots are looked at again later"),
            }
        }
        // Whoever is asked to stop leaves this to the next look at the record, or to pruning.
        if !stop.is_cancelled() {
            self.strays(manifest).await;
        }
        failed
    }

    /// The pending snapshots whose time is not over.
    fn waited_for(&self, items: &[Item]) -> Vec<(SnapshotId, Instant)> {
        let now = self.location.clock.now();
        let waited_for = |id: SnapshotId| Some((id.clone(), *self.deadlines.get(&id).filter(|at| **at > now)?));
        wait::pending_ids(items).into_iter().filter_map(waited_for).collect()
    }

    fn seen(
        &self,
        items: &mut [Item],
        seen: &BTreeMap<SnapshotId, Snapshot>,
        misses: &mut BTreeMap<SnapshotId, u32>,
    ) -> Option<(Name, Error)> {
        misses.retain(|id, _| !seen.contains_key(id));
        let is_gone = |id: &SnapshotId| {
            let in_a_row = misses.entry(id.clone()).or_default();
            *in_a_row += 1;
            *in_a_row >= MISSES && self.deadlines.contains_key(id)
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

    /// Deletes what this backup created and its items do not name: a creation whose reply was lost, a snapshot that failed.
    async fn strays(&self, manifest: &Manifest) {
        let named = named(manifest);
        let owner = self.record.saved.owner();
        match delete::all_but(&*self.location.disks, &owner, &named).await {
            Ok(deletion) => deletion.log(&owner),
            Err(error) => tracing::warn!(class = %error.class, %error, "snapshots that no item names may be left"),
        }
    }

    /// The manifest is committed. The record, which the manifest in the store now overrules, stays for as long as a snapshot is
    /// pending.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub fn committed(self, manifest: &Manifest) -> Result<(), Error> {
        let pending = wait::pending_ids(&manifest.items).len();
        self.metrics.snapshots_pending(self.earlier + pending);
        if pending > 0 {
            tracing::warn!(backup = %manifest.id, pending, "snapshots are still pending: a later run finishes the record");
            return Ok(());
        }
        self.record.remove()
    }

    /// Nothing will be committed: deletes every snapshot of this backup. What cannot be deleted now is what the record is for.
    pub async fn discard(mut self) {
        self.metrics.snapshots_pending(self.earlier);
        // Should this be cut off, the next start must not commit what is going to be deleted.
        if let Err(error) = self.record.creating() {
            tracing::error!(class = %error.class(), %error, "the record of the snapshots cannot be changed");
        }
        let owner = self.record.saved.owner();
        match delete::all_but(&*self.location.disks, &owner, &BTreeSet::new()).await {
            Ok(deletion) => {
                deletion.log(&owner);
                if deletion.kept.is_empty()
                    && !self.cut_off
                    && let Err(error) = self.record.remove()
                {
                    tracing::warn!(%error, "the record stays");
                }
            }
            Err(error) => {
                tracing::error!(class = %error.class, %error, "the failed backup's snapshots are left; a later run deletes them");
            }
        }
    }
}

pub(super) fn named(manifest: &Manifest) -> BTreeSet<SnapshotId> {
    manifest.snapshots().map(|(_, snapshot)| snapshot.snapshot_id.clone()).collect()
}
