//! A regular file's data, read straight into the caller's buffer.
//!
//! The header has stated how much data follows, and exactly that much is yielded whatever happens to the file: missing data is replaced
//! with zeros and added data is left out, each with one warning. If the file's reported size is wrong, its data was copied before
//! ([`announced`]).

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
    /// Of the whole file, including holes.
    size: u64,
    sparse: bool,
    /// The segments still to yield, the next one last.
    segments: Vec<Segment>,
    reader: Reader,
    /// A copy of the whole file, if its reported size is wrong.
    set_aside: Option<SpooledTempFile>,
    /// Why the stored data may differ from the file's.
    doubt: Option<String>,
    /// Why zeros are yielded instead of data.
    failure: Option<String>,
}

impl Body {
    /// Finds out how much data an open file has, and where.
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
        Self { fd, announced, size, sparse, segments, reader, set_aside, doubt, failure: None }
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Where the data is, if the file has holes. Must be called before the first read.
    pub(super) fn map(&self) -> Option<Arc<[Segment]>> {
        self.sparse.then(|| self.segments.iter().rev().copied().collect())
    }

    pub(super) fn left(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Fills the start of `buffer`, which is not empty; returns 0 at the end.
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
        let length = if self.failure.is_some() {
            buffer.fill(0);
            wanted
        } else {
            let read = match &mut self.set_aside {
                Some(file) => file.read(buffer),
                None => self.reader.read_at(&self.fd, buffer, segment.offset).map_err(Into::into),
            };
            match read {
                Ok(0) => {
                    self.failure = Some(format!(
                        "it shrank while it was read: it has no data at byte {} of {}; the rest is stored as zeros",
                        segment.offset, self.size
                    ));
                    buffer.fill(0);
                    wanted
                }
                Ok(length) => length,
                Err(error) => {
                    self.failure = Some(format!(
                        "could not read it at byte {} of {}: {error}; the rest is stored as zeros",
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

    /// The warning about the file, if any. Must be called at the end.
    pub(super) fn finish(self) -> Option<String> {
        self.reader.end(&self.fd);
        if self.failure.is_some() || self.doubt.is_some() || self.set_aside.is_some() {
            return self.failure.or(self.doubt);
        }
        let now = match rustix::fs::fstat(&self.fd) {
            Ok(stat) => Meta::from(stat),
            Err(error) => return Some(format!("could not inspect it after reading it: {error}")),
        };
        let size = self.announced.size;
        if now.size > size {
            let grown = now.size;
            Some(format!("it grew while it was read: from {size} bytes to {grown}; the added bytes are left out"))
        } else if now.size != size || (now.mtime != self.announced.mtime && size > 0) {
            Some(CHANGED.to_owned())
        } else {
            None
        }
    }
}
