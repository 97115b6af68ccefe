//! Says why a payload cannot be read. Searches for the reason only after a chunk was refused, and within bounds.

use zeroize::Zeroizing;

use super::cipher::{PayloadKey, Place};
use super::size::{CHUNK, SEALED_CHUNK, SizeError, TAG};

/// How far from its place a chunk is looked for.
const NEAR: u64 = 512;

/// How many bytes behind the last chunk are looked for.
const TRAILING: usize = 512;

/// Why a payload cannot be read. Chunks are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Whole chunks are missing at the end.
    #[error("is cut: its last chunk, {chunk}, is not marked as the last")]
    Truncated { chunk: u64 },
    /// A chunk that is cut cannot be told from one that is damaged.
    #[error("is cut within its last chunk, {chunk}, or that chunk is damaged")]
    TornEnd { chunk: u64 },
    #[error("goes on behind chunk {chunk}, which is marked as the last")]
    Trailing { chunk: u64 },
    #[error("has chunk {found} in the place of chunk {chunk}")]
    Swapped { chunk: u64, found: u64 },
    #[error("has a damaged chunk, {chunk}")]
    Damaged { chunk: u64 },
    /// The wrong key, where the header's MAC was right.
    #[error("has no chunk that its key opens: chunk {chunk} is another object's, or damaged")]
    Foreign { chunk: u64 },
    #[error("ends with an empty chunk, {chunk}, which no age file does")]
    EmptyEnd { chunk: u64 },
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The caller fetched something else.
    #[error("has {found} bytes in a range of {expected}")]
    Range { expected: u64, found: u64 },
}

/// A chunk that was refused.
pub(super) struct Refused<'a> {
    pub(super) key: &'a PayloadKey,
    pub(super) chunk: u64,
    pub(super) place: Place,
    pub(super) sealed: &'a [u8],
    /// Whether the key has opened any chunk of this object.
    pub(super) proven: bool,
    /// What follows it, if that is at hand.
    pub(super) next: Option<&'a [u8]>,
}

impl Refused<'_> {
    pub(super) fn reason(&self) -> PayloadError {
        let Self { chunk, place, sealed, .. } = *self;
        let mut plain = Zeroizing::new(vec![0; CHUNK]);
        if sealed.len() < TAG {
            return PayloadError::TornEnd { chunk };
        }
        if self.opens(chunk, place.other(), sealed, &mut plain) {
            return match place {
                Place::Inner => PayloadError::Trailing { chunk },
                Place::Last => PayloadError::Truncated { chunk },
            };
        }
        if let Some(found) = self.near(&mut plain) {
            return PayloadError::Swapped { chunk, found };
        }
        if place == Place::Last && self.is_followed(&mut plain) {
            return PayloadError::Trailing { chunk };
        }
        if !self.proven && !self.next_opens(&mut plain) {
            return PayloadError::Foreign { chunk };
        }
        match place {
            Place::Last => PayloadError::TornEnd { chunk },
            Place::Inner => PayloadError::Damaged { chunk },
        }
    }

    fn opens(&self, chunk: u64, place: Place, sealed: &[u8], plain: &mut [u8]) -> bool {
        let length = sealed.len().checked_sub(TAG);
        let plain = length.and_then(|length| plain.get_mut(..length));
        plain.is_some_and(|plain| self.key.open(chunk, place, sealed, plain))
    }

    /// The chunk whose place this is not.
    fn near(&self, plain: &mut [u8]) -> Option<u64> {
        let around = self.chunk.saturating_sub(NEAR)..=self.chunk.saturating_add(NEAR);
        around.filter(|other| *other != self.chunk).find(|other| {
            let inner = self.sealed.len() == SEALED_CHUNK && self.opens(*other, Place::Inner, self.sealed, plain);
            inner || self.opens(*other, Place::Last, self.sealed, plain)
        })
    }

    fn is_followed(&self, plain: &mut [u8]) -> bool {
        let mut shorter = (TAG..self.sealed.len()).rev().take(TRAILING);
        shorter.any(|length| self.opens(self.chunk, Place::Last, &self.sealed[..length], plain))
    }

    fn next_opens(&self, plain: &mut [u8]) -> bool {
        let Some(next) = self.next else { return false };
        let (chunk, next) = (self.chunk.saturating_add(1), &next[..next.len().min(SEALED_CHUNK)]);
        self.opens(chunk, Place::Inner, next, plain) || self.opens(chunk, Place::Last, next, plain)
    }
}
