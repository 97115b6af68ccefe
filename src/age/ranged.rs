//! Reads parts of a payload: which encrypted bytes to fetch, and their plain bytes.

use std::ops::Range;

use zeroize::Zeroizing;

use super::cipher::{PayloadKey, Place};
use super::faults::{PayloadError, Refused};
use super::header::Opened;
use super::size::{CHUNK, Layout, SEALED_CHUNK, SizeError, TAG, chunks};

/// One object whose payload is read in parts.
///
/// Each chunk that is read is proven to be this object's, in its place. That the object ends where its stated length says is proven only by
/// reading its last chunk, or by [`Ranged::prove_end`].
#[derive(Debug)]
pub struct Ranged {
    key: PayloadKey,
    layout: Layout,
    plain_len: u64,
}

impl Ranged {
    /// `object_len` is the length of the whole object, with header and nonce.
    ///
    /// # Errors
    /// When no payload makes an object of that length.
    pub fn new(opened: Opened, object_len: u64) -> Result<Self, SizeError> {
        let Opened { key, layout } = opened;
        Ok(Self { key, layout, plain_len: layout.plain_len(object_len)? })
    }

    #[must_use]
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// The bytes of the object to fetch for these of its payload. `None` when the range is empty or outside the payload.
    #[must_use]
    pub fn fetch(&self, plain: &Range<u64>) -> Option<Range<u64>> {
        self.layout.fetch(plain, self.plain_len)
    }

    /// Decrypts what [`Ranged::fetch`] named for `range` into `plain`, which has that range's length.
    ///
    /// # Errors
    /// At the first chunk that is refused, and when `sealed` is not of the length that was to be fetched. `plain` has no meaning then.
    ///
    /// # Panics
    /// When `plain` has not the length of `range`.
    pub fn open(&self, range: &Range<u64>, sealed: &[u8], plain: &mut [u8]) -> Result<(), PayloadError> {
        assert_eq!(
            Some(plain.len() as u64),
            range.end.checked_sub(range.start),
            "the buffer has the length of the range"
        );
        let expected = self.fetch(range).map_or(0, |fetch| fetch.end - fetch.start);
        if sealed.len() as u64 != expected {
            return Err(PayloadError::Range { expected, found: sealed.len() as u64 });
        }
        let (mut chunk, mut proven) = (range.start / CHUNK as u64, false);
        // Plain bytes of the first chunk before the range.
        let mut skip = usize::try_from(range.start % CHUNK as u64).expect("less than a chunk");
        let (mut rest, mut plain) = (sealed, plain);
        let mut edge = None;
        while !rest.is_empty() {
            let (one, behind) = rest.split_at(rest.len().min(SEALED_CHUNK));
            rest = behind;
            let length = one.len() - TAG;
            let wanted = plain.len().min(length - skip);
            let into;
            (into, plain) = plain.split_at_mut(wanted);
            if wanted == length {
                self.chunk(chunk, one, behind, proven, into)?;
            } else {
                let whole = &mut edge.get_or_insert_with(|| Zeroizing::new(vec![0; CHUNK]))[..length];
                self.chunk(chunk, one, behind, proven, whole)?;
                into.copy_from_slice(&whole[skip..skip + wanted]);
            }
            (chunk, skip, proven) = (chunk + 1, 0, true);
        }
        Ok(())
    }

    /// The same in one buffer, for a range that begins with a chunk: `sealed` begins with the plain bytes of its chunks afterwards.
    ///
    /// # Errors
    /// As [`Ranged::open`]. `sealed` has no meaning then.
    ///
    /// # Panics
    /// When `range` begins within a chunk.
    pub fn open_in_place(&self, range: &Range<u64>, sealed: &mut [u8]) -> Result<(), PayloadError> {
        assert!(range.start.is_multiple_of(CHUNK as u64), "the range begins with a chunk");
        let expected = self.fetch(range).map_or(0, |fetch| fetch.end - fetch.start);
        if sealed.len() as u64 != expected {
            return Err(PayloadError::Range { expected, found: sealed.len() as u64 });
        }
        // A chunk that is refused must still be there, so that the reason can be found.
        let mut plain = Zeroizing::new(vec![0; CHUNK]);
        let (mut chunk, mut at, mut to) = (range.start / CHUNK as u64, 0, 0);
        while at < sealed.len() {
            let end = sealed.len().min(at + SEALED_CHUNK);
            let plain = &mut plain[..end - at - TAG];
            self.chunk(chunk, &sealed[at..end], &sealed[end..], at > 0, plain)?;
            sealed[to..to + plain.len()].copy_from_slice(plain);
            (chunk, at, to) = (chunk + 1, end, to + plain.len());
        }
        Ok(())
    }

    /// The bytes of the object that prove its length: its last chunk.
    #[must_use]
    pub fn end(&self) -> Range<u64> {
        let last = self.layout.chunk(chunks(self.plain_len) - 1, self.plain_len);
        last.expect("the object's length fits a u64, so its last chunk does")
    }

    /// Checks that the object ends with what [`Ranged::end`] named.
    ///
    /// # Errors
    /// When it does not.
    pub fn prove_end(&self, sealed: &[u8]) -> Result<(), PayloadError> {
        let end = self.end();
        let (expected, found) = (end.end - end.start, sealed.len() as u64);
        if expected != found {
            return Err(PayloadError::Range { expected, found });
        }
        let mut plain = Zeroizing::new(vec![0; sealed.len() - TAG]);
        self.chunk(chunks(self.plain_len) - 1, sealed, &[], false, &mut plain)
    }

    fn chunk(
        &self,
        chunk: u64,
        sealed: &[u8],
        behind: &[u8],
        proven: bool,
        plain: &mut [u8],
    ) -> Result<(), PayloadError> {
        let place = Place::last(chunk + 1 == chunks(self.plain_len));
        if self.key.open(chunk, place, sealed, plain) {
            return Ok(());
        }
        let next = Some(behind).filter(|next| next.len() > TAG);
        Err(Refused { key: &self.key, chunk, place, sealed, proven, next }.reason())
    }
}

#[cfg(test)]
mod tests;
