//! Detects changed files without reading them.
//!
//! Follows symbolic links, so a ConfigMap that Kubernetes swaps, a file that an editor replaces and a file written in
//! place all count as changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Device, inode, size and time of a file; `None` in it: the file does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Option<[i64; 5]>);

impl Fingerprint {
    pub(super) fn of(path: impl AsRef<Path>) -> Self {
        let look = |meta: std::fs::Metadata| {
            let number = |value: u64| i64::from_ne_bytes(value.to_ne_bytes());
            [number(meta.dev()), number(meta.ino()), number(meta.size()), meta.mtime(), meta.mtime_nsec()]
        };
        Self(std::fs::metadata(path).ok().map(look))
    }
}

/// Files, with the fingerprint that each had when last looked at.
#[derive(Debug)]
pub(super) struct Watched {
    files: Vec<(PathBuf, Fingerprint)>,
}

impl Watched {
    pub(super) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let look = |path: PathBuf| {
            let seen = Fingerprint::of(&path);
            (path, seen)
        };
        Self { files: paths.into_iter().map(look).collect() }
    }

    /// Watches `paths` from now on. A path that was watched already keeps its fingerprint.
    pub(super) fn follow(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let old = std::mem::take(&mut self.files);
        let mut files = Self::new(paths).files;
        for (path, seen) in &mut files {
            if let Some((_, before)) = old.iter().find(|(old, _)| old == path) {
                *seen = before.clone();
            }
        }
        self.files = files;
    }

    /// The first file that has changed since the last call.
    pub(super) fn changed(&mut self) -> Option<PathBuf> {
        let mut first = None;
        for (path, seen) in &mut self.files {
            let now = Fingerprint::of(&*path);
            if *seen != now {
                *seen = now;
                first.get_or_insert_with(|| path.clone());
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_swapped_or_removed_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // As the kubelet lays a ConfigMap: file -> ..data/file, ..data -> a folder with a date.
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("file"), "same").unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        let mut watched = Watched::new([at("file")]);
        assert_eq!(watched.changed(), None);
        symlink("v2", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        assert_eq!(watched.changed(), Some(at("file")));
        assert_eq!(watched.changed(), None);
        fs::write(at("file"), "other").unwrap();
        assert_eq!(watched.changed(), Some(at("file")));
        fs::remove_file(at("..data")).unwrap();
        assert_eq!(watched.changed(), Some(at("file")));
        assert_eq!(watched.changed(), None);
        // A change before `follow` is still seen after it.
        fs::write(at("v1/file"), "again").unwrap();
        let mut watched = Watched::new([at("v1/file")]);
        fs::write(at("v1/file"), "and again").unwrap();
        watched.follow([at("v2/file"), at("v1/file")]);
        assert_eq!(watched.changed(), Some(at("v1/file")));
        assert_eq!(watched.changed(), None);
    }
}
