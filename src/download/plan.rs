//! Decides which bytes are fetched together: makes groups of bounded size from the index's chunks, in stream order.
//!
//! The chunks of an incremental backup are scattered over the objects of many backups. So a group's bytes are fetched in stored
//! order: neighbouring chunks need one ranged GET, and no byte is fetched twice. A small gap between chunks is fetched too if that
//! saves a request ([`GAP`]).
//!
//! Both the stored and the plain bytes of a group are bounded: a stream that compresses a thousandfold needs no more memory than
//! one that does not compress.
//!
//! An encrypted object is fetched in whole chunks of age, 64 KiB each. Its chunks of the index are in its payload, so extents are too.

use std::collections::HashSet;
use std::ops::Range;

use tokio::sync::mpsc;

use super::Error;
use super::index::IndexFile;
use crate::age::{CHUNK, SEALED_CHUNK};
use crate::format::codec::Encoding;
use crate::format::index::{Chunk, Record};
use crate::format::manifest::{DataObject, Stream};

/// The most plain bytes of a group: two of the largest chunks.
pub(super) const PLAIN: usize = 8 << 20;

/// The most stored bytes of a group: as many, and what zstd adds to incompressible ones.
pub(super) const STORED: usize = PLAIN + PLAIN / 64 + (64 << 10);

/// The most chunks of a group; only chunks far below our least size come near it.
const MAX_PIECES: usize = 1024;

/// The largest gap between two chunks that is fetched with them: at some 100 MB/s it takes less time than a request.
const GAP: usize = 128 << 10;

/// The part of a stream to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// Stream positions, ascending and disjoint. Positions behind the stream's end are ignored.
    Ranges(Vec<Range<u64>>),
}

/// Ranged GETs and the pieces that they contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The ranges to fetch, by object and offset; the fetched bytes are these ranges one behind the other.
    pub(super) extents: Vec<Extent>,
    /// The pieces' plain bytes in total.
    pub(super) plain: usize,
    /// In stream order; their plain bytes together are the group's.
    pub(super) pieces: Vec<Piece>,
    /// The selected ranges of the plain bytes, in order.
    pub(super) spans: Vec<Range<usize>>,
    /// Stream positions from the first chunk to the last.
    pub(super) positions: Range<u64>,
}

/// One ranged GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// Position in the stream's objects.
    pub(super) object: u32,
    pub(super) form: Form,
    /// Of the object; of an encrypted one the payload's, from the beginning of a chunk of age on.
    pub(super) bytes: Range<u64>,
}

/// Whether an object is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Sealed,
}

impl Form {
    /// What is fetched for these bytes: for an encrypted object, the payload of whole chunks of age.
    fn cover(self, bytes: Range<u64>) -> Range<u64> {
        match self {
            Self::Plain => bytes,
            Self::Sealed => {
                let ages = ages(&bytes);
                ages.start * CHUNK as u64..ages.end.saturating_mul(CHUNK as u64)
            }
        }
    }

    /// The most bytes that are fetched for these.
    fn room(self, bytes: Range<u64>) -> usize {
        let bytes = self.cover(bytes);
        let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
        match self {
            Self::Plain => length,
            Self::Sealed => length.div_ceil(CHUNK).saturating_mul(SEALED_CHUNK),
        }
    }
}

/// The numbers of age's chunks that contain these bytes of a payload.
fn ages(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / CHUNK as u64..bytes.end.div_ceil(CHUNK as u64)
}

impl Extent {
    /// Room for the bytes to fetch, all of which are fetched unless the object ends within them.
    pub(super) fn room(&self) -> usize {
        self.form.room(self.bytes.clone())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    /// The stream position of its first byte.
    pub(super) position: u64,
    /// Its offset in the fetched bytes, once those of encrypted extents are decrypted in their places.
    pub(super) start: usize,
}

impl Group {
    /// Bytes to fetch.
    pub(super) fn stored(&self) -> usize {
        self.extents.iter().map(Extent::room).sum()
    }

    /// Where the plain bytes are among the fetched ones, if no piece is compressed and each follows the one before.
    pub(super) fn in_place(&self) -> Option<Range<usize>> {
        let start = self.pieces.first()?.start;
        let mut end = start;
        for Piece { chunk, start, .. } in &self.pieces {
            if chunk.encoding != Encoding::Raw || chunk.stored_len != chunk.plain_len || *start != end {
                return None;
            }
            end += chunk.plain_len as usize;
        }
        Some(start..end)
    }

    /// A group of one of the pieces.
    pub(super) fn alone(&self, piece: &Piece) -> Self {
        let object = piece.chunk.object;
        let extent = self.extents.iter().find(|extent| extent.object == object);
        let form = extent.map_or(Form::Plain, |extent| extent.form);
        let mut draft = Draft::default();
        draft.push(piece.chunk, form, piece.position, Vec::new());
        draft.finish(|_| form).expect("it has a piece")
    }

    /// The stream positions of the first consecutive pieces in that extent.
    pub(super) fn first_of(&self, extent: usize) -> Option<Range<u64>> {
        let start: usize = self.extents.iter().take(extent).map(Extent::room).sum();
        let bytes = start..start + self.extents.get(extent)?.room();
        let mut pieces = self.pieces.iter().skip_while(|piece| !bytes.contains(&piece.start));
        let first = pieces.next()?;
        let last = pieces.take_while(|piece| bytes.contains(&piece.start)).last().unwrap_or(first);
        Some(first.position..end(last))
    }
}

/// A group that is being filled.
#[derive(Debug, Default)]
struct Draft {
    pieces: Vec<Piece>,
    spans: Vec<Range<usize>>,
    plain: usize,
    /// The chunks so far; a repeated chunk is fetched once.
    places: HashSet<(u32, u64, u32)>,
    /// The chunks of age so far, of encrypted objects: neighbouring chunks of the index share one.
    ages: HashSet<(u32, u64)>,
    stored: usize,
}

impl Draft {
    fn has_room(&self, chunk: &Chunk, form: Form) -> bool {
        self.pieces.len() < MAX_PIECES
            && self.plain + chunk.plain_len as usize <= PLAIN
            && self.stored + self.cost(chunk, form) <= STORED
    }

    /// The bytes to fetch besides those that are fetched already.
    fn cost(&self, chunk: &Chunk, form: Form) -> usize {
        match form {
            Form::Plain if self.places.contains(&place(chunk)) => 0,
            Form::Plain => chunk.stored_len as usize,
            Form::Sealed => {
                let new = ages(&stored(chunk)).filter(|age| !self.ages.contains(&(chunk.object, *age)));
                new.count() * SEALED_CHUNK
            }
        }
    }

    fn push(&mut self, chunk: Chunk, form: Form, position: u64, wanted: Vec<Range<usize>>) {
        for span in wanted {
            let span = self.plain + span.start..self.plain + span.end;
            match self.spans.last_mut() {
                Some(last) if last.end == span.start => last.end = span.end,
                _ => self.spans.push(span),
            }
        }
        self.plain += chunk.plain_len as usize;
        self.stored += self.cost(&chunk, form);
        match form {
            Form::Plain => drop(self.places.insert(place(&chunk))),
            Form::Sealed => self.ages.extend(ages(&stored(&chunk)).map(|age| (chunk.object, age))),
        }
        self.pieces.push(Piece { chunk, position, start: 0 });
    }

    /// Completes the group; `None` if it is empty.
    fn finish(self, form: impl Fn(u32) -> Form) -> Option<Group> {
        let Self { mut pieces, spans, plain, stored: fetched, .. } = self;
        let positions = pieces.first()?.position..pieces.last().map(end)?;
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|piece| (pieces[*piece].chunk.object, pieces[*piece].chunk.offset));
        let mut extents: Vec<Extent> = Vec::new();
        // Counts the fetched bytes before the last extent, and the room left for gaps.
        let (mut before, mut spare) = (0, STORED.saturating_sub(fetched));
        for number in order {
            let piece = &mut pieces[number];
            let (object, bytes) = (piece.chunk.object, stored(&piece.chunk));
            let form = form(object);
            let cover = form.cover(bytes.clone());
            if let Some(last) = extents.last_mut().filter(|last| last.object == object)
                && let gap = (form.cover(last.bytes.clone()).end..cover.start)
                && gap.end.saturating_sub(gap.start) <= GAP as u64
                && (gap.is_empty() || form.room(gap.clone()) <= spare)
            {
                spare -= if gap.is_empty() { 0 } else { form.room(gap) };
                last.bytes.end = last.bytes.end.max(bytes.end);
            } else {
                before += extents.last().map_or(0, Extent::room);
                extents.push(Extent { object, form, bytes: cover.start..bytes.end });
            }
            let start = extents.last().map_or(0, |last| bytes.start - last.bytes.start);
            piece.start = before + usize::try_from(start).expect("a group's extent fits into memory");
        }
        Some(Group { extents, plain, pieces, spans, positions })
    }
}

/// Where a chunk is in its object, or in its payload.
fn stored(chunk: &Chunk) -> Range<u64> {
    chunk.offset..chunk.offset.saturating_add(u64::from(chunk.stored_len))
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
    /// The form of each object, by position.
    forms: Vec<Form>,
    /// The first range that does not end before `position`.
    next: usize,
    position: u64,
    draft: Draft,
}

impl Planner {
    fn new(selection: Selection, forms: Vec<Form>) -> Self {
        Self { selection, forms, next: 0, position: 0, draft: Draft::default() }
    }

    /// A chunk of an object that the manifest does not list is refused when it is fetched.
    fn form(&self, object: u32) -> Form {
        self.forms.get(object as usize).copied().unwrap_or(Form::Plain)
    }

    /// Adds the next chunk; returns the group before it if that has no room.
    fn add(&mut self, chunk: Chunk) -> Option<Group> {
        let start = self.position;
        self.position += u64::from(chunk.plain_len);
        let wanted = self.wanted(start..self.position);
        if wanted.is_empty() {
            return None;
        }
        let form = self.form(chunk.object);
        let complete = if self.draft.has_room(&chunk, form) { None } else { self.finish() };
        // An empty group has room for any chunk.
        self.draft.push(chunk, form, start, wanted);
        complete
    }

    fn finish(&mut self) -> Option<Group> {
        std::mem::take(&mut self.draft).finish(|object| self.form(object))
    }

    /// The selected parts of these positions, counted from their start.
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

/// Reads the whole index and sends its groups. Blocks. Ends early if the receiver is dropped.
pub(super) fn run(
    index: &IndexFile,
    stream: &Stream,
    selection: Selection,
    groups: &mpsc::Sender<Group>,
) -> Result<(), Error> {
    let mut records = index.open(stream)?;
    let form = |object: &DataObject| if object.key.is_encrypted() { Form::Sealed } else { Form::Plain };
    let mut planner = Planner::new(selection, stream.objects.iter().map(form).collect());
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
        // Fails only if the receiver is dropped.
        let _ = groups.blocking_send(group);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
