//! Makes all decisions of the scheduler, without I/O: from the time, which runs to start. Knows of each job when it is due,
//! whether it waits or runs, and how it last ended.
//!
//! - **No overlap**: a job that is due while it waits or runs is skipped, logged and counted.
//! - **Order**: the job that was due first starts first, `concurrent_jobs` at a time.
//! - **Awaited runs**: a caller that triggers a run gets the end of that run, even if a reload has removed the job meanwhile.
//! - **Missed runs** (the machine was off or asleep, or the process ended during the run): `catch_up` decides; several missed runs count as one.
//! - **The clock**: set back by more than [`STEP`], it makes the board plan every schedule again; set forward, it causes a missed
//!   run. A last success never lies in the future: it would hide that no newer one follows.

mod entry;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::state::{Ended, Record};
use crate::config::{self, Config};
use crate::error::Report;
use crate::format::key::Name;
use crate::job::Progress;
use crate::metrics::{Metrics, Outcome};
pub(super) use entry::Entry;

/// How far a clock must be set back to matter.
const STEP: SignedDuration = SignedDuration::from_mins(1);

/// Why a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cause {
    Schedule,
    CatchUp,
    Retry,
    Trigger,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) since: Timestamp,
    pub(super) cause: Cause,
    turn: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) since: Timestamp,
    pub(super) cause: Cause,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: CancellationToken,
}

/// A run to start.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) job: Arc<config::Job>,
    pub(super) running: Running,
}

/// How a run ended, from its task.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) backup: Option<String>,
    pub(super) error: Option<Report>,
    /// When the backup was committed, if it is a good one.
    pub(super) good: Option<Timestamp>,
    /// The location is one that is encrypted to: what failed is not written to this node's disk.
    pub(super) encrypts: bool,
}

/// Why a job cannot be triggered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no job {0}; the configuration has {1}")]
    Unknown(String, String),
    #[error("job {0} has been running since {1}")]
    Runs(Name, Timestamp),
    #[error("the daemon is stopping")]
    Stopping,
}

#[derive(Debug)]
pub(super) struct Board {
    node: Name,
    jobs: BTreeMap<Name, Entry>,
    /// Unsaved records of jobs that have left the configuration.
    parted: BTreeMap<Name, Record>,
    concurrent: usize,
    turns: u64,
    last_tick: Timestamp,
    stopping: bool,
    metrics: Metrics,
}

impl Board {
    pub(super) fn new(config: &Config, metrics: Metrics, now: Timestamp, recall: impl Fn(&Name) -> Record) -> Self {
        let mut board = Self {
            node: config.node.clone(),
            jobs: BTreeMap::new(),
            parted: BTreeMap::new(),
            concurrent: config.limits.concurrent_jobs,
            turns: 0,
            last_tick: now,
            stopping: false,
            metrics,
        };
        board.reconfigure(config, now, recall);
        board
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &Entry> {
        self.jobs.values()
    }

    /// Jobs that run, wait, or will soon make up for a missed or interrupted run. They may resume the uploads that the last run left.
    pub(super) fn about_to_run(&self) -> BTreeSet<Name> {
        let soon = |entry: &Entry| {
            entry.waiting.is_some()
                || entry.running.is_some()
                || (entry.cause == Cause::CatchUp && entry.next.is_some())
        };
        self.jobs.iter().filter(|(_, entry)| soon(entry)).map(|(name, _)| name.clone()).collect()
    }

    /// The jobs that back up to this location.
    pub(super) fn jobs_at(&self, location: &str) -> Vec<Arc<config::Job>> {
        let there = self.jobs.values().filter(|entry| entry.job.location == location);
        there.map(|entry| Arc::clone(&entry.job)).collect()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (&Name, &Running)> {
        self.jobs.iter().filter_map(|(name, entry)| Some((name, entry.running.as_ref()?)))
    }

    /// Adds, changes and removes jobs. A run goes on; a job removed during its run is forgotten when the run ends.
    pub(super) fn reconfigure(&mut self, config: &Config, now: Timestamp, recall: impl Fn(&Name) -> Record) {
        self.concurrent = config.limits.concurrent_jobs;
        for (name, job) in &config.jobs {
            if let Some(entry) = self.jobs.get_mut(name) {
                let back = std::mem::replace(&mut entry.removed, false);
                if back || *entry.job != *job {
                    entry.change(job, &self.node, now);
                    tracing::info!(job = %name, "job changed: planned again");
                }
            } else {
                let parted = self.parted.remove(name);
                let unsaved = parted.is_some();
                let mut entry = Entry::new(job, &self.node, now, parted.unwrap_or_else(|| recall(name)));
                entry.unsaved |= unsaved;
                let handle = self.metrics.job(name.as_str());
                if let Some(last) = &entry.record.last {
                    handle.last_outcome(last.outcome);
                }
                if let Some(success) = entry.record.last_success {
                    handle.last_success(seconds(success));
                }
                tracing::debug!(job = %name, schedule = entry.schedule(), next = entry.next.map(tracing::field::display), "job added");
                self.jobs.insert(name.clone(), entry);
            }
        }
        for (name, entry) in &mut self.jobs {
            entry.removed = !config.jobs.contains_key(name);
            if entry.removed {
                (entry.next, entry.retry) = (None, None);
                entry.leave_line();
            }
        }
        self.forget_removed();
        self.show();
    }

    fn forget_removed(&mut self) {
        let Self { metrics, parted, .. } = self;
        for (name, entry) in self.jobs.extract_if(.., |_, entry| entry.removed && entry.running.is_none()) {
            tracing::info!(job = %name, "job removed");
            metrics.forget_job(name.as_str());
            if entry.unsaved {
                parted.insert(name, entry.record);
            }
        }
    }

    /// The runs to start at `now`, within `concurrent_jobs`.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Start> {
        let back = self.last_tick.duration_since(now);
        if back > STEP {
            tracing::warn!(from = %self.last_tick, to = %now, "the clock was set back: planning every schedule again");
            for (name, entry) in &mut self.jobs {
                entry.set_back(now, back);
                if let Some(success) = entry.record.last_success {
                    self.metrics.job(name.as_str()).last_success(seconds(success));
                }
            }
        }
        self.last_tick = now;
        if self.stopping {
            return Vec::new();
        }
        for (name, entry) in &mut self.jobs {
            if let Some(skipped) = entry.come_due(now, &mut self.turns) {
                let missed = entry.record.planned;
                self.metrics.job(name.as_str()).skipped(skipped);
                tracing::warn!(job = %name, reason = skipped.as_str(), next = missed.map(tracing::field::display), "run skipped: the job waits for its next time");
            }
        }
        let mut started = Vec::new();
        while self.running().count() < self.concurrent {
            let first = self.jobs.values_mut().filter(|entry| entry.can_start()).min_by_key(|entry| entry.turn());
            let Some(entry) = first else { break };
            started.extend(entry.start(now));
        }
        self.show();
        started
    }

    /// When [`Board::tick`] next has something to do.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        self.jobs.values().flat_map(|entry| [entry.next, entry.retry]).flatten().min()
    }

    /// Queues a run of the job. The receiver gets the run's end, or an error if the run never begins.
    pub(super) fn trigger(&mut self, name: &str, now: Timestamp) -> Result<oneshot::Receiver<Ended>, Refusal> {
        if self.stopping {
            return Err(Refusal::Stopping);
        }
        let known = || self.jobs.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let refusal = Refusal::Unknown(name.chars().take(64).collect(), known());
        let found = self.jobs.iter_mut().find(|(known, entry)| known.as_str() == name && !entry.removed);
        let Some((name, entry)) = found else { return Err(refusal) };
        if let Some(running) = &entry.running {
            return Err(Refusal::Runs(name.clone(), running.since));
        }
        // The triggered run replaces a retry.
        (entry.retry, entry.retries) = (None, 0);
        entry.wait(now, Cause::Trigger, &mut self.turns);
        let (sender, receiver) = oneshot::channel();
        entry.awaited.retain(|sender| !sender.is_closed());
        entry.awaited.push(sender);
        Ok(receiver)
    }

    /// Records the end of a run.
    pub(super) fn finish(&mut self, name: &Name, verdict: Verdict, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(name) else { return };
        let Some(running) = entry.running.take() else { return };
        entry.plan_retry(
            verdict.error.as_ref().map(|fault| fault.class),
            verdict.outcome,
            running.cause,
            &self.node,
            now,
        );
        if let Some(retry) = entry.retry {
            tracing::info!(job = %name, at = %retry, retry = entry.retries, "run failed: it will be retried");
        }
        // Only a stop of the daemon cancels a run.
        entry.record.interrupted = verdict.outcome == Outcome::Cancelled;
        // The clock may have been set back since the commit.
        entry.record.last_success = verdict.good.map(|at| at.min(now)).or(entry.record.last_success);
        let ended = Ended {
            started: running.since,
            finished: now,
            outcome: verdict.outcome,
            backup: verdict.backup,
            error: verdict.error,
        };
        for awaiting in entry.awaited.drain(..) {
            // Fails only if the caller has hung up.
            let _ = awaiting.send(ended.clone());
        }
        entry.record.encrypts = verdict.encrypts;
        entry.record.last = Some(ended);
        entry.unsaved = true;
        self.forget_removed();
        self.show();
    }

    /// Starts no more runs, and cancels those in progress.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for entry in self.jobs.values_mut() {
            entry.leave_line();
            if let Some(running) = &entry.running {
                running.cancel.cancel();
            }
        }
    }

    /// The records that have changed since the last call.
    pub(super) fn take_unsaved(&mut self) -> Vec<(Name, Record)> {
        let changed = self.jobs.iter_mut().filter(|(_, entry)| entry.unsaved);
        let take = |(name, entry): (&Name, &mut Entry)| {
            entry.unsaved = false;
            (name.clone(), entry.record.clone())
        };
        changed.map(take).chain(std::mem::take(&mut self.parted)).collect()
    }

    /// Marks a record that could not be written, so that the next save writes it.
    pub(super) fn keep_unsaved(&mut self, name: &Name, record: &Record) {
        match self.jobs.get_mut(name) {
            Some(entry) => entry.unsaved = true,
            None => drop(self.parted.insert(name.clone(), record.clone())),
        }
    }

    fn show(&self) {
        self.metrics.jobs_running(self.running().count());
        for (name, entry) in &self.jobs {
            let next = [entry.next, entry.retry].into_iter().flatten().min();
            let handle = self.metrics.job(name.as_str());
            handle.next_run(next.map(seconds));
            handle.interval(entry.interval);
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests;
