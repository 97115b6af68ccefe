//! A run's EBS snapshots: taken first, waited for last, and the manifest between.

use tokio_util::sync::CancellationToken;

use super::unlisted::{self, Unlisted};
use super::{CLEAN_UP_DEADLINE, Error, Run, finish};
use crate::config::Ebs;
use crate::format::key::{BackupPrefix, Name};
use crate::format::manifest::{Manifest, Outcome};
use crate::snapshot::{Owner, Records, Session, recover};

impl Run<'_> {
    /// Makes `manifest`, so far a beginning, a backup with snapshots in it, and commits it.
    pub(super) async fn with_snapshots(
        &mut self,
        backup: &BackupPrefix,
        manifest: &mut Manifest,
        volumes: &[(&Name, &Ebs)],
    ) -> Result<(), Error> {
        let location = self.location;
        let owner = Owner::of(manifest);
        let lock = Records::new(&location.process.state_dir).lock(&manifest.job).map_err(Error::Snapshots)?;
        let pending = recover::job(&location.until(&self.stop), &lock).await;
        let session = Session::begin(location, &lock, &owner, pending, &self.progress.snapshots);
        let mut session = session.map_err(Error::Snapshots)?;
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
