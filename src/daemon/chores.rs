//! What is done besides the jobs, when a location comes up and every hour from then on: looking after what earlier runs left there.
//!
//! A location that is down is not asked; it has its turn when it is up again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Daemon;

/// Between two rounds at a location.
const EVERY: Duration = Duration::from_hours(1);

/// How soon a location that has come up has its turn.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Until the daemon stops.
pub(super) async fn run(daemon: Arc<Daemon>) {
    let stop = daemon.stop.clone();
    let _ = stop.run_until_cancelled(rounds(daemon)).await;
}

async fn rounds(daemon: Arc<Daemon>) {
    let mut last: HashMap<String, Instant> = HashMap::new();
    loop {
        let locations = daemon.lock().locations.clone();
        last.retain(|name, _| locations.contains_key(name));
        for (name, location) in locations {
            let due = last.get(&name).is_none_or(|at| at.elapsed() >= EVERY);
            if due && location.health().is_up() {
                last.insert(name, Instant::now());
                let spared = daemon.lock().board.about_to_run();
                daemon.runner.chores(&location.open, &spared).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
