//! Reads the tar that Penstock, and GNU tar with `--format=posix`, write: ustar blocks and PAX headers.
//!
//! A strict reader of a small language rather than a lenient one of every dialect: what it does not know it refuses,
//! because a reader that guesses where a member ends restores something else than was stored. Every length is checked
//! before it is believed; memory is at most one PAX header of 1 MiB and a sparse map of [`MAX_SEGMENTS`].

use std::ffi::CString;
use std::io::{self, Read};

use super::pax::{Acls, Pax, number};
use super::target::checked;
use super::{Error, refused, shown};
use crate::format::index::FileTime;
use crate::source::tree::header::{BLOCK, MAX_PAX, kind};
use crate::source::tree::sparse::Segment;

/// Sixteen times what Penstock writes; 16 MiB of memory.
const MAX_SEGMENTS: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A member's header. Its path is checked; its link is not.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: Kind,
    /// Components joined by `/`, none of them empty, `.` or `..`; empty is the root.
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: FileTime,
    /// A sparse file's apparent size.
    pub(super) sparse: Option<u64>,
    pub(super) rdev: (u32, u32),
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    pub(super) acls: Acls,
}

pub(super) struct Archive<R> {
    input: R,
    offset: u64,
    /// Data of the current member not yet read, and the padding after it.
    left: u64,
    padding: u64,
    /// What is being read, for a message.
    what: String,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, offset: 0, left: 0, padding: 0, what: String::new() }
    }

    /// The next member, `None` after the end of the archive, behind which there are only zeros.
    pub(super) fn next_member(&mut self) -> Result<Option<Member>, Error> {
        self.skip()?;
        let at = self.offset;
        "a header or the two blocks of zeros at the end".clone_into(&mut self.what);
        let Some(block) = self.block()? else {
            self.end()?;
            return Ok(None);
        };
        let malformed = |reason: String| Error::Header { offset: at, reason };
        let header = Ustar::parse(&block).map_err(malformed)?;
        if header.kind != kind::PAX {
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
        let block = self.block()?.ok_or_else(|| malformed("it is for no member; expected one behind it".to_owned()))?;
        let header = Ustar::parse(&block).map_err(malformed)?;
        if header.kind == kind::PAX {
            return Err(malformed("there are two for one member; expected one".to_owned()));
        }
        self.member(header, pax).map(Some)
    }

    fn member(&mut self, header: Ustar, mut pax: Pax) -> Result<Member, Error> {
        let at = self.offset - BLOCK as u64;
        let malformed = |reason: String| Error::Header { offset: at, reason };
        let sparse = pax.sparse().map_err(malformed)?;
        let (path, sparse) = match sparse {
            Some((path, size)) => (path, Some(size)),
            None => (pax.path.unwrap_or(header.path), None),
        };
        let kind = match header.kind {
            kind::REGULAR => Kind::Regular,
            kind::HARD_LINK => Kind::HardLink,
            kind::SYMLINK => Kind::Symlink,
            kind::CHAR_DEVICE => Kind::CharDevice,
            kind::BLOCK_DEVICE => Kind::BlockDevice,
            kind::DIRECTORY => Kind::Directory,
            kind::FIFO => Kind::Fifo,
            other => {
                let expected = "a file, link, directory, fifo or device as POSIX numbers them";
                return Err(refused(&path, format!("its type is {:?}; expected {expected}", char::from(other))));
            }
        };
        let size = pax.size.unwrap_or(header.size);
        if kind != Kind::Regular && (size > 0 || sparse.is_some()) {
            return Err(refused(&path, format!("it has {size} bytes of data; only a regular file has any")));
        }
        if kind != Kind::Directory && path.ends_with(b"/") {
            return Err(refused(&path, "its name ends with a slash; only a directory's does"));
        }
        self.what = format!("{:?}", shown(&path));
        self.expect(size);
        Ok(Member {
            kind,
            path: checked(&path)?,
            link: pax.link.unwrap_or(header.link),
            mode: header.mode,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or(FileTime { seconds: header.mtime, nanoseconds: 0 }),
            sparse,
            rdev: header.rdev,
            xattrs: pax.xattrs,
            acls: pax.acls,
        })
    }

    /// The next bytes of the member's data; 0 is its end.
    pub(super) fn data(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
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

    /// Reads the map that a sparse file's data starts with, and checks it against the file and the data behind it.
    pub(super) fn sparse_map(&mut self, member: &Member, size: u64) -> Result<Vec<Segment>, Error> {
        let lies = |reason: String| refused(&member.path, format!("its sparse map {reason}"));
        let mut map = Lines { block: [0; BLOCK], position: BLOCK };
        let count = map.number(self).map_err(|error| error.or(lies))?;
        if count > MAX_SEGMENTS {
            return Err(lies(format!("has {count} segments; expected at most {MAX_SEGMENTS}")));
        }
        let mut segments = Vec::new();
        let (mut end, mut sum, mut aligned) = (0, 0_u64, true);
        for _ in 0..count {
            let offset = map.number(self).map_err(|error| error.or(lies))?;
            let length = map.number(self).map_err(|error| error.or(lies))?;
            let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
            let Some(next) = next else {
                return Err(lies(format!("has {length} bytes at {offset}; expected {end} to {size}, in order")));
            };
            if !aligned && length > 0 {
                return Err(lies("has a segment of broken blocks; expected that of the last one only".to_owned()));
            }
            aligned &= length % BLOCK as u64 == 0;
            (end, sum) = (next, sum + length);
            segments.push(Segment { offset, length });
        }
        if sum != self.left {
            return Err(lies(format!("has {sum} bytes of data; expected the {} that there are", self.left)));
        }
        Ok(segments)
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// Reads what is left of the current member.
    fn skip(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        while self.data(&mut buffer)? > 0 {}
        self.left = std::mem::take(&mut self.padding);
        while self.data(&mut buffer)? > 0 {}
        Ok(())
    }

    /// One header block; `None` for zeros.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        self.left = BLOCK as u64;
        self.exact(&mut block)?;
        Ok(Some(block).filter(|block| block.iter().any(|byte| *byte != 0)))
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.data(&mut buffer[filled..])? {
                // The caller asked for more than the member has.
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
                let reason = "there is something behind the end of the archive; expected zeros".to_owned();
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

/// The lines of a sparse map, block by block.
struct Lines {
    block: [u8; BLOCK],
    position: usize,
}

enum LineError {
    Archive(Error),
    Map(String),
}

impl LineError {
    fn or(self, lies: impl FnOnce(String) -> Error) -> Error {
        match self {
            Self::Archive(error) => error,
            Self::Map(reason) => lies(reason),
        }
    }
}

impl Lines {
    fn number<R: Read>(&mut self, archive: &mut Archive<R>) -> Result<u64, LineError> {
        let mut digits = Vec::new();
        loop {
            if self.position == BLOCK {
                if archive.left < BLOCK as u64 {
                    return Err(LineError::Map("ends early; expected whole blocks before the data".to_owned()));
                }
                archive.exact(&mut self.block).map_err(LineError::Archive)?;
                self.position = 0;
            }
            let byte = self.block[self.position];
            self.position += 1;
            if byte == b'\n' {
                return number(&digits).map_err(|reason| LineError::Map(format!("has a line that {reason}")));
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(LineError::Map("has a line of over 20 digits; expected numbers".to_owned()));
            }
        }
    }
}

/// One ustar block.
struct Ustar {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    rdev: (u32, u32),
}

impl Ustar {
    fn parse(block: &[u8; BLOCK]) -> Result<Self, String> {
        if &block[257..265] != b"ustar\x0000" {
            return Err("it is not a POSIX header; expected \"ustar\" and version 00".to_owned());
        }
        let sum =
            block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) });
        let (sum, expected) = (sum.sum::<u64>(), octal(&block[148..156])?);
        if sum != expected {
            return Err(format!("its checksum is {sum}; expected {expected}"));
        }
        let small =
            |field: &[u8]| octal(field).and_then(|value| u32::try_from(value).map_err(|error| error.to_string()));
        let (name, prefix) = (string(&block[..100]), string(&block[345..500]));
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        Ok(Self {
            kind: block[156],
            path,
            link: string(&block[157..257]).to_vec(),
            mode: small(&block[100..108])? & 0o7777,
            uid: small(&block[108..116])?,
            gid: small(&block[116..124])?,
            size: octal(&block[124..136])?,
            mtime: i64::try_from(octal(&block[136..148])?).map_err(|error| error.to_string())?,
            rdev: (small(&block[329..337])?, small(&block[337..345])?),
        })
    }
}

/// A field up to its first NUL.
fn string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, ended by NUL or space, or none at all for 0. No sign, and no base 256: numbers too large for the
/// field stand in PAX records.
fn octal(field: &[u8]) -> Result<u64, String> {
    let end = field.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |last| last + 1);
    field[..end].iter().try_fold(0_u64, |value, byte| match byte {
        // Twelve digits at most: 36 bits.
        b'0'..=b'7' => Ok(value * 8 + u64::from(byte - b'0')),
        _ => Err(format!("a number in it is {:?}; expected octal digits", shown(field))),
    })
}
