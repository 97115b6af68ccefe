//! A stream's plain bytes as a blocking reader.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use tokio::runtime::Handle;

use super::plain::PlainReader;
use super::{Error, Progress};

/// Reads a stream. If the download fails, the [`io::Error`] has its text and `failure` has the error itself.
pub struct Input {
    reader: PlainReader,
    runtime: Handle,
    rest: Bytes,
    progress: Progress,
    pub failure: Option<Error>,
}

impl Input {
    /// Must be called within the runtime in which the reader was made.
    #[must_use]
    pub fn new(reader: PlainReader, progress: Progress) -> Self {
        Self { reader, runtime: Handle::current(), rest: Bytes::new(), progress, failure: None }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            // Releases its buffer before the next one is requested.
            self.rest = Bytes::new();
            match self.runtime.block_on(self.reader.next()) {
                Ok(next) => self.rest = next.unwrap_or_default(),
                Err(error) => {
                    let shown = io::Error::other(error.to_string());
                    self.failure = Some(error);
                    return Err(shown);
                }
            }
        }
        Ok(&self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest.advance(count);
        (self.progress)(count as u64);
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
