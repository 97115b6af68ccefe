//! Memory that is released piece by piece, for data that the HTTP client sends.
//!
//! An abandoned request leaves some of its body with its connection, for minutes or for ever if the peer no longer reads. Such a
//! connection keeps the segments that it has taken ahead, half a megabyte, but not the rest of the part, nor its [`Grant`].

use std::sync::Arc;

use bytes::Bytes;

use super::{Budget, Grant};

/// A connection gets at most this much at once.
pub const SEGMENT: usize = crate::limits::LARGEST_SLICE;

/// A buffer of segments, filled from its start.
#[derive(Debug)]
pub struct Segments {
    full: Vec<Bytes>,
    filling: Segment,
    length: usize,
    grant: Grant,
}

#[derive(Debug)]
struct Segment {
    data: Vec<u8>,
    home: Budget,
}

impl Grant {
    #[must_use]
    pub fn segments(self) -> Segments {
        let full = Vec::with_capacity(self.capacity.div_ceil(SEGMENT));
        Segments { full, filling: Segment::new(&self.budget), length: 0, grant: self }
    }
}

impl Segments {
    #[must_use]
    pub fn room(&self) -> usize {
        self.grant.capacity - self.length
    }

    /// Appends some of `bytes`, up to the end of a segment, and returns how many; 0 if there is no room.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        if self.filling.data.len() == SEGMENT {
            let full = std::mem::replace(&mut self.filling, Segment::new(&self.grant.budget));
            self.full.push(Bytes::from_owner(full));
        }
        let count = bytes.len().min(self.room()).min(SEGMENT - self.filling.data.len());
        self.filling.data.extend_from_slice(&bytes[..count]);
        self.length += count;
        count
    }

    /// The content, and its grant: to be dropped after the bytes.
    #[must_use]
    pub fn freeze(mut self) -> (Arc<[Bytes]>, Grant) {
        self.full.push(Bytes::from_owner(self.filling));
        (self.full.into(), self.grant)
    }
}

impl Segment {
    fn new(home: &Budget) -> Self {
        let mut data = home.memory(SEGMENT);
        data.clear();
        Self { data, home: home.clone() }
    }
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.home.take_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_slice_keeps_its_segment_only() {
        let budget = Budget::new(1 << 20);
        let run = budget.begin_run();
        let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut segments = run.budget().try_grant(300_000).unwrap().segments();
        let mut filled = 0;
        while segments.room() > 0 {
            filled += segments.fill(&data[filled..]);
        }
        assert_eq!((filled, segments.fill(&data)), (300_000, 0));
        let (pieces, grant) = segments.freeze();
        assert!(pieces.concat() == data[..300_000] && pieces.iter().all(|piece| piece.len() <= SEGMENT));
        assert_eq!(budget.in_use(), 300_032);
        let held = pieces[1].clone();
        drop((pieces, grant));
        assert_eq!((budget.in_use(), budget.idle().memory.len()), (0, 4), "all but one were returned");
        drop(held);
        assert_eq!(budget.idle().memory.len(), 5);
    }
}
