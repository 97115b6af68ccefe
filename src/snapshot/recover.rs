//! What earlier runs left: pending snapshots, and runs that died.
//!
//! One look, no waiting; whatever cannot be done now stays recorded for the next time. Called before a job's own snapshots, at the
//! daemon's start, and now and then while it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::record::{Lock, Phase, Record};
use super::session::named;
use super::wait;
use super::{Error, Records, Service, delete};
use crate::checksum::Algorithm;
use crate::error::{Class, Classify as _};
use crate::format::manifest::{self, Manifest, Moment};
use crate::metrics::Metrics;
use crate::retry::with_retries;
use crate::store::{self, Overwrite, Payload, Store};

/// A request that was in flight when a process died may be served later; nothing of a dead run appears after this long.
const LATE: Duration = Duration::from_mins(10);

/// What a recovery works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub service: &'a Service,
    pub store: &'a dyn Store,
    pub records: &'a Records,
    pub location: &'a str,
    pub checksum: Algorithm,
    pub metrics: &'a Metrics,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("location", &self.location).finish_non_exhaustive()
    }
}

/// Works on the records of every job at the location that does not run now. Failures are logged, and leave the record.
pub async fn all(context: Context<'_>) {
    let jobs = match context.records.jobs(context.location) {
        Ok(jobs) => jobs,
        Err(error) => return tracing::error!(class = %error.class(), %error, "records of snapshots cannot be read"),
    };
    for name in jobs {
        match context.records.lock(&name) {
            Ok(lock) => drop(job(context, &lock).await),
            Err(Error::Running { .. }) => {}
            Err(error) => tracing::error!(job = %name, class = %error.class(), %error, "records of snapshots are left"),
        }
    }
}

/// Works on the records of the job that `lock` is for. Failures are logged, and leave the record. How many snapshots are known to
/// be pending still.
pub async fn job(context: Context<'_>, lock: &Lock) -> usize {
    let records = match context.records.of(lock, context.location) {
        Ok(records) => records,
        Err(error) => {
            tracing::error!(class = %error.class(), %error, "records of snapshots cannot be read");
            return 0;
        }
    };
    let mut pending = 0;
    for record in records {
        let owner = record.saved.owner();
        match one(context, record).await {
            Ok(count) => pending += count,
            Err(error) => {
                tracing::error!(backup = %owner, class = %error.class(), %error, "its snapshots are looked after again later");
            }
        }
    }
    context.metrics.job(lock.job().as_str()).snapshots_pending(pending);
    pending
}

/// How many snapshots are pending still.
async fn one(context: Context<'_>, record: Record<'_>) -> Result<usize, Error> {
    match (committed(context, &record).await?, record.saved.phase.clone()) {
        (Some(manifest), _) => finish(context, record, manifest, Overwrite::Allow).await,
        (None, Phase::Captured(_)) if was_deleted(context, &record).await? => {
            tracing::info!(backup = %record.saved.owner(), "it was deleted while its snapshots were pending");
            record.remove()?;
            Ok(0)
        }
        (None, Phase::Captured(manifest)) => finish(context, record, *manifest, Overwrite::Refuse).await,
        (None, Phase::Creating) => abandon(context, record).await,
    }
}

/// The backup's manifest, if it is committed.
async fn committed(context: Context<'_>, record: &Record<'_>) -> Result<Option<Manifest>, Error> {
    let key = record.saved.backup().manifest();
    let refused = |error| Error::Manifest { key: key.clone(), error };
    let read = || store::read(context.store, &key, manifest::MAX_SIZE);
    let bytes = match with_retries("GetObject", &key, read).await {
        Ok(bytes) => bytes,
        Err(error) if error.class == Class::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let owner = record.saved.owner();
    let home = record.saved.cluster_prefix();
    Manifest::parse(&bytes, &owner.chain, &owner.id, &home).map(Some).map_err(refused)
}

/// Whether it was committed, and deleted since: its snapshots then go with the last of its manifest (docs/decisions/0035).
async fn was_deleted(context: Context<'_>, record: &Record<'_>) -> Result<bool, Error> {
    let key = record.saved.backup().deleted();
    match with_retries("HeadObject", &key, || context.store.head(&key)).await {
        Ok(_) => Ok(true),
        Err(error) if error.class == Class::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Nothing was captured: the snapshots are deleted, since no manifest will ever name them.
async fn abandon(context: Context<'_>, record: Record<'_>) -> Result<usize, Error> {
    let owner = record.saved.owner();
    let deletion = delete::all_but(&*context.service.disks, &owner, &BTreeSet::new()).await?;
    deletion.log(&owner);
    let age = Timestamp::now().duration_since(record.saved.written);
    if deletion.kept.is_empty() && Duration::try_from(age).is_ok_and(|age| age > LATE) {
        record.remove()?;
    }
    Ok(0)
}

/// Everything was captured: what EC2 says of the pending snapshots now goes into the manifest.
async fn finish(
    context: Context<'_>,
    record: Record<'_>,
    mut manifest: Manifest,
    overwrite: Overwrite,
) -> Result<usize, Error> {
    let owner = record.saved.owner();
    let job = context.metrics.job(owner.chain.job.as_str());
    let ids = wait::pending_ids(&manifest.items);
    let seen = wait::look(&*context.service.disks, &ids).await?;
    let late = Duration::try_from(Timestamp::now().duration_since(record.saved.written)).is_ok_and(|age| age > LATE);
    if overwrite == Overwrite::Refuse && late && seen.is_empty() && !ids.is_empty() {
        tracing::warn!(backup = %owner, "its snapshots are gone: it was deleted, and is not committed again");
        return record.remove().map(|()| 0);
    }
    let before = manifest.clone();
    wait::settle(&mut manifest.items, &seen, |_| late, &job);
    manifest.outcome = manifest.judge(Moment::Settled);
    if overwrite == Overwrite::Refuse || manifest != before {
        put(context, &record, &manifest, overwrite).await?;
        tracing::info!(backup = %owner, outcome = manifest.outcome.as_str(), "the record of its snapshots is brought up to date");
    }
    let pending = wait::pending_ids(&manifest.items).len();
    if pending > 0 {
        return Ok(pending);
    }
    let strays = delete::all_but(&*context.service.disks, &owner, &named(&manifest)).await?;
    strays.log(&owner);
    record.remove().map(|()| 0)
}

async fn put(
    context: Context<'_>,
    record: &Record<'_>,
    manifest: &Manifest,
    overwrite: Overwrite,
) -> Result<(), store::Error> {
    let key = record.saved.backup().manifest();
    let payload = Payload::new(manifest.to_json(), context.checksum);
    match with_retries("PutObject", &key, || context.store.put(&key, payload.clone(), overwrite)).await {
        // An earlier attempt whose reply was lost: nobody else writes this key.
        Err(error) if error.class == Class::Conflict => {}
        result => result?,
    }
    // The record, which could say it once more, goes next.
    match with_retries("HeadObject", &key, || context.store.head(&key)).await {
        Ok(found) if found.is(payload.size(), payload.checksum) => Ok(()),
        Ok(_) => {
            let message = "the store said that it took the manifest, and another object lies there";
            Err(store::Error::local("HeadObject", &key, Class::Compat, message))
        }
        Err(denied) if denied.class == Class::AccessDenied => Ok(()),
        Err(error) => Err(error),
    }
}
