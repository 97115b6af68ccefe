//! A store whose client dies with its n-th request: from then on nothing is answered.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock::checksum::Checksum;
use penstock::format::key::ObjectKey;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Download, Error, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store, UploadHandle, UploadId,
    UploadedPart,
};
use tokio_util::sync::CancellationToken;

pub(crate) struct Dying {
    store: Arc<MemoryStore>,
    requests: u32,
    left: AtomicU32,
    parts: AtomicU32,
    dead: CancellationToken,
}

impl Dying {
    pub(crate) fn new(store: Arc<MemoryStore>, requests: u32) -> Self {
        Self {
            store,
            requests,
            left: AtomicU32::new(requests),
            parts: AtomicU32::new(0),
            dead: CancellationToken::new(),
        }
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u32 {
        self.requests - self.left.load(Ordering::Relaxed)
    }

    /// Parts that were taken.
    pub(crate) fn parts(&self) -> u32 {
        self.parts.load(Ordering::Relaxed)
    }

    /// Waits for the end.
    pub(crate) async fn dead(&self) {
        self.dead.cancelled().await;
    }

    async fn request(&self) -> &MemoryStore {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            self.dead.cancel();
            std::future::pending::<()>().await;
        }
        &self.store
    }
}

#[async_trait::async_trait]
impl Store for Dying {
    fn algorithm(&self) -> penstock::checksum::Algorithm {
        self.store.algorithm()
    }
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        self.request().await.get(key, range).await
    }
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        self.request().await.put(key, payload, overwrite).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        self.request().await.head(key).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<penstock::store::Deleted, Error> {
        self.request().await.delete(key).await
    }
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.request().await.list(prefix, from).await
    }
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
        self.request().await.create_upload(key).await
    }
    async fn upload_part(&self, to: &UploadHandle, n: PartNumber, payload: Payload) -> Result<UploadedPart, Error> {
        let part = self.request().await.upload_part(to, n, payload).await;
        self.parts.fetch_add(1, Ordering::Relaxed);
        part
    }
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        self.request().await.complete_upload(upload, parts, size, checksum).await
    }
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        self.request().await.abort_upload(upload).await
    }
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        self.request().await.list_parts(upload).await
    }
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        self.request().await.list_uploads(prefix).await
    }
}
