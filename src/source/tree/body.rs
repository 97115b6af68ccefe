//! A regular file's data, read straight into the caller's buffer.
//!
//! The header has announced how much data there will be, and exactly that much is yielded whatever happens to the file:
//! what is missing is zeros and what is too much is left out, each with one complaint. Where the file's own word for how much that is cannot
//! be believed, its data has been set aside before ([`announced`]).

use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tempfile::SpooledTempFile;

use super::meta::Meta;
use super::sparse;
use crate::source::announced::{self, Extent, SetAside};
use crate::source::page_cache::Reader;
use crate::tar::Segment;

const CHANGED: &str = "it changed while it was read";

#[derive(Debug)]
pub(super) struct Body {
    fd: OwnedFd,
    announced: Meta,
    /// Of the whole file, holes too.
    size: u64,
    sparse: bool,
    /// What is left to yield, the next one last.
    segments: Vec<Segment>,
    reader: Reader,
    /// All of a file that has not the size it announced.
    set_aside: Option<SpooledTempFile>,
    /// Why what is stored may not be what the file had.
    doubt: Option<String>,
    /// Why zeros are yielded instead of data.
    gave_up: Option<String>,
}

impl Body {
    /// Looks at what an open file has: how much data, and where.
    pub(super) fn open(fd: OwnedFd, announced: Meta) -> Self {
        let (size, set_aside, doubt) = match announced::examine(fd.as_fd(), &announced) {
            Extent::AsAnnounced => (announced.size, None, None),
            Extent::SetAside(SetAside { file, length, changed }) => {
                (length, Some(file), changed.then(|| CHANGED.to_owned()))
            }
            Extent::Unknown(doubt) => (announced.size, None, Some(doubt)),
        };
        let segments = if set_aside.is_none() { sparse::scan(&fd, &announced) } else { None };
        let sparse = segments.is_some();
        let mut segments = segments.unwrap_or_else(|| vec![Segment { offset: 0, length: size }]);
        segments.reverse();
        let reader = Reader::start(fd.as_fd(), size);
        Self { fd, announced, size, sparse, segments, reader, set_aside, doubt, gave_up: None }
    }

    /// Of the whole file, holes too.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Where the data is, if the file has holes. To be asked before anything is read.
    pub(super) fn map(&self) -> Option<Arc<[Segment]>> {
        self.sparse.then(|| self.segments.iter().rev().copied().collect())
    }

    /// Bytes still to be yielded.
    pub(super) fn left(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Fills the start of `buffer`, which is not empty; 0 is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let segment = loop {
            match self.segments.last_mut() {
                None => return 0,
                Some(segment) if segment.length > 0 => break segment,
                Some(_) => self.segments.pop(),
            };
        };
        let wanted = usize::try_from(segment.length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let buffer = &mut buffer[..wanted];
        let length = if self.gave_up.is_some() {
            buffer.fill(0);
            wanted
        } else {
            let read = match &mut self.set_aside {
                Some(file) => file.read(buffer),
                None => self.reader.read_at(&self.fd, buffer, segment.offset).map_err(Into::into),
            };
            match read {
                Ok(0) => {
                    self.gave_up = Some(format!(
                        "it shrank while it was read: there is nothing at byte {} of {}; the rest is zeros",
                        segment.offset, self.size
                    ));
                    buffer.fill(0);
                    wanted
                }
                Ok(length) => length,
                Err(error) => {
                    self.gave_up = Some(format!(
                        "it cannot be read at byte {} of {}: {error}; the rest is zeros",
                        segment.offset, self.size
                    ));
                    buffer.fill(0);
                    wanted
                }
            }
        };
        segment.offset += length as u64;
        segment.length -= length as u64;
        length
    }

    /// To be called at the end: what there is to say about the file, if anything.
    pub(super) fn finish(self) -> Option<String> {
        self.reader.end(&self.fd);
        if self.gave_up.is_some() || self.doubt.is_some() || self.set_aside.is_some() {
            return self.gave_up.or(self.doubt);
        }
        let now = match rustix::fs::fstat(&self.fd) {
            Ok(stat) => Meta::from(stat),
            Err(error) => return Some(format!("it cannot be looked at after it was read: {error}")),
        };
        let size = self.announced.size;
        if now.size > size {
            let grown = now.size;
            Some(format!("it grew while it was read: from {size} bytes to {grown}; what was added is left out"))
        } else if now.size != size || (now.mtime != self.announced.mtime && size > 0) {
            Some(CHANGED.to_owned())
        } else {
            None
        }
    }
}
