//! Reads a chain as a whole, and extends the locks of all that its backups need.
//!
//! Somebody with the agent's credentials cannot end a lock, but can hide or overwrite a manifest: then nothing seems to need the backup's
//! objects, and their locks would run out without a word. So the ledger remembers each backup, and the version of its manifest:
//!
//! - A backup that is gone without a tombstone, or whose manifest is another version or cannot be read, is counted as a failure, each time.
//! - Its manifest is looked for among the chain's versions. What the version that is remembered names is extended as before.
//! - Until the chain has been read as a whole, nothing that was needed before is forgotten: the earliest end is that of all of it.
//!
//! A manifest with the same content under another version (`penstock undelete` made a copy) is taken for the right one. A backup that was
//! removed by other means than Penstock's is missed until its lock is over, or the chain's ledger is removed.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::ledger::Id;
use super::{Extended, Keeper, note};
use crate::catalog::{self, Catalog, Entry, Found, Memory, Scope};
use crate::checksum::sha256;
use crate::error::{Class, Classify as _};
use crate::format::claim::Chained;
use crate::format::key::{BackupPrefix, Chain, Kind, ObjectKey, chain_prefix};
use crate::format::manifest::Manifest;
use crate::location::{READ_EVERY, TRIED_EVERY};
use crate::metrics::Outcome;
use crate::store::{ListedVersion, VersionId, VersionKind};

/// Pages of versions of one chain. Whoever may write may put many versions there, but not for ever.
const MAX_PAGES: usize = 10_000;

/// Whether [`keep`] reads the chain at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// If something is due and the last reading is [`READ_EVERY`] ago, or a day has passed.
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
    let walked = keeper.ledger.walked().map(|walked| now.duration_since(walked));
    let is_past = |time| walked.is_none_or(|ago| ago.is_negative() || ago.unsigned_abs() >= time);
    let due = || keeper.ledger.needed().any(|(id, until)| keeper.object_lock.is_due(until, now, id.share()));
    if when == When::IfDue && !is_past(TRIED_EVERY) && !(is_past(READ_EVERY) && due()) {
        return Ok(Some(Extended { earliest: keeper.earliest(), ..Extended::default() }));
    }
    let Listed { entries, deleted } = listed(catalog, chain, &keeper).await?;
    keeper.ledger.begin();
    let mut walk = Walk::new(catalog, keeper, now);
    for entry in &entries {
        walk.backup(entry).await;
    }
    walk.look_for_missing(chain, &deleted).await;
    let Walk { mut keeper, mut all, whole, .. } = walk;
    if !whole {
        keeper.earliest().into_iter().for_each(|until| all.saw(until));
    }
    // What was refused may be needed: it is not forgotten.
    if whole && all.failures.count == 0 {
        note(location, keeper.ledger.end(now));
        // A volume's ledger is what makes this node extend the volume's chain.
        if keeper.ledger.is_empty() && entries.is_empty() && Chained::of(&chain.node).is_some() {
            note(location, keeper.ledger.remove());
        }
    } else {
        keeper.save();
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

/// What the chain shows.
struct Listed {
    entries: Vec<Entry>,
    /// The backups that have a tombstone.
    deleted: HashSet<Id>,
}

async fn listed(catalog: &Catalog, chain: &Chain, keeper: &Keeper<'_>) -> Result<Listed, catalog::Error> {
    let mut memory = Memory::new(catalog.memory);
    let mut listed = Listed { entries: Vec::new(), deleted: HashSet::new() };
    let visit = |found: Found| {
        match found.kind {
            Kind::Manifest => {
                memory.take(catalog::ENTRY)?;
                listed.entries.push(found.entry());
            }
            Kind::Deleted => {
                memory.take(64)?;
                let manifest = BackupPrefix::new(catalog.location.prefix(), &found.chain, &found.id).manifest();
                listed.deleted.insert(keeper.backup(&manifest));
            }
            Kind::Damaged | Kind::Index | Kind::Data => {}
        }
        Ok(())
    };
    catalog.walk(Scope::of(chain), visit).await?;
    listed.entries.sort_by(|a, b| b.age().cmp(&a.age()));
    Ok(listed)
}

struct Walk<'a> {
    catalog: &'a Catalog,
    keeper: Keeper<'a>,
    now: Timestamp,
    all: Extended,
    /// Whether all that was needed before is accounted for.
    whole: bool,
    /// Backups that count as failures already, or that are just being deleted.
    told: HashSet<Id>,
    /// Manifests of another version than the one that is remembered.
    other: HashMap<Id, Other>,
}

/// The manifest that a backup has now.
struct Other {
    version: Option<VersionId>,
    sha256: [u8; 32],
}

fn digest(manifest: &Manifest) -> [u8; 32] {
    sha256([manifest.to_json()])
}

impl<'a> Walk<'a> {
    fn new(catalog: &'a Catalog, keeper: Keeper<'a>, now: Timestamp) -> Self {
        let (told, other) = (HashSet::new(), HashMap::new());
        Self { catalog, keeper, now, all: Extended::default(), whole: true, told, other }
    }

    /// Extends the locks of what a backup needs, as its manifest is now.
    async fn backup(&mut self, entry: &Entry) {
        let backup = self.keeper.backup(&entry.key);
        match self.catalog.manifest_of(entry, None).await {
            Ok((manifest, version)) => {
                if self.is_other(backup, self.keeper.id(&entry.key, version.as_ref())) {
                    // Its manifest is not extended, and so not remembered, before it is known to say the same.
                    let objects: Vec<_> = manifest.versions().collect();
                    let extended = self.keeper.extend(&objects, self.now).await;
                    self.all.add(extended);
                    self.other.insert(backup, Other { version, sha256: digest(&manifest) });
                } else {
                    self.extend(&entry.key, &manifest, version.as_ref()).await;
                }
            }
            // Retention deletes it just now, or somebody hides it: the next walk tells.
            Err(error) if error.class() == Class::NotFound => {
                self.whole = false;
                self.told.insert(backup);
            }
            Err(error) => {
                self.fail(&entry.key);
                self.told.insert(backup);
                if !self.keeper.ledger.is_needed(backup) {
                    // Its own lock at least. What it names is not known.
                    let extended = self.keeper.extend(&[(&entry.key, None)], self.now).await;
                    self.all.add(extended);
                    if matches!(error, catalog::Error::Manifest { .. }) {
                        self.all.saw(self.now);
                    }
                }
                self.all.failed(&entry.key, None, error.report());
            }
        }
    }

    /// Whether a backup has had another manifest, whose lock is not over yet.
    fn is_other(&self, backup: Id, manifest: Id) -> bool {
        let ledger = &self.keeper.ledger;
        let locked = ledger.until(backup).is_some_and(|until| until > self.now);
        locked && ledger.is_needed(backup) && !ledger.is_needed(manifest)
    }

    async fn extend(&mut self, key: &ObjectKey, manifest: &Manifest, version: Option<&VersionId>) {
        let objects: Vec<_> = manifest.versions().chain([(key, version)]).collect();
        let extended = self.keeper.extend(&objects, self.now).await;
        self.all.add(extended);
        self.note_backup(key, version);
    }

    /// Remembers the backup, for as long as its manifest's lock is known to last.
    fn note_backup(&mut self, key: &ObjectKey, version: Option<&VersionId>) {
        if let Some(until) = self.keeper.ledger.until(self.keeper.id(key, version)) {
            self.keeper.ledger.note_backup(self.keeper.backup(key), until);
        }
    }

    fn fail(&mut self, key: &ObjectKey) {
        self.whole = false;
        self.keeper.location.endpoint.metrics().lock_extended(Outcome::Failure);
        tracing::debug!(%key, "the chain could not be read as a whole");
    }

    /// Counts a backup that is not what it was, and says so.
    fn suspect(&mut self, key: &ObjectKey, what: &str) {
        self.fail(key);
        self.all.failures.count += 1;
        tracing::error!(%key, remedy = "see PenstockLockExtensionFailing in docs/runbooks.md", "{what}");
    }

    /// Looks for the manifests that were remembered and are not shown, and extends what they name.
    async fn look_for_missing(&mut self, chain: &Chain, deleted: &HashSet<Id>) {
        let unseen = self.keeper.ledger.unseen(self.now).filter(|id| !deleted.contains(id));
        let mut missing: HashSet<Id> = unseen.collect();
        missing.extend(self.other.keys());
        if missing.is_empty() {
            return;
        }
        let prefix = chain_prefix(self.catalog.location.prefix(), chain);
        let mut from = None;
        for _ in 0..MAX_PAGES {
            let page = match self.catalog.location.store.list_versions(&prefix, from.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%prefix, %error, "could not look for manifests that were hidden or overwritten");
                    break;
                }
            };
            for version in &page.entries {
                self.consider(version, chain, &mut missing).await;
            }
            from = page.next;
            if from.is_none() || missing.is_empty() {
                break;
            }
        }
        let key = ObjectKey::new(prefix);
        for _ in missing.into_iter().filter(|id| !self.told.contains(id)).collect::<Vec<_>>() {
            self.suspect(&key, "a backup of the chain is gone, its tombstone too, and its manifest was not found among the versions: its locks are not extended");
        }
    }

    /// Whether this version is the manifest of a missing backup that is remembered; then what it names is extended.
    async fn consider(&mut self, listed: &ListedVersion, chain: &Chain, missing: &mut HashSet<Id>) {
        let location = &self.catalog.location;
        let (key, version) = (&listed.key, Some(&listed.version));
        let (backup, remembered) = (self.keeper.backup(key), self.keeper.id(key, version));
        let VersionKind::Object { size } = listed.kind else { return };
        if !missing.contains(&backup) || !self.keeper.ledger.is_needed(remembered) {
            return;
        }
        let Some((of, id, kind @ Kind::Manifest)) =
            BackupPrefix::parse_object(location.prefix(), &location.cluster, key)
        else {
            return;
        };
        if of != *chain {
            return;
        }
        missing.remove(&backup);
        let found = Found { key: key.clone(), chain: of, id, kind, size, modified: listed.modified, etag: None };
        let current = self.other.remove(&backup);
        match self.catalog.manifest_of(&found.entry(), version).await {
            Ok((manifest, _)) => {
                let same = current.filter(|current| current.sha256 == digest(&manifest));
                let (same, copy) = (same.is_some(), same.and_then(|current| current.version));
                let version = if same { copy.as_ref() } else { version };
                self.extend(key, &manifest, version).await;
                if !same && !self.told.contains(&backup) {
                    self.suspect(key, "somebody has hidden or overwritten this backup's manifest: its locks are still extended, and `penstock undelete` brings it back");
                }
            }
            Err(error) => {
                tracing::error!(%key, %error, "could not read a manifest that somebody has hidden or overwritten");
                let extended = self.keeper.extend(&[(key, version)], self.now).await;
                self.all.add(extended);
                self.note_backup(key, version);
                if !self.told.contains(&backup) {
                    self.suspect(
                        key,
                        "somebody has hidden or overwritten this backup's manifest: only its own lock is extended",
                    );
                }
            }
        }
    }
}
