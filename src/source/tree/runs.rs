//! Decides which chunks of the parent are reused: those that consist exactly of a run of unchanged members.
//!
//! A run begins where a member and a chunk of the parent begin together, and ends where both end; borders are set so that
//! this is often the case ([`Group`](crate::source::group::Group)). Members wait until their run is complete, and are read after all
//! if it breaks. So every member is either reused whole, with its header, or read as if there were no parent.
//!
//! Memory: at most [`MAX_HELD`] members.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::meta::Meta;
use crate::format::index::FileEntry;
use crate::source::table::ChunkTable;

/// A longer run is read; [`Group`](crate::source::group::Group)s make it rare.
const MAX_HELD: usize = 4096;

/// An unchanged member that is not in the stream yet.
#[derive(Debug)]
pub(super) struct Held {
    /// From the parent.
    pub(super) entry: FileEntry,
    pub(super) meta: Meta,
    /// See [`super::walk::Found`].
    pub(super) inherits: bool,
}

/// What happens to waiting members.
#[derive(Debug)]
pub(super) enum Verdict {
    Read(Box<Held>),
    Take { members: Vec<Held>, chunks: Range<u32> },
}

#[derive(Debug)]
pub(super) struct Runs {
    table: Arc<ChunkTable>,
    /// The first chunk that does not end before the last offered member, and where it starts in the parent's stream.
    chunk: u32,
    position: u64,
    held: Vec<Held>,
    first_chunk: u32,
}

impl Runs {
    pub(super) fn new(table: Arc<ChunkTable>) -> Self {
        Self { table, chunk: 0, position: 0, held: Vec::new(), first_chunk: 0 }
    }

    /// Takes the next unchanged member, in the parent's order.
    pub(super) fn offer(&mut self, held: Held, verdicts: &mut VecDeque<Verdict>) {
        let member = held.entry.member();
        if self.held.last().is_some_and(|last| last.entry.member().end != member.start) {
            self.broken(verdicts);
        }
        if self.held.is_empty() {
            if !self.chunk_starts_at(member.start) {
                verdicts.push_back(Verdict::Read(Box::new(held)));
                return;
            }
            self.first_chunk = self.chunk;
        }
        self.held.push(held);
        if self.chunk_starts_at(member.end) {
            let chunks = self.first_chunk..self.chunk;
            if chunks.clone().all(|position| self.referable(position)) {
                let members = std::mem::take(&mut self.held);
                verdicts.push_back(Verdict::Take { members, chunks });
            } else {
                self.broken(verdicts);
            }
        } else if self.held.len() >= MAX_HELD {
            self.broken(verdicts);
        }
    }

    /// Ends the run: the next member is not the parent's, or there is none.
    pub(super) fn broken(&mut self, verdicts: &mut VecDeque<Verdict>) {
        verdicts.extend(self.held.drain(..).map(|held| Verdict::Read(Box::new(held))));
    }

    /// Moves on to the first chunk that starts at `position` or behind it, and returns whether it starts there.
    fn chunk_starts_at(&mut self, position: u64) -> bool {
        while self.position < position {
            let Some(chunk) = self.table.get(self.chunk) else { return false };
            self.position += u64::from(chunk.plain_len);
            self.chunk += 1;
        }
        self.position == position
    }

    fn referable(&self, position: u32) -> bool {
        self.table.get(position).is_some_and(|chunk| self.table.find(&chunk.id).is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::FileType;

    use super::*;
    use crate::format::codec::Encoding;
    use crate::format::index::{Chunk, ChunkId, FileKind, FileTime};

    const TIME: FileTime = FileTime { seconds: 0, nanoseconds: 0 };

    fn held(start: u64, blocks: u64) -> Held {
        let entry = FileEntry {
            path: start.to_string().into_bytes(),
            kind: FileKind::Regular,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: TIME,
            ctime: TIME,
            inode: 0,
            device: 0,
            link: Vec::new(),
            member_start: start,
            content_start: start + 512,
            content_len: (blocks - 1) * 512,
        };
        let meta = Meta {
            file_type: FileType::RegularFile,
            size: 0,
            allocated: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: TIME,
            ctime: TIME,
            inode: 0,
            device: 0,
            links: 1,
            rdev: (0, 0),
        };
        Held { entry, meta, inherits: false }
    }

    fn table(lengths: &[u64], compacted: impl Fn(u32) -> bool) -> Arc<ChunkTable> {
        let chunk = |(number, length): (usize, &u64)| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let plain_len = u32::try_from(*length).unwrap();
            let object = u32::try_from(number).unwrap();
            Chunk { id: ChunkId(id), plain_len, encoding: Encoding::Raw, object, offset: 0, stored_len: plain_len }
        };
        Arc::new(
            ChunkTable::new(lengths.iter().enumerate().map(chunk).collect(), |chunk: &Chunk| compacted(chunk.object))
                .unwrap(),
        )
    }

    fn run(lengths: &[u64], members: &[(u64, u64)], compacted: impl Fn(u32) -> bool) -> Vec<String> {
        let (mut runs, mut verdicts) = (Runs::new(table(lengths, compacted)), VecDeque::new());
        for (start, blocks) in members {
            runs.offer(held(start * 512, *blocks), &mut verdicts);
        }
        runs.broken(&mut verdicts);
        let show = |verdict| match verdict {
            Verdict::Read(held) => format!("read {}", held.entry.member_start / 512),
            Verdict::Take { members, chunks } => format!("take {} of {chunks:?}", members.len()),
        };
        verdicts.into_iter().map(show).collect()
    }

    #[test]
    fn whole_runs_are_taken_and_others_read() {
        let lengths = [1024, 1024, 512, 2048];
        let all = [(0, 1), (1, 1), (2, 3), (5, 4)];
        assert_eq!(run(&lengths, &all, |_| false), ["take 2 of 0..1", "take 1 of 1..3", "take 1 of 3..4"]);
        assert_eq!(run(&lengths, &all[1..], |_| false), ["read 1", "take 1 of 1..3", "take 1 of 3..4"]);
        assert_eq!(run(&lengths, &[all[0], all[2]], |_| false), ["read 0", "take 1 of 1..3"]);
        assert_eq!(run(&lengths, &all, |chunk| chunk == 1), ["take 2 of 0..1", "read 2", "take 1 of 3..4"]);
        assert_eq!(run(&[9 * 512], &all[..3], |_| false), ["read 0", "read 1", "read 2"]);
    }

    proptest! {
        #[test]
        fn reused_chunks_are_exactly_their_members(
            chunks in prop::collection::vec(1_u64..9, 1..40),
            blocks in prop::collection::vec((1_u64..9, any::<bool>()), 1..40),
        ) {
            let lengths: Vec<u64> = chunks.iter().map(|length| length * 512).collect();
            let (mut runs, mut verdicts, mut start) = (Runs::new(table(&lengths, |_| false)), VecDeque::new(), 0);
            let mut offered = Vec::new();
            for (blocks, unchanged) in blocks {
                if unchanged {
                    runs.offer(held(start, blocks), &mut verdicts);
                    offered.push(start);
                } else {
                    runs.broken(&mut verdicts);
                }
                start += blocks * 512;
            }
            runs.broken(&mut verdicts);
            let mut seen = Vec::new();
            for verdict in verdicts {
                match verdict {
                    Verdict::Read(held) => seen.push(held.entry.member_start),
                    Verdict::Take { members, chunks } => {
                        let (from, to) = (chunks.start as usize, chunks.end as usize);
                        let start: u64 = lengths[..from].iter().sum();
                        let end: u64 = lengths[..to].iter().sum();
                        prop_assert_eq!(members[0].entry.member_start, start);
                        prop_assert_eq!(members[members.len() - 1].entry.member().end, end);
                        seen.extend(members.iter().map(|held| held.entry.member_start));
                    }
                }
            }
            prop_assert_eq!(seen, offered);
        }
    }
}
