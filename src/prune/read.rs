//! A chain as the store has it.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};

use super::garbage::release;
use super::{Context, Error, PARALLEL};
use crate::catalog::{self, Entry, Found, Scope};
use crate::error::{Class, Classify as _};
use crate::format::key::{BackupPrefix, Chain, Kind, ObjectKey};
use crate::format::manifest::Manifest;
use crate::retention::{Backup, Reason};

/// What is kept of a manifest: the whole may be large, and a chain may have hundreds.
#[derive(Debug, Clone)]
pub struct Summary {
    pub backup: Backup,
    pub plain_bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    named: BTreeSet<ObjectKey>,
}

impl From<&Manifest> for Summary {
    fn from(manifest: &Manifest) -> Self {
        let streams = || manifest.streams().map(|(_, stream)| stream);
        Self {
            backup: manifest.into(),
            plain_bytes: streams().map(|stream| stream.plain_bytes).sum(),
            stored_bytes: streams().map(|stream| stream.stored_bytes).sum(),
            new_bytes: streams().map(|stream| stream.new_bytes).sum(),
            named: manifest.named().cloned().collect(),
        }
    }
}

impl Summary {
    /// What retention decides on: the backup, no younger than its manifest in the store. A node whose clock ran ahead dates its
    /// backups into the future, and by the rules everything before would be old.
    pub(super) fn dated(&self, entry: &Entry) -> Backup {
        // Stores list times in whole seconds.
        let taken = entry.modified().checked_add(SignedDuration::from_secs(1)).unwrap_or(Timestamp::MAX);
        Backup { started: self.backup.started.min(taken), ..self.backup.clone() }
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

    pub(super) fn named(&self) -> impl Iterator<Item = &ObjectKey> {
        self.summary.iter().flat_map(|summary| &summary.named)
    }

    /// What is left of it once it is deleted, until `release`.
    pub(super) fn grave(&self, prefix: &str, now: Timestamp, release: Timestamp) -> Option<Grave> {
        let summary = self.summary.as_ref()?;
        let Entry { chain, id, .. } = &self.entry;
        let key = BackupPrefix::new(prefix, chain, id).deleted();
        let (chain, id, size) = (chain.clone(), id.clone(), self.entry.size());
        let found = Found { key, chain, id, kind: Kind::Deleted, size, modified: now };
        Some(Grave { found, release, named: summary.named.clone() })
    }
}

/// A deleted backup.
#[derive(Debug, Clone)]
pub(super) struct Grave {
    pub(super) found: Found,
    /// When its grace period is over.
    pub(super) release: Timestamp,
    named: BTreeSet<ObjectKey>,
}

impl Grave {
    pub(super) fn named(&self) -> impl Iterator<Item = &ObjectKey> {
        self.named.iter()
    }
}

pub(super) struct Chained {
    pub(super) found: Vec<Found>,
    /// Newest first.
    pub(super) manifests: Vec<(Entry, Result<Summary, catalog::Error>)>,
    pub(super) graves: Vec<Grave>,
}

/// How many backups a chain has in which every object lies beside a manifest, and no backup is a deleted one. `None` for another.
///
/// # Errors
/// When listing fails.
pub(super) async fn tidy(ctx: &Context, chain: &Chain) -> Result<Option<usize>, Error> {
    let (mut committed, mut seen, mut deleted) = (BTreeSet::new(), BTreeSet::new(), false);
    let scope = Scope { job: Some(&chain.job), node: Some(&chain.node) };
    let visit = |found: Found| match found.kind {
        Kind::Manifest => drop(committed.insert(found.id)),
        Kind::Deleted => deleted = true,
        Kind::Index | Kind::Data => drop(seen.insert(found.id)),
    };
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    ctx.catalog.walk(scope, visit).await.map_err(failed)?;
    Ok((!deleted && seen.is_subset(&committed)).then_some(committed.len()))
}

/// Lists a chain and reads its manifests, the deleted ones too.
///
/// # Errors
/// When listing fails, or a deleted manifest within its grace period cannot be read.
pub(super) async fn chain(ctx: &Context, chain: &Chain, now: Timestamp) -> Result<Chained, Error> {
    let failed = |error| Error::Chain { chain: chain.clone(), error };
    let mut found = Vec::new();
    let scope = Scope { job: Some(&chain.job), node: Some(&chain.node) };
    ctx.catalog.walk(scope, |object| found.push(object)).await.map_err(failed)?;
    let of = |kind| found.iter().filter(move |object| object.kind == kind).map(Found::entry);
    let mut entries: Vec<Entry> = of(Kind::Manifest).collect();
    entries.sort_by(|a, b| b.id.cmp(&a.id));
    let summaries = summaries(ctx, &entries).await;
    let deleted: Vec<Entry> = of(Kind::Deleted).collect();
    let mut graves = Vec::new();
    let dates = found.iter().filter(|object| object.kind == Kind::Deleted);
    for (object, summary) in dates.zip(self::summaries(ctx, &deleted).await) {
        let release = release(object.modified, ctx.grace);
        let named = match summary {
            Ok(summary) => summary.named,
            // It protects nothing any more.
            Err(error) if error.class() == Class::Integrity && now >= release => BTreeSet::new(),
            Err(error) => return Err(failed(error)),
        };
        graves.push(Grave { found: object.clone(), release, named });
    }
    Ok(Chained { manifests: entries.into_iter().zip(summaries).collect(), graves, found })
}

/// In the order of `entries`.
async fn summaries(ctx: &Context, entries: &[Entry]) -> Vec<Result<Summary, catalog::Error>> {
    let summary = |entry| async move { ctx.catalog.manifest(entry).await.map(|manifest| Summary::from(&manifest)) };
    let summaries: Vec<_> = entries.iter().map(summary).collect();
    stream::iter(summaries).buffered(PARALLEL).collect().await
}
