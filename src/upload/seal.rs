//! Encrypts an object on its way into parts.
//!
//! Chunks are assigned in the order of the stream, sealed on threads of the runtime that may block, several at a time, and put into parts in
//! order. (Not on the compression threads: their queue is full of frames that are to be made, so the uploader would wait behind work that
//! waits for the uploader; docs/decisions/0083.)
//!
//! Memory: buffers of [`AT_A_TIME`] bytes with what is sealed, or of one longer run; as much plain; and as much to use again. That is
//! [`SEALING`](crate::budget::stream::SEALING).

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::Error;
use super::journal::Sealed;
use crate::age::{Diverged, Encryptor, Envelope, Interrupted, Layout, Recipient, Tags};
use crate::format::codec::MAX_STORED;
use crate::format::key::ObjectKey;

/// The most bytes in buffers of runs that are sealed, or wait to be put into parts, unless one run is longer.
const AT_A_TIME: usize = MAX_STORED as usize;

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
    /// In order, with the sizes of their buffers.
    runs: VecDeque<(usize, JoinHandle<SealedRun>)>,
    /// The sum of these sizes.
    waiting: usize,
    /// Buffers for the next runs, the oldest first; together of [`AT_A_TIME`] bytes at most.
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
        // Here and not on the thread that seals: the C library keeps what many threads have allocated and freed, for each of them.
        let mut sealed = self.buffer(length);
        let size = sealed.capacity();
        self.waiting += size;
        let seal = move || {
            sealed.resize(length, 0);
            let tags = run.seal_into(&mut sealed)?;
            Ok((sealed, tags))
        };
        self.runs.push_back((size, tokio::task::spawn_blocking(seal)));
    }

    /// A buffer of that length, or one of at most four times as much that is there: a large one for each small run would be memory that
    /// nobody counts on.
    fn buffer(&mut self, length: usize) -> Vec<u8> {
        let fits = |spare: &Vec<u8>| (length..=length.saturating_mul(4)).contains(&spare.capacity());
        match self.spare.iter().position(fits) {
            Some(found) => self.spare.remove(found),
            None => Vec::with_capacity(length),
        }
    }

    /// The next sealed bytes, if they have to make room for `coming` more, or the payload has ended.
    pub(super) async fn next(&mut self, key: &ObjectKey, coming: usize) -> Result<Option<Vec<u8>>, Error> {
        let may_wait = if self.encryptor.is_some() { AT_A_TIME.saturating_sub(coming) } else { 0 };
        if self.waiting <= may_wait {
            return Ok(None);
        }
        let Some((size, run)) = self.runs.front_mut() else { return Ok(None) };
        let (size, sealed) = (*size, run.await);
        self.runs.pop_front();
        self.waiting -= size;
        let sealed = sealed.map_err(|error| Error::Task { key: key.clone(), reason: error.to_string() })?;
        let (sealed, tags) = sealed.map_err(|Diverged { plain, .. }| Error::Diverged { key: key.clone(), plain })?;
        self.note(tags);
        Ok(Some(sealed))
    }

    /// Gives a buffer back whose bytes are in parts.
    pub(super) fn reuse(&mut self, sealed: Vec<u8>) {
        self.spare.push(sealed);
        while self.spare.iter().map(Vec::capacity).sum::<usize>() > AT_A_TIME {
            self.spare.remove(0);
        }
    }

    /// Waits until nothing is sealed any more: what is plain is gone then.
    pub(super) async fn abandon(self) {
        for (_, run) in self.runs {
            run.abort();
            // Sealed, or not begun.
            drop(run.await);
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
