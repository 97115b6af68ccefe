//! Keeps locked what kept backups need (docs/decisions/0090).
//!
//! Each object is locked when it is created ([`Location::new_lock`]). This module extends the locks, by the arithmetic of
//! [`crate::location`]: of what a new backup refers to, before its manifest is written ([`Keeper::extend`]), and of all that a chain's
//! backups need, by each prune and, hourly, by the daemon ([`keep`]).
//!
//! - **Cost**: one request for each object and half period. The ends of locks are remembered in the state directory ([`ledger`]); one
//!   that is not known is extended. [`keep`] reads the chain's listing and manifests once a day, and when something is due, but then at
//!   most each six hours.
//! - **Failure**: a refused extension is counted and reported with the date until which the object stays locked; the others go on. If
//!   [`EVIDENCE`] objects are refused and none is extended (a missing permission), the rest is counted and not tried.
//! - **Attack**: a backup that was seen, and whose manifest is overwritten or hidden now without a tombstone, is a failure, and what it
//!   needs goes on being extended: the module [`walk`].
//! - **Memory**: the ledger's, and one manifest. [`PARALLEL`] requests at a time.
//! - **Crash**: every group of extensions is noted when it is done; what was lost is extended once more.

mod ledger;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};

use self::ledger::{Id, Ledger};
use crate::catalog::{self, Catalog, Found, Scope};
use crate::config::{LockMode, ObjectLock};
use crate::error::{Class, Classify as _, Report};
use crate::format::claim::Chained;
use crate::format::key::{Chain, Name, ObjectKey};
use crate::location::Location;
use crate::metrics::Outcome;
use crate::state;
use crate::store::{self, Lock, Store, VersionId};
pub use walk::{When, keep};

/// Requests at a time: far below what S3 takes, so that backups are not disturbed.
const PARALLEL: usize = 8;

/// How many objects are extended before it is noted.
const GROUP: usize = 256;

/// How many objects must be refused before nothing more is tried: one alone may have a lock or a policy of its own.
const EVIDENCE: usize = 8;

/// How many failures are kept with their text. All are counted.
const MAX_FAILURES: usize = 20;

/// The locks of one chain.
#[derive(Debug)]
pub struct Keeper<'a> {
    location: &'a Location,
    object_lock: ObjectLock,
    ledger: Ledger,
    /// Objects whose extension was refused: they are counted once, and not tried again.
    refused: HashSet<Id>,
    /// Refusals for a reason that others would meet, since the last success.
    in_a_row: usize,
    /// Why nothing more is tried.
    given_up: Option<Report>,
}

/// The result of extending locks.
#[derive(Debug, Default)]
pub struct Extended {
    pub extended: u64,
    pub failures: Failures,
    /// When the first lock of all that is needed ends, as far as is known.
    pub earliest: Option<Timestamp>,
}

/// Extensions that failed.
#[derive(Debug, Default)]
pub struct Failures {
    /// All of them; `list` holds at most [`MAX_FAILURES`].
    pub count: u64,
    pub list: Vec<Failure>,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub key: ObjectKey,
    /// The end of its lock; `None` if it is not known, or over.
    pub until: Option<Timestamp>,
    pub report: Report,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.until {
            Some(until) => {
                write!(f, "is locked until {until} only: could not extend its lock: {}", self.report.message)
            }
            None => write!(f, "may not be locked: could not extend its lock: {}", self.report.message),
        }
    }
}

/// An object that is due.
struct Due {
    key: ObjectKey,
    version: Option<VersionId>,
    id: Id,
}

impl Extended {
    fn failed(&mut self, key: &ObjectKey, until: Option<Timestamp>, report: Report) {
        self.failures.count += 1;
        if self.failures.list.len() < MAX_FAILURES {
            self.failures.list.push(Failure { key: key.clone(), until, report });
        }
    }

    fn saw(&mut self, until: Timestamp) {
        self.earliest = Some(self.earliest.map_or(until, |earliest| earliest.min(until)));
    }
}

impl<'a> Keeper<'a> {
    /// `None` if the location locks nothing.
    #[must_use]
    pub fn open(location: &'a Location, chain: &Chain) -> Option<Self> {
        let object_lock = location.config.object_lock?;
        let ledger = Ledger::open(&path(location, chain), location.process.budget.total());
        Some(Self { location, object_lock, ledger, refused: HashSet::new(), in_a_row: 0, given_up: None })
    }

    fn id(&self, key: &ObjectKey, version: Option<&VersionId>) -> Id {
        Id::of(&self.location.config.bucket, key, version)
    }

    /// Notes an object that was created with a lock until then.
    pub fn created(&mut self, key: &ObjectKey, version: Option<&VersionId>, until: Timestamp) {
        self.ledger.note(self.id(key, version), until);
    }

    /// Notes a backup, whose manifest was written with a lock until then.
    pub fn committed(&mut self, manifest: &ObjectKey, version: Option<&VersionId>, until: Timestamp) {
        self.created(manifest, version, until);
        // Where the version is not remembered, for want of memory, it could not be told from another.
        if self.ledger.until(self.id(manifest, version)).is_some() {
            self.ledger.note_backup(self.backup(manifest), until);
        }
    }

    /// Notes that a backup was deleted without a tombstone.
    pub fn deleted(&mut self, manifest: &ObjectKey) {
        self.ledger.note_garbage(self.backup(manifest), Timestamp::UNIX_EPOCH);
    }

    /// The name of a backup.
    fn backup(&self, manifest: &ObjectKey) -> Id {
        Id::of_backup(&self.location.config.bucket, manifest)
    }

    /// When the first lock ends of what was needed when the chain was last read, as far as is known.
    fn earliest(&self) -> Option<Timestamp> {
        self.ledger.needed().map(|(_, until)| until).min()
    }

    /// Until when garbage is locked, if that is known and not over.
    #[must_use]
    pub fn garbage(&self, key: &ObjectKey, now: Timestamp) -> Option<Timestamp> {
        self.ledger.until(self.id(key, None)).filter(|until| *until > now)
    }

    /// Notes that garbage is locked until then.
    pub fn found_garbage(&mut self, key: &ObjectKey, until: Timestamp) {
        self.ledger.note_garbage(self.id(key, None), until);
    }

    /// Writes down what was noted. A failure only costs requests.
    pub fn save(&mut self) {
        note(self.location, self.ledger.write());
    }

    /// Extends the locks of those objects that are due.
    pub async fn extend(&mut self, needed: &[(&ObjectKey, Option<&VersionId>)], now: Timestamp) -> Extended {
        let (mut extended, mut group) = (Extended::default(), Vec::new());
        for (key, version) in needed.iter().copied() {
            let id = self.id(key, version);
            self.ledger.still_needed(id);
            let until = self.ledger.until(id);
            if let Some(until) = until.filter(|until| !self.object_lock.is_due(*until, now, id.share())) {
                extended.saw(until);
                continue;
            }
            if let Some(report) = self.given_up.clone() {
                self.refuse(key, id, now, report, &mut extended);
                continue;
            }
            if self.refused.contains(&id) || group.iter().any(|due: &Due| due.id == id) {
                continue;
            }
            group.push(Due { key: key.clone(), version: version.cloned(), id });
            if group.len() >= GROUP {
                self.extend_group(&std::mem::take(&mut group), now, &mut extended).await;
            }
        }
        self.extend_group(&group, now, &mut extended).await;
        self.save();
        extended
    }

    fn refuse(&mut self, key: &ObjectKey, id: Id, now: Timestamp, report: Report, extended: &mut Extended) {
        if !self.refused.insert(id) {
            return;
        }
        self.location.endpoint.metrics().lock_extended(Outcome::Failure);
        let until = self.ledger.until(id).filter(|until| *until > now);
        extended.saw(until.unwrap_or(now));
        extended.failed(key, until, report);
    }

    async fn extend_group(&mut self, group: &[Due], now: Timestamp, extended: &mut Extended) {
        let lock = self.object_lock.grant(now);
        let store = &*self.location.store;
        // All futures are made before they are polled: a stream of a closure is not `Send` enough for a task (rust-lang/rust#102211).
        let requests: Vec<_> = group.iter().map(|due| extend(store, due, lock)).collect();
        let mut requests = stream::iter(requests).buffer_unordered(PARALLEL);
        let mut good = 0_u64;
        while let Some((due, result)) = requests.next().await {
            match result {
                Ok(until) => {
                    self.location.endpoint.metrics().lock_extended(Outcome::Success);
                    self.ledger.note(due.id, until);
                    extended.saw(until);
                    good += 1;
                    self.in_a_row = 0;
                }
                Err(error) => {
                    let report = error.report();
                    let lasts = matches!(report.class, Class::AccessDenied | Class::Compat | Class::Config);
                    self.in_a_row += usize::from(lasts);
                    if self.in_a_row >= EVIDENCE {
                        self.given_up.get_or_insert_with(|| report.clone());
                    }
                    self.refuse(&due.key, due.id, now, report, extended);
                }
            }
        }
        drop(requests);
        extended.extended += good;
        self.save();
    }
}

/// Extends one lock. Returns its new end.
async fn extend<'d>(store: &dyn Store, due: &'d Due, lock: Lock) -> (&'d Due, Result<Timestamp, store::Error>) {
    let mut version = due.version.as_ref();
    let mut result = store.set_lock(&due.key, version, lock).await;
    if version.is_some() && result.as_ref().is_err_and(|error| error.class == Class::NotFound) {
        // The bucket is a copy of the one that was written to, and has other versions.
        version = None;
        result = store.set_lock(&due.key, version, lock).await;
    }
    let error = match result {
        Ok(()) => return (due, Ok(lock.until)),
        Err(error) if error.class == Class::AccessDenied => error,
        Err(error) => return (due, Err(error)),
    };
    // Somebody has locked it for longer, or in the stricter mode, which the configuration may have had before.
    let result = match store.lock(&due.key, version).await {
        Ok(Some(held)) if held.until >= lock.until => Ok(held.until),
        Ok(Some(held)) if held.mode == LockMode::Compliance && lock.mode != held.mode => {
            let stricter = Lock { mode: held.mode, ..lock };
            store.set_lock(&due.key, version, stricter).await.map(|()| lock.until)
        }
        Ok(_) | Err(_) => Err(error),
    };
    (due, result)
}

/// The ledgers of a job's chains.
fn folder(location: &Location, cluster: &Name, job: &Name) -> PathBuf {
    let folder = location.process.state_dir.join("locks").join(location.name());
    folder.join(cluster.as_str()).join(job.as_str())
}

fn path(location: &Location, chain: &Chain) -> PathBuf {
    folder(location, &chain.cluster, &chain.job).join(chain.node.as_str())
}

/// This node's chain of a job, and those of the volumes that it has saved, also of volumes that are elsewhere now or gone.
#[must_use]
pub fn chains(location: &Location, job: &Name) -> Vec<Chain> {
    let own = location.chain(job);
    let known = std::fs::read_dir(folder(location, &own.cluster, job)).into_iter().flatten().flatten();
    let names = known.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    let volumes = names.filter(|name| Chained::of(name).is_some());
    let volumes: Vec<Chain> = volumes.map(|node| Chain { node, ..own.clone() }).collect();
    std::iter::once(own).chain(volumes).collect()
}

/// The chains of claims that the bucket has and nobody seems to extend: the claim is gone, or its node is. Those of a job that saves
/// claims are anybody's; one whose newest object is younger than a quarter of the period has a node that saves it and extends its locks.
///
/// # Errors
/// When the store's time cannot be had or the job's chains cannot be listed.
pub async fn abandoned(catalog: &Catalog, job: &Name) -> Result<Vec<Chain>, catalog::Error> {
    let Some(object_lock) = catalog.location.config.object_lock else { return Ok(Vec::new()) };
    let now = catalog.location.store_time().await?;
    let (mut memory, mut newest) = (catalog::Memory::new(catalog.memory), BTreeMap::new());
    let visit = |found: Found| {
        if Chained::of(&found.chain.node).is_some() {
            if !newest.contains_key(&found.chain) {
                memory.take(catalog::ENTRY)?;
            }
            let modified = newest.entry(found.chain).or_insert(found.modified);
            *modified = found.modified.max(*modified);
        }
        Ok(())
    };
    catalog.walk(Scope { job: Some(job), node: None }, visit).await?;
    let quarter = SignedDuration::try_from(object_lock.period / 4).unwrap_or(SignedDuration::MAX);
    newest.retain(|_, modified| now.duration_since(*modified) > quarter);
    Ok(newest.into_keys().collect())
}

/// When the first lock ends of what a chain needed when it was last read, as far as is known: for when [`keep`] fails.
#[must_use]
pub fn earliest(location: &Location, chain: &Chain) -> Option<Timestamp> {
    Keeper::open(location, chain)?.earliest()
}

fn note(location: &Location, result: Result<(), state::Error>) {
    if let Err(error) = result {
        location.process.metrics.state_not_written();
        tracing::warn!(%error, "could not note when locks end: their objects are extended once more than needed");
    }
}

impl Extended {
    fn add(&mut self, other: Self) {
        self.extended += other.extended;
        self.failures.count += other.failures.count;
        let room = MAX_FAILURES.saturating_sub(self.failures.list.len());
        self.failures.list.extend(other.failures.list.into_iter().take(room));
        other.earliest.into_iter().for_each(|until| self.saw(until));
    }
}
