//! Reads the tar that Penstock, and GNU tar with `--format=posix`, write: ustar blocks and PAX headers.
//!
//! A strict reader of a small language rather than a lenient one of every dialect: it refuses anything it does not
//! know, because a reader that guesses where a member ends restores wrong data. It checks every length before it uses
//! it; memory is at most one PAX header of 1 MiB and one sparse map of 16 MiB.

use std::io::{self, Read};
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
    what: String,
    /// The file offset of the next byte of data, and how many bytes follow it there.
    segment: Segment,
    /// A sparse file's segments, and how many were started.
    map: Option<Arc<[Segment]>>,
    started: usize,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        let (what, segment) = (String::new(), Segment::default());
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
        "a header or the two blocks of zeros at the end".clone_into(&mut self.what);
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
        "a PAX header".clone_into(&mut self.what);
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
        self.what = format!("{:?}", shown(&path));
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

    /// Reads the next bytes of the member's data into the start of `buffer`, which is not empty; returns their file
    /// offset and number. `None` at the data's end.
    ///
    /// # Errors
    /// When the input ends early or cannot be read.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, Error> {
        while self.segment.length == 0 {
            let Some(next) = self.map.as_deref().and_then(|map| map.get(self.started)) else { return Ok(None) };
            self.segment = *next;
            self.started += 1;
        }
        let wanted = usize::try_from(self.segment.length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let length = self.stored(&mut buffer[..wanted])?;
        let offset = self.segment.offset;
        self.segment = Segment { offset: offset + length as u64, length: self.segment.length - length as u64 };
        Ok(Some((offset, length)))
    }

    /// The next stored bytes of the current part; 0 at its end.
    fn stored(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.read(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(self.truncated(self.left));
        }
        self.left -= length as u64;
        Ok(length)
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
        let mut buffer = [0; 4096];
        while self.stored(&mut buffer)? > 0 {}
        self.left = std::mem::take(&mut self.padding);
        while self.stored(&mut buffer)? > 0 {}
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
            match self.stored(&mut buffer[filled..])? {
                // The caller asked for more bytes than the member has.
                0 => return Err(self.truncated((buffer.len() - filled) as u64)),
                length => filled += length,
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let at = self.offset;
        if self.block()?.is_some() {
            return Err(Error::Header { offset: at, reason: "it follows one block of zeros; expected two".to_owned() });
        }
        let mut rest = [0; 8192];
        loop {
            let at = self.offset;
            let length = self.read(&mut rest)?;
            if length == 0 {
                return Ok(());
            }
            if rest[..length].iter().any(|byte| *byte != 0) {
                let reason = "data follows the end of the archive; expected zeros".to_owned();
                return Err(Error::Header { offset: at, reason });
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.input.read(buffer) {
                Ok(length) => {
                    self.offset += length as u64;
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read { offset: self.offset, error }),
            }
        }
    }

    fn truncated(&self, missing: u64) -> Error {
        Error::Truncated { offset: self.offset, what: self.what.clone(), missing }
    }
}
