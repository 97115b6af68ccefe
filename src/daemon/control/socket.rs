//! The file of the control socket: made, and removed again, without taking anything that is another's.
//!
//! - **A daemon that lives is respected**, also one that is stopped: it has locked `SOCKET.lock`, or the kernel still queues callers for
//!   it. The second one does not start (class busy).
//! - **Only a dead socket is replaced**: what is no socket, or one that cannot be asked, stays and stops the start (class config).
//! - **Only one's own is removed** at the end, known by device and inode.
//! - The socket appears with mode 0600, never with another first, and under its name only when nothing else has it.
//! - The lock's file stays, empty: to remove it would let two daemons lock two files. The kernel gives the lock back however a process ends.

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

/// Device and number: no other file has both while this one is open.
type Inode = (u64, u64);

fn inode(path: &Path) -> io::Result<Inode> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Socket {
    /// Takes the place of a socket that an earlier process left behind, and of nothing else.
    ///
    /// # Errors
    /// When another daemon has it, something else is there, or it cannot be made.
    pub(in crate::daemon) async fn bind(path: &Path) -> Result<Self, Report> {
        let local = |error: io::Error| {
            Report::new(Class::Local, format!("making the control socket {}: {error}", path.display()))
                .remedy("`admin.socket` must be a short path in a folder that this user may write")
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(local)?;
        // Held while a daemon lives that made the socket at `path`, even if the socket's file is gone.
        let Some(lock) = Lock::at(&path.with_added_extension("lock")).map_err(local)? else {
            return Err(taken(path, listener_at(path).await));
        };
        remove_dead(path).await?;
        let bound = || {
            // A folder of our own until the mode is right: nobody else can connect before.
            let own = tempfile::Builder::new().prefix(".penstock-").tempdir_in(folder)?;
            let first = own.path().join("s");
            let listener = UnixListener::bind(&first)?;
            fs::set_permissions(&first, fs::Permissions::from_mode(0o600))?;
            let inode = inode(&first)?;
            // Unlike a rename, a link replaces nothing that has come meanwhile.
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
            // Gone since, where this fails.
            Ok(found) if found == self.own => drop(fs::remove_file(&self.path)),
            Ok(_) => tracing::warn!("the control socket {} is another's by now, and stays", self.path.display()),
            Err(_) => {}
        }
    }
}

/// What a process that listens at a socket is known by.
#[derive(Debug, Clone, Copy)]
struct Listener {
    pid: Option<i32>,
}

/// Whether anybody listens at `path`. The kernel answers for a process that is stopped.
async fn listener_at(path: &Path) -> io::Result<Listener> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Listener { pid: stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0) }),
        // Its queue of callers is full.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Listener { pid: None }),
        Err(error) => Err(error),
    }
}

/// Removes a socket at which nobody listens any more.
async fn remove_dead(path: &Path) -> Result<(), Report> {
    let in_the_way = |what: &str| {
        Report::new(Class::Config, format!("{} is {what}: it is not replaced by the control socket", path.display()))
            .remedy("remove it if it is of no use, or choose another path for `admin.socket`")
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(in_the_way(&format!("something that cannot be looked at ({error})"))),
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
                    tracing::info!("replacing the control socket {}: nobody listens there any more", path.display());
                    Ok(())
                }
            }
        }
        Err(error) => Err(in_the_way(&format!("a socket that cannot be asked who listens there ({error})"))),
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
    async fn the_socket_is_the_users_alone_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        // As a process that was killed leaves it.
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
    async fn a_daemon_that_lives_is_respected() {
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
    async fn what_is_no_socket_stays() {
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
            ("a socket that cannot be asked", &|| fs::hard_link(&datagrams, &path).unwrap()),
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
    async fn only_ones_own_socket_is_removed() {
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
