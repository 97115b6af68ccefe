//! Deletes garbage in a location that locks its objects.
//!
//! A delete there only adds a marker, and frees nothing. So the version itself is deleted, once its lock is over; until then the object
//! stays as it is, which is no failure. Where the role may not delete versions (`s3:DeleteObjectVersion`, which Penstock need not
//! have), a marker hides the object, and a lifecycle rule frees it. The ends of locks are remembered, so that a locked object costs
//! three requests in all, and not with each prune.

use jiff::Timestamp;

use super::{Context, Plan};
use crate::catalog::Entry;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::location::Location;
use crate::object_lock::Keeper;
use crate::store::{Deleted, Error, Hold, Store};

/// The result of deleting one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    Gone,
    Hidden,
    /// It stays until then.
    Locked(Timestamp),
}

/// How objects of one chain are deleted.
pub(super) struct Freeing<'a> {
    store: &'a dyn Store,
    /// `None` in a location that locks nothing.
    keeper: Option<Keeper<'a>>,
    now: Timestamp,
}

impl<'a> Freeing<'a> {
    pub(super) fn new(ctx: &'a Context, plan: &Plan) -> Self {
        let location = &ctx.catalog.location;
        let keeper = Keeper::open(location, &plan.chain);
        let now = location.remote.now().unwrap_or(plan.now);
        Self { store: &*location.store, keeper, now }
    }

    /// Until when an object is known to be locked: it is not worth a request before.
    pub(super) fn known(&self, key: &ObjectKey) -> Option<Timestamp> {
        self.keeper.as_ref().and_then(|keeper| keeper.garbage(key, self.now))
    }

    /// Deletes an object of which nothing else is known.
    pub(super) async fn free(&self, key: &ObjectKey) -> Result<Freed, Error> {
        if self.keeper.is_none() {
            return hide(self.store, key).await;
        }
        let version = match self.store.head(key).await {
            Ok(info) => info.version,
            // Another run has deleted it.
            Err(error) if error.class == Class::NotFound => return Ok(Freed::Gone),
            Err(error) => return Err(error),
        };
        let Some(version) = version else { return hide(self.store, key).await };
        match self.store.delete_version(key, &version).await {
            Ok(()) => return Ok(Freed::Gone),
            Err(error) if error.class != Class::AccessDenied => return Err(error),
            Err(_) => {}
        }
        // A lock, a hold or a missing permission: the refusals are alike.
        if let Ok(Some(lock)) = self.store.lock(key, Some(&version)).await
            && lock.until > self.now
        {
            return Ok(Freed::Locked(lock.until));
        }
        if let Ok(Hold::On) = self.store.hold(key, Some(&version)).await {
            return Ok(Freed::Locked(Timestamp::MAX));
        }
        hide(self.store, key).await
    }

    /// Remembers that an object is locked.
    pub(super) fn found(&mut self, key: &ObjectKey, until: Timestamp) {
        // A hold has no end, and may be released at any time.
        if let Some(keeper) = self.keeper.as_mut().filter(|_| until < Timestamp::MAX) {
            keeper.found_garbage(key, until);
        }
    }

    /// Remembers that these backups are gone, without a tombstone.
    pub(super) fn deleted<'k>(&mut self, manifests: impl Iterator<Item = &'k ObjectKey>) {
        if let Some(keeper) = &mut self.keeper {
            manifests.for_each(|manifest| keeper.deleted(manifest));
            keeper.save();
        }
    }

    pub(super) fn save(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.save();
        }
    }
}

async fn hide(store: &dyn Store, key: &ObjectKey) -> Result<Freed, Error> {
    Ok(match store.delete(key).await? {
        Deleted::Gone => Freed::Gone,
        Deleted::Hidden => Freed::Hidden,
    })
}

/// Whether a backup is held.
#[derive(Debug)]
pub(super) enum Held {
    No,
    Yes,
    /// The role may not ask (`s3:GetObjectLegalHold`).
    Unknown(Error),
}

/// Asks whether a legal hold is on a backup's manifest, where the location locks objects.
///
/// # Errors
/// When the store does not answer.
pub(super) async fn held(location: &Location, entry: &Entry) -> Result<Held, Error> {
    if location.config.object_lock.is_none() {
        return Ok(Held::No);
    }
    match location.store.hold(&entry.key, None).await {
        Ok(Hold::On) => Ok(Held::Yes),
        Ok(Hold::Off) => Ok(Held::No),
        // Not there any more, or a store without holds.
        Err(error) if matches!(error.class, Class::NotFound | Class::Compat) => Ok(Held::No),
        Err(error) if error.class == Class::AccessDenied => Ok(Held::Unknown(error)),
        Err(error) => Err(error),
    }
}
