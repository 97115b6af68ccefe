//! Computes how much the backups of each job and node store: `penstock stats`.
//!
//! Reads only the listing and the manifests: two requests for each thousand objects (the second shows which of the named objects exist), one
//! for each backup. The live bytes of an object are the most that any one manifest states. That is exact for a chain in which each backup
//! is incremental to the one before it; after a backup whose parent was skipped as damaged it can be too little.
//!
//! Memory: some hundred bytes for each backup, and for each object that the manifests of [`CHAINS`] chains name, or of one, where those of
//! several do not fit.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::{Catalog, ENTRY, Entry, Error, Found, Memory, Scope};
use crate::error::Class;
use crate::format::key::{BackupId, BackupPrefix, Chain, Kind, ObjectKey};
use crate::format::manifest::Manifest;
use crate::store::{self, PAGING_REMEDY, VersionKind};

/// The figures of one chain, or of many together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub backups: u64,
    /// The plain bytes of all the backups together.
    pub plain_bytes: u64,
    /// What the bucket stores of them, manifests and indexes included.
    pub stored_bytes: u64,
    /// The part of the stored bytes that a backup needs.
    pub live_bytes: u64,
    /// The part that no backup needs: old chunks in objects still in use, and garbage within its grace period.
    pub dead_bytes: u64,
    /// What is stored behind it: deleted and replaced versions. `None` where versions were not looked at.
    pub hidden_bytes: Option<u64>,
    /// What the newest backup would have stored as a full one; for many chains, the sum.
    pub full_bytes: u64,
    pub newest: Option<BackupId>,
    pub oldest: Option<BackupId>,
    #[serde(skip)]
    pub newest_taken: Option<Timestamp>,
    #[serde(skip)]
    pub oldest_taken: Option<Timestamp>,
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookAt {
    /// What the bucket shows.
    Objects,
    /// Also what it keeps behind that: a request for each thousand versions.
    Versions,
}

/// The most chains looked at together.
const CHAINS: u64 = 8;

/// What the listing shows of a chain.
#[derive(Default)]
struct Shown {
    entries: Vec<Entry>,
    stats: Stats,
}

/// What the manifests of a chain add up to.
struct Fold {
    /// The live bytes of each object.
    live: HashMap<ObjectKey, u64>,
    stats: Stats,
}

/// Computes the figures of every chain in `scope`.
///
/// # Errors
/// When listing fails or a manifest cannot be read: without it every figure would be wrong.
pub async fn stats(catalog: &Catalog, scope: Scope<'_>, versions: LookAt) -> Result<BTreeMap<Chain, Stats>, Error> {
    let mut memory = Memory::new(catalog.memory);
    let mut chains: BTreeMap<Chain, Shown> = BTreeMap::new();
    let visit = |found: Found| {
        if !chains.contains_key(&found.chain) {
            memory.take(2 * ENTRY)?;
        }
        let shown = chains.entry(found.chain.clone()).or_default();
        shown.stats.stored_bytes = shown.stats.stored_bytes.saturating_add(found.size);
        if found.kind == Kind::Manifest {
            memory.take(ENTRY)?;
            shown.stats.live_bytes = shown.stats.live_bytes.saturating_add(found.size);
            shown.entries.push(found.entry());
        }
        Ok(())
    };
    catalog.walk(scope, visit).await?;
    let mut all = each(catalog, chains, &memory).await?;
    if versions == LookAt::Versions
        && let Some(sums) = versions_of(catalog, scope, &mut memory).await?
    {
        for stats in all.values_mut() {
            stats.hidden_bytes = Some(0);
        }
        // A chain of which everything is hidden is among these only.
        for (chain, bytes) in sums {
            let stats = all.entry(chain).or_default();
            stats.hidden_bytes = Some(bytes.saturating_sub(stats.stored_bytes));
        }
    }
    Ok(all)
}

/// Adds up each chain, several together.
async fn each(
    catalog: &Catalog,
    chains: BTreeMap<Chain, Shown>,
    memory: &Memory,
) -> Result<BTreeMap<Chain, Stats>, Error> {
    let fit = catalog.parallel(chains.values().flat_map(|shown| &shown.entries));
    let together = (fit as u64).min(CHAINS);
    let part = &catalog.clone().within(catalog.memory / together);
    let figures: Vec<_> = chains
        .into_iter()
        .map(|(chain, mut shown)| async move {
            shown.entries.sort_by(|a, b| a.age().cmp(&b.age()));
            let stats = shown.add_up(part, &chain, memory.share(together)).await;
            (chain, shown, stats)
        })
        .collect();
    let mut figures = stream::iter(figures).buffer_unordered(usize::try_from(together).unwrap_or(1));
    let (mut all, mut large) = (BTreeMap::new(), Vec::new());
    while let Some((chain, shown, stats)) = figures.next().await {
        match stats {
            Err(Error::Memory { .. }) => large.push((chain, shown)),
            stats => drop(all.insert(chain, stats?)),
        }
    }
    drop(figures);
    for (chain, shown) in large {
        let stats = shown.add_up(catalog, &chain, memory.clone()).await?;
        all.insert(chain, stats);
    }
    Ok(all)
}

/// Sums up the versions of each chain's objects, the current ones included. `None` if they cannot be listed.
async fn versions_of(
    catalog: &Catalog,
    scope: Scope<'_>,
    memory: &mut Memory,
) -> Result<Option<BTreeMap<Chain, u64>>, Error> {
    let location = &catalog.location;
    let (prefix, mut from) = (catalog.prefix(scope), None);
    let (mut all, mut last): (BTreeMap<Chain, u64>, Option<ObjectKey>) = (BTreeMap::new(), None);
    loop {
        let page = match location.store.list_versions(&prefix, from.as_deref()).await {
            Ok(page) => page,
            Err(error) if matches!(error.class, Class::AccessDenied | Class::Compat) => {
                tracing::warn!(%error, "could not list versions: how much is hidden is not known");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        for entry in &page.entries {
            let VersionKind::Object { size } = entry.kind else { continue };
            let parsed = BackupPrefix::parse_object(location.prefix(), &location.cluster, &entry.key);
            let Some((chain, ..)) = parsed.filter(|(chain, ..)| scope.holds(chain)) else { continue };
            if !all.contains_key(&chain) {
                memory.take(ENTRY)?;
            }
            let sum = all.entry(chain).or_default();
            *sum = sum.saturating_add(size);
        }
        let end = page.entries.last().map(|entry| entry.key.clone());
        from = page.next;
        if from.is_none() {
            return Ok(Some(all));
        }
        if end < last {
            let message = "the store's listing of versions does not advance";
            let error = store::Error::local("ListObjectVersions", ObjectKey::new(prefix), Class::Compat, message);
            return Err(store::Error { remedy: Some(PAGING_REMEDY.to_owned()), ..error }.into());
        }
        last = end;
    }
}

impl Shown {
    async fn add_up(&self, catalog: &Catalog, chain: &Chain, mut memory: Memory) -> Result<Stats, Error> {
        let mut fold = Fold { live: HashMap::new(), stats: self.stats.clone() };
        let mut manifests = catalog.manifests(&self.entries);
        while let Some((entry, manifest)) = manifests.next().await {
            fold.add(entry, &manifest?, &mut memory)?;
        }
        fold.finish(catalog, chain).await
    }
}

impl Fold {
    /// Manifests come oldest first.
    fn add(&mut self, entry: &Entry, manifest: &Manifest, memory: &mut Memory) -> Result<(), Error> {
        let stats = &mut self.stats;
        stats.backups += 1;
        stats.full_bytes = 0;
        for (_, stream) in manifest.streams() {
            stats.plain_bytes = stats.plain_bytes.saturating_add(stream.plain_bytes);
            stats.full_bytes = stats.full_bytes.saturating_add(stream.stored_bytes);
            let live = stream.objects.iter().map(|object| (&object.key, object.live_bytes));
            for (key, live) in live.chain([(&stream.index.key, stream.index.size)]) {
                if let Some(most) = self.live.get_mut(key) {
                    *most = live.max(*most);
                } else {
                    memory.take(key.as_str().len() + 128)?;
                    self.live.insert(key.clone(), live);
                }
            }
        }
        stats.oldest.get_or_insert_with(|| manifest.id.clone());
        stats.oldest_taken.get_or_insert(entry.taken());
        (stats.newest, stats.newest_taken) = (Some(manifest.id.clone()), Some(entry.taken()));
        Ok(())
    }

    // An object that does not exist has no live bytes.
    async fn finish(mut self, catalog: &Catalog, chain: &Chain) -> Result<Stats, Error> {
        let (live, stats) = (&self.live, &mut self.stats);
        if !live.is_empty() {
            let visit = |found: Found| {
                let of_it = live.get(&found.key).map_or(0, |live| found.size.min(*live));
                stats.live_bytes = stats.live_bytes.saturating_add(of_it);
                Ok(())
            };
            let scope = Scope::of(chain);
            catalog.walk(scope, visit).await?;
        }
        stats.dead_bytes = stats.stored_bytes.saturating_sub(stats.live_bytes);
        Ok(self.stats)
    }
}

/// Adds up the figures of many chains.
#[must_use]
pub fn total<'a>(all: impl IntoIterator<Item = &'a Stats>) -> Stats {
    all.into_iter().fold(Stats::default(), |sum, one| {
        let newer = one.newest_taken > sum.newest_taken;
        let newest = if newer { one } else { &sum };
        let older = sum.oldest_taken.is_none_or(|oldest| one.oldest_taken.is_some_and(|taken| taken < oldest));
        let oldest = if older { one } else { &sum };
        Stats {
            backups: sum.backups + one.backups,
            plain_bytes: sum.plain_bytes.saturating_add(one.plain_bytes),
            stored_bytes: sum.stored_bytes.saturating_add(one.stored_bytes),
            live_bytes: sum.live_bytes.saturating_add(one.live_bytes),
            dead_bytes: sum.dead_bytes.saturating_add(one.dead_bytes),
            hidden_bytes: one
                .hidden_bytes
                .map_or(sum.hidden_bytes, |bytes| Some(sum.hidden_bytes.unwrap_or(0) + bytes)),
            full_bytes: sum.full_bytes.saturating_add(one.full_bytes),
            newest: newest.newest.clone(),
            oldest: oldest.oldest.clone(),
            newest_taken: newest.newest_taken,
            oldest_taken: oldest.oldest_taken,
        }
    })
}
