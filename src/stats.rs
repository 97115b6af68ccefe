//! What the backups of each job and node take: `penstock stats`.
//!
//! Only the listing and the manifests are read: one request for each thousand objects, one for each backup. So how much of an
//! object is live is what one manifest says of it, the most that any says. For a chain in which each backup follows the one before
//! it, that is exact; after a backup whose parent was skipped as damaged it can be too little.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use crate::catalog::{Catalog, Entry, Error, Scope};
use crate::format::key::{BackupId, Chain, Kind, ObjectKey};
use crate::format::manifest::Manifest;

/// Manifests fetched at a time.
const PARALLEL: usize = 16;

/// One chain's figures, or many chains' together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub backups: u64,
    /// What the backups would restore to, all of them.
    pub plain_bytes: u64,
    /// What the bucket holds of them, manifests and indexes included.
    pub stored_bytes: u64,
    /// Of those, what a backup needs.
    pub live_bytes: u64,
    /// Of those, what none needs: old chunks in objects that are still in use, and what waits for its grace period.
    pub dead_bytes: u64,
    /// What the newest backup would have stored had it been a full one: of the chain, or of each chain, added up.
    pub full_bytes: u64,
    pub newest: Option<BackupId>,
    pub oldest: Option<BackupId>,
}

#[derive(Default)]
struct Fold {
    entries: Vec<Entry>,
    /// Data and index objects, and how much of them is live.
    objects: HashMap<ObjectKey, (u64, u64)>,
    stats: Stats,
}

/// The figures of every chain in `scope`.
///
/// # Errors
/// When listing fails or a manifest cannot be read: without it every figure would be wrong.
pub async fn stats(catalog: &Catalog, scope: Scope<'_>) -> Result<BTreeMap<Chain, Stats>, Error> {
    let mut chains: BTreeMap<Chain, Fold> = BTreeMap::new();
    let visit = |found: crate::catalog::Found| {
        let fold = chains.entry(found.chain.clone()).or_default();
        fold.stats.stored_bytes += found.size;
        match found.kind {
            Kind::Manifest => {
                fold.stats.live_bytes += found.size;
                fold.entries.push(found.entry());
            }
            Kind::Deleted => {}
            Kind::Index | Kind::Data => drop(fold.objects.insert(found.key, (found.size, 0))),
        }
    };
    catalog.walk(scope, visit).await?;
    let mut all = BTreeMap::new();
    for (chain, mut fold) in chains {
        // Oldest first, as their ids sort.
        let entries = std::mem::take(&mut fold.entries);
        let mut manifests = stream::iter(&entries).map(|entry| catalog.manifest(entry)).buffered(PARALLEL);
        while let Some(manifest) = manifests.next().await {
            fold.add(&manifest?);
        }
        all.insert(chain, fold.finish());
    }
    Ok(all)
}

impl Fold {
    /// Manifests come oldest first.
    fn add(&mut self, manifest: &Manifest) {
        let stats = &mut self.stats;
        stats.backups += 1;
        stats.full_bytes = 0;
        for (_, stream) in manifest.streams() {
            stats.plain_bytes += stream.plain_bytes;
            stats.full_bytes += stream.stored_bytes;
            let live = stream.objects.iter().map(|object| (&object.key, object.live_bytes));
            for (key, live) in live.chain([(&stream.index.key, stream.index.size)]) {
                if let Some((size, most)) = self.objects.get_mut(key) {
                    *most = live.min(*size).max(*most);
                }
            }
        }
        stats.oldest.get_or_insert_with(|| manifest.id.clone());
        stats.newest = Some(manifest.id.clone());
    }

    fn finish(mut self) -> Stats {
        self.stats.live_bytes += self.objects.values().map(|(_, live)| live).sum::<u64>();
        self.stats.dead_bytes = self.stats.stored_bytes.saturating_sub(self.stats.live_bytes);
        self.stats
    }
}

/// Many chains' figures together.
#[must_use]
pub fn total<'a>(all: impl IntoIterator<Item = &'a Stats>) -> Stats {
    all.into_iter().fold(Stats::default(), |sum, one| Stats {
        backups: sum.backups + one.backups,
        plain_bytes: sum.plain_bytes + one.plain_bytes,
        stored_bytes: sum.stored_bytes + one.stored_bytes,
        live_bytes: sum.live_bytes + one.live_bytes,
        dead_bytes: sum.dead_bytes + one.dead_bytes,
        full_bytes: sum.full_bytes + one.full_bytes,
        newest: sum.newest.max(one.newest.clone()),
        oldest: [sum.oldest, one.oldest.clone()].into_iter().flatten().min(),
    })
}
