//! Decrypts a whole payload as it arrives: pushed ([`Decryptor`]) or pulled ([`Reader`]).
//!
//! Returns only bytes whose tag is right and whose place is theirs. **That the payload is whole is known at its end only**: the caller
//! must not take a payload for complete before [`Decryptor::finish`], or the reader's end, says so.

use std::fmt;
use std::io::{self, Read};

use super::cipher::{PayloadKey, Place};
use super::faults::{PayloadError, Refused};
use super::header::Opened;
use super::size::{CHUNK, SEALED_CHUNK, TAG};

/// Takes the bytes behind header and nonce.
pub struct Decryptor {
    key: PayloadKey,
    next: u64,
    /// Less than two sealed chunks: a chunk waits until it is known whether it is the last.
    waiting: Vec<u8>,
}

impl fmt::Debug for Decryptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decryptor").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Decryptor {
    #[must_use]
    pub fn new(opened: Opened) -> Self {
        Self { key: opened.key, next: 0, waiting: Vec::new() }
    }

    /// Takes the next encrypted bytes and appends the plain bytes of the chunks that they complete.
    ///
    /// # Errors
    /// At the first chunk that is refused, or that follows the last. `plain` ends before it then, and the decryptor is of no further use.
    pub fn write(&mut self, mut sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), PayloadError> {
        while self.waiting.len() + sealed.len() > SEALED_CHUNK {
            if self.waiting.is_empty() {
                let (chunk, rest) = sealed.split_at(SEALED_CHUNK);
                self.open(Place::Inner, chunk, rest, plain)?;
                sealed = rest;
            } else {
                let (missing, rest) = sealed.split_at(SEALED_CHUNK - self.waiting.len());
                self.waiting.extend_from_slice(missing);
                let chunk = std::mem::take(&mut self.waiting);
                self.open(Place::Inner, &chunk, rest, plain)?;
                sealed = rest;
                self.waiting = chunk;
                self.waiting.clear();
            }
        }
        self.waiting.extend_from_slice(sealed);
        Ok(())
    }

    /// Appends the last chunk's plain bytes and checks that the payload ends with it.
    ///
    /// # Errors
    /// When it does not.
    pub fn finish(mut self, plain: &mut Vec<u8>) -> Result<(), PayloadError> {
        let chunk = std::mem::take(&mut self.waiting);
        let number = self.next;
        self.open(Place::Last, &chunk, &[], plain)?;
        if number > 0 && chunk.len() == TAG { Err(PayloadError::EmptyEnd { chunk: number }) } else { Ok(()) }
    }

    fn open(&mut self, place: Place, sealed: &[u8], rest: &[u8], plain: &mut Vec<u8>) -> Result<(), PayloadError> {
        let start = plain.len();
        plain.resize(start + sealed.len().saturating_sub(TAG), 0);
        if self.key.open(self.next, place, sealed, &mut plain[start..]) {
            self.next += 1;
            return Ok(());
        }
        // A whole chunk that is proven is returned, also where the payload ends too late or too early: the test vectors want it.
        if sealed.len() == SEALED_CHUNK && self.key.open(self.next, place.other(), sealed, &mut plain[start..]) {
            let chunk = self.next;
            return Err(match place {
                Place::Inner => PayloadError::Trailing { chunk },
                Place::Last => PayloadError::Truncated { chunk },
            });
        }
        plain.truncate(start);
        let (key, chunk, proven) = (&self.key, self.next, self.next > 0);
        let next = Some(rest).filter(|rest| rest.len() > TAG);
        Err(Refused { key, chunk, place, sealed, proven, next }.reason())
    }
}

/// The plain payload of a reader of encrypted bytes. Errors of the payload are [`io::ErrorKind::InvalidData`] and contain a
/// [`PayloadError`]; every later read repeats them, so that none takes them for the end.
pub struct Reader<R> {
    input: R,
    state: State,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    /// How much of `plain` the caller has.
    taken: usize,
}

enum State {
    Reading(Decryptor),
    Ended,
    Failed(PayloadError),
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<R: Read> Reader<R> {
    /// `input` begins behind header and nonce.
    #[must_use]
    pub fn new(opened: Opened, input: R) -> Self {
        let (state, sealed) = (State::Reading(Decryptor::new(opened)), vec![0; SEALED_CHUNK]);
        Self { input, state, sealed, plain: Vec::with_capacity(CHUNK), taken: 0 }
    }

    /// Reads once, and decrypts what that completes. Returns whether more may come.
    fn fill(&mut self) -> io::Result<bool> {
        let mut decryptor = match std::mem::replace(&mut self.state, State::Ended) {
            State::Reading(decryptor) => decryptor,
            State::Ended => return Ok(false),
            State::Failed(error) => return self.fail(error),
        };
        let count = match self.input.read(&mut self.sealed) {
            Ok(count) => count,
            Err(error) => {
                self.state = State::Reading(decryptor);
                return Err(error);
            }
        };
        self.plain.clear();
        self.taken = 0;
        if count == 0 {
            return decryptor.finish(&mut self.plain).map(|()| true).or_else(|error| self.fail(error));
        }
        if let Err(error) = decryptor.write(&self.sealed[..count], &mut self.plain) {
            return self.fail(error);
        }
        self.state = State::Reading(decryptor);
        Ok(true)
    }

    fn fail(&mut self, error: PayloadError) -> io::Result<bool> {
        (self.taken, self.plain) = (0, Vec::new());
        self.state = State::Failed(error);
        Err(io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.plain.len() && !buffer.is_empty() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let rest = &self.plain[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
