//! Completes an object, also when the store's answer is lost or unexpected.
//!
//! A Complete whose answer is lost, unreadable or without an ETag may have succeeded; the next attempt then gets NoSuchUpload.
//! HeadObject decides before anything is undone: an object of the right size and checksum is ours, since nobody else writes this key; any
//! other is the failure. If the store refuses the part list, we ask for its own: a part that it took twice (the first answer was late)
//! may be listed with an ETag other than the one we received, for the same bytes.

use super::review::{self, Parts};
use super::{Error, Sent};
use crate::checksum::Checksum;
use crate::error::Class;
use crate::store::{ObjectInfo, Store, UploadHandle, UploadedPart, VersionId};

/// The object to complete; its parts have been reviewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) upload: &'a UploadHandle,
    pub(super) parts: &'a [(Sent, UploadedPart)],
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
}

/// Returns the object's version.
///
/// # Errors
/// When the whole object is not stored afterwards.
pub(super) async fn complete(store: &dyn Store, object: Object<'_>) -> Result<Option<VersionId>, Error> {
    let sent: Vec<UploadedPart> = object.parts.iter().map(|(_, part)| part.clone()).collect();
    let error = match object.commit(store, &sent).await {
        Err(Error::Store(error)) if error.class == Class::Integrity => error,
        other => return other,
    };
    let key = &object.upload.key;
    let Ok(Some(listed)) = store.list_parts(object.upload).await else { return Err(error.into()) };
    match review::compare(key, object.parts, &listed)? {
        Parts::AsSent => Err(error.into()),
        Parts::WithOtherETags(parts) => {
            tracing::warn!(%key, %error, "the store refused the list of parts and lists them under other ETags: completing the upload with those");
            object.commit(store, &parts).await
        }
    }
}

impl Object<'_> {
    async fn commit(&self, store: &dyn Store, parts: &[UploadedPart]) -> Result<Option<VersionId>, Error> {
        let key = &self.upload.key;
        let completed = store.complete_upload(self.upload, parts, self.size, self.checksum).await;
        let error = match completed {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        // A 409 or a RequestTimeout only says that this attempt collided with another.
        let undecided = matches!(error.class, Class::NotFound | Class::Transient | Class::Timeout | Class::Throttled);
        if error.class == Class::Integrity || (error.is_refusal() && !undecided) {
            return Err(error.into());
        }
        match store.head(key).await {
            Ok(found) => self.is(&found),
            // While it is unknown whether the object exists, NoSuchUpload decides nothing: report why HeadObject failed.
            Err(unknown) if error.class == Class::NotFound && unknown.class != Class::NotFound => Err(unknown.into()),
            Err(_) => Err(error.into()),
        }
    }

    fn is(&self, found: &ObjectInfo) -> Result<Option<VersionId>, Error> {
        if found.is(self.size, self.checksum) {
            return Ok(found.version.clone());
        }
        let show = |size, checksum| format!("{size} bytes with the checksum {}", review::show(checksum));
        Err(Error::OtherObject {
            key: self.upload.key.clone(),
            expected: show(self.size, self.checksum),
            found: show(found.size, found.checksum),
        })
    }
}
