//! The state directory: what must outlive the process, and who may write it.
//!
//! - **One agent at a time**: [`StateDir::lock`] takes an exclusive lock that the kernel gives back when the process ends, however it ends.
//!   Who comes second is told who was first.
//! - **Durable**: a file appears whole or not at all, and what was written is still there after a power failure
//!   ([`replace`]): temporary file, fsync, rename, fsync of the folder. Files are 0600, folders that Penstock makes are 0700.
//! - **Failure** is [`Class::Local`]: the disk is full or read-only. Nothing here is retried.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

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
    _lock: Lock,
}

/// A file that this process has locked, until dropped. The kernel takes the lock back however a process ends.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Locks an open file; `None` where it is locked already, by another process or by this one.
    pub(crate) fn on(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Locks the file at `path`, which is made if need be; not through a symbolic link.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Self>> {
        let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut open = OpenOptions::new();
        Self::on(open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(path)?)
    }
}

impl Deref for Lock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    /// Closing the file unlocks it too, but only when nobody else has it open: a child of this process has for a moment, until it
    /// becomes another program.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "could not unlock a file: closing it does");
        }
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
        let Some(lock) = Lock::at(&file).map_err(Error::io("locking", &file))? else {
            return Err(Error::InUse { path: path.to_owned(), other: other(&file) });
        };
        // Only for the message that a second agent gives: a full disk need not stop this one here.
        let written = lock.set_len(0).and_then(|()| writeln!(&*lock, "{} {}", holder.as_str(), std::process::id()));
        if let Err(error) = written {
            tracing::debug!(path = %file.display(), %error, "could not write into the lock which process holds it");
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn other(lock: &Path) -> Other {
    let mut text = String::new();
    // Without it the message names no process.
    let _ = File::open(lock).and_then(|lock| lock.take(MAX_LOCK).read_to_string(&mut text));
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

/// Writes `bytes` to the file at `path`, durably: a reader sees the old content or the new, also after a power failure. One writer at
/// a time: whoever replaces a file holds the lock of its folder or job.
///
/// # Errors
/// When the disk does not take it; what was there before is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    create_locked(path, bytes).map(drop)
}

/// As [`replace`]. Returns the file, which was locked before it had its name, open for appending.
pub(crate) fn create_locked(path: &Path, bytes: &[u8]) -> Result<Lock, Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY);
    let temporary = path.with_file_name(name);
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&temporary);
    let locked = opened.and_then(|file| Lock::on(file)?.ok_or_else(|| io::ErrorKind::WouldBlock.into()));
    let file = locked.map_err(Error::io("writing", path))?;
    let written = (|| {
        file.set_len(0)?;
        (&*file).write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // Nobody reads a file of this name; one that stays is written over.
        let _ = std::fs::remove_file(&temporary);
        return Err(Error::io("writing", path)(error));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("syncing the folder", folder))?;
    Ok(file)
}

/// The end of the name of a file that is not complete yet.
pub(crate) const TEMPORARY: &str = ".tmp";

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

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
    fn a_file_is_replaced_whole_and_is_this_users_alone() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("a/b");
        make_folder(&folder).unwrap();
        let path = folder.join("x.json");
        // Left by a process that died while it wrote.
        std::fs::write(folder.join("x.json.tmp"), b"half of something longer").unwrap();
        std::fs::set_permissions(folder.join("x.json.tmp"), Permissions::from_mode(0o600)).unwrap();
        replace(&path, b"first, and longer").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&above.path().join("a")), mode(&folder), mode(&path)), (0o700, 0o700, 0o600));
        let failed = replace(&folder.join("no/x.json"), b"").unwrap_err();
        assert_eq!(failed.class(), Class::Local);
    }

    /// Runs itself again, in a process whose files may not be longer than 8 KiB.
    #[test]
    fn a_write_that_fails_in_the_middle_leaves_the_old_content() {
        const FOLDER: &str = "PENSTOCK_TEST_FOLDER";
        if let Some(folder) = std::env::var_os(FOLDER) {
            let failed = replace(&Path::new(&folder).join("x.json"), &vec![b'n'; 1 << 20]).unwrap_err();
            assert_eq!(failed.class(), Class::Local);
            assert!(failed.to_string().contains("File too large"), "{failed}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        replace(&folder.path().join("x.json"), b"old").unwrap();
        let limited = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
        let name = "state::tests::a_write_that_fails_in_the_middle_leaves_the_old_content";
        let mut child = std::process::Command::new("sh");
        child.args(["-c", limited]).arg(std::env::current_exe().unwrap()).args(["--exact", name]);
        let output = child.env(FOLDER, folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
        assert_eq!(std::fs::read(folder.path().join("x.json")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no half-written file stays");
    }
}
