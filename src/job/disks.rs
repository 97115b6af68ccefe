//! A run's EBS snapshots: taken first, waited for last, and the manifest between.

use std::fmt;

use super::{CLEAN_UP_DEADLINE, Context, Error, Run};
use crate::config::Ebs;
use crate::format::key::Name;
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
    /// Looks after what earlier runs at this location left: pending snapshots, and those of runs that died. To be called at
    /// start and now and then; a run does it for its own job.
    pub async fn recover_snapshots(&self) {
        recover::all(self.recovery()).await;
    }

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
    /// A backup with snapshots in it.
    pub(super) async fn with_snapshots(
        &mut self,
        owner: &Owner,
        started: jiff::Timestamp,
        volumes: &[(&Name, &Ebs)],
    ) -> Result<crate::format::manifest::Manifest, Error> {
        let context = self.context;
        let Snapshots { service, records, location } = &context.snapshots;
        let lock = records.lock(&owner.chain.job).map_err(Error::Snapshots)?;
        recover::job(context.recovery(), &lock).await;
        let place = Place { records, lock: &lock, location, prefix: &context.prefix };
        let (metrics, progress) = (self.metrics.clone(), &self.progress.snapshots);
        let mut session = Session::begin(service, &place, owner, metrics, progress).map_err(Error::Snapshots)?;
        let result = self.assemble(owner, started, Some((&mut session, volumes))).await;
        match &result {
            Ok(manifest) => {
                if let Err(error) = session.committed(manifest) {
                    tracing::warn!(%error, "the record of the snapshots stays; the next run removes it");
                }
            }
            Err(_) => {
                if tokio::time::timeout(CLEAN_UP_DEADLINE, session.discard()).await.is_err() {
                    tracing::error!("deleting the failed backup's snapshots timed out; a later run goes on with it");
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests;
