//! Whether a file is another than before, without reading it.
//!
//! The path is followed through symbolic links, so a ConfigMap that Kubernetes swaps, a file that an editor replaces and
//! one that is written in place all look changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a file looks like from outside; `None` in it: it is not there.
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

/// Some files, as they were when last looked at.
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

    /// The first file that is another than at the last call.
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
    }
}
