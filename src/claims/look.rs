//! Looks at the host's files: the only I/O of [`super::place`].
//!
//! Blocks, and a file server that is away may keep it forever: the caller gives it a thread that it does not wait for, and a time limit.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, statx};

use super::place::{Look, Seen};

/// The files of the machine that this process sees.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Look for Host {
    fn look(&self, path: &Path) -> io::Result<Seen> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = match statx(CWD, path, flags, StatxFlags::TYPE) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(Seen::Missing),
            Err(error) => return Err(error.into()),
        };
        Ok(match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::Directory => {
                // Since Linux 5.8.
                let says = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
                Seen::Folder { is_mount: says.then(|| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) }
            }
            FileType::Symlink => Seen::Link(std::fs::read_link(path)?),
            FileType::BlockDevice => Seen::Device,
            _ => Seen::Other,
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        match std::fs::read_dir(folder) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_what_it_is_and_not_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        symlink("folder", at("link")).unwrap();
        let look = |path: &Path| Host.look(path).unwrap();
        assert!(matches!(look(&at("folder")), Seen::Folder { is_mount: None | Some(false) }));
        assert_eq!((look(&at("file")), look(&at("none"))), (Seen::Other, Seen::Missing));
        assert_eq!((look(&at("file/x")), look(&at("link"))), (Seen::Missing, Seen::Link("folder".into())));
        assert!(matches!(look(Path::new("/proc")), Seen::Folder { is_mount: None | Some(true) }));
        assert!(Host.look(&at(&"x".repeat(256))).is_err(), "a name too long is not missing");
        let mut names = Host.list(dir.path()).unwrap();
        names.sort();
        assert_eq!(names, ["file", "folder", "link"]);
        assert!(Host.list(&at("none")).unwrap().is_empty() && Host.list(&at("file")).unwrap().is_empty());
    }
}
