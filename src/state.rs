//! The state directory: what must outlive the process, and who may write it.
//!
//! - **One agent at a time**: [`StateDir::lock`] takes an exclusive lock that the kernel gives back when the process ends, however it ends.
//!   Who comes second is told who was first.
//! - **Durable**: a file appears whole or not at all, and what was written is still there after a power failure
//!   ([`replace`]): temporary file, fsync, rename, fsync of the folder.
//! - **Failure** is [`Class::Local`]: the disk is full or read-only. Nothing here is retried.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Class, Classify, Report};

const LOCK: &str = "lock";

/// The lock file holds two words; more is not ours.
const MAX_LOCK: u64 = 64;

/// Which agent holds the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Daemon,
    Backup,
}

impl Holder {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Backup => "backup",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Daemon, Self::Backup].into_iter().find(|holder| holder.as_str() == word)
    }
}

/// Another agent's, as far as it said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    pub holder: Option<Holder>,
    pub pid: Option<u32>,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.holder {
            Some(Holder::Daemon) => "the daemon",
            Some(Holder::Backup) => "another `penstock backup`",
            None => "another process",
        })?;
        self.pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the state directory {} is in use by {other}", .path.display())]
    InUse { path: PathBuf, other: Other },
    #[error("{action} {}: {error}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { action, path, error }
    }
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::InUse { other, .. } => {
                let remedy = match other.holder {
                    Some(Holder::Daemon) => {
                        "`penstock trigger JOB` asks the daemon to run the job now; a backup outside of it needs a configuration with \
                         another state_dir"
                    }
                    Some(Holder::Backup) | None => {
                        "wait until it has ended, or use a configuration with another state_dir"
                    }
                };
                Report::new(Class::Busy, self.to_string()).remedy(remedy)
            }
            Self::Io { .. } => Report::new(Class::Local, self.to_string())
                .remedy("state_dir must be a folder on a local disk that this user may write, with some free space"),
        }
    }
}

/// The state directory, held by this process until dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The lock is the open file's.
    lock: File,
}

impl Drop for StateDir {
    fn drop(&mut self) {
        unlock(&self.lock);
    }
}

/// What closing the file does too, but only when nobody else has it open: a child of this process, on its way to another
/// program, has for a moment.
pub(crate) fn unlock(file: &File) {
    if let Err(error) = file.unlock() {
        tracing::debug!(%error, "a lock is left to the file's closing");
    }
}

impl StateDir {
    /// Makes the directory if need be, and takes it.
    ///
    /// # Errors
    /// When another agent has it, or it cannot be made or written.
    pub fn lock(path: &Path, holder: Holder) -> Result<Self, Error> {
        make_folder(path)?;
        let file = path.join(LOCK);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&file);
        let mut lock = open.map_err(Error::io("opening", &file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.to_owned(), other: other(&lock) }),
            Err(TryLockError::Error(error)) => return Err(Error::io("locking", &file)(error)),
        }
        // Only for the message that a second agent gives: a full disk need not stop this one here.
        let said = lock.set_len(0).and_then(|()| writeln!(lock, "{} {}", holder.as_str(), std::process::id()));
        if let Err(error) = said {
            tracing::debug!(path = %file.display(), %error, "the lock cannot say who holds it");
        }
        Ok(Self { path: path.to_owned(), lock })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn other(lock: &File) -> Other {
    let mut text = String::new();
    // What cannot be read is not said.
    let _ = lock.take(MAX_LOCK).read_to_string(&mut text);
    let mut words = text.split_whitespace();
    Other { holder: words.next().and_then(Holder::parse), pid: words.next().and_then(|pid| pid.parse().ok()) }
}

/// Makes a folder and what is above it, for this user only.
///
/// # Errors
/// When it is not there afterwards.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("making the folder", path))
}

/// Puts `bytes` at `path`, durably: a reader sees the old content or the new, also after a power failure.
///
/// # Errors
/// When the disk does not take it; what was there before is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    create_with(path, bytes, |_| Ok(())).map(drop)
}

/// As [`replace`]; `prepare` sees the file before it has its name. Returns it, open for appending.
pub(crate) fn create_with(
    path: &Path,
    bytes: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> Result<File, Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY);
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&temporary)?;
        file.set_len(0)?;
        prepare(&file)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        Ok(file)
    })();
    let file = written.map_err(|error| {
        // What is half written has no name that anybody reads; one that stays is written over.
        let _ = std::fs::remove_file(&temporary);
        Error::io("writing", path)(error)
    })?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}

/// The end of a name that is not one yet.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Makes what happened to a folder's names durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("syncing the folder", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_is_told_who_was_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let held = StateDir::lock(&path, Holder::Daemon).unwrap();
        let refused = StateDir::lock(&path, Holder::Backup).unwrap_err().report();
        assert_eq!(refused.class, Class::Busy);
        let pid = std::process::id();
        assert!(refused.message.ends_with(&format!("in use by the daemon (pid {pid})")), "{}", refused.message);
        assert!(refused.remedy.unwrap().contains("penstock trigger"));
        drop(held);
        let held = StateDir::lock(&path, Holder::Backup).unwrap();
        let refused = StateDir::lock(&path, Holder::Daemon).unwrap_err().report();
        assert!(refused.message.contains("another `penstock backup`"), "{}", refused.message);
        assert!(!refused.remedy.unwrap().contains("trigger"));
        drop(held);
        // Whatever an older version or an editor left in it.
        std::fs::write(path.join(LOCK), [0xff; 200]).unwrap();
        let held = StateDir::lock(&path, Holder::Backup).unwrap();
        assert_eq!(std::fs::read_to_string(held.path().join(LOCK)).unwrap(), format!("backup {pid}\n"));
    }

    #[test]
    fn a_folder_that_cannot_be_is_local() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let failed = StateDir::lock(&file.join("state"), Holder::Backup).unwrap_err().report();
        assert_eq!(failed.class, Class::Local);
        assert!(failed.message.contains("file/state"), "{}", failed.message);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        replace(&path, b"first, and longer").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let failed = replace(&folder.path().join("no/x.json"), b"").unwrap_err();
        assert_eq!(failed.class(), Class::Local);
    }
}
