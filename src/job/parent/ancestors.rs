//! The backups that a run may be incremental to, newest first by [`catalog::date`]; read only as far as needed.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Policy, Reuse, excusable};
use crate::catalog::{self, Catalog, Entry, Found, Scope};
use crate::error::Classify as _;
use crate::format::damage::{self, Places};
use crate::format::key::{BackupId, Chain, Kind, Name, ObjectKey, chain_prefix};
use crate::format::manifest::{DataObject, Item, Manifest, Stream};
use crate::location::Location;
use crate::store;

/// How many manifests are read to find an item: one that is in none of them counts as new.
const LOOK_BACK: usize = 8;

/// The most records of damage that are kept of a listing.
const RECORDS: usize = 1000;

/// A backup that is dated later than the run by more than this is logged.
const CLOCK_BEHIND: SignedDuration = SignedDuration::from_mins(1);

/// The chain's backups, newest first; listed and read on demand.
pub(in crate::job) struct Ancestors {
    catalog: Catalog,
    chain: Chain,
    policy: Policy,
    /// When the run started.
    now: Timestamp,
    /// `None`: not listed yet.
    unread: Option<std::vec::IntoIter<Entry>>,
    /// Whether this run is a full backup, whatever was read; `None`: not decided yet.
    full: Option<bool>,
    read: Vec<Arc<Ancestor>>,
    /// Why backups that [`Ancestors::newest`] passed over cannot be read: an item that would be incremental to one of them says so.
    refused: VecDeque<catalog::Error>,
    /// How many pages the listing of the chain had.
    pages: u64,
    /// The backups whose objects are in `sizes`.
    surveyed: HashSet<BackupId>,
    /// The sizes of their objects, by the listing; of the whole chain's, if its listing was a single page.
    sizes: HashMap<ObjectKey, u64>,
    /// The newest records of damage in the listing that were not read yet.
    records: Vec<Found>,
    damaged: Places,
}

/// An earlier backup.
#[derive(Debug)]
pub(in crate::job) struct Ancestor {
    entry: Entry,
    pub(in crate::job) manifest: Manifest,
}

impl Ancestor {
    /// Whether it was taken later.
    pub(in crate::job) fn is_newer_than(&self, other: &Self) -> bool {
        self.entry.age() > other.entry.age()
    }

    /// The latest time at which it can have started: by its own clock, or by the store's if that clock was ahead.
    pub(super) fn began(&self) -> Timestamp {
        let Manifest { started, finished, .. } = self.manifest;
        let took = finished.duration_since(started).max(SignedDuration::ZERO);
        started.min(self.entry.modified().checked_sub(took).unwrap_or(started))
    }
}

impl Ancestors {
    pub(in crate::job) fn new(location: &Location, chain: &Chain, policy: Policy, now: Timestamp) -> Self {
        let catalog = Catalog::new(location);
        let (unread, full) = (None, (policy.reuse == Reuse::Nothing).then_some(true));
        let (read, refused, surveyed, sizes) = (Vec::new(), VecDeque::new(), HashSet::new(), HashMap::new());
        let (chain, records, damaged) = (chain.clone(), Vec::new(), Places::new());
        Self { catalog, chain, policy, now, unread, full, read, refused, pages: 0, surveyed, sizes, records, damaged }
    }

    /// Finds the newest backup that has the item, behind the first `depth` readable ones. Returns it with the depth to go on from.
    pub(super) async fn candidate(
        &mut self,
        item: &Name,
        mut depth: usize,
    ) -> Result<Option<(Arc<Ancestor>, usize)>, catalog::Error> {
        if self.full != Some(true)
            && let Some(error) = self.refused.pop_front()
        {
            return Err(error);
        }
        loop {
            if self.full == Some(true) || (depth >= self.read.len() && !self.read_next().await?) {
                return Ok(None);
            }
            if self.full.is_none() {
                let last = Arc::clone(&self.read[0]);
                let due = self.full_is_due(&last).await?;
                self.full = Some(due);
                if due {
                    tracing::info!(every = ?self.policy.full_every, last = %base(&last.manifest), "a full backup is due: the last one is older than `full_every`");
                    continue;
                }
            }
            let ancestor = &self.read[depth];
            depth += 1;
            if stream_of(&ancestor.manifest, item).is_some() {
                return Ok(Some((Arc::clone(ancestor), depth)));
            }
        }
    }

    /// The newest readable backup, also for a run that is to be a full one.
    pub(in crate::job) async fn newest(&mut self) -> Result<Option<Arc<Ancestor>>, catalog::Error> {
        while self.read.is_empty() {
            match self.read_next().await {
                Ok(true) => {}
                Ok(false) => return self.refused.back().cloned().map_or(Ok(None), Err),
                Err(error) if excusable(error.class()) => {
                    tracing::debug!(%error, "could not read an earlier backup: trying the one before it");
                    self.refused.push_back(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.read.first().cloned())
    }

    /// `false` if there is no other. An unreadable one is not read again.
    async fn read_next(&mut self) -> Result<bool, catalog::Error> {
        if self.unread.is_none() {
            // Listed once, also when that fails.
            self.unread = Some(Vec::new().into_iter());
            self.unread = Some(self.list().await?.into_iter());
        }
        let Some(entry) = self.unread.as_mut().and_then(Iterator::next) else { return Ok(false) };
        let mut manifest = self.catalog.manifest(&entry).await?;
        let identities = &self.catalog.location.identities;
        if !identities.is_empty()
            && let Err(error) = manifest.unseal(identities)
        {
            tracing::warn!(backup = %entry.id, %error, "could not read the sealed part of an earlier backup: its warnings are unknown");
        }
        self.read.push(Arc::new(Ancestor { entry, manifest }));
        Ok(true)
    }

    /// Whether a full backup is due. The last one is dated by its objects, which are more reliable than its id.
    async fn full_is_due(&self, parent: &Ancestor) -> Result<bool, catalog::Error> {
        let Some(every) = self.policy.full_every else { return Ok(false) };
        let full = base(&parent.manifest);
        let mut taken = parent.entry.taken();
        if *full != parent.entry.id {
            let started = full.started().unwrap_or(taken);
            if is_due(started, every, self.now) {
                taken = started;
            } else {
                let page = self.catalog.pages_of(&self.chain, full).next().await?.unwrap_or_default();
                let stored = page.iter().map(|found| found.modified).min();
                let Some(stored) = stored else {
                    // None of its objects is left, so only its id dates it, which is wrong if it is in the future.
                    return Ok(started > self.now || is_due(taken.min(started), every, self.now));
                };
                taken = catalog::date::taken(started, stored);
            }
        }
        Ok(is_due(taken, every, self.now))
    }

    /// The chain's newest backups, newest first.
    async fn list(&mut self) -> Result<Vec<Entry>, catalog::Error> {
        let scope = Scope::of(&self.chain);
        let (mut newest, mut sizes): (Vec<Entry>, HashMap<_, _>) = Default::default();
        let mut pages = self.catalog.pages(scope);
        while let Some(page) = pages.next().await? {
            if pages.count() == 1 {
                sizes = page.iter().map(|found| (found.key.clone(), found.size)).collect();
            }
            newest.extend(page.iter().filter(|found| found.kind == Kind::Manifest).map(Found::entry));
            newest.sort_by(|a, b| b.age().cmp(&a.age()));
            newest.truncate(LOOK_BACK);
            self.records.extend(page.into_iter().filter(|found| found.kind == Kind::Damaged));
            self.records.sort_by_key(|found| std::cmp::Reverse(found.modified));
            self.records.truncate(RECORDS);
        }
        self.pages = pages.count();
        if self.pages == 1 {
            self.sizes = sizes;
        }
        if let Some(later) = newest.first().filter(|entry| entry.taken().duration_since(self.now) > CLOCK_BEHIND) {
            tracing::warn!(
                backup = %later.id, taken = %later.taken(), now = %self.now,
                "an earlier backup is dated after this one: this machine's clock is behind, or was ahead; until that date `latest` means the earlier backup"
            );
        }
        Ok(newest)
    }

    /// Lists the objects that a backup names, unless the listing of the chain was a single page: then they are known.
    pub(super) async fn survey(&mut self, ancestor: &Ancestor) -> Result<(), catalog::Error> {
        if self.surveyed.contains(&ancestor.entry.id) {
            return Ok(());
        }
        let named: HashSet<&ObjectKey> = ancestor.manifest.named().collect();
        let homes: BTreeSet<BackupId> = named.iter().filter_map(|key| home_of(key)).collect();
        let scope = Scope::of(&self.chain);
        let listings = if self.pages == 1 {
            Vec::new()
        } else if (homes.len() as u64) < self.pages {
            homes.iter().map(|id| self.catalog.pages_of(&self.chain, id)).collect()
        } else {
            vec![self.catalog.pages(scope)]
        };
        for mut pages in listings {
            while let Some(page) = pages.next().await? {
                let wanted = page.into_iter().filter(|found| named.contains(&found.key));
                self.sizes.extend(wanted.map(|found| (found.key, found.size)));
            }
        }
        self.read_records(ancestor.entry.modified()).await?;
        self.surveyed.insert(ancestor.entry.id.clone());
        Ok(())
    }

    /// Reads the records of damage that are newer than a backup: it was made without knowing of them.
    async fn read_records(&mut self, committed: Timestamp) -> Result<(), catalog::Error> {
        let newer = |found: &mut Found| found.modified >= committed;
        for Found { key, .. } in self.records.extract_if(.., newer).collect::<Vec<_>>() {
            if self.damaged.values().map(HashSet::len).sum::<usize>() >= damage::MAX_CHUNKS {
                tracing::warn!(%key, "did not read a record of damage, for others name enough: chunks that it names are not stored again; a full backup does");
                break;
            }
            let read = store::read(&*self.catalog.location.store, &key, damage::MAX_SIZE).await;
            match read.map(|bytes| damage::parse(&bytes)) {
                Ok(Ok(places)) => {
                    for (object, offsets) in places {
                        self.damaged.entry(object).or_default().extend(offsets);
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%key, %error, "could not use a record of damage: chunks that it names are not stored again");
                }
                Err(error) if excusable(error.class()) => {
                    tracing::warn!(%key, %error, "could not read a record of damage: chunks that it names are not stored again");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Where chunks of an object are that were found damaged.
    pub(super) fn damaged(&self, object: &ObjectKey) -> Option<&HashSet<u64>> {
        self.damaged.get(object)
    }

    /// The chain's prefix, as the path of a warning about it. (With an empty path, no file of the item would be trusted.)
    pub(in crate::job) fn home(&self) -> String {
        chain_prefix(self.catalog.location.prefix(), &self.chain)
    }

    /// How the listed object differs from the recorded one.
    pub(super) fn complaint(&self, object: &DataObject) -> Option<String> {
        match self.sizes.get(&object.key) {
            None => Some("is missing".to_owned()),
            Some(size) if *size != object.size => Some(format!("has {size} bytes; expected {}", object.size)),
            Some(_) => None,
        }
    }
}

pub(super) fn stream_of<'a>(manifest: &'a Manifest, item: &Name) -> Option<(&'a Item, &'a Stream)> {
    manifest.streams().find(|(found, _)| found.name == *item)
}

/// The full backup at the start of a backup's series.
pub(in crate::job) fn base(manifest: &Manifest) -> &BackupId {
    manifest.base.as_ref().unwrap_or(&manifest.id)
}

fn is_due(last: Timestamp, every: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(every).is_ok_and(|every| now.duration_since(last) >= every)
}

/// The backup that an object was made for.
fn home_of(key: &ObjectKey) -> Option<BackupId> {
    key.as_str().rsplit('/').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests;
