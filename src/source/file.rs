//! One regular file or block device as a stream of its bytes.
//!
//! The size is taken when it is opened, and no more than that is yielded, so a file that something appends to ends. A
//! file that shrinks ends early. Both, and a changed modification time, are a warning. A read error makes the item
//! worthless: there is no stream around it that could say where the zeros are. Links to it are followed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, fstat, openat, seek};
use rustix::io::Errno;

use super::page_cache::Reader;
use super::tree::meta::Meta;
use super::{Error, Source, Warning};

/// A file's stream.
#[derive(Debug)]
pub struct FileSource {
    fd: OwnedFd,
    path: PathBuf,
    size: u64,
    /// As it was opened; absent for a device, whose time says nothing about its data.
    opened: Option<Meta>,
    offset: u64,
    reader: Reader,
    warnings: Vec<Warning>,
    done: bool,
}

impl FileSource {
    /// # Errors
    /// When it cannot be opened, or is neither a regular file nor a block device.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed =
            |action: &'static str| move |error: Errno| Error::Io { action, path: path.to_owned(), error: error.into() };
        // A fifo would hang without NONBLOCK; for a file and a block device it changes nothing.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(failed("opening"))?;
        let stat = fstat(&fd).map_err(failed("looking at"))?;
        let meta = Meta::from(stat);
        let (size, opened) = match meta.file_type {
            FileType::RegularFile => (meta.size, Some(meta)),
            FileType::BlockDevice => match seek(&fd, SeekFrom::End(0)).map_err(failed("measuring"))? {
                0 => {
                    let path = path.display();
                    return Err(Error::Invalid(format!(
                        "the block device {path} has 0 bytes: nothing is attached to it; expected a disk"
                    )));
                }
                size => (size, None),
            },
            FileType::Directory => {
                let path = path.display();
                return Err(Error::Invalid(format!("{path} is a directory; a source of type \"tree\" stores one")));
            }
            _ => {
                let path = path.display();
                return Err(Error::Invalid(format!("{path} is neither a regular file nor a block device")));
            }
        };
        let reader = Reader::start(&fd, size);
        Ok(Self { fd, path: path.to_owned(), size, opened, offset: 0, reader, warnings: Vec::new(), done: false })
    }

    fn warn(&mut self, message: String) {
        self.warnings.push(Warning { path: self.path.clone(), message });
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.reader.end(&self.fd);
        let Some(opened) = self.opened else { return };
        let now = match fstat(&self.fd) {
            Ok(stat) => Meta::from(stat),
            Err(error) => return self.warn(format!("it cannot be looked at after it was read: {error}")),
        };
        let (size, read) = (self.size, self.offset);
        if read < size {
            self.warn(format!("it shrank while it was read: {read} bytes of {size} are stored"));
        } else if now.size > size {
            let grown = now.size;
            self.warn(format!("it grew while it was read: from {size} bytes to {grown}; what was added is left out"));
        } else if now.mtime != opened.mtime || now.size != size {
            self.warn("it changed while it was read".to_owned());
        }
    }
}

impl Source for FileSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let length = if wanted == 0 || self.done {
            0
        } else {
            let read = self.reader.read_at(&self.fd, &mut buffer[..wanted], self.offset);
            read.map_err(|error| Error::Io { action: "reading", path: self.path.clone(), error: error.into() })?
        };
        self.offset += length as u64;
        if length == 0 {
            self.finish();
        }
        Ok(length)
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    fn size_hint(&self) -> Option<u64> {
        Some(self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn drain(source: &mut FileSource) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 7];
        loop {
            match source.read(&mut buffer).unwrap() {
                0 => return all,
                length => all.extend_from_slice(&buffer[..length]),
            }
        }
    }

    #[test]
    fn a_file_is_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"some twenty bytes or so").unwrap();
        let mut source = FileSource::open(&path).unwrap();
        assert_eq!(source.size_hint(), Some(23));
        assert_eq!(drain(&mut source), b"some twenty bytes or so");
        assert_eq!(source.take_warnings(), []);
        assert_eq!(source.read(&mut [0; 4]).unwrap(), 0);
    }

    #[test]
    fn what_changes_under_the_reader_is_a_warning() {
        type Change = fn(&std::fs::File);
        let cases: [(&str, Change, &str, usize); 3] = [
            ("shrinks", |file| file.set_len(5).unwrap(), "it shrank", 7),
            ("grows", |mut file| file.write_all(b"more").unwrap(), "it grew", 20),
            ("is written to", |file| file.set_modified(std::time::UNIX_EPOCH).unwrap(), "it changed", 20),
        ];
        for (name, change, expected, length) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            let mut file = std::fs::File::create(&path).unwrap();
            file.write_all(&[b'x'; 20]).unwrap();
            let mut source = FileSource::open(&path).unwrap();
            assert_eq!(source.read(&mut [0; 7]).unwrap(), 7);
            change(&file);
            assert_eq!(7 + drain(&mut source).len(), length, "{name}");
            let warnings = source.take_warnings();
            assert_eq!(warnings.len(), 1, "{name}");
            assert!(warnings[0].message.starts_with(expected), "{name}: {}", warnings[0].message);
            assert_eq!(warnings[0].path, path);
        }
    }

    #[test]
    fn what_is_not_a_file_is_refused_and_nothing_hangs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(FileSource::open(dir.path().join("none")), Err(Error::Io { .. })));
        let error = FileSource::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("type \"tree\""), "{error}");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR).unwrap();
        assert!(matches!(FileSource::open(&fifo), Err(Error::Invalid(_))));
    }
}
