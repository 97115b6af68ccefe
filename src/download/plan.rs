//! Which bytes are fetched together: the index's chunks become groups, each one ranged GET.
//!
//! A group's bytes are bounded stored *and* plain: a stream that compresses a thousandfold costs no more memory than one
//! that does not compress.

use std::ops::Range;

use tokio::sync::mpsc;

use super::Error;
use super::index::IndexFile;
use crate::format::index::{Chunk, Record};
use crate::format::manifest::Stream;

/// Plain bytes of a group: two of the largest chunks.
pub(super) const PLAIN: usize = 8 << 20;

/// Stored bytes of a group: as many, and what frames are longer than what they hold.
pub(super) const STORED: usize = PLAIN + PLAIN / 64 + (64 << 10);

/// Chunks of a group; only chunks far below the least size of ours come near it.
const MAX_PIECES: usize = 1024;

/// Which part of a stream is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// Stream positions, ascending and disjoint. What lies behind the stream's end is not there.
    Ranges(Vec<Range<u64>>),
}

/// One ranged GET and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Position in the stream's objects.
    pub(super) object: u32,
    pub(super) offset: u64,
    /// Bytes to fetch.
    pub(super) stored: usize,
    /// Bytes they decompress to.
    pub(super) plain: usize,
    /// In stream order; together their plain bytes are the group's.
    pub(super) pieces: Vec<Piece>,
    /// What is wanted of the plain bytes, in order.
    pub(super) spans: Vec<Range<usize>>,
    /// Stream positions from its first chunk to its last.
    pub(super) positions: Range<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    /// Where it starts in the fetched bytes.
    pub(super) start: usize,
}

impl Group {
    fn new(chunk: &Chunk, position: u64) -> Self {
        let positions = position..position;
        let (object, offset) = (chunk.object, chunk.offset);
        Self { object, offset, stored: 0, plain: 0, pieces: Vec::new(), spans: Vec::new(), positions }
    }

    /// How many bytes are to be fetched with `chunk` in the group, and where it starts in them; `None` when it does not
    /// belong here. A chunk that is fetched already (a repeated one) costs nothing more.
    fn room(&self, chunk: &Chunk) -> Option<(usize, usize)> {
        let start = usize::try_from(chunk.offset.checked_sub(self.offset)?).ok()?;
        let stored = self.stored.max(start.checked_add(chunk.stored_len as usize)?);
        let fits = chunk.object == self.object
            && start <= self.stored
            && stored <= STORED
            && self.plain + chunk.plain_len as usize <= PLAIN
            && self.pieces.len() < MAX_PIECES;
        fits.then_some((stored, start))
    }

    fn push(&mut self, chunk: Chunk, (stored, start): (usize, usize), wanted: Vec<Range<usize>>) {
        for span in wanted {
            let span = self.plain + span.start..self.plain + span.end;
            match self.spans.last_mut() {
                Some(last) if last.end == span.start => last.end = span.end,
                _ => self.spans.push(span),
            }
        }
        self.plain += chunk.plain_len as usize;
        self.stored = stored;
        self.pieces.push(Piece { chunk, start });
    }
}

#[derive(Debug)]
struct Planner {
    selection: Selection,
    /// The first range that does not end before `position`.
    next: usize,
    position: u64,
    group: Option<Group>,
}

impl Planner {
    fn new(selection: Selection) -> Self {
        Self { selection, next: 0, position: 0, group: None }
    }

    /// Takes the next chunk; a group that it does not belong to is complete.
    fn add(&mut self, chunk: Chunk) -> Option<Group> {
        let start = self.position;
        self.position += u64::from(chunk.plain_len);
        let wanted = self.wanted(start..self.position);
        if wanted.is_empty() {
            return None;
        }
        let mut complete = None;
        let room = self.group.as_ref().and_then(|group| group.room(&chunk));
        if room.is_none() {
            complete = self.group.take();
        }
        let group = self.group.get_or_insert_with(|| Group::new(&chunk, start));
        // A chunk is never larger than an empty group has room for.
        group.push(chunk, room.unwrap_or((chunk.stored_len as usize, 0)), wanted);
        group.positions.end = self.position;
        complete
    }

    /// What is selected of these positions, counted from their start.
    fn wanted(&mut self, positions: Range<u64>) -> Vec<Range<usize>> {
        let local = |at: u64| usize::try_from(at - positions.start).unwrap_or(usize::MAX);
        let ranges = match &self.selection {
            Selection::Whole => return std::iter::once(0..local(positions.end)).collect(),
            Selection::Ranges(ranges) => ranges,
        };
        while ranges.get(self.next).is_some_and(|range| range.end <= positions.start) {
            self.next += 1;
        }
        ranges[self.next..]
            .iter()
            .take_while(|range| range.start < positions.end)
            .map(|range| local(range.start.max(positions.start))..local(range.end.min(positions.end)))
            .filter(|span| !span.is_empty())
            .collect()
    }
}

/// Reads the whole index and sends its groups; on a thread that may block. Ends early when nobody listens.
pub(super) fn run(
    index: &IndexFile,
    stream: &Stream,
    selection: Selection,
    groups: &mpsc::Sender<Group>,
) -> Result<(), Error> {
    let mut records = index.open(stream)?;
    let mut planner = Planner::new(selection);
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        let Record::Chunk(chunk) = record else { continue };
        if let Some(group) = planner.add(chunk)
            && groups.blocking_send(group).is_err()
        {
            return Ok(());
        }
        if groups.is_closed() {
            return Ok(());
        }
    }
    if let Some(group) = planner.group {
        // An error is only that nobody listens any more.
        let _ = groups.blocking_send(group);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::{ChunkId, Encoding};

    fn chunk(object: u32, offset: u64, stored_len: u32, plain_len: u32) -> Chunk {
        Chunk { id: ChunkId([0; 32]), plain_len, encoding: Encoding::Zstd, object, offset, stored_len }
    }

    fn one(span: Range<usize>) -> Vec<Range<usize>> {
        std::iter::once(span).collect()
    }

    fn groups(selection: Selection, chunks: &[Chunk]) -> Vec<Group> {
        let mut planner = Planner::new(selection);
        let mut groups: Vec<Group> = chunks.iter().filter_map(|chunk| planner.add(*chunk)).collect();
        groups.extend(planner.group);
        groups
    }

    #[test]
    fn neighbours_are_fetched_together() {
        let found = groups(Selection::Whole, &[chunk(0, 0, 10, 100), chunk(0, 10, 10, 100), chunk(1, 20, 10, 100)]);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].stored, found[0].plain, found[0].spans.clone()), (20, 200, one(0..200)));
        assert_eq!(found[1].positions, 200..300);
    }

    #[test]
    fn a_repeated_chunk_is_fetched_once() {
        let same = chunk(0, 5, 10, 100);
        let found = groups(Selection::Whole, &[same, same, same]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].stored, found[0].plain), (10, 300));
    }

    #[test]
    fn what_compresses_well_is_bounded_by_its_plain_size() {
        let many: Vec<Chunk> = (0..10).map(|n| chunk(0, n * 200, 200, 4 << 20)).collect();
        assert!(groups(Selection::Whole, &many).iter().all(|group| group.plain == PLAIN));
        let tiny: Vec<Chunk> = (0..5000).map(|n| chunk(0, n * 1025, 1025, 1)).collect();
        for group in groups(Selection::Whole, &tiny) {
            assert!(group.stored <= STORED && group.pieces.len() <= MAX_PIECES);
        }
    }

    #[test]
    fn only_what_is_selected_is_fetched() {
        let chunks: Vec<Chunk> = (0..10).map(|n| chunk(0, n * 50, 50, 100)).collect();
        let found = groups(Selection::Ranges(vec![10..20, 30..30, 40..120, 500..501]), &chunks);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].stored, &found[0].spans[..]), (100, &[10..20, 40..120][..]));
        assert_eq!((found[1].offset, found[1].stored, found[1].spans.clone()), (250, 50, one(0..1)));
    }
}
