//! Checks whether a regular file has as many bytes as its stat reports.
//!
//! Files that a kernel or a FUSE server generates on reading (procfs, sysfs, cgroups, remote documents) report 0 bytes, a page, or an old
//! size. So each file is read once at its reported end. If it has more or fewer bytes there and nobody is writing to it, its stat is wrong:
//! the file is read to its end before its header is written, and copied to memory up to [`IN_MEMORY`] bytes, or to an unnamed temporary
//! file up to [`LIMIT`]. A larger file, or one that cannot be read, gives a warning and is stored with its reported size.
//!
//! Cost: one system call for each file, which touches no data if the size is right.

use std::io::{self, Seek as _, Write as _};
use std::os::fd::BorrowedFd;

use rustix::fs::{PROC_SUPER_MAGIC, fstat, fstatfs};
use rustix::io::{Errno, pread, read, retry_on_intr};
use tempfile::SpooledTempFile;

use super::tree::meta::Meta;

const IN_MEMORY: usize = 512 << 10;

/// The most bytes that are copied of one file.
const LIMIT: u64 = 64 << 20;

/// A file of at most this size with no blocks on disk may also be shorter than reported: sysfs reports a page, of at most 64 KiB.
const PAGE: u64 = 64 << 10;

const BUFFER: usize = 32 << 10;

/// The content that a file really has.
#[derive(Debug)]
pub(super) enum Extent {
    AsAnnounced,
    /// A copy of the whole file, to be read from the start.
    SetAside(SetAside),
    /// The content is unknown or too large to copy; the text says why.
    Unknown(String),
}

#[derive(Debug)]
pub(super) struct SetAside {
    pub(super) file: SpooledTempFile,
    pub(super) length: u64,
    /// Whether somebody wrote to the file while it was copied.
    pub(super) changed: bool,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("could not read it to its end: {0}")]
    Read(Errno),
    #[error("it has more than {} MiB, the limit for a file whose size is wrong", LIMIT >> 20)]
    TooMuch,
    #[error("could not copy it to a temporary file: {0}")]
    SetAside(#[from] io::Error),
}

/// Reads a file that was just opened at its reported end, and copies the file if it does not end there.
pub(super) fn examine(fd: BorrowedFd<'_>, meta: &Meta) -> Extent {
    let mut start = [0; 512];
    let found = if meta.size == 0 {
        // Without an offset: a file that cannot seek may have content too.
        retry_on_intr(|| read(fd, &mut start)).map(|count| (count, count == 0))
    } else {
        let last = u64::from(may_be_short(meta));
        let ends = |count: usize| count as u64 == last;
        retry_on_intr(|| pread(fd, &mut start[..2], meta.size - last)).map(|count| (0, ends(count))).or(Ok((0, true)))
    };
    let start = match found {
        Ok((_, true)) => return Extent::AsAnnounced,
        Ok((count, false)) => &start[..count],
        Err(error) => return Extent::Unknown(format!("could not read it: {error}")),
    };
    if is_written_to(fd, meta) {
        return Extent::AsAnnounced;
    }
    let set_aside = set_aside(fd, start, LIMIT);
    set_aside.map_or_else(
        |failure| {
            let size = meta.size;
            Extent::Unknown(format!("its reported size of {size} bytes is wrong; {size} bytes are stored: {failure}"))
        },
        Extent::SetAside,
    )
}

/// Whether a file may be shorter than reported although nobody truncated it.
pub(super) const fn may_be_short(meta: &Meta) -> bool {
    meta.allocated == 0 && meta.size > 0 && meta.size <= PAGE
}

/// Whether a file of 0 bytes has no content, as far as a read shows.
pub(super) fn is_empty(fd: BorrowedFd<'_>) -> bool {
    retry_on_intr(|| read(fd, &mut [0])) == Ok(0)
}

/// Whether the size differs because somebody writes to the file: writing changes its time too.
pub(super) fn is_written_to(fd: BorrowedFd<'_>, meta: &Meta) -> bool {
    fstat(fd).map(Meta::from).is_ok_and(|now| now.size != meta.size && now.mtime != meta.mtime)
}

/// Whether a file maps all of the machine's memory (`/proc/kcore`), which is not content.
pub(super) fn is_memory(fd: BorrowedFd<'_>, meta: &Meta) -> bool {
    meta.allocated == 0 && meta.size > LIMIT && fstatfs(fd).is_ok_and(|fs| fs.f_type == PROC_SUPER_MAGIC)
}

/// Copies `start`, which was read before, and the rest of the file.
///
/// Compares the times around the reading alone: sysfs and cgroups change them when somebody first asks for a file's attributes.
fn set_aside(fd: BorrowedFd<'_>, start: &[u8], limit: u64) -> Result<SetAside, Failure> {
    let mtime = || fstat(fd).map(|stat| Meta::from(stat).mtime);
    let before = mtime();
    let mut file = tempfile::spooled_tempfile(IN_MEMORY);
    file.write_all(start)?;
    let (mut length, mut buffer) = (start.len() as u64, vec![0; BUFFER]);
    loop {
        let count = retry_on_intr(|| read(fd, &mut buffer)).map_err(Failure::Read)?;
        if count == 0 {
            break;
        }
        length += count as u64;
        if length > limit {
            return Err(Failure::TooMuch);
        }
        file.write_all(&buffer[..count])?;
    }
    file.rewind()?;
    Ok(SetAside { file, length, changed: mtime() != before })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::path::Path;

    use super::*;

    fn opened(path: impl AsRef<Path>) -> (File, Meta) {
        let file = File::open(path).unwrap();
        let meta = Meta::from(fstat(&file).unwrap());
        (file, meta)
    }

    fn content(extent: Extent) -> Option<Vec<u8>> {
        match extent {
            Extent::AsAnnounced => None,
            Extent::SetAside(SetAside { mut file, length, changed }) => {
                assert!(!changed);
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes.len() as u64, length);
                Some(bytes)
            }
            Extent::Unknown(complaint) => panic!("{complaint}"),
        }
    }

    #[test]
    fn an_honest_file_is_as_announced() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("empty", 0), ("small", 10), ("large", 300_000)] {
            let path = dir.path().join(name);
            fs::write(&path, vec![b'x'; bytes]).unwrap();
            let (file, meta) = opened(&path);
            assert_eq!(content(examine(file.as_fd(), &meta)), None, "{name}");
        }
        // No block on disk, and yet as long as reported.
        let path = dir.path().join("hole");
        File::create(&path).unwrap().set_len(4096).unwrap();
        let (file, meta) = opened(&path);
        assert!(may_be_short(&meta));
        assert_eq!(content(examine(file.as_fd(), &meta)), None);
    }

    #[test]
    fn a_file_that_the_kernel_generates_is_copied_whole() {
        for path in ["/proc/version", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            let Ok(expected) = fs::read(path) else { continue };
            let (file, meta) = opened(path);
            assert_ne!(meta.size, expected.len() as u64, "{path}");
            assert_eq!(content(examine(file.as_fd(), &meta)), Some(expected), "{path}");
        }
    }

    /// A file with more or fewer bytes than its stat reports, and one that somebody has written to.
    #[test]
    fn another_size_is_a_change_only_when_the_time_changed_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [b'x'; 3000]).unwrap();
        for (said, allocated, set_aside) in [(0, 0, true), (10, 4096, true), (3001, 0, true), (3001, 4096, false)] {
            let (file, meta) = opened(&path);
            let said = Meta { size: said, allocated, ..meta };
            let found = content(examine(file.as_fd(), &said));
            assert_eq!(found, set_aside.then(|| vec![b'x'; 3000]), "{said:?}");
        }
        let (file, meta) = opened(&path);
        let mut writer = File::options().append(true).open(&path).unwrap();
        writer.write_all(b"more").unwrap();
        writer.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(content(examine(file.as_fd(), &meta)), None);
    }

    #[test]
    fn an_unreadable_or_too_large_file_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, [b'x'; 3000]).unwrap();
        let (file, _) = opened(&path);
        assert!(matches!(set_aside(file.as_fd(), b"", 2999), Err(Failure::TooMuch)));
        let file = File::options().write(true).open(&path).unwrap();
        let meta = Meta { size: 0, ..Meta::from(fstat(&file).unwrap()) };
        let Extent::Unknown(complaint) = examine(file.as_fd(), &meta) else { panic!("it cannot be read") };
        assert!(complaint.starts_with("could not read it"), "{complaint}");
    }
}
