//! Resources that all work in the process shares: memory, threads, metrics, the client of its cluster, and the state directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::budget::{Budget, RunMemory};
use crate::cluster;
use crate::config::Config;
use crate::format::key::Chain;
use crate::metrics::Metrics;

/// Cheap to clone; all clones are one process.
#[derive(Debug, Clone)]
pub struct Process {
    pub budget: Budget,
    pub metrics: Metrics,
    /// Has the journal of uploads and the records of snapshots.
    pub state_dir: PathBuf,
    pub cluster: cluster::Shared,
    /// The volumes of pods that threads of this process read.
    pub reading: Reading,
    threads: Arc<Threads>,
    /// Kept until the process ends, if it is one command.
    _memory: Option<Arc<RunMemory>>,
}

/// What threads read that nobody waits for: a mount that does not answer keeps its thread, and must not be given another one.
#[derive(Debug, Clone, Default)]
pub struct Reading(Arc<Mutex<BTreeMap<Chain, Weak<()>>>>);

impl Reading {
    /// `None` while a thread that an earlier call was for still has its mark. The thread takes the mark along, and drops it at its end.
    #[must_use]
    pub fn begin(&self, what: &Chain) -> Option<Arc<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, mark| mark.strong_count() > 0);
        if all.contains_key(what) {
            return None;
        }
        let mark = Arc::new(());
        all.insert(what.clone(), Arc::downgrade(&mark));
        Some(mark)
    }
}

/// The compression threads. They exist while a run uses them: an idle daemon has none.
#[derive(Debug)]
struct Threads {
    count: usize,
    pool: Mutex<Weak<rayon::ThreadPool>>,
}

impl Process {
    /// `memory` is the bytes of all buffers, `threads` the number of compression threads.
    #[must_use]
    pub fn new(memory: u64, threads: usize, state_dir: &Path, metrics: Metrics) -> Self {
        let threads = Arc::new(Threads { count: threads, pool: Mutex::default() });
        Self {
            budget: Budget::new(memory),
            metrics,
            state_dir: state_dir.to_owned(),
            cluster: cluster::Shared::default(),
            reading: Reading::default(),
            threads,
            _memory: None,
        }
    }

    /// The same, as one command: all that it reads is for one purpose, and every buffer may be used again until its end.
    #[must_use]
    pub fn as_command(self) -> Self {
        let memory = self.budget.begin_run();
        Self { budget: memory.budget(), _memory: Some(Arc::new(memory)), ..self }
    }

    #[must_use]
    pub fn of(config: &Config, metrics: Metrics) -> Self {
        Self::new(config.limits.memory, config.limits.compression_threads, &config.state_dir, metrics)
    }

    /// The same, with access to a cluster.
    #[must_use]
    pub fn with_cluster(self, cluster: cluster::Shared) -> Self {
        Self { cluster, ..self }
    }

    /// The compression threads; starts them if no run uses them.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn pool(&self) -> io::Result<Arc<rayon::ThreadPool>> {
        let mut current = self.threads.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = current.upgrade() {
            return Ok(pool);
        }
        let builder = rayon::ThreadPoolBuilder::new().num_threads(self.threads.count);
        let pool = builder.thread_name(|index| format!("penstock-pack-{index}")).build();
        let pool = Arc::new(pool.map_err(io::Error::other)?);
        *current = Arc::downgrade(&pool);
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::Name;

    #[test]
    fn what_a_thread_still_reads_is_not_given_to_another_one() {
        let name = |name: &str| Name::new(name).unwrap();
        let of = |node: &str| Chain { cluster: name("c"), job: name("j"), node: name(node) };
        let reading = Reading::default();
        let mark = reading.begin(&of("claim.shop.a")).unwrap();
        let of_thread = Arc::clone(&mark);
        drop(mark);
        assert!(reading.begin(&of("claim.shop.a")).is_none() && reading.begin(&of("claim.shop.b")).is_some());
        drop(of_thread);
        assert!(reading.begin(&of("claim.shop.a")).is_some());
    }

    /// A restore whose buffers are new ones each time takes half as much memory again.
    #[test]
    fn a_command_uses_its_buffers_again_and_a_daemon_only_within_a_run() {
        let dir = Path::new("/nonexistent");
        let process = Process::new(1 << 20, 1, dir, Metrics::new());
        let again = |process: &Process| {
            let buffer = || process.budget.try_grant(4096).unwrap().buffer();
            buffer().fill(&[7]);
            buffer().spare(1)[0] == 7
        };
        assert!(!again(&process));
        assert!(again(&process.as_command()));
    }
}
