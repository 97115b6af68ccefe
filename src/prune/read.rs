//! A chain as the store has it.

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

/// What the date of a backup's last object takes of memory.
const ACTIVITY: usize = 128;

/// Keys as short numbers: a chain may have millions. The numbers are other ones in each run, so that nobody can choose keys that share
/// one. Of a million keys two do in one run of 37 million: then an object that nothing needs stays until the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(RandomState);

impl Keys {
    pub(super) fn number(&self, key: &ObjectKey) -> u64 {
        self.0.hash_one(key.as_str())
    }
}

/// What is kept of a manifest: the whole may be large, and a chain may have thousands.
#[derive(Debug, Clone)]
pub struct Summary {
    pub backup: Backup,
    /// By the node's clock.
    pub started: Timestamp,
    pub plain_bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    /// Ascending.
    named: Arc<[u64]>,
}

impl Summary {
    fn of(manifest: &Manifest, entry: &Entry, keys: &Keys) -> Self {
        let streams = || manifest.streams().map(|(_, stream)| stream);
        let mut named: Vec<u64> = manifest.named().map(|key| keys.number(key)).collect();
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

/// A committed backup, and why it stays.
#[derive(Debug, Clone)]
pub struct Planned {
    pub entry: Entry,
    /// `None` for a manifest that cannot be read and is to be deleted.
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

    /// What is left of it once it is deleted, until `release`.
    pub(super) fn grave(&self, prefix: &str, now: Timestamp, release: Timestamp) -> Option<Grave> {
        let summary = self.summary.as_ref()?;
        let Entry { chain, id, .. } = &self.entry;
        let key = BackupPrefix::new(prefix, chain, id).deleted();
        let (chain, id, size) = (chain.clone(), id.clone(), self.entry.size());
        let found = Found { key, chain, id, kind: Kind::Deleted, size, modified: now };
        Some(Grave { found, release, named: Arc::clone(&summary.named) })
    }
}

/// A deleted backup.
#[derive(Debug, Clone)]
pub(super) struct Grave {
    pub(super) found: Found,
    /// When its grace period is over.
    pub(super) release: Timestamp,
    named: Arc<[u64]>,
}

impl Grave {
    pub(super) fn named(&self) -> impl Iterator<Item = u64> {
        self.named.iter().copied()
    }
}

/// All that is kept of a chain: its backups. Its objects are listed again when it is clear which of them may go.
pub(super) struct Chained {
    /// Newest first.
    pub(super) manifests: Vec<(Entry, Result<Summary, catalog::Error>)>,
    pub(super) graves: Vec<Grave>,
    /// When something was last stored for each backup, committed, deleted or neither.
    pub(super) active: HashMap<BackupId, Timestamp>,
    pub(super) keys: Keys,
    /// What is left.
    pub(super) memory: Memory,
}

fn scope(chain: &Chain) -> Scope<'_> {
    Scope::of(chain)
}

/// The listing of a chain, page by page.
pub(super) fn pages<'a>(ctx: &'a Context, chain: &'a Chain) -> catalog::Pages<'a> {
    ctx.catalog.pages(scope(chain))
}

/// How many backups a chain has in which every object lies beside a manifest, and no backup is a deleted one. `None` for another.
///
/// # Errors
/// When listing fails.
pub(super) async fn tidy(ctx: &Context, chain: &Chain) -> Result<Option<usize>, Error> {
    let mut memory = Memory::new(ctx.catalog.memory);
    let (mut committed, mut seen, mut deleted) = (BTreeSet::new(), BTreeSet::new(), false);
    let visit = |found: Found| {
        let of_kind = match found.kind {
            Kind::Manifest => &mut committed,
            Kind::Index | Kind::Data => &mut seen,
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

/// Lists a chain and reads its manifests, the deleted ones too.
///
/// # Errors
/// When listing fails, a deleted manifest within its grace period cannot be read, or there is not enough memory.
pub(super) async fn chain(ctx: &Context, chain: &Chain, now: Timestamp) -> Result<Chained, Error> {
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    let mut reading = Reading { ctx, memory: Memory::new(ctx.catalog.memory), keys: Keys::default(), sets: Vec::new() };
    // For the manifests that are being read.
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
            Kind::Index | Kind::Data => {}
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
    let mut graves = Vec::new();
    for (found, summary) in deleted.into_iter().zip(reading.summaries(&of_deleted).await.map_err(failed)?) {
        let release = release(found.modified, ctx.grace);
        let named = match summary {
            Ok(summary) => summary.named,
            // It protects nothing any more.
            Err(error) if error.class() == Class::Integrity && now >= release => Arc::default(),
            Err(error) => return Err(failed(error)),
        };
        graves.push(Grave { found, release, named });
    }
    Ok(Chained { manifests, graves, active, keys: reading.keys, memory: reading.memory })
}

/// Manifests being read, one summary after the other.
struct Reading<'a> {
    ctx: &'a Context,
    memory: Memory,
    keys: Keys,
    /// The sets of items there were so far, the last ones last: a chain's backups mostly have the same.
    sets: Vec<Arc<BTreeSet<Name>>>,
}

impl Reading<'_> {
    /// In the order of `entries`. What one manifest's fault is, is its own; what is wrong with all of them is an error.
    async fn summaries(&mut self, entries: &[Entry]) -> Result<Vec<Result<Summary, catalog::Error>>, catalog::Error> {
        let mut summaries = Vec::new();
        // Futures are made first and driven then (see `apply`), some at a time: all of them would take more memory than what they bring.
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
        // Its numbers, and once more where they are put together with the others', each with a date if the backup goes.
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
