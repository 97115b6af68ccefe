//! Writes bytes into one object: parts of one size, several in flight, reviewed before they are committed.
//!
//! - **Memory**: bytes are copied into parts, out of the budget. A stream owns the memory of one part; it takes more only when that is
//!   free at once. So an upload never waits for another job's memory while it has its own.
//! - **Small objects**: an object that ends within its first part is a single PUT, and needs no cleaning up.
//! - **Retries**: the SDK sends a part once, and the location's store repeats it ([`crate::retry`]), so that a request of the store to slow
//!   down takes effect at once. Other requests have the SDK's attempts within each of ours.
//! - **Consistency**: before CompleteMultipartUpload the number, sizes and checksums of the parts are compared with the bytes read
//!   ([`review`]); the server checks the combined checksum. [`complete`] handles a lost or unexpected answer.
//! - **Crash**: the [`journal`] has every upload before the store does; the job [`resume`]s an interrupted one, or [`sweep`] aborts it.
//! - **Cancellation and failure**: every [`ObjectWriter`] must end in [`ObjectWriter::finish`] or [`ObjectWriter::abort`]. Dropping one
//!   leaves its upload to the sweeper.

mod abort;
mod complete;
mod error;
pub mod journal;
mod part;
pub mod resume;
mod review;
mod seal;
pub mod sweep;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub use self::error::Error;
use self::journal::{Entry, Journal, Part};
use self::part::{Filled, Filling, Sent};
use self::resume::Resumable;
use self::seal::Sealing;
use crate::age::Recipient;
use crate::budget::{Grant, OwnBuffers};
use crate::format::index::Chunk;
use crate::format::key::ObjectKey;
use crate::location::Location;
use crate::metrics::{self, AbortReason, Outcome};
use crate::retry::Retrying;
use crate::store::{self, Overwrite, PartNumber, Store, UploadHandle, UploadId, UploadedPart, VersionId};

/// How long an abort waits for a CreateMultipartUpload in flight, to abort the upload that it creates.
const CREATE_DEADLINE: Duration = Duration::from_secs(10);

/// The settings that all objects of a stream are uploaded with.
#[derive(Debug, Clone)]
pub struct Uploader {
    location: Location,
    store: Retrying<dyn Store>,
    journal: Journal,
    /// The memory of one part at least.
    own: OwnBuffers,
    /// To whom objects are encrypted; `None`: they are not.
    recipients: Option<Arc<[Recipient]>>,
    /// Counts the bytes that the store has.
    pub sent: Arc<AtomicU64>,
}

impl Uploader {
    /// `own` is the memory of one part at least.
    #[must_use]
    pub fn new(location: Location, journal: Journal, own: OwnBuffers) -> Self {
        Self { store: location.patient(), location, journal, own, recipients: None, sent: Arc::default() }
    }

    /// Encrypts objects to these recipients. The stream needs [`SEALING`](crate::budget::stream::SEALING) more.
    #[must_use]
    pub fn encrypting(self, recipients: Option<Arc<[Recipient]>>) -> Self {
        Self { recipients, ..self }
    }

    fn part_size(&self) -> usize {
        usize::try_from(self.location.config.upload.part_size).unwrap_or(usize::MAX)
    }

    fn metrics(&self) -> &metrics::Location {
        self.location.endpoint.metrics()
    }

    fn uploaded(&self, bytes: u64) {
        self.metrics().uploaded(bytes);
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The object written, as the manifest records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub key: ObjectKey,
    pub size: u64,
    pub crc64nvme: u64,
    /// Bytes of the payload, if it is encrypted.
    pub payload: Option<u64>,
    /// In a bucket that keeps versions.
    pub version: Option<VersionId>,
}

/// The result of a CreateMultipartUpload, and whether it may have created an upload of which no answer came.
type Created = (Result<UploadId, store::Error>, bool);

/// One object being written.
#[derive(Debug)]
pub struct ObjectWriter {
    uploader: Uploader,
    key: ObjectKey,
    /// The create in flight. A task, so that an abort can wait for its upload.
    creating: Option<JoinHandle<Created>>,
    /// Created with the first full part.
    upload: Option<UploadHandle>,
    entry: Option<Entry>,
    /// An attempt to create an upload was not answered: one of unknown ID may exist.
    in_doubt: bool,
    next_part: Option<PartNumber>,
    filling: Option<Filling>,
    in_flight: JoinSet<Result<(Sent, UploadedPart), Error>>,
    done: Vec<(Sent, UploadedPart)>,
    /// Of an encrypted object.
    sealing: Option<Sealing>,
    /// Bytes put into parts, and how many of them have been sent.
    size: u64,
    sent: u64,
    /// Chunks whose last byte has not been sent.
    chunks: Vec<Chunk>,
    /// Parts of a resumed upload that the store has already.
    stored: HashMap<PartNumber, Part>,
}

impl ObjectWriter {
    /// # Errors
    /// When the object is to be encrypted and the system gives no random bytes.
    pub fn new(uploader: Uploader, key: ObjectKey) -> Result<Self, Error> {
        let sealing = uploader.recipients.as_deref().map(|recipients| Sealing::new(recipients, &key)).transpose()?;
        Ok(Self { sealing, ..Self::plain(uploader, key) })
    }

    /// Writes bytes as they are, whatever the uploader encrypts: they are encrypted already.
    #[must_use]
    pub fn plain(uploader: Uploader, key: ObjectKey) -> Self {
        Self {
            uploader,
            key,
            creating: None,
            upload: None,
            entry: None,
            in_doubt: false,
            next_part: Some(PartNumber::FIRST),
            filling: None,
            in_flight: JoinSet::new(),
            done: Vec::new(),
            sealing: None,
            size: 0,
            sent: 0,
            chunks: Vec::new(),
            stored: HashMap::new(),
        }
    }

    /// Resumes an upload. The caller writes the object from its start; parts that the store has already are not sent.
    #[must_use]
    pub fn resume(uploader: Uploader, resumable: Resumable) -> Self {
        let Resumable { upload, entry, in_doubt, stored, sealed } = resumable;
        let writer = Self::plain(uploader, upload.key.clone());
        let sealing = sealed.map(Sealing::again);
        Self { upload: Some(upload), entry: Some(entry), in_doubt, stored, sealing, ..writer }
    }

    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Bytes written so far; of an encrypted object, those of its payload.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.sealing.as_ref().map_or(self.size, Sealing::plain)
    }

    /// The object's length if so many more bytes are written.
    #[must_use]
    pub fn len_with(&self, more: u64) -> u64 {
        self.sealing.as_ref().map_or(self.size.saturating_add(more), |sealing| sealing.len_with(more))
    }

    /// Declares that the next bytes written are this chunk's. The journal counts the chunk as stored with its last byte.
    pub fn chunk(&mut self, chunk: Chunk) {
        self.chunks.push(chunk);
    }

    /// Appends `bytes`; waits while the window of parts in flight is full or no buffer is free.
    ///
    /// # Errors
    /// The first failure of any part, and where a resumed encrypted object is not what it was. The caller must abort then.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let Some(sealing) = &mut self.sealing else { return self.fill(&bytes).await };
        if let Some(prefix) = sealing.prefix() {
            self.fill(&prefix).await?;
        }
        self.fill_sealed(bytes.len()).await?;
        if let Some(sealing) = &mut self.sealing {
            sealing.push(bytes);
        }
        Ok(())
    }

    /// Puts into parts what is sealed, as far as there is no room for `coming` bytes more.
    async fn fill_sealed(&mut self, coming: usize) -> Result<(), Error> {
        while let Some(sealing) = &mut self.sealing
            && let Some(sealed) = sealing.next(&self.key, coming).await?
        {
            self.fill(&sealed).await?;
            if let Some(sealing) = &mut self.sealing {
                sealing.reuse(sealed);
            }
        }
        Ok(())
    }

    async fn fill(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let mut part = match self.filling.take() {
                Some(part) => part,
                None => Filling::new(self.grant().await?),
            };
            let count = part.fill(bytes);
            self.size += count as u64;
            bytes = &bytes[count..];
            if part.is_full() {
                self.send(part).await?;
            } else {
                self.filling = Some(part);
            }
        }
        Ok(())
    }

    /// Waits for a part to fail, for ever if none does, so that a caller waiting for its source notices.
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

    async fn grant(&mut self) -> Result<Grant, Error> {
        loop {
            let Uploader { own, location, .. } = &self.uploader;
            let grant = own.try_grant().or_else(|| location.process.budget.try_grant(self.uploader.part_size()));
            if let Some(grant) = grant {
                return Ok(grant);
            }
            let own = own.clone();
            let uploading = !self.in_flight.is_empty();
            tokio::select! {
                grant = own.grant() => return Ok(grant),
                // A finished part frees memory: try again.
                finished = self.part_finished(), if uploading => finished?,
            }
        }
    }

    async fn send(&mut self, part: Filling) -> Result<(), Error> {
        let upload = self.upload().await?;
        while self.in_flight.len() >= self.uploader.location.endpoint.window() {
            self.part_finished().await?;
        }
        let number = self.next_part.ok_or_else(|| Error::TooManyParts { key: self.key.clone() })?;
        self.next_part = number.next();
        let part = part.freeze();
        self.sent += part.size();
        let ends = |chunk: &Chunk| {
            let end = chunk.offset + u64::from(chunk.stored_len);
            self.sealing.as_ref().map_or(end, |sealing| sealing.readable_at(end))
        };
        let ends_here = self.chunks.partition_point(|chunk| ends(chunk) <= self.sent);
        let chunks: Vec<Chunk> = self.chunks.drain(..ends_here).collect();
        let (uploader, entry, stored) = (self.uploader.clone(), self.entry.clone(), self.stored.remove(&number));
        // Queued in the order of the parts; each waits until all tags up to its own are durable.
        let recorded = self.sealing.as_mut().zip(entry.as_ref()).map(|(sealing, entry)| {
            let (from, tags) = sealing.tags();
            entry.tags(from, &tags)
        });
        let launch = uploader.location.endpoint.launch(self.in_flight.len());
        self.in_flight.spawn(async move {
            let (sent, payload) = part.seal(number, uploader.store.algorithm(), &upload.key).await?;
            if let Some(stored) = stored.filter(|stored| sent.is(stored, &chunks)) {
                uploader.sent.fetch_add(sent.size, Ordering::Relaxed);
                return Ok((sent, stored.uploaded));
            }
            if let Some(recorded) = recorded {
                recorded.durable().await?;
            }
            let (in_flight, started) = (uploader.metrics().part_in_flight(), Instant::now());
            let answer = uploader.store.send_part(launch, &upload, number, &payload).await?;
            in_flight.arrived(started.elapsed());
            uploader.uploaded(sent.size);
            if let Some(entry) = entry {
                entry.finished(Part { uploaded: answer.clone(), crc64nvme: sent.crc64nvme, chunks });
            }
            Ok((sent, answer))
        });
        Ok(())
    }

    async fn upload(&mut self) -> Result<UploadHandle, Error> {
        if let Some(upload) = &self.upload {
            return Ok(upload.clone());
        }
        if self.entry.is_none() {
            let (journal, part_size) = (&self.uploader.journal, self.uploader.part_size() as u64);
            let sealed = self.sealing.as_mut().and_then(Sealing::record);
            self.entry = Some(journal.begin(&self.key, part_size, sealed).await?);
        }
        let (store, key) = (self.uploader.store.clone(), self.key.clone());
        let lock = self.uploader.location.new_lock().await?;
        let creating = self.creating.insert(tokio::spawn(async move { store.begin_upload(&key, lock).await }));
        let created = creating.await;
        self.creating = None;
        let upload = self.created(created)?;
        if let Some(entry) = &self.entry {
            entry.created(&upload.id).await?;
        }
        Ok(upload)
    }

    fn created(&mut self, created: Result<Created, tokio::task::JoinError>) -> Result<UploadHandle, Error> {
        let (result, in_doubt) = match created {
            Ok(created) => created,
            Err(error) => {
                self.in_doubt = true;
                return Err(Error::Task { key: self.key.clone(), reason: error.to_string() });
            }
        };
        self.in_doubt = in_doubt;
        let upload = UploadHandle { key: self.key.clone(), id: result? };
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

    /// Sends the rest and commits the object.
    ///
    /// # Errors
    /// The first failure. The caller must abort then, and when it drops this future.
    pub async fn finish(&mut self) -> Result<Written, Error> {
        if let Some(sealing) = &mut self.sealing {
            sealing.end();
            let prefix = sealing.prefix();
            self.fill(&prefix.unwrap_or_default()).await?;
            self.fill_sealed(0).await?;
        }
        let payload = self.sealing.as_ref().map(Sealing::plain);
        let rest = self.filling.take();
        let Some(upload) = self.upload.clone() else {
            let written = self.put(&rest.map_or_else(Filled::empty, Filling::freeze)).await?;
            return Ok(Written { payload, ..written });
        };
        if let Some(rest) = rest {
            self.send(rest).await?;
        }
        while !self.in_flight.is_empty() {
            self.part_finished().await?;
        }
        self.done.sort_by_key(|(sent, _)| sent.number);
        let whole = review::review(&self.key, &self.done, self.size, self.uploader.part_size() as u64)?;
        let object = complete::Object { upload: &upload, parts: &self.done, size: self.size, checksum: whole.checksum };
        let version = complete::complete(&self.uploader.store, object).await?;
        self.upload = None;
        self.uploader.metrics().upload_ended(Outcome::Success);
        self.close_entry().await;
        Ok(Written { key: self.key.clone(), size: self.size, crc64nvme: whole.crc64nvme, payload, version })
    }

    async fn put(&self, part: &Filled) -> Result<Written, Error> {
        let store = &self.uploader.store;
        let (sent, payload) = part.seal(PartNumber::FIRST, store.algorithm(), &self.key).await?;
        let lock = self.uploader.location.new_lock().await?;
        let version = store.put_locked(&self.key, payload, Overwrite::Allow, lock).await?;
        self.uploader.uploaded(sent.size);
        Ok(Written { key: self.key.clone(), size: sent.size, crc64nvme: sent.crc64nvme, payload: None, version })
    }

    /// Stops sending and aborts the upload until the server no longer knows it. An upload that cannot be aborted is logged with its ID and
    /// left to the sweeper.
    pub async fn abort(mut self, reason: AbortReason) {
        self.in_flight.shutdown().await;
        if let Some(sealing) = self.sealing.take() {
            sealing.abandon().await;
        }
        if let Some(mut creating) = self.creating.take() {
            if let Ok(created) = tokio::time::timeout(CREATE_DEADLINE, &mut creating).await {
                // The failure that caused the abort is reported, not the create's.
                drop(self.created(created));
            } else {
                creating.abort();
                self.in_doubt = true;
            }
        }
        if let Some(upload) = self.upload.take() {
            let aborted = abort::abort_until_gone(&self.uploader.store, &upload).await;
            let (outcome, metrics) =
                (if aborted.is_ok() { Outcome::Success } else { Outcome::Failure }, self.uploader.metrics());
            metrics.upload_aborted(reason, outcome);
            let ended = match reason {
                AbortReason::Cancelled => Outcome::Cancelled,
                AbortReason::Failure | AbortReason::Interrupted => Outcome::Failure,
            };
            metrics.upload_ended(ended);
            if let Err(error) = aborted {
                tracing::error!(key = %upload.key, upload_id = %upload.id.0, class = %error.class, %error,
                    "could not abort the upload: its parts still cost storage; `penstock sweep` tries again");
                return;
            }
            tracing::info!(key = %upload.key, "upload aborted");
        }
        self.close_entry().await;
    }

    /// Closes the entry, or records that an upload of unknown ID may exist.
    async fn close_entry(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if !self.in_doubt {
            entry.close().await;
        } else if let Err(error) = entry.in_doubt().await {
            tracing::error!(key = %self.key, %error, "could not record that an unanswered request may have created a second upload: it may stay and cost storage");
        }
    }
}

#[cfg(test)]
mod tests;
