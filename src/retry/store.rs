//! Implements [`Store`] for [`Retrying`].

use std::ops::Range;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use super::window::Launch;
use super::{Attempts, Call, Retrying};
use crate::checksum::{Algorithm, Checksum};
use crate::error::{Class, Retry};
use crate::format::key::ObjectKey;
use crate::store::{
    Deleted, Download, Error, Folders, ListedUpload, Lock, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store,
    UploadHandle, UploadId, UploadedPart, VersionId,
};

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

impl Retrying<dyn Store> {
    /// Like [`Store::create_upload`]; also returns whether an attempt without an answer may have created another upload, which only a
    /// listing finds.
    pub async fn begin_upload(&self, key: &ObjectKey, lock: Option<Lock>) -> (Result<UploadId, Error>, bool) {
        let mut in_doubt = false;
        let call = Call::s3("CreateMultipartUpload", key);
        let create = || self.inner.create_locked(key, lock);
        let created =
            self.watched(call, &mut self.attempts(), create, |error| in_doubt |= error.may_have_happened()).await;
        (created, in_doubt)
    }

    /// Like [`Store::upload_part`]; its outcome changes the window.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn send_part(
        &self,
        mut launch: Launch,
        upload: &UploadHandle,
        number: PartNumber,
        payload: &Payload,
    ) -> Result<UploadedPart, Error> {
        let call = Call::s3("UploadPart", &upload.key);
        let send = || self.inner.upload_part(upload, number, payload.clone());
        let failed = |error: &Error| self.endpoint.lost(&mut launch, error.class);
        let part = self.watched(call, &mut self.attempts(), send, failed).await?;
        self.endpoint.health().window.arrived(launch);
        Ok(part)
    }
}

#[async_trait]
impl Store for Retrying<dyn Store> {
    fn algorithm(&self) -> Algorithm {
        self.inner.algorithm()
    }

    async fn put_locked(
        &self,
        key: &ObjectKey,
        payload: Payload,
        overwrite: Overwrite,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        let put = || self.inner.put_locked(key, payload.clone(), overwrite, lock);
        self.request(Call::s3("PutObject", key), put).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let start = range.as_ref().map_or(0, |range| range.start);
        let get = || self.inner.get(key, range.clone());
        let mut attempts = self.attempts();
        let call = Call::s3("GetObject", key);
        let Download { length, version, body } = self.watched(call, &mut attempts, get, |_| {}).await?;
        let resuming =
            Resuming { store: self.clone(), key: key.clone(), attempts, rest: start..start + length, length, body };
        Ok(Download { length, version, body: Box::pin(stream::unfold(Some(resuming), Resuming::step)) })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        self.request(Call::s3("HeadObject", key), || self.inner.head(key)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        self.request(Call::s3("DeleteObject", key), || self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.request(Call::s3("ListObjectsV2", &prefix), || self.inner.list(prefix, from)).await
    }

    async fn folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, Error> {
        self.request(Call::s3("ListObjectsV2", &prefix), || self.inner.folders(prefix, from)).await
    }

    async fn create_locked(&self, key: &ObjectKey, lock: Option<Lock>) -> Result<UploadId, Error> {
        self.begin_upload(key, lock).await.0
    }

    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Error> {
        let send = || self.inner.upload_part(upload, number, payload.clone());
        self.request(Call::s3("UploadPart", &upload.key), send).await
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<Option<VersionId>, Error> {
        let complete = || self.inner.complete_upload(upload, parts, size, checksum);
        self.request(Call::s3("CompleteMultipartUpload", &upload.key), complete).await
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        let abort = || self.inner.abort_upload(upload);
        self.request(Call::s3("AbortMultipartUpload", &upload.key), abort).await
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        let list = || self.inner.list_parts(upload);
        self.request(Call::s3("ListParts", &upload.key), list).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        let list = || self.inner.list_uploads(prefix);
        self.request(Call::s3("ListMultipartUploads", &prefix), list).await
    }
}

/// A body that is requested again from where it broke off.
struct Resuming {
    store: Retrying<dyn Store>,
    key: ObjectKey,
    /// Those of the first request included.
    attempts: Attempts,
    /// The range of the object that has not come yet.
    rest: Range<u64>,
    /// The length of the whole body.
    length: u64,
    body: Body,
}

impl Resuming {
    async fn step(state: Option<Self>) -> Option<(Result<Bytes, Error>, Option<Self>)> {
        let mut this = state?;
        loop {
            let stop = this.store.stop.clone();
            let piece = tokio::select! {
                biased;
                () = stop.cancelled() => Some(Err(this.error(Class::Cancelled, "cancelled"))),
                piece = this.body.next() => piece,
            };
            let error = match piece {
                Some(Ok(piece)) => {
                    // The reader refuses a body that is too long.
                    this.rest.start += piece.len() as u64;
                    return Some((Ok(piece), Some(this)));
                }
                None if this.rest.is_empty() => return None,
                None => {
                    let found = this.length - (this.rest.end - this.rest.start);
                    this.error(Class::Transient, format!("the body has {found} bytes; expected {}", this.length))
                }
                // All bytes have come, and whoever reads checks them: only the end of the reply is lost.
                Some(Err(error)) if this.rest.is_empty() && error.class.retry() == Retry::BackOff => return None,
                Some(Err(error)) => error,
            };
            if let Err(error) = this.resume(error).await {
                return Some((Err(error), None));
            }
        }
    }

    fn error(&self, class: Class, message: impl Into<String>) -> Error {
        Call::s3("GetObject", &self.key).error(class, message)
    }

    async fn resume(&mut self, error: Error) -> Result<(), Error> {
        let call = Call::s3("GetObject", &self.key);
        if self.rest.is_empty() {
            return Err(error);
        }
        self.store.again(call, &mut self.attempts, error).await?;
        let rest = &self.rest;
        let get = || self.store.inner.get(&self.key, Some(rest.clone()));
        let Download { length, body, .. } = self.store.watched(call, &mut self.attempts, get, |_| {}).await?;
        if length != rest.end - rest.start {
            let message = format!("the rest of the body has {length} bytes; expected {}", rest.end - rest.start);
            return Err(self.error(Class::Integrity, message));
        }
        self.body = body;
        Ok(())
    }
}
