//! The result of `fstat`, in the types that the index uses.

use rustix::fs::{FileType, Stat};

use crate::format::index::FileTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) file_type: FileType,
    /// Apparent size in bytes; 0 for inodes without data.
    pub(crate) size: u64,
    /// Bytes on disk.
    pub(crate) allocated: u64,
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: FileTime,
    pub(crate) ctime: FileTime,
    pub(crate) inode: u64,
    pub(crate) device: u64,
    pub(crate) links: u64,
    /// Major and minor number of a device node.
    pub(crate) rdev: (u32, u32),
}

impl Meta {
    /// Device and inode number, which identify the file.
    pub(crate) const fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

#[cfg(test)]
use crate::format::index::{FileEntry, FileKind};

#[cfg(test)]
impl Meta {
    /// A regular file with this many names.
    pub(crate) fn of_test(links: u64) -> Self {
        let time = FileTime { seconds: 1000, nanoseconds: 5 };
        Self {
            file_type: FileType::RegularFile,
            size: 10,
            allocated: 4096,
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: time,
            ctime: time,
            inode: 7,
            device: 1,
            links,
            rdev: (0, 0),
        }
    }

    /// Its member in an older backup.
    pub(crate) fn entry_of_test(path: &[u8], link: &[u8]) -> FileEntry {
        let Self { size, mode, uid, gid, mtime, ctime, inode, .. } = Self::of_test(1);
        let (path, link, kind, device) = (path.to_vec(), link.to_vec(), FileKind::Regular, 99);
        let (member_start, content_start, content_len) = (1024, 1536, 10);
        FileEntry {
            path,
            kind,
            size,
            mode,
            uid,
            gid,
            mtime,
            ctime,
            inode,
            device,
            link,
            member_start,
            content_start,
            content_len,
        }
    }
}

impl From<Stat> for Meta {
    // The fields' widths differ between architectures, so a conversion may be needless on some.
    #[allow(clippy::useless_conversion)]
    fn from(stat: Stat) -> Self {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let regular = file_type == FileType::RegularFile;
        Self {
            file_type,
            size: if regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: time(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            ctime: time(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
            inode: stat.st_ino.into(),
            device: stat.st_dev.into(),
            links: stat.st_nlink.into(),
            rdev: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        }
    }
}

fn time(seconds: i64, nanoseconds: u64) -> FileTime {
    FileTime { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) }
}
