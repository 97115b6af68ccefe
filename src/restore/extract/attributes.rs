//! Sets everything of a member but its data: owner, mode, ACLs, extended attributes, time.
//!
//! The owner comes first, because changing it removes set-user-ID and capabilities; then the attributes; then ACLs
//! inherited from the target are removed, before the mode could activate them; then the mode, never wider than saved; then
//! the saved ACLs; then the time. Until the mode is set, only the owner can open the file. Attributes that cannot be set
//! are counted, and so are those that a file system accepts but does not store.
//!
//! What a new file has already is not set: each of these calls is a transaction of the file system.

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
use super::ledger::{Difference, Ledger, Of};
use super::{Error, failed};
use crate::format::index::{FileKind, FileTime};
use crate::restore::refusal::ends;
use crate::tar::xattr::{ACCESS_ACL, DEFAULT_ACL, path_below};
use crate::tar::{Member, acl};

/// Seconds by which a time may differ without a warning: the precision of FAT.
const CLOCK: u64 = 2;

/// A file in the target whose attributes are set.
pub(super) enum Place<'a> {
    Open(&'a File),
    /// A file that cannot be opened without side effects, by its directory and name; never followed.
    Name(&'a OwnedFd, &'a CStr),
}

/// Sets the attributes of `member` on `place`, and records what could not be set.
///
/// # Errors
/// When the target fails in a way that would hit every later member.
pub(super) fn apply(place: &Place<'_>, member: &Member, ledger: &mut Ledger) -> Result<(), Error> {
    let mut differences = Vec::new();
    let done = set(place, member, &mut differences);
    ledger.differences(&member.path, differences);
    done
}

/// As [`apply`], for whoever has no ledger.
pub(super) fn set(place: &Place<'_>, member: &Member, differences: &mut Vec<Difference>) -> Result<(), Error> {
    let new = place.stat().ok();
    let mut setter = Setter { place, member, differences, new };
    let owned = setter.owner()?;
    for (name, value) in &member.attributes.xattrs {
        setter.xattr(name, value)?;
        // Some are access rights of another kind.
        setter.new = None;
    }
    let mode = if member.kind == FileKind::Symlink { None } else { setter.access(owned)? };
    let timed = setter.set("its time", place.set_mtime(member.mtime))?;
    setter.check(owned, mode, timed);
    Ok(())
}

/// What a place had of POSIX ACLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acls {
    /// The file system knows them, and the place had none: its mode says who has access.
    NoneThere,
    /// It had one, or the file system may have access rights of another kind, which setting the mode replaces.
    Other,
}

struct Setter<'a> {
    place: &'a Place<'a>,
    member: &'a Member,
    differences: &'a mut Vec<Difference>,
    /// What the file has, as long as nothing was set that may change its mode.
    new: Option<Stat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Yes,
    No,
}

impl Setter<'_> {
    fn say(&mut self, message: impl Into<String>) {
        self.differences.push(Difference { message: message.into(), of: Of::Some });
    }

    fn say_of_many(&mut self, message: String) {
        self.differences.push(Difference { message, of: Of::Many });
    }

    /// Checks the result of setting `what`, and counts a failure.
    fn set(&mut self, what: &str, result: Result<(), Errno>) -> Result<Done, Error> {
        match result {
            Ok(()) => Ok(Done::Yes),
            Err(errno) if ends(errno) => Err(failed("set the attributes of", &self.member.path)(errno)),
            Err(errno) => {
                self.say(format!("could not restore {what}: {errno}"));
                Ok(Done::No)
            }
        }
    }

    fn owner(&mut self) -> Result<Owned, Error> {
        let (uid, gid) = (self.member.uid, self.member.gid);
        if self.new.is_some_and(|stat| (stat.st_uid, stat.st_gid) == (uid, gid)) {
            return Ok(Owned::BOTH);
        }
        self.new = None;
        let errno = match self.place.set_owner(Some(uid), Some(gid)) {
            Ok(()) => return Ok(Owned::BOTH),
            Err(errno) if ends(errno) => return Err(failed("set the owner of", &self.member.path)(errno)),
            Err(errno) => errno,
        };
        // Separately: a member of the group may set the group, and a user namespace may map only one of the two.
        if self.place.set_owner(None, Some(gid)).is_err() {
            let _ = self.place.set_owner(Some(uid), None);
        }
        let is = self.place.stat().ok();
        let owned =
            Owned { user: is.is_some_and(|stat| stat.st_uid == uid), group: is.is_some_and(|stat| stat.st_gid == gid) };
        let what = match owned {
            Owned { user: true, group: true } => return Ok(owned),
            Owned { user: false, group: false } => "its owner and group",
            Owned { user: false, group: true } => "its owner",
            Owned { user: true, group: false } => "its group",
        };
        self.say_of_many(format!("could not restore {what}: {errno}"));
        Ok(owned)
    }

    fn xattr(&mut self, name: &CStr, value: &[u8]) -> Result<Done, Error> {
        let what = format!("its attribute {}", name.to_string_lossy());
        match self.place.set_xattr(name, value) {
            // The inode has no room for it; the disk need not be full.
            Err(errno @ Errno::NOSPC) => {
                self.say(format!("could not restore {what}: {errno}"));
                Ok(Done::No)
            }
            other => self.set(&what, other),
        }
    }

    /// Sets ACLs and mode. Returns the resulting mode, if it is known.
    fn access(&mut self, owned: Owned) -> Result<Option<u32>, Error> {
        let of = |text: &Option<Vec<u8>>| text.as_deref().map(acl::to_binary);
        let attributes = &self.member.attributes;
        let (saved, default) = (of(&attributes.access_acl), of(&attributes.default_acl));
        for acl in [&saved, &default].into_iter().flatten() {
            if let Err(reason) = acl {
                self.say(format!("could not restore its ACL: {reason}"));
            }
        }
        let plan = access::plan(self.member.mode, saved.as_ref(), owned);
        for cut in &plan.cut {
            self.say(*cut);
        }
        let mut mode = plan.mode;
        match self.place.remove_acls(self.member.kind) {
            Ok(Acls::NoneThere) => {}
            Ok(Acls::Other) => self.new = None,
            Err(errno) => {
                self.new = None;
                self.say(format!(
                    "could not remove the ACL that the target gave it, so its group has no access: {errno}"
                ));
                mode &= !0o070;
            }
        }
        let set = match self.new {
            Some(stat) if stat.st_mode & 0o7777 == mode => Done::Yes,
            _ => self.set("its mode", self.place.set_mode(mode))?,
        };
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

    /// Reports attributes that were set without an error but differ.
    fn check(&mut self, owned: Owned, mode: Option<u32>, timed: Done) {
        let Ok(stat) = self.place.stat() else { return };
        let keeps = "the file system stored another value";
        if owned == Owned::BOTH && (stat.st_uid, stat.st_gid) != (self.member.uid, self.member.gid) {
            self.say_of_many(format!("could not restore its owner and group: {keeps}"));
        }
        if mode.is_some_and(|mode| mode != stat.st_mode & 0o7777) {
            self.say(format!("could not restore its mode: {keeps}"));
        }
        if timed == Done::Yes && seconds(&stat).abs_diff(self.member.mtime.seconds) > CLOCK {
            self.say(format!("could not restore its time: {keeps}"));
        }
    }
}

// The field's type differs between architectures.
#[allow(clippy::useless_conversion)]
fn seconds(stat: &Stat) -> i64 {
    stat.st_mtime.into()
}

/// Before Linux 6.6 there is no fchmodat that does not follow links, so the node is opened first.
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

    /// Removes ACLs that were inherited from the target or existed before. Fails if an ACL stays.
    pub(super) fn remove_acls(&self, kind: FileKind) -> Result<Acls, Errno> {
        let names: &[&CStr] = if kind == FileKind::Directory { &[ACCESS_ACL, DEFAULT_ACL] } else { &[ACCESS_ACL] };
        let mut acls = Acls::NoneThere;
        for name in names {
            if self.length_of(name) == Err(Errno::NODATA) {
                continue;
            }
            acls = Acls::Other;
            let removed = match self {
                Self::Open(file) => fremovexattr(file, *name),
                Self::Name(parent, file) => lremovexattr(path_below(parent.as_fd(), file), *name),
            };
            match removed {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => {}
                // File systems without ACLs return various errors.
                Err(errno) if self.length_of(name).is_ok_and(|length| length > 0) => return Err(errno),
                Err(_) => {}
            }
        }
        Ok(acls)
    }

    fn length_of(&self, attribute: &CStr) -> Result<usize, Errno> {
        match self {
            Self::Open(file) => fgetxattr_query(file, attribute),
            Self::Name(parent, file) => lgetxattr_query(path_below(parent.as_fd(), file), attribute),
        }
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
