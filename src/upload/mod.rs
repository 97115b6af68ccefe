//! Bytes into one object: parts of one size, several in flight, reviewed before they are committed.
//!
//! - **Memory**: bytes are copied into buffers of the budget. One buffer is the stream's own for as long as it runs; more are taken
//!   only when free right now. So an upload never waits for another job's memory while it holds its own.
//! - **Small objects**: one that ends within its first part is a single PUT; nothing is created that would need cleaning up.
//! - **Retries**: the SDK owns a request, [`crate::retry`] owns a part.
//! - **Consistency**: before CompleteMultipartUpload the parts are compared with what was read — count, sizes, checksums — and the
//!   combined checksum goes along for the server to check.
//! - **Cancellation and failure**: an [`ObjectWriter`] must end in [`ObjectWriter::finish`] or [`ObjectWriter::abort`]. Dropping one leaves an upload behind, so the callers do not.

mod review;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::budget::{Budget, Buffer, OwnBuffers};
use crate::checksum::{self, Algorithm, Checksum};
use crate::error::{Class, Classify, Report};
use crate::format::key::ObjectKey;
use crate::retry::with_retries;
use crate::store::{self, Overwrite, PartNumber, Payload, Store, UploadHandle, UploadedPart};

/// How long an abort may take before the upload is reported as left behind.
const ABORT_DEADLINE: Duration = Duration::from_secs(60);

/// An abort is repeated until ListParts says that the upload is gone: parts in flight may land after the first one.
const ABORT_ROUNDS: u32 = 10;

/// What every object of a stream is uploaded with.
#[derive(Clone)]
pub struct Uploader {
    pub store: Arc<dyn Store>,
    pub budget: Budget,
    /// One buffer of `part_size` bytes at least.
    pub own: OwnBuffers,
    pub part_size: usize,
    /// Parts in flight, at least 1.
    pub concurrency: usize,
    pub checksum: Algorithm,
}

impl std::fmt::Debug for Uploader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploader")
            .field("part_size", &self.part_size)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{key}: before completing the upload, {what} is {found}; expected {expected}")]
    Review { key: ObjectKey, what: &'static str, expected: String, found: String },
    #[error("{key}: would need more than {} parts", PartNumber::MAX)]
    TooManyParts { key: ObjectKey },
    #[error("a task of the upload of {key} failed: {reason}")]
    Task { key: ObjectKey, reason: String },
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Store(error) => error.report(),
            Self::Review { .. } => Report::new(Class::Integrity, self.to_string())
                .remedy("nothing was committed; run the backup again, and if it happens again check the store and the network between"),
            Self::TooManyParts { .. } => {
                Report::new(Class::Config, self.to_string()).remedy("raise upload.part_size or lower upload.object_size")
            }
            Self::Task { .. } => {
                Report::new(Class::Internal, self.to_string()).remedy("this is a bug in Penstock: please report it")
            }
        }
    }
}

/// What was written, as the manifest records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub key: ObjectKey,
    pub size: u64,
    pub crc64nvme: u64,
}

/// A part's checksums: the one the server checks, and the one the manifest wants of the whole object.
#[derive(Debug, Clone, Copy)]
struct Sent {
    number: PartNumber,
    size: u64,
    checksum: Option<Checksum>,
    crc64nvme: u64,
}

/// One object being written.
#[derive(Debug)]
pub struct ObjectWriter {
    uploader: Uploader,
    key: ObjectKey,
    /// Created with the first full part.
    upload: Option<UploadHandle>,
    next_part: Option<PartNumber>,
    buffer: Option<Buffer>,
    in_flight: JoinSet<Result<(Sent, UploadedPart), Error>>,
    done: Vec<(Sent, UploadedPart)>,
    size: u64,
}

impl ObjectWriter {
    #[must_use]
    pub fn new(uploader: Uploader, key: ObjectKey) -> Self {
        Self {
            uploader,
            key,
            upload: None,
            next_part: Some(PartNumber::FIRST),
            buffer: None,
            in_flight: JoinSet::new(),
            done: Vec::new(),
            size: 0,
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends `bytes`; waits while `concurrency` parts are in flight or no buffer is free.
    ///
    /// # Errors
    /// The first failure of any part. Abort then.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => self.free_buffer().await?,
            };
            let count = buffer.fill(bytes);
            self.size += count as u64;
            bytes = &bytes[count..];
            if buffer.room() == 0 {
                self.send(buffer).await?;
            } else {
                self.buffer = Some(buffer);
            }
        }
        Ok(())
    }

    /// Waits for a part to fail; for ever if none does. Lets a caller that waits for its source notice.
    pub async fn failure(&mut self) -> Error {
        loop {
            if self.in_flight.is_empty() {
                return std::future::pending().await;
            }
            if let Err(error) = self.part_finished().await {
                return error;
            }
        }
    }

    async fn free_buffer(&mut self) -> Result<Buffer, Error> {
        loop {
            let Uploader { own, budget, part_size, .. } = &self.uploader;
            if let Some(buffer) = own.try_get().or_else(|| budget.try_buffer(*part_size)) {
                return Ok(buffer);
            }
            let own = own.clone();
            let uploading = !self.in_flight.is_empty();
            tokio::select! {
                buffer = own.get() => return Ok(buffer),
                // A part that finishes gives memory back: look again.
                finished = self.part_finished(), if uploading => finished?,
            }
        }
    }

    async fn send(&mut self, buffer: Buffer) -> Result<(), Error> {
        let upload = self.upload().await?;
        while self.in_flight.len() >= self.uploader.concurrency {
            self.part_finished().await?;
        }
        let number = self.next_part.ok_or_else(|| Error::TooManyParts { key: self.key.clone() })?;
        self.next_part = number.next();
        let (store, algorithm, data) = (Arc::clone(&self.uploader.store), self.uploader.checksum, buffer.freeze());
        self.in_flight.spawn(async move {
            let (sent, payload) = seal(number, data, algorithm, &upload.key).await?;
            let part =
                with_retries("UploadPart", &upload.key, || store.upload_part(&upload, number, payload.clone())).await?;
            Ok((sent, part))
        });
        Ok(())
    }

    async fn upload(&mut self) -> Result<UploadHandle, Error> {
        if let Some(upload) = &self.upload {
            return Ok(upload.clone());
        }
        let id =
            with_retries("CreateMultipartUpload", &self.key, || self.uploader.store.create_upload(&self.key)).await?;
        let upload = UploadHandle { key: self.key.clone(), id };
        self.upload = Some(upload.clone());
        Ok(upload)
    }

    async fn part_finished(&mut self) -> Result<(), Error> {
        match self.in_flight.join_next().await {
            Some(Ok(Ok(part))) => {
                self.done.push(part);
                Ok(())
            }
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(Error::Task { key: self.key.clone(), reason: error.to_string() }),
            None => Ok(()),
        }
    }

    /// Sends what is left and commits the object.
    ///
    /// # Errors
    /// The first failure. Abort then, and also when this future is dropped.
    pub async fn finish(&mut self) -> Result<Written, Error> {
        let rest = self.buffer.take();
        let Some(upload) = self.upload.clone() else {
            return self.put(rest.map_or_else(Bytes::new, Buffer::freeze)).await;
        };
        if let Some(rest) = rest {
            self.send(rest).await?;
        }
        while !self.in_flight.is_empty() {
            self.part_finished().await?;
        }
        self.done.sort_by_key(|(sent, _)| sent.number);
        let whole = review::review(&self.key, &self.done, self.size, self.uploader.part_size as u64)?;
        let parts: Vec<UploadedPart> = self.done.iter().map(|(_, part)| part.clone()).collect();
        self.complete(&upload, &parts, whole.checksum).await?;
        self.upload = None;
        Ok(Written { key: self.key.clone(), size: self.size, crc64nvme: whole.crc64nvme })
    }

    /// Completes; when the answer was lost and the upload is gone, the object itself says whether it succeeded.
    async fn complete(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        let store = &self.uploader.store;
        let completed = with_retries("CompleteMultipartUpload", &self.key, || {
            store.complete_upload(upload, parts, self.size, checksum)
        });
        let Err(error) = completed.await else { return Ok(()) };
        if !matches!(error.class, Class::NotFound | Class::Transient) {
            return Err(error.into());
        }
        match store.head(&self.key).await {
            Ok(object) if object.size == self.size && (object.checksum.is_none() || object.checksum == checksum) => {
                Ok(())
            }
            _ => Err(error.into()),
        }
    }

    async fn put(&self, data: Bytes) -> Result<Written, Error> {
        let (sent, payload) = seal(PartNumber::FIRST, data, self.uploader.checksum, &self.key).await?;
        let store = &self.uploader.store;
        with_retries("PutObject", &self.key, || store.put(&self.key, payload.clone(), Overwrite::Allow)).await?;
        Ok(Written { key: self.key.clone(), size: sent.size, crc64nvme: sent.crc64nvme })
    }

    /// Stops sending and aborts the upload, until the server says that it is gone. What cannot be aborted is logged with its ID.
    pub async fn abort(mut self) {
        self.in_flight.shutdown().await;
        let Some(upload) = self.upload.take() else { return };
        let aborted = tokio::time::timeout(ABORT_DEADLINE, abort_until_gone(&*self.uploader.store, &upload)).await;
        match aborted {
            Ok(Ok(())) => tracing::info!(key = %upload.key, "aborted the upload"),
            Ok(Err(error)) => {
                tracing::error!(key = %upload.key, upload_id = %upload.id.0, %error, "the upload could not be aborted and still costs storage");
            }
            Err(_) => {
                tracing::error!(key = %upload.key, upload_id = %upload.id.0, "aborting the upload timed out; it still costs storage");
            }
        }
    }
}

async fn abort_until_gone(store: &dyn Store, upload: &UploadHandle) -> Result<(), store::Error> {
    for _ in 0..ABORT_ROUNDS {
        with_retries("AbortMultipartUpload", &upload.key, || store.abort_upload(upload)).await?;
        if with_retries("ListParts", &upload.key, || store.list_parts(upload)).await?.is_none() {
            return Ok(());
        }
    }
    let message = format!("the upload still exists after {ABORT_ROUNDS} aborts");
    Err(store::Error::local("AbortMultipartUpload", &upload.key, Class::Transient, message))
}

/// Computes a part's checksums, once, away from the runtime's threads: 16 MiB of SHA-256 take 11 ms.
async fn seal(
    number: PartNumber,
    data: Bytes,
    algorithm: Algorithm,
    key: &ObjectKey,
) -> Result<(Sent, Payload), Error> {
    let sealed = tokio::task::spawn_blocking(move || {
        let checksum = algorithm.compute(&data);
        let crc64nvme = match checksum {
            Some(Checksum::Crc64nvme(value)) => value,
            _ => checksum::crc64nvme(&data),
        };
        (Sent { number, size: data.len() as u64, checksum, crc64nvme }, Payload { data, checksum })
    });
    sealed.await.map_err(|error| Error::Task { key: key.clone(), reason: error.to_string() })
}

#[cfg(test)]
mod tests;
