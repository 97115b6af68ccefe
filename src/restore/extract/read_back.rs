//! Reads back what was written: `restore --verify`.
//!
//! While a file is written its data's digest is made, and kept with its path and the places of the data in an unnamed temporary file. When all
//! is written and flushed, each file is dropped from the page cache, read again, and compared: what a disk took and does not give back is found.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Advice, Mode, OFlags, fadvise, openat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::target::verdict;
use super::{BUFFER, Error, Extractor, Failure, failed};
use crate::tar::{Member, Segment};

/// The files that were written so far.
pub(super) struct Written {
    list: BufWriter<File>,
    /// Of the file that is being written.
    pub(super) digest: Sha256,
}

#[derive(Serialize, Deserialize)]
struct Record {
    path: Vec<u8>,
    size: u64,
    /// Where its data is, without its holes.
    segments: Vec<(u64, u64)>,
    digest: [u8; 32],
}

impl Written {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { list: BufWriter::new(tempfile::tempfile()?), digest: Sha256::new() })
    }

    /// Adds the file that is complete now.
    pub(super) fn add(&mut self, member: &Member) -> Result<(), Error> {
        let segments = match &member.map {
            Some(map) => map.iter().map(|Segment { offset, length }| (*offset, *length)).collect(),
            None => vec![(0, member.size)],
        };
        let digest = std::mem::take(&mut self.digest).finalize().into();
        let record = Record { path: member.path.clone(), size: member.size, segments, digest };
        let bytes =
            postcard::to_allocvec(&record).map_err(|error| failed("note", &member.path)(io::Error::other(error)))?;
        let length = (bytes.len() as u64).to_le_bytes();
        let written = self.list.write_all(&length).and_then(|()| self.list.write_all(&bytes));
        written.map_err(failed("note for --verify", &member.path))
    }
}

impl Extractor<'_> {
    /// Reads back all files. Those that differ are listed.
    pub(super) fn read_back(&mut self) -> Result<(), Error> {
        let Some(written) = self.written.take() else { return Ok(()) };
        let note = |error| failed("read the list of", b"written files")(error);
        let mut list = written.list.into_inner().map_err(|error| note(error.into_error()))?;
        list.rewind().map_err(note)?;
        self.target.flush().map_err(failed("flush", b"."))?;
        let (mut list, mut buffer) = (BufReader::new(list), vec![0; BUFFER]);
        let mut length = [0; 8];
        loop {
            match list.read_exact(&mut length) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(note(error)),
            }
            let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX)];
            list.read_exact(&mut bytes).map_err(note)?;
            let record: Record = postcard::from_bytes(&bytes).map_err(|error| note(io::Error::other(error)))?;
            match self.same(&record, &mut buffer) {
                Ok(true) => self.summary.read_back += 1,
                Ok(false) => self.ledger.differs(&record.path, "read back, its content is not what was written"),
                Err(Failure::LeftOut(refusal)) => {
                    let why = refusal.message.trim_start_matches("left out: ");
                    self.ledger.differs(&record.path, &format!("it was not read back: {why}"));
                }
                Err(Failure::Ends(error)) => return Err(error),
            }
        }
    }

    fn same(&mut self, record: &Record, buffer: &mut [u8]) -> Result<bool, Failure> {
        let Record { path, size, segments, digest } = record;
        let (parent, name) = self.target.locate(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(parent, &name, flags, Mode::empty()).map_err(verdict("open", path))?);
        let read = |error: io::Error| {
            verdict("read", path)(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
        };
        // A file system that keeps no cache, or cannot drop it, is read all the same.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let mut found = Sha256::new();
        for (mut offset, mut left) in segments.iter().copied() {
            while left > 0 {
                let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                match file.read_at(&mut buffer[..wanted], offset) {
                    Ok(0) => return Ok(false),
                    Ok(count) => {
                        found.update(&buffer[..count]);
                        (offset, left) = (offset + count as u64, left - count as u64);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(read(error)),
                }
            }
        }
        let length = file.metadata().map_err(read)?.len();
        Ok(length == *size && *found.finalize() == *digest)
    }
}
