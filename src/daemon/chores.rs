//! Cleans up what earlier runs left at a location, and keeps locked what its backups need, when the location comes up and every hour from
//! then on; and thaws the pods that they left frozen, at the start and every hour.
//!
//! Skips a location that is down until it is up again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Daemon;
use super::runner::Searched;

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
    let mut last: HashMap<String, Instant> = HashMap::new();
    let mut searched: HashMap<String, Searched> = HashMap::new();
    loop {
        let locations = daemon.lock().locations.clone();
        last.retain(|name, _| locations.contains_key(name));
        searched.retain(|name, _| locations.contains_key(name));
        for (name, location) in locations {
            let due = last.get(&name).is_none_or(|at| at.elapsed() >= EVERY);
            if due && location.health().is_up() {
                last.insert(name.clone(), Instant::now());
                let (spared, jobs) = {
                    let inside = daemon.lock();
                    (inside.board.about_to_run(), inside.board.jobs_at(&name))
                };
                daemon.runner.chores(&location.open, &spared).await;
                let searched = searched.entry(name).or_default();
                daemon.runner.keep_locked(&location.open, &jobs, searched).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
