//! One run: what the scheduler starts as a task of its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::board::{Start, Verdict};
use super::history::{About, History};
use super::locations::Location;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::{self, Config};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::{Chain, Name};
use crate::job::{self, Context, Snapshots, Spec};
use crate::metrics::{Metrics, Outcome};
use crate::prune;
use crate::snapshot::{self, recover};
use crate::stream;
use crate::upload::journal::Journal;
use crate::upload::sweep::{self, Mode, Place};

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
        let pool = stream::pool(self.threads)?;
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

    fn context(&self, config: &Config, location: &Location) -> Result<Context, Report> {
        let place = &location.config;
        let journal = Journal::open(&config.state_dir, &place.name, &place.bucket).map_err(|error| error.report())?;
        Ok(Context {
            store: location.remote.store(),
            budget: self.budget.clone(),
            pool: self.pool.get()?,
            prefix: location.config.prefix.clone(),
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            upload: location.config.upload,
            checksum: location.config.checksum,
            metrics: self.metrics.clone(),
            endpoint: location.endpoint.clone(),
            journal: Some(journal),
            snapshots: Snapshots {
                service: location.snapshots.clone(),
                records: snapshot::Records::new(&config.state_dir),
                location: location.config.name.clone(),
            },
        })
    }

    /// What earlier runs left at the location: uploads and snapshots. The uploads of `spared` jobs are theirs to go on with.
    pub(super) async fn chores(&self, config: &Config, location: &Location, spared: BTreeSet<Name>) {
        let place = Place {
            location: location.config.name.clone(),
            bucket: location.config.bucket.clone(),
            prefix: location.config.prefix.clone(),
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            store: location.remote.store(),
            endpoint: location.endpoint.clone(),
            spared,
        };
        match sweep::sweep(&config.state_dir, &[place], Mode::Abort).await {
            Ok(swept) if swept.is_empty() => {}
            Ok(swept) => {
                tracing::info!(location = location.config.name, uploads = swept.len(), "swept interrupted uploads");
            }
            Err(error) => self.history.failed(About::Location, &location.config.name, &error.report().into()),
        }
        let recovery = recover::Context {
            service: &location.snapshots,
            store: &*location.remote.store(),
            records: &snapshot::Records::new(&config.state_dir),
            location: &location.config.name,
            checksum: location.config.checksum,
            metrics: &self.metrics,
        };
        recover::all(recovery).await;
    }

    /// After a good backup. Its failure is the log's and not the backup's: the next one tries again.
    async fn retain(&self, config: &Config, location: &Location, job: &config::Job, stop: &CancellationToken) {
        let (cluster, node) = (config.cluster.clone(), config.node.clone());
        let chain = Chain { cluster: cluster.clone(), job: job.name.clone(), node };
        let context = prune::Context {
            catalog: Catalog {
                store: location.remote.store(),
                prefix: location.config.prefix.clone(),
                cluster,
                // Streams of other jobs have the whole budget meanwhile: what is counted beside it is less.
                memory: self.budget.total() / 2,
            },
            checksum: location.config.checksum,
            grace: prune::grace_of(Some(job)),
            snapshots: location.snapshots.clone(),
            metrics: self.metrics.job(job.name.as_str()),
        };
        match prune::prune(&context, &chain, &prune::Rules::of(job), Timestamp::now(), stop).await {
            Ok(pruned) => {
                if let Some((_, failure)) = pruned.failures.list.first() {
                    self.history.failed(About::Job, job.name.as_str(), &failure.clone().into());
                }
            }
            // The daemon stops: that is no failure, and the next good backup goes on with what is left.
            Err(prune::Error::Cancelled) => {}
            Err(error) => self.history.failed(About::Job, job.name.as_str(), &error.report().into()),
        }
    }

    /// Runs the job to its end, and says how that was.
    pub(super) async fn run(&self, config: &Config, location: &Location, start: &Start) -> Verdict {
        let context = match self.context(config, location) {
            Ok(context) => context,
            Err(report) => return self.failed(start, Outcome::Failure, report),
        };
        let spec = Spec::of(&start.job);
        match job::run(&context, &spec, &start.running.progress, &start.running.cancel).await {
            Ok(committed) => {
                let good = committed.is_good().then_some(committed.manifest.finished);
                let (outcome, _) = committed.verdict();
                let error = committed.failure();
                if let Some(report) = &error {
                    self.history.failed(About::Job, start.job.name.as_str(), &report.clone().into());
                }
                if good.is_some() {
                    self.retain(config, location, &start.job, &start.running.cancel).await;
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
                self.history.failed(About::Job, start.job.name.as_str(), &fault);
            }
        }
        Verdict { outcome, backup: None, error: Some(fault), good: None }
    }
}
