//! One job's place, and what becomes of it.

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

/// A start that comes later than this was missed. The scheduler itself is never later than its heartbeat.
const LATE: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug)]
pub(in crate::daemon) struct Entry {
    pub(in crate::daemon) job: Arc<config::Job>,
    zone: TimeZone,
    delay: Duration,
    /// The longest time between two runs.
    pub(super) interval: Option<Duration>,
    /// By the schedule.
    pub(in crate::daemon) next: Option<Timestamp>,
    pub(super) cause: Cause,
    /// After a failure.
    pub(in crate::daemon) retry: Option<Timestamp>,
    pub(super) retries: u32,
    pub(in crate::daemon) waiting: Option<Waiting>,
    pub(in crate::daemon) running: Option<Running>,
    pub(in crate::daemon) record: Record,
    /// Who wants to know how the run that waits, or runs, ends.
    pub(super) awaited: Vec<oneshot::Sender<Ended>>,
    /// Left the configuration while it runs.
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
            // Not before the node's own turn: a whole site that comes back does not start as one either.
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
        // As long after its failure as before.
        self.retry = self.retry.and_then(|at| at.checked_sub(by).ok());
        self.record.last_success = self.record.last_success.map(|at| at.min(now));
    }

    /// Puts a job that is due in line; says why not where it is skipped.
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

    /// Waits no longer: whoever awaits a run that has not begun is told so.
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

    /// A run by hand is not made again by itself: whoever asked for it sees how it ended. Nor is one whose schedule
    /// comes first.
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
    // The configuration has looked it up; UTC is what is left when the database is gone since.
    if job.time_zone == "UTC" { TimeZone::UTC } else { TimeZone::get(&job.time_zone).unwrap_or(TimeZone::UTC) }
}
