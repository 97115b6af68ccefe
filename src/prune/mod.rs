//! Deletes backups, and the objects that nothing names any more.
//!
//! # Consistency
//! A backup is deleted by renaming its manifest to `deleted.json` (written first, then the manifest is deleted): from then on it
//! is not there for anybody, but what it names stays for the grace period, so that a restore that has begun ends well. Objects
//! go after that, and only those that neither a manifest of the same chain nor a deleted one within its grace period names. The
//! deleted manifest goes last, after the EBS snapshots that it names: without it they could not be found.
//!
//! One chain is one job on one node; nothing here looks at another, or at a key that Penstock does not write. A manifest that
//! cannot be read stops the whole chain: what it names is not known.
//!
//! # Crash consistency
//! There is no journal. Whatever is left half-way (a deleted manifest beside its manifest, objects that nothing names) is what
//! the next run finds in the listing and takes up. Objects of a run that died before its manifest are found the same way.
//!
//! # Cancellation and failure
//! Cancelling, or the deadline, stops between any two requests. A request that fails is reported and counted; the rest goes on.
//!
//! # What it costs
//! Two listing requests for each thousand objects of the chain (one to find its backups, one to find what may go), one GET for
//! each manifest, and for each backup to be deleted a GET, a PUT and the DELETEs, [`PARALLEL`] at a time.
//!
//! Memory: some hundred bytes for each backup and eight or sixteen for each object that each manifest names, none for what is only listed; an eighth
//! of the memory is for the manifests that are being read, as many at a time as fit. Where
//! `limits.memory` is less than that, nothing is done and the error says so.

mod apply;
mod garbage;
mod read;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use crate::catalog::{self, Catalog, Memory};
use crate::config::{self, Retention};
use crate::error::{Class, Classify, Report};
use crate::format::key::{BackupId, Chain, ObjectKey};
use crate::metrics;
use crate::retention::{self, Reason};

pub use apply::apply;
pub use garbage::{Count, Garbage};
use garbage::{Judge, release};
pub use read::Planned;
use read::{Chained, Keys};

/// How long what nothing names stays where nobody says otherwise: a day, as kopia's maintenance waits.
pub const GRACE: Duration = Duration::from_hours(24);

/// How long one run may take. What is left then is the next run's.
pub const DEADLINE: Duration = Duration::from_mins(30);

/// Requests at a time. S3 takes 3,500 DELETEs a second below one prefix; this is far from it.
const PARALLEL: usize = 16;

/// Failures that are kept with their text; above that only the count goes up.
const MAX_FAILURES: usize = 100;

/// What to prune in, and how gently.
#[derive(Debug, Clone)]
pub struct Context {
    pub catalog: Catalog,
    /// See [`grace_of`].
    pub grace: Duration,
}

impl Context {
    fn metrics(&self, chain: &Chain) -> metrics::Job {
        self.catalog.location.process.metrics.job(chain.job.as_str())
    }
}

/// What decides about a chain's backups.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `None`: every backup stays, only garbage goes.
    pub retention: Option<Retention>,
    /// Whose days, weeks and months.
    pub zone: TimeZone,
}

impl Rules {
    /// What a job is configured to keep.
    #[must_use]
    pub fn of(job: &config::Job) -> Self {
        let zone = TimeZone::get(&job.time_zone).unwrap_or_else(|error| {
            // The configuration holds only zones that existed when it was read.
            tracing::warn!(job = %job.name, %error, "retention counts the days of UTC");
            TimeZone::UTC
        });
        Self { retention: job.retention, zone }
    }
}

/// How long what nothing names stays, for a configured job and for what is stored ad hoc.
#[must_use]
pub fn grace_of(job: Option<&config::Job>) -> Duration {
    job.and_then(|job| job.retention?.grace).unwrap_or(GRACE)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain is left as it is.
    #[error("nothing of job {} on node {} was pruned: {error}", chain.job, chain.node)]
    Chain {
        chain: Chain,
        #[source]
        error: catalog::Error,
    },
    #[error("no backup {id} of job {} on node {}", chain.job, chain.node)]
    NotFound { chain: Chain, id: BackupId },
    #[error("cancelled; the next run goes on with what is left")]
    Cancelled,
    #[error("pruning did not finish within {0:?}; the next run goes on with what is left")]
    Deadline(Duration),
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Chain { error, .. } => {
                let report = Report { message: self.to_string(), ..error.report() };
                match error {
                    catalog::Error::Manifest { .. } if report.class == Class::Integrity => report.remedy(
                        "what this backup needs is not known, so nothing is removed; `penstock delete` with its id lets it go",
                    ),
                    catalog::Error::Manifest { .. }
                    | catalog::Error::Store(_)
                    | catalog::Error::NotFound { .. }
                    | catalog::Error::Memory { .. } => report,
                }
            }
            Self::NotFound { .. } => Report::new(Class::NotFound, self.to_string()),
            Self::Cancelled => Report::new(Class::Cancelled, self.to_string()),
            Self::Deadline(_) => Report::new(Class::Timeout, self.to_string()),
        }
    }
}

/// When what only a deleted backup needs may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    AfterGrace,
    /// A restore of it that has begun fails.
    AtOnce,
}

/// What would be done to a chain, and why.
#[derive(Debug)]
pub struct Plan {
    pub chain: Chain,
    /// Newest first.
    pub backups: Vec<Planned>,
    graves: Vec<read::Grave>,
    /// When something was last stored for each backup, of which there may be no more than that.
    active: HashMap<BackupId, Timestamp>,
    keys: Keys,
    /// What is left of `limits.memory`, for what is said of the plan.
    pub memory: Memory,
    grace: Duration,
    /// Of the backups that this plan deletes.
    release: Timestamp,
    now: Timestamp,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Pruned {
    pub deleted: Vec<BackupId>,
    /// Committed backups that are left.
    pub kept: usize,
    pub objects: u64,
    pub bytes: u64,
    /// Deleted objects that a bucket with versions still stores, behind delete markers.
    pub hidden: Count,
    /// What nothing names any more: removed as far as it was due, the rest still has its grace period.
    pub waiting: Garbage,
    pub failures: Failures,
}

/// Requests that failed for good.
#[derive(Debug, Default)]
pub struct Failures {
    /// All of them; `list` holds at most [`MAX_FAILURES`].
    pub count: u64,
    pub list: Vec<(ObjectKey, Report)>,
}

impl Failures {
    fn push(&mut self, key: &ObjectKey, report: Report) {
        tracing::error!(%key, class = %report.class, "not deleted: {}", report.message);
        self.count += 1;
        if self.list.len() < MAX_FAILURES {
            self.list.push((key.clone(), report));
        }
    }
}

/// Applies `rules` to one chain: [`plan`], then [`fn@apply`], within [`DEADLINE`]. A chain of which every backup stays, and in which
/// nothing was left behind, costs its listing and no more.
///
/// # Errors
/// When the chain cannot be read, or not all of it was done in time.
pub async fn prune(
    ctx: &Context,
    chain: &Chain,
    rules: &Rules,
    now: Timestamp,
    cancel: &CancellationToken,
) -> Result<Pruned, Error> {
    let work = async {
        if rules.retention.is_none()
            && let Some(kept) = read::tidy(ctx, chain).await?
        {
            ctx.metrics(chain).backups(kept);
            return Ok(Pruned { kept, ..Pruned::default() });
        }
        Ok(apply(ctx, &plan(ctx, chain, rules, now).await?).await)
    };
    bounded(work, cancel).await
}

/// Deletes the backups `ids` of one chain, and the garbage there is.
///
/// # Errors
/// When one of them does not exist, or another manifest of the chain cannot be read: then nothing is deleted. Or when not all of
/// it was done in time.
pub async fn delete(
    ctx: &Context,
    chain: &Chain,
    ids: &[BackupId],
    reclaim: Reclaim,
    now: Timestamp,
    cancel: &CancellationToken,
) -> Result<Pruned, Error> {
    let work = async { Ok(apply(ctx, &plan_deletion(ctx, chain, ids, reclaim, now).await?).await) };
    bounded(work, cancel).await
}

/// Runs `work` until it ends, is cancelled, or takes too long. It is safe to drop anywhere: see "Crash consistency".
///
/// # Errors
/// The work's own, or why it was dropped.
pub async fn bounded<T>(work: impl Future<Output = Result<T, Error>>, cancel: &CancellationToken) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        result = tokio::time::timeout(DEADLINE, work) => result.unwrap_or(Err(Error::Deadline(DEADLINE))),
    }
}

/// Decides what to do to one chain, and does nothing.
///
/// # Errors
/// When the chain cannot be read.
pub async fn plan(ctx: &Context, chain: &Chain, rules: &Rules, now: Timestamp) -> Result<Plan, Error> {
    let Chained { manifests, graves, active, keys, memory } = read::chain(ctx, chain, now).await?;
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    let manifests = manifests.into_iter().map(|(entry, read)| Ok((entry, read?))).collect::<Result<Vec<_>, _>>();
    let manifests = manifests.map_err(failed)?;
    let backups: Vec<_> = manifests.iter().map(|(_, summary)| summary.backup.clone()).collect();
    let reasons = retention::decide(rules.retention.as_ref(), &rules.zone, &backups);
    let backups = manifests.into_iter().zip(reasons);
    let backups =
        backups.map(|((entry, summary), reasons)| Planned { entry, summary: Some(summary), reasons }).collect();
    let (grace, release) = (ctx.grace, release(now, ctx.grace));
    Ok(Plan { chain: chain.clone(), backups, graves, active, keys, memory, grace, release, now })
}

/// The plan that deletes the backups `ids` and keeps the others.
///
/// # Errors
/// As [`delete`].
pub async fn plan_deletion(
    ctx: &Context,
    chain: &Chain,
    ids: &[BackupId],
    reclaim: Reclaim,
    now: Timestamp,
) -> Result<Plan, Error> {
    let Chained { manifests, graves, active, keys, memory } = read::chain(ctx, chain, now).await?;
    if let Some(id) = ids.iter().find(|id| !manifests.iter().any(|(entry, _)| entry.id == **id)) {
        return Err(Error::NotFound { chain: chain.clone(), id: id.clone() });
    }
    let mut backups = Vec::new();
    for (entry, read) in manifests {
        let named = ids.contains(&entry.id);
        let summary = match read {
            Ok(summary) => Some(summary),
            // Nobody can restore from it. One of a newer version somebody can.
            Err(error @ catalog::Error::Manifest { .. }) if named && error.class() == Class::Integrity => None,
            Err(error) => return Err(Error::Chain { chain: chain.clone(), error }),
        };
        let reasons = if named { Vec::new() } else { vec![Reason::NotNamed] };
        backups.push(Planned { entry, summary, reasons });
    }
    let release = match reclaim {
        Reclaim::AfterGrace => release(now, ctx.grace),
        Reclaim::AtOnce => now,
    };
    Ok(Plan { chain: chain.clone(), backups, graves, active, keys, memory, grace: ctx.grace, release, now })
}

/// What [`fn@apply`] would find to be garbage if every deletion succeeded.
///
/// # Errors
/// When the chain cannot be listed.
pub async fn survey(ctx: &Context, plan: &Plan) -> Result<Garbage, Error> {
    let judge = plan.judge(&plan.doomed().map(|backup| &backup.entry.id).collect());
    let mut garbage = Garbage::default();
    let mut pages = read::pages(ctx, &plan.chain);
    let failed = |error| Error::Chain { chain: plan.chain.clone(), error };
    while let Some(page) = pages.next().await.map_err(failed)? {
        judge.sort_out(page, &mut garbage);
    }
    Ok(garbage)
}

impl Plan {
    /// Whether there is nothing of this chain in the store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    fn doomed(&self) -> impl Iterator<Item = &Planned> {
        self.backups.iter().filter(|backup| !backup.stays())
    }

    /// What decides about the chain's objects when the backups `deleted` are gone.
    fn judge(&self, deleted: &HashSet<&BackupId>) -> Judge<'_> {
        let (gone, left): (Vec<_>, Vec<_>) = self.backups.iter().partition(|backup| deleted.contains(&backup.entry.id));
        let mut named: Vec<u64> = Vec::with_capacity(left.iter().map(|backup| backup.named().count()).sum());
        named.extend(left.iter().flat_map(|backup| backup.named()));
        named.sort_unstable();
        named.dedup();
        let count = self.graves.iter().map(|grave| grave.named().count()).sum::<usize>()
            + gone.iter().map(|backup| backup.named().count()).sum::<usize>();
        let mut graves = Vec::with_capacity(count);
        graves.extend(self.graves.iter().flat_map(|grave| grave.named().map(|key| (key, grave.release))));
        graves.extend(gone.iter().flat_map(|backup| backup.named().map(|key| (key, self.release))));
        // The last release of each stays.
        graves.sort_unstable_by_key(|(key, release)| (*key, Reverse(*release)));
        graves.dedup_by_key(|(key, _)| *key);
        Judge { keys: &self.keys, named, graves, active: &self.active, grace: self.grace, now: self.now }
    }
}
