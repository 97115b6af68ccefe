//! One run: what the scheduler starts as a task of its own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::board::{Start, Verdict};
use super::history::History;
use super::locations::Location;
use crate::budget::Budget;
use crate::config::Config;
use crate::error::{Class, Classify as _, Report};
use crate::format::manifest::Manifest;
use crate::job::{self, Context, Snapshots, Spec};
use crate::metrics::{Metrics, Outcome};
use crate::snapshot;

/// What every run shares.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    pub(super) budget: Budget,
    pub(super) metrics: Metrics,
    pub(super) history: History,
    pool: Arc<Pool>,
}

/// The threads that compress. They come with the first run and go with the last: an idle daemon has none.
#[derive(Debug)]
struct Pool {
    threads: usize,
    current: Mutex<Weak<rayon::ThreadPool>>,
}

impl Pool {
    fn get(&self) -> Result<Arc<rayon::ThreadPool>, Report> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = current.upgrade() {
            return Ok(pool);
        }
        let builder = rayon::ThreadPoolBuilder::new().num_threads(self.threads);
        let pool = builder.thread_name(|index| format!("penstock-pack-{index}")).build();
        let pool = pool.map_err(|error| Report::new(Class::Local, format!("starting threads: {error}")))?;
        let pool = Arc::new(pool);
        *current = Arc::downgrade(&pool);
        Ok(pool)
    }
}

impl Runner {
    pub(super) fn new(config: &Config, metrics: Metrics) -> Self {
        let pool = Pool { threads: config.limits.compression_threads, current: Mutex::default() };
        let budget = Budget::new(config.limits.memory);
        Self { budget, metrics, history: History::default(), pool: Arc::new(pool) }
    }

    /// Runs the job to its end, and says how that was.
    pub(super) async fn run(&self, config: &Config, location: &Location, start: &Start) -> Verdict {
        let pool = match self.pool.get() {
            Ok(pool) => pool,
            Err(report) => return self.failed(start, Outcome::Failure, report),
        };
        let context = Context {
            store: location.remote.store(),
            budget: self.budget.clone(),
            pool,
            prefix: location.config.prefix.clone(),
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            upload: location.config.upload,
            checksum: location.config.checksum,
            metrics: self.metrics.clone(),
            snapshots: Snapshots {
                service: location.snapshots.clone(),
                records: snapshot::Records::new(&config.state_dir),
                location: location.config.name.clone(),
            },
        };
        let spec = Spec::of(&start.job);
        match job::run(&context, &spec, &start.running.progress, &start.running.cancel).await {
            Ok(committed) => {
                let good = committed.is_good().then_some(committed.manifest.finished);
                let (outcome, class) = committed.verdict();
                let error = class.map(|class| partial(class, &committed.manifest, committed.after.as_ref()));
                if let Some(report) = &error {
                    self.history.failed("job", start.job.name.as_str(), &report.clone().into());
                }
                let backup = Some(committed.manifest.id.to_string());
                Verdict { outcome, backup, error: error.map(Into::into), good }
            }
            Err(error) => self.failed(start, job::outcome_of(&error), error.report()),
        }
    }

    fn failed(&self, start: &Start, outcome: Outcome, report: Report) -> Verdict {
        let fault = report.into();
        match outcome {
            Outcome::Cancelled => tracing::warn!(job = %start.job.name, class = %Class::Cancelled, "run cancelled"),
            Outcome::Success | Outcome::Partial | Outcome::Failure => {
                self.history.failed("job", start.job.name.as_str(), &fault);
            }
        }
        Verdict { outcome, backup: None, error: Some(fault), good: None }
    }
}

/// What failed in a run that committed.
fn partial(class: Class, manifest: &Manifest, after: Option<&job::Error>) -> Report {
    let failed = manifest.items.iter().find_map(|item| Some((&item.name, item.error.as_ref()?)));
    match (failed, after) {
        (Some((name, error)), _) => Report::new(class, format!("item {name}: {}", error.message)),
        (None, Some(after)) => after.report(),
        (None, None) => Report::new(class, "the backup is partial"),
    }
}
