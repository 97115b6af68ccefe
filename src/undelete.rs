//! Brings a backup back that was deleted, or put something over, in a bucket that keeps versions: `penstock undelete`.
//!
//! The backup is read as of a moment ([`crate::store::as_of`]); then each object that its manifest names, and last the manifest, is made
//! the current version again: delete markers and newer versions above the right one are deleted. One that may not be deleted (it is
//! locked, or the role lacks `s3:DeleteObjectVersion`) stays, and the right version is copied over it, with a lock of its own. Nothing is
//! deleted before the right version was found below it.
//!
//! May be killed at any time and run again. Costs one request for each object that is as it should be, and some for any other. A copy that
//! an earlier run made is recognized by its bytes, which are read for that.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::catalog::{self, Catalog, Entry};
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::location::Location;
use crate::store::{self, ListedVersion, ObjectInfo, PAGING_REMEDY, Store, VersionId, VersionKind};

/// The most versions above the wanted one that are removed. Over more of them it is copied: whoever may write may put any number there.
const MAX_ABOVE: usize = 1000;

/// Pages of versions of one key.
const MAX_PAGES: usize = 1000;

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

/// An object as the backup wrote it.
struct Wanted<'a> {
    key: &'a ObjectKey,
    version: VersionId,
    info: ObjectInfo,
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
        done.objects += 1;
        bring_back(&*present.store, present, &Wanted { key, version: version_of(&info), info }, &mut done).await?;
    }
    Ok(done)
}

fn version_of(info: &ObjectInfo) -> VersionId {
    info.version.clone().unwrap_or_else(VersionId::null)
}

async fn bring_back(
    store: &dyn Store,
    present: &Location,
    wanted: &Wanted<'_>,
    done: &mut Undeleted,
) -> Result<(), store::Error> {
    let key = wanted.key;
    if shows(store, wanted).await? {
        done.untouched += 1;
        return Ok(());
    }
    for entry in above(store, wanted).await?.unwrap_or_default() {
        match store.delete_version(key, &entry.version).await {
            Ok(()) if entry.kind == VersionKind::Marker => done.markers_removed += 1,
            Ok(()) => done.versions_removed += 1,
            // Locked, or not permitted: what is above stays, and is copied over.
            Err(error) if error.class == Class::AccessDenied => break,
            Err(error) => return Err(error),
        }
    }
    if !shows(store, wanted).await? {
        store.copy_version(key, &wanted.version, wanted.info.size, present.new_lock().await?).await?;
        done.copied += 1;
    }
    Ok(())
}

/// Whether the current version is the wanted one, or a copy of it that an earlier run made.
async fn shows(store: &dyn Store, wanted: &Wanted<'_>) -> Result<bool, store::Error> {
    let info = match store.head(wanted.key).await {
        Ok(info) => info,
        Err(error) if error.class == Class::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if version_of(&info) == wanted.version {
        return Ok(true);
    }
    // Equal checksums prove little against somebody who chooses the bytes.
    Ok(info.is(wanted.info.size, wanted.info.checksum.or(info.checksum)) && is_copy(store, wanted).await?)
}

/// Compares the bytes of the current version with those of the wanted one.
async fn is_copy(store: &dyn Store, wanted: &Wanted<'_>) -> Result<bool, store::Error> {
    let mut one = store.get(wanted.key, None).await?.body;
    let mut other = store.get_version(wanted.key, &wanted.version, None).await?.body;
    let (mut left, mut right) = (Bytes::new(), Bytes::new());
    loop {
        if left.is_empty() {
            left = match one.try_next().await? {
                Some(piece) => piece,
                None => return Ok(right.is_empty() && other.try_next().await?.is_none()),
            };
        } else if right.is_empty() {
            right = match other.try_next().await? {
                Some(piece) => piece,
                None => return Ok(false),
            };
        } else {
            let length = left.len().min(right.len());
            if left.split_to(length) != right.split_to(length) {
                return Ok(false);
            }
        }
    }
}

/// The markers and versions above the wanted one, the newest first; `None` if there are more than [`MAX_ABOVE`]. Fails if it is not listed.
async fn above(store: &dyn Store, wanted: &Wanted<'_>) -> Result<Option<Vec<ListedVersion>>, store::Error> {
    let (key, mut above, mut from, mut found) = (wanted.key, Vec::new(), None, None);
    for _ in 0..MAX_PAGES {
        let page = store.list_versions(key.as_str(), from.as_deref()).await?;
        // Longer keys with this prefix come later.
        let is_last = page.next.is_none() || page.entries.last().is_some_and(|entry| entry.key > *key);
        for entry in page.entries.into_iter().filter(|entry| entry.key == *key) {
            match found {
                None if entry.version == wanted.version => found = Some(entry.modified),
                None => above.push(entry),
                // Within one second a marker may be listed below the version that it hides.
                Some(written) if entry.kind == VersionKind::Marker && entry.modified == written => above.push(entry),
                Some(_) => return Ok(Some(above)),
            }
            if above.len() > MAX_ABOVE {
                return Ok(None);
            }
        }
        if is_last {
            let message = "the version that the backup wrote is not among the object's versions: nothing was removed";
            let missing = || store::Error::local("ListObjectVersions", key, Class::NotFound, message);
            return found.map(|_| Some(above)).ok_or_else(missing);
        }
        from = page.next;
    }
    let error =
        store::Error::local("ListObjectVersions", key, Class::Compat, "the list of an object's versions does not end");
    Err(store::Error { remedy: Some(PAGING_REMEDY.to_owned()), ..error })
}

#[cfg(test)]
mod tests;
