//! Manifests that were read before. A manifest never changes, so one that a listing shows with the same size and `ETag` is not asked for
//! again. The listing always is: what is deleted is gone at once, what is new is there at once.
//!
//! - **Where**: `STATE_DIR/cache/manifests`, if this user may write there; otherwise `penstock/manifests` below `$XDG_CACHE_HOME` or `~/.cache`;
//!   nowhere if neither can be written. One file each, for its owner alone, named by a digest, so that no name of the bucket becomes a path.
//! - **Checked**: a file holds the SHA-256 of what it is of (location, key, size, `ETag`) and of its content. One that differs is read from the
//!   store, and replaced. The content is parsed as if it came from the bucket.
//! - **Bounded**: once a process has added a file, it removes the oldest ones beyond [`MOST`]. A manifest over [`LARGEST`] is not kept.
//!
//! Every failure means that the store is asked.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::Entry;
use crate::config;

/// The most bytes of all files together: a hundred thousand manifests of a usual size.
const MOST: u64 = 256 << 20;

/// The longest manifest that is kept.
const LARGEST: u64 = 4 << 20;

/// Bytes of the digest that a file begins with.
const DIGEST: usize = 32;

const LEVEL: i32 = 3;

/// The cache of one location's manifests.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: Arc<Path>,
    /// Tells locations apart.
    location: Arc<str>,
    /// How many bytes this process may add before it looks for files to remove.
    room: Arc<AtomicU64>,
}

impl Cache {
    /// `None` where nothing can be written.
    pub(super) fn open(state_dir: &Path, config: &config::Location) -> Option<Self> {
        let config::Location { bucket, region, s3_url, .. } = config;
        let location = format!("{}\n{region}\n{bucket}\n", s3_url.as_deref().unwrap_or_default());
        let of_user = user_folder(|name| std::env::var_os(name).map(PathBuf::from));
        // A state directory that is not there yet is not made by somebody who only reads.
        let of_state = state_dir.is_dir().then(|| state_dir.join("cache"));
        let folder = [of_state, of_user]
            .into_iter()
            .flatten()
            .map(|above| above.join("manifests"))
            .find(|folder| is_ours(folder))?;
        Some(Self { folder: folder.into(), location: location.into(), room: Arc::new(AtomicU64::new(0)) })
    }

    fn path(&self, entry: &Entry, etag: &str) -> PathBuf {
        let digest = hex::encode(self.identity(entry, etag).finalize());
        self.folder.join(&digest[..2]).join(&digest[2..34])
    }

    fn identity(&self, entry: &Entry, etag: &str) -> Sha256 {
        let mut digest = Sha256::new();
        for part in [&*self.location, entry.key.as_str(), etag, &entry.size.to_string()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest
    }

    /// A manifest that was kept. Blocks.
    pub(super) fn get(&self, entry: &Entry) -> Option<Vec<u8>> {
        let etag = entry.etag.as_deref().filter(|_| entry.size <= LARGEST)?;
        let mut file = File::open(self.path(entry, etag)).ok()?;
        let mut stored = Vec::new();
        // What does not compress grows by little.
        (&mut file).take(2 * LARGEST).read_to_end(&mut stored).ok()?;
        let (digest, packed) = stored.split_at_checked(DIGEST)?;
        let bytes = zstd::bulk::decompress(packed, usize::try_from(entry.size).ok()?).ok()?;
        let found = self.identity(entry, etag).chain_update(&bytes).finalize();
        (bytes.len() as u64 == entry.size && *found == *digest).then_some(bytes)
    }

    /// Keeps a manifest as it was read. Blocks.
    pub(super) fn put(&self, entry: &Entry, bytes: &[u8]) {
        let Some(etag) = entry.etag.as_deref().filter(|_| entry.size <= LARGEST && bytes.len() as u64 == entry.size)
        else {
            return;
        };
        match self.write(&self.path(entry, etag), &self.identity(entry, etag).chain_update(bytes).finalize(), bytes) {
            Ok(written) => self.make_room(written),
            Err(error) => {
                tracing::debug!(key = %entry.key, %error, "could not keep a manifest: the next command reads it again");
            }
        }
    }

    /// Nobody sees a file that is written in part; one that a crash leaves empty is found by its digest.
    fn write(&self, path: &Path, digest: &[u8], bytes: &[u8]) -> io::Result<u64> {
        let packed = zstd::bulk::compress(bytes, LEVEL)?;
        let shard = path.parent().unwrap_or(&self.folder);
        make_folder(shard)?;
        let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(shard)?;
        temporary.write_all(digest)?;
        temporary.write_all(&packed)?;
        temporary.persist(path).map_err(|failed| failed.error)?;
        Ok((digest.len() + packed.len()) as u64)
    }

    /// Removes the oldest files, if there are too many.
    fn make_room(&self, written: u64) {
        let room = self.room.load(Ordering::Relaxed);
        if let Some(left) = room.checked_sub(written) {
            self.room.store(left, Ordering::Relaxed);
            return;
        }
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for shard in read_dir(&self.folder) {
            for path in read_dir(&shard) {
                if let Ok(metadata) = fs::symlink_metadata(&path)
                    && metadata.is_file()
                {
                    files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), path));
                }
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        if total > MOST {
            files.sort_unstable();
            for (_, size, path) in files {
                if total <= MOST / 4 * 3 {
                    break;
                }
                if fs::remove_file(&path).is_ok() {
                    total -= size;
                }
            }
        }
        self.room.store(MOST.saturating_sub(total).max(MOST / 8), Ordering::Relaxed);
    }
}

/// The folder for caches of this user.
fn user_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let caches = variable("XDG_CACHE_HOME").and_then(absolute);
    let caches = caches.or_else(|| Some(variable("HOME").and_then(absolute)?.join(".cache")))?;
    Some(caches.join("penstock"))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the folder, and looks whether this user can write there.
fn is_ours(folder: &Path) -> bool {
    make_folder(folder).is_ok() && tempfile::tempfile_in(folder).is_ok()
}

fn read_dir(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::{Chain, Name, ObjectKey};

    fn entry(etag: &str, size: u64) -> Entry {
        let name = |name: &str| Name::new(name).unwrap();
        Entry {
            key: ObjectKey::new("c/job/node/20261123T221300Z-4f9a2c/manifest.json"),
            chain: Chain { cluster: name("c"), job: name("job"), node: name("node") },
            id: "20261123T221300Z-4f9a2c".parse().unwrap(),
            size,
            modified: jiff::Timestamp::UNIX_EPOCH,
            etag: (!etag.is_empty()).then(|| etag.to_owned()),
        }
    }

    fn cache(folder: &Path, location: &str) -> Cache {
        Cache { folder: folder.into(), location: location.into(), room: Arc::new(AtomicU64::new(0)) }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        read_dir(folder).iter().flat_map(|shard| read_dir(shard)).collect()
    }

    #[test]
    fn only_the_same_object_comes_back_and_only_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, ours) = (vec![7; 5000], cache(dir.path(), "one"));
        let kept = entry("\"a\"", 5000);
        assert_eq!(ours.get(&kept), None);
        ours.put(&kept, &bytes);
        assert_eq!(ours.get(&kept), Some(bytes.clone()));
        for other in [entry("\"b\"", 5000), entry("\"a\"", 4999), entry("\"a\"", 5001), entry("", 5000)] {
            assert_eq!(ours.get(&other), None);
        }
        let other_key = Entry { key: ObjectKey::new("c/job/node2/x"), ..kept.clone() };
        assert_eq!((ours.get(&other_key), cache(dir.path(), "two").get(&kept)), (None, None));

        // Every bit counts.
        let [path] = &files(dir.path())[..] else { panic!("one file") };
        let good = fs::read(path).unwrap();
        for at in (0..good.len() * 8).step_by(7) {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            fs::write(path, bad).unwrap();
            assert!(ours.get(&kept).is_none_or(|found| found == bytes), "bit {at}");
        }
        fs::write(path, &good[..10]).unwrap();
        assert_eq!(ours.get(&kept), None);
        ours.put(&kept, &bytes);
        assert_eq!(ours.get(&kept), Some(bytes));
    }

    #[test]
    fn what_has_no_etag_or_another_length_or_is_large_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let ours = cache(dir.path(), "one");
        ours.put(&entry("", 3), b"abc");
        ours.put(&entry("\"a\"", 4), b"abc");
        ours.put(&entry("\"a\"", LARGEST + 1), &vec![0; usize::try_from(LARGEST).unwrap() + 1]);
        assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_oldest_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let ours = cache(dir.path(), "one");
        make_folder(&dir.path().join("00")).unwrap();
        for number in 0..5_u64 {
            let file = File::create(dir.path().join("00").join(number.to_string())).unwrap();
            file.set_len(MOST / 4).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number)).unwrap();
        }
        ours.put(&entry("\"a\"", 3), b"abc");
        let mut left: Vec<_> = read_dir(&dir.path().join("00"));
        left.sort();
        let names: Vec<_> = left.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!((names, ours.get(&entry("\"a\"", 3)).is_some()), (vec!["3", "4"], true));
    }

    #[test]
    fn the_users_folder_is_absolute_or_none() {
        let of = |xdg: Option<&str>, home: Option<&str>| {
            user_folder(|name| if name == "HOME" { home } else { xdg }.map(PathBuf::from))
                .map(|path| path.display().to_string())
        };
        assert_eq!(of(Some("/x"), Some("/h")).as_deref(), Some("/x/penstock"));
        assert_eq!(of(Some("x"), Some("/h")).as_deref(), Some("/h/.cache/penstock"));
        assert_eq!((of(None, Some("h")), of(None, None)), (None, None));
    }
}
