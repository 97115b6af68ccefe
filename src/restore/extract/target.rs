//! Creates things below one directory, and never anywhere else.
//!
//! Every directory on the way is opened from the one above it with `O_NOFOLLOW`, on any kernel. The way to the last one is
//! kept: the innermost [`INNER`] and every [`EVERY`]th directory of it stay open, so that a walk through a tree opens each
//! directory about once, however deep it is.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::archive::{Kind, Member};
use super::{Error, c_string, failed, refused, shown};
use crate::format::index::{FileTime, MAX_PATH};

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

pub(super) struct Target {
    root: OwnedFd,
    overwrite: bool,
    /// The way to the last directory, from below the root.
    way: Vec<(Vec<u8>, Option<OwnedFd>)>,
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Fail,
}

impl Target {
    /// A link to the target itself is followed: the operator chose it.
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: openat(CWD, path, flags, Mode::empty())?, overwrite, way: Vec::new() })
    }

    /// The directory that holds `path`, and its name there.
    fn enter<'p>(&mut self, path: &'p [u8], missing: Missing) -> Result<(BorrowedFd<'_>, &'p [u8]), Error> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        Ok((self.walk(parent, path, missing)?, name))
    }

    fn walk(&mut self, directory: &[u8], member: &[u8], missing: Missing) -> Result<BorrowedFd<'_>, Error> {
        let components: Vec<&[u8]> = directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let same = self.way.iter().zip(&components).take_while(|((name, _), component)| name == *component).count();
        self.way.truncate(same);
        // Back to the innermost that is open, and down again from there.
        let open = self.way.iter().rposition(|(_, fd)| fd.is_some()).map_or(0, |at| at + 1);
        self.way.truncate(open);
        for component in &components[open..] {
            let from = self.way.last().and_then(|(_, fd)| fd.as_ref()).unwrap_or(&self.root);
            let fd = pass(from, component, member, missing)?;
            self.way.push((component.to_vec(), Some(fd)));
            if let Some(outer) = self.way.len().checked_sub(INNER + 1).filter(|outer| outer % EVERY != 0) {
                self.way[outer].1 = None;
            }
        }
        Ok(self.way.last().and_then(|(_, fd)| fd.as_ref()).unwrap_or(&self.root).as_fd())
    }

    pub(super) fn create_file(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.create("creating", path, |parent, name| openat(parent, name, flags, Mode::RUSR | Mode::WUSR))
    }

    pub(super) fn create_special(&mut self, member: &Member) -> Result<(), Error> {
        let node = match member.kind {
            Kind::Symlink => {
                if member.link.is_empty() {
                    return Err(refused(&member.path, "it links to nothing; expected a path"));
                }
                let link = c_string(&member.path, &member.link)?;
                return self.create("creating", &member.path, |parent, name| symlinkat(&link, parent, name));
            }
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Fifo | Kind::Regular | Kind::HardLink | Kind::Directory => FileType::Fifo,
        };
        let device = makedev(member.rdev.0, member.rdev.1);
        let device = if node == FileType::Fifo { 0 } else { device };
        let mode = Mode::RUSR | Mode::WUSR;
        self.create("creating", &member.path, |parent, name| mknodat(parent, name, node, mode, device))
    }

    /// Keeps one that is there already.
    pub(super) fn create_directory(&mut self, path: &[u8]) -> Result<(), Error> {
        let (parent, name) = self.enter(path, Missing::Create)?;
        let is_directory = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if is_directory {
            return Ok(());
        }
        // Nobody else looks into it before it has its own mode.
        self.create("creating", path, |parent, name| mkdirat(parent, name, Mode::RWXU))
    }

    /// Makes `path` another name of `first`, which is there; a symbolic link is not followed but linked itself.
    pub(super) fn link(&mut self, first: &[u8], path: &[u8]) -> Result<(), Error> {
        let (parent, name) = self.enter(first, Missing::Fail)?;
        let gone = || refused(path, format!("it links to {:?}; expected a file that was restored", shown(first)));
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| gone())?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(gone());
        }
        let (from, old) = (parent.try_clone_to_owned().map_err(failed("opening", first))?, c_string(first, name)?);
        self.create("linking", path, |parent, name| linkat(&from, &old, parent, name, AtFlags::empty()))
    }

    /// Runs `make`, which must fail when there is something; then, if that may be replaced, again.
    fn create<T>(
        &mut self,
        action: &'static str,
        path: &[u8],
        make: impl Fn(BorrowedFd<'_>, &CStr) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let overwrite = self.overwrite;
        let (parent, name) = self.enter(path, Missing::Create)?;
        let name = c_string(path, name)?;
        match make(parent, &name) {
            Err(Errno::EXIST) if overwrite => {
                // Fails for a directory, which is never replaced.
                match unlinkat(parent, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR) => {
                        return Err(refused(path, "there is a directory; expected none to be replaced"));
                    }
                    Err(error) => return Err(failed("replacing", path)(error)),
                }
                make(parent, &name).map_err(failed(action, path))
            }
            Err(Errno::EXIST) => Err(Error::Exists { path: shown(path) }),
            other => other.map_err(failed(action, path)),
        }
    }

    pub(super) fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        unlinkat(parent, name, AtFlags::empty()).map_err(failed("removing", path))
    }

    pub(super) fn locate(&mut self, path: &[u8]) -> Result<(OwnedFd, CString), Error> {
        let (parent, name) = self.enter(path, Missing::Fail)?;
        Ok((parent.try_clone_to_owned().map_err(failed("opening", path))?, c_string(path, name)?))
    }

    pub(super) fn open_directory(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = self.enter(path, Missing::Fail)?;
        let name = if path.is_empty() { b"." } else { name };
        openat(parent, name, flags, Mode::empty()).map_err(failed("opening", path))
    }
}

fn pass(from: &OwnedFd, component: &[u8], member: &[u8], missing: Missing) -> Result<OwnedFd, Error> {
    let open = || openat(from, component, PASS, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) if missing == Missing::Create => match mkdirat(from, component, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(error) => Err(error),
        },
        other => other,
    };
    opened.map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => refused(
            member,
            format!("{:?} on the way to it is a link or a file; expected a directory", shown(component)),
        ),
        Errno::NOENT => {
            refused(member, format!("{:?} on the way is not there; expected a directory", shown(component)))
        }
        error => failed("opening a directory on the way to", member)(error),
    })
}

/// Something that was just created, to be given its attributes.
pub(super) enum Place<'a> {
    Open(&'a File),
    /// What cannot be opened without side effects, by its directory and name; never followed.
    Name(&'a OwnedFd, &'a CStr),
}

impl Place<'_> {
    pub(super) fn set_owner(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(file) => fchown(file, uid, gid),
            Self::Name(parent, name) => chownat(parent, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    pub(super) fn set_mode(&self, mode: u32, kind: Kind) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(file) => fchmod(file, mode),
            Self::Name(..) if kind == Kind::Symlink => Ok(()),
            Self::Name(parent, name) => {
                // There is no fchmodat without following before Linux 6.6, so the node is held first.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let node = openat(parent, *name, flags, Mode::empty())?;
                chmodat(CWD, format!("/proc/self/fd/{}", node.as_raw_fd()), mode, AtFlags::empty())
            }
        }
    }

    pub(super) fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Self::Name(parent, file) => {
                let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
                path.extend_from_slice(file.to_bytes());
                lsetxattr(path, name, value, XattrFlags::empty())
            }
        }
    }

    pub(super) fn set_mtime(&self, time: FileTime) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        };
        match self {
            Self::Open(file) => futimens(file, &times),
            Self::Name(parent, name) => utimensat(parent, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}
