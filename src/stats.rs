//! Computes how much the backups of each job and node store: `penstock stats`.
//!
//! Reads only the listing and the manifests: two requests for each thousand objects (the second shows which of the named objects exist), one
//! for each backup. The live bytes of an object are the most that any one manifest states. That is exact for a chain in which each backup
//! is incremental to the one before it; after a backup whose parent was skipped as damaged it can be too little.
//!
//! Memory: some hundred bytes for each backup, and for each object that one chain's manifests name.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::{Catalog, ENTRY, Entry, Error, Found, Memory, Scope};
use crate::format::key::{BackupId, Chain, Kind, ObjectKey};
use crate::format::manifest::Manifest;

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
    /// What the newest backup would have stored as a full one; for many chains, the sum.
    pub full_bytes: u64,
    pub newest: Option<BackupId>,
    pub oldest: Option<BackupId>,
    #[serde(skip)]
    pub newest_taken: Option<Timestamp>,
    #[serde(skip)]
    pub oldest_taken: Option<Timestamp>,
}

#[derive(Default)]
struct Fold {
    entries: Vec<Entry>,
    /// The live bytes of each object.
    live: HashMap<ObjectKey, u64>,
    stats: Stats,
}

/// Computes the figures of every chain in `scope`.
///
/// # Errors
/// When listing fails or a manifest cannot be read: without it every figure would be wrong.
pub async fn stats(catalog: &Catalog, scope: Scope<'_>) -> Result<BTreeMap<Chain, Stats>, Error> {
    let mut memory = Memory::new(catalog.memory);
    let mut chains: BTreeMap<Chain, Fold> = BTreeMap::new();
    let visit = |found: Found| {
        if !chains.contains_key(&found.chain) {
            memory.take(2 * ENTRY)?;
        }
        let fold = chains.entry(found.chain.clone()).or_default();
        fold.stats.stored_bytes = fold.stats.stored_bytes.saturating_add(found.size);
        if found.kind == Kind::Manifest {
            memory.take(ENTRY)?;
            fold.stats.live_bytes = fold.stats.live_bytes.saturating_add(found.size);
            fold.entries.push(found.entry());
        }
        Ok(())
    };
    catalog.walk(scope, visit).await?;
    let mut all = BTreeMap::new();
    for (chain, mut fold) in chains {
        let mut entries = std::mem::take(&mut fold.entries);
        entries.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut memory = memory.clone();
        let mut manifests = catalog.manifests(&entries);
        while let Some((entry, manifest)) = manifests.next().await {
            fold.add(entry, &manifest?, &mut memory)?;
        }
        let stats = fold.finish(catalog, &chain).await?;
        all.insert(chain, stats);
    }
    Ok(all)
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
            full_bytes: sum.full_bytes.saturating_add(one.full_bytes),
            newest: newest.newest.clone(),
            oldest: oldest.oldest.clone(),
            newest_taken: newest.newest_taken,
            oldest_taken: oldest.oldest_taken,
        }
    })
}
