//! Reads a chain from the store.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;

use super::garbage::release;
use super::{Context, Error, PARALLEL};
use crate::catalog::{self, ENTRY, Entry, Found, Memory, Scope};
use crate::error::{Class, Classify as _};
use crate::format::key::{BackupId, BackupPrefix, Chain, Kind, Name, ObjectKey};
use crate::format::manifest::Manifest;
use crate::retention::{Backup, Reason};

/// The memory of one entry of `active`.
const ACTIVITY: usize = 128;

/// Keys as short numbers, since a chain may have millions. The numbers differ in each run, so that nobody can choose keys that collide. In
/// one of 37 million runs two of a million keys do: then an object that nothing needs stays until the next run.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(RandomState);

impl Keys {
    pub(super) fn number(&self, key: &ObjectKey) -> u64 {
        self.0.hash_one(key.as_str())
    }
}

/// The part of a manifest that is kept: the whole may be large, and a chain may have thousands.
#[derive(Debug, Clone)]
pub struct Summary {
    pub backup: Backup,
    /// When the backup began, by the node's clock.
    pub started: Timestamp,
    pub plain_bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    /// The numbers of the keys that it names, ascending.
    named: Arc<[u64]>,
}

impl Summary {
    fn of(manifest: &Manifest, entry: &Entry, keys: &Keys) -> Self {
        let streams = || manifest.streams().map(|(_, stream)| stream);
        let damage = entry.damaged();
        let mut named: Vec<u64> = manifest.named().chain([&damage]).map(|key| keys.number(key)).collect();
        named.sort_unstable();
        named.dedup();
        Self {
            backup: Backup::new(manifest, entry.taken(), entry.modified()),
            started: manifest.started,
            plain_bytes: streams().map(|stream| stream.plain_bytes).sum(),
            stored_bytes: streams().map(|stream| stream.stored_bytes).sum(),
            new_bytes: streams().map(|stream| stream.new_bytes).sum(),
            named: named.into(),
        }
    }
}

/// A committed backup, with the reasons for which it stays.
#[derive(Debug, Clone)]
pub struct Planned {
    pub entry: Entry,
    /// `None` for an unreadable manifest that is to be deleted.
    pub summary: Option<Summary>,
    pub reasons: Vec<Reason>,
}

impl Planned {
    #[must_use]
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }

    pub(super) fn named(&self) -> impl Iterator<Item = u64> {
        self.summary.iter().flat_map(|summary| summary.named.iter().copied())
    }

    /// The tombstone of this backup once it is deleted.
    pub(super) fn tombstone(&self, prefix: &str, now: Timestamp, release: Timestamp) -> Option<Tombstone> {
        let summary = self.summary.as_ref()?;
        let Entry { chain, id, .. } = &self.entry;
        let key = BackupPrefix::new(prefix, chain, id).deleted();
        let (chain, id, size) = (chain.clone(), id.clone(), self.entry.size());
        let found = Found { key, chain, id, kind: Kind::Deleted, size, modified: now, etag: None };
        Some(Tombstone { found, release, named: Arc::clone(&summary.named) })
    }
}

/// A deleted backup, as its renamed manifest.
#[derive(Debug, Clone)]
pub(super) struct Tombstone {
    pub(super) found: Found,
    /// When its grace period is over.
    pub(super) release: Timestamp,
    named: Arc<[u64]>,
}

impl Tombstone {
    pub(super) fn named(&self) -> impl Iterator<Item = u64> {
        self.named.iter().copied()
    }
}

/// The kept data of a chain: its backups. Its objects are listed again once the plan is made.
pub(super) struct Chained {
    /// Newest first.
    pub(super) manifests: Vec<(Entry, Result<Summary, catalog::Error>)>,
    pub(super) tombstones: Vec<Tombstone>,
    /// When the newest object of each backup was stored, committed or not.
    pub(super) active: HashMap<BackupId, Timestamp>,
    pub(super) keys: Keys,
    /// The rest of the memory.
    pub(super) memory: Memory,
}

fn scope(chain: &Chain) -> Scope<'_> {
    Scope::of(chain)
}

/// The listing of a chain, page by page.
pub(super) fn pages<'a>(ctx: &'a Context, chain: &'a Chain) -> catalog::Pages<'a> {
    ctx.catalog.pages(scope(chain))
}

/// The number of backups of a chain without tombstones and without objects of uncommitted backups; otherwise `None`.
///
/// # Errors
/// When listing fails.
pub(super) async fn tidy(ctx: &Context, chain: &Chain) -> Result<Option<usize>, Error> {
    let mut memory = Memory::new(ctx.catalog.memory);
    let (mut committed, mut seen, mut deleted) = (BTreeSet::new(), BTreeSet::new(), false);
    let visit = |found: Found| {
        let of_kind = match found.kind {
            Kind::Manifest => &mut committed,
            Kind::Damaged | Kind::Index | Kind::Data => &mut seen,
            Kind::Deleted => {
                deleted = true;
                return Ok(());
            }
        };
        if of_kind.insert(found.id) { memory.take(ACTIVITY) } else { Ok(()) }
    };
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    ctx.catalog.walk(scope(chain), visit).await.map_err(failed)?;
    Ok((!deleted && seen.is_subset(&committed)).then_some(committed.len()))
}

/// Lists a chain and reads its manifests and tombstones.
///
/// # Errors
/// When listing fails, a tombstone within its grace period cannot be read, or there is not enough memory.
pub(super) async fn chain(ctx: &Context, chain: &Chain, now: Timestamp) -> Result<Chained, Error> {
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    let mut reading = Reading { ctx, memory: Memory::new(ctx.catalog.memory), keys: Keys::default(), sets: Vec::new() };
    // For the manifests being read.
    reading.memory.take(usize::try_from(ctx.catalog.memory / 8).unwrap_or(usize::MAX)).map_err(failed)?;
    let (mut active, mut entries, mut deleted) = (HashMap::new(), Vec::new(), Vec::new());
    let memory = &mut reading.memory;
    let visit = |found: Found| {
        match found.kind {
            Kind::Manifest => {
                memory.take(ENTRY)?;
                entries.push(found.entry());
            }
            Kind::Deleted => {
                memory.take(ENTRY)?;
                deleted.push(found.clone());
            }
            Kind::Damaged | Kind::Index | Kind::Data => {}
        }
        if let Some(last) = active.get_mut(&found.id) {
            *last = found.modified.max(*last);
        } else {
            memory.take(ACTIVITY)?;
            active.insert(found.id, found.modified);
        }
        Ok(())
    };
    ctx.catalog.walk(scope(chain), visit).await.map_err(failed)?;
    entries.sort_by(|a, b| b.age().cmp(&a.age()));
    let summaries = reading.summaries(&entries).await.map_err(failed)?;
    let manifests = entries.into_iter().zip(summaries).collect();
    let of_deleted: Vec<Entry> = deleted.iter().map(Found::entry).collect();
    let mut tombstones = Vec::new();
    for (found, summary) in deleted.into_iter().zip(reading.summaries(&of_deleted).await.map_err(failed)?) {
        let release = release(found.modified, ctx.grace);
        let named = match summary {
            Ok(summary) => summary.named,
            // Its grace period is over, so it protects nothing.
            Err(error) if error.class() == Class::Integrity && now >= release => Arc::default(),
            Err(error) => return Err(failed(error)),
        };
        tombstones.push(Tombstone { found, release, named });
    }
    Ok(Chained { manifests, tombstones, active, keys: reading.keys, memory: reading.memory })
}

/// Reads manifests, and keeps a summary of each.
struct Reading<'a> {
    ctx: &'a Context,
    memory: Memory,
    keys: Keys,
    /// The sets of items seen so far, newest last: most backups of a chain have the same.
    sets: Vec<Arc<BTreeSet<Name>>>,
}

impl Reading<'_> {
    /// The summaries, in the order of `entries`. A fault of one manifest is its own result; one that affects all is an error.
    async fn summaries(&mut self, entries: &[Entry]) -> Result<Vec<Result<Summary, catalog::Error>>, catalog::Error> {
        let mut summaries = Vec::new();
        // All futures are made before they are polled (see `apply`), in groups: all at once would take more memory than the summaries.
        for some in entries.chunks(16 * PARALLEL) {
            let (ctx, keys) = (self.ctx, &self.keys.clone());
            let read = |entry| async move {
                ctx.catalog.manifest(entry).await.map(|manifest| Summary::of(&manifest, entry, keys))
            };
            let reads: Vec<_> = some.iter().map(read).collect();
            let mut reads = stream::iter(reads).buffered(ctx.catalog.parallel(some));
            while let Some(mut summary) = reads.next().await {
                if let Ok(summary) = &mut summary {
                    self.pay(summary)?;
                }
                summaries.push(summary);
            }
        }
        Ok(summaries)
    }

    fn pay(&mut self, summary: &mut Summary) -> Result<(), catalog::Error> {
        // The numbers are copied once more into the judge's lists, with a date each if the backup is deleted.
        self.memory.take(4 * size_of::<u64>() * summary.named.len() + size_of::<Summary>())?;
        for set in [&mut summary.backup.saved, &mut summary.backup.failed] {
            if let Some(same) = self.sets.iter().rev().take(8).find(|known| *known == set) {
                *set = Arc::clone(same);
            } else {
                self.memory.take(set.iter().map(|name| name.as_str().len() + 64).sum())?;
                self.sets.push(Arc::clone(set));
            }
        }
        Ok(())
    }
}
