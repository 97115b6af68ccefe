//! What leaves one member out of a restore, and what ends the restore: decisions, without I/O.
//!
//! One rule for every way to restore (whole trees, `--include`, one item, several): what is in the way is replaced only
//! with `--overwrite`, and only by something of its own type. Anything else stays as it is, and the member is left out,
//! counted and said. So is what the file system or this user cannot have. Only what would fail for every member after it
//! as well ends the restore.

use std::io;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Class, Report};

/// Why one member is left out while the rest is restored. The message names no path, so that equal ones can be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// [`Class::Conflict`] for what is in the way, [`Class::Local`] for what the system refuses; never one of the data.
    pub(super) class: Class,
    pub(super) message: String,
}

/// What becomes of a step that did not work.
#[derive(Debug)]
pub(super) enum Failure<E> {
    LeftOut(Refusal),
    Ends(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Ends(error)
    }
}

impl Refusal {
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self { class: Class::Conflict, message: format!("left out: {}", message.into()) }
    }

    /// A system call failed for this member alone.
    pub(super) fn system(action: &str, errno: Errno) -> Self {
        let hint = match errno {
            Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => "; the file system may not take this name or this type",
            Errno::FBIG => "; the file system takes no file of this size",
            Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::NOTSUP => {
                "; this user may not, or the file system cannot"
            }
            _ => "",
        };
        Self { class: Class::Local, message: format!("left out: {action}: {errno}{hint}") }
    }
}

/// Whether what follows would fail as well: no room, a device or server that is gone, a limit of the process.
pub(super) const fn ends(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::ROFS
            | Errno::NOMEM
            | Errno::MFILE
            | Errno::NFILE
            | Errno::STALE
            | Errno::NOTCONN
            | Errno::HOSTDOWN
            | Errno::TIMEDOUT
            | Errno::BADF
    )
}

/// Whether `found` may be replaced by, or for a directory used as, something of type `wanted`.
pub(super) fn in_the_way(found: FileType, wanted: FileType) -> Result<(), Refusal> {
    if found == wanted {
        return Ok(());
    }
    let (found, wanted) = (noun(found), noun(wanted));
    Err(Refusal::conflict(format!(
        "{found} is in the way; expected {wanted} or nothing: move it away and restore again"
    )))
}

/// Something is there, and `--overwrite` was not given.
pub(super) fn there_already() -> Refusal {
    Refusal::conflict("something is there already; --overwrite replaces it")
}

/// Whether a file system of this type (`linux/magic.h`) keeps `name.` as `name`: FAT, exFAT, NTFS, SMB.
pub(super) const fn drops_dots(kind: rustix::fs::FsWord) -> bool {
    matches!(kind.cast_unsigned() & 0xffff_ffff, 0x4d44 | 0x2011_bab0 | 0x7366_746e | 0xff53_4d42 | 0xfe53_4d42)
}

const fn noun(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something unknown",
    }
}

/// The report of a failure of the target that ended the restore.
pub(super) fn report(message: String, error: &io::Error) -> Report {
    Report { remedy: remedy(error).map(Into::into), ..Report::new(Class::Local, message) }
}

fn remedy(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::NOSPC | Errno::DQUOT => {
            Some("make room in the target's file system (inodes too: `df -i`) or restore into another one")
        }
        Errno::ROFS => Some("the target's file system is mounted read-only: remount it, or restore into another one"),
        Errno::IO | Errno::STALE | Errno::NOTCONN | Errno::HOSTDOWN | Errno::TIMEDOUT => {
            Some("the target's device or server is in trouble (see the kernel's log): restore into another file system")
        }
        Errno::ACCESS | Errno::PERM => {
            Some("this user may not write there: restore as root, or into another directory")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [FileType; 7] = [
        FileType::RegularFile,
        FileType::Directory,
        FileType::Symlink,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ];

    #[test]
    fn only_its_own_type_takes_the_place_of_what_is_there() {
        for found in TYPES {
            for wanted in TYPES {
                let refusal = in_the_way(found, wanted).err();
                assert_eq!(refusal.is_none(), found == wanted, "{found:?} {wanted:?}");
                assert!(refusal.is_none_or(|refusal| refusal.class == Class::Conflict));
            }
        }
        let refusal = in_the_way(FileType::Symlink, FileType::Directory).unwrap_err();
        assert_eq!(
            refusal.message,
            "left out: a symbolic link is in the way; expected a directory or nothing: move it away and restore again"
        );
    }

    #[test]
    fn only_what_hits_every_member_ends_a_restore() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS, Errno::STALE, Errno::MFILE] {
            assert!(ends(errno), "{errno}");
        }
        for errno in [
            Errno::INVAL,
            Errno::NOSYS,
            Errno::NOTSUP,
            Errno::OPNOTSUPP,
            Errno::PERM,
            Errno::ACCESS,
            Errno::MLINK,
            Errno::XDEV,
            Errno::NAMETOOLONG,
            Errno::ILSEQ,
            Errno::FBIG,
            Errno::TXTBSY,
            Errno::BUSY,
            Errno::NOTDIR,
            Errno::ISDIR,
            Errno::LOOP,
            Errno::NOENT,
            Errno::OVERFLOW,
        ] {
            assert!(!ends(errno), "{errno}");
            assert_eq!(Refusal::system("creating it", errno).class, Class::Local);
        }
        assert!(drops_dots(0x4d44) && drops_dots(0xff53_4d42) && !drops_dots(0xef53));
        let said = |errno: Errno| remedy(&errno.into());
        assert!(said(Errno::NOSPC).unwrap().contains("room") && said(Errno::ROFS).unwrap().contains("read-only"));
    }
}
