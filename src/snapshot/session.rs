//! The snapshots of one run: taken, waited for, and either committed with the manifest or discarded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::record::{Lock, Record};
use super::wait::{self, Seen};
use super::{Error, Owner, Records, create, delete, select, tags};
use crate::backoff::random;
use crate::config::{Ebs, OnNoMatch};
use crate::disks::{Snapshot, Volume};
use crate::error::{Classify as _, Retry};
use crate::format::ebs::{EbsSnapshot, SnapshotId, State, VolumeId};
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, Outcome, SourceDescription, Warning};
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
    first_error: Option<(Name, Error)>,
    /// Sources whose volumes could not be asked for.
    unlisted: Vec<Name>,
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
        Ok(Self {
            location,
            record,
            metrics,
            earlier,
            progress,
            deadlines: BTreeMap::new(),
            cut_off: false,
            first_error: None,
            unlisted: Vec::new(),
        })
    }

    /// An item for each volume of the sources, pending or failed; and for each source that could not be had, one of its name.
    ///
    /// # Errors
    /// Only when cancelled: [`Session::discard`] then.
    pub async fn take(
        &mut self,
        sources: &[(&Name, &Ebs)],
        warnings: &mut Vec<Warning>,
        stop: &CancellationToken,
    ) -> Result<Vec<Item>, Error> {
        let (mut items, mut taken) = (Vec::new(), BTreeSet::new());
        for (name, ebs) in sources {
            let selection = tokio::select! {
                () = stop.cancelled() => return Err(Error::Cancelled),
                selection = select::select(&*self.location.disks, ebs) => selection,
            };
            match selection {
                Ok(mut selection) => {
                    self.none_selected(name, ebs, &selection, &mut items, warnings);
                    // What an earlier source has taken is there already.
                    selection.volumes.retain(|volume| taken.insert(volume.id.clone()));
                    selection.unusable.retain(|(volume, _)| taken.insert(volume.clone()));
                    self.of_source(name, ebs, selection, &mut items, stop).await?;
                }
                Err(error) => {
                    self.unlisted.push((*name).clone());
                    items.push(self.failed((*name).clone(), "the job's configuration", error.into()));
                }
            }
        }
        Ok(items)
    }

    /// A source that selects nothing is what its configuration says it is.
    fn none_selected(
        &mut self,
        name: &Name,
        ebs: &Ebs,
        selection: &select::Selection,
        items: &mut Vec<Item>,
        warnings: &mut Vec<Warning>,
    ) {
        let select::Selection { volumes, missing, unusable, .. } = selection;
        if !(volumes.is_empty() && missing.is_empty() && unusable.is_empty()) {
            return;
        }
        let error = Error::Nothing { source_name: name.clone(), selection: format!("is {}", selection.reason) };
        match ebs.on_no_match {
            OnNoMatch::Error => items.push(self.failed(name.clone(), &selection.reason, error)),
            OnNoMatch::Warn => {
                tracing::warn!(source = %name, "{error}");
                warnings.push(Warning { item: name.clone(), path: String::new(), message: error.to_string() });
            }
            OnNoMatch::Ignore => {}
        }
    }

    async fn of_source(
        &mut self,
        name: &Name,
        ebs: &Ebs,
        selection: select::Selection,
        items: &mut Vec<Item>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let select::Selection { volumes, missing, unusable, reason } = selection;
        tracing::info!(source = %name, volumes = volumes.len(), "volumes {reason}");
        for volume in missing {
            let item = item_name(name, &volume);
            items.push(self.failed(item, &reason, Error::NoVolume(volume)));
        }
        for (volume, state) in unusable {
            let item = item_name(name, &volume);
            items.push(self.failed(item, &reason, Error::Unusable { volume, state }));
        }
        self.cut_off = true;
        let created = create::all(self.location, &self.record.saved.owner(), ebs, &volumes, stop).await?;
        self.cut_off = false;
        for (volume, created) in volumes.iter().zip(created) {
            let item = item_name(name, &volume.id);
            items.push(match created {
                Ok(snapshot) => self.pending(item, &reason, volume, &snapshot, ebs.wait),
                Err(error) => self.failed(item, &reason, error),
            });
        }
        Ok(())
    }

    fn pending(
        &mut self,
        name: Name,
        reason: &str,
        volume: &Volume,
        snapshot: &Snapshot,
        wait: Option<Duration>,
    ) -> Item {
        tracing::info!(item = %name, volume = %volume.id, snapshot = %snapshot.id, "snapshot started");
        if let Some(wait) = wait {
            self.deadlines.insert(snapshot.id.clone(), self.location.clock.now() + wait);
        }
        self.progress.snapshots.fetch_add(1, Ordering::Relaxed);
        let recorded = EbsSnapshot {
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
        };
        Item {
            name,
            source: SourceDescription::Ebs { selected_by: reason.to_owned() },
            outcome: Outcome::Partial,
            error: None,
            labels: tags::labels(&volume.tags),
            content: Content::EbsSnapshot { snapshot: Some(recorded) },
        }
    }

    fn failed(&mut self, name: Name, reason: &str, error: Error) -> Item {
        let report = error.report();
        tracing::error!(item = %name, class = %report.class, remedy = report.remedy, %error, "the item failed");
        self.metrics.snapshot_ended(Outcome::Failure, Some(report.class), None);
        self.first_error.get_or_insert((name.clone(), error));
        Item {
            name,
            source: SourceDescription::Ebs { selected_by: reason.to_owned() },
            outcome: Outcome::Failure,
            error: Some(report),
            labels: BTreeMap::new(),
            content: Content::EbsSnapshot { snapshot: None },
        }
    }

    /// The first failure of an item, to be told where nothing is committed.
    pub fn first_error(&mut self) -> Option<(Name, Error)> {
        self.first_error.take()
    }

    /// The sources of which nobody knows what volumes they have.
    #[must_use]
    pub fn unlisted(&self) -> &[Name] {
        &self.unlisted
    }

    /// Writes down that only waiting is left: should this process die, the next start commits `manifest`.
    ///
    /// # Errors
    /// When the state directory cannot be written to.
    pub fn captured(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.record.captured(manifest)
    }

    /// Waits until each snapshot has ended or its time is over; those of the latter kind stay pending. A stop ends the waiting, as
    /// does a refusal to show the snapshots: they are there, and a later run looks again.
    pub async fn wait(&mut self, items: &mut [Item], stop: &CancellationToken) {
        let mut misses: BTreeMap<SnapshotId, u32> = BTreeMap::new();
        for look in 0.. {
            let waited_for = self.waited_for(items);
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
                Ok(seen) => self.settle(items, &seen, &mut misses),
                Err(error) if error.class.retry() == Retry::No => {
                    tracing::error!(class = %error.class, %error, "the snapshots cannot be looked at: they stay pending");
                    break;
                }
                Err(error) => tracing::warn!(class = %error.class, %error, "the snapshots are looked at again later"),
            }
        }
        // Whoever is asked to stop leaves this to the next look at the record, or to pruning.
        if !stop.is_cancelled() {
            self.strays(items).await;
        }
    }

    /// The pending snapshots whose time is not over.
    fn waited_for(&self, items: &[Item]) -> Vec<(SnapshotId, Instant)> {
        let now = self.location.clock.now();
        let waited_for = |id: SnapshotId| Some((id.clone(), *self.deadlines.get(&id).filter(|at| **at > now)?));
        wait::pending_ids(items).into_iter().filter_map(waited_for).collect()
    }

    fn settle(
        &mut self,
        items: &mut [Item],
        seen: &BTreeMap<SnapshotId, Snapshot>,
        misses: &mut BTreeMap<SnapshotId, u32>,
    ) {
        for item in items {
            let Some(id) = wait::pending(item).map(|snapshot| snapshot.snapshot_id.clone()) else { continue };
            if !self.deadlines.contains_key(&id) {
                continue;
            }
            let ended = if let Some(snapshot) = seen.get(&id) {
                misses.remove(&id);
                wait::settle(item, snapshot, jiff::Timestamp::now())
            } else {
                let in_a_row = misses.entry(id.clone()).or_default();
                *in_a_row += 1;
                if *in_a_row < MISSES {
                    continue;
                }
                let error = Error::Gone(id);
                wait::fail(item, &error);
                Seen::Failed(error)
            };
            match ended {
                Seen::Pending => {}
                Seen::Completed(took) => {
                    tracing::info!(item = %item.name, took_s = took.as_secs(), "snapshot completed");
                    self.progress.completed.fetch_add(1, Ordering::Relaxed);
                    self.metrics.snapshot_ended(Outcome::Success, None, Some(took));
                }
                Seen::Failed(error) => {
                    self.metrics.snapshot_ended(Outcome::Failure, Some(error.class()), None);
                    self.first_error.get_or_insert((item.name.clone(), error));
                }
            }
        }
    }

    /// Deletes what this backup created and its items do not name: a creation whose reply was lost, a snapshot that failed.
    async fn strays(&self, items: &[Item]) {
        let named = named(items);
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

pub(super) fn named(items: &[Item]) -> BTreeSet<SnapshotId> {
    let named = items.iter().filter_map(|item| match &item.content {
        Content::EbsSnapshot { snapshot } => snapshot.as_ref().map(|snapshot| snapshot.snapshot_id.clone()),
        Content::Stream { .. } => None,
    });
    named.collect()
}

fn item_name(source: &Name, volume: &VolumeId) -> Name {
    Name::new(format!("{source}-{volume}")).expect("the configuration leaves room for a volume's ID")
}
