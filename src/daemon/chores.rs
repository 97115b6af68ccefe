//! Cleans up what earlier runs left at a location, and keeps locked what its backups need, when the location comes up and every hour from
//! then on; and thaws the pods that they left frozen, at the start and every hour.
//!
//! Skips a location that is down until it is up again. A round that finds nothing to do makes no request, but for one search a day
//! (docs/decisions/0094).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Daemon;
use super::locations::Location;
use super::runner::{Runner, Searched};
use crate::config;
use crate::format::key::Name;

/// Between two rounds at a location.
const EVERY: Duration = Duration::from_hours(1);

/// A location that has come up is cleaned up within this time.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Runs until the daemon stops.
pub(super) async fn run(daemon: Arc<Daemon>) {
    let stop = daemon.stop.clone();
    let both = Box::pin(async { tokio::join!(rounds(Arc::clone(&daemon)), thaws(daemon)) });
    let _ = stop.run_until_cancelled(both).await;
}

/// Whether a location is up does not matter to a pod that is frozen.
async fn thaws(daemon: Arc<Daemon>) {
    loop {
        daemon.runner.thaw().await;
        tokio::time::sleep(EVERY).await;
    }
}

async fn rounds(daemon: Arc<Daemon>) {
    let mut places: HashMap<String, Place> = HashMap::new();
    loop {
        let locations = daemon.lock().locations.clone();
        places.retain(|name, _| locations.contains_key(name));
        for (name, location) in locations {
            let place = places.entry(name.clone()).or_default();
            if place.is_due(&location) {
                let (spared, jobs) = {
                    let inside = daemon.lock();
                    (inside.board.about_to_run(), inside.board.jobs_at(&name))
                };
                place.come_round(&daemon.runner, &location, &spared, &jobs).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What was done last at a location.
#[derive(Default)]
struct Place {
    last: Option<Instant>,
    searched: Searched,
}

impl Place {
    fn is_due(&self, location: &Location) -> bool {
        let now = location.open.clock.now();
        self.last.is_none_or(|at| now.duration_since(at) >= EVERY) && location.health().is_up()
    }

    async fn come_round(
        &mut self,
        runner: &Runner,
        location: &Location,
        spared: &BTreeSet<Name>,
        jobs: &[Arc<config::Job>],
    ) {
        self.last = Some(location.open.clock.now());
        runner.chores(&location.open, spared, &mut self.searched).await;
        runner.keep_locked(&location.open, jobs, &mut self.searched).await;
    }
}

#[cfg(test)]
mod tests;
