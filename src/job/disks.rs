//! A run's EBS snapshots: taken first, waited for last, and the manifest between.

use std::fmt;

use tokio_util::sync::CancellationToken;

use super::unlisted::{self, Unlisted};
use super::{CLEAN_UP_DEADLINE, Context, Error, Run, finish};
use crate::config::Ebs;
use crate::format::key::{BackupPrefix, Name};
use crate::format::manifest::{Manifest, Outcome};
use crate::snapshot::{Owner, Place, Records, Service, Session, recover};

/// What snapshots need of the process and the location.
#[derive(Clone)]
pub struct Snapshots {
    pub service: Service,
    pub records: Records,
    /// The location's name.
    pub location: String,
}

#[cfg(test)]
impl Snapshots {
    /// For runs without any.
    pub(crate) fn none() -> Self {
        let disks = crate::disks::memory::MemoryDisks::new([]);
        let service = Service::new(std::sync::Arc::new(disks));
        Self { service, records: Records::new(std::path::Path::new("/nonexistent")), location: "test".to_owned() }
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshots").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Context {
    fn recovery(&self) -> recover::Context<'_> {
        let Snapshots { service, records, location } = &self.snapshots;
        recover::Context {
            service,
            store: &*self.store,
            records,
            location,
            checksum: self.checksum,
            metrics: &self.metrics,
        }
    }
}

impl Run<'_> {
    /// Makes `manifest`, so far a beginning, a backup with snapshots in it, and commits it.
    pub(super) async fn with_snapshots(
        &mut self,
        backup: &BackupPrefix,
        manifest: &mut Manifest,
        volumes: &[(&Name, &Ebs)],
    ) -> Result<(), Error> {
        let context = self.context;
        let Snapshots { service, records, location } = &context.snapshots;
        let owner = Owner::of(manifest);
        let lock = records.lock(&manifest.job).map_err(Error::Snapshots)?;
        let pending = recover::job(context.recovery(), &lock).await;
        let place = Place { records, lock: &lock, location, prefix: &context.prefix, pending };
        let (metrics, progress) = (self.metrics.clone(), &self.progress.snapshots);
        let mut session = Session::begin(service, &place, &owner, metrics, progress).map_err(Error::Snapshots)?;
        let result = self.capture_and_wait(backup, manifest, &mut session, volumes).await;
        if let Err(error) = &result {
            if !error.is_final() {
                tracing::warn!("the snapshots stay with their record: the next run commits the backup, if it is not");
            } else if tokio::time::timeout(CLEAN_UP_DEADLINE, session.discard()).await.is_err() {
                tracing::error!("deleting the failed backup's snapshots timed out; a later run goes on with it");
            }
        } else if let Err(error) = session.committed(manifest) {
            tracing::warn!(%error, "the record of the snapshots stays; the next run removes it");
        }
        result
    }

    async fn capture_and_wait(
        &mut self,
        backup: &BackupPrefix,
        manifest: &mut Manifest,
        session: &mut Session<'_>,
        volumes: &[(&Name, &Ebs)],
    ) -> Result<(), Error> {
        let mut warnings = Vec::new();
        let taken = session.take(volumes, &mut warnings, &self.stop).await;
        manifest.items = taken.map_err(|_| Error::Cancelled)?;
        for warning in warnings {
            manifest.warnings.push(warning);
        }
        let why = "the volumes of its source could not be asked for";
        let unlisted = session.unlisted().iter().map(|source| Unlisted {
            source: source.clone(),
            place: unlisted::Place::Volumes,
            why: why.to_owned(),
        });
        let failed = self.items(backup, manifest, unlisted.collect()).await?;
        session.captured(manifest).map_err(Error::Snapshots)?;
        self.hooks.thaw(captured(manifest)).await;
        session.wait(&mut manifest.items, &self.stop).await;
        let of_snapshot = |(item, error)| Error::Snapshot { item, error: Box::new(error) };
        finish(manifest, failed.or_else(|| session.first_error().map(of_snapshot)))?;
        // Whatever ended the waiting, what is captured is committed.
        self.commit(&backup.manifest(), manifest, &CancellationToken::new()).await
    }
}

/// The manifest as the `after` hooks are told of it: a snapshot that has only to complete is captured.
fn captured(manifest: &Manifest) -> Manifest {
    let whole = manifest.warnings.count == 0 && !manifest.items.iter().any(|item| item.outcome == Outcome::Failure);
    Manifest { outcome: if whole { Outcome::Success } else { Outcome::Partial }, ..manifest.clone() }
}

#[cfg(test)]
mod tests;
