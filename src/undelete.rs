//! Brings a backup back that was deleted, or put something over, in a bucket that keeps versions: `penstock undelete`.
//!
//! The backup is read as of a moment ([`crate::store::as_of`]); then each object that its manifest names, and last the manifest, is made
//! the current version again: delete markers and newer versions above the right one are deleted. One that may not be deleted (it is
//! locked, or the role lacks `s3:DeleteObjectVersion`) stays, and the right version is copied over it, with a lock of its own.
//!
//! May be killed at any time and run again. Costs one request for each object that is as it should be, and some for any other.

use std::collections::HashSet;

use crate::catalog::{self, Catalog, Entry};
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::location::Location;
use crate::store::{self, ListedVersion, VersionId, VersionKind};

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undeleted {
    /// All objects of the backup.
    pub objects: u64,
    /// Those that were as they should be.
    pub untouched: u64,
    pub markers_removed: u64,
    pub versions_removed: u64,
    /// Objects that were copied over what could not be removed.
    pub copied: u64,
}

/// Brings back the backup `entry`, which `past` shows.
///
/// # Errors
/// When the backup cannot be read in the past, an object is not in the bucket any more, or a request fails.
pub async fn undelete(past: &Catalog, present: &Location, entry: &Entry) -> Result<Undeleted, catalog::Error> {
    let manifest = past.manifest(entry).await?;
    let mut done = Undeleted::default();
    let mut seen = HashSet::new();
    // The manifest is last: the backup appears when it is whole.
    for key in manifest.named().chain([&entry.key]).filter(|key| seen.insert(*key)) {
        let info = past.location.store.head(key).await?;
        let Some(version) = info.version else {
            let message = "the bucket keeps no versions, so nothing can be brought back";
            return Err(store::Error::local("HeadObject", key, Class::Config, message).into());
        };
        done.objects += 1;
        bring_back(present, key, &version, info.size, &mut done).await?;
    }
    Ok(done)
}

async fn bring_back(
    present: &Location,
    key: &ObjectKey,
    wanted: &VersionId,
    size: u64,
    done: &mut Undeleted,
) -> Result<(), store::Error> {
    let store = &present.store;
    if is_current(present, key, wanted).await? {
        done.untouched += 1;
        return Ok(());
    }
    for entry in above(present, key, wanted).await? {
        match store.delete_version(key, &entry.version).await {
            Ok(()) if entry.kind == VersionKind::Marker => done.markers_removed += 1,
            Ok(()) => done.versions_removed += 1,
            // Locked, or not permitted: what is above stays, and is copied over.
            Err(error) if error.class == Class::AccessDenied => break,
            Err(error) => return Err(error),
        }
    }
    if !is_current(present, key, wanted).await? {
        store.copy_version(key, wanted, size, present.new_lock().await?).await?;
        done.copied += 1;
    }
    Ok(())
}

async fn is_current(present: &Location, key: &ObjectKey, wanted: &VersionId) -> Result<bool, store::Error> {
    match present.store.head(key).await {
        Ok(info) => Ok(info.version.as_ref() == Some(wanted)),
        Err(error) if error.class == Class::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The markers and versions above `wanted`, the newest first.
async fn above(present: &Location, key: &ObjectKey, wanted: &VersionId) -> Result<Vec<ListedVersion>, store::Error> {
    let (mut above, mut from, mut found) = (Vec::new(), None, None);
    loop {
        let page = present.store.list_versions(key.as_str(), from.as_deref()).await?;
        for entry in page.entries.into_iter().filter(|entry| entry.key == *key) {
            match found {
                None if entry.version == *wanted => found = Some(entry.modified),
                None => above.push(entry),
                // Within one second a marker may be listed below the version that it hides.
                Some(written) if entry.kind == VersionKind::Marker && entry.modified == written => above.push(entry),
                Some(_) => return Ok(above),
            }
        }
        from = page.next;
        if from.is_none() {
            return Ok(above);
        }
    }
}

#[cfg(test)]
mod tests;
