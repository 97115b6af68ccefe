//! Runs one job, as a task that the scheduler starts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::board::{Start, Verdict};
use super::history::{About, History};
use crate::catalog::Catalog;
use crate::config;
use crate::error::{Class, Classify as _, Report, Retry};
use crate::format::key::{Chain, Name};
use crate::job::{self, Committed, Spec};
use crate::location::Location;
use crate::metrics::Outcome;
use crate::object_lock;
use crate::process::Process;
use crate::prune;
use crate::snapshot::recover;
use crate::upload::sweep::{self, Mode, Reach};

/// How often a bucket is searched for what is in no record of this node. A search lists what all nodes have there.
const SEARCHED_EVERY: Duration = Duration::from_hours(24);

/// When a location was last searched, and nothing was left to do.
#[derive(Debug, Default)]
pub(super) struct Searched {
    /// For uploads that are in no journal.
    uploads: Option<Instant>,
    /// For claims whose backups nobody extends.
    claims: Option<Instant>,
}

fn is_due(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= SEARCHED_EVERY)
}

/// State that every run shares.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    pub(super) process: Process,
    pub(super) history: History,
}

impl Runner {
    /// Aborts the uploads and recovers the snapshots that earlier runs left. `spared` jobs keep their uploads, to resume them. Once a
    /// day, and as long as uploads are left, it also looks for those that are in no journal.
    pub(super) async fn chores(&self, location: &Location, spared: &BTreeSet<Name>, searched: &mut Searched) {
        let now = location.clock.now();
        let reach = if is_due(searched.uploads, now) { Reach::Bucket } else { Reach::Journal };
        let (state_dir, locations) = (&self.process.state_dir, std::slice::from_ref(location));
        match sweep::sweep(state_dir, locations, spared, Mode::Abort, reach).await {
            Ok(sweep) => {
                if !sweep.is_complete() {
                    searched.uploads = None;
                } else if reach == Reach::Bucket {
                    searched.uploads = Some(now);
                }
                if !sweep.uploads.is_empty() {
                    let uploads = sweep.uploads.len();
                    tracing::info!(location = location.name(), uploads, "aborted interrupted uploads");
                }
            }
            Err(error) => self.history.failed(About::Location, location.name(), &error.report()),
        }
        recover::all(location).await;
    }

    /// Extends the locks of what the backups of these jobs need, and of ad-hoc ones, and publishes when the first ends. Once a day it
    /// also looks for claims whose backups nobody extends any more. A failure is logged: the next round tries again.
    pub(super) async fn keep_locked(&self, location: &Location, jobs: &[Arc<config::Job>], searched: &mut Searched) {
        let Some(object_lock) = location.config.object_lock else { return location.endpoint.metrics().locks(None) };
        let ad_hoc = Name::new(config::AD_HOC).expect("a constant name");
        let catalog = Catalog::new(location).within(self.process.budget.total() / 2);
        let names = jobs.iter().map(|job| &job.name).chain([&ad_hoc]);
        let mut chains: BTreeSet<Chain> = names.flat_map(|job| object_lock::chains(location, job)).collect();
        let now = location.clock.now();
        if is_due(searched.claims, now) {
            let mut all = true;
            for job in jobs.iter().filter(|job| job.saves_claims()) {
                match object_lock::abandoned(&catalog, &job.name).await {
                    Ok(found) => chains.extend(found),
                    Err(error) => {
                        self.history.failed(About::Location, location.name(), &error.report());
                        all = false;
                    }
                }
            }
            // From their first extension on they have a ledger, and so are among the chains that are known here.
            searched.claims = if all { Some(now) } else { searched.claims };
        }
        let mut first: Option<Timestamp> = None;
        for chain in chains {
            match object_lock::keep(&catalog, &chain, object_lock::When::IfDue).await {
                Ok(Some(extended)) => first = first.into_iter().chain(extended.earliest).min(),
                Ok(None) => {}
                Err(error) => {
                    self.history.failed(About::Location, location.name(), &error.report());
                    first = first.into_iter().chain(object_lock::earliest(location, &chain)).min();
                }
            }
        }
        let first = first.map(|end| (end.as_duration().as_secs_f64(), object_lock.period));
        location.endpoint.metrics().locks(first);
    }

    /// Runs the commands that earlier runs owe to pods.
    pub(super) async fn thaw(&self) {
        job::thaw_left(&self.process).await;
    }

    /// Prunes after a good backup: its chain, and those of the volumes that it saved. A failure is logged and does not fail the backup:
    /// the next one prunes again.
    async fn retain(&self, location: &Location, start: &Start, committed: &Committed) {
        let is_good = |volume: &&job::Volume| volume.outcome != Outcome::Failure;
        let volumes = committed.volumes.iter().filter(is_good).map(|volume| volume.chain.clone());
        // A round is seldom good for long among hundreds of volumes, and its record holds none of their data.
        let may_prune = committed.is_good() || committed.is_round();
        let own = may_prune.then(|| location.node.clone());
        let backups = self.prune_all(location, start, own.into_iter().chain(volumes)).await;
        if let Some(backups) = backups.filter(|_| !committed.volumes.is_empty()) {
            // Of all the chains, and not of the last one.
            self.process.metrics.job(start.job.name.as_str()).backups(backups);
        }
    }

    /// Prunes the volumes that a failed run has saved before it failed: they would have no end where each run fails. If the store is away, or
    /// the daemon stops, the next run does it.
    async fn retain_volumes(&self, location: &Location, start: &Start, failed: &job::Error) {
        let class = failed.class();
        if class != Class::Cancelled && class.retry() != Retry::BackOff {
            self.prune_all(location, start, start.running.progress.claims.saved().into_iter()).await;
        }
    }

    async fn prune_all(&self, location: &Location, start: &Start, nodes: impl Iterator<Item = Name>) -> Option<usize> {
        let (job, stop) = (&start.job, &start.running.cancel);
        let mut backups = None;
        for node in nodes {
            let chain = Chain { node, ..location.chain(&job.name) };
            let kept = self.prune(location, job, &chain, stop).await;
            backups = kept.map(|kept| kept + backups.unwrap_or(0)).or(backups);
        }
        backups
    }

    /// Returns how many backups are left, if it can tell.
    async fn prune(
        &self,
        location: &Location,
        job: &config::Job,
        chain: &Chain,
        stop: &CancellationToken,
    ) -> Option<usize> {
        // Half, because the streams of other jobs may use the whole budget meanwhile, and prune's memory comes on top.
        let memory = self.process.budget.total() / 2;
        let catalog = Catalog::new(&location.until(stop)).within(memory).cached();
        let context = prune::Context { catalog, grace: prune::grace_of(Some(job)) };
        match prune::prune(&context, chain, &prune::Rules::of(job), Timestamp::now(), stop).await {
            Ok(pruned) => {
                if let Some((_, failure)) = pruned.failures.list.first() {
                    self.history.keep(About::Job, job.name.as_str(), failure);
                }
                if let Err(error) = object_lock::keep(&context.catalog, chain, object_lock::When::IfDue).await {
                    self.history.failed(About::Job, job.name.as_str(), &error.report());
                }
                return Some(pruned.kept);
            }
            // The daemon stops: no failure. The prune after the next good backup deletes the rest.
            Err(prune::Error::Cancelled) => {}
            Err(error) => self.history.failed(About::Job, job.name.as_str(), &error.report()),
        }
        None
    }

    /// Runs the job to its end.
    pub(super) async fn run(&self, location: &Location, start: &Start) -> Verdict {
        let spec = Spec::of(&start.job);
        let encrypts = location.config.client_encryption.is_some();
        let verdict = match job::run(location, &spec, &start.running.progress, &start.running.cancel).await {
            Ok(committed) => {
                let good = committed.is_good().then_some(committed.manifest.finished);
                let (outcome, _) = committed.verdict();
                let error = committed.failure();
                if let Some(report) = &error {
                    // The failure of an item or of an `after` command: the job has logged it.
                    self.history.keep(About::Job, start.job.name.as_str(), report);
                }
                if good.is_some() || committed.is_round() {
                    self.retain(location, start, &committed).await;
                }
                let backup = Some(committed.manifest.id.to_string());
                Verdict { outcome, backup, error, good, encrypts }
            }
            Err(error) => {
                self.retain_volumes(location, start, &error).await;
                self.failed(start, job::outcome_of(&error), error.report())
            }
        };
        Verdict { encrypts, ..verdict }
    }

    fn failed(&self, start: &Start, outcome: Outcome, report: Report) -> Verdict {
        match outcome {
            Outcome::Cancelled => {
                tracing::info!(job = %start.job.name, class = %Class::Cancelled, "run cancelled: the daemon is stopping");
            }
            Outcome::Success | Outcome::Partial | Outcome::Failure => {
                self.history.failed(About::Job, start.job.name.as_str(), &report);
            }
        }
        Verdict { outcome, backup: None, error: Some(report), good: None, encrypts: false }
    }
}

#[cfg(test)]
mod tests;
