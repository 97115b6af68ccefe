//! Counts and publishes the process's metrics; [`definitions`] has their names and help.
//!
//! - The registry is a value that is passed, never global, so that tests do not share one.
//! - Labels with a fixed set of values are enums, so that no series can be misspelled: [`Class`], [`Outcome`],
//!   [`AbortReason`]. The others are names from the configuration. None grows without bound.
//! - Other modules have a handle for their location ([`Location`]) or job ([`Job`]) and call a method for each event;
//!   only this module spells a metric's name.
//! - The series of a job or location that leaves the configuration are removed ([`Metrics::forget_job`],
//!   [`Metrics::forget_location`]).

mod definitions;
#[cfg(test)]
mod tests;
pub mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use prometheus::proto::MetricFamily;

use crate::budget::Budget;
use crate::error::Class;
use crate::format::cluster::{Record, ResourceRecord};
use crate::format::round;

/// The values of the label `outcome`; the manifest has the same.
pub use crate::format::manifest::Outcome;
use definitions::Definitions;

/// Why an upload was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// The job failed.
    Failure,
    /// The job was cancelled, timed out, or the process was asked to stop.
    Cancelled,
    /// An earlier process died and left it; the sweeper found it.
    Interrupted,
}

impl AbortReason {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a due run was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The job's last run had not ended.
    Overlap,
    /// The machine was off or asleep, and `catch_up` is `never`.
    Missed,
}

impl SkipReason {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overlap => "overlap",
            Self::Missed => "missed",
        }
    }
}

/// `job_last_outcome`'s value.
const fn number(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Success => 0,
        Outcome::Partial => 1,
        Outcome::Failure => 2,
        Outcome::Cancelled => 3,
    }
}

/// All metrics of the process. Cheap to clone; all clones are one registry.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    all: Definitions,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let all = Definitions::register(&registry).expect("the names are constants, and a test registers them");
        Self { inner: Arc::new(Inner { registry, all }) }
    }

    fn all(&self) -> &Definitions {
        &self.inner.all
    }

    /// All series now, sorted by name.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.inner.registry.gather()
    }

    /// The handle of one location.
    #[must_use]
    pub fn location(&self, name: &str) -> Location {
        Location { metrics: self.clone(), name: name.into() }
    }

    /// The handle of one job.
    #[must_use]
    pub fn job(&self, name: &str) -> Job {
        Job { metrics: self.clone(), name: name.into() }
    }

    pub fn started(&self, version: &str, commit: &str, unix_seconds: f64) {
        self.all().build_info.with_label_values(&[version, commit]).set(1);
        self.all().start_time.set(unix_seconds);
    }

    /// Publishes the budget's own counters.
    pub fn observe_budget(&self, budget: &Budget) {
        let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.all().memory_budget.set(bytes(budget.total()));
        self.all().memory_in_use.set(bytes(budget.in_use()));
        let waited = budget.waited().as_secs_f64() - self.all().memory_wait.get();
        self.all().memory_wait.inc_by(waited.max(0.0));
    }

    /// Counts a job's record that could not be written to the state directory.
    pub fn state_not_written(&self) {
        self.all().state_write_failures.inc();
    }

    pub fn jobs_running(&self, count: usize) {
        self.all().jobs_running.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn config_reloaded(&self, result: Result<(), ()>) {
        self.all().config_last_reload_successful.set(i64::from(result.is_ok()));
    }

    pub fn forget_job(&self, name: &str) {
        self.all().forget("job", name);
    }

    pub fn forget_location(&self, name: &str) {
        self.all().forget("location", name);
    }
}

/// The metrics of one location.
#[derive(Debug, Clone)]
pub struct Location {
    metrics: Metrics,
    name: Arc<str>,
}

impl Location {
    fn all(&self) -> &Definitions {
        self.metrics.all()
    }

    pub fn uploaded(&self, bytes: u64) {
        self.all().uploaded_bytes.with_label_values(&[&self.name]).inc_by(bytes);
    }

    pub fn downloaded(&self, bytes: u64) {
        self.all().downloaded_bytes.with_label_values(&[&self.name]).inc_by(bytes);
    }

    /// Counts a part as in flight until the guard is dropped.
    #[must_use]
    pub fn part_in_flight(&self) -> InFlight {
        let gauge = self.all().upload_parts_in_flight.with_label_values(&[&self.name]);
        gauge.inc();
        InFlight { gauge, duration: self.all().upload_part_duration.with_label_values(&[&self.name]), took: None }
    }

    pub fn upload_ended(&self, outcome: Outcome) {
        self.all().uploads.with_label_values(&[&self.name, outcome.as_str()]).inc();
    }

    pub fn upload_aborted(&self, reason: AbortReason, outcome: Outcome) {
        self.all().uploads_aborted.with_label_values(&[&self.name, reason.as_str(), outcome.as_str()]).inc();
    }

    /// Uploads that an earlier process left and that still exist.
    pub fn interrupted_uploads(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.all().interrupted_uploads.with_label_values(&[&self.name]).set(count);
    }

    pub fn swept(&self, outcome: Outcome) {
        self.all().swept_uploads.with_label_values(&[&self.name, outcome.as_str()]).inc();
    }

    /// Counts one request with all its attempts.
    pub fn request(&self, service: &'static str, operation: &str, outcome: Outcome, took: Duration) {
        self.all().requests.with_label_values(&[&self.name, service, operation, outcome.as_str()]).inc();
        self.all().request_duration.with_label_values(&[service, operation]).observe(took.as_secs_f64());
    }

    /// Counts an attempt that failed with `class` and is repeated.
    pub fn retried(&self, service: &'static str, class: Class) {
        self.all().request_retries.with_label_values(&[&self.name, service, class.as_str()]).inc();
    }

    /// Counts a request that failed with `class` for good.
    pub fn failed(&self, service: &'static str, class: Class) {
        self.all().errors.with_label_values(&[&self.name, service, class.as_str()]).inc();
    }

    /// `None` for credentials that do not expire: the series is absent then.
    pub fn credentials_expiry(&self, unix_seconds: Option<f64>) {
        match unix_seconds {
            Some(seconds) => self.all().credentials_expiry.with_label_values(&[&self.name]).set(seconds),
            None => drop(self.all().credentials_expiry.remove_label_values(&[&self.name])),
        }
    }

    pub fn credentials_refreshed(&self, outcome: Outcome) {
        self.all().credentials_refresh.with_label_values(&[&self.name, outcome.as_str()]).inc();
    }

    /// When the first certificate of the bundle expires; `None` without a bundle.
    pub fn certificate_expiry(&self, unix_seconds: Option<f64>) {
        match unix_seconds {
            Some(seconds) => self.all().certificate_expiry.with_label_values(&[&self.name]).set(seconds),
            None => drop(self.all().certificate_expiry.remove_label_values(&[&self.name])),
        }
    }

    /// Counts a request to make an object's lock longer.
    pub fn lock_extended(&self, outcome: Outcome) {
        self.all().lock_extensions.with_label_values(&[&self.name, outcome.as_str()]).inc();
    }

    /// When the first lock of what is needed ends, and how long locks are; `None` without locks: the series are absent then.
    pub fn locks(&self, first_end_and_period: Option<(f64, Duration)>) {
        let (end, period) = (&self.all().lock_oldest_expiry, &self.all().lock_period);
        if let Some((first_end, time)) = first_end_and_period {
            end.with_label_values(&[&self.name]).set(first_end);
            period.with_label_values(&[&self.name]).set(time.as_secs_f64());
        } else {
            drop(end.remove_label_values(&[&self.name]));
            drop(period.remove_label_values(&[&self.name]));
        }
    }

    pub fn checked(&self, result: Result<(), ()>, unix_seconds: f64) {
        self.all().location_up.with_label_values(&[&self.name]).set(i64::from(result.is_ok()));
        self.all().location_last_check.with_label_values(&[&self.name]).set(unix_seconds);
    }
}

/// A part in flight; dropped without [`InFlight::arrived`], it records no duration.
#[derive(Debug)]
pub struct InFlight {
    gauge: prometheus::IntGauge,
    duration: prometheus::Histogram,
    took: Option<Duration>,
}

impl InFlight {
    pub fn arrived(mut self, took: Duration) {
        self.took = Some(took);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.dec();
        if let Some(took) = self.took {
            self.duration.observe(took.as_secs_f64());
        }
    }
}

/// The metrics of one job.
#[derive(Debug, Clone)]
pub struct Job {
    metrics: Metrics,
    name: Arc<str>,
}

impl Job {
    fn all(&self) -> &Definitions {
        self.metrics.all()
    }

    /// `class` is the failure's; `None`, for a run without one, is the label `none`.
    pub fn ran(&self, outcome: Outcome, class: Option<Class>, took: Duration) {
        let class = class.map_or("none", Class::as_str);
        self.all().job_runs.with_label_values(&[&self.name, outcome.as_str(), class]).inc();
        self.all().job_duration.with_label_values(&[&self.name]).observe(took.as_secs_f64());
        self.last_outcome(outcome);
    }

    pub fn skipped(&self, reason: SkipReason) {
        self.all().job_runs_skipped.with_label_values(&[&self.name, reason.as_str()]).inc();
    }

    /// Also when restored from the state directory at start.
    pub fn last_outcome(&self, outcome: Outcome) {
        self.all().job_last_outcome.with_label_values(&[&self.name]).set(number(outcome));
    }

    /// Also when restored from the state directory at start.
    pub fn last_success(&self, unix_seconds: f64) {
        self.all().job_last_success.with_label_values(&[&self.name]).set(unix_seconds);
    }

    /// `None` for a job that runs only by hand: the series is absent then.
    pub fn next_run(&self, unix_seconds: Option<f64>) {
        match unix_seconds {
            Some(seconds) => self.all().job_next_run.with_label_values(&[&self.name]).set(seconds),
            None => drop(self.all().job_next_run.remove_label_values(&[&self.name])),
        }
    }

    /// The longest time between two runs; `None` for a job that runs only by hand.
    pub fn interval(&self, interval: Option<Duration>) {
        match interval {
            Some(interval) => self.all().job_interval.with_label_values(&[&self.name]).set(interval.as_secs_f64()),
            None => drop(self.all().job_interval.remove_label_values(&[&self.name])),
        }
    }

    pub fn read(&self, bytes: u64) {
        self.all().source_bytes.with_label_values(&[&self.name]).inc_by(bytes);
    }

    pub fn file(&self) {
        self.all().source_files.with_label_values(&[&self.name]).inc();
    }

    pub fn warning(&self) {
        self.all().source_warnings.with_label_values(&[&self.name]).inc();
    }

    pub fn stored(&self, bytes: u64) {
        self.all().stored_bytes.with_label_values(&[&self.name]).inc_by(bytes);
    }

    /// Plain bytes that the parent already had.
    pub fn deduplicated(&self, bytes: u64) {
        self.all().deduplicated_bytes.with_label_values(&[&self.name]).inc_by(bytes);
    }

    pub fn snapshot_ended(&self, outcome: Outcome, class: Option<Class>, took: Option<Duration>) {
        let class = class.map_or("none", Class::as_str);
        self.all().ebs_snapshots.with_label_values(&[&self.name, outcome.as_str(), class]).inc();
        if let Some(took) = took {
            self.all().ebs_snapshot_duration.with_label_values(&[&self.name]).observe(took.as_secs_f64());
        }
    }

    pub fn snapshots_pending(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.all().ebs_snapshots_pending.with_label_values(&[&self.name]).set(count);
    }

    /// What listing a cluster took.
    pub fn listed(&self, record: &Record) {
        let sum = |of: fn(&ResourceRecord) -> u64| record.resources.values().map(of).sum();
        self.all().kubernetes_list_pages.with_label_values(&[&self.name]).inc_by(sum(|resource| resource.pages));
        self.all().kubernetes_lists_expired.with_label_values(&[&self.name]).inc_by(sum(|resource| resource.expired));
    }

    /// What the job's last round over the volumes of pods saved, in place of what the one before did; `failed` of them failed.
    pub fn claims(&self, record: &round::Record, failed: usize) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let all = self.all();
        let saved = record.saved.len().saturating_sub(failed);
        for (state, number) in [("saved", saved), ("failed", failed), ("missing", record.missing.len())] {
            all.claims.with_label_values(&[&*self.name, state]).set(count(number));
        }
        definitions::forget(&all.claims_unsaved, "job", &self.name);
        for (reason, number) in &record.reasons {
            let number = i64::try_from(*number).unwrap_or(i64::MAX);
            all.claims_unsaved.with_label_values(&[&*self.name, reason.as_str()]).set(number);
        }
        let lost = i64::try_from(record.losses).unwrap_or(i64::MAX);
        all.claims_lost.with_label_values(&[&self.name]).set(lost.saturating_add(count(failed)));
    }

    /// Commands that must still be run in pods.
    pub fn hooks_owed(&self, commands: usize) {
        let commands = i64::try_from(commands).unwrap_or(i64::MAX);
        self.all().hooks_owed.with_label_values(&[&self.name]).set(commands);
    }

    /// What the job's last backup has of its cluster, in place of what the one before had.
    pub fn objects<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        let (mut saved, mut skipped) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
        let unavailable = &self.all().kubernetes_groups_unavailable;
        definitions::forget(unavailable, "job", &self.name);
        for record in records {
            let groups = record.groups.stale.len() + record.groups.missing.len();
            unavailable.with_label_values(&[&self.name]).add(i64::try_from(groups).unwrap_or(i64::MAX));
            for (resource, of) in &record.resources {
                *saved.entry(resource).or_default() += of.objects;
            }
            for (reason, count) in record.skipped() {
                *skipped.entry(reason).or_default() += count;
            }
        }
        for (family, counts) in
            [(&self.all().kubernetes_objects, saved), (&self.all().kubernetes_objects_skipped, skipped)]
        {
            definitions::forget(family, "job", &self.name);
            for (label, count) in counts {
                family.with_label_values(&[&*self.name, label]).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Committed backups of this job and node in the store.
    pub fn backups(&self, count: usize) {
        self.all().backups.with_label_values(&[&self.name]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn backup_deleted(&self, outcome: Outcome) {
        self.all().backups_deleted.with_label_values(&[&self.name, outcome.as_str()]).inc();
    }
}
