//! A directory tree as a POSIX (PAX) tar stream that GNU tar restores completely.
//!
//! # What it promises
//! Stores every regular file, directory, symbolic link, hard link, fifo and device below the root, with names of any bytes and any length,
//! owners, modes, times to the nanosecond, extended attributes and ACLs; holes of files are not stored. Members are in depth-first order,
//! sorted by the bytes of their names, and always encoded the same way, so an unchanged tree gives an unchanged stream. Symbolic links are
//! never followed, except for the root itself.
//!
//! With a [`Parent`], unchanged members ([`unchanged`]) that fill whole chunks ([`runs`]) are not opened.
//!
//! # What it costs
//! Memory for the names in the directories on the current path, for one path of each inode with several names, and for one header. The
//! kernel writes a file's data into the caller's buffer; but a file whose size is wrong ([`announced`](super::announced)) is copied first,
//! one file at a time.
//!
//! # What happens on failure
//! Only a root that cannot be opened is an error. Anything else that cannot be read, or changes while it is read, is left out or filled
//! with zeros, with a [`Warning`]. The stream is always valid: a header is written only for an open file, and exactly as much data follows
//! as it states. A directory that is not entered, because another file system is mounted there, gives no warning, but is listed
//! ([`Source::take_not_entered`]).

mod body;
pub mod hashed;
mod inode;
mod links;
pub(crate) mod meta;
mod mount;
mod runs;
mod sparse;
mod unchanged;
mod walk;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, retry_on_intr};
use tokio_util::sync::CancellationToken;

use self::body::Body;
use self::inode::Content;
use self::runs::{Held, Runs, Verdict};
use self::unchanged::Comparison;
pub use self::unchanged::{Files, Parent};
use self::walk::{Found, Step, Walk};
use super::group::{Group, LARGE};
use super::{Error, Mark, Source, Warning};
use crate::format::index::{FileEntry, FileKind};
use crate::tar::{BLOCK, END, Layout, Member};

/// Warnings kept until they are taken; above that, one more gives their number.
const MAX_PENDING: usize = 4096;

/// Which parts of a tree are stored.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Globs against the path relative to the root: `*` stays within a folder, `**/` crosses folders. Matches are left
    /// out, a directory with everything below it.
    pub exclude: Vec<String>,
    /// Stores a directory on another file system than the root's without its content. A subvolume on which nothing is mounted belongs to
    /// its file system, and so does a bind mount of the root's file system or of the outer directory's. (Files are not checked: on an
    /// overlay they may have any device number.)
    pub one_file_system: bool,
}

pub struct TreeSource {
    walk: Walk,
    state: State,
    /// Decides which unchanged members are reused, with a parent.
    runs: Option<Runs>,
    verdicts: VecDeque<Verdict>,
    /// The next member after the verdicts.
    found: Option<Found>,
    /// The group of the last member, and whether it ends with that member.
    group: Group,
    group_ends: bool,
    marks: Vec<Mark>,
    /// Bytes yielded.
    offset: u64,
    entries: Vec<FileEntry>,
    warnings: Pending,
}

impl std::fmt::Debug for TreeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeSource").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// The bytes to yield next.
enum State {
    /// Header blocks and a sparse file's map; then the body, if any.
    Header {
        bytes: Vec<u8>,
        yielded: usize,
        body: Option<(Body, PathBuf)>,
    },
    Data {
        body: Body,
        path: PathBuf,
    },
    Zeros {
        left: usize,
        last: bool,
    },
    Done,
}

impl TreeSource {
    /// Opens a tree's root. A symbolic link to it is followed.
    ///
    /// # Errors
    /// When the root cannot be opened, is not a directory, or a glob is malformed.
    pub fn new(root: impl AsRef<Path>, options: &Options, parent: Option<Parent>) -> Result<Self, Error> {
        let root = root.as_ref();
        let exclude = globs(&options.exclude)?;
        let fd = open_root(root)?;
        let mut warnings = Pending::default();
        let (runs, comparison) = parent.map_or((None, None), |Parent { chunks, files, settled, doubtful }| {
            (Some(Runs::new(chunks)), Some(Comparison::new(files, settled, doubtful)))
        });
        let walk = Walk::new(root, fd, exclude, options.one_file_system, comparison, &mut warnings);
        let walk = walk.map_err(|error| io_error(root, error))?;
        Ok(Self {
            walk,
            state: State::Zeros { left: 0, last: false },
            runs,
            verdicts: VecDeque::new(),
            found: None,
            group: Group::default(),
            group_ends: false,
            marks: Vec::new(),
            offset: 0,
            entries: Vec::new(),
            warnings,
        })
    }

    /// Stops reading, and waiting for other processes' leases, when `stop` is cancelled.
    #[must_use]
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.walk.stopped_by(stop);
        self
    }

    /// Replaces `state` when it is done.
    fn advance(&mut self, done: State) {
        self.state = match done {
            State::Header { body: Some((body, path)), .. } => {
                if body.left() >= LARGE {
                    self.marks.push(Mark::Border);
                }
                State::Data { body, path }
            }
            State::Data { body, path } => {
                if let Some(message) = body.finish() {
                    self.warnings.push(path, message);
                }
                State::Zeros { left: padding(self.offset), last: false }
            }
            State::Header { .. } | State::Zeros { last: false, .. } => self.next_member(),
            State::Zeros { last: true, .. } | State::Done => State::Done,
        };
    }

    /// The next member that is read; reused members before it become marks.
    fn next_member(&mut self) -> State {
        loop {
            if self.walk.is_stopped() {
                return State::Done;
            }
            match self.verdicts.pop_front() {
                Some(Verdict::Read(held)) => {
                    if let Some(found) = self.walk.read_again(*held, &mut self.warnings) {
                        return self.member(found);
                    }
                }
                Some(Verdict::Take { members, .. }) if members.iter().any(|held| self.walk.links_to_lost(held)) => {
                    for held in members.into_iter().rev() {
                        self.verdicts.push_front(Verdict::Read(Box::new(held)));
                    }
                }
                Some(Verdict::Take { members, chunks }) => {
                    self.reuse(members);
                    self.marks.push(Mark::Taken(chunks));
                    return State::Zeros { left: 0, last: false };
                }
                None if self.found.is_some() => {
                    let found = self.found.take();
                    if let Some(found) = found.and_then(|found| self.walk.settle(found, &mut self.warnings)) {
                        return self.member(found);
                    }
                }
                None => match self.walk.next(&mut self.warnings) {
                    Some(Step::Unchanged(held)) => {
                        let runs = self.runs.as_mut().expect("a member is unchanged only compared with a parent");
                        runs.offer(held, &mut self.verdicts);
                    }
                    Some(Step::Found(found)) => {
                        self.found = Some(found);
                        self.break_run();
                    }
                    None => {
                        self.break_run();
                        if self.verdicts.is_empty() {
                            self.marks.push(Mark::Border);
                            return State::Zeros { left: END.len(), last: true };
                        }
                    }
                },
            }
        }
    }

    fn break_run(&mut self) {
        if let Some(runs) = &mut self.runs {
            runs.broken(&mut self.verdicts);
        }
    }

    /// Adds members to the stream without reading them.
    fn reuse(&mut self, members: Vec<Held>) {
        for Held { mut entry, meta, .. } in members {
            let member = entry.member();
            entry.content_start = self.offset + (entry.content_start - entry.member_start);
            entry.member_start = self.offset;
            entry.device = meta.device;
            self.offset += member.end - member.start;
            self.entries.push(entry);
        }
        self.group = Group::default();
        self.group_ends = false;
    }

    fn member(&mut self, found: Found) -> State {
        let Found { path, meta, attributes, content } = found;
        let full = self.walk.full(&path);
        let (kind, link, file) = match content {
            Content::File(fd) => (FileKind::Regular, Vec::new(), Some(fd)),
            Content::Directory => (FileKind::Directory, Vec::new(), None),
            Content::Symlink(target) => (FileKind::Symlink, target, None),
            Content::HardLink(first) => (FileKind::HardLink, first, None),
            Content::Fifo => (FileKind::Fifo, Vec::new(), None),
            Content::CharDevice => (FileKind::CharDevice, Vec::new(), None),
            Content::BlockDevice => (FileKind::BlockDevice, Vec::new(), None),
        };
        let body = file.map(|fd| Body::open(fd, meta));
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let member = Member {
            kind,
            path,
            link,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            size: body.as_ref().map_or(0, Body::size),
            map: body.as_ref().and_then(Body::map),
            rdev: if device { meta.rdev } else { (0, 0) },
            attributes,
        };
        let mut bytes = Vec::with_capacity(3 * BLOCK);
        let Layout { headers, content } = member.encode(&mut bytes);
        let Member { path, link, .. } = member;
        let data = body.as_ref().map_or(0, Body::left);
        if std::mem::take(&mut self.group_ends) || data >= LARGE {
            self.marks.push(Mark::Border);
        }
        let length = bytes.len() as u64 + data.next_multiple_of(BLOCK as u64);
        self.group_ends = self.group.ends_with(&path, length);
        self.entries.push(FileEntry {
            path,
            kind,
            // Of a hard link too: the next backup compares it.
            size: body.as_ref().map_or(meta.size, Body::size),
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            ctime: meta.ctime,
            inode: meta.inode,
            device: meta.device,
            link,
            member_start: self.offset,
            content_start: self.offset + headers,
            content_len: content,
        });
        State::Header { bytes, yielded: 0, body: body.map(|body| (body, full)) }
    }
}

impl Source for TreeSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() && self.marks.is_empty() {
            let free = &mut buffer[filled..];
            let length = match &mut self.state {
                State::Header { bytes, yielded, .. } => {
                    let length = free.len().min(bytes.len() - *yielded);
                    free[..length].copy_from_slice(&bytes[*yielded..*yielded + length]);
                    *yielded += length;
                    length
                }
                State::Data { body, .. } => body.read(free),
                State::Zeros { left, .. } => {
                    let length = free.len().min(*left);
                    free[..length].fill(0);
                    *left -= length;
                    length
                }
                State::Done => break,
            };
            filled += length;
            self.offset += length as u64;
            if length == 0 {
                let done = std::mem::replace(&mut self.state, State::Done);
                self.advance(done);
            }
        }
        if self.walk.is_stopped() { Err(Error::Cancelled) } else { Ok(filled) }
    }

    fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    fn take_entries(&mut self) -> Vec<FileEntry> {
        std::mem::take(&mut self.entries)
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        self.warnings.take()
    }

    fn take_not_entered(&mut self) -> Vec<PathBuf> {
        self.walk.take_not_entered()
    }
}

/// Warnings not yet taken.
#[derive(Debug, Default)]
struct Pending {
    list: Vec<Warning>,
    more: usize,
}

impl Pending {
    fn push(&mut self, path: PathBuf, message: impl Into<String>) {
        if self.list.len() < MAX_PENDING {
            self.list.push(Warning { path, message: message.into() });
        } else {
            self.more += 1;
        }
    }

    fn take(&mut self) -> Vec<Warning> {
        let mut list = std::mem::take(&mut self.list);
        let more = std::mem::take(&mut self.more);
        if more > 0 {
            list.push(Warning { path: PathBuf::new(), message: format!("{more} more warnings were not listed") });
        }
        list
    }
}

fn open_root(root: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match retry_on_intr(|| openat(CWD, root, flags, Mode::empty())) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOTDIR) if root.symlink_metadata().is_ok() => Err(Error::Invalid(format!(
            "{} is not a directory: use a source of type \"file\" to store a single file",
            root.display()
        ))),
        Err(error) => Err(io_error(root, error)),
    }
}

fn io_error(root: &Path, error: Errno) -> Error {
    Error::Io { action: "open the tree", path: root.to_owned(), error: error.into() }
}

fn globs(patterns: &[String]) -> Result<GlobSet, Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let malformed = |error: globset::Error| Error::Invalid(format!("the exclude glob {pattern:?}: {error}"));
        // Paths have no slash at either end, so a glob with one could not match anything.
        let glob = GlobBuilder::new(pattern.trim_matches('/')).literal_separator(true).build().map_err(malformed)?;
        set.add(glob);
    }
    set.build().map_err(|error| Error::Invalid(format!("the exclude globs: {error}")))
}

/// Bytes from `offset` to the next whole block.
fn padding(offset: u64) -> usize {
    let over = usize::try_from(offset % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

#[cfg(test)]
mod tests;
