//! Every job's place: when it is due, whether it waits or runs, how it ended. All decisions of the scheduler, without I/O:
//! the time comes in, and what to start goes out.
//!
//! - **No overlap**: a job that is due while it waits or runs is skipped, said and counted.
//! - **Order**: who was due first starts first, `concurrent_jobs` at a time.
//! - **Missed runs** (the machine was off or asleep, or the process ended during the run): `catch_up` decides; several missed ones are one.
//! - **The clock**: one that is set back by more than [`STEP`] makes every schedule be planned anew; one that is set forward
//!   is a missed run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::schedule;
use super::state::{Ended, Fault, Record};
use crate::config::{self, CatchUp, Config};
use crate::error::Class;
use crate::format::key::Name;
use crate::job::Progress;
use crate::metrics::{Metrics, Outcome, SkipReason};

/// A start that comes later than this was missed. The scheduler itself is never later than its heartbeat.
const LATE: SignedDuration = SignedDuration::from_mins(2);

/// How far a clock must be set back to matter.
const STEP: SignedDuration = SignedDuration::from_mins(1);

/// Why a run is made.
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

/// What is to be started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) job: Arc<config::Job>,
    pub(super) running: Running,
}

/// How a run ended, as its task says it.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) backup: Option<String>,
    pub(super) error: Option<Fault>,
    /// When the backup was committed, if it is a good one.
    pub(super) good: Option<Timestamp>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) job: Arc<config::Job>,
    zone: TimeZone,
    delay: Duration,
    /// The longest time between two runs.
    interval: Option<Duration>,
    /// By the schedule.
    pub(super) next: Option<Timestamp>,
    cause: Cause,
    /// After a failure.
    pub(super) retry: Option<Timestamp>,
    retries: u32,
    pub(super) waiting: Option<Waiting>,
    pub(super) running: Option<Running>,
    pub(super) record: Record,
    /// Runs that have ended since the daemon started.
    pub(super) ended: u64,
    /// Left the configuration while it runs.
    removed: bool,
    unsaved: bool,
}

/// Why a job cannot be triggered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no job {0}; the configuration has {1}")]
    Unknown(String, String),
    #[error("job {0} runs already, since {1}")]
    Runs(Name, Timestamp),
    #[error("the daemon is stopping")]
    Stopping,
}

#[derive(Debug)]
pub(super) struct Board {
    node: Name,
    jobs: BTreeMap<Name, Entry>,
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

    /// Jobs that run, wait, or will soon make up for a run that was missed or interrupted: what that one left may be of use to them.
    pub(super) fn about_to_run(&self) -> BTreeSet<Name> {
        let soon = |entry: &Entry| {
            entry.waiting.is_some()
                || entry.running.is_some()
                || (entry.cause == Cause::CatchUp && entry.next.is_some())
        };
        self.jobs.iter().filter(|(_, entry)| soon(entry)).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (&Name, &Running)> {
        self.jobs.iter().filter_map(|(name, entry)| Some((name, entry.running.as_ref()?)))
    }

    /// Adds, changes and removes jobs. What runs is not touched; one that leaves while it runs is forgotten when it ends.
    pub(super) fn reconfigure(&mut self, config: &Config, now: Timestamp, recall: impl Fn(&Name) -> Record) {
        self.concurrent = config.limits.concurrent_jobs;
        for (name, job) in &config.jobs {
            if let Some(entry) = self.jobs.get_mut(name) {
                let back = std::mem::replace(&mut entry.removed, false);
                if back || *entry.job != *job {
                    entry.change(job, &self.node, now);
                    tracing::info!(job = %name, "job changed");
                }
            } else {
                let entry = Entry::new(job, &self.node, now, recall(name));
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
                (entry.next, entry.retry, entry.waiting) = (None, None, None);
            }
        }
        self.forget_removed();
        self.show();
    }

    fn forget_removed(&mut self) {
        let metrics = &self.metrics;
        self.jobs.retain(|name, entry| {
            let stays = !entry.removed || entry.running.is_some();
            if !stays {
                tracing::info!(job = %name, "job removed");
                metrics.forget_job(name.as_str());
            }
            stays
        });
    }

    /// What is due at `now`, as far as there is room.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Start> {
        let back = self.last_tick.duration_since(now);
        if back > STEP {
            tracing::warn!(from = %self.last_tick, to = %now, "the clock was set back: every schedule is planned anew");
            for entry in self.jobs.values_mut() {
                entry.plan(now);
                entry.retry = entry.retry.and_then(|at| at.checked_sub(back).ok()); // As long after its failure as before.
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
                tracing::warn!(job = %name, reason = skipped.as_str(), next = missed.map(tracing::field::display), "run skipped");
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

    /// The next time that [`Board::tick`] has something to do.
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        self.jobs.values().flat_map(|entry| [entry.next, entry.retry]).flatten().min()
    }

    /// Puts the job in line, and returns the number that [`Entry::ended`] will have when that run is over.
    pub(super) fn trigger(&mut self, name: &str, now: Timestamp) -> Result<u64, Refusal> {
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
        // Takes the place of a retry.
        (entry.retry, entry.retries) = (None, 0);
        entry.wait(now, Cause::Trigger, &mut self.turns);
        Ok(entry.ended + 1)
    }

    /// A run is over.
    pub(super) fn finish(&mut self, name: &Name, verdict: Verdict, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(name) else { return };
        let Some(running) = entry.running.take() else { return };
        entry.ended += 1;
        entry.plan_retry(
            verdict.error.as_ref().map(|fault| fault.class),
            verdict.outcome,
            running.cause,
            &self.node,
            now,
        );
        if let Some(retry) = entry.retry {
            tracing::info!(job = %name, at = %retry, retry = entry.retries, "the run is made again");
        }
        // Nothing cancels a run but the process's own end.
        entry.record.interrupted = verdict.outcome == Outcome::Cancelled;
        entry.record.last_success = verdict.good.or(entry.record.last_success);
        entry.record.last = Some(Ended {
            started: running.since,
            finished: now,
            outcome: verdict.outcome,
            backup: verdict.backup,
            error: verdict.error,
        });
        entry.unsaved = true;
        self.forget_removed();
        self.show();
    }

    /// Starts nothing any more, and cancels what runs.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        for entry in self.jobs.values_mut() {
            entry.waiting = None;
            if let Some(running) = &entry.running {
                running.cancel.cancel();
            }
        }
    }

    /// The records that have changed since they were last taken.
    pub(super) fn take_unsaved(&mut self) -> Vec<(Name, Record)> {
        let changed = self.jobs.iter_mut().filter(|(_, entry)| entry.unsaved);
        let take = |(name, entry): (&Name, &mut Entry)| {
            entry.unsaved = false;
            (name.clone(), entry.record.clone())
        };
        changed.map(take).collect()
    }

    /// One that could not be written is written with the next.
    pub(super) fn keep_unsaved(&mut self, name: &Name) {
        if let Some(entry) = self.jobs.get_mut(name) {
            entry.unsaved = true;
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

impl Entry {
    fn new(job: &config::Job, node: &Name, now: Timestamp, record: Record) -> Self {
        let mut entry = Self {
            zone: zone(job),
            delay: schedule::delay(node, &job.name, job.jitter),
            job: Arc::new(job.clone()),
            interval: None,
            next: None,
            cause: Cause::Schedule,
            retry: None,
            retries: 0,
            waiting: None,
            running: None,
            ended: 0,
            removed: false,
            unsaved: false,
            record,
        };
        entry.interval = entry.longest_gap(now);
        let missed = entry.record.interrupted || entry.record.planned.is_some_and(|planned| planned <= now);
        let same = entry.schedule().is_some() && entry.record.schedule == entry.schedule();
        if missed && same && job.catch_up == CatchUp::Once {
            // Not before the node's own turn: a whole site that comes back does not start as one either.
            (entry.next, entry.cause) = (now.checked_add(entry.delay).ok(), Cause::CatchUp);
        } else {
            entry.plan(now);
        }
        entry
    }

    fn change(&mut self, job: &config::Job, node: &Name, now: Timestamp) {
        let planned_by = |job: &config::Job| (job.schedule.clone(), job.time_zone.clone(), job.jitter);
        let other = planned_by(&self.job) != planned_by(job);
        (self.zone, self.delay) = (zone(job), schedule::delay(node, &job.name, job.jitter));
        self.job = Arc::new(job.clone());
        self.interval = self.longest_gap(now);
        // What failed may have been mended.
        (self.retry, self.retries) = (None, 0);
        if other || self.next.is_none() {
            self.plan(now);
        }
    }

    fn longest_gap(&self, now: Timestamp) -> Option<Duration> {
        self.job.schedule.as_ref().and_then(|cron| schedule::longest_gap(cron, &self.zone, now))
    }

    /// The schedule as it is remembered.
    pub(super) fn schedule(&self) -> Option<String> {
        self.job.schedule.as_ref().map(|cron| format!("{cron} {}", self.job.time_zone))
    }

    fn plan(&mut self, now: Timestamp) {
        let next = |cron| schedule::next_start(cron, &self.zone, self.delay, now);
        self.next = self.job.schedule.as_ref().and_then(next);
        self.cause = Cause::Schedule;
        (self.record.planned, self.record.schedule) = (self.next, self.schedule());
        self.unsaved = true;
    }

    /// Puts a job that is due in line; says why not where it is skipped.
    fn come_due(&mut self, now: Timestamp, turns: &mut u64) -> Option<SkipReason> {
        let busy = self.waiting.is_some() || self.running.is_some();
        if self.retry.is_some_and(|at| at <= now) && !busy {
            self.retry = None;
            self.wait(now, Cause::Retry, turns);
            return None;
        }
        let due = self.next.filter(|next| *next <= now)?;
        let cause = self.cause;
        self.plan(now);
        let late = now.duration_since(due) > LATE;
        match self.job.catch_up {
            _ if busy => Some(SkipReason::Overlap),
            CatchUp::Never if late => Some(SkipReason::Missed),
            CatchUp::Once | CatchUp::Never => {
                (self.retry, self.retries) = (None, 0);
                self.wait(now, if late { Cause::CatchUp } else { cause }, turns);
                None
            }
        }
    }

    fn wait(&mut self, now: Timestamp, cause: Cause, turns: &mut u64) {
        *turns += 1;
        self.waiting.get_or_insert(Waiting { since: now, cause, turn: *turns });
    }

    const fn can_start(&self) -> bool {
        self.waiting.is_some() && self.running.is_none()
    }

    fn turn(&self) -> u64 {
        self.waiting.as_ref().map_or(u64::MAX, |waiting| waiting.turn)
    }

    fn start(&mut self, now: Timestamp) -> Option<Start> {
        let cause = self.waiting.take()?.cause;
        let running = Running { since: now, cause, progress: Arc::default(), cancel: CancellationToken::new() };
        self.running = Some(running.clone());
        (self.record.interrupted, self.unsaved) = (true, true);
        Some(Start { job: Arc::clone(&self.job), running })
    }

    /// A run by hand is not made again by itself: whoever asked for it sees how it ended. Nor is one whose schedule
    /// comes first.
    fn plan_retry(&mut self, class: Option<Class>, outcome: Outcome, cause: Cause, node: &Name, now: Timestamp) {
        let pause = match (outcome, class, cause, self.next) {
            (Outcome::Failure, Some(class), Cause::Schedule | Cause::CatchUp | Cause::Retry, Some(_)) => {
                schedule::retry_pause(class, self.retries, node, &self.job.name)
            }
            _ => None,
        };
        let at = pause.and_then(|pause| now.checked_add(pause).ok());
        self.retry = at.filter(|at| self.next.is_some_and(|next| *at < next));
        self.retries = if self.retry.is_some() { self.retries + 1 } else { 0 };
    }
}

fn zone(job: &config::Job) -> TimeZone {
    // The configuration has looked it up; UTC is what is left when the database is gone since.
    if job.time_zone == "UTC" { TimeZone::UTC } else { TimeZone::get(&job.time_zone).unwrap_or(TimeZone::UTC) }
}

#[cfg(test)]
mod tests;
