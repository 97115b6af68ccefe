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
use super::{Error, Records, delete};
use crate::error::{Class, Classify as _};
use crate::format::manifest::{self, Manifest, Moment};
use crate::location::Location;
use crate::store::{self, Overwrite, Payload};

/// A request that was in flight when a process died may be served later; nothing of a dead run appears after this long.
const LATE: Duration = Duration::from_mins(10);

/// Works on the records of every job at the location that does not run now. Failures are logged, and leave the record.
pub async fn all(location: &Location) {
    let records = Records::new(&location.process.state_dir);
    let jobs = match records.jobs(location.name()) {
        Ok(jobs) => jobs,
        Err(error) => return tracing::error!(class = %error.class(), %error, "records of snapshots cannot be read"),
    };
    for name in jobs {
        match records.lock(&name) {
            Ok(lock) => drop(job(location, &lock).await),
            Err(Error::Running { .. }) => {}
            Err(error) => tracing::error!(job = %name, class = %error.class(), %error, "records of snapshots are left"),
        }
    }
}

/// Works on the records of the job that `lock` is for. Failures are logged, and leave the record. How many snapshots are known to
/// be pending still.
pub async fn job(location: &Location, lock: &Lock) -> usize {
    let records = match Records::new(&location.process.state_dir).of(lock, location.name()) {
        Ok(records) => records,
        Err(error) => {
            tracing::error!(class = %error.class(), %error, "records of snapshots cannot be read");
            return 0;
        }
    };
    let mut pending = 0;
    for record in records {
        let owner = record.saved.owner();
        match one(location, record).await {
            Ok(count) => pending += count,
            Err(error) => {
                tracing::error!(backup = %owner, class = %error.class(), %error, "its snapshots are looked after again later");
            }
        }
    }
    location.process.metrics.job(lock.job().as_str()).snapshots_pending(pending);
    pending
}

/// How many snapshots are pending still.
async fn one(location: &Location, record: Record<'_>) -> Result<usize, Error> {
    match (committed(location, &record).await?, record.saved.phase.clone()) {
        (Some(manifest), _) => finish(location, record, manifest, Overwrite::Allow).await,
        (None, Phase::Captured(_)) if was_deleted(location, &record).await? => {
            tracing::info!(backup = %record.saved.owner(), "it was deleted while its snapshots were pending");
            record.remove()?;
            Ok(0)
        }
        (None, Phase::Captured(manifest)) => finish(location, record, *manifest, Overwrite::Refuse).await,
        (None, Phase::Creating) => abandon(location, record).await,
    }
}

/// The backup's manifest, if it is committed.
async fn committed(location: &Location, record: &Record<'_>) -> Result<Option<Manifest>, Error> {
    let key = record.saved.backup().manifest();
    let refused = |error| Error::Manifest { key: key.clone(), error };
    let bytes = match store::read(&*location.store, &key, manifest::MAX_SIZE).await {
        Ok(bytes) => bytes,
        Err(error) if error.class == Class::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let owner = record.saved.owner();
    let home = record.saved.cluster_prefix();
    Manifest::parse(&bytes, &owner.chain, &owner.id, &home).map(Some).map_err(refused)
}

/// Whether it was committed, and deleted since: its snapshots then go with the last of its manifest (docs/decisions/0035).
async fn was_deleted(location: &Location, record: &Record<'_>) -> Result<bool, Error> {
    let key = record.saved.backup().deleted();
    match location.store.head(&key).await {
        Ok(_) => Ok(true),
        Err(error) if error.class == Class::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Nothing was captured: the snapshots are deleted, since no manifest will ever name them.
async fn abandon(location: &Location, record: Record<'_>) -> Result<usize, Error> {
    let owner = record.saved.owner();
    let deletion = delete::all_but(&*location.disks, &owner, &BTreeSet::new()).await?;
    deletion.log(&owner);
    let age = Timestamp::now().duration_since(record.saved.written);
    if deletion.kept.is_empty() && Duration::try_from(age).is_ok_and(|age| age > LATE) {
        record.remove()?;
    }
    Ok(0)
}

/// Everything was captured: what EC2 says of the pending snapshots now goes into the manifest.
async fn finish(
    location: &Location,
    record: Record<'_>,
    mut manifest: Manifest,
    overwrite: Overwrite,
) -> Result<usize, Error> {
    let owner = record.saved.owner();
    let job = location.process.metrics.job(owner.chain.job.as_str());
    let ids = wait::pending_ids(&manifest.items);
    let seen = wait::look(&*location.disks, &ids).await?;
    let late = Duration::try_from(Timestamp::now().duration_since(record.saved.written)).is_ok_and(|age| age > LATE);
    if overwrite == Overwrite::Refuse && late && seen.is_empty() && !ids.is_empty() {
        tracing::warn!(backup = %owner, "its snapshots are gone: it was deleted, and is not committed again");
        return record.remove().map(|()| 0);
    }
    let before = manifest.clone();
    wait::settle(&mut manifest.items, &seen, |_| late, &job);
    manifest.outcome = manifest.judge(Moment::Settled);
    if overwrite == Overwrite::Refuse || manifest != before {
        put(location, &record, &manifest, overwrite).await?;
        tracing::info!(backup = %owner, outcome = manifest.outcome.as_str(), "the record of its snapshots is brought up to date");
    }
    let pending = wait::pending_ids(&manifest.items).len();
    if pending > 0 {
        return Ok(pending);
    }
    let strays = delete::all_but(&*location.disks, &owner, &named(&manifest)).await?;
    strays.log(&owner);
    record.remove().map(|()| 0)
}

async fn put(
    location: &Location,
    record: &Record<'_>,
    manifest: &Manifest,
    overwrite: Overwrite,
) -> Result<(), store::Error> {
    let key = record.saved.backup().manifest();
    let payload = Payload::new(manifest.to_json(), location.store.algorithm());
    match location.store.put(&key, payload.clone(), overwrite).await {
        // An earlier attempt whose reply was lost: nobody else writes this key.
        Err(error) if error.class == Class::Conflict => {}
        result => result?,
    }
    // The record, which could say it once more, goes next.
    match location.store.head(&key).await {
        Ok(found) if found.is(payload.size(), payload.checksum) => Ok(()),
        Ok(_) => {
            let message = "the store said that it took the manifest, and another object lies there";
            Err(store::Error::local("HeadObject", &key, Class::Compat, message))
        }
        Err(denied) if denied.class == Class::AccessDenied => Ok(()),
        Err(error) => Err(error),
    }
}
