//! Bytes into one object: parts of one size, several in flight, reviewed before they are committed.
//!
//! - **Memory**: bytes are copied into parts out of the budget. One part is the stream's own for as long as it runs; more are taken
//!   only when free right now. So an upload never waits for another job's memory while it holds its own.
//! - **Small objects**: one that ends within its first part is a single PUT; nothing is created that would need cleaning up.
//! - **Retries**: a part is one request of the SDK's, and repeated by the location's store ([`crate::retry`]), so that a store that asks to
//!   slow down is heard at once. Other requests have the SDK's attempts within each of ours.
//! - **Consistency**: before CompleteMultipartUpload the parts are compared with what was read ([`review`]) — count, sizes, checksums — and
//!   the combined checksum goes along for the server to check. What a lost or odd answer means is [`complete`]'s to find out.
//! - **Crash**: the [`journal`] knows every upload before the store does; the job [`resume`]s what a crash has left, or [`sweep`] aborts it.
//! - **Cancellation and failure**: an [`ObjectWriter`] must end in [`ObjectWriter::finish`] or [`ObjectWriter::abort`]. Dropping one leaves
//!   its upload to the sweeper, so the callers do not.

mod abort;
mod complete;
pub mod journal;
mod part;
pub mod resume;
mod review;
pub mod sweep;

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use self::journal::{Entry, Journal, Part};
use self::part::{Filled, Filling, Sent};
use self::resume::Resumable;
use crate::budget::{Grant, OwnBuffers};
use crate::error::{Class, Classify, Report};
use crate::format::index::Chunk;
use crate::format::key::ObjectKey;
use crate::location::Location;
use crate::metrics::{self, AbortReason, Outcome};
use crate::retry::Retrying;
use crate::store::{self, Overwrite, PartNumber, Store, UploadHandle, UploadId, UploadedPart};

/// How long an abort waits for a CreateMultipartUpload that is on its way, so that what it creates can be aborted.
const CREATE_DEADLINE: Duration = Duration::from_secs(10);

/// What every object of a stream is uploaded with.
#[derive(Debug, Clone)]
pub struct Uploader {
    location: Location,
    store: Retrying<dyn Store>,
    journal: Journal,
    /// One buffer of a part at least.
    own: OwnBuffers,
}

impl Uploader {
    /// `own` is one buffer of a part at least.
    #[must_use]
    pub fn new(location: Location, journal: Journal, own: OwnBuffers) -> Self {
        Self { store: location.patient(), location, journal, own }
    }

    fn part_size(&self) -> usize {
        usize::try_from(self.location.config.upload.part_size).unwrap_or(usize::MAX)
    }

    fn metrics(&self) -> &metrics::Location {
        self.location.endpoint.metrics()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("{key}: before completing the upload, {what} is {found}; expected {expected}")]
    Review { key: ObjectKey, what: &'static str, expected: String, found: String },
    #[error(
        "{key}: the answer to completing the upload was lost, and what is there now has {found}; expected {expected}"
    )]
    OtherObject { key: ObjectKey, expected: String, found: String },
    #[error("{key}: would need more than {} parts", PartNumber::MAX)]
    TooManyParts { key: ObjectKey },
    #[error("a task of the upload of {key} failed: {reason}")]
    Task { key: ObjectKey, reason: String },
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Store(error) => error.report(),
            Self::Journal(error) => error.report(),
            Self::Review { .. } => Report::new(Class::Integrity, self.to_string())
                .remedy("nothing was committed; run the backup again, and if it happens again check the store and the network between"),
            Self::OtherObject { .. } => Report::new(Class::Integrity, self.to_string()).remedy(
                "the backup was not committed; run it again, and if it happens again check the store, the network between, and what else writes there",
            ),
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

/// What a CreateMultipartUpload came to, and whether there may be an upload of which nobody heard.
type Created = (Result<UploadId, store::Error>, bool);

/// One object being written.
#[derive(Debug)]
pub struct ObjectWriter {
    uploader: Uploader,
    key: ObjectKey,
    /// On its way. A task, so that an abort can wait for what it creates.
    creating: Option<JoinHandle<Created>>,
    /// Created with the first full part.
    upload: Option<UploadHandle>,
    entry: Option<Entry>,
    /// There may be an upload of this key whose ID never came: an attempt to create one was not answered.
    in_doubt: bool,
    next_part: Option<PartNumber>,
    filling: Option<Filling>,
    in_flight: JoinSet<Result<(Sent, UploadedPart), Error>>,
    done: Vec<(Sent, UploadedPart)>,
    /// Bytes written, and how many of them have been sent.
    size: u64,
    sent: u64,
    /// Those whose last byte has not been sent.
    chunks: Vec<Chunk>,
    /// Parts of an upload that is gone on with.
    held: HashMap<PartNumber, Part>,
}

impl ObjectWriter {
    #[must_use]
    pub fn new(uploader: Uploader, key: ObjectKey) -> Self {
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
            size: 0,
            sent: 0,
            chunks: Vec::new(),
            held: HashMap::new(),
        }
    }

    /// Goes on with an upload: what is written is the object from its start, and what of it is held is not sent.
    #[must_use]
    pub fn resume(uploader: Uploader, resumable: Resumable) -> Self {
        let Resumable { upload, entry, in_doubt, held } = resumable;
        let writer = Self::new(uploader, upload.key.clone());
        Self { upload: Some(upload), entry: Some(entry), in_doubt, held, ..writer }
    }

    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Bytes written so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Says that the next bytes written are this chunk's, for the journal: with its last byte it counts as stored.
    pub fn chunk(&mut self, chunk: Chunk) {
        self.chunks.push(chunk);
    }

    /// Appends `bytes`; waits while the window of parts in flight is full or no buffer is free.
    ///
    /// # Errors
    /// The first failure of any part. Abort then.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
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
                // A part that finishes gives memory back: look again.
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
        let ends_here = self.chunks.partition_point(|chunk| chunk.offset + u64::from(chunk.stored_len) <= self.sent);
        let chunks: Vec<Chunk> = self.chunks.drain(..ends_here).collect();
        let (uploader, entry, held) = (self.uploader.clone(), self.entry.clone(), self.held.remove(&number));
        let launch = uploader.location.endpoint.launch(self.in_flight.len());
        self.in_flight.spawn(async move {
            let (sent, payload) = part.seal(number, uploader.store.algorithm(), &upload.key).await?;
            if let Some(held) = held.filter(|held| sent.is(held, &chunks)) {
                return Ok((sent, held.uploaded));
            }
            let (metrics, started) = (uploader.metrics(), Instant::now());
            let in_flight = metrics.part_in_flight();
            let told = uploader.store.send_part(launch, &upload, number, &payload).await?;
            in_flight.arrived(started.elapsed());
            metrics.uploaded(sent.size);
            if let Some(entry) = entry {
                entry.finished(Part { uploaded: told.clone(), crc64nvme: sent.crc64nvme, chunks });
            }
            Ok((sent, told))
        });
        Ok(())
    }

    async fn upload(&mut self) -> Result<UploadHandle, Error> {
        if let Some(upload) = &self.upload {
            return Ok(upload.clone());
        }
        if self.entry.is_none() {
            self.entry = Some(self.uploader.journal.begin(&self.key, self.uploader.part_size() as u64).await?);
        }
        let (store, key) = (self.uploader.store.clone(), self.key.clone());
        let creating = self.creating.insert(tokio::spawn(async move { store.begin_upload(&key).await }));
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

    /// Sends what is left and commits the object.
    ///
    /// # Errors
    /// The first failure. Abort then, and also when this future is dropped.
    pub async fn finish(&mut self) -> Result<Written, Error> {
        let rest = self.filling.take();
        let Some(upload) = self.upload.clone() else {
            return self.put(&rest.map_or_else(Filled::empty, Filling::freeze)).await;
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
        complete::complete(&self.uploader.store, object).await?;
        self.upload = None;
        self.uploader.metrics().upload_ended(Outcome::Success);
        self.close_entry().await;
        Ok(Written { key: self.key.clone(), size: self.size, crc64nvme: whole.crc64nvme })
    }

    async fn put(&self, part: &Filled) -> Result<Written, Error> {
        let store = &self.uploader.store;
        let (sent, payload) = part.seal(PartNumber::FIRST, store.algorithm(), &self.key).await?;
        store.put(&self.key, payload, Overwrite::Allow).await?;
        self.uploader.metrics().uploaded(sent.size);
        Ok(Written { key: self.key.clone(), size: sent.size, crc64nvme: sent.crc64nvme })
    }

    /// Stops sending and aborts the upload, until the server says that it is gone. What cannot be aborted is logged with its ID and left
    /// to the sweeper.
    pub async fn abort(mut self, reason: AbortReason) {
        self.in_flight.shutdown().await;
        if let Some(mut creating) = self.creating.take() {
            if let Ok(created) = tokio::time::timeout(CREATE_DEADLINE, &mut creating).await {
                // Its failure is not the one to report.
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
                    "the upload could not be aborted and still costs storage: `penstock sweep` tries again");
                return;
            }
            tracing::info!(key = %upload.key, "aborted the upload");
        }
        self.close_entry().await;
    }

    /// The upload that is known has ended.
    async fn close_entry(&mut self) {
        let Some(entry) = self.entry.take() else { return };
        if !self.in_doubt {
            entry.close().await;
        } else if let Err(error) = entry.in_doubt().await {
            tracing::error!(key = %self.key, %error, "an attempt to create this upload was not answered, and that cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests;
