//! A regular file's data, read straight into the caller's buffer.
//!
//! The header has announced how much data there will be, and exactly that much is yielded whatever happens to the file:
//! what is missing is zeros and what is too much is left out, each with one complaint.

use std::os::fd::{AsFd, OwnedFd};

use super::meta::Meta;
use super::sparse::Segment;
use crate::source::page_cache::Reader;

#[derive(Debug)]
pub(super) struct Body {
    fd: OwnedFd,
    announced: Meta,
    /// What is left to yield, the next one last.
    segments: Vec<Segment>,
    reader: Reader,
    /// Why zeros are yielded instead of data.
    gave_up: Option<String>,
}

impl Body {
    /// The data of `fd`, all of it or only `segments`.
    pub(super) fn new(fd: OwnedFd, announced: Meta, segments: Option<Vec<Segment>>) -> Self {
        let mut segments = segments.unwrap_or_else(|| vec![Segment { offset: 0, length: announced.size }]);
        segments.reverse();
        let reader = Reader::start(fd.as_fd(), announced.size);
        Self { fd, announced, segments, reader, gave_up: None }
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
            match self.reader.read_at(&self.fd, buffer, segment.offset) {
                Ok(0) => {
                    self.gave_up = Some(format!(
                        "it shrank while it was read: there is nothing at byte {} of {}; the rest is zeros",
                        segment.offset, self.announced.size
                    ));
                    buffer.fill(0);
                    wanted
                }
                Ok(length) => length,
                Err(error) => {
                    self.gave_up = Some(format!(
                        "it cannot be read at byte {} of {}: {error}; the rest is zeros",
                        segment.offset, self.announced.size
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
        if self.gave_up.is_some() {
            return self.gave_up;
        }
        let now = match rustix::fs::fstat(&self.fd) {
            Ok(stat) => Meta::from(stat),
            Err(error) => return Some(format!("it cannot be looked at after it was read: {error}")),
        };
        if now.size > self.announced.size {
            Some(format!(
                "it grew while it was read: from {} bytes to {}; what was added is left out",
                self.announced.size, now.size
            ))
        } else if now.mtime != self.announced.mtime || now.size != self.announced.size {
            Some("it changed while it was read".to_owned())
        } else {
            None
        }
    }
}
