//! One inode, opened relative to its directory and without following links: what its header says, and its content.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, fstat, readlinkat, statat};
use rustix::io::{Errno, retry_on_intr};

use super::meta::Meta;
use crate::format::index::MAX_PATH;
use crate::source::announced;
use crate::source::open::{self, Patience, Refusal};
use crate::tar::device_fits;
use crate::tar::xattr::{self, Attributes};

pub(super) const OPEN: OFlags = open::OPEN.union(OFlags::NOFOLLOW);

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
    #[error("it cannot be opened: {0}")]
    Refused(Refusal),
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
    #[error("it is a window to all of the machine's memory, which is no content")]
    Memory,
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

/// What reading inodes takes.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) xattrs: xattr::Reader,
    pub(super) patience: Patience,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { xattrs: xattr::Reader::default(), patience: Patience::default() }
    }

    /// What is at `name`, without following it.
    pub(super) fn look(directory: BorrowedFd<'_>, name: &CStr) -> Result<Meta, Skip> {
        let stat = retry_on_intr(|| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW));
        Ok(Meta::from(stat.map_err(failed("it cannot be looked at"))?))
    }

    /// Opens an inode that was a moment ago what `meta` says, and is no directory.
    pub(super) fn read(&mut self, directory: BorrowedFd<'_>, name: &CStr, meta: Meta) -> Result<Inode, Skip> {
        let (meta, content) = match meta.file_type {
            FileType::RegularFile => self.open_file(directory, name)?,
            FileType::Symlink => {
                let target = retry_on_intr(|| readlinkat(directory, name, Vec::new()));
                (meta, Content::Symlink(target.map_err(failed("its target cannot be read"))?.into_bytes()))
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
            self.xattrs.read(xattr::Target::Open(fd.as_fd()))
        } else {
            self.xattrs.read(xattr::Target::Name(directory, name))
        };
        Ok(Inode { meta, attributes, content, complaint })
    }

    fn open_file(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(Meta, Content), Skip> {
        let fd = self.patience.open(|| open::open(directory, name, OPEN)).map_err(refused)?;
        let meta = Meta::from(fstat(&fd).map_err(failed("it cannot be looked at"))?);
        if meta.file_type != FileType::RegularFile {
            return Err(Skip::Replaced("a regular file"));
        }
        if announced::is_memory(fd.as_fd(), &meta) {
            return Err(Skip::Memory);
        }
        Ok((meta, Content::File(fd)))
    }

    /// Opens a directory.
    pub(super) fn read_directory(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, Inode), Skip> {
        let flags = OPEN.union(OFlags::DIRECTORY);
        let fd = self.patience.open(|| open::open(directory, name, flags)).map_err(|refusal| match refusal.error {
            Errno::NOTDIR | Errno::LOOP => Skip::Replaced("a directory"),
            _ => refused(refusal),
        })?;
        let meta = Meta::from(fstat(&fd).map_err(failed("it cannot be looked at"))?);
        let (attributes, complaint) = self.xattrs.read(xattr::Target::Open(fd.as_fd()));
        Ok((fd, Inode { meta, attributes, content: Content::Directory, complaint }))
    }
}

fn refused(refusal: Refusal) -> Skip {
    if refusal.error == Errno::NOENT { Skip::Vanished } else { Skip::Refused(refusal) }
}

/// Whether a regular file of 0 bytes has none: what the kernel makes up has content, and keeps its times when that changes.
pub(super) fn is_empty(directory: BorrowedFd<'_>, name: &CStr) -> bool {
    open::open(directory, name, OPEN).is_ok_and(|fd| announced::is_empty(fd.as_fd()))
}
