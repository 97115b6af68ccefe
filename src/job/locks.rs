//! Locks what the new backup needs, before its manifest is written: no committed backup names an object that may go early.
//!
//! Its own objects were locked when they were created. One of each kind (written at once, written in parts) is read back, because a
//! store may take a lock's headers and ignore them; then the locks are set afterwards. Objects of earlier backups are extended where that is
//! due. What cannot be locked is a warning: a backup with a shorter lock is better than none.

use tokio_util::sync::CancellationToken;

use super::{Error, Run};
use crate::error::Classify as _;
use crate::format::key::{Name, ObjectKey};
use crate::format::manifest::Manifest;
use crate::object_lock::{Extended, Failure, Keeper};
use crate::store::{Lock, VersionId};

/// Why an object may not be locked.
enum Doubt {
    /// It is not, or not for long enough: what the store does.
    Unlocked(String),
    /// Its lock cannot be read.
    Unknown(String),
}

impl Run<'_> {
    /// Locks all that `manifest` names, and adds a warning for what cannot be locked. `stop` ends it.
    pub(super) async fn lock_all(&mut self, manifest: &mut Manifest, stop: &CancellationToken) -> Result<(), Error> {
        let location = self.location.until(stop);
        let (Some(lock), Some(mut keeper)) = (self.lock, Keeper::open(&location, &self.owner.chain)) else {
            return Ok(());
        };
        let now = location.store_time().await?;
        let mut doubt = None;
        for (key, version) in self.samples(manifest) {
            let found = self.doubt(&key, version.as_ref(), lock).await.map(|doubt| (key, doubt));
            // What is known of one kind of object outweighs what is not known of the other.
            if doubt.is_none() || matches!(found, Some((_, Doubt::Unlocked(_)))) {
                doubt = found;
            }
        }
        // Otherwise the locks are set now.
        if doubt.is_none() {
            for (key, version) in manifest.versions().filter(|(key, _)| self.is_own(key)) {
                keeper.created(key, version, lock.until);
            }
        }
        let extended = keeper.extend(&manifest.versions().collect::<Vec<_>>(), now).await;
        drop(keeper);
        match doubt {
            None => {}
            Some((key, Doubt::Unknown(why))) => {
                let message = format!("could not read back the object's lock, so this backup may not be locked: {why}");
                self.warn_of(manifest, &key, message);
            }
            Some((key, Doubt::Unlocked(what))) => match self.doubt(&key, None, lock).await {
                None => tracing::info!(%key, "the store {what}: the objects were locked after they were written"),
                Some(_) => self.warn_of(manifest, &key, format!("the store {what}: this backup can be deleted")),
            },
        }
        self.report(manifest, extended);
        Ok(())
    }

    /// Notes the lock of the manifest, which has been written in this version.
    pub(super) fn note_lock(&self, version: Option<&VersionId>, lock: Option<Lock>) {
        if let (Some(lock), Some(mut keeper)) = (lock, Keeper::open(self.location, &self.owner.chain)) {
            keeper.committed(&self.home.manifest(), version, lock.until);
            keeper.save();
        }
    }

    fn is_own(&self, key: &ObjectKey) -> bool {
        key.as_str().starts_with(self.home.as_str())
    }

    /// An index, which is written at once, and the largest data object.
    fn samples(&self, manifest: &Manifest) -> Vec<(ObjectKey, Option<VersionId>)> {
        let streams = || manifest.streams().map(|(_, stream)| stream);
        let index = streams().map(|stream| &stream.index).find(|index| self.is_own(&index.key));
        let data = streams().flat_map(|stream| &stream.objects).filter(|object| self.is_own(&object.key));
        let data = data.max_by_key(|object| object.size);
        let index = index.map(|index| (index.key.clone(), index.version.clone()));
        index.into_iter().chain(data.map(|data| (data.key.clone(), data.version.clone()))).collect()
    }

    async fn doubt(&self, key: &ObjectKey, version: Option<&VersionId>, wanted: Lock) -> Option<Doubt> {
        match self.location.store.lock(key, version).await {
            // Dates have whole seconds.
            Ok(Some(lock)) if lock.until.as_second() >= wanted.until.as_second() => None,
            Ok(Some(Lock { until, .. })) => {
                Some(Doubt::Unlocked(format!("has locked an object until {until} instead of {}", wanted.until)))
            }
            Ok(None) => Some(Doubt::Unlocked("ignores the locks of new objects".to_owned())),
            Err(error) => Some(Doubt::Unknown(error.report().message)),
        }
    }

    fn report(&self, manifest: &mut Manifest, extended: Extended) {
        let (count, listed) = (extended.failures.count, extended.failures.list.len() as u64);
        for failure in extended.failures.list {
            let Failure { key, .. } = &failure;
            self.warn_of(manifest, key, failure.to_string());
        }
        if count > listed {
            let message = format!("could not extend the locks of {} more objects", count - listed);
            self.warn_of(manifest, &ObjectKey::new(self.home.as_str()), message);
        }
        if extended.extended > 0 {
            tracing::info!(objects = extended.extended, "extended the locks of earlier backups' objects");
        }
    }

    fn warn_of(&self, manifest: &mut Manifest, key: &ObjectKey, message: String) {
        let item = manifest
            .streams()
            .find(|(_, stream)| stream.index.key == *key || stream.objects.iter().any(|object| object.key == *key));
        let item: Option<Name> = item.map(|(item, _)| item.name.clone());
        let Some(item) = item.or_else(|| manifest.items.first().map(|item| item.name.clone())) else { return };
        let mut tally = self.tally(&item);
        tally.warn(key.as_str(), message);
        manifest.warnings.append(tally.warnings);
    }
}
