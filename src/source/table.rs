//! One stream's chunk table in memory, for the next backup: which chunks are stored already, and where the stream's
//! chunks end.
//!
//! It costs [`ChunkTable::PER_CHUNK`] bytes a chunk: the table in stream order, and its positions sorted by name. A terabyte
//! of large files is a million chunks.

use crate::format::index::{Chunk, ChunkId};

/// A parent's chunks, in stream order.
#[derive(Debug, Default)]
pub struct ChunkTable {
    chunks: Vec<Chunk>,
    /// Positions in `chunks`, sorted by name, one for each name: of a chunk stored twice always the same copy is
    /// referenced, so that the other can be deleted. Chunks in an object that is being compacted are left out.
    by_id: Vec<u32>,
}

/// Keeps the memory that a terabyte needs from growing unnoticed.
const _: () = assert!(ChunkTable::PER_CHUNK <= 64);

impl ChunkTable {
    /// Bytes a chunk costs.
    pub const PER_CHUNK: usize = size_of::<Chunk>() + size_of::<u32>();

    /// `chunks` in stream order; those for which `again` returns true are not found, so that they are stored again.
    ///
    /// # Errors
    /// Returns the chunks if there are more than 2^32: 4 PiB of the usual size.
    pub fn new(mut chunks: Vec<Chunk>, again: impl Fn(&Chunk) -> bool) -> Result<Self, Vec<Chunk>> {
        let Ok(count) = u32::try_from(chunks.len()) else { return Err(chunks) };
        chunks.shrink_to_fit();
        let mut by_id = Vec::with_capacity(chunks.len());
        by_id.extend((0..count).filter(|position| !again(&chunks[*position as usize])));
        let key = |position: &u32| {
            let chunk = &chunks[*position as usize];
            (chunk.id, chunk.object, chunk.offset)
        };
        by_id.sort_unstable_by_key(key);
        by_id.dedup_by_key(|position| chunks[*position as usize].id);
        Ok(Self { chunks, by_id })
    }

    /// The position of the copy that is referenced for this name.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<u32> {
        let found = self.by_id.binary_search_by(|position| self.chunks[*position as usize].id.cmp(id)).ok()?;
        self.by_id.get(found).copied()
    }

    /// The chunk at a position.
    #[must_use]
    pub fn get(&self, position: u32) -> Option<&Chunk> {
        self.chunks.get(position as usize)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::codec::Encoding;

    fn chunk(name: u8, object: u32, offset: u64) -> Chunk {
        Chunk { id: ChunkId([name; 32]), plain_len: 1, encoding: Encoding::Raw, object, offset, stored_len: 1 }
    }

    #[test]
    fn chunks_are_found_by_name_and_a_copy_is_always_the_same_one() {
        let chunks = vec![chunk(9, 1, 50), chunk(3, 0, 0), chunk(9, 1, 10), chunk(5, 2, 0)];
        let table = ChunkTable::new(chunks, |chunk| chunk.object == 2).unwrap();
        let find = |name| table.find(&ChunkId([name; 32]));
        assert_eq!((find(3), find(9), find(4)), (Some(1), Some(2), None));
        assert_eq!(find(5), None, "its object is let go");
        assert_eq!(
            table.get(3).map(|chunk| chunk.object),
            Some(2),
            "but it still says where a chunk of the stream ends"
        );
    }
}
