//! Builds the document that `/api/v1/status`, `penstock status` and the page show; docs/status.schema.json describes it.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::board::{Cause, Entry, Running};
use super::locations::{Credentials, Location};
use super::state::Ended;
use crate::error::Report;
use crate::metrics::Outcome;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub cluster: String,
    pub node: String,
    pub started: Timestamp,
    /// When the document was made.
    pub now: Timestamp,
    pub ready: bool,
    /// Why the daemon is not ready.
    pub not_ready: Option<String>,
    pub configuration: Configuration,
    pub memory: Memory,
    pub locations: Vec<LocationStatus>,
    pub jobs: Vec<JobStatus>,
    /// Newest first.
    pub errors: Vec<ErrorStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Configuration {
    pub file: String,
    /// When the configuration in use was read.
    pub loaded: Timestamp,
    /// The fault of the present file; the configuration in use is then an older one.
    pub refused: Option<ErrorStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    pub budget_bytes: u64,
    pub in_use_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocationStatus {
    pub name: String,
    pub bucket: String,
    pub region: String,
    /// `None` before the first check.
    pub up: Option<bool>,
    pub last_check: Option<Timestamp>,
    pub error: Option<Report>,
    /// `unknown`, `valid` or `refused`.
    pub credentials: String,
    /// `None` for credentials that do not expire.
    pub credentials_expire: Option<Timestamp>,
    pub certificate_expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobStatus {
    pub name: String,
    pub location: String,
    pub schedule: Option<String>,
    pub time_zone: String,
    /// The next run by the schedule, with the node's delay.
    pub next_run: Option<Timestamp>,
    /// When a failed run is retried, if before that.
    pub retry: Option<Timestamp>,
    /// Since when the job is due and waits for other jobs to end.
    pub waiting_since: Option<Timestamp>,
    pub running: Option<RunningStatus>,
    pub last: Option<LastRun>,
    /// When the last good backup was committed.
    pub last_success: Option<Timestamp>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningStatus {
    pub since: Timestamp,
    /// `schedule`, `catch-up`, `retry` or `trigger`.
    pub cause: String,
    pub plain_bytes: u64,
    /// `None` if the source does not know its size.
    pub expected_bytes: Option<u64>,
    pub stored_bytes: u64,
    pub files: u64,
    pub warnings: u64,
    /// EBS snapshots that the run has started.
    pub snapshots: u64,
    pub snapshots_completed: u64,
    /// Objects of a cluster that were listed.
    #[serde(default)]
    pub objects: u64,
    /// The kind of a cluster's objects that is listed now, such as `deployments.apps`.
    #[serde(default)]
    pub listing: Option<String>,
    /// Volumes of pods that the run saves.
    #[serde(default)]
    pub volumes: u64,
    /// Those that were tried.
    #[serde(default)]
    pub volumes_done: u64,
    #[serde(default)]
    pub volumes_failed: u64,
    /// The volume that is saved now, `NAMESPACE/CLAIM`.
    #[serde(default)]
    pub volume: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastRun {
    pub started: Timestamp,
    pub finished: Timestamp,
    pub outcome: Outcome,
    /// The committed backup's ID.
    pub backup: Option<String>,
    pub error: Option<Report>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorStatus {
    pub at: Timestamp,
    /// `job`, `location` or `configuration`.
    pub kind: String,
    /// The name of the job or location; empty for the configuration.
    pub name: String,
    #[serde(flatten)]
    pub report: Report,
}

impl From<&Ended> for LastRun {
    fn from(ended: &Ended) -> Self {
        let Ended { started, finished, outcome, backup, error } = ended.clone();
        Self { started, finished, outcome, backup, error }
    }
}

impl Cause {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::CatchUp => "catch-up",
            Self::Retry => "retry",
            Self::Trigger => "trigger",
        }
    }
}

impl Status {
    pub(super) fn of(daemon: &Daemon, now: Timestamp) -> Self {
        let not_ready = daemon.readiness(now).err();
        let (budget, history) = (&daemon.runner.process.budget, daemon.runner.history.list());
        let inside = daemon.lock();
        let refused = inside.refused.as_ref().map(|(at, report)| error(*at, "configuration", "", report));
        Self {
            version: super::VERSION.to_owned(),
            cluster: inside.config.cluster.to_string(),
            node: inside.config.node.to_string(),
            started: daemon.started,
            now,
            ready: not_ready.is_none(),
            not_ready,
            configuration: Configuration { file: daemon.file.display().to_string(), loaded: inside.loaded, refused },
            memory: Memory { budget_bytes: budget.total(), in_use_bytes: budget.in_use() },
            locations: inside.locations.values().map(|location| location_status(location)).collect(),
            jobs: inside.board.jobs().map(job_status).collect(),
            errors: history
                .iter()
                .map(|failure| error(failure.at, failure.about.as_str(), &failure.name, &failure.report))
                .collect(),
        }
    }
}

fn error(at: Timestamp, kind: &str, name: &str, report: &Report) -> ErrorStatus {
    ErrorStatus { at, kind: kind.to_owned(), name: name.to_owned(), report: report.clone() }
}

fn location_status(location: &Location) -> LocationStatus {
    let health = location.health();
    let (credentials, credentials_expire) = match &health.credentials {
        Credentials::Unknown => ("unknown", None),
        Credentials::Valid { expiry } => ("valid", *expiry),
        Credentials::Refused(_) => ("refused", None),
    };
    LocationStatus {
        name: location.open.config.name.clone(),
        bucket: location.open.config.bucket.clone(),
        region: location.open.config.region.clone(),
        up: health.checked.as_ref().map(|(_, result)| result.is_ok()),
        last_check: health.checked.as_ref().map(|(at, _)| *at),
        error: health.checked.and_then(|(_, result)| result.err()),
        credentials: credentials.to_owned(),
        credentials_expire,
        certificate_expires: location.open.remote.certificate_expiry(),
    }
}

pub(super) fn running_status(running: &Running) -> RunningStatus {
    let progress = &running.progress;
    let expected = progress.expected.load(Ordering::Relaxed);
    RunningStatus {
        since: running.since,
        cause: running.cause.as_str().to_owned(),
        plain_bytes: progress.plain.load(Ordering::Relaxed),
        expected_bytes: (expected > 0).then_some(expected),
        stored_bytes: progress.sent.load(Ordering::Relaxed),
        files: progress.files.load(Ordering::Relaxed),
        warnings: progress.warnings.load(Ordering::Relaxed),
        snapshots: progress.snapshots.snapshots.load(Ordering::Relaxed),
        snapshots_completed: progress.snapshots.completed.load(Ordering::Relaxed),
        objects: progress.objects.objects.load(Ordering::Relaxed),
        listing: progress.objects.current(),
        volumes: progress.claims.total.load(Ordering::Relaxed),
        volumes_done: progress.claims.done.load(Ordering::Relaxed),
        volumes_failed: progress.claims.failed.load(Ordering::Relaxed),
        volume: progress.claims.current(),
    }
}

/// `in 5m 3s`, `2h 1m ago`.
#[must_use]
pub fn when(at: Timestamp, now: Timestamp) -> String {
    let away = at.duration_since(now);
    let seconds = away.unsigned_abs().as_secs();
    let text = match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..172_800 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d", seconds / 86_400),
    };
    if away.is_positive() { format!("in {text}") } else { format!("{text} ago") }
}

fn job_status(entry: &Entry) -> JobStatus {
    JobStatus {
        name: entry.job.name.to_string(),
        location: entry.job.location.clone(),
        schedule: entry.job.schedule.as_ref().map(ToString::to_string),
        time_zone: entry.job.time_zone.clone(),
        next_run: entry.next,
        retry: entry.retry,
        waiting_since: entry.waiting.as_ref().map(|waiting| waiting.since),
        running: entry.running.as_ref().map(running_status),
        last: entry.record.last.as_ref().map(LastRun::from),
        last_success: entry.record.last_success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_by_their_distance() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (away, text) in [
            (50, "in 50s"),
            (-50, "50s ago"),
            (603, "in 10m 3s"),
            (-7_300, "2h 1m ago"),
            (900_000, "in 10d"),
            (0, "0s ago"),
        ] {
            assert_eq!(when(now + jiff::SignedDuration::from_secs(away), now), text);
        }
    }
}
