//! Holds a backup: a legal hold on its manifest and on all that it names, without an end: `penstock hold`.
//!
//! The manifest is held last and released last, so that a run that was killed shows as what it was before, and is repeated. A release
//! spares what another held backup of the chain names. Retention keeps a backup whose manifest is held ([`crate::prune`]).
//!
//! Costs one request for each object; a release also one for each backup of the chain, and the manifests of those held.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use crate::catalog::{self, Catalog, Entry, Memory, Scope};
use crate::error::{Class, Classify as _};
use crate::format::key::ObjectKey;
use crate::store::as_of::{AsOf, Moment};
use crate::store::{self, Hold, Store, VersionId};

/// Requests at a time.
const PARALLEL: usize = 8;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Objects that were held or released, the manifest included.
    pub objects: u64,
    /// Objects that stay held, since another held backup needs them.
    pub shared: u64,
}

/// Holds the backup, or releases it.
///
/// # Errors
/// When the backup cannot be read, or a request fails: then the rest is not done.
pub async fn hold(catalog: &Catalog, entry: &Entry, hold: Hold) -> Result<Done, catalog::Error> {
    let store = &catalog.location.store;
    let read = match catalog.manifest_of(entry, None).await {
        // Somebody has deleted it since it was listed.
        Err(error) if error.class() == Class::NotFound => {
            let version = AsOf::new(Arc::clone(store), Moment::BelowMarkers).find(&entry.key).await?;
            catalog.manifest_of(entry, Some(&version)).await
        }
        read => read,
    };
    let (manifest, version) = read?;
    let shared = match hold {
        Hold::On => HashSet::new(),
        Hold::Off => others(catalog, entry).await?,
    };
    let named: HashSet<(&ObjectKey, Option<&VersionId>)> = manifest.versions().collect();
    let (stay, change): (Vec<_>, Vec<_>) = named.into_iter().partition(|(key, _)| shared.contains(*key));
    let requests: Vec<_> = change.iter().map(|(key, version)| set(store, key, *version, hold)).collect();
    let mut requests = stream::iter(requests).buffer_unordered(PARALLEL);
    let mut done = Done { objects: 0, shared: stay.len() as u64 };
    while let Some(result) = requests.next().await {
        result?;
        done.objects += 1;
    }
    set(store, &entry.key, version.as_ref(), hold).await?;
    done.objects += 1;
    Ok(done)
}

/// Where the version is gone (the bucket is a copy, or somebody has deleted the object since it was listed), the newest one that is left
/// below all delete markers is taken.
async fn set(
    store: &Arc<dyn Store>,
    key: &ObjectKey,
    version: Option<&VersionId>,
    hold: Hold,
) -> Result<(), store::Error> {
    match store.set_hold(key, version, hold).await {
        Err(error) if error.class == Class::NotFound => {}
        other => return other,
    }
    match AsOf::new(Arc::clone(store), Moment::BelowMarkers).find(key).await {
        Ok(version) => store.set_hold(key, Some(&version), hold).await,
        // What is gone needs no release.
        Err(error) if error.class == Class::NotFound && hold == Hold::Off => Ok(()),
        Err(error) if error.class == Class::NotFound => {
            let message = "the bucket has no version of this object any more: the backup cannot be held whole";
            Err(store::Error::local("PutObjectLegalHold", key, Class::NotFound, message))
        }
        Err(error) => Err(error),
    }
}

/// What the chain's other held backups name.
async fn others(catalog: &Catalog, entry: &Entry) -> Result<HashSet<ObjectKey>, catalog::Error> {
    let (mut named, mut memory) = (HashSet::new(), Memory::new(catalog.memory));
    let entries = catalog.entries(Scope::of(&entry.chain)).await?;
    for other in entries.iter().filter(|other| other.id != entry.id) {
        if catalog.location.store.hold(&other.key, None).await? == Hold::Off {
            continue;
        }
        for key in catalog.manifest(other).await?.named() {
            memory.take(key.as_str().len() + 64)?;
            named.insert(key.clone());
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests;
