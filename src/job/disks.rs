//! The capture of EBS volumes, and the record of it that outlives a crash.

use super::plan::{Capture, Planned};
use super::{CLEAN_UP_DEADLINE, Error, Run};
use crate::disks::Volume;
use crate::format::manifest::{Content, Item, Manifest, Outcome};
use crate::snapshot::{self, Lock, Session, recover};

impl<'a> Run<'a> {
    /// Looks after what earlier runs left, and begins this run's record.
    pub(super) async fn session<'s>(&self, lock: &'s Lock) -> Result<Session<'s>, Error>
    where
        'a: 's,
    {
        let pending = recover::job(&self.location.until(&self.stop), lock).await;
        Session::begin(self.location, lock, &self.owner, pending, &self.progress.snapshots).map_err(Error::Snapshots)
    }

    /// Begins the snapshots, those of one source at a time. The items are pending or failed.
    pub(super) async fn capture(
        &mut self,
        snapshots: &[Planned<Capture<'_>>],
        session: &mut Session<'_>,
        items: &mut Vec<Item>,
    ) -> Result<(), Error> {
        for of_source in snapshots.chunk_by(|one, next| std::ptr::eq(one.step.ebs, next.step.ebs)) {
            let volumes: Vec<&Volume> = of_source.iter().map(|planned| &planned.step.volume).collect();
            let captured = session.capture(of_source[0].step.ebs, &volumes, &self.stop).await;
            for (planned, captured) in of_source.iter().zip(captured.map_err(|_| Error::Cancelled)?) {
                let Planned { name, description, step: Capture { volume, .. } } = planned;
                items.push(match captured {
                    Ok(snapshot) => {
                        tracing::info!(item = %name, volume = %volume.id, snapshot = %snapshot.snapshot_id, "snapshot started");
                        let (outcome, labels) = (Outcome::Partial, snapshot::labels(&volume.tags));
                        let content = Content::EbsSnapshot { snapshot: Some(snapshot) };
                        Item { outcome, labels, ..Item::new(name.clone(), description.clone(), content) }
                    }
                    Err(error) => self.failed(name.clone(), description.clone(), error.into()),
                });
            }
        }
        Ok(())
    }
}

/// Ends a run's record as the run ended.
pub(super) async fn end(session: Session<'_>, manifest: &Manifest, result: &Result<(), Error>) {
    match result {
        Ok(()) => {
            if let Err(error) = session.committed(manifest) {
                tracing::warn!(%error, "the record of the snapshots stays; the next run removes it");
            }
        }
        Err(error) if !error.is_final() => {
            tracing::warn!("the snapshots stay with their record: the next run commits the backup, if it is not");
        }
        Err(_) => {
            if tokio::time::timeout(CLEAN_UP_DEADLINE, session.discard()).await.is_err() {
                tracing::error!("deleting the failed backup's snapshots timed out; a later run goes on with it");
            }
        }
    }
}

#[cfg(test)]
mod tests;
