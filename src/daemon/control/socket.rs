//! Makes and removes the file of the control socket, and never a file of another process.
//!
//! - **Does not replace a living daemon**, running or stopped: it has locked `SOCKET.lock`, or the kernel still queues callers for
//!   it. The second daemon does not start (class busy).
//! - **Replaces only a dead socket**: a file that is no socket, or a socket that cannot be tested, stays and fails the start (class config).
//! - **Removes only its own socket** at the end, known by device and inode.
//! - The socket has mode 0600 from the start, and appears under its name only when no other file has that name.
//! - The lock's file stays, empty: removing it would let two daemons lock two files. The kernel releases the lock however a process ends.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::error::{Class, Report};
use crate::state::Lock;

/// Removes the socket's file when dropped.
#[derive(Debug)]
pub(in crate::daemon) struct Socket {
    path: PathBuf,
    pub(super) listener: UnixListener,
    own: Inode,
    _lock: Lock,
}

/// Device and inode: no other file has both while this one is open.
type Inode = (u64, u64);

fn inode(path: &Path) -> io::Result<Inode> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Socket {
    /// Replaces a socket that an earlier process left, and nothing else.
    ///
    /// # Errors
    /// When another daemon has the socket, another file is there, or the socket cannot be made.
    pub(in crate::daemon) async fn bind(path: &Path) -> Result<Self, Report> {
        let local = |error: io::Error| {
            Report::new(Class::Local, format!("could not make the control socket {}: {error}", path.display()))
                .remedy("`admin.socket` must be a short path in a folder that this user may write")
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(local)?;
        // A living daemon that made the socket at `path` has this lock, even if the socket's file is gone.
        let Some(lock) = Lock::at(&path.with_added_extension("lock")).map_err(local)? else {
            return Err(taken(path, listener_at(path).await));
        };
        remove_dead(path).await?;
        let bound = || {
            // In a private folder until the mode is set: nobody else can connect before.
            let own = tempfile::Builder::new().prefix(".penstock-").tempdir_in(folder)?;
            let first = own.path().join("s");
            let listener = UnixListener::bind(&first)?;
            fs::set_permissions(&first, fs::Permissions::from_mode(0o600))?;
            let inode = inode(&first)?;
            // Unlike a rename, a link replaces no file that appeared meanwhile.
            fs::hard_link(&first, path)?;
            Ok((listener, inode))
        };
        let (listener, own) = bound().map_err(local)?;
        Ok(Self { path: path.to_owned(), listener, own, _lock: lock })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        match inode(&self.path) {
            // The removal fails only if the file is gone.
            Ok(found) if found == self.own => drop(fs::remove_file(&self.path)),
            Ok(_) => {
                tracing::warn!(path = %self.path.display(), "another process replaced the control socket: it stays");
            }
            Err(_) => {}
        }
    }
}

/// A process that listens at a socket.
#[derive(Debug, Clone, Copy)]
struct Listener {
    pid: Option<i32>,
}

/// Finds the process that listens at `path`. The kernel answers for a process that is stopped.
async fn listener_at(path: &Path) -> io::Result<Listener> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Listener { pid: stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0) }),
        // The listener's queue of callers is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Listener { pid: None }),
        Err(error) => Err(error),
    }
}

/// Removes the socket at `path` if nobody listens at it.
async fn remove_dead(path: &Path) -> Result<(), Report> {
    let in_the_way = |what: &str| {
        Report::new(Class::Config, format!("{} is {what}; expected a free path for the control socket", path.display()))
            .remedy("remove it if nothing needs it, or choose another path for `admin.socket`")
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(in_the_way(&format!("a file that cannot be examined ({error})"))),
    };
    let kind = found.file_type();
    if !kind.is_socket() {
        let kinds =
            [(kind.is_symlink(), "a symbolic link"), (kind.is_dir(), "a folder"), (kind.is_file(), "a regular file")];
        return Err(in_the_way(kinds.iter().find(|(is, _)| *is).map_or("no socket", |(_, name)| name)));
    }
    match listener_at(path).await {
        Ok(listener) => Err(taken(path, Ok(listener))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let left = (found.dev(), found.ino());
            let removed = inode(path).and_then(|now| if now == left { fs::remove_file(path) } else { Ok(()) });
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(in_the_way(&format!("a socket that cannot be removed ({error})")))
                }
                _ => {
                    tracing::info!(path = %path.display(), "replacing the control socket: no process listens at the old one");
                    Ok(())
                }
            }
        }
        Err(error) => Err(in_the_way(&format!("a socket that cannot be tested for a listener ({error})"))),
    }
}

fn taken(path: &Path, listener: io::Result<Listener>) -> Report {
    let pid = listener.ok().and_then(|listener| listener.pid).map_or_else(String::new, |pid| format!(" (pid {pid})"));
    Report::new(Class::Busy, format!("another daemon{pid} has the control socket {}", path.display()))
        .remedy("give each daemon its own `admin.socket`, `admin.listen` and `state_dir`; or stop the other one")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn refused(path: &Path) -> Report {
        Socket::bind(path).await.unwrap_err()
    }

    #[tokio::test]
    async fn the_socket_is_for_its_user_only_and_replaces_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        // Like the socket of a killed process.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).await.is_ok());
        let names: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            names.len() == 2 && names.iter().all(|name| name.to_str().unwrap().starts_with("control.sock")),
            "{names:?}"
        );
        drop(socket);
        assert!(!path.exists());
        drop(Socket::bind(&path).await.unwrap());
    }

    #[tokio::test]
    async fn a_living_daemons_socket_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = Socket::bind(&path).await.unwrap();
        let busy = refused(&path).await;
        assert_eq!(busy.class, Class::Busy);
        assert!(busy.message.contains(&format!("another daemon (pid {}) has", std::process::id())), "{}", busy.message);
        // Also where somebody has removed its file,
        fs::remove_file(&path).unwrap();
        assert_eq!(refused(&path).await.class, Class::Busy);
        drop(first);
        // and one of a version without a lock.
        let old = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(refused(&path).await.class, Class::Busy);
        drop(old);
        drop(Socket::bind(&path).await.unwrap());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let living = folder.path().join("living");
        let _living = std::os::unix::net::UnixListener::bind(&living).unwrap();
        let datagrams = folder.path().join("datagrams");
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&datagrams).unwrap();
        let make: [(&str, &dyn Fn()); 5] = [
            ("a regular file", &|| fs::write(&path, "content").unwrap()),
            ("a folder", &|| fs::create_dir(&path).unwrap()),
            ("a symbolic link", &|| symlink("nowhere", &path).unwrap()),
            ("a symbolic link", &|| symlink(&living, &path).unwrap()),
            ("a socket that cannot be tested", &|| fs::hard_link(&datagrams, &path).unwrap()),
        ];
        for (what, make) in make {
            make();
            let before = inode(&path).unwrap();
            let report = refused(&path).await;
            assert!(report.class == Class::Config && report.message.contains(what), "{report:?}");
            assert_eq!(inode(&path).unwrap(), before);
            if path.is_dir() { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        }
    }

    #[tokio::test]
    async fn a_daemon_removes_only_its_own_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let first = Socket::bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(first);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
        // Nor is the lock followed to where a link points.
        fs::remove_file(&path).unwrap();
        fs::remove_file(folder.path().join("s.lock")).unwrap();
        symlink(folder.path().join("elsewhere"), folder.path().join("s.lock")).unwrap();
        assert_eq!(refused(&path).await.class, Class::Local);
    }
}
