//! Creates files below one directory, and never anywhere else.
//!
//! Each directory is opened from its parent with `O_NOFOLLOW`, on any kernel. The path to the last one is kept: its
//! innermost [`INNER`] directories and every [`EVERY`]th one stay open, so that a walk through a tree opens each directory
//! about once, however deep it is.
//!
//! In a directory that this restore created, it created every file too: so a link or a file as a parent directory means
//! that the archive contradicts itself, and an existing name means two members with one name. Elsewhere
//! [`refusal::in_the_way`] decides about an existing file.

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
use crate::error::Class;
use crate::format::index::{FileKind, MAX_PATH};
use crate::restore::refusal::{self, Refusal};
use crate::tar::{Member, shown};

const INNER: usize = 32;
const EVERY: usize = 128;

/// Passing through a directory needs no permission to read it.
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
        return no("its path is longer than 64 KiB; expected at most that");
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

/// Decides whether a failed call leaves out its member or ends the restore.
pub(super) fn verdict(action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Failure {
    move |errno| {
        if refusal::ends(errno) {
            Failure::Ends(failed(action, path)(errno))
        } else {
            Failure::LeftOut(Refusal::system(action, errno))
        }
    }
}

/// The mode of an existing directory while members are written into it: open to its owner, and to others no further
/// than before, nor than its `saved` mode.
pub(super) fn meanwhile(before: u32, saved: Option<u32>) -> u32 {
    (before & saved.map_or(0o7777, |saved| saved | 0o7000)) | 0o700
}

pub(super) struct Target {
    root: OwnedFd,
    overwrite: bool,
    /// The directories from below the root to the last one that was entered.
    way: Vec<(Vec<u8>, Option<OwnedFd>)>,
    pub(super) known: Known,
}

/// What to do about a missing directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Created by this restore, for its owner alone.
    Made,
    /// Existed before, with this mode.
    There { mode: u32 },
}

/// The directory and the name of `path`.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    }
}

impl Target {
    /// Follows a link to the target itself: the operator chose it.
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
        // Goes back to the innermost open directory, and down again from there.
        let open = self.way.iter().rposition(|(_, fd)| fd.is_some()).map_or(0, |at| at + 1);
        self.way.truncate(open);
        // Length of the path to that directory, with a slash behind it.
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

    /// Creates a file for its owner alone, or with its saved mode where nobody else can reach it.
    pub(super) fn create_file(&mut self, member: &Member) -> Result<OwnedFd, Failure> {
        let path = &member.path;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The group's bits of a mode with an ACL are not the group's. A user's own attributes can be set only on what its mode lets the
        // owner write.
        let is_simple = member.attributes.access_acl.is_none() && member.attributes.xattrs.is_empty();
        let make = |parent: BorrowedFd<'_>, name: &CStr| {
            let has_mode = is_simple && is_private(parent);
            let mode = if has_mode { Mode::from_raw_mode(member.mode & 0o777) } else { Mode::RUSR | Mode::WUSR };
            openat(parent, name, flags, mode)
        };
        self.create(path, FileType::RegularFile, make)?.map_err(verdict("create", path))
    }

    pub(super) fn create_special(&mut self, member: &Member) -> Result<(), Failure> {
        let path = &member.path;
        let node = match member.kind {
            FileKind::Symlink => {
                if member.link.is_empty() {
                    return Err(refused(path, "its link is empty; expected a path").into());
                }
                let link = c_string(path, &member.link)?;
                let make = |parent: BorrowedFd<'_>, name: &CStr| symlinkat(&link, parent, name);
                return self.create(path, FileType::Symlink, make)?.map_err(verdict("create", path));
            }
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Fifo | FileKind::Regular | FileKind::HardLink | FileKind::Directory => FileType::Fifo,
        };
        let device = if node == FileType::Fifo { 0 } else { makedev(member.rdev.0, member.rdev.1) };
        let mode = Mode::RUSR | Mode::WUSR;
        let make = |parent: BorrowedFd<'_>, name: &CStr| mknodat(parent, name, node, mode, device);
        self.create(path, node, make)?.map_err(verdict("create", path))
    }

    /// Refuses a name that ends with a dot if the file system would silently drop the dot.
    fn check_name(&mut self, path: &[u8]) -> Result<(), Failure> {
        if !path.ends_with(b".") {
            return Ok(());
        }
        let (parent, _) = self.enter(path, Missing::Create)?;
        let stat = fstatfs(parent).map_err(verdict("inspect the file system of", path))?;
        if refusal::drops_dots(stat.f_type) {
            let message = "left out: its name ends with a dot, which the file system drops".to_owned();
            return Err(Failure::LeftOut(Refusal { class: Class::Local, message }));
        }
        Ok(())
    }

    /// Keeps an existing directory. Nobody else can enter a new one before it gets its own mode.
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
                let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(verdict("inspect", path))?;
                refusal::in_the_way(FileType::from_raw_mode(stat.st_mode), FileType::Directory)
                    .map_err(Failure::LeftOut)?;
                return Ok(Found::There { mode: stat.st_mode & 0o7777 });
            }
            Err(errno) => return Err(verdict("create", path)(errno)),
        }
        Ok(Found::Made)
    }

    /// Makes `path` another name of the existing `first`; a symbolic link is linked itself, not followed. Returns the file
    /// system's refusal.
    pub(super) fn link(&mut self, first: &[u8], path: &[u8]) -> Result<Result<(), Errno>, Failure> {
        let stat = self.stat_first(first, path)?;
        let (from, old) = self.locate(first)?;
        let make = |parent: BorrowedFd<'_>, name: &CStr| linkat(&from, &old, parent, name, AtFlags::empty());
        let linked = self.create(path, FileType::from_raw_mode(stat.st_mode), make)?;
        match linked {
            Err(errno) if refusal::ends(errno) => Err(verdict("link", path)(errno)),
            other => Ok(other),
        }
    }

    /// The metadata of a hard link's first name.
    pub(super) fn stat_first(&mut self, first: &[u8], path: &[u8]) -> Result<Stat, Failure> {
        let gone = || refused(path, format!("it links to {:?}; expected a file that was restored", shown(first)));
        let (parent, name) = self.enter(first, Missing::Fail)?;
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(gone().into()),
            other => other.map_err(verdict("inspect the first name of", path))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(gone().into());
        }
        Ok(stat)
    }

    /// Runs `make`, which must fail if the name exists; if that may be replaced, removes it and runs `make` again. The
    /// inner result is `make`'s own.
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
        let stat = statat(parent, &c_name, AtFlags::SYMLINK_NOFOLLOW).map_err(verdict("inspect", path))?;
        refusal::in_the_way(FileType::from_raw_mode(stat.st_mode), wanted).map_err(Failure::LeftOut)?;
        if !overwrite {
            return Err(Failure::LeftOut(refusal::there_already()));
        }
        // Removes it instead of writing into it: it may have other names, and processes may have it open.
        unlinkat(parent, &c_name, AtFlags::empty()).map_err(verdict("replace", path))?;
        Ok(make(parent, &c_name))
    }

    pub(super) fn remove(&mut self, path: &[u8]) -> Result<(), Failure> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        unlinkat(parent, name, AtFlags::empty()).map_err(verdict("remove", path))
    }

    pub(super) fn locate(&mut self, path: &[u8]) -> Result<(OwnedFd, CString), Failure> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        Ok((parent.try_clone_to_owned().map_err(failed("open", path))?, c_string(path, name)?))
    }

    /// Flushes the file system that the target is on.
    pub(super) fn flush(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.root)
    }

    /// `None` if this user may not read an existing directory.
    pub(super) fn open_directory(&mut self, path: &[u8]) -> Result<Option<OwnedFd>, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        match openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ACCESS) => Ok(None),
            Err(errno) => Err(verdict("open", path)(errno)),
        }
    }

    pub(super) fn root_mode(&self) -> Result<u32, Errno> {
        Ok(fstat(&self.root)?.st_mode & 0o7777)
    }

    /// Changes the mode of a directory that existed before.
    pub(super) fn set_directory_mode(&mut self, path: &[u8], mode: u32) -> Result<(), Failure> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        chmod(parent, name, mode).map_err(verdict("set the mode of", path))
    }
}

/// Whether only this user can enter a directory, as those that this restore makes until its end.
fn is_private(directory: BorrowedFd<'_>) -> bool {
    fstat(directory).is_ok_and(|stat| {
        stat.st_uid == rustix::process::geteuid().as_raw()
            && !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO)
    })
}

/// For a name that exists in a directory that this restore created.
fn taken() -> Refusal {
    Refusal::conflict(
        "another member of the backup has this name already, or one that this file system treats as the same \
         (upper and lower case, a dot at the end)",
    )
}

/// Opens the directory `path`, which lies in `above`, a parent of `member`.
fn pass(
    known: &mut Known,
    from: &OwnedFd,
    above: &[u8],
    path: &[u8],
    member: &[u8],
    missing: Missing,
) -> Result<OwnedFd, Failure> {
    if let Some(class) = known.left_out(path) {
        let message = "left out: its directory was left out".to_owned();
        return Err(Failure::LeftOut(Refusal { class, message }));
    }
    let component = split(path).1;
    let open = || openat(from, component, PASS, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) if missing == Missing::Create => match mkdirat(from, component, Mode::RWXU) {
            Ok(()) => {
                known.imply(path);
                let opened = open();
                // Perhaps no member follows that would do it.
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
            format!("its parent {:?} is a link or a file; expected a directory", shown(component)),
        )),
        Errno::NOTDIR | Errno::LOOP => Failure::LeftOut(Refusal::conflict(
            "found a link or a file as one of its parents; expected a directory: move it away and restore again",
        )),
        Errno::NOENT => Failure::LeftOut(Refusal::conflict(
            "one of its parent directories was removed: something else changes the target",
        )),
        errno => verdict("open a parent directory of", member)(errno),
    })
}
