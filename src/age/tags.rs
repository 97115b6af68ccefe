//! The tags of an object's chunks, in order: what an interrupted object is continued against.

use std::fmt;

use super::size::TAG;

/// Tags of consecutive chunks, 16 bytes for each 64 KiB. They are no secret: they stand in the object.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tags(Vec<u8>);

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tags(of {} chunks)", self.chunks())
    }
}

impl Tags {
    #[must_use]
    pub fn chunks(&self) -> u64 {
        (self.0.len() / TAG) as u64
    }

    /// As a journal stores them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `None` when that is no whole number of tags.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        bytes.len().is_multiple_of(TAG).then_some(Self(bytes))
    }

    /// Adds the tags of the chunks that follow.
    pub fn append(&mut self, next: &Self) {
        self.0.extend_from_slice(&next.0);
    }

    pub(super) fn push(&mut self, tag: [u8; TAG]) {
        self.0.extend_from_slice(&tag);
    }

    /// Removes and returns all tags from that chunk on.
    #[must_use]
    pub fn split_off(&mut self, chunk: u64) -> Self {
        let at = usize::try_from(chunk).map_or(self.0.len(), |chunk| chunk.saturating_mul(TAG).min(self.0.len()));
        Self(self.0.split_off(at))
    }

    pub(super) fn get(&self, chunk: usize) -> Option<&[u8; TAG]> {
        let (tags, _) = self.0.as_chunks::<TAG>();
        tags.get(chunk)
    }

    /// A copy of the tags of these chunks, as far as there are any.
    pub(super) fn slice(&self, chunks: std::ops::Range<usize>) -> Self {
        let (start, end) = ((chunks.start * TAG).min(self.0.len()), (chunks.end * TAG).min(self.0.len()));
        Self(self.0[start..end].to_vec())
    }
}
