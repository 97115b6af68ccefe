//! One regular file or block device as a stream of its bytes.
//!
//! The size is read when the file is opened, and the stream yields no more than that, so a file that grows still ends. A file that
//! shrinks ends early. Both, and a changed modification time, give a warning. But a file that has more bytes than its size although
//! nobody writes to it, as in procfs, is read to its end ([`announced`]). A read error fails the item: no header around the stream could
//! tell where zeros replace data. Symbolic links to the file are followed.
//!
//! If another process has a lease on the file, the first read waits for it, not the opening: that may take a minute ([`open`]).

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, SeekFrom, fstat, seek};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::open::{OPEN, Patience, Refusal, open};
use super::page_cache::Reader;
use super::tree::meta::Meta;
use super::{Error, Source, Warning, announced};

#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    /// `None` while another process has a lease on it.
    file: Option<Opened>,
    patience: Patience,
    warnings: Vec<Warning>,
    done: bool,
}

#[derive(Debug)]
struct Opened {
    fd: OwnedFd,
    size: u64,
    /// As at the opening; `None` for a device, whose time does not tell whether its data changed.
    meta: Option<Meta>,
    /// Bytes yielded; more than `size` if the file has more than it reports.
    offset: u64,
    reader: Reader,
}

impl FileSource {
    /// # Errors
    /// When it cannot be opened, or is neither a regular file nor a block device.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = match open(CWD, path, OPEN) {
            Ok(fd) => Some(Opened::new(fd, path)?),
            Err(Errno::AGAIN | Errno::INTR | Errno::STALE) => None,
            Err(error) => return Err(io_error("open", path)(error)),
        };
        let patience = Patience::default();
        Ok(Self { path: path.to_owned(), file, patience, warnings: Vec::new(), done: false })
    }

    /// Stops reading, and waiting for another process's lease, when `stop` is cancelled.
    #[must_use]
    pub fn stopped_by(mut self, stop: CancellationToken) -> Self {
        self.patience.stopped_by(stop);
        self
    }

    /// The open file; waits for a lease if necessary.
    fn file(&mut self) -> Result<&mut Opened, Error> {
        if self.file.is_none() {
            let opened = self.patience.open(|| open(CWD, &self.path, OPEN));
            let opened = opened.map_err(|refusal| match refusal.error {
                Errno::AGAIN if self.patience.is_cancelled() => Error::Cancelled,
                _ => refused(&self.path, refusal),
            })?;
            self.file = Some(Opened::new(opened, &self.path)?);
        }
        Ok(self.file.as_mut().expect("opened just above"))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(Errno) -> Error {
    move |error| Error::Io { action, path: path.to_owned(), error: error.into() }
}

fn refused(path: &Path, refusal: Refusal) -> Error {
    let kind = std::io::Error::from(refusal.error).kind();
    Error::Io { action: "open", path: path.to_owned(), error: std::io::Error::new(kind, refusal.to_string()) }
}

impl Opened {
    fn new(fd: OwnedFd, path: &Path) -> Result<Self, Error> {
        let meta = Meta::from(fstat(&fd).map_err(io_error("inspect", path))?);
        let invalid = |what: &str| Err(Error::Invalid(format!("{} {what}", path.display())));
        let (size, meta) = match meta.file_type {
            FileType::RegularFile if announced::is_memory(fd.as_fd(), &meta) => {
                return invalid("maps the machine's memory, which is not stored");
            }
            FileType::RegularFile => (meta.size, Some(meta)),
            FileType::BlockDevice => match seek(&fd, SeekFrom::End(0)).map_err(io_error("measure", path))? {
                0 => return invalid("has 0 bytes: nothing is attached to that block device; expected a disk"),
                size => (size, None),
            },
            FileType::Directory => return invalid("is a directory: use a source of type \"tree\" to store it"),
            _ => return invalid("is neither a regular file nor a block device"),
        };
        let reader = Reader::start(&fd, size);
        Ok(Self { fd, size, meta, offset: 0, reader })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let left = self.size.saturating_sub(self.offset);
        let length = if left > 0 {
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.reader.read_at(&self.fd, &mut buffer[..wanted], self.offset)?
        } else {
            self.read_beyond(buffer)?
        };
        self.offset += length as u64;
        Ok(length)
    }

    /// Reads past the reported size, unless somebody added those bytes while the file was read.
    fn read_beyond(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Some(meta) = &self.meta else { return Ok(0) };
        let length = match self.reader.read_at(&self.fd, buffer, self.offset) {
            // A file that ends at its size need not support reading past it.
            Err(_) if self.offset == self.size && self.size > 0 => 0,
            other => other?,
        };
        Ok(if length > 0 && announced::is_written_to(self.fd.as_fd(), meta) { 0 } else { length })
    }

    /// The warning about the file at its end, if any.
    fn finish(&self) -> Option<String> {
        self.reader.end(&self.fd);
        let opened = self.meta.as_ref()?;
        let now = match fstat(&self.fd) {
            Ok(stat) => Meta::from(stat),
            Err(error) => return Some(format!("could not inspect it after reading it: {error}")),
        };
        let (size, read) = (self.size, self.offset);
        let (touched, resized) = (now.mtime != opened.mtime, now.size != size);
        if read < size && (touched || resized || !announced::may_be_short(opened)) {
            Some(format!("it shrank while it was read: {read} bytes of {size} are stored"))
        } else if now.size > size.max(read) {
            let grown = now.size;
            Some(format!("it grew while it was read: from {size} bytes to {grown}; the added bytes are left out"))
        } else {
            (touched || (resized && read == size)).then(|| "it changed while it was read".to_owned())
        }
    }
}

impl Source for FileSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() || self.done {
            return Ok(0);
        }
        if self.patience.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let length = self.file()?.read(buffer).map_err(io_error("read", &self.path))?;
        if length == 0 {
            self.done = true;
            let message = self.file()?.finish();
            self.warnings.extend(message.map(|message| Warning { path: self.path.clone(), message }));
        }
        Ok(length)
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }

    fn size_hint(&self) -> Option<u64> {
        self.file.as_ref().map(|file| file.size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{Mode, mkfifoat};

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
    fn a_cancelled_file_is_not_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"some twenty bytes or so").unwrap();
        let stop = CancellationToken::new();
        let mut source = FileSource::open(&path).unwrap().stopped_by(stop.clone());
        assert_eq!(source.read(&mut [0; 4]).unwrap(), 4);
        stop.cancel();
        assert!(matches!(source.read(&mut [0; 4]), Err(Error::Cancelled)));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_a_warning() {
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
    fn any_other_type_than_a_file_is_refused_and_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(FileSource::open(dir.path().join("none")), Err(Error::Io { .. })));
        let error = FileSource::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("type \"tree\""), "{error}");
        let fifo = dir.path().join("fifo");
        mkfifoat(CWD, &fifo, Mode::RUSR).unwrap();
        assert!(matches!(FileSource::open(&fifo), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_generated_file_is_stored_whole_despite_its_size() {
        for path in ["/proc/version", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            let Ok(expected) = std::fs::read(path) else { continue };
            let mut source = FileSource::open(path).unwrap();
            assert_ne!(source.size_hint(), Some(expected.len() as u64), "{path}");
            assert_eq!(drain(&mut source), expected, "{path}");
            assert_eq!(source.take_warnings(), [], "{path}");
        }
    }
}
