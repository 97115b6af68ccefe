//! Reads a source block by block, on a thread of its own: while a block is cut, the next one is filled.

use std::sync::mpsc::SyncSender;

use bytes::Bytes;

use super::cut::More;
use super::encode::{Event, Gone};
use crate::budget::OwnBuffers;
use crate::source::{self, Mark, Source};

/// The smallest read from the source, so that each small read of a pipe does not cut the whole block again.
const READ: usize = 1 << 20;

/// The most marks in a block before it is cut, even if it is not full: a source that reuses everything yields no bytes to
/// fill it.
const MAX_MARKS: usize = 256;

/// What was read before the next block is needed.
pub(super) struct Filled {
    pub(super) block: Bytes,
    /// With their places in the block.
    pub(super) marks: Vec<(usize, Mark)>,
    /// Files, warnings and the like.
    pub(super) said: Vec<Event>,
    pub(super) more: More,
}

pub(super) struct Reader {
    pub(super) source: Box<dyn Source>,
    pub(super) blocks: OwnBuffers,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) filled: SyncSender<Result<Filled, source::Error>>,
}

impl Reader {
    pub(super) fn run(mut self) -> Result<(), Gone> {
        loop {
            let filled = self.fill();
            let ended = !matches!(filled, Ok(Filled { more: More::Maybe, .. }));
            self.filled.send(filled).map_err(|_| Gone)?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Reads until the block is full or has [`MAX_MARKS`] marks, or the source has ended.
    fn fill(&mut self) -> Result<Filled, source::Error> {
        let mut block = self.blocks.blocking_get(&self.runtime);
        let mut marks = Vec::new();
        let mut more = More::Maybe;
        while block.room() > 0 && marks.len() < MAX_MARKS {
            let count = self.source.read(block.spare(READ))?;
            block.commit(count);
            let found = self.source.take_marks();
            if count == 0 && found.is_empty() {
                more = More::No;
                break;
            }
            marks.extend(found.into_iter().map(|mark| (block.len(), mark)));
        }
        Ok(Filled { block: block.freeze(), marks, said: self.said(), more })
    }

    fn said(&mut self) -> Vec<Event> {
        let mut said: Vec<Event> = self.source.take_entries().into_iter().map(Event::File).collect();
        said.extend(self.source.take_warnings().into_iter().map(Event::Warning));
        said.extend(self.source.take_not_entered().into_iter().map(Event::NotEntered));
        said.extend(self.source.take_record().map(Event::Record));
        said
    }
}
