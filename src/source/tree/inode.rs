//! One inode, opened relative to its directory and without following links: what its header says, and its content.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::header::device_fits;
use super::meta::Meta;
use super::xattr::{self, Attributes};
use crate::format::index::{FileKind, MAX_PATH};

pub(super) const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) enum Content {
    File(OwnedFd),
    Directory,
    Symlink(Vec<u8>),
    /// Another name of the inode that was found at this path.
    HardLink(Vec<u8>),
    Fifo,
    CharDevice,
    BlockDevice,
}

/// Why something is left out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Skip {
    #[error("it is gone: it was removed or renamed before it was read")]
    Vanished,
    #[error("{action}: {error}")]
    Failed { action: &'static str, error: Errno },
    #[error("it is no longer {0}: it was replaced before it was read")]
    Replaced(&'static str),
    #[error("it is a socket, which cannot be stored")]
    Socket,
    #[error("its {0} has {1} bytes; at most {MAX_PATH} can be stored")]
    TooLong(&'static str, usize),
    #[error("it is a device of a number that tar has no room for")]
    DeviceNumber,
    #[error("it is of a type that cannot be stored")]
    Type,
}

pub(super) fn failed(action: &'static str) -> impl Fn(Errno) -> Skip {
    move |error| match error {
        Errno::NOENT => Skip::Vanished,
        error => Skip::Failed { action, error },
    }
}

/// An inode's metadata, attributes and content, and what could not be read of the attributes.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) meta: Meta,
    pub(super) attributes: Attributes,
    pub(super) content: Content,
    pub(super) complaint: Option<String>,
}

/// Opens an inode that was a moment ago what `meta` says, and is no directory.
pub(super) fn read(
    directory: BorrowedFd<'_>,
    name: &CStr,
    meta: Meta,
    xattrs: &mut xattr::Reader,
) -> Result<Inode, Skip> {
    let (meta, content) = match meta.file_type {
        FileType::RegularFile => {
            let fd = open(directory, name, OPEN).map_err(failed("it cannot be opened"))?;
            let meta = Meta::from(fstat(&fd).map_err(failed("it cannot be looked at"))?);
            if meta.file_type != FileType::RegularFile {
                return Err(Skip::Replaced("a regular file"));
            }
            (meta, Content::File(fd))
        }
        FileType::Symlink => {
            let target = readlinkat(directory, name, Vec::new()).map_err(failed("its target cannot be read"))?;
            (meta, Content::Symlink(target.into_bytes()))
        }
        FileType::Fifo => (meta, Content::Fifo),
        FileType::CharacterDevice | FileType::BlockDevice if !device_fits(meta.rdev) => {
            return Err(Skip::DeviceNumber);
        }
        FileType::CharacterDevice => (meta, Content::CharDevice),
        FileType::BlockDevice => (meta, Content::BlockDevice),
        _ => return Err(Skip::Type),
    };
    let (attributes, complaint) = if let Content::File(fd) = &content {
        xattrs.read(xattr::Target::Open(fd.as_fd()))
    } else {
        xattrs.read(xattr::Target::Path(&by_proc(directory, name)))
    };
    Ok(Inode { meta, attributes, content, complaint })
}

/// Opens a directory.
pub(super) fn read_directory(
    directory: BorrowedFd<'_>,
    name: &CStr,
    xattrs: &mut xattr::Reader,
) -> Result<(OwnedFd, Inode), Skip> {
    let fd = match open(directory, name, OPEN.union(OFlags::DIRECTORY)) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Skip::Replaced("a directory")),
        other => other.map_err(failed("it cannot be opened"))?,
    };
    let meta = Meta::from(fstat(&fd).map_err(failed("it cannot be looked at"))?);
    let (attributes, complaint) = xattrs.read(xattr::Target::Open(fd.as_fd()));
    Ok((fd, Inode { meta, attributes, content: Content::Directory, complaint }))
}

/// What an inode that has no name in the stream yet is called there; `None` for what cannot be stored.
pub(super) fn kind(meta: &Meta) -> Option<FileKind> {
    match meta.file_type {
        FileType::RegularFile => Some(FileKind::Regular),
        FileType::Directory => Some(FileKind::Directory),
        FileType::Symlink => Some(FileKind::Symlink),
        FileType::Fifo => Some(FileKind::Fifo),
        FileType::CharacterDevice => Some(FileKind::CharDevice),
        FileType::BlockDevice => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// A path to `name` that is short however deep `directory` lies. (`fgetxattr` does not work on `O_PATH`.)
fn by_proc(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("neither a number nor a CStr's bytes hold a NUL")
}

/// Opens without touching the access time, where the file's owner allows that.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    match openat(directory, name, flags.union(OFlags::NOATIME), Mode::empty()) {
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        other => other,
    }
}
