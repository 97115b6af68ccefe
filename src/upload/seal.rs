//! Encrypts an object on its way into parts.
//!
//! Chunks are assigned in the order of the stream, sealed on threads of the runtime that may block, several at a time, and put into parts in
//! order. (Not on the compression threads: their queue is full of frames that are to be made, so the uploader would wait behind work that
//! waits for the uploader; docs/decisions/0083.)
//!
//! Memory: runs of [`AT_A_TIME`] bytes, plain and sealed, or one longer run, and as many to use again; see [`SEALING`](crate::budget::stream::SEALING).

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Error;
use super::journal::Sealed;
use crate::age::{Diverged, Encryptor, Envelope, Interrupted, Layout, Recipient, Tags};
use crate::format::codec::MAX_STORED;
use crate::format::key::ObjectKey;

/// The most bytes that are sealed at a time, unless one run is longer.
const AT_A_TIME: usize = MAX_STORED as usize;

/// A buffer that most runs fit.
const BUFFER: usize = AT_A_TIME / 2;

type SealedRun = Result<(Vec<u8>, Tags), Diverged>;

/// One object's encryption.
#[derive(Debug)]
pub(super) struct Sealing {
    /// Consumed with the last byte.
    encryptor: Option<Encryptor>,
    layout: Layout,
    /// Header and nonce, until they are taken.
    prefix: Option<Bytes>,
    /// For the journal, until it has it.
    record: Option<Sealed>,
    /// In order, with their sealed lengths.
    runs: VecDeque<(usize, JoinHandle<SealedRun>)>,
    /// The sealed bytes of `runs`.
    waiting: usize,
    /// Buffers for the next runs, of [`AT_A_TIME`] bytes at most.
    spare: Vec<Vec<u8>>,
    /// Plain bytes that were taken.
    plain: u64,
    /// Chunks that were sealed and put into parts.
    sealed: u64,
    /// Chunks whose tags the journal of an interrupted object has.
    known: u64,
    /// The tags of the others, which the journal has not yet.
    tags: Tags,
}

impl Sealing {
    /// Begins an object.
    pub(super) fn new(recipients: &[Recipient], key: &ObjectKey) -> Result<Self, Error> {
        let envelope = Envelope::new(recipients).map_err(|error| Error::Random { key: key.clone(), error })?;
        let (layout, prefix) = (envelope.layout(), Bytes::copy_from_slice(envelope.prefix()));
        let record = Sealed::new(&envelope, recipients);
        Ok(Self::of(Encryptor::new(envelope), layout, prefix, Some(record), 0))
    }

    /// Begins an interrupted object again.
    pub(super) fn again(interrupted: Interrupted) -> Self {
        let prefix = Bytes::copy_from_slice(interrupted.prefix());
        let (layout, known) = (Layout::new(prefix.len() as u64), interrupted.known());
        Self::of(Encryptor::again(interrupted), layout, prefix, None, known)
    }

    fn of(encryptor: Encryptor, layout: Layout, prefix: Bytes, record: Option<Sealed>, known: u64) -> Self {
        let (runs, tags) = (VecDeque::new(), Tags::default());
        let (encryptor, prefix) = (Some(encryptor), Some(prefix));
        Self {
            encryptor,
            layout,
            prefix,
            record,
            runs,
            waiting: 0,
            spare: Vec::new(),
            plain: 0,
            sealed: 0,
            known,
            tags,
        }
    }

    pub(super) fn plain(&self) -> u64 {
        self.plain
    }

    pub(super) fn prefix(&mut self) -> Option<Bytes> {
        self.prefix.take()
    }

    /// For the journal's first line.
    pub(super) fn record(&mut self) -> Option<Sealed> {
        self.record.take()
    }

    /// The object's length if it ends after so many more bytes.
    pub(super) fn len_with(&self, more: u64) -> u64 {
        self.plain.checked_add(more).and_then(|plain| self.layout.encrypted_len(plain)).unwrap_or(u64::MAX)
    }

    /// How many bytes of the object are stored when the payload can be read up to there.
    pub(super) fn readable_at(&self, plain: u64) -> u64 {
        let whole = self.layout.readable_at(plain).unwrap_or(u64::MAX);
        if self.encryptor.is_none() { whole.min(self.len_with(0)) } else { whole }
    }

    /// Takes the payload's next bytes.
    pub(super) fn push(&mut self, plain: Bytes) {
        self.plain += plain.len() as u64;
        let runs = self.encryptor.as_mut().map(|encryptor| encryptor.write(plain)).unwrap_or_default();
        for run in runs {
            self.seal(run);
        }
    }

    /// Ends the payload.
    pub(super) fn end(&mut self) {
        if let Some(encryptor) = self.encryptor.take() {
            self.seal(encryptor.finish());
        }
    }

    fn seal(&mut self, run: crate::age::Run) {
        let length = run.sealed_len();
        self.waiting += length;
        // Here and not on the thread that seals: the C library keeps what many threads have allocated and freed, for each of them.
        let mut sealed = self.spare.pop().unwrap_or_default();
        if sealed.capacity() < length {
            sealed = Vec::with_capacity(length.max(BUFFER));
        }
        let seal = move || {
            sealed.resize(length, 0);
            let tags = run.seal_into(&mut sealed)?;
            Ok((sealed, tags))
        };
        self.runs.push_back((length, tokio::task::spawn_blocking(seal)));
    }

    /// The next sealed bytes, if more wait than may, or the payload has ended.
    pub(super) async fn next(&mut self, key: &ObjectKey) -> Result<Option<Vec<u8>>, Error> {
        let may_wait = if self.encryptor.is_some() { AT_A_TIME } else { 0 };
        if self.waiting <= may_wait {
            return Ok(None);
        }
        let Some((length, run)) = self.runs.front_mut() else { return Ok(None) };
        let (length, sealed) = (*length, run.await);
        self.runs.pop_front();
        self.waiting -= length;
        let sealed = sealed.map_err(|error| Error::Task { key: key.clone(), reason: error.to_string() })?;
        let (sealed, tags) = sealed.map_err(|Diverged { plain, .. }| Error::Diverged { key: key.clone(), plain })?;
        self.note(tags);
        Ok(Some(sealed))
    }

    /// Gives a buffer back whose bytes are in parts.
    pub(super) fn reuse(&mut self, sealed: Vec<u8>) {
        let kept: usize = self.spare.iter().map(Vec::capacity).sum();
        if kept + sealed.capacity() <= 2 * AT_A_TIME {
            self.spare.push(sealed);
        }
    }

    fn note(&mut self, mut tags: Tags) {
        let chunks = tags.chunks();
        if self.sealed + chunks > self.known {
            self.tags.append(&tags.split_off(self.known.saturating_sub(self.sealed)));
        }
        self.sealed += chunks;
    }

    /// The tags of the chunks in parts that the journal has not, and the number of the first.
    pub(super) fn tags(&mut self) -> (u64, Tags) {
        let tags = std::mem::take(&mut self.tags);
        (self.sealed.max(self.known) - tags.chunks(), tags)
    }
}

#[cfg(test)]
mod tests;
