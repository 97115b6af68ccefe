//! Everything of a member but its data: owner, mode, ACLs, extended attributes, time.
//!
//! The owner comes first, because changing it takes set-user-ID and capabilities away; then the attributes; then ACLs
//! that the target's default ACL gave are removed, before the mode could put them in force; then the mode, never wider
//! than what is saved; then the saved ACLs; then the time. Up to the mode nobody but the owner can open it. What cannot be
//! set is counted, and so is what a file system takes without a word and does not keep.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fgetxattr_query, fremovexattr, fsetxattr, fstat, futimens, lgetxattr_query, lremovexattr, lsetxattr,
    openat, statat, utimensat,
};
use rustix::io::Errno;

use super::access::{self, Owned};
use super::ledger::Ledger;
use super::{Error, failed};
use crate::format::index::{FileKind, FileTime};
use crate::restore::refusal::ends;
use crate::tar::xattr::{ACCESS_ACL, DEFAULT_ACL, path_below};
use crate::tar::{Member, acl};

/// The coarsest clock of a file system that is worth no warning: FAT's.
const CLOCK: u64 = 2;

/// Something in the target, to be given its attributes.
pub(super) enum Place<'a> {
    Open(&'a File),
    /// What cannot be opened without side effects, by its directory and name; never followed.
    Name(&'a OwnedFd, &'a CStr),
}

/// Gives `place` what `member` says.
///
/// # Errors
/// When the target is in such trouble that what follows would fail too.
pub(super) fn apply(place: &Place<'_>, member: &Member, ledger: &mut Ledger) -> Result<(), Error> {
    let mut setter = Setter { place, member, ledger };
    let owned = setter.owner()?;
    for (name, value) in &member.attributes.xattrs {
        setter.xattr(name, value)?;
    }
    let mode = if member.kind == FileKind::Symlink { None } else { setter.access(owned)? };
    let timed = setter.set("its time", place.set_mtime(member.mtime))?;
    setter.check(owned, mode, timed);
    Ok(())
}

struct Setter<'a> {
    place: &'a Place<'a>,
    member: &'a Member,
    ledger: &'a mut Ledger,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Yes,
    No,
}

impl Setter<'_> {
    fn say(&mut self, message: &str) {
        self.ledger.altered(&self.member.path, message);
    }

    /// What came of setting `what`, counted where it failed.
    fn set(&mut self, what: &str, result: Result<(), Errno>) -> Result<Done, Error> {
        match result {
            Ok(()) => Ok(Done::Yes),
            Err(errno) if ends(errno) => Err(failed("setting the attributes of", &self.member.path)(errno)),
            Err(errno) => {
                self.say(&format!("{what} is not restored: {errno}"));
                Ok(Done::No)
            }
        }
    }

    fn owner(&mut self) -> Result<Owned, Error> {
        let (uid, gid) = (self.member.uid, self.member.gid);
        let errno = match self.place.set_owner(Some(uid), Some(gid)) {
            Ok(()) => return Ok(Owned::BOTH),
            Err(errno) if ends(errno) => return Err(failed("setting the owner of", &self.member.path)(errno)),
            Err(errno) => errno,
        };
        // Each on its own: a member of the group may set that, and a user namespace may know one of the two.
        if self.place.set_owner(None, Some(gid)).is_err() {
            let _ = self.place.set_owner(Some(uid), None);
        }
        let is = self.place.stat().ok();
        let owned =
            Owned { user: is.is_some_and(|stat| stat.st_uid == uid), group: is.is_some_and(|stat| stat.st_gid == gid) };
        let what = match owned {
            Owned { user: true, group: true } => return Ok(owned),
            Owned { user: false, group: false } => "its owner and group are not restored",
            Owned { user: false, group: true } => "its owner is not restored",
            Owned { user: true, group: false } => "its group is not restored",
        };
        self.ledger.altered_like_many(&self.member.path, &format!("{what}: {errno}"));
        Ok(owned)
    }

    fn xattr(&mut self, name: &CStr, value: &[u8]) -> Result<Done, Error> {
        let what = format!("its attribute {}", name.to_string_lossy());
        match self.place.set_xattr(name, value) {
            // No room for it in the inode; the disk need not be full.
            Err(errno @ Errno::NOSPC) => {
                self.say(&format!("{what} is not restored: {errno}"));
                Ok(Done::No)
            }
            other => self.set(&what, other),
        }
    }

    /// ACLs and mode. Returns the mode that it must have now, if that is known.
    fn access(&mut self, owned: Owned) -> Result<Option<u32>, Error> {
        let of = |text: &Option<Vec<u8>>| text.as_deref().map(acl::to_binary);
        let attributes = &self.member.attributes;
        let (saved, default) = (of(&attributes.access_acl), of(&attributes.default_acl));
        for acl in [&saved, &default].into_iter().flatten() {
            if let Err(reason) = acl {
                self.ledger.altered(&self.member.path, &format!("its ACL is not restored: {reason}"));
            }
        }
        let plan = access::plan(self.member.mode, saved.as_ref(), owned);
        for cut in &plan.cut {
            self.say(cut);
        }
        let mut mode = plan.mode;
        if let Err(errno) = self.place.remove_acls(self.member.kind) {
            self.say(&format!("an ACL of the target stays on it, so that its group gets nothing: {errno}"));
            mode &= !0o070;
        }
        let set = self.set("its mode", self.place.set_mode(mode))?;
        if let Some((acl, left)) = plan.acl
            && self.xattr(ACCESS_ACL, &acl)? == Done::Yes
        {
            mode = left;
        }
        if let Some(Ok(default)) = default {
            self.xattr(DEFAULT_ACL, &default)?;
        }
        Ok((set == Done::Yes).then_some(mode))
    }

    /// Says what was set, and is something else all the same.
    fn check(&mut self, owned: Owned, mode: Option<u32>, timed: Done) {
        let Ok(stat) = self.place.stat() else { return };
        let keeps = "the file system keeps another";
        if owned == Owned::BOTH && (stat.st_uid, stat.st_gid) != (self.member.uid, self.member.gid) {
            let message = format!("its owner and group are not restored: {keeps}");
            self.ledger.altered_like_many(&self.member.path, &message);
        }
        if mode.is_some_and(|mode| mode != stat.st_mode & 0o7777) {
            self.say(&format!("its mode is not restored: {keeps}"));
        }
        if timed == Done::Yes && seconds(&stat).abs_diff(self.member.mtime.seconds) > CLOCK {
            self.say(&format!("its time is not restored: {keeps}"));
        }
    }
}

// The field's type differs between architectures.
#[allow(clippy::useless_conversion)]
fn seconds(stat: &Stat) -> i64 {
    stat.st_mtime.into()
}

/// There is no fchmodat without following before Linux 6.6, so the node is held first.
pub(super) fn chmod(parent: impl AsFd, name: impl rustix::path::Arg, mode: u32) -> Result<(), Errno> {
    let node = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    chmodat(CWD, format!("/proc/self/fd/{}", node.as_raw_fd()), Mode::from_raw_mode(mode), AtFlags::empty())
}

impl Place<'_> {
    fn stat(&self) -> Result<Stat, Errno> {
        match self {
            Self::Open(file) => fstat(file),
            Self::Name(parent, name) => statat(parent, *name, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Self::Open(file) => fchown(file, uid, gid),
            Self::Name(parent, name) => chownat(parent, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        match self {
            Self::Open(file) => fchmod(file, Mode::from_raw_mode(mode)),
            Self::Name(parent, name) => chmod(parent, *name, mode),
        }
    }

    fn set_xattr(&self, name: &CStr, value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Self::Name(parent, file) => lsetxattr(path_below(parent.as_fd(), file), name, value, XattrFlags::empty()),
        }
    }

    /// Removes the ACLs that it has from the target: by inheritance, or because it was there before. An error means that
    /// one is there and stays.
    pub(super) fn remove_acls(&self, kind: FileKind) -> Result<(), Errno> {
        let names: &[&CStr] = if kind == FileKind::Directory { &[ACCESS_ACL, DEFAULT_ACL] } else { &[ACCESS_ACL] };
        for name in names {
            let removed = match self {
                Self::Open(file) => fremovexattr(file, *name),
                Self::Name(parent, file) => lremovexattr(path_below(parent.as_fd(), file), *name),
            };
            match removed {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => {}
                // File systems that have no ACLs say so in many ways.
                Err(errno) if self.has_xattr(name) => return Err(errno),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn has_xattr(&self, name: &CStr) -> bool {
        let length = match self {
            Self::Open(file) => fgetxattr_query(file, name),
            Self::Name(parent, file) => lgetxattr_query(path_below(parent.as_fd(), file), name),
        };
        length.is_ok_and(|length| length > 0)
    }

    fn set_mtime(&self, time: FileTime) -> Result<(), Errno> {
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
