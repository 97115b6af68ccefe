//! POSIX pax archives: the codec for stored trees, used by backups and restores.
//!
//! A member is a ustar block ([`ustar`]), preceded by a PAX extended header for attributes that do not fit ustar
//! ([`pax`]), and followed by the data, which starts with a map if the file is sparse ([`sparse`]). Two blocks of zeros
//! end an archive. Names are raw bytes, as GNU tar writes them.
//!
//! # What it promises
//! [`Reader`] reads back exactly what [`Member::encode`] writes. A member's bytes depend only on the member, so an
//! unchanged file has unchanged bytes. They are the same in every release, because backups deduplicate against those of
//! older releases. The reader trusts nothing and reports where a member is wrong; the caller must check whether a
//! member's path is safe to write to.

pub mod acl;
mod pax;
mod read;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod ustar;
pub mod xattr;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use rustix::fs::FileType;

pub use self::read::Reader;
pub use self::sparse::Segment;
pub use self::ustar::device_fits;
use self::ustar::{PAX, Ustar};
use self::xattr::Attributes;
use crate::format::index::{FileKind, FileTime};

/// The length of everything in an archive is a multiple of this.
pub const BLOCK: usize = 512;

/// The end of an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The reader refuses a longer PAX header before it reads it: two paths of 64 KiB and 768 KiB of attributes fit.
const MAX_PAX: usize = 1 << 20;

/// One member of an archive, without its data. By default a regular file of root's, of mode 0 and time 0, without data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    pub kind: FileKind,
    /// Any bytes but NUL, with no slash at the end. (In the archive a directory's path ends with one.)
    pub path: Vec<u8>,
    /// Target of a symbolic link, or path in the archive of a hard link's first name.
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: FileTime,
    /// Apparent size of a regular file, holes included; 0 for any other kind.
    pub size: u64,
    /// The data segments of a regular file with holes, in order. `None`: the file has no holes.
    pub map: Option<Arc<[Segment]>>,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
    pub attributes: Attributes,
}

/// The kind of an inode's first name in an archive; `None` for a type that cannot be stored.
#[must_use]
pub const fn kind_of(file_type: FileType) -> Option<FileKind> {
    match file_type {
        FileType::RegularFile => Some(FileKind::Regular),
        FileType::Directory => Some(FileKind::Directory),
        FileType::Symlink => Some(FileKind::Symlink),
        FileType::Fifo => Some(FileKind::Fifo),
        FileType::CharacterDevice => Some(FileKind::CharDevice),
        FileType::BlockDevice => Some(FileKind::BlockDevice),
        FileType::Socket | FileType::Unknown => None,
    }
}

/// How many bytes a member has in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Header blocks.
    pub headers: u64,
    /// A sparse file's map and the data, without the padding to a whole block.
    pub content: u64,
}

impl Member {
    /// Appends the headers, and a sparse file's map, to `out`. The data follows, then zeros to a whole block.
    pub fn encode(&self, out: &mut Vec<u8>) -> Layout {
        let start = out.len();
        let path = match self.kind {
            FileKind::Directory => Cow::Owned([&self.path, &b"/"[..]].concat()),
            _ => Cow::Borrowed(&self.path[..]),
        };
        let map = self.map.as_deref().map(sparse::encode);
        let data = self.map.as_deref().map_or(self.size, |map| map.iter().map(|segment| segment.length).sum());
        let content = map.as_ref().map_or(0, Vec::len) as u64 + data;
        let records = pax::encode(self, &path, content);
        if !records.is_empty() {
            let path = Cow::Owned([b"PaxHeaders/", &self.path[..]].concat());
            Ustar { flag: PAX, path, mode: 0o644, size: records.len() as u64, ..Ustar::default() }.encode(out);
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        Ustar {
            flag: ustar::flag(self.kind),
            path: if map.is_some() { Cow::Owned(sparse::stand_in(&self.path)) } else { path },
            link: &self.link,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime.seconds,
            size: content,
            rdev: self.rdev,
        }
        .encode(out);
        let headers = (out.len() - start) as u64;
        out.extend(map.into_iter().flatten());
        Layout { headers, content }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not read the archive at byte {offset}: {error}")]
    Read {
        offset: u64,
        #[source]
        error: io::Error,
    },
    #[error("the archive ends at byte {offset}, within {what}; expected {missing} more bytes")]
    Truncated { offset: u64, what: String, missing: u64 },
    #[error("the archive's header at byte {offset}: {reason}")]
    Header { offset: u64, reason: String },
    #[error("the archive's member {path:?} is refused: {reason}")]
    Refused { path: String, reason: String },
}

impl Error {
    /// A member that the reader or its caller does not accept.
    pub fn refused(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Refused { path: shown(path), reason: reason.into() }
    }
}

/// A path in lossy UTF-8. Print it with `{:?}`, which escapes control characters that could corrupt a terminal or a log.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
