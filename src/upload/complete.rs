//! Committing an object, also when the answer is lost or odd.
//!
//! A Complete whose answer did not come, could not be read or has no ETag may have succeeded; then the next attempt says NoSuchUpload.
//! HeadObject decides before anything is undone: an object of the right size and checksum is ours, since nobody else writes this key; any
//! other is the failure. A Complete that refuses the part list makes us ask for the
//! store's own: where a part was taken twice (its first answer was late), its ETag may be another than the one we were told, of the same bytes.

use super::review::{self, Parts};
use super::{Error, Sent};
use crate::checksum::Checksum;
use crate::error::Class;
use crate::store::{ObjectInfo, Store, UploadHandle, UploadedPart};

/// What is to be committed; its parts have been reviewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) upload: &'a UploadHandle,
    pub(super) parts: &'a [(Sent, UploadedPart)],
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
}

/// # Errors
/// When the object is not there, whole, afterwards.
pub(super) async fn complete(store: &dyn Store, object: Object<'_>) -> Result<(), Error> {
    let told: Vec<UploadedPart> = object.parts.iter().map(|(_, part)| part.clone()).collect();
    let error = match object.commit(store, &told).await {
        Err(Error::Store(error)) if error.class == Class::Integrity => error,
        other => return other,
    };
    let key = &object.upload.key;
    let Ok(Some(listed)) = store.list_parts(object.upload).await else { return Err(error.into()) };
    match review::held(key, object.parts, &listed)? {
        Parts::AsTold => Err(error.into()),
        Parts::WithOtherETags(parts) => {
            tracing::warn!(%key, %error, "the store holds the parts under other ETags than it told; completing with those");
            object.commit(store, &parts).await
        }
    }
}

impl Object<'_> {
    async fn commit(&self, store: &dyn Store, parts: &[UploadedPart]) -> Result<(), Error> {
        let key = &self.upload.key;
        let completed = store.complete_upload(self.upload, parts, self.size, self.checksum).await;
        let Err(error) = completed else { return Ok(()) };
        // A 409 or a RequestTimeout says no more than that this attempt was in the way of another.
        let undecided = matches!(error.class, Class::NotFound | Class::Transient | Class::Timeout | Class::Throttled);
        if error.class == Class::Integrity || (error.is_refusal() && !undecided) {
            return Err(error.into());
        }
        match store.head(key).await {
            Ok(found) => self.is(&found),
            // That the upload is gone says nothing while nobody says whether the object is there: this is the failure then.
            Err(unknown) if error.class == Class::NotFound && unknown.class != Class::NotFound => Err(unknown.into()),
            Err(_) => Err(error.into()),
        }
    }

    fn is(&self, found: &ObjectInfo) -> Result<(), Error> {
        if found.is(self.size, self.checksum) {
            return Ok(());
        }
        let show = |size, checksum| format!("{size} bytes with the checksum {}", review::show(checksum));
        Err(Error::OtherObject {
            key: self.upload.key.clone(),
            expected: show(self.size, self.checksum),
            found: show(found.size, found.checksum),
        })
    }
}
