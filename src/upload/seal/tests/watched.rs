//! A store that notes what is sent.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Notify;

use super::PART;
use crate::age::{SEALED_CHUNK, TAG};
use crate::checksum::{Algorithm, Checksum};
use crate::format::key::ObjectKey;
use crate::store::memory::MemoryStore;
use crate::store::{
    Deleted, Download, Error as StoreError, Folders, Hold, ListedUpload, Lock, ObjectInfo, Overwrite, Page, PartNumber,
    Payload, Store, UploadHandle, UploadId, UploadedPart, VersionId, VersionPage, Versions,
};

/// Notes every byte that a process sends, by its place in the object and by the upload that it is for.
pub(super) struct Watched {
    pub(super) inner: MemoryStore,
    pub(super) seen: Mutex<HashMap<(UploadId, PartNumber), Vec<u8>>>,
    /// How many more parts are answered; the next one is sent, and the process dies.
    pub(super) lives: Mutex<usize>,
    pub(super) died: Notify,
    /// The journal's folder.
    pub(super) uploads: OnceLock<PathBuf>,
}

/// How many bytes of an upload have their tags in the journal's file.
pub(super) fn recorded(uploads: &Path, upload: &UploadHandle) -> usize {
    let lines = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line.get(9..)?).ok();
        text.lines().filter_map(parse).collect::<Vec<_>>()
    };
    let of_it = |lines: &Vec<serde_json::Value>| lines.iter().any(|line| line["created"]["id"] == *upload.id.0);
    let paths = std::fs::read_dir(uploads).unwrap().map(|entry| entry.unwrap().path());
    let found = paths.map(lines).find(of_it).expect("the upload has an entry");
    let length = |text: &serde_json::Value| text.as_str().map_or(0, |text| STANDARD.decode(text).unwrap().len());
    let prefix = length(&found[0]["intent"]["sealed"]["record"]) - 16;
    let tags: usize = found.iter().map(|line| length(&line["tags"]["tags"])).sum();
    prefix + tags / TAG * SEALED_CHUNK
}

impl Watched {
    /// Notes a part. Panics if it is not what was sent before, as far as both go, or if a chunk's tag is not in the journal.
    pub(super) fn see(&self, upload: &UploadHandle, part: PartNumber, payload: &Payload) {
        let end = (usize::from(part.get()) - 1) * PART + usize::try_from(payload.size()).unwrap();
        let recorded = recorded(self.uploads.get().unwrap(), upload);
        assert!(end <= recorded, "byte {end} was sent, and the tags of {recorded} were recorded");
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = payload.pieces.concat();
        let before = seen.entry((upload.id.clone(), part)).or_default();
        let common = before.len().min(bytes.len());
        assert_eq!(before[..common], bytes[..common], "part {part} of {upload:?} was sent with two contents");
        if bytes.len() > before.len() {
            *before = bytes;
        }
    }
}

#[async_trait]
impl Versions for Watched {
    async fn get_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        range: Option<Range<u64>>,
    ) -> Result<Download, StoreError> {
        self.inner.get_version(key, version, range).await
    }

    async fn head_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectInfo, StoreError> {
        self.inner.head_version(key, version).await
    }

    async fn delete_version(&self, key: &ObjectKey, version: &VersionId) -> Result<(), StoreError> {
        self.inner.delete_version(key, version).await
    }

    async fn copy_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        size: u64,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, StoreError> {
        self.inner.copy_version(key, version, size, lock).await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<VersionPage, StoreError> {
        self.inner.list_versions(prefix, from).await
    }

    async fn lock(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Option<Lock>, StoreError> {
        self.inner.lock(key, version).await
    }

    async fn set_lock(&self, key: &ObjectKey, version: Option<&VersionId>, lock: Lock) -> Result<(), StoreError> {
        self.inner.set_lock(key, version, lock).await
    }

    async fn hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Hold, StoreError> {
        self.inner.hold(key, version).await
    }

    async fn set_hold(&self, key: &ObjectKey, version: Option<&VersionId>, hold: Hold) -> Result<(), StoreError> {
        self.inner.set_hold(key, version, hold).await
    }
}

#[async_trait]
impl Store for Watched {
    fn algorithm(&self) -> Algorithm {
        self.inner.algorithm()
    }

    async fn put_locked(
        &self,
        key: &ObjectKey,
        payload: Payload,
        overwrite: Overwrite,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, StoreError> {
        self.inner.put_locked(key, payload, overwrite, lock).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, StoreError> {
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, StoreError> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        self.inner.list(prefix, from).await
    }

    async fn folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, StoreError> {
        self.inner.folders(prefix, from).await
    }

    async fn create_locked(&self, key: &ObjectKey, lock: Option<Lock>) -> Result<UploadId, StoreError> {
        self.inner.create_locked(key, lock).await
    }

    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, StoreError> {
        self.see(upload, number, &payload);
        let lives = {
            let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
            let left = lives.saturating_sub(1);
            std::mem::replace(&mut *lives, left)
        };
        if lives == 0 {
            self.died.notify_one();
            return std::future::pending().await;
        }
        self.inner.upload_part(upload, number, payload).await
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<Option<VersionId>, StoreError> {
        self.inner.complete_upload(upload, parts, size, checksum).await
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), StoreError> {
        self.inner.abort_upload(upload).await
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, StoreError> {
        self.inner.list_parts(upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError> {
        self.inner.list_uploads(prefix).await
    }
}
