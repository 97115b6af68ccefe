//! The data objects of one stream, its own and those of the parent that its chunks reference: numbers them in the order of first use, and
//! counts the live bytes of each.

use std::sync::Arc;

use crate::format::index::Chunk;
use crate::format::key::ObjectKey;
use crate::format::manifest::DataObject;
use crate::source::table::ChunkTable;
use crate::upload::Written;

#[derive(Debug, Default)]
pub(super) struct Objects {
    list: Vec<DataObject>,
    parent: Option<Parent>,
}

#[derive(Debug)]
struct Parent {
    chunks: Arc<ChunkTable>,
    objects: Vec<DataObject>,
    /// The number of each in this stream's list, if it has one.
    numbers: Vec<Option<u32>>,
    /// A bit for each chunk of the table: whether its bytes are counted already.
    counted: Vec<u64>,
}

impl Objects {
    /// Objects that may reference these chunks and objects of a parent.
    pub(super) fn after(chunks: Arc<ChunkTable>, objects: Vec<DataObject>) -> Self {
        let counted = vec![0; chunks.len().div_ceil(64)];
        let numbers = vec![None; objects.len()];
        Self { list: Vec::new(), parent: Some(Parent { chunks, objects, numbers, counted }) }
    }

    /// Begins a new object of this stream. Returns its number.
    pub(super) fn begin(&mut self, key: ObjectKey) -> u32 {
        push(
            &mut self.list,
            DataObject { key, size: 0, crc64nvme: [0; 8], payload: None, live_bytes: 0, version: None },
        )
    }

    /// Records that an object of this stream is complete: all its bytes are live.
    pub(super) fn complete(&mut self, number: u32, written: &Written) {
        if let Some(object) = self.list.get_mut(number as usize) {
            object.size = written.size;
            object.payload = written.payload;
            object.live_bytes = object.payload_len();
            object.crc64nvme = written.crc64nvme.to_be_bytes();
            object.version.clone_from(&written.version);
        }
    }

    /// The chunk at a position of the parent's table (or the copy of it that is referred to), as our index has it. `None` when
    /// it is not one of the parent's.
    pub(super) fn refer(&mut self, position: u32) -> Option<Chunk> {
        let parent = self.parent.as_mut()?;
        let position = parent.chunks.find(&parent.chunks.get(position)?.id)?;
        let chunk = *parent.chunks.get(position)?;
        let theirs = chunk.object as usize;
        let number = if let Some(number) = *parent.numbers.get(theirs)? {
            number
        } else {
            let object = DataObject { live_bytes: 0, ..parent.objects.get(theirs)?.clone() };
            let number = push(&mut self.list, object);
            parent.numbers[theirs] = Some(number);
            number
        };
        let (word, bit) = (position as usize / 64, 1 << (position % 64));
        if parent.counted[word] & bit == 0 {
            parent.counted[word] |= bit;
            self.list[number as usize].live_bytes += u64::from(chunk.stored_len);
        }
        Some(Chunk { object: number, ..chunk })
    }

    /// All objects, in the order of their numbers.
    pub(super) fn into_list(self) -> Vec<DataObject> {
        self.list
    }
}

fn push(list: &mut Vec<DataObject>, object: DataObject) -> u32 {
    list.push(object);
    u32::try_from(list.len() - 1).expect("a manifest with 2^32 objects would be too large long before")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::codec::Encoding;
    use crate::format::index::ChunkId;

    fn object(key: &str, size: u64) -> DataObject {
        DataObject { key: ObjectKey::new(key), size, crc64nvme: [1; 8], payload: None, live_bytes: size, version: None }
    }

    fn chunk(name: u8, object: u32, offset: u64) -> Chunk {
        Chunk { id: ChunkId([name; 32]), plain_len: 9, encoding: Encoding::Zstd, object, offset, stored_len: 5 }
    }

    #[test]
    fn only_what_is_referred_to_is_named_and_counted_once() {
        // The chunk 7 is stored twice: in the objects 0 and 2.
        let chunks = vec![chunk(7, 2, 0), chunk(8, 2, 5), chunk(7, 0, 10), chunk(9, 1, 0)];
        let table = Arc::new(ChunkTable::new(chunks, |_| false).unwrap());
        let mut objects = Objects::after(table, vec![object("a", 100), object("b", 100), object("c", 100)]);
        let own = objects.begin(ObjectKey::new("own"));
        let referred: Vec<Chunk> = [0, 1, 2, 0].into_iter().filter_map(|position| objects.refer(position)).collect();
        let places: Vec<(u32, u64)> = referred.iter().map(|chunk| (chunk.object, chunk.offset)).collect();
        assert_eq!(places, [(1, 10), (2, 5), (1, 10), (1, 10)], "always the same copy");
        objects.complete(
            own,
            &Written { key: ObjectKey::new("own"), size: 30, crc64nvme: 2, payload: None, version: None },
        );
        assert_eq!(objects.refer(4), None);
        let list = objects.into_list();
        let live: Vec<(&str, u64)> = list.iter().map(|object| (object.key.as_str(), object.live_bytes)).collect();
        assert_eq!(live, [("own", 30), ("a", 5), ("c", 5)]);
    }
}
