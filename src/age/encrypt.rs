//! Encrypts an object's payload: assigns chunks their counters in order, and seals them in any order, on any thread.
//!
//! Memory: at most one chunk that waits for its end ([`CHUNK`]), and what the runs hold, which share the caller's bytes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::cipher::{PayloadKey, Place};
use super::envelope::{Envelope, Interrupted, JournalError};
use super::size::{CHUNK, SEALED_CHUNK, TAG};
use super::tags::Tags;

/// A chunk is not what it was when the process died: the object must be given up, and another begun with a new [`Envelope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plain bytes from {plain} on are not those of the interrupted upload (chunk {chunk})")]
pub struct Diverged {
    pub chunk: u64,
    /// The position of the chunk's first byte in the plain payload.
    pub plain: u64,
}

/// One object's encryption. Consumes its envelope; see the invariant in the module's documentation.
pub struct Encryptor {
    key: Arc<PayloadKey>,
    next: u64,
    /// At most one chunk: whether it is the last shows when more bytes come, or none.
    waiting: Vec<u8>,
    /// The tags of the chunks from `next` on that may have left a process that died.
    known: Tags,
    /// How many of `known` are used up.
    used: usize,
}

/// Consecutive chunks with their counters. Sealing consumes it.
#[must_use = "its counters are used up: the object needs its bytes"]
pub struct Run {
    key: Arc<PayloadKey>,
    first: u64,
    plain: Bytes,
    /// The place of its last chunk.
    place: Place,
    known: Tags,
}

impl fmt::Debug for Encryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryptor").field("next", &self.next).field("known", &self.known).finish_non_exhaustive()
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("first", &self.first).field("plain", &self.plain.len()).finish_non_exhaustive()
    }
}

impl Encryptor {
    /// Begins an object. Its first bytes are [`Envelope::prefix`].
    #[must_use]
    pub fn new(envelope: Envelope) -> Self {
        Self::at(&envelope, 0, Tags::default())
    }

    /// Begins an interrupted object again, at its first byte: what was sent is sealed and compared again.
    #[must_use]
    pub fn again(interrupted: Interrupted) -> Self {
        Self::at(&interrupted.envelope, 0, interrupted.tags)
    }

    /// Continues an interrupted object at a chunk: the caller writes the plain payload from that chunk's first byte on
    /// ([`super::Layout::restart`] gives both for a part's border).
    ///
    /// # Errors
    /// When chunks before that one have no tag: what they were is unknown.
    pub fn continued(mut interrupted: Interrupted, chunk: u64) -> Result<Self, JournalError> {
        let known = interrupted.tags.chunks();
        if chunk > known {
            return Err(JournalError::Gap { at: chunk, known });
        }
        let tags = interrupted.tags.split_off(chunk);
        Ok(Self::at(&interrupted.envelope, chunk, tags))
    }

    fn at(envelope: &Envelope, next: u64, known: Tags) -> Self {
        Self { key: Arc::new(envelope.payload()), next, waiting: Vec::new(), known, used: 0 }
    }

    /// Takes the payload's next bytes; returns the chunks that they complete, in order: two runs at most.
    #[must_use]
    pub fn write(&mut self, mut plain: Bytes) -> Vec<Run> {
        let complete = (self.waiting.len() + plain.len()).saturating_sub(1) / CHUNK;
        let mut runs = Vec::new();
        if complete > 0 && !self.waiting.is_empty() {
            let rest = plain.split_to(CHUNK - self.waiting.len());
            self.waiting.extend_from_slice(&rest);
            let waiting = std::mem::take(&mut self.waiting);
            runs.push(self.run(waiting.into(), Place::Inner));
        }
        let complete = complete - runs.len();
        if complete > 0 {
            runs.push({
                let plain = plain.split_to(complete * CHUNK);
                self.run(plain, Place::Inner)
            });
        }
        self.waiting.extend_from_slice(&plain);
        runs
    }

    /// Ends the payload; returns its last chunk.
    pub fn finish(mut self) -> Run {
        let waiting = std::mem::take(&mut self.waiting);
        self.run(waiting.into(), Place::Last)
    }

    fn run(&mut self, plain: Bytes, place: Place) -> Run {
        let chunks = plain.len().div_ceil(CHUNK).max(1);
        let known = self.known.slice(self.used..self.used + chunks);
        self.used += chunks;
        let first = self.next;
        self.next += chunks as u64;
        Run { key: Arc::clone(&self.key), first, plain, place, known }
    }
}

impl Run {
    /// Bytes when it is sealed.
    #[must_use]
    pub fn sealed_len(&self) -> usize {
        self.plain.len() + self.plain.len().div_ceil(CHUNK).max(1) * TAG
    }

    /// Seals into a buffer of exactly [`Run::sealed_len`] bytes. No byte of it may leave the process before the tags are durable.
    ///
    /// # Errors
    /// When a chunk is not what it was. `sealed` is zeroed then.
    ///
    /// # Panics
    /// When the buffer has another length.
    pub fn seal_into(self, sealed: &mut [u8]) -> Result<Tags, Diverged> {
        assert_eq!(sealed.len(), self.sealed_len(), "the buffer has the length of the sealed run");
        let mut tags = Tags::default();
        let inner = self.plain.len().saturating_sub(1) / CHUNK;
        for number in 0..=inner {
            let rest = &self.plain[number * CHUNK..];
            let plain = &rest[..rest.len().min(CHUNK)];
            let at = number * SEALED_CHUNK;
            let chunk = &mut sealed[at..at + plain.len() + TAG];
            let place = if number == inner { self.place } else { Place::Inner };
            let counter = self.first + number as u64;
            self.key.seal(counter, place, plain, chunk);
            let tag = *chunk.last_chunk().expect("a sealed chunk ends with its tag");
            if self.known.get(number).is_some_and(|known| *known != tag) {
                sealed.fill(0);
                return Err(Diverged { chunk: counter, plain: counter * CHUNK as u64 });
            }
            tags.push(tag);
        }
        Ok(tags)
    }

    /// As [`Run::seal_into`], in a buffer of its own.
    ///
    /// # Errors
    /// When a chunk is not what it was.
    pub fn seal(self) -> Result<(Vec<u8>, Tags), Diverged> {
        let mut sealed = vec![0; self.sealed_len()];
        let tags = self.seal_into(&mut sealed)?;
        Ok((sealed, tags))
    }
}

#[cfg(test)]
mod tests;
