//! Captures EBS volumes, with a record in the state directory that outlives a crash.

use super::plan::{Capture, Planned};
use super::{CLEAN_UP_DEADLINE, Error, Run};
use crate::disks::Volume;
use crate::format::manifest::{Content, Item, Manifest, Outcome};
use crate::snapshot::{self, Lock, Session, recover};

impl<'a> Run<'a> {
    /// Recovers the records of earlier runs, and begins this run's record.
    ///
    /// # Errors
    /// When cancelled, or the state directory cannot be written to: there is no record then.
    pub(super) async fn session<'s>(&self, lock: &'s Lock) -> Result<Session<'s>, Error>
    where
        'a: 's,
    {
        let pending = recover::job(&self.location.until(&self.stop), lock).await;
        if self.stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Session::begin(self.location, lock, &self.owner, pending, &self.progress.snapshots).map_err(Error::Snapshots)
    }

    /// Begins the snapshots, one source at a time. Adds their items, pending or failed, to `items`.
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

/// Closes a run's record according to the run's result.
pub(super) async fn end(session: Session<'_>, manifest: &Manifest, result: &Result<(), Error>) {
    match result {
        Ok(()) => {
            if let Err(error) = session.committed(manifest) {
                tracing::warn!(%error, "could not remove the record of the snapshots: the next run removes it");
            }
        }
        Err(error) if !error.is_final() => {
            tracing::warn!("the backup may not be committed: its snapshots and their record stay for the next run");
        }
        Err(_) => {
            if tokio::time::timeout(CLEAN_UP_DEADLINE, session.discard()).await.is_err() {
                tracing::error!("could not delete the failed backup's snapshots in time: a later run deletes them");
            }
        }
    }
}

#[cfg(test)]
mod tests;
