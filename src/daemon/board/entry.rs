//! The state of one job on the board: due, waiting, running, ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::super::schedule;
use super::super::state::{Ended, Record};
use super::{Cause, Running, Start, Waiting};
use crate::config::{self, CatchUp};
use crate::error::Class;
use crate::format::key::Name;
use crate::metrics::{Outcome, SkipReason};

/// A run that starts later than this was missed. The scheduler itself is late by one heartbeat at most.
const LATE: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug)]
pub(in crate::daemon) struct Entry {
    pub(in crate::daemon) job: Arc<config::Job>,
    zone: TimeZone,
    delay: Duration,
    /// The longest time between two runs.
    pub(super) interval: Option<Duration>,
    /// The next run by the schedule.
    pub(in crate::daemon) next: Option<Timestamp>,
    pub(super) cause: Cause,
    /// The next run after a failure.
    pub(in crate::daemon) retry: Option<Timestamp>,
    pub(super) retries: u32,
    pub(in crate::daemon) waiting: Option<Waiting>,
    pub(in crate::daemon) running: Option<Running>,
    pub(in crate::daemon) record: Record,
    /// Callers that wait for the end of the run that waits or runs.
    pub(super) awaited: Vec<oneshot::Sender<Ended>>,
    /// The job left the configuration during its run.
    pub(super) removed: bool,
    pub(super) unsaved: bool,
}

impl Entry {
    pub(super) fn new(job: &config::Job, node: &Name, now: Timestamp, mut record: Record) -> Self {
        record.last_success = record.last_success.map(|at| at.min(now));
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
            awaited: Vec::new(),
            removed: false,
            unsaved: false,
            record,
        };
        entry.interval = entry.longest_gap(now);
        let missed = entry.record.interrupted || entry.record.planned.is_some_and(|planned| planned <= now);
        let same = entry.schedule().is_some() && entry.record.schedule == entry.schedule();
        if missed && same && job.catch_up == CatchUp::Once {
            // With the node's own delay, so that the nodes of a site that comes back do not all start at once.
            (entry.next, entry.cause) = (now.checked_add(entry.delay).ok(), Cause::CatchUp);
        } else {
            entry.plan(now);
        }
        entry
    }

    pub(super) fn change(&mut self, job: &config::Job, node: &Name, now: Timestamp) {
        let planned_by = |job: &config::Job| (job.schedule.clone(), job.time_zone.clone(), job.jitter);
        let other = planned_by(&self.job) != planned_by(job);
        (self.zone, self.delay) = (zone(job), schedule::delay(node, &job.name, job.jitter));
        self.job = Arc::new(job.clone());
        self.interval = self.longest_gap(now);
        // The change may have removed the cause of the failure.
        (self.retry, self.retries) = (None, 0);
        if other || self.next.is_none() {
            self.plan(now);
        }
    }

    fn longest_gap(&self, now: Timestamp) -> Option<Duration> {
        self.job.schedule.as_ref().and_then(|cron| schedule::longest_gap(cron, &self.zone, now))
    }

    /// The schedule as the record has it.
    pub(in crate::daemon) fn schedule(&self) -> Option<String> {
        self.job.schedule.as_ref().map(|cron| format!("{cron} {}", self.job.time_zone))
    }

    pub(super) fn plan(&mut self, now: Timestamp) {
        let next = |cron| schedule::next_start(cron, &self.zone, self.delay, now);
        self.next = self.job.schedule.as_ref().and_then(next);
        self.cause = Cause::Schedule;
        (self.record.planned, self.record.schedule) = (self.next, self.schedule());
        self.unsaved = true;
    }

    /// The clock was set back by `by`, to `now`.
    pub(super) fn set_back(&mut self, now: Timestamp, by: SignedDuration) {
        self.plan(now);
        // The pause after the failure stays the same.
        self.retry = self.retry.and_then(|at| at.checked_sub(by).ok());
        self.record.last_success = self.record.last_success.map(|at| at.min(now));
    }

    /// Queues a job that is due. Returns why, if it skips the run.
    pub(super) fn come_due(&mut self, now: Timestamp, turns: &mut u64) -> Option<SkipReason> {
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

    pub(super) fn wait(&mut self, now: Timestamp, cause: Cause, turns: &mut u64) {
        *turns += 1;
        self.waiting.get_or_insert(Waiting { since: now, cause, turn: *turns });
    }

    /// Takes the job out of the queue. Callers that wait for its run, which never begins, get an error.
    pub(super) fn leave_line(&mut self) {
        if self.waiting.take().is_some() && self.running.is_none() {
            self.awaited.clear();
        }
    }

    pub(super) const fn can_start(&self) -> bool {
        self.waiting.is_some() && self.running.is_none()
    }

    pub(super) fn turn(&self) -> u64 {
        self.waiting.as_ref().map_or(u64::MAX, |waiting| waiting.turn)
    }

    pub(super) fn start(&mut self, now: Timestamp) -> Option<Start> {
        let cause = self.waiting.take()?.cause;
        let running = Running { since: now, cause, progress: Arc::default(), cancel: CancellationToken::new() };
        self.running = Some(running.clone());
        (self.record.interrupted, self.unsaved) = (true, true);
        Some(Start { job: Arc::clone(&self.job), running })
    }

    /// Plans a retry of a failed run. A triggered run gets none: its caller sees the failure. Nor does a run whose next
    /// scheduled time comes before the retry.
    pub(super) fn plan_retry(
        &mut self,
        class: Option<Class>,
        outcome: Outcome,
        cause: Cause,
        node: &Name,
        now: Timestamp,
    ) {
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
    // The configuration has checked the name. UTC serves if the time zone database has disappeared since.
    if job.time_zone == "UTC" { TimeZone::UTC } else { TimeZone::get(&job.time_zone).unwrap_or(TimeZone::UTC) }
}
