//! Creates things below one directory, and never anywhere else.
//!
//! Every directory on the way is opened from the one above it with `O_NOFOLLOW`, on any kernel. The way to the last one is
//! kept: the innermost [`INNER`] and every [`EVERY`]th directory of it stay open, so that a walk through a tree opens each
//! directory about once, however deep it is.
//!
//! In a directory that this restore made, what is in the way was made by it as well: a link or a file on the way there is
//! the archive contradicting itself, and a name that is taken is two members on one name. Elsewhere it is an obstacle,
//! and [`refusal::in_the_way`] decides.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, fstatfs, linkat, makedev, mkdirat, mknodat, openat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{Place, chmod};
use super::known::Known;
use super::{Error, Failure, c_string, failed, refused};
use crate::format::index::{FileKind, MAX_PATH};
use crate::restore::refusal::{self, Refusal};
use crate::tar::{Member, shown};

const INNER: usize = 32;
const EVERY: usize = 128;

/// A directory that is only passed through needs no permission to read it.
const PASS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A path of the archive as components joined by `/`, without `.` and empty ones; the root is empty.
pub(super) fn checked(path: &[u8]) -> Result<Vec<u8>, Error> {
    let no = |reason: &str| Err(refused(&path[..path.len().min(4096)], reason));
    if path.is_empty() {
        return no("its path is empty; expected a relative one");
    }
    if path.starts_with(b"/") {
        return no("its path is absolute; expected a relative one");
    }
    if path.contains(&0) {
        return no("its path holds a NUL; expected none");
    }
    if path.len() > MAX_PATH {
        return no("its path is longer than 64 KiB");
    }
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return no("its path holds \"..\"; expected one that stays below the target"),
            name => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
            }
        }
    }
    Ok(clean)
}

/// What a failed call means for the member it was for.
pub(super) fn verdict(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Failure {
    move |errno| {
        if refusal::ends(errno) {
            Failure::Ends(failed(action, path)(errno))
        } else {
            Failure::LeftOut(Refusal::system(action, errno))
        }
    }
}

pub(super) struct Target {
    root: OwnedFd,
    overwrite: bool,
    /// The way to the last directory, from below the root.
    way: Vec<(Vec<u8>, Option<OwnedFd>)>,
    pub(super) known: Known,
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Fail,
}

/// A directory of the archive, in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Made by this restore, for its owner alone.
    Made,
    /// Was there before, with this mode.
    There { mode: u32 },
}

/// The directory that holds `path`, and its name there.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    }
}

impl Target {
    /// A link to the target itself is followed: the operator chose it.
    pub(super) fn open(path: &Path, overwrite: bool) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut known = Known::default();
        if std::fs::read_dir(path)?.next().is_none() {
            known.made(b"");
        }
        Ok(Self { root: openat(CWD, path, flags, Mode::empty())?, overwrite, way: Vec::new(), known })
    }

    fn enter<'p>(&mut self, path: &'p [u8], missing: Missing) -> Result<(BorrowedFd<'_>, &'p [u8]), Failure> {
        let (parent, name) = split(path);
        Ok((self.walk(parent, path, missing)?, name))
    }

    fn walk(&mut self, directory: &[u8], member: &[u8], missing: Missing) -> Result<BorrowedFd<'_>, Failure> {
        let components: Vec<&[u8]> = directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let same = self.way.iter().zip(&components).take_while(|((name, _), component)| name == *component).count();
        self.way.truncate(same);
        // Back to the innermost that is open, and down again from there.
        let open = self.way.iter().rposition(|(_, fd)| fd.is_some()).map_or(0, |at| at + 1);
        self.way.truncate(open);
        // Of the path down to the last one that is open, with a slash behind it.
        let mut end: usize = components[..open].iter().map(|component| component.len() + 1).sum();
        for component in &components[open..] {
            let above = &directory[..end.saturating_sub(1)];
            end += component.len() + 1;
            let from = self.way.last().and_then(|(_, fd)| fd.as_ref()).unwrap_or(&self.root);
            let fd = pass(&mut self.known, from, above, &directory[..end - 1], member, missing)?;
            self.way.push((component.to_vec(), Some(fd)));
            if let Some(outer) = self.way.len().checked_sub(INNER + 1).filter(|outer| outer % EVERY != 0) {
                self.way[outer].1 = None;
            }
        }
        Ok(self.way.last().and_then(|(_, fd)| fd.as_ref()).unwrap_or(&self.root).as_fd())
    }

    pub(super) fn create_file(&mut self, path: &[u8]) -> Result<OwnedFd, Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = |parent: BorrowedFd<'_>, name: &CStr| openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
        self.create(path, FileType::RegularFile, make)?.map_err(verdict("creating it", path))
    }

    pub(super) fn create_special(&mut self, member: &Member) -> Result<(), Failure> {
        let path = &member.path;
        let (node, action) = match member.kind {
            FileKind::Symlink => {
                if member.link.is_empty() {
                    return Err(refused(path, "it links to nothing; expected a path").into());
                }
                let link = c_string(path, &member.link)?;
                let make = |parent: BorrowedFd<'_>, name: &CStr| symlinkat(&link, parent, name);
                return self
                    .create(path, FileType::Symlink, make)?
                    .map_err(verdict("creating the symbolic link", path));
            }
            FileKind::CharDevice => (FileType::CharacterDevice, "creating the device"),
            FileKind::BlockDevice => (FileType::BlockDevice, "creating the device"),
            FileKind::Fifo | FileKind::Regular | FileKind::HardLink | FileKind::Directory => {
                (FileType::Fifo, "creating the fifo")
            }
        };
        let device = if node == FileType::Fifo { 0 } else { makedev(member.rdev.0, member.rdev.1) };
        let mode = Mode::RUSR | Mode::WUSR;
        let make = |parent: BorrowedFd<'_>, name: &CStr| mknodat(parent, name, node, mode, device);
        self.create(path, node, make)?.map_err(verdict(action, path))
    }

    /// A file system that would drop the dot at a name's end and say nothing of it does not get the name.
    fn check_name(&mut self, path: &[u8]) -> Result<(), Failure> {
        if !path.ends_with(b".") {
            return Ok(());
        }
        let (parent, _) = self.enter(path, Missing::Create)?;
        let stat = fstatfs(parent).map_err(verdict("looking at the file system", path))?;
        if refusal::drops_dots(stat.f_type) {
            return Err(Failure::LeftOut(Refusal::system("its name ends with a dot", Errno::INVAL)));
        }
        Ok(())
    }

    /// Keeps one that is there already. Nobody else looks into a new one before it has its own mode.
    pub(super) fn create_directory(&mut self, path: &[u8]) -> Result<Found, Failure> {
        self.check_name(path)?;
        let (parent, name) = self.enter(path, Missing::Create)?;
        let made = mkdirat(parent, name, Mode::RWXU);
        match made {
            Ok(()) => self.known.made(path),
            Err(Errno::EXIST) if self.known.is_fresh(split(path).0) => {
                if !self.known.is_fresh(path) {
                    return Err(Failure::LeftOut(taken()));
                }
                self.known.explain(path);
            }
            Err(Errno::EXIST) if self.known.is_fresh(path) => self.known.explain(path),
            Err(Errno::EXIST) => {
                let (parent, name) = self.enter(path, Missing::Create)?;
                let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(verdict("looking at it", path))?;
                refusal::in_the_way(FileType::from_raw_mode(stat.st_mode), FileType::Directory)
                    .map_err(Failure::LeftOut)?;
                return Ok(Found::There { mode: stat.st_mode & 0o7777 });
            }
            Err(errno) => return Err(verdict("creating the directory", path)(errno)),
        }
        Ok(Found::Made)
    }

    /// Makes `path` another name of `first`, which is there; a symbolic link is not followed but linked itself. Returns why
    /// the file system does not.
    pub(super) fn link(&mut self, first: &[u8], path: &[u8]) -> Result<Result<(), Errno>, Failure> {
        let stat = self.stat_first(first, path)?;
        let (from, old) = self.locate(first)?;
        let make = |parent: BorrowedFd<'_>, name: &CStr| linkat(&from, &old, parent, name, AtFlags::empty());
        let linked = self.create(path, FileType::from_raw_mode(stat.st_mode), make)?;
        match linked {
            Err(errno) if refusal::ends(errno) => Err(verdict("linking it", path)(errno)),
            other => Ok(other),
        }
    }

    /// What the first name of a hard link is now.
    pub(super) fn stat_first(&mut self, first: &[u8], path: &[u8]) -> Result<Stat, Failure> {
        let gone = || refused(path, format!("it links to {:?}; expected a file that was restored", shown(first)));
        let (parent, name) = self.enter(first, Missing::Fail)?;
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(gone().into()),
            other => other.map_err(verdict("looking at its first name", path))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(gone().into());
        }
        Ok(stat)
    }

    /// Runs `make`, which must fail when there is something; then, if that may be replaced, again. Returns `make`'s own
    /// failure inside.
    fn create<T>(
        &mut self,
        path: &[u8],
        wanted: FileType,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
    ) -> Result<Result<T, Errno>, Failure> {
        self.check_name(path)?;
        let (overwrite, c_name) = (self.overwrite, c_string(path, split(path).1)?);
        let (parent, _) = self.enter(path, Missing::Create)?;
        let first = make(parent, &c_name);
        if !matches!(first, Err(Errno::EXIST)) {
            return Ok(first);
        }
        if self.known.is_fresh(split(path).0) {
            return Err(Failure::LeftOut(taken()));
        }
        let (parent, _) = self.enter(path, Missing::Create)?;
        let stat = statat(parent, &c_name, AtFlags::SYMLINK_NOFOLLOW).map_err(verdict("looking at it", path))?;
        refusal::in_the_way(FileType::from_raw_mode(stat.st_mode), wanted).map_err(Failure::LeftOut)?;
        if !overwrite {
            return Err(Failure::LeftOut(refusal::there_already()));
        }
        // Removed, never written into: it may have other names, and who has it open keeps what he has.
        unlinkat(parent, &c_name, AtFlags::empty()).map_err(verdict("replacing what is there", path))?;
        Ok(make(parent, &c_name))
    }

    pub(super) fn remove(&mut self, path: &[u8]) -> Result<(), Failure> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        unlinkat(parent, name, AtFlags::empty()).map_err(verdict("removing it", path))
    }

    pub(super) fn locate(&mut self, path: &[u8]) -> Result<(OwnedFd, CString), Failure> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        Ok((parent.try_clone_to_owned().map_err(failed("opening", path))?, c_string(path, name)?))
    }

    /// Without permission to read a directory that was there, `None`.
    pub(super) fn open_directory(&mut self, path: &[u8]) -> Result<Option<OwnedFd>, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        match openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ACCESS) => Ok(None),
            Err(errno) => Err(verdict("opening it", path)(errno)),
        }
    }

    pub(super) fn root_mode(&self) -> Result<u32, Errno> {
        Ok(fstat(&self.root)?.st_mode & 0o7777)
    }

    /// Changes the mode of a directory that was there before.
    pub(super) fn set_directory_mode(&mut self, path: &[u8], mode: u32) -> Result<(), Failure> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        chmod(parent, name, mode).map_err(verdict("setting its mode", path))
    }
}

/// In a directory that this restore made.
fn taken() -> Refusal {
    Refusal::conflict(
        "another member of the backup has this name already, or one that this file system takes for the same \
         (upper and lower case, a dot at the end)",
    )
}

/// Opens the directory `path`, which lies in `above`, on the way to `member`.
fn pass(
    known: &mut Known,
    from: &OwnedFd,
    above: &[u8],
    path: &[u8],
    member: &[u8],
    missing: Missing,
) -> Result<OwnedFd, Failure> {
    if let Some(class) = known.left_out(path) {
        let message = "left out: the directory it is in was left out".to_owned();
        return Err(Failure::LeftOut(Refusal { class, message }));
    }
    let component = split(path).1;
    let open = || openat(from, component, PASS, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) if missing == Missing::Create => match mkdirat(from, component, Mode::RWXU) {
            Ok(()) => {
                known.imply(path);
                let opened = open();
                // No member may come that would do it.
                let _ = Place::Name(from, &c_string(path, component)?).remove_acls(FileKind::Directory);
                opened
            }
            Err(Errno::EXIST) => open(),
            Err(errno) => Err(errno),
        },
        Ok(_) if known.is_fresh(above) && !known.is_fresh(path) => return Err(Failure::LeftOut(taken())),
        other => other,
    };
    opened.map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP if known.is_fresh(above) => Failure::Ends(refused(
            member,
            format!("{:?} on the way to it is a link or a file; expected a directory", shown(component)),
        )),
        Errno::NOTDIR | Errno::LOOP => Failure::LeftOut(Refusal::conflict(
            "a link or a file is in the place of a directory on the way to it: move it away and restore again",
        )),
        Errno::NOENT => Failure::LeftOut(Refusal::conflict(
            "a directory on the way to it is gone: something else changes the target",
        )),
        errno => verdict("opening a directory on the way to it", member)(errno),
    })
}
