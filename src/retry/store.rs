//! The store whose failed requests are made again.

use std::ops::Range;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use super::window::Launch;
use super::{Asked, Attempts, Retrying};
use crate::checksum::{Algorithm, Checksum};
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::store::{
    Deleted, Download, Error, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store, UploadHandle,
    UploadId, UploadedPart,
};

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

impl Retrying<dyn Store> {
    /// As [`Store::create_upload`]; and whether an attempt without an answer may have created one more, which only a listing finds.
    pub async fn begin_upload(&self, key: &ObjectKey) -> (Result<UploadId, Error>, bool) {
        let mut in_doubt = false;
        let asked = Asked::s3("CreateMultipartUpload", key);
        let create = || self.inner.create_upload(key);
        let created = self.watched(asked, create, |error| in_doubt |= error.may_have_happened()).await;
        (created, in_doubt)
    }

    /// As [`Store::upload_part`]; how it goes moves the window.
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
        let asked = Asked::s3("UploadPart", &upload.key);
        let send = || self.inner.upload_part(upload, number, payload.clone());
        let failed = |error: &Error| self.endpoint.lost(&mut launch, error.class);
        let part = self.watched(asked, send, failed).await?;
        self.endpoint.health().window.arrived(launch);
        Ok(part)
    }
}

#[async_trait]
impl Store for Retrying<dyn Store> {
    fn algorithm(&self) -> Algorithm {
        self.inner.algorithm()
    }

    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        self.request(Asked::s3("PutObject", key), || self.inner.put(key, payload.clone(), overwrite)).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let start = range.as_ref().map_or(0, |range| range.start);
        let get = || self.inner.get(key, range.clone());
        let Download { length, body } = self.request(Asked::s3("GetObject", key), get).await?;
        let (store, key, attempts) = (self.clone(), key.clone(), Attempts::new(self.policy));
        let resuming = Resuming { store, key, attempts, rest: start..start + length, length, body };
        Ok(Download { length, body: Box::pin(stream::unfold(Some(resuming), Resuming::step)) })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        self.request(Asked::s3("HeadObject", key), || self.inner.head(key)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        self.request(Asked::s3("DeleteObject", key), || self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.request(Asked::s3("ListObjectsV2", &prefix), || self.inner.list(prefix, from)).await
    }

    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
        self.begin_upload(key).await.0
    }

    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Error> {
        let send = || self.inner.upload_part(upload, number, payload.clone());
        self.request(Asked::s3("UploadPart", &upload.key), send).await
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        let complete = || self.inner.complete_upload(upload, parts, size, checksum);
        self.request(Asked::s3("CompleteMultipartUpload", &upload.key), complete).await
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        let abort = || self.inner.abort_upload(upload);
        self.request(Asked::s3("AbortMultipartUpload", &upload.key), abort).await
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        let list = || self.inner.list_parts(upload);
        self.request(Asked::s3("ListParts", &upload.key), list).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        let list = || self.inner.list_uploads(prefix);
        self.request(Asked::s3("ListMultipartUploads", &prefix), list).await
    }
}

/// A body that is asked for again from where it broke off.
struct Resuming {
    store: Retrying<dyn Store>,
    key: ObjectKey,
    attempts: Attempts,
    /// Of the object, what has not come yet.
    rest: Range<u64>,
    /// Of the whole body.
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
                    // More than was asked for is for the reader to refuse.
                    this.rest.start += piece.len() as u64;
                    return Some((Ok(piece), Some(this)));
                }
                None if this.rest.is_empty() => return None,
                None => {
                    let found = this.length - (this.rest.end - this.rest.start);
                    this.error(Class::Transient, format!("the body has {found} bytes; expected {}", this.length))
                }
                Some(Err(error)) => error,
            };
            if let Err(error) = this.resume(error).await {
                return Some((Err(error), None));
            }
        }
    }

    fn error(&self, class: Class, message: impl Into<String>) -> Error {
        Asked::s3("GetObject", &self.key).error(class, message)
    }

    async fn resume(&mut self, error: Error) -> Result<(), Error> {
        let asked = Asked::s3("GetObject", &self.key);
        if self.rest.is_empty() {
            return Err(error);
        }
        self.store.again(asked, &mut self.attempts, error).await?;
        let rest = &self.rest;
        let get = || self.store.inner.get(&self.key, Some(rest.clone()));
        let Download { length, body } = self.store.request(asked, get).await?;
        if length != rest.end - rest.start {
            let message = format!("the rest of the body has {length} bytes; expected {}", rest.end - rest.start);
            return Err(self.error(Class::Integrity, message));
        }
        self.body = body;
        Ok(())
    }
}
