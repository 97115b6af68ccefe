//! A tree's inodes, depth first and in the order of their names' bytes.
//!
//! Everything is opened relative to its directory's descriptor and without following links, so neither the depth of a
//! tree, nor the length of its paths, nor whoever renames things in it meanwhile leads anywhere else. Memory holds the
//! names not yet visited of each directory on the way down, and one path for each inode that has several names, until
//! all of them were seen. At most [`OPEN_LEVELS`] directories are open: those further up are closed and found again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{Candidate, GlobSet};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::Pending;
use super::header::device_fits;
use super::meta::Meta;
use super::xattr::Attributes;
use super::{acl, xattr};
use crate::format::index::MAX_PATH;

/// A process may have 1024 files open by default, and several trees are read at once.
const OPEN_LEVELS: usize = 32;

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// One inode, ready to become a member.
#[derive(Debug)]
pub(super) struct Found {
    /// Relative to the root, which is `.`.
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) attributes: Attributes,
    pub(super) content: Content,
}

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
enum Skip {
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

fn failed(action: &'static str) -> impl Fn(Errno) -> Skip {
    move |error| match error {
        Errno::NOENT => Skip::Vanished,
        error => Skip::Failed { action, error },
    }
}

struct FirstName {
    path: Vec<u8>,
    /// How many names of the inode have not been seen.
    left: u64,
}

/// A directory on the way down.
struct Level {
    /// Closed while too many others are open.
    fd: Option<OwnedFd>,
    id: (u64, u64),
    /// Not yet visited, the next one last.
    names: Vec<CString>,
    /// How much of the walk's path is this directory's.
    path_length: usize,
    /// What is made in it inherits an ACL.
    bequeaths: bool,
}

pub(super) struct Walk {
    root: PathBuf,
    exclude: GlobSet,
    /// Directories of other devices are not entered.
    only_device: Option<u64>,
    levels: Vec<Level>,
    path: Vec<u8>,
    links: HashMap<(u64, u64), FirstName>,
    xattrs: xattr::Reader,
    names: Box<[MaybeUninit<u8>]>,
    first: Option<Found>,
}

impl Walk {
    /// Starts at a root that is open, a directory.
    pub(super) fn new(
        root: &Path,
        fd: OwnedFd,
        exclude: GlobSet,
        one_file_system: bool,
        warnings: &mut Pending,
    ) -> Result<Self, Errno> {
        let meta = Meta::from(fstat(&fd)?);
        let mut walk = Self {
            root: root.to_owned(),
            exclude,
            only_device: one_file_system.then_some(meta.device),
            levels: Vec::new(),
            path: Vec::new(),
            links: HashMap::new(),
            xattrs: xattr::Reader::new(),
            names: vec![MaybeUninit::uninit(); 32 << 10].into_boxed_slice(),
            first: None,
        };
        let attributes = walk.attributes(xattr::Target::Open(fd.as_fd()), warnings);
        let bequeaths = attributes.default_acl.is_some();
        walk.first = Some(Found { path: b".".to_vec(), meta, attributes, content: Content::Directory });
        walk.enter(fd, &meta, bequeaths, warnings);
        Ok(walk)
    }

    /// Where a path of the walk is on this machine.
    pub(super) fn full(&self, path: &[u8]) -> PathBuf {
        if path == b"." || path.is_empty() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path)) }
    }

    /// The next inode that can be stored; `None` is the end.
    pub(super) fn next(&mut self, warnings: &mut Pending) -> Option<Found> {
        if let Some(root) = self.first.take() {
            return Some(root);
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.pop() else {
                self.leave(warnings);
                continue;
            };
            self.path.truncate(level.path_length);
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            if self.exclude.is_match_candidate(&Candidate::from_bytes(&self.path)) {
                continue;
            }
            match self.visit(&name, warnings) {
                Ok(found) => return Some(found),
                Err(skip) => warnings.push(self.full(&self.path), skip.to_string()),
            }
        }
    }

    fn visit(&mut self, name: &CStr, warnings: &mut Pending) -> Result<Found, Skip> {
        if self.path.len() > MAX_PATH {
            return Err(Skip::TooLong("path", self.path.len()));
        }
        let meta = Meta::from(
            statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("it cannot be looked at"))?,
        );
        match meta.file_type {
            FileType::Directory => return self.directory(name, warnings),
            FileType::Socket => return Err(Skip::Socket),
            _ => {}
        }
        if let Some(found) = self.known(&meta) {
            return Ok(found);
        }
        let parent = self.parent();
        let (meta, content) = match meta.file_type {
            FileType::RegularFile => {
                let fd = open(parent, name, OPEN).map_err(failed("it cannot be opened"))?;
                let meta = Meta::from(fstat(&fd).map_err(failed("it cannot be looked at"))?);
                if meta.file_type != FileType::RegularFile {
                    return Err(Skip::Replaced("a regular file"));
                }
                (meta, Content::File(fd))
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(failed("its target cannot be read"))?;
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
        let mut attributes = if let Content::File(fd) = &content {
            self.attributes(xattr::Target::Open(fd.as_fd()), warnings)
        } else {
            let path = by_proc(parent, name);
            self.attributes(xattr::Target::Path(&path), warnings)
        };
        if !matches!(content, Content::Symlink(_)) {
            self.disinherit(&meta, &mut attributes);
        }
        self.remember(&meta);
        Ok(Found { path: self.path.clone(), meta, attributes, content })
    }

    fn directory(&mut self, name: &CStr, warnings: &mut Pending) -> Result<Found, Skip> {
        let fd = match open(self.parent(), name, OPEN.union(OFlags::DIRECTORY)) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Skip::Replaced("a directory")),
            other => other.map_err(failed("it cannot be opened"))?,
        };
        let meta = Meta::from(fstat(&fd).map_err(failed("it cannot be looked at"))?);
        let mut attributes = self.attributes(xattr::Target::Open(fd.as_fd()), warnings);
        self.disinherit(&meta, &mut attributes);
        if self.only_device.is_none_or(|device| device == meta.device) {
            self.enter(fd, &meta, attributes.default_acl.is_some(), warnings);
        }
        Ok(Found { path: self.path.clone(), meta, attributes, content: Content::Directory })
    }

    fn attributes(&mut self, target: xattr::Target<'_>, warnings: &mut Pending) -> Attributes {
        let (attributes, complaint) = self.xattrs.read(target);
        if let Some(complaint) = complaint {
            warnings.push(self.full(&self.path), complaint);
        }
        attributes
    }

    /// Says in so many words that a member has no ACL but its mode, where it would otherwise get one from its directory:
    /// GNU tar restores a directory's default ACL before what is in it.
    fn disinherit(&self, meta: &Meta, attributes: &mut Attributes) {
        if attributes.access_acl.is_none() && self.levels.last().is_some_and(|level| level.bequeaths) {
            attributes.access_acl = Some(acl::of_mode(meta.mode));
        }
    }

    /// The member for one more name of an inode that is in the stream already.
    fn known(&mut self, meta: &Meta) -> Option<Found> {
        if meta.links < 2 {
            return None;
        }
        let Entry::Occupied(mut first) = self.links.entry(meta.id()) else { return None };
        first.get_mut().left -= 1;
        let first = if first.get().left == 0 { first.remove().path } else { first.get().path.clone() };
        let content = Content::HardLink(first);
        Some(Found { path: self.path.clone(), meta: *meta, attributes: Attributes::default(), content })
    }

    fn remember(&mut self, meta: &Meta) {
        if meta.links > 1 {
            self.links.insert(meta.id(), FirstName { path: self.path.clone(), left: meta.links - 1 });
        }
    }

    fn parent(&self) -> BorrowedFd<'_> {
        let level = self.levels.last().and_then(|level| level.fd.as_ref());
        level.expect("the innermost level with names left is open: `leave` sees to it").as_fd()
    }

    fn enter(&mut self, fd: OwnedFd, meta: &Meta, bequeaths: bool, warnings: &mut Pending) {
        let (names, error) = list(&fd, &mut self.names);
        if let Some(error) = error {
            warnings.push(self.full(&self.path), format!("its names cannot all be listed: {error}"));
        }
        self.levels.push(Level { fd: Some(fd), id: meta.id(), names, path_length: self.path.len(), bequeaths });
        // The root stays open: it is where everything else is found again from.
        if let Some(outer) = self.levels.len().checked_sub(OPEN_LEVELS + 1).filter(|outer| *outer > 0) {
            self.levels[outer].fd = None;
        }
    }

    /// Goes back up, and opens the directory there again if it had to be closed.
    fn leave(&mut self, warnings: &mut Pending) {
        let Some(inner) = self.levels.pop() else { return };
        let Some(outer) = self.levels.last() else { return };
        if outer.fd.is_some() {
            return;
        }
        self.path.truncate(outer.path_length);
        let id = outer.id;
        let is_it = |fd: &OwnedFd| fstat(fd).is_ok_and(|stat| Meta::from(stat).id() == id);
        let up = inner.fd.and_then(|fd| open(fd.as_fd(), c"..", OPEN.union(OFlags::DIRECTORY)).ok());
        let again = up.filter(is_it).or_else(|| self.find_again().ok().filter(is_it));
        let path = self.full(&self.path);
        let Some(outer) = self.levels.last_mut() else { return };
        if again.is_none() && !outer.names.is_empty() {
            let left = outer.names.len();
            warnings.push(path, format!("it was moved while it was read: {left} of its entries are left out"));
            outer.names.clear();
        }
        outer.fd = again;
    }

    /// Opens the directory at the walk's path, from the root.
    fn find_again(&self) -> Result<OwnedFd, Errno> {
        let root = self.levels.first().and_then(|level| level.fd.as_ref()).ok_or(Errno::NOENT)?;
        let mut components = self.path.split(|byte| *byte == b'/');
        let flags = OPEN.union(OFlags::DIRECTORY);
        let mut fd = open(root.as_fd(), components.next().unwrap_or_default(), flags)?;
        for component in components {
            fd = open(fd.as_fd(), component, flags)?;
        }
        Ok(fd)
    }
}

/// A path to `name` that is short however deep `directory` lies. (`fgetxattr` does not work on `O_PATH`.)
fn by_proc(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("neither a number nor a CStr's bytes hold a NUL")
}

/// Opens without touching the access time, where the file's owner allows that.
fn open(directory: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy, flags: OFlags) -> Result<OwnedFd, Errno> {
    match openat(directory, name, flags.union(OFlags::NOATIME), Mode::empty()) {
        Err(Errno::PERM) => openat(directory, name, flags, Mode::empty()),
        other => other,
    }
}

/// A directory's names, the last one first, and why they may not be all.
fn list(fd: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> (Vec<CString>, Option<Errno>) {
    let mut names = Vec::new();
    let mut error = None;
    let mut entries = RawDir::new(fd, buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Ok(entry) => names.push(entry.file_name().to_owned()),
            Err(Errno::INTR) => {}
            Err(failure) => {
                error = Some(failure);
                break;
            }
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    (names, error)
}
