//! Reads an item's stream past its damage.
//!
//! The index says where each member is, so a member that a lost chunk touches can be passed over whole: the reader of the archive does not
//! see it. A member that has begun when the damage is met is cut: reading fails once, and after [`Source::pass_over`] goes on behind the
//! member. With [`Damaged::ZeroFill`] a file whose data alone is hit is read to its end, with zeros for what is lost.
//!
//! Costs one pass over the index, from the first damage on, however much is damaged.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::ops::Range;

use bytes::{Buf as _, Bytes};
use tokio::runtime::Handle;

use crate::download::index::{IndexFile, Records};
use crate::download::plain::PlainReader;
use crate::download::{self, Lost, Progress, Selection};
use crate::format::index::{FileEntry, FileKind, IndexError, Record};
use crate::format::manifest::Stream;
use crate::tar;

/// What becomes of a file whose data is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Damaged {
    /// It is left out.
    #[default]
    LeaveOut,
    /// It is restored with zeros for what is lost, and marked.
    ZeroFill,
}

/// The most ranges of one file, and the most lost chunks, that are kept.
const MOST_RANGES: usize = 100;
pub(super) const MOST_CHUNKS: usize = 100_000;

/// The most bytes of the names of damaged members that are ahead at a time: those of one group of chunks. A member takes 512 bytes at least,
/// so only an index that was made up has more.
const MOST_NAMES: usize = 64 << 20;

/// A damaged member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hurt {
    /// As in the index.
    pub(super) path: Vec<u8>,
    pub(super) kind: FileKind,
    /// The parts of the file that are lost, if its data alone is read with zeros in their place; at most [`MOST_RANGES`]: the last one may have whole parts in it.
    pub(super) filled: Option<Vec<Range<u64>>>,
}

/// A stream that may be damaged.
pub(super) trait Source: BufRead {
    /// The damaged members that were found since the last call, none later than the bytes that were read.
    fn take_hurt(&mut self) -> Vec<Hurt> {
        Vec::new()
    }

    /// After a failed read: whether the member that was being read was cut, and reading goes on with the next member.
    fn pass_over(&mut self) -> bool {
        false
    }
}

/// A stream whose first fault ends it.
pub(super) struct Sound<R>(pub(super) R);

impl<R: Read> Read for Sound<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for Sound<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

impl<R: BufRead> Source for Sound<R> {}

pub(super) struct Salvage {
    reader: PlainReader,
    runtime: Handle,
    rest: Bytes,
    progress: Progress,
    /// What is left of the selection; the first begins at the next byte.
    left: VecDeque<Range<u64>>,
    members: Members,
    how: Damaged,
    /// The damaged members that do not end before the next byte, in order.
    ahead: VecDeque<Ahead>,
    told: Vec<Hurt>,
    cut: bool,
    /// Follows a selection.
    tail: &'static [u8],
    pub(super) failure: Option<download::Error>,
    /// The first [`MOST_CHUNKS`].
    pub(super) lost: Vec<Lost>,
}

struct Ahead {
    hurt: Hurt,
    member: Range<u64>,
    /// Whether its bytes are passed over.
    passed: bool,
    told: bool,
}

impl Salvage {
    /// Must be called within the runtime in which the reader was made, with the same selection.
    pub(super) fn new(
        reader: PlainReader,
        members: Members,
        selection: Selection,
        how: Damaged,
        progress: Progress,
    ) -> Self {
        let (left, tail) = match selection {
            Selection::Whole => (std::iter::once(0..members.stream.plain_bytes).collect(), &[][..]),
            Selection::Ranges(ranges) => (ranges.into(), &tar::END[..]),
        };
        Self {
            reader,
            runtime: Handle::current(),
            rest: Bytes::new(),
            progress,
            left,
            members,
            how,
            ahead: VecDeque::new(),
            told: Vec::new(),
            cut: false,
            tail,
            failure: None,
            lost: Vec::new(),
        }
    }

    fn fail(&mut self, error: download::Error) -> io::Error {
        let shown = io::Error::other(error.to_string());
        self.failure = Some(error);
        shown
    }

    /// Fetches the next bytes; `false` at the end.
    fn fetch(&mut self) -> io::Result<bool> {
        // Releases its buffer before the next one is requested.
        self.rest = Bytes::new();
        match self.runtime.block_on(self.reader.next()) {
            Ok(next) => self.rest = next.unwrap_or_default(),
            Err(error) => return Err(self.fail(error)),
        }
        for lost in self.reader.take_lost() {
            tracing::debug!(positions = ?lost.positions, "{}", lost.reason);
            if let Err(error) = self.find(&lost.positions) {
                return Err(self.fail(error));
            }
            if self.lost.len() < MOST_CHUNKS {
                self.lost.push(lost);
            }
        }
        Ok(!self.rest.is_empty())
    }

    /// Finds the members that a lost chunk touches, of what is selected and not read yet.
    fn find(&mut self, chunk: &Range<u64>) -> Result<(), download::Error> {
        let Self { members, left, ahead, how, .. } = self;
        let mut names: usize = ahead.iter().map(|ahead| ahead.hurt.path.len()).sum();
        members.touched(chunk, |file| {
            let member = file.member();
            let next = left.partition_point(|range| range.end <= member.start);
            if left.get(next).is_none_or(|range| range.start >= member.end) {
                return Ok(());
            }
            let data_alone = chunk.start >= file.content_start;
            // The data of a sparse file begins with its map.
            let fills = *how == Damaged::ZeroFill
                && file.kind == FileKind::Regular
                && file.content_len == file.size
                && data_alone;
            let content = file.content_start..file.content_start + file.content_len;
            let start = chunk.start.max(content.start) - content.start;
            let part = start..chunk.end.min(content.end).saturating_sub(content.start);
            if let Some(known) = ahead.back_mut().filter(|known| known.member == member) {
                if let Some(filled) = &mut known.hurt.filled {
                    let full = filled.len() == MOST_RANGES;
                    match filled.last_mut() {
                        Some(last) if full || last.end == part.start => last.end = part.end,
                        _ => filled.push(part),
                    }
                    // With more to tell.
                    known.told = false;
                }
                return Ok(());
            }
            names += file.path.len();
            if names > MOST_NAMES {
                return Err("has too many long names".to_owned());
            }
            let hurt = Hurt { path: file.path.clone(), kind: file.kind, filled: fills.then(|| vec![part]) };
            ahead.push_back(Ahead { hurt, member, passed: false, told: false });
            Ok(())
        })
    }

    /// Moves on; what is passed over is not counted as read.
    fn advance(&mut self, count: usize) {
        self.rest.advance(count);
        if let Some(range) = self.left.front_mut() {
            range.start += count as u64;
            if range.start >= range.end {
                self.left.pop_front();
            }
        }
    }

    /// How many of the next bytes may be read before the next decision; `None` if they are to be passed over.
    fn sound(&mut self, position: u64) -> io::Result<Option<u64>> {
        while self.ahead.front().is_some_and(|ahead| ahead.member.end <= position) {
            self.ahead.pop_front();
        }
        let Some(ahead) = self.ahead.front_mut() else { return Ok(Some(u64::MAX)) };
        if position < ahead.member.start {
            return Ok(Some(ahead.member.start - position));
        }
        // Of a single file there is nothing else to read.
        let begins = position == ahead.member.start && self.members.of_tree;
        if ahead.hurt.filled.is_none() && !begins && !ahead.passed {
            self.cut = true;
            return Err(io::Error::other("the member is damaged"));
        }
        ahead.passed = ahead.hurt.filled.is_none();
        if !std::mem::replace(&mut ahead.told, true) {
            self.told.push(ahead.hurt.clone());
        }
        Ok((!ahead.passed).then_some(ahead.member.end - position))
    }
}

impl BufRead for Salvage {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while let Some(range) = self.left.front().cloned() {
            if self.rest.is_empty() && !self.fetch()? {
                self.left.clear();
                break;
            }
            let there = self.rest.len() as u64;
            let most = there.min(range.end - range.start);
            let Some(sound) = self.sound(range.start)? else {
                let end = self.ahead.front().map_or(range.end, |ahead| ahead.member.end);
                self.advance(usize::try_from(most.min(end - range.start)).unwrap_or(usize::MAX));
                continue;
            };
            let count = usize::try_from(most.min(sound)).unwrap_or(usize::MAX);
            return Ok(&self.rest[..count]);
        }
        // Whether the stream ended as it should is known only now.
        if self.rest.is_empty() && self.fetch()? {
            return Err(io::Error::other("the stream is longer than its index says"));
        }
        Ok(self.tail)
    }

    fn consume(&mut self, count: usize) {
        if self.left.is_empty() {
            self.tail = &self.tail[count..];
        } else {
            self.advance(count);
            (self.progress)(count as u64);
        }
    }
}

impl Read for Salvage {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl Source for &mut Salvage {
    fn take_hurt(&mut self) -> Vec<Hurt> {
        std::mem::take(&mut self.told)
    }

    fn pass_over(&mut self) -> bool {
        if let Some(ahead) = self.ahead.front_mut().filter(|_| self.cut) {
            ahead.passed = true;
        }
        std::mem::take(&mut self.cut)
    }
}

/// The members of a stream in its order, as far as they were asked for.
pub(super) struct Members {
    index: IndexFile,
    stream: Stream,
    of_tree: bool,
    from: From,
    next: Option<FileEntry>,
}

enum From {
    /// Not opened yet.
    Index,
    Records(Box<Records>),
    Nothing,
}

impl Members {
    pub(super) fn of_tree(index: &IndexFile, stream: &Stream) -> Self {
        Self { index: index.clone(), stream: stream.clone(), of_tree: true, from: From::Index, next: None }
    }

    /// The whole stream as the content of one file.
    pub(super) fn of_file(index: &IndexFile, stream: &Stream, name: &str) -> Self {
        let file = FileEntry {
            path: name.into(),
            kind: FileKind::Regular,
            size: stream.plain_bytes,
            content_len: stream.plain_bytes,
            ..FileEntry::default()
        };
        Self { index: index.clone(), stream: stream.clone(), of_tree: false, from: From::Nothing, next: Some(file) }
    }

    /// Calls `each` with every member that has a header or data in these positions, which begin no earlier than those of the last call.
    fn touched(
        &mut self,
        positions: &Range<u64>,
        mut each: impl FnMut(&FileEntry) -> Result<(), String>,
    ) -> Result<(), download::Error> {
        loop {
            if self.next.is_none() {
                self.next = self.read()?;
            }
            let Some(file) = self.next.as_ref().filter(|file| file.member_start < positions.end) else { return Ok(()) };
            let end = file.content_start + file.content_len;
            if end > positions.start {
                each(file).map_err(|reason| self.index.refused(IndexError::Record { record: 0, reason }))?;
            }
            if end > positions.end {
                return Ok(());
            }
            self.next = None;
        }
    }

    fn read(&mut self) -> Result<Option<FileEntry>, download::Error> {
        if matches!(self.from, From::Index) {
            self.from = From::Records(Box::new(self.index.open(&self.stream)?));
        }
        let From::Records(records) = &mut self.from else { return Ok(None) };
        loop {
            match records.next_record().map_err(|error| self.index.refused(error))? {
                Some(Record::File(file)) => return Ok(Some(file)),
                Some(_) => {}
                None => {
                    self.from = From::Nothing;
                    return Ok(None);
                }
            }
        }
    }
}
