//! Walks a tree's inodes, depth first and in the order of their names' bytes.
//!
//! Everything is opened relative to its directory's descriptor and without following links, so deep trees, long paths and renames
//! during the walk cannot lead out of the tree. Memory holds the names not yet visited in each directory on the current path, and
//! one path for each inode that has several names ([`links`]), until the walk has met them all. At most [`OPEN_LEVELS`]
//! directories are open: outer ones are closed and opened again.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{Candidate, GlobSet};
use rustix::fs::{FileType, OFlags, RawDir, fstat, readlinkat};
use rustix::io::{Errno, retry_on_intr};
use tokio_util::sync::CancellationToken;

use super::Pending;
use super::inode::{self, Content, Inode, OPEN, Reader, Skip, failed};
use super::links::{self, Links};
use super::meta::Meta;
use super::mount;
use super::runs::Held;
use super::unchanged::Comparison;
use crate::format::index::{FileKind, MAX_PATH};
use crate::source::open::open;
use crate::tar::xattr::{self, Attributes};
use crate::tar::{self, acl};

/// A process may have 1024 files open by default, and several trees are read at once.
const OPEN_LEVELS: usize = 32;

/// One inode, ready to become a member.
#[derive(Debug)]
pub(super) struct Found {
    /// Relative to the root, which is `.`.
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) attributes: Attributes,
    pub(super) content: Content,
}

/// A result of the walk.
#[derive(Debug)]
pub(super) enum Step {
    Found(Found),
    /// As in the parent backup, and not opened.
    Unchanged(Held),
}

/// A directory on the current path.
struct Level {
    /// `None` while too many others are open.
    fd: Option<OwnedFd>,
    id: (u64, u64),
    /// Not yet visited, the next one last.
    names: Vec<CString>,
    /// The length of this directory's part of the walk's path.
    path_length: usize,
    bequest: Bequest,
}

/// Whether new members of a directory inherit an ACL: then each member's header states the ACL that it has instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bequest {
    /// If the parent's directory had a default ACL, an old header at worst states an ACL equal to the mode.
    None,
    /// The same as in the parent, so the headers of unchanged members are the same.
    Unchanged,
    New,
}

pub(super) struct Walk {
    root: PathBuf,
    exclude: GlobSet,
    /// The root's device, if directories on other file systems are not entered.
    only_device: Option<u64>,
    not_entered: Vec<PathBuf>,
    levels: Vec<Level>,
    path: Vec<u8>,
    links: Links,
    reader: Reader,
    names: Box<[MaybeUninit<u8>]>,
    /// The root, until it is yielded.
    first: Option<Step>,
    /// Why the root could not be listed.
    unlisted_root: Option<Errno>,
    comparison: Option<Comparison>,
    /// The last directory that [`Walk::find_inode`] opened.
    again: Option<(Vec<u8>, OwnedFd)>,
}

impl Walk {
    /// Starts at an open root directory.
    pub(super) fn new(
        root: &Path,
        fd: OwnedFd,
        exclude: GlobSet,
        one_file_system: bool,
        comparison: Option<Comparison>,
        warnings: &mut Pending,
    ) -> Result<Self, Errno> {
        let meta = Meta::from(fstat(&fd)?);
        let mut walk = Self {
            root: root.to_owned(),
            exclude,
            only_device: one_file_system.then_some(meta.device),
            not_entered: Vec::new(),
            levels: Vec::new(),
            path: b".".to_vec(),
            links: Links::default(),
            reader: Reader::new(),
            names: vec![MaybeUninit::uninit(); 32 << 10].into_boxed_slice(),
            first: None,
            unlisted_root: None,
            comparison,
            again: None,
        };
        let (attributes, complaint) = walk.reader.xattrs.read(xattr::Target::Open(fd.as_fd()));
        let inode = Inode { meta, attributes, content: Content::Directory, complaint };
        let root = walk.directory(fd, inode, warnings);
        // A root that cannot be listed is not an empty one.
        if let Some(error) = walk.unlisted_root.take() {
            return Err(error);
        }
        walk.first = Some(root);
        Ok(walk)
    }

    pub(super) fn stopped_by(&mut self, stop: CancellationToken) {
        self.reader.patience.stopped_by(stop);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.reader.patience.is_cancelled()
    }

    /// The path on this machine.
    pub(super) fn full(&self, path: &[u8]) -> PathBuf {
        if path == b"." || path.is_empty() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path)) }
    }

    /// The next inode that can be stored; `None` at the end, or when stopped.
    pub(super) fn next(&mut self, warnings: &mut Pending) -> Option<Step> {
        if let Some(root) = self.first.take() {
            return Some(root);
        }
        loop {
            // What is left may be nothing but files that cannot be looked at.
            if self.is_stopped() {
                return None;
            }
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.pop() else {
                // The root stays open for members that are read again after the walk.
                if self.levels.len() == 1 {
                    return None;
                }
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
                Ok(step) => return Some(step),
                Err(Skip::Socket) => {
                    tracing::info!(path = %self.full(&self.path).display(), "left out a socket: it has no content, and its program makes it again");
                }
                Err(skip) => warnings.push(self.full(&self.path), skip.to_string()),
            }
        }
    }

    fn visit(&mut self, name: &CStr, warnings: &mut Pending) -> Result<Step, Skip> {
        if self.path.len() > MAX_PATH {
            return Err(Skip::TooLong("path", self.path.len()));
        }
        let meta = Reader::look(self.parent(), name)?;
        match meta.file_type {
            FileType::Directory => {
                let (fd, inode) = self.reader.read_directory(open_directory(&self.levels), name)?;
                return Ok(self.directory(fd, inode, warnings));
            }
            FileType::Socket => return Err(Skip::Socket),
            _ => {}
        }
        let first_name = self.links.first_name(&meta);
        let (kind, link) = match &first_name {
            Some(first) => (Some(FileKind::HardLink), &first[..]),
            None => (tar::kind_of(meta.file_type), &b""[..]),
        };
        let mut unchanged = kind.and_then(|kind| self.unchanged(kind, link, &meta));
        if let Some(first) = first_name {
            let (attributes, content) = (Attributes::default(), Content::HardLink(first));
            let found = Found { path: self.path.clone(), meta, attributes, content };
            return Ok(unchanged.map_or(Step::Found(found), Step::Unchanged));
        }
        if kind == Some(FileKind::Regular) && meta.size == 0 {
            unchanged = unchanged.filter(|_| inode::is_empty(self.parent(), name));
        }
        if kind == Some(FileKind::Symlink) {
            unchanged = unchanged.and_then(|held| self.with_target(held, name));
        }
        if let Some(held) = unchanged {
            self.links.remember(&self.path, &meta);
            return Ok(Step::Unchanged(held));
        }
        let mut inode = self.reader.read(open_directory(&self.levels), name, meta)?;
        self.complain(inode.complaint.take(), warnings);
        disinherit(self.inherits(), &mut inode);
        self.links.remember(&self.path, &inode.meta);
        Ok(Step::Found(Found::new(self.path.clone(), inode)))
    }

    /// The directory at the walk's path. Its content comes next, unless it is on another file system than the root.
    fn directory(&mut self, fd: OwnedFd, mut inode: Inode, warnings: &mut Pending) -> Step {
        self.complain(inode.complaint.take(), warnings);
        disinherit(self.inherits(), &mut inode);
        let meta = inode.meta;
        let unchanged = self.unchanged(FileKind::Directory, b"", &meta);
        let bequest = match (&inode.attributes.default_acl, &unchanged) {
            (None, _) => Bequest::None,
            (Some(_), Some(_)) => Bequest::Unchanged,
            (Some(_), None) => Bequest::New,
        };
        let step = unchanged.map_or_else(|| Step::Found(Found::new(self.path.clone(), inode)), Step::Unchanged);
        if self.belongs(fd.as_fd(), &meta) {
            self.enter(fd, &meta, bequest, warnings);
        } else {
            self.not_entered.push(self.full(&self.path));
        }
        step
    }

    /// Whether a directory in the current one is on a file system that is entered.
    fn belongs(&self, fd: BorrowedFd<'_>, meta: &Meta) -> bool {
        let (Some(device), Some(outer)) = (self.only_device, self.levels.last()) else { return true };
        mount::belongs(meta.device, device, outer.id.0, || mount::is_one(fd, self.parent()))
    }

    pub(super) fn take_not_entered(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.not_entered)
    }

    /// Whether a member is a link to a first name that is lost.
    pub(super) fn links_to_lost(&self, held: &Held) -> bool {
        held.entry.kind == FileKind::HardLink && self.links.is_lost(&held.entry.link)
    }

    /// Checks the last member after the waiting ones before it were read again: reads it too if it is a link to a lost first name.
    pub(super) fn settle(&mut self, found: Found, warnings: &mut Pending) -> Option<Found> {
        match &found.content {
            Content::HardLink(first) if self.links.is_lost(first) => {
                let again = self.find_inode(&found.path, &found.meta, self.inherits());
                self.sort_out(&found.path, again, warnings)
            }
            _ => Some(found),
        }
    }

    /// Reads a member after all that was passed over as unchanged; warns if it is missing.
    pub(super) fn read_again(&mut self, held: Held, warnings: &mut Pending) -> Option<Found> {
        let lost = self.links_to_lost(&held);
        let Held { entry, meta, inherits } = held;
        if entry.kind == FileKind::HardLink && !lost {
            let (attributes, content) = (Attributes::default(), Content::HardLink(entry.link));
            return Some(Found { path: entry.path, meta, attributes, content });
        }
        let again = self.find_inode(&entry.path, &meta, inherits);
        if entry.kind != FileKind::HardLink && again.as_ref().map_or(true, |inode| !links::same(&inode.meta, &meta)) {
            self.links.lose(&entry.path, &meta);
        }
        self.sort_out(&entry.path, again, warnings)
    }

    fn sort_out(&self, path: &[u8], again: Result<Inode, Skip>, warnings: &mut Pending) -> Option<Found> {
        match again {
            Ok(mut inode) => {
                if let Some(complaint) = inode.complaint.take() {
                    warnings.push(self.full(path), complaint);
                }
                Some(Found::new(path.to_vec(), inode))
            }
            Err(skip) => {
                warnings.push(self.full(path), skip.to_string());
                None
            }
        }
    }

    /// Opens a path that the walk has passed, if its type is still the same.
    fn find_inode(&mut self, path: &[u8], meta: &Meta, inherits: bool) -> Result<Inode, Skip> {
        let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], path),
        };
        let name = CString::new(name).map_err(|_| Skip::Vanished)?;
        if self.again.as_ref().is_none_or(|(path, _)| path != directory) {
            let fd = self.find_again(directory).map_err(failed("reopen its directory"))?;
            self.again = Some((directory.to_vec(), fd));
        }
        let (_, fd) = self.again.as_ref().expect("set just above");
        let mut inode = if meta.file_type == FileType::Directory {
            self.reader.read_directory(fd.as_fd(), &name)?.1
        } else {
            let now = Reader::look(fd.as_fd(), &name)?;
            if now.file_type != meta.file_type {
                return Err(Skip::Replaced("what it was"));
            }
            self.reader.read(fd.as_fd(), &name, now)?
        };
        disinherit(inherits, &mut inode);
        Ok(inode)
    }

    /// The entry at the walk's path, if it is as in the parent.
    fn unchanged(&mut self, kind: FileKind, link: &[u8], meta: &Meta) -> Option<Held> {
        if self.levels.last().is_some_and(|level| level.bequest == Bequest::New) {
            return None;
        }
        let entry = self.comparison.as_mut()?.unchanged(&self.path, kind, link, meta)?;
        Some(Held { entry, meta: *meta, inherits: self.inherits() })
    }

    /// Reads where an unchanged link leads, if the parent does not say.
    fn with_target(&self, mut held: Held, name: &CStr) -> Option<Held> {
        if held.entry.link.is_empty() {
            let target = retry_on_intr(|| readlinkat(self.parent(), name, Vec::new())).ok()?;
            held.entry.link = target.into_bytes();
        }
        Some(held)
    }

    fn complain(&self, complaint: Option<String>, warnings: &mut Pending) {
        if let Some(complaint) = complaint {
            warnings.push(self.full(&self.path), complaint);
        }
    }

    fn inherits(&self) -> bool {
        self.levels.last().is_some_and(|level| level.bequest != Bequest::None)
    }

    fn parent(&self) -> BorrowedFd<'_> {
        open_directory(&self.levels)
    }

    fn enter(&mut self, fd: OwnedFd, meta: &Meta, bequest: Bequest, warnings: &mut Pending) {
        let (names, error) = list(&fd, &mut self.names);
        match error {
            Some(error) if self.levels.is_empty() && names.is_empty() => self.unlisted_root = Some(error),
            Some(error) => warnings.push(self.full(&self.path), format!("could not list all of its names: {error}")),
            None => {}
        }
        // Paths do not begin with the root's.
        let path_length = if self.levels.is_empty() { 0 } else { self.path.len() };
        self.levels.push(Level { fd: Some(fd), id: meta.id(), names, path_length, bequest });
        // The root stays open: closed directories are opened again from there.
        if let Some(outer) = self.levels.len().checked_sub(OPEN_LEVELS + 1).filter(|outer| *outer > 0) {
            self.levels[outer].fd = None;
        }
    }

    /// Returns to the outer directory, and opens it again if it was closed.
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
        let again = up.filter(is_it).or_else(|| self.find_again(&self.path).ok().filter(is_it));
        let path = self.full(&self.path);
        let Some(outer) = self.levels.last_mut() else { return };
        if again.is_none() && !outer.names.is_empty() {
            let left = outer.names.len();
            warnings.push(path, format!("it was moved while it was read: {left} of its entries are left out"));
            outer.names.clear();
        }
        outer.fd = again;
    }

    fn find_again(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let root = self.levels.first().and_then(|level| level.fd.as_ref()).ok_or(Errno::NOENT)?;
        let mut components = path.split(|byte| *byte == b'/');
        let flags = OPEN.union(OFlags::DIRECTORY);
        let mut fd = open(root.as_fd(), components.next().unwrap_or_default(), flags)?;
        for component in components {
            fd = open(fd.as_fd(), component, flags)?;
        }
        Ok(fd)
    }
}

impl Found {
    fn new(path: Vec<u8>, inode: Inode) -> Self {
        let Inode { meta, attributes, content, complaint: _ } = inode;
        Self { path, meta, attributes, content }
    }
}

fn open_directory(levels: &[Level]) -> BorrowedFd<'_> {
    let level = levels.last().and_then(|level| level.fd.as_ref());
    level.expect("`leave` opens the innermost level with names left").as_fd()
}

/// Gives a member without an ACL one that equals its mode, if it would otherwise inherit one from its directory: GNU
/// tar restores a directory's default ACL before the directory's content.
fn disinherit(inherits: bool, inode: &mut Inode) {
    let has_acl = inode.attributes.access_acl.is_some() || matches!(inode.content, Content::Symlink(_));
    if inherits && !has_acl {
        inode.attributes.access_acl = Some(acl::of_mode(inode.meta.mode).into_bytes());
    }
}

/// A directory's names, the last one first, and the error if they are incomplete.
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
