//! Fills a volume: its file system, or the block device itself.
//!
//! # What it promises
//! Nothing is written over what somebody else wrote. A file system must be empty, but for `lost+found`; a device must begin with zeros.
//! While it is being filled it has a mark, which names the backup: a file [`MARK`], or the device's first [`HEAD`] bytes, whose own content
//! is written last. So a volume that is filled in part is never mistaken for a whole one (no file system is recognised on such a device),
//! and a restore that was interrupted at any point is continued by the same command.
//!
//! # What it costs
//! A file system is flushed once at the end; a device needs [`HEAD`] bytes more of memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, Timestamps};

use super::extract::{self, Root};
use super::failure::{Error, local};
use super::writeback::Writeback;

/// The file in a volume that is being filled.
const MARK: &str = ".penstock-restore";

/// What mkfs makes.
const LOST_AND_FOUND: &str = "lost+found";

/// Begins the mark of a device.
const MAGIC: &[u8] = b"penstock restore in progress: ";

/// Bytes at a device's beginning that are written last: superblocks, labels and partition tables are in them.
const HEAD: usize = 4096;

/// Bytes at a device's beginning that must be zero. btrfs has its superblock at 64 KiB.
const LOOKED_AT: usize = 1 << 20;

const BUFFER: usize = 256 << 10;

/// A mark's longest text: a backup's name.
const LONGEST: usize = 1024;

pub(super) fn is_device(target: &Path) -> bool {
    target.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// A file system that is being filled.
#[derive(Debug)]
pub(super) struct Volume {
    folder: PathBuf,
}

impl Volume {
    /// Marks the volume, or finds the mark of an interrupted restore of the same `backup`.
    pub(super) fn begin(folder: &Path, backup: &str) -> Result<(Self, Root), Error> {
        let root = extract::make_root(folder).map_err(local("create the target", folder))?;
        let volume = Self { folder: folder.to_owned() };
        if let Some(found) = volume.found()? {
            return if found == backup { Ok((volume, root)) } else { Err(other(folder, found, backup)) };
        }
        for entry in std::fs::read_dir(folder).map_err(local("read the target", folder))? {
            let name = entry.map_err(local("read the target", folder))?.file_name();
            if name != LOST_AND_FOUND {
                return Err(Error::NotFresh { target: folder.to_owned(), found: format!("it has {}", name.display()) });
            }
        }
        let path = volume.mark();
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(&path);
        made.and_then(|mut file| file.write_all(backup.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(local("write", &path))?;
        Ok((volume, root))
    }

    fn mark(&self) -> PathBuf {
        self.folder.join(MARK)
    }

    /// The backup that the mark names. A mark that was cut by a crash names none, and nothing was restored after it.
    fn found(&self) -> Result<Option<String>, Error> {
        let path = self.mark();
        let no_links = OFlags::NOFOLLOW.bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(no_links).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(local("open", &path)(error)),
        };
        let mut text = String::new();
        file.take(LONGEST as u64).read_to_string(&mut text).map_err(local("read", &path))?;
        if text.is_empty() {
            std::fs::remove_file(&path).map_err(local("remove", &path))?;
            return Ok(None);
        }
        Ok(Some(text))
    }

    /// Flushes the file system, and removes the mark. The folder keeps the time that was restored.
    pub(super) fn end(self) -> Result<(), Error> {
        let folder = File::open(&self.folder).map_err(local("open", &self.folder))?;
        let flush = || rustix::fs::syncfs(&folder).map_err(io::Error::from);
        flush().map_err(local("flush", &self.folder))?;
        let stat = rustix::fs::fstat(&folder).map_err(|errno| local("inspect", &self.folder)(errno.into()))?;
        std::fs::remove_file(self.mark()).map_err(local("remove", self.mark()))?;
        let (access, modification) = ((stat.st_atime, stat.st_atime_nsec), (stat.st_mtime, stat.st_mtime_nsec));
        let time = |(seconds, nanoseconds): (i64, u64)| rustix::fs::Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
        };
        let times = Timestamps { last_access: time(access), last_modification: time(modification) };
        // Without the right to set it, the time stays that of the removal.
        let _ = rustix::fs::utimensat(CWD, &self.folder, &times, AtFlags::empty());
        flush().map_err(local("flush", &self.folder))
    }
}

/// Writes a stream of `length` bytes onto a device; what is behind them stays. Returns how many were written.
pub(super) fn device(reader: impl Read, path: &Path, length: u64, backup: &str) -> Result<u64, Error> {
    // Fails for a device that is mounted.
    let exclusive = OFlags::EXCL.bits().cast_signed();
    let device = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path);
    onto(&device.map_err(local("open", path))?, reader, path, length, backup)
}

fn onto(device: &File, mut reader: impl Read, path: &Path, length: u64, backup: &str) -> Result<u64, Error> {
    let size = (&*device).seek(SeekFrom::End(0)).map_err(local("inspect", path))?;
    if size < length {
        return Err(Error::TooSmall { target: path.to_owned(), size, length });
    }
    begin(device, path, size, backup)?;
    let write = |bytes: &[u8], at: u64| device.write_all_at(bytes, at).map_err(local("write", path));
    let (mut head, mut buffer, mut total) = (Vec::with_capacity(HEAD), vec![0; BUFFER], 0_u64);
    let mut writeback = Writeback::default();
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(local("read", "the stream")(error)),
        };
        let (for_head, rest) = buffer[..count].split_at(count.min(HEAD - head.len()));
        head.extend_from_slice(for_head);
        if !rest.is_empty() {
            write(rest, total + for_head.len() as u64)?;
            writeback.wrote(device, rest.len()).map_err(local("flush", path))?;
        }
        total += count as u64;
    }
    writeback.end(device).map_err(local("flush", path))?;
    head.resize(HEAD.min(usize::try_from(size).unwrap_or(HEAD)), 0);
    write(&head, 0)?;
    device.sync_all().map_err(local("flush", path))?;
    Ok(total)
}

/// Marks the device, unless it has something of another's.
fn begin(device: &File, path: &Path, size: u64, backup: &str) -> Result<(), Error> {
    let mut first = vec![0; LOOKED_AT.min(usize::try_from(size).unwrap_or(LOOKED_AT))];
    device.read_exact_at(&mut first, 0).map_err(local("read", path))?;
    if let Some(found) = first.strip_prefix(MAGIC) {
        let found: Vec<u8> = found.iter().copied().take_while(|byte| *byte != 0).take(LONGEST).collect();
        let found = String::from_utf8_lossy(&found).into_owned();
        return if found == backup { Ok(()) } else { Err(other(path, found, backup)) };
    }
    if first.iter().any(|byte| *byte != 0) {
        let found = "its beginning is not empty".to_owned();
        return Err(Error::NotFresh { target: path.to_owned(), found });
    }
    let mut mark = [MAGIC, backup.as_bytes()].concat();
    mark.resize(HEAD.min(first.len()), 0);
    device.write_all_at(&mark, 0).and_then(|()| device.sync_all()).map_err(local("write", path))
}

fn other(target: &Path, found: String, backup: &str) -> Error {
    Error::OtherBackup { target: target.to_owned(), found, backup: backup.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, Classify as _};

    const BACKUP: &str = "volumes/claim.shop.data@20261123T221300Z-4f9a2c";

    /// Fails after the bytes.
    struct Cut<'a>(&'a [u8]);

    impl Read for Cut<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("the connection ended"));
            }
            self.0.read(buffer)
        }
    }

    #[test]
    fn an_interrupted_restore_is_continued_and_another_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lost+found")).unwrap();
        let (volume, root) = Volume::begin(dir.path(), BACKUP).unwrap();
        assert_eq!(root, Root::There);
        std::fs::write(dir.path().join("half"), "x").unwrap();
        drop(volume);
        let error = Volume::begin(dir.path(), "volumes/claim.shop.data@other").unwrap_err();
        assert!(error.to_string().contains(BACKUP), "{error}");
        let (volume, _) = Volume::begin(dir.path(), BACKUP).unwrap();
        volume.end().unwrap();
        assert!(!dir.path().join(MARK).exists());
        let error = Volume::begin(dir.path(), BACKUP).unwrap_err();
        assert_eq!(error.class(), Class::Conflict, "it is whole now, and belongs to its pods");
    }

    #[test]
    fn the_time_of_the_folder_is_the_restored_one() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, _) = Volume::begin(dir.path(), BACKUP).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(dir.path()).unwrap().set_modified(time).unwrap();
        volume.end().unwrap();
        assert_eq!(dir.path().metadata().unwrap().modified().unwrap(), time);
    }

    #[test]
    fn a_device_that_is_filled_in_part_has_no_beginning() {
        let device = tempfile::tempfile().unwrap();
        device.set_len(4 << 20).unwrap();
        let content: Vec<u8> = (0..3_u32 << 20).map(|n| (n % 251) as u8 + 1).collect();
        let path = Path::new("/dev/x");
        let length = content.len() as u64;
        onto(&device, Cut(&content[..2 << 20]), path, length, BACKUP).unwrap_err();
        let mut found = vec![0; HEAD];
        device.read_exact_at(&mut found, 0).unwrap();
        assert!(found.starts_with(MAGIC));
        let error = onto(&device, &content[..], path, length, "another").unwrap_err();
        assert!(error.to_string().contains(BACKUP), "{error}");
        assert_eq!(onto(&device, &content[..], path, length, BACKUP).unwrap(), length);
        let mut found = vec![0; content.len()];
        device.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
        let error = onto(&device, &content[..], path, length, BACKUP).unwrap_err();
        assert_eq!(error.class(), Class::Conflict);
    }

    #[test]
    fn a_device_that_is_too_small_is_not_touched() {
        let device = tempfile::tempfile().unwrap();
        device.set_len(100).unwrap();
        let error = onto(&device, &[1_u8; 101][..], Path::new("/dev/x"), 101, BACKUP).unwrap_err();
        assert!(error.to_string().contains("100") && error.to_string().contains("101"), "{error}");
        let mut found = [1; 100];
        device.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [0; 100]);
        // A content that is smaller than a head.
        assert_eq!(onto(&device, &[7_u8; 50][..], Path::new("/dev/x"), 50, BACKUP).unwrap(), 50);
        device.read_exact_at(&mut found, 0).unwrap();
        assert_eq!((found[49], found[50]), (7, 0));
    }
}
