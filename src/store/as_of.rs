//! Shows a bucket that keeps versions as it was at a moment: every reader of backups works on it unchanged (`--as-of`).
//!
//! - **A listing** is made of the listing of versions: of each key the newest one that is no younger than the moment, unless that is a
//!   delete marker. What came later, be it a deletion or another object under the same key, does not exist yet.
//! - **A read** is of the version that the backup's manifest recorded ([`Versions::recorded`]), so that also an object that was replaced
//!   *before* the moment is read as the backup wrote it; without a record, of the version at the moment.
//! - **Nothing can be written**: every other request fails.
//!
//! Needs `s3:ListBucketVersions` and `s3:GetObjectVersion`. Costs one listing more for a key that is neither recorded nor was listed.
//! Memory: some hundred bytes for each of [`MAX_KNOWN`] keys, about a hundred for each of [`MAX_RECORDED`], and a page.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Deleted, Download, Error, Folders, Hold, ListedObject, ListedUpload, ListedVersion, Lock, ObjectInfo, Overwrite,
    Page, PartNumber, Payload, Store, UploadHandle, UploadId, UploadedPart, VersionId, VersionKind, VersionPage,
    Versions,
};
use crate::checksum::{Algorithm, Checksum, sha256};
use crate::error::Class;
use crate::format::key::{DELETED, MANIFEST, ObjectKey};

/// How many keys' versions are remembered. When there are more, those known so far are forgotten and looked up again.
const MAX_KNOWN: usize = 20_000;

/// How many recorded versions are remembered. When there are more, an object whose record is not among them cannot be read: it might be
/// read as somebody has replaced it.
const MAX_RECORDED: usize = 200_000;

/// Pages of versions of one key. Whoever may write may put many versions over an object, but not for ever.
const MAX_PAGES: usize = 10_000;

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The bucket as it was then, by the store's clock.
    At(Timestamp),
    /// The newest version of each object, as if nothing had been deleted.
    BelowMarkers,
}

impl Moment {
    /// Whether it shows this version, or something older.
    fn shows(self, entry: &ListedVersion) -> bool {
        match self {
            Self::At(time) => entry.modified <= time,
            Self::BelowMarkers => entry.kind != VersionKind::Marker,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => write!(f, "as of {time}"),
            Self::BelowMarkers => f.write_str("below its delete markers"),
        }
    }
}

/// A store's past. Reads only.
pub struct AsOf {
    inner: Arc<dyn Store>,
    moment: Moment,
    known: Mutex<HashMap<ObjectKey, VersionId>>,
    recorded: Mutex<Records>,
    most: usize,
}

/// A digest of a key.
type Id = [u8; 16];

/// What manifests recorded.
#[derive(Default)]
struct Records {
    versions: HashMap<Id, VersionId>,
    /// Whether there were more.
    overflowed: bool,
}

fn id(key: &ObjectKey) -> Id {
    let mut id = Id::default();
    id.copy_from_slice(&sha256([key.as_str().as_bytes()])[..size_of::<Id>()]);
    id
}

impl fmt::Debug for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsOf").field("moment", &self.moment).finish_non_exhaustive()
    }
}

fn locked<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each entry is valid on its own.
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(map: &Mutex<HashMap<ObjectKey, VersionId>>, key: &ObjectKey, version: &VersionId) {
    let mut map = locked(map);
    if map.len() >= MAX_KNOWN {
        map.clear();
    }
    map.insert(key.clone(), version.clone());
}

impl AsOf {
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, moment: Moment) -> Self {
        Self { inner, moment, known: Mutex::default(), recorded: Mutex::default(), most: MAX_RECORDED }
    }

    /// Finds the version of `key` at the moment.
    ///
    /// # Errors
    /// When the versions cannot be listed, or there was no such object.
    pub async fn find(&self, key: &ObjectKey) -> Result<VersionId, Error> {
        if let Some(known) = locked(&self.known).get(key) {
            return Ok(known.clone());
        }
        let mut from = None;
        for _ in 0..MAX_PAGES {
            let page = self.inner.list_versions(key.as_str(), from.as_deref()).await?;
            // Longer keys with this prefix come later.
            let mut of_it = page.entries.iter().filter(|entry| entry.key == *key);
            if let Some(entry) = of_it.find(|entry| self.moment.shows(entry)) {
                if entry.kind == VersionKind::Marker {
                    break;
                }
                remember(&self.known, key, &entry.version);
                return Ok(entry.version.clone());
            }
            from = page.next;
            if from.is_none() || page.entries.last().is_some_and(|entry| entry.key > *key) {
                break;
            }
        }
        let message = format!("the bucket has no such object {}", self.moment);
        Err(Error { status: Some(404), ..Error::local("GetObject", key, Class::NotFound, message) })
    }

    /// The version that a manifest recorded.
    fn recorded_of(&self, key: &ObjectKey) -> Result<Option<VersionId>, Error> {
        let records = locked(&self.recorded);
        let version = records.versions.get(&id(key)).cloned();
        // Of manifests and tombstones nothing is recorded.
        let is_data = || !key.as_str().ends_with(MANIFEST) && !key.as_str().ends_with(DELETED);
        if version.is_none() && records.overflowed && is_data() {
            let message =
                format!("the manifests record more than {} versions: which one is right is not known", self.most);
            let remedy = Some("name one backup, or ask for less with --job and --node".to_owned());
            return Err(Error { remedy, ..Error::local("GetObjectVersion", key, Class::Local, message) });
        }
        Ok(version)
    }

    /// Forgets a record, if `answer` says that there is no such version: the bucket is a copy of the one that was written to. Then the
    /// version of the moment is read.
    fn usable<T>(&self, key: &ObjectKey, answer: Result<T, Error>) -> Option<Result<T, Error>> {
        if answer.as_ref().is_err_and(|error| error.class == Class::NotFound) {
            locked(&self.recorded).versions.remove(&id(key));
            return None;
        }
        Some(answer)
    }

    fn read_only<T>(&self, operation: &'static str, key: &ObjectKey) -> Result<T, Error> {
        let message = format!("the bucket is read {}: nothing can be changed there", self.moment);
        Err(Error::local(operation, key, Class::Config, message))
    }
}

/// Chooses the shown objects of one page of versions. `decided` is the last key that a page before has decided.
fn choose(
    moment: Moment,
    entries: &[ListedVersion],
    decided: &mut Option<ObjectKey>,
) -> Vec<(ListedObject, VersionId)> {
    let mut shown = Vec::new();
    for entry in entries {
        if decided.as_ref() == Some(&entry.key) || !moment.shows(entry) {
            continue;
        }
        *decided = Some(entry.key.clone());
        if let VersionKind::Object { size } = entry.kind {
            let object = ListedObject { key: entry.key.clone(), size, modified: entry.modified, etag: None };
            shown.push((object, entry.version.clone()));
        }
    }
    shown
}

/// The position in a listing: the length of the last decided key, that key, and the inner position.
fn position(decided: Option<&ObjectKey>, inner: &str) -> String {
    let key = decided.map_or("", ObjectKey::as_str);
    format!("{}:{key}{inner}", key.len())
}

fn parse(position: &str) -> Option<(Option<ObjectKey>, &str)> {
    let (length, rest) = position.split_once(':')?;
    let (key, inner) = rest.split_at_checked(length.parse().ok()?)?;
    Some(((!key.is_empty()).then(|| ObjectKey::new(key)), inner))
}

#[async_trait]
impl Store for AsOf {
    fn algorithm(&self) -> Algorithm {
        self.inner.algorithm()
    }

    async fn put_locked(
        &self,
        key: &ObjectKey,
        _: Payload,
        _: Overwrite,
        _: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        self.read_only("PutObject", key)
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        if let Some(version) = self.recorded_of(key)?
            && let Some(answer) = self.usable(key, self.inner.get_version(key, &version, range.clone()).await)
        {
            return answer;
        }
        self.inner.get_version(key, &self.find(key).await?, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        if let Some(version) = self.recorded_of(key)?
            && let Some(answer) = self.usable(key, self.inner.head_version(key, &version).await)
        {
            return answer;
        }
        self.inner.head_version(key, &self.find(key).await?).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        self.read_only("DeleteObject", key)
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        let (mut decided, inner) = from.and_then(parse).map_or((None, None), |(key, inner)| (key, Some(inner)));
        let VersionPage { entries, next } = self.inner.list_versions(prefix, inner).await?;
        let shown = choose(self.moment, &entries, &mut decided);
        for (object, version) in &shown {
            remember(&self.known, &object.key, version);
        }
        let objects = shown.into_iter().map(|(object, _)| object).collect();
        Ok(Page { objects, next: next.map(|next| position(decided.as_ref(), &next)) })
    }

    /// Of the present: it only helps to find a name.
    async fn folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, Error> {
        self.inner.folders(prefix, from).await
    }

    async fn create_locked(&self, key: &ObjectKey, _: Option<Lock>) -> Result<UploadId, Error> {
        self.read_only("CreateMultipartUpload", key)
    }

    async fn upload_part(&self, upload: &UploadHandle, _: PartNumber, _: Payload) -> Result<UploadedPart, Error> {
        self.read_only("UploadPart", &upload.key)
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        _: &[UploadedPart],
        _: u64,
        _: Option<Checksum>,
    ) -> Result<Option<VersionId>, Error> {
        self.read_only("CompleteMultipartUpload", &upload.key)
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        self.read_only("AbortMultipartUpload", &upload.key)
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        self.read_only("ListParts", &upload.key)
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        self.read_only("ListMultipartUploads", &ObjectKey::new(prefix))
    }
}

#[async_trait]
impl Versions for AsOf {
    async fn get_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        range: Option<Range<u64>>,
    ) -> Result<Download, Error> {
        self.inner.get_version(key, version, range).await
    }

    async fn head_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectInfo, Error> {
        self.inner.head_version(key, version).await
    }

    async fn delete_version(&self, key: &ObjectKey, _: &VersionId) -> Result<(), Error> {
        self.read_only("DeleteObjectVersion", key)
    }

    async fn copy_version(
        &self,
        key: &ObjectKey,
        _: &VersionId,
        _: u64,
        _: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        self.read_only("CopyObject", key)
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<VersionPage, Error> {
        self.inner.list_versions(prefix, from).await
    }

    async fn lock(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Option<Lock>, Error> {
        self.inner.lock(key, version).await
    }

    async fn set_lock(&self, key: &ObjectKey, _: Option<&VersionId>, _: Lock) -> Result<(), Error> {
        self.read_only("PutObjectRetention", key)
    }

    async fn hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Hold, Error> {
        self.inner.hold(key, version).await
    }

    async fn set_hold(&self, key: &ObjectKey, _: Option<&VersionId>, _: Hold) -> Result<(), Error> {
        self.read_only("PutObjectLegalHold", key)
    }

    fn recorded(&self, key: &ObjectKey, version: &VersionId) {
        let mut records = locked(&self.recorded);
        let id = id(key);
        if records.versions.len() >= self.most && !records.versions.contains_key(&id) {
            records.overflowed = true;
        } else {
            records.versions.insert(id, version.clone());
        }
    }
}

#[cfg(test)]
mod tests;
