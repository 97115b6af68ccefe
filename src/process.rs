//! Resources that all work in the process shares: memory, threads, metrics, the client of its cluster, and the state directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::budget::Budget;
use crate::cluster;
use crate::config::Config;
use crate::metrics::Metrics;

/// Cheap to clone; all clones are one process.
#[derive(Debug, Clone)]
pub struct Process {
    pub budget: Budget,
    pub metrics: Metrics,
    /// Has the journal of uploads and the records of snapshots.
    pub state_dir: PathBuf,
    pub cluster: cluster::Shared,
    threads: Arc<Threads>,
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
            threads,
        }
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
