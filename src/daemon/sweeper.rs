//! Ends uploads that an earlier process left: when the daemon starts, and every hour.
//!
//! An upload that a run of this daemon works on is alive, and not touched ([`crate::upload::sweep`]). What cannot be ended is in the log and
//! in `interrupted_uploads`, and is tried again an hour later.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Daemon;
use crate::upload::sweep::{self, Mode, Place};

const EVERY: Duration = Duration::from_secs(3600);

pub(super) async fn run(daemon: Arc<Daemon>, state_dir: PathBuf) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = daemon.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let places = daemon.places();
        tokio::select! {
            () = daemon.stop.cancelled() => return,
            swept = sweep::sweep(&state_dir, &places, Mode::Abort) => match swept {
                Ok(swept) if swept.is_empty() => {}
                Ok(swept) => tracing::info!(uploads = swept.len(), "swept interrupted uploads"),
                Err(error) => tracing::error!(%error, "interrupted uploads could not be swept"),
            }
        }
    }
}

impl Daemon {
    fn places(&self) -> Vec<Place> {
        let inside = self.lock();
        let place = |location: &Arc<super::locations::Location>| Place {
            location: location.config.name.clone(),
            bucket: location.config.bucket.clone(),
            prefix: location.config.prefix.clone(),
            cluster: inside.config.cluster.clone(),
            node: inside.config.node.clone(),
            store: location.remote.store(),
            endpoint: location.endpoint.clone(),
        };
        inside.locations.values().map(place).collect()
    }
}
