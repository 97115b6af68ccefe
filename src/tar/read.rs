//! Reads the tar that Penstock, and GNU tar with `--format=posix`, write: ustar blocks and PAX headers.
//!
//! A strict reader of a small language rather than a lenient one of every dialect: it refuses anything it does not
//! know, because a reader that guesses where a member ends restores wrong data. It checks every length before it uses
//! it; memory is at most one PAX header of 1 MiB and one sparse map of 16 MiB.

use std::io::{self, BufRead};
use std::sync::Arc;

use super::pax::Pax;
use super::sparse::{Map, Segment};
use super::ustar::{self, PAX, Ustar};
use super::{BLOCK, Error, MAX_PAX, Member, shown};
use crate::format::index::{FileKind, FileTime};

/// Reads an archive, one member at a time.
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// Unread bytes of the current member's data, and the padding after it.
    left: u64,
    padding: u64,
    /// The part being read, for a message.
    what: What,
    /// The file offset of the next byte of data, and how many bytes follow it there.
    segment: Segment,
    /// A sparse file's segments, and how many were started.
    map: Option<Arc<[Segment]>>,
    started: usize,
}

enum What {
    Part(&'static str),
    /// The data of the member with this path.
    Data(Vec<u8>),
}

impl<R: BufRead> Reader<R> {
    pub fn new(input: R) -> Self {
        let (what, segment) = (What::Part("nothing"), Segment::default());
        Self { input, offset: 0, left: 0, padding: 0, what, segment, map: None, started: 0 }
    }

    pub fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// The next member; `None` after the end of the archive, which only zeros may follow. Skips the rest of the current
    /// member's data.
    ///
    /// # Errors
    /// When the archive is malformed or incomplete, or the input cannot be read.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        self.skip()?;
        let at = self.offset;
        self.what = What::Part("a header or the two blocks of zeros at the end");
        let Some(block) = self.block()? else {
            self.end()?;
            return Ok(None);
        };
        let malformed = |reason: String| Error::Header { offset: at, reason };
        let header = Ustar::parse(&block).map_err(malformed)?;
        if header.flag != PAX {
            return self.member(header, Pax::default()).map(Some);
        }
        if header.size > MAX_PAX as u64 {
            return Err(malformed(format!("its PAX header has {} bytes; expected at most {MAX_PAX}", header.size)));
        }
        self.what = What::Part("a PAX header");
        self.expect(header.size);
        let mut records = vec![0; usize::try_from(header.size).unwrap_or(MAX_PAX)];
        self.exact(&mut records)?;
        let pax = Pax::parse(&records).map_err(malformed)?;
        self.skip()?;
        let block = self.block()?.ok_or_else(|| malformed("no member follows it; expected one".to_owned()))?;
        let header = Ustar::parse(&block).map_err(malformed)?;
        if header.flag == PAX {
            return Err(malformed("another PAX header precedes the same member; expected one".to_owned()));
        }
        self.member(header, pax).map(Some)
    }

    fn member(&mut self, header: Ustar<'_>, mut pax: Pax) -> Result<Member, Error> {
        let at = self.offset - BLOCK as u64;
        let sparse = pax.sparse().map_err(|reason| Error::Header { offset: at, reason })?;
        let (mut path, apparent) = match sparse {
            Some((path, size)) => (path, Some(size)),
            None => (pax.path.unwrap_or_else(|| header.path.into_owned()), None),
        };
        let Some(kind) = ustar::kind(header.flag) else {
            let expected = "a file, link, directory, fifo or device as POSIX numbers them";
            return Err(Error::refused(
                &path,
                format!("its type is {:?}; expected {expected}", char::from(header.flag)),
            ));
        };
        let content = pax.size.unwrap_or(header.size);
        if kind != FileKind::Regular && (content > 0 || apparent.is_some()) {
            return Err(Error::refused(&path, format!("it has {content} bytes of data; only a regular file has any")));
        }
        if kind != FileKind::Directory && path.ends_with(b"/") {
            return Err(Error::refused(&path, "its name ends with a slash; only a directory's does"));
        }
        self.what = What::Data(path.clone());
        self.expect(content);
        if let Some(size) = apparent {
            self.map = Some(Map::new(self, &path).read(size)?.into());
        } else {
            self.segment.length = content;
        }
        if path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        Ok(Member {
            kind,
            path,
            link: pax.link.unwrap_or_else(|| header.link.to_vec()),
            mode: header.mode,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or(FileTime { seconds: header.mtime, nanoseconds: 0 }),
            size: apparent.unwrap_or(content),
            map: self.map.clone(),
            rdev: header.rdev,
            attributes: pax.attributes,
        })
    }

    /// The file offset and the number of the next bytes of the member's data, as many as the input has at hand, for [`Reader::take`].
    /// `None` at the data's end.
    ///
    /// # Errors
    /// When the input ends early or cannot be read.
    pub fn data(&mut self) -> Result<Option<(u64, usize)>, Error> {
        while self.segment.length == 0 {
            let Some(next) = self.map.as_deref().and_then(|map| map.get(self.started)) else { return Ok(None) };
            self.segment = *next;
            self.started += 1;
        }
        let there = self.there()?;
        let length = usize::try_from(self.segment.length).map_or(there, |length| length.min(there));
        Ok(Some((self.segment.offset, length)))
    }

    /// Gives `each` the bytes that [`Reader::data`] has just announced, and moves on.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub fn take<T>(&mut self, length: usize, each: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let bytes = self.peek()?;
        let length = length.min(bytes.len());
        let taken = each(&bytes[..length]);
        self.pass(length);
        let Segment { offset, length: rest } = self.segment;
        self.segment = Segment { offset: offset + length as u64, length: rest.saturating_sub(length as u64) };
        Ok(taken)
    }

    /// How many stored bytes of the current part are at hand; 0 at its end.
    fn there(&mut self) -> Result<usize, Error> {
        if self.left == 0 {
            return Ok(0);
        }
        let there = self.peek()?.len();
        if there == 0 {
            return Err(self.truncated(self.left));
        }
        Ok(usize::try_from(self.left).map_or(there, |left| left.min(there)))
    }

    /// Moves on in the current part.
    fn pass(&mut self, length: usize) {
        self.input.consume(length);
        self.offset += length as u64;
        self.left = self.left.saturating_sub(length as u64);
    }

    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        (self.segment, self.map, self.started) = (Segment::default(), None, 0);
    }

    /// Reads the rest of the current member.
    fn skip(&mut self) -> Result<(), Error> {
        for next in [std::mem::take(&mut self.padding), 0] {
            loop {
                match self.there()? {
                    0 => break,
                    length => self.pass(length),
                }
            }
            self.left = next;
        }
        Ok(())
    }

    /// One header block; `None` for zeros.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        self.left = BLOCK as u64;
        self.exact(&mut block)?;
        Ok(Some(block).filter(|block| block.iter().any(|byte| *byte != 0)))
    }

    pub(super) fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let length = self.there()?.min(buffer.len() - filled);
            if length == 0 {
                // The caller asked for more bytes than the member has.
                return Err(self.truncated((buffer.len() - filled) as u64));
            }
            buffer[filled..filled + length].copy_from_slice(&self.peek()?[..length]);
            self.pass(length);
            filled += length;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let at = self.offset;
        if self.block()?.is_some() {
            return Err(Error::Header { offset: at, reason: "it follows one block of zeros; expected two".to_owned() });
        }
        loop {
            let at = self.offset;
            let rest = self.peek()?;
            if rest.is_empty() {
                return Ok(());
            }
            if rest.iter().any(|byte| *byte != 0) {
                let reason = "data follows the end of the archive; expected zeros".to_owned();
                return Err(Error::Header { offset: at, reason });
            }
            let length = rest.len();
            self.pass(length);
        }
    }

    /// The bytes at hand; empty at the input's end.
    fn peek(&mut self) -> Result<&[u8], Error> {
        let failed = loop {
            match self.input.fill_buf() {
                Ok(_) => break None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        let offset = self.offset;
        // What is at hand is given again.
        failed.map_or_else(|| self.input.fill_buf(), Err).map_err(|error| Error::Read { offset, error })
    }

    fn truncated(&self, missing: u64) -> Error {
        let what = match &self.what {
            What::Part(part) => (*part).to_owned(),
            What::Data(path) => format!("{:?}", shown(path)),
        };
        Error::Truncated { offset: self.offset, what, missing }
    }
}
