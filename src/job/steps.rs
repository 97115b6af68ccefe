//! Runs the steps of a backup, in this order.
//!
//! 1. **Capture**: the volumes of each `ebs` source are listed, and their snapshots are begun ([`super::disks`]). This is the first step,
//!    because what `before` froze stays frozen until then.
//! 2. **Resolve**: each other source lists its items ([`super::kinds`]).
//! 3. **Stream**: trees, files and the output of commands are read and stored ([`super::item`]).
//! 4. **Thaw**: `after` runs now if snapshots are pending, since everything is captured. Otherwise it runs after the commit.
//! 5. **Settle**: waits for the snapshots.
//! 6. **Lock**: in a location that locks objects, extends the locks of what the backup refers to ([`super::locks`]).
//! 7. **Commit**: writes the manifest.
//!
//! A job that saves the volumes of pods has a round in the place of 1 to 3 ([`super::claims`]).
//!
//! A failure in a step fails its item; only one that would fail the other items too fails the run.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::failure::Failed;
use super::plan::{Open, Plan, Planned};
use super::tally::Tally;
use super::{Error, Run, Streaming, failed_item, kinds, parent};
use crate::error::Classify as _;
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, Moment, Outcome, SourceDescription, Stream};
use crate::location::Location;
use crate::snapshot::{Owner, Records, Session};

impl<'a> Run<'a> {
    pub(super) async fn backup(&mut self) -> Result<Manifest, Error> {
        let Owner { chain, id } = self.owner.clone();
        let mut manifest = Manifest { outcome: Outcome::Partial, ..Manifest::new(chain, id, self.started) };
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.check_plain()).await.ok_or(Error::Cancelled)??;
        tracing::info!("backup started");
        let records = Records::new(&self.location.process.state_dir);
        let lock = kinds::has_snapshots(self.spec).then(|| records.lock(&self.spec.job)).transpose();
        let lock = lock.map_err(Error::Snapshots)?;
        let mut session = match &lock {
            Some(lock) => Some(self.session(lock).await?),
            None => None,
        };
        let result = self.steps(&mut manifest, session.as_mut()).await;
        if let Some(session) = session {
            super::disks::end(session, &manifest, &result).await;
        }
        result?;
        tracing::info!(outcome = manifest.outcome.as_str(), "backup committed");
        Ok(manifest)
    }

    async fn steps(&mut self, manifest: &mut Manifest, mut session: Option<&mut Session<'_>>) -> Result<(), Error> {
        let Location { disks, process, .. } = self.location;
        let (spec, stop, mut plan) = (self.spec, self.stop.clone(), Plan::default());
        self.lock = self.location.new_lock().await?;
        if let Some(session) = session.as_deref_mut() {
            let volumes = kinds::volumes(spec, &**disks, &mut plan);
            stop.run_until_cancelled(volumes).await.ok_or(Error::Cancelled)?;
            self.capture(&plan.snapshots, session, &mut manifest.items).await?;
        }
        if let Some((source, claims)) = kinds::claims(spec) {
            self.round(source, claims, manifest).await?;
            self.name_parent(manifest);
            return self.conclude(manifest, &stop).await;
        }
        let streams = kinds::streams(spec, &process.cluster, &self.progress.objects, &mut plan);
        stop.run_until_cancelled(streams).await.ok_or(Error::Cancelled)??;
        let Plan { streams, failed, unlisted, warnings, snapshots, .. } = plan;
        self.is_only = streams.len() + failed.len() + snapshots.len() == 1 && unlisted.is_empty();
        for (source, message) in warnings {
            let mut tally = self.tally(&source);
            tally.warn("", message);
            manifest.warnings.append(tally.warnings);
        }
        for planned in streams {
            self.stream(planned, manifest).await?;
        }
        for Planned { name, description, step } in failed {
            manifest.items.push(self.failed(name, description, step));
        }
        self.add_lost(&unlisted, manifest).await?;
        self.name_parent(manifest);
        let mut stop = self.stop.clone();
        if let Some(session) = session {
            self.seal(manifest)?;
            session.captured(manifest).map_err(Error::Snapshots)?;
            let class = failed_item(manifest).map(|report| report.class);
            self.hooks.thaw(manifest.judge(Moment::Captured), class).await;
            let failed = session.settle(manifest, &self.stop).await;
            let failed = failed.map(|(item, error)| Error::Item { item, error: error.into() });
            self.first_failure = self.first_failure.take().or(failed);
            // However the waiting ended, the captured items are committed.
            stop = CancellationToken::new();
        }
        self.conclude(manifest, &stop).await
    }

    /// Locks what the backup needs, seals what is secret, and commits.
    pub(super) async fn conclude(&mut self, manifest: &mut Manifest, stop: &CancellationToken) -> Result<(), Error> {
        self.lock_all(manifest, stop).await?;
        self.seal(manifest)?;
        self.finish(manifest)?;
        // The run may have taken days.
        let lock = self.location.new_lock().await?;
        let version = self.commit(manifest, lock, stop).await?;
        self.note_lock(version.as_ref(), lock);
        Ok(())
    }

    /// Streams one item, and adds it and its warnings to the manifest.
    async fn stream(&mut self, planned: Planned<Open<'_>>, manifest: &mut Manifest) -> Result<(), Error> {
        let Planned { name, description, step: open } = planned;
        let (result, tally) = self.streamed(&name, &description, &open).await;
        let Tally { warnings, record: kubernetes, .. } = tally;
        manifest.items.push(match result {
            Ok(stream) => {
                let content = Content::Stream { stream: Some(stream) };
                Item { outcome: warnings.outcome(), kubernetes, ..Item::new(name, description, content) }
            }
            Err(Error::Item { error, .. }) => self.failed(name, description, error),
            Err(error) => return Err(error),
        });
        manifest.warnings.append(warnings);
        Ok(())
    }

    /// Streams one item. Returns its warnings too, however that ends.
    pub(super) async fn streamed(
        &mut self,
        name: &Name,
        description: &SourceDescription,
        open: &Open<'_>,
    ) -> (Result<Stream, Error>, Tally<'a>) {
        let tally = self.tally(name);
        let mut streaming = Streaming { run: self, tally };
        let result = streaming.store(description, open).await;
        (result, streaming.tally)
    }

    /// Names the newest backup that an item references.
    pub(super) fn name_parent(&self, manifest: &mut Manifest) {
        manifest.parent = self.parent.as_ref().map(|parent| parent.manifest.id.clone());
        manifest.base = self.parent.as_ref().map(|parent| parent::base(&parent.manifest).clone());
    }

    /// Makes a failed item. The first failure becomes the run's, if every item fails.
    pub(super) fn failed(&mut self, name: Name, source: SourceDescription, error: Failed) -> Item {
        let error = Error::Item { item: name.clone(), error };
        let mut report = error.report();
        if let Error::Item { error: Failed::Snapshot(snapshot), .. } = &error {
            self.metrics.snapshot_ended(Outcome::Failure, Some(report.class), None);
            report.message = snapshot.to_string();
        }
        // Of a run's only item the failure is the run's, which the caller reports.
        if !self.is_only {
            tracing::error!(item = %name, class = %report.class, remedy = report.remedy, %error, "item failed: the backup does not contain it");
        }
        self.first_failure.get_or_insert(error);
        let content = Content::none(&source);
        Item { outcome: Outcome::Failure, error: Some(report), ..Item::new(name, source, content) }
    }

    /// Sets the manifest's finish time and outcome. Returns the first failure if every item failed.
    fn finish(&mut self, manifest: &mut Manifest) -> Result<(), Error> {
        if manifest.items.iter().all(|item| item.outcome == Outcome::Failure)
            && let Some(error) = self.first_failure.take()
        {
            return Err(error);
        }
        manifest.finished = Timestamp::now();
        manifest.outcome = manifest.judge(Moment::Settled);
        Ok(())
    }
}
