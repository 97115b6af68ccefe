//! Keeps locked what kept backups need (docs/decisions/0090).
//!
//! Each object is locked when it is created ([`Location::new_lock`]). This module extends the locks, by the arithmetic of
//! [`crate::location`]: of what a new backup refers to, before its manifest is written ([`Keeper::extend`]), and of all that a chain's
//! backups need, by each prune and, hourly, by the daemon ([`keep`]).
//!
//! - **Cost**: one request for each object and half period. The ends of locks are remembered in the state directory ([`ledger`]); one
//!   that is not known is extended. [`keep`] reads the chain's listing and manifests only when something is due, and once a day.
//! - **Failure**: a refused extension is counted and reported with the date until which the object stays locked; the others go on. If a
//!   whole group is refused (a missing permission), the rest is counted and not tried.
//! - **Memory**: the ledger's, and one manifest. [`PARALLEL`] requests at a time.
//! - **Crash**: every group of extensions is noted when it is done; what was lost is extended once more.

mod ledger;

use std::collections::HashSet;
use std::path::PathBuf;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;

use self::ledger::{Id, Ledger};
use crate::catalog::{self, Catalog, Entry, Scope};
use crate::config::{LockMode, ObjectLock};
use crate::error::{Class, Classify as _, Report};
use crate::format::claim::Chained;
use crate::format::key::{Chain, Name, ObjectKey};
use crate::location::{Location, TRIED_EVERY};
use crate::metrics::Outcome;
use crate::state;
use crate::store::{self, Lock, Store, VersionId};

/// Requests at a time: far below what S3 takes, so that backups are not disturbed.
const PARALLEL: usize = 8;

/// How many objects are extended before it is noted.
const GROUP: usize = 256;

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
        Some(Self { location, object_lock, ledger, refused: HashSet::new(), given_up: None })
    }

    fn id(&self, key: &ObjectKey, version: Option<&VersionId>) -> Id {
        Id::of(&self.location.config.bucket, key, version)
    }

    /// Notes an object that was created with a lock until then.
    pub fn created(&mut self, key: &ObjectKey, version: Option<&VersionId>, until: Timestamp) {
        self.ledger.note(self.id(key, version), until);
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

    /// Gives up if all fail for a reason that the next group would meet, too.
    async fn extend_group(&mut self, group: &[Due], now: Timestamp, extended: &mut Extended) {
        let lock = self.object_lock.grant(now);
        let store = &*self.location.store;
        // All futures are made before they are polled: a stream of a closure is not `Send` enough for a task (rust-lang/rust#102211).
        let requests: Vec<_> = group.iter().map(|due| extend(store, due, lock)).collect();
        let mut requests = stream::iter(requests).buffer_unordered(PARALLEL);
        let (mut good, mut reason) = (0_u64, None);
        while let Some((due, result)) = requests.next().await {
            match result {
                Ok(until) => {
                    self.location.endpoint.metrics().lock_extended(Outcome::Success);
                    self.ledger.note(due.id, until);
                    extended.saw(until);
                    good += 1;
                }
                Err(error) => {
                    let report = error.report();
                    self.refuse(&due.key, due.id, now, report.clone(), extended);
                    reason = Some(report);
                }
            }
        }
        drop(requests);
        extended.extended += good;
        self.save();
        let lasts = |report: &Report| matches!(report.class, Class::AccessDenied | Class::Compat | Class::Config);
        self.given_up = self.given_up.take().or(reason.filter(|report| good == 0 && lasts(report)));
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

fn note(location: &Location, result: Result<(), state::Error>) {
    if let Err(error) = result {
        location.process.metrics.state_not_written();
        tracing::warn!(%error, "could not note when locks end: their objects are extended once more than needed");
    }
}

/// Whether [`keep`] reads the chain at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// If something is due, or a day has passed.
    IfDue,
    Always,
}

/// Extends the locks of all that the committed backups of `chain` need, their manifests included. `None` if the location locks nothing.
///
/// # Errors
/// When the store's time cannot be had or the chain cannot be listed. A manifest that cannot be read is one of the failures.
pub async fn keep(catalog: &Catalog, chain: &Chain, when: When) -> Result<Option<Extended>, catalog::Error> {
    let location = &catalog.location;
    let Some(mut keeper) = Keeper::open(location, chain) else { return Ok(None) };
    let now = location.store_time().await?;
    let daily = keeper.ledger.walked().is_none_or(|walked| {
        let ago = now.duration_since(walked);
        ago.is_negative() || ago.unsigned_abs() >= TRIED_EVERY
    });
    let due = || keeper.ledger.needed().any(|(id, until)| keeper.object_lock.is_due(until, now, id.share()));
    if when == When::IfDue && !daily && !due() {
        let mut nothing = Extended::default();
        keeper.ledger.needed().for_each(|(_, until)| nothing.saw(until));
        return Ok(Some(nothing));
    }
    let entries = catalog.entries(Scope::of(chain)).await?;
    keeper.ledger.begin();
    let mut all = Extended::default();
    for entry in &entries {
        let extended = keeper.keep_one(catalog, entry, now).await;
        all.add(extended);
    }
    // What could not be read may be needed: it is not forgotten.
    if all.failures.count == 0 {
        note(location, keeper.ledger.end(now));
    }
    for failure in &all.failures.list {
        tracing::error!(key = %failure.key, class = %failure.report.class, remedy = failure.report.remedy, "{failure}");
    }
    if all.extended > 0 || all.failures.count > 0 {
        let (extended, failed) = (all.extended, all.failures.count);
        tracing::info!(job = %chain.job, node = %chain.node, extended, failed, "locks extended");
    }
    Ok(Some(all))
}

impl Keeper<'_> {
    async fn keep_one(&mut self, catalog: &Catalog, entry: &Entry, now: Timestamp) -> Extended {
        let manifest = match catalog.manifest(entry).await {
            Ok(manifest) => manifest,
            // Retention has deleted it meanwhile.
            Err(error) if error.class() == Class::NotFound => return Extended::default(),
            Err(error) => {
                // Its own lock at least.
                let mut extended = self.extend(&[(&entry.key, None)], now).await;
                extended.failed(&entry.key, None, error.report());
                return extended;
            }
        };
        let objects: Vec<_> = manifest.versions().chain([(&entry.key, None)]).collect();
        self.extend(&objects, now).await
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
