//! Which bytes are fetched together: the index's chunks, in stream order, become groups of bounded size.
//!
//! The chunks of an incremental backup lie scattered over the objects of many backups. So a group's bytes are fetched in the order
//! in which they are stored: what lies together is one ranged GET, and no byte is fetched twice. A little that nobody asked for is
//! fetched too where it saves a request ([`GAP`]).
//!
//! A group's bytes are bounded stored *and* plain: a stream that compresses a thousandfold costs no more memory than one
//! that does not compress.

use std::collections::HashSet;
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

/// Bytes between two chunks that are fetched with them: at some 100 MB/s they take less time than a request does.
const GAP: usize = 128 << 10;

/// Which part of a stream is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// Stream positions, ascending and disjoint. What lies behind the stream's end is not there.
    Ranges(Vec<Range<u64>>),
}

/// Some ranged GETs and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// What is fetched, by object and offset; one behind the other they are the fetched bytes.
    pub(super) extents: Vec<Extent>,
    /// Bytes that the pieces decompress to.
    pub(super) plain: usize,
    /// In stream order; together their plain bytes are the group's.
    pub(super) pieces: Vec<Piece>,
    /// What is wanted of the plain bytes, in order.
    pub(super) spans: Vec<Range<usize>>,
    /// Stream positions from its first chunk to its last.
    pub(super) positions: Range<u64>,
}

/// One ranged GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// Position in the stream's objects.
    pub(super) object: u32,
    pub(super) offset: u64,
    pub(super) length: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    /// Its first byte's in the stream.
    pub(super) position: u64,
    /// Where it starts in the fetched bytes.
    pub(super) start: usize,
}

impl Group {
    /// Bytes to fetch.
    pub(super) fn stored(&self) -> usize {
        self.extents.iter().map(|extent| extent.length).sum()
    }

    /// The positions of the first pieces, side by side in the stream, that lie in that extent.
    pub(super) fn first_of(&self, extent: usize) -> Option<Range<u64>> {
        let start: usize = self.extents.iter().take(extent).map(|extent| extent.length).sum();
        let bytes = start..start + self.extents.get(extent)?.length;
        let mut pieces = self.pieces.iter().skip_while(|piece| !bytes.contains(&piece.start));
        let first = pieces.next()?;
        let last = pieces.take_while(|piece| bytes.contains(&piece.start)).last().unwrap_or(first);
        Some(first.position..end(last))
    }
}

/// A group that grows.
#[derive(Debug, Default)]
struct Draft {
    pieces: Vec<Piece>,
    spans: Vec<Range<usize>>,
    plain: usize,
    /// A repeated chunk costs nothing more.
    places: HashSet<(u32, u64, u32)>,
    stored: usize,
}

impl Draft {
    fn has_room(&self, chunk: &Chunk) -> bool {
        let known = self.places.contains(&place(chunk));
        self.pieces.len() < MAX_PIECES
            && self.plain + chunk.plain_len as usize <= PLAIN
            && (known || self.stored + chunk.stored_len as usize <= STORED)
    }

    fn push(&mut self, chunk: Chunk, position: u64, wanted: Vec<Range<usize>>) {
        for span in wanted {
            let span = self.plain + span.start..self.plain + span.end;
            match self.spans.last_mut() {
                Some(last) if last.end == span.start => last.end = span.end,
                _ => self.spans.push(span),
            }
        }
        self.plain += chunk.plain_len as usize;
        if self.places.insert(place(&chunk)) {
            self.stored += chunk.stored_len as usize;
        }
        self.pieces.push(Piece { chunk, position, start: 0 });
    }

    /// Orders what is to be fetched; `None` when there is nothing.
    fn finish(self) -> Option<Group> {
        let Self { mut pieces, spans, plain, stored, .. } = self;
        let positions = pieces.first()?.position..pieces.last().map(end)?;
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|piece| (pieces[*piece].chunk.object, pieces[*piece].chunk.offset));
        let mut extents: Vec<Extent> = Vec::new();
        // Of the fetched bytes before the last extent, and of the gaps that there is still room for.
        let (mut before, mut spare) = (0, STORED.saturating_sub(stored));
        for number in order {
            let piece = &mut pieces[number];
            let Chunk { object, offset, stored_len, .. } = piece.chunk;
            let length = stored_len as usize;
            if let Some(last) = extents.last_mut().filter(|last| last.object == object)
                && let Ok(start) = usize::try_from(offset - last.offset)
                && start.saturating_sub(last.length) <= GAP.min(spare)
            {
                spare -= start.saturating_sub(last.length);
                piece.start = before + start;
                last.length = last.length.max(start + length);
            } else {
                before += extents.last().map_or(0, |last| last.length);
                piece.start = before;
                extents.push(Extent { object, offset, length });
            }
        }
        Some(Group { extents, plain, pieces, spans, positions })
    }
}

fn place(chunk: &Chunk) -> (u32, u64, u32) {
    (chunk.object, chunk.offset, chunk.stored_len)
}

fn end(piece: &Piece) -> u64 {
    piece.position + u64::from(piece.chunk.plain_len)
}

#[derive(Debug)]
struct Planner {
    selection: Selection,
    /// The first range that does not end before `position`.
    next: usize,
    position: u64,
    draft: Draft,
}

impl Planner {
    fn new(selection: Selection) -> Self {
        Self { selection, next: 0, position: 0, draft: Draft::default() }
    }

    /// Takes the next chunk; a group that has no room for it is complete.
    fn add(&mut self, chunk: Chunk) -> Option<Group> {
        let start = self.position;
        self.position += u64::from(chunk.plain_len);
        let wanted = self.wanted(start..self.position);
        if wanted.is_empty() {
            return None;
        }
        let complete = if self.draft.has_room(&chunk) { None } else { self.finish() };
        // A chunk is never larger than an empty group has room for.
        self.draft.push(chunk, start, wanted);
        complete
    }

    fn finish(&mut self) -> Option<Group> {
        std::mem::take(&mut self.draft).finish()
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
    if let Some(group) = planner.finish() {
        // An error is only that nobody listens any more.
        let _ = groups.blocking_send(group);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::codec::{Encoding, max_stored};
    use crate::format::index::ChunkId;

    fn chunk(object: u32, offset: u64, stored_len: u32, plain_len: u32) -> Chunk {
        Chunk { id: ChunkId([0; 32]), plain_len, encoding: Encoding::Zstd, object, offset, stored_len }
    }

    fn one(span: Range<usize>) -> Vec<Range<usize>> {
        std::iter::once(span).collect()
    }

    fn groups(selection: Selection, chunks: &[Chunk]) -> Vec<Group> {
        let mut planner = Planner::new(selection);
        let mut groups: Vec<Group> = chunks.iter().filter_map(|chunk| planner.add(*chunk)).collect();
        groups.extend(planner.finish());
        groups
    }

    fn extents(group: &Group) -> Vec<(u32, u64, usize)> {
        group.extents.iter().map(|extent| (extent.object, extent.offset, extent.length)).collect()
    }

    #[test]
    fn what_lies_together_is_fetched_together_whatever_comes_between() {
        const FAR: u64 = 1 << 30;
        let chunks = [chunk(0, 0, 10, 100), chunk(1, FAR, 10, 100), chunk(0, 10, 10, 100), chunk(1, 5, 10, 100)];
        let found = groups(Selection::Whole, &chunks);
        assert_eq!(found.len(), 1);
        assert_eq!(extents(&found[0]), [(0, 0, 20), (1, 5, 10), (1, FAR, 10)]);
        assert_eq!(found[0].pieces.iter().map(|piece| piece.start).collect::<Vec<_>>(), [0, 30, 10, 20]);
        assert_eq!((found[0].plain, found[0].spans.clone(), found[0].positions.clone()), (400, one(0..400), 0..400));
    }

    #[test]
    fn a_small_gap_saves_a_request() {
        let gap = GAP as u64;
        let found =
            groups(Selection::Whole, &[chunk(0, 0, 10, 1), chunk(0, 10 + gap, 10, 1), chunk(0, 21 + 2 * gap, 9, 1)]);
        assert_eq!(extents(&found[0]), [(0, 0, 20 + GAP), (0, 21 + 2 * gap, 9)]);
    }

    #[test]
    fn a_repeated_chunk_is_fetched_once() {
        let same = chunk(0, 5, 10, 100);
        let found = groups(Selection::Whole, &[same, chunk(1, 0, 7, 1), same, same]);
        assert_eq!(found.len(), 1);
        assert_eq!((extents(&found[0]), found[0].plain), (vec![(0, 5, 10), (1, 0, 7)], 301));
    }

    #[test]
    fn what_compresses_well_is_bounded_by_its_plain_size() {
        let many: Vec<Chunk> = (0..10).map(|n| chunk(0, n * 200, 200, 4 << 20)).collect();
        assert!(groups(Selection::Whole, &many).iter().all(|group| group.plain == PLAIN));
        let tiny: Vec<Chunk> = (0..5000).map(|n| chunk(0, n * 1025, 1025, 1)).collect();
        for group in groups(Selection::Whole, &tiny) {
            assert!(group.stored() <= STORED && group.pieces.len() <= MAX_PIECES);
        }
    }

    #[test]
    fn only_what_is_selected_is_fetched() {
        let chunks: Vec<Chunk> = (0..10).map(|n| chunk(0, n << 20, 50, 100)).collect();
        let found = groups(Selection::Ranges(vec![10..20, 30..30, 40..120, 500..501]), &chunks);
        assert_eq!(found.len(), 1);
        assert_eq!(extents(&found[0]), [(0, 0, 50), (0, 1 << 20, 50), (0, 5 << 20, 50)]);
        assert_eq!(found[0].spans, [10..20, 40..120, 200..201]);
    }

    proptest! {
        #[test]
        fn a_group_fits_its_buffers_and_every_chunk_is_in_what_is_fetched(
            chunks in prop::collection::vec((0_u32..3, 0_u64..40, 1_u32..5 << 20, 1_u32..=4 << 20), 1..60),
        ) {
            let chunks: Vec<Chunk> = chunks
                .into_iter()
                .map(|(object, offset, stored, plain)| chunk(object, offset << 18, stored.min(max_stored(plain)), plain))
                .collect();
            let mut next = chunks.iter();
            for group in groups(Selection::Whole, &chunks) {
                prop_assert!(group.stored() <= STORED && group.plain <= PLAIN);
                let mut starts = Vec::new();
                let mut before = 0;
                for extent in &group.extents {
                    starts.push(before);
                    before += extent.length;
                }
                for Piece { chunk, start, .. } in &group.pieces {
                    prop_assert_eq!(next.next(), Some(chunk));
                    let found = group.extents.iter().zip(&starts).any(|(extent, before)| {
                        let at = chunk.offset.checked_sub(extent.offset).and_then(|at| usize::try_from(at).ok());
                        extent.object == chunk.object
                            && at.is_some_and(|at| *start == before + at && at + chunk.stored_len as usize <= extent.length)
                    });
                    prop_assert!(found);
                }
            }
            prop_assert!(next.next().is_none());
        }
    }
}
