//! Replaces the configuration: whole, or not at all.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::history::About;
use super::state::State;
use super::{Daemon, admin, locations};
use crate::config::{Config, System};
use crate::error::{Classify as _, Report};

impl Daemon {
    /// Reads the file again, and the certificates that it names.
    pub(super) fn reload(&self, state: &State) -> Result<(), Report> {
        let result = self.try_reload(state);
        self.runner.process.metrics.config_reloaded(result.as_ref().map(drop).map_err(drop));
        if let Err(report) = &result {
            self.runner.history.failed(About::Configuration, "", report);
            tracing::error!("the configuration was refused: the old one stays in force");
            self.lock().refused = Some((Timestamp::now(), report.clone()));
        }
        result
    }

    fn try_reload(&self, state: &State) -> Result<(), Report> {
        let mut config = Config::load(&self.file, &System).map_err(|faults| faults.report())?;
        let tls = admin::Tls::load(&config.admin)?;
        let (old, opened) = {
            let inside = self.lock();
            (Arc::clone(&inside.config), inside.locations.clone())
        };
        let waiting = needs_restart(&old, &config);
        (config.cluster, config.node) = (old.cluster.clone(), old.node.clone());
        config.state_dir.clone_from(&old.state_dir);
        let opened = locations::open(&config, &opened, self.connect.as_ref(), &self.runner.process)?;
        // Nothing below can fail.
        for setting in waiting {
            tracing::warn!(setting, "the setting has changed: it takes effect at the next start");
        }
        (self.set_log_level)(config.log.level);
        self.tls.replace(tls);
        let config = Arc::new(config);
        let mut inside = self.lock();
        let gone = old.locations.keys().filter(|name| !config.locations.contains_key(*name));
        inside.left.extend(gone.cloned());
        inside.board.reconfigure(&config, Timestamp::now(), |job| state.load(job));
        (inside.loaded, inside.refused) = (Timestamp::now(), None);
        for (name, old) in std::mem::replace(&mut inside.locations, opened) {
            if !inside.locations.get(&name).is_some_and(|kept| Arc::ptr_eq(kept, &old)) {
                old.leave();
            }
        }
        inside.config = config;
        drop(inside);
        self.watch_locations();
        self.forget_left();
        tracing::info!("configuration reloaded");
        Ok(())
    }

    /// The files whose change causes a reload.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let config = Arc::clone(&self.lock().config);
        let named = admin::Tls::files(&config.admin).chain(locations::files(&config));
        std::iter::once(self.file.clone()).chain(named).collect()
    }
}

/// The changed settings that take effect only at the next start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("cluster", old.cluster != new.cluster),
        ("node", old.node != new.node),
        ("state_dir", old.state_dir != new.state_dir),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.socket", old.admin.socket != new.admin.socket),
        ("kubernetes", old.kubernetes != new.kubernetes),
        ("limits.bandwidth", old.limits.bandwidth != new.limits.bandwidth),
        ("limits.memory", old.limits.memory != new.limits.memory),
        ("limits.compression_threads", old.limits.compression_threads != new.limits.compression_threads),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(setting, _)| setting).collect()
}
