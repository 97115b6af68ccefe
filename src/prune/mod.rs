//! Deletes backups, and the objects that no manifest names any more.
//!
//! # Consistency
//! A backup is deleted by renaming its manifest to `deleted.json`, its tombstone (the tombstone is written, then the manifest deleted).
//! From then on no reader sees the backup, but its objects stay for the grace period, so that a restore in progress can finish. Then the
//! objects are deleted that neither a manifest of the chain nor a tombstone within its grace period names. The tombstone goes last, after
//! the EBS snapshots that it names: without it they could not be found.
//!
//! A chain is one job on one node. Nothing here touches another chain, or a key that Penstock does not write. An unreadable manifest
//! stops the whole chain, since the objects that it names are unknown.
//!
//! # Crash consistency
//! There is no journal. The next run finds in the listing what a crash left (a tombstone beside its manifest, objects that no manifest
//! names) and continues. It finds the objects of a run that died before its manifest in the same way.
//!
//! # Cancellation and failure
//! Cancellation, or the deadline, takes effect between any two requests. A failed request is reported and counted; the others go on.
//!
//! # Versions and locks
//! In a bucket that keeps versions a deletion hides an object and frees nothing: [`Pruned::hidden`]. In a location that locks objects the
//! version itself is deleted when its lock is over, and stays until then: the module `locked`.
//!
//! # What it costs
//! Two listing requests for each thousand objects of the chain (one to find its backups, one to find the garbage), one GET for each
//! manifest, and for each backup to be deleted a GET, a PUT and the DELETEs, [`PARALLEL`] at a time.
//!
//! Memory: some hundred bytes for each backup, eight or sixteen for each object that each manifest names, none for objects that are only
//! listed. An eighth of `limits.memory` is for the manifests being read, as many at a time as fit. If the rest is too small, the run
//! fails before it deletes anything.

mod apply;
mod garbage;
mod locked;
mod read;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use crate::catalog::{self, Catalog, Found, Memory};
use crate::config::{self, Retention};
use crate::error::{Class, Classify, Report};
use crate::format::key::{BackupId, Chain, ObjectKey};
use crate::metrics;
use crate::retention::{self, Reason};
use crate::store;

pub use apply::apply;
pub use garbage::{Count, Garbage};
use garbage::{Judge, release};
use locked::Held;
pub use read::Planned;
use read::{Chained, Keys};

/// The default grace period of objects that no manifest names: a day, as in kopia's maintenance.
pub const GRACE: Duration = Duration::from_hours(24);

/// How long one run may take. The next run does the rest.
pub const DEADLINE: Duration = Duration::from_mins(30);

/// Requests at a time. S3 allows 3,500 DELETEs a second below one prefix, far more.
const PARALLEL: usize = 16;

/// How many failures are kept with their text. All are counted.
const MAX_FAILURES: usize = 100;

/// Where to prune, and with which grace period.
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

/// The rules by which a chain's backups stay.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `None`: every backup stays, only garbage is deleted.
    pub retention: Option<Retention>,
    /// The time zone of days, weeks and months.
    pub zone: TimeZone,
}

impl Rules {
    /// A job's configured retention.
    #[must_use]
    pub fn of(job: &config::Job) -> Self {
        let zone = TimeZone::get(&job.time_zone).unwrap_or_else(|error| {
            // The configuration was checked, but the zone may have been removed from the system since.
            tracing::warn!(job = %job.name, %error, "could not load the job's time zone: retention counts days in UTC");
            TimeZone::UTC
        });
        Self { retention: job.retention, zone }
    }
}

/// The grace period of a configured job, or the default.
#[must_use]
pub fn grace_of(job: Option<&config::Job>) -> Duration {
    job.and_then(|job| job.retention?.grace).unwrap_or(GRACE)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of the chain was changed.
    #[error("could not prune the job {} on node {}: {error}", chain.job, chain.node)]
    Chain {
        chain: Chain,
        #[source]
        error: catalog::Error,
    },
    #[error("no backup {id} of job {} on node {}", chain.job, chain.node)]
    NotFound { chain: Chain, id: BackupId },
    /// The chain was pruned.
    #[error("could not extend the locks of the job {} on node {}: {error}", chain.job, chain.node)]
    Locks {
        chain: Chain,
        #[source]
        error: catalog::Error,
    },
    #[error("backup {id} of job {} on node {} is held", chain.job, chain.node)]
    Held { chain: Chain, id: BackupId },
    #[error("could not ask whether backup {id} of job {} on node {} is held: {error}", chain.job, chain.node)]
    PerhapsHeld {
        chain: Chain,
        id: BackupId,
        #[source]
        error: store::Error,
    },
    #[error("cancelled; the next run continues")]
    Cancelled,
    #[error("pruning did not finish within {0:?}; the next run continues")]
    Deadline(Duration),
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Chain { error, .. } => {
                let report = Report { message: self.to_string(), ..error.report() };
                match error {
                    catalog::Error::Manifest { .. } if report.class == Class::Integrity => report.remedy(
                        "nothing is deleted, since the objects of this backup are unknown; `penstock delete` with its id deletes it",
                    ),
                    catalog::Error::Manifest { .. }
                    | catalog::Error::Store(_)
                    | catalog::Error::NotFound { .. }
                    | catalog::Error::Ambiguous { .. }
                    | catalog::Error::Unknown { .. }
                    | catalog::Error::Memory { .. } => report,
                }
            }
            Self::Locks { error, .. } => Report { message: self.to_string(), ..error.report() },
            Self::PerhapsHeld { error, .. } => Report { message: self.to_string(), ..error.report() },
            Self::NotFound { .. } => Report::new(Class::NotFound, self.to_string()),
            Self::Held { id, .. } => Report::new(Class::Conflict, self.to_string())
                .remedy(format!("`penstock hold {id} --release` ends the hold")),
            Self::Cancelled => Report::new(Class::Cancelled, self.to_string()),
            Self::Deadline(_) => Report::new(Class::Timeout, self.to_string()),
        }
    }
}

/// When objects that only a deleted backup needs may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    AfterGrace,
    /// A restore in progress fails.
    AtOnce,
}

/// The plan for a chain: which backups to delete, and why the others stay.
#[derive(Debug)]
pub struct Plan {
    pub chain: Chain,
    /// Newest first.
    pub backups: Vec<Planned>,
    tombstones: Vec<read::Tombstone>,
    /// When the newest object of each backup was stored, also of backups without a manifest.
    active: HashMap<BackupId, Timestamp>,
    keys: Keys,
    /// The rest of `limits.memory`, for output about the plan.
    pub memory: Memory,
    grace: Duration,
    /// When the grace period of the backups that this plan deletes is over.
    release: Timestamp,
    now: Timestamp,
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Pruned {
    pub deleted: Vec<BackupId>,
    /// How many committed backups are left.
    pub kept: usize,
    pub objects: u64,
    pub bytes: u64,
    /// Deleted objects that a versioned bucket still stores, behind delete markers.
    pub hidden: Count,
    /// Objects that nothing needs, and that stay because they are locked.
    pub locked: Locked,
    /// Garbage: the due part was deleted, the rest is within its grace period.
    pub waiting: Garbage,
    pub failures: Failures,
}

/// Objects that stay because they are locked or held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Locked {
    pub count: Count,
    /// When the last lock ends; later than any date for a hold.
    pub until: Option<Timestamp>,
}

impl Locked {
    fn add(&mut self, object: &Found, until: Timestamp) {
        self.count.add(object);
        self.until = self.until.max(Some(until));
    }
}

/// What a run would find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    pub garbage: Garbage,
    /// Due garbage that an earlier run found locked.
    pub locked: Locked,
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
        tracing::error!(%key, class = %report.class, "could not delete: {}", report.message);
        self.count += 1;
        if self.list.len() < MAX_FAILURES {
            self.list.push((key.clone(), report));
        }
    }
}

/// Applies `rules` to one chain: [`plan`], then [`fn@apply`], within [`DEADLINE`]. Costs only the listing if every backup stays and
/// there is no garbage.
///
/// # Errors
/// When the chain cannot be read, or the run is not finished in time.
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

/// Deletes the backups `ids` of one chain, and the garbage.
///
/// # Errors
/// When one of them does not exist or another manifest of the chain cannot be read: then nothing is deleted. Or when the run is not
/// finished in time.
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

/// Runs `work` until it ends, is cancelled, or takes too long. Dropping it is safe at any point: see "Crash consistency".
///
/// # Errors
/// The error of `work`, or why it was dropped.
pub async fn bounded<T>(work: impl Future<Output = Result<T, Error>>, cancel: &CancellationToken) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        result = tokio::time::timeout(DEADLINE, work) => result.unwrap_or(Err(Error::Deadline(DEADLINE))),
    }
}

/// Plans what to do to one chain. Changes nothing.
///
/// # Errors
/// When the chain cannot be read.
pub async fn plan(ctx: &Context, chain: &Chain, rules: &Rules, now: Timestamp) -> Result<Plan, Error> {
    let Chained { manifests, tombstones, active, keys, memory } = read::chain(ctx, chain, now).await?;
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    let manifests = manifests.into_iter().map(|(entry, read)| Ok((entry, read?))).collect::<Result<Vec<_>, _>>();
    let manifests = manifests.map_err(failed)?;
    let backups: Vec<_> = manifests.iter().map(|(_, summary)| summary.backup.clone()).collect();
    let reasons = retention::decide(rules.retention.as_ref(), &rules.zone, &backups);
    let backups = manifests.into_iter().zip(reasons);
    let planned = backups.map(|((entry, summary), reasons)| Planned { entry, summary: Some(summary), reasons });
    let mut backups: Vec<Planned> = planned.collect();
    for backup in backups.iter_mut().filter(|backup| !backup.stays()) {
        match locked::held(&ctx.catalog.location, &backup.entry).await.map_err(|error| failed(error.into()))? {
            Held::No => {}
            Held::Yes => backup.reasons.push(Reason::Held),
            Held::Unknown(error) => {
                tracing::warn!(backup = %backup.entry.id, remedy = error.remedy, %error, "could not ask whether the backup is held: it stays");
                backup.reasons.push(Reason::PerhapsHeld);
            }
        }
    }
    let (grace, release) = (ctx.grace, release(now, ctx.grace));
    Ok(Plan { chain: chain.clone(), backups, tombstones, active, keys, memory, grace, release, now })
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
    let Chained { manifests, tombstones, active, keys, memory } = read::chain(ctx, chain, now).await?;
    if let Some(id) = ids.iter().find(|id| !manifests.iter().any(|(entry, _)| entry.id == **id)) {
        return Err(Error::NotFound { chain: chain.clone(), id: id.clone() });
    }
    let mut backups = Vec::new();
    for (entry, read) in manifests {
        let named = ids.contains(&entry.id);
        let failed = |error: store::Error| Error::Chain { chain: chain.clone(), error: error.into() };
        if named {
            let (chain, id) = (chain.clone(), entry.id.clone());
            match locked::held(&ctx.catalog.location, &entry).await.map_err(failed)? {
                Held::No => {}
                Held::Yes => return Err(Error::Held { chain, id }),
                Held::Unknown(error) => return Err(Error::PerhapsHeld { chain, id, error }),
            }
        }
        let summary = match read {
            Ok(summary) => Some(summary),
            // Nothing can be restored from it. From one of a newer version something can.
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
    Ok(Plan { chain: chain.clone(), backups, tombstones, active, keys, memory, grace: ctx.grace, release, now })
}

/// The garbage that [`fn@apply`] would find if every deletion succeeded.
///
/// # Errors
/// When the chain cannot be listed.
pub async fn survey(ctx: &Context, plan: &Plan) -> Result<Survey, Error> {
    let judge = plan.judge(&plan.to_delete().map(|backup| &backup.entry.id).collect());
    let freeing = locked::Freeing::new(ctx, plan);
    let (mut garbage, mut locked) = (Garbage::default(), Locked::default());
    let mut pages = read::pages(ctx, &plan.chain);
    let failed = |error| Error::Chain { chain: plan.chain.clone(), error };
    while let Some(page) = pages.next().await.map_err(failed)? {
        for object in judge.sort_out(page, &mut garbage) {
            if let Some(until) = freeing.known(&object.key) {
                garbage.due.remove(&object);
                locked.add(&object, until);
            }
        }
    }
    Ok(Survey { garbage, locked })
}

impl Plan {
    /// Whether the store has nothing of this chain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    fn to_delete(&self) -> impl Iterator<Item = &Planned> {
        self.backups.iter().filter(|backup| !backup.stays())
    }

    /// The judge of the chain's objects once the backups `deleted` are gone.
    fn judge(&self, deleted: &HashSet<&BackupId>) -> Judge<'_> {
        let (gone, left): (Vec<_>, Vec<_>) = self.backups.iter().partition(|backup| deleted.contains(&backup.entry.id));
        let mut named: Vec<u64> = Vec::with_capacity(left.iter().map(|backup| backup.named().count()).sum());
        named.extend(left.iter().flat_map(|backup| backup.named()));
        named.sort_unstable();
        named.dedup();
        let count = self.tombstones.iter().map(|tombstone| tombstone.named().count()).sum::<usize>()
            + gone.iter().map(|backup| backup.named().count()).sum::<usize>();
        let mut tombstones = Vec::with_capacity(count);
        tombstones
            .extend(self.tombstones.iter().flat_map(|tombstone| tombstone.named().map(|key| (key, tombstone.release))));
        tombstones.extend(gone.iter().flat_map(|backup| backup.named().map(|key| (key, self.release))));
        // Keep the latest release of each.
        tombstones.sort_unstable_by_key(|(key, release)| (*key, Reverse(*release)));
        tombstones.dedup_by_key(|(key, _)| *key);
        Judge { keys: &self.keys, named, tombstones, active: &self.active, grace: self.grace, now: self.now }
    }
}
