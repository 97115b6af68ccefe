//! The tables of a node's last encrypted backups in its state directory: what the next backup refers to, since the node cannot read the
//! index that it stored.
//!
//! `STATE_DIR/tables/LOCATION/JOB/NODE/ITEM.BACKUP.index` is the item's index with keyed hashes for its names ([`Names`]), and `….json` beside
//! it, written last, says of which stored index it is, and has the hashes' key. So no name of a file is in the state directory; digests of
//! chunks are, with which whoever takes the disk can confirm a guess of a whole chunk (docs/security.md).
//!
//! - **Which**: that of the last committed backup of each item. One whose backup may not have been committed stays until the next is. Those of a
//!   claim that another node saves now go after [`LEFT`].
//! - **Bounded**: a table that grows over [`MOST`] is not kept, and a disk that is full is a warning; the next backup is a full one then.
//! - **Checked** against its own SHA-256, and as any index against the manifest: counts, sizes, and the digest of the chunks.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::format::index::{self, Chunk, FileEntry, Record};
use crate::format::key::{BackupId, Chain, Name};
use crate::format::manifest::{Manifest, Stream};
use crate::source::tree::hashed::{Hash, Hashed, Names};
use crate::state;

const FOLDER: &str = "tables";

const VERSION: u32 = 1;

/// How long a chain that this node does not write any more keeps its tables: its claim may come back, and would be stored whole then.
const LEFT: Duration = Duration::from_hours(30 * 24);

/// The most bytes of a table: that of some ten million chunks or files.
const MOST: u64 = 1 << 30;

/// A description is a few hundred bytes, and 35 for each of at most a thousand doubtful paths.
const MOST_DESCRIPTION: u64 = 1 << 20;

/// The tables of one chain.
#[derive(Debug, Clone)]
pub(in crate::job) struct Tables(PathBuf);

/// The file that says what a table is.
#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    /// SHA-256 of the stored index that the table is of.
    #[serde(with = "hex::serde")]
    index: [u8; 32],
    /// SHA-256 of the table.
    #[serde(with = "hex::serde")]
    table: [u8; 32],
    /// The key of its hashes.
    #[serde(with = "hex::serde")]
    names: [u8; 32],
    /// Hashes of the paths that the backup has warnings for; absent if not all are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubtful: Option<Vec<String>>,
}

impl Tables {
    pub(in crate::job) fn new(state_dir: &Path, location: &str, chain: &Chain) -> Self {
        Self(state_dir.join(FOLDER).join(location).join(chain.job.as_str()).join(chain.node.as_str()))
    }

    /// Removes the tables of chains of `job` that `is_left` names and that are older than [`LEFT`].
    pub(in crate::job) fn forget_chains(state_dir: &Path, location: &str, job: &Name, is_left: impl Fn(&Name) -> bool) {
        let Ok(entries) = std::fs::read_dir(state_dir.join(FOLDER).join(location).join(job.as_str())) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let chain = path.file_name().and_then(|name| name.to_str()?.parse::<Name>().ok());
            if chain.is_some_and(|chain| is_left(&chain)) && is_old(&path) {
                match std::fs::remove_dir_all(&path) {
                    Ok(()) => {
                        tracing::info!(path = %path.display(), "removed the tables of a volume that this node saves no more");
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "could not remove the tables of a volume that this node saves no more: the next run tries again");
                    }
                }
            }
        }
    }

    fn path(&self, item: &Name, backup: &BackupId, kind: &str) -> PathBuf {
        self.0.join(format!("{item}.{backup}.{kind}"))
    }

    /// Begins the table of an item.
    pub(in crate::job) fn begin(&self, item: &Name, backup: &BackupId) -> io::Result<Keeper> {
        state::make_folder(&self.0).map_err(io::Error::other)?;
        let paths = ["index", "json"].map(|kind| self.path(item, backup, kind));
        let mut open = File::options();
        let file = open.write(true).create(true).truncate(true).mode(0o600).open(&paths[0])?;
        let out = Counted { out: BufWriter::new(file), digest: Sha256::new(), written: 0 };
        let names = Names::random().map_err(io::Error::other)?;
        Ok(Keeper { paths, names, index: index::Writer::new(out)? })
    }

    /// The table of an item of a backup. `None` if there is none, or not of that index.
    pub(super) fn read(&self, item: &Name, backup: &BackupId, stream: &Stream) -> io::Result<Option<Kept>> {
        let description = match read_bounded(&self.path(item, backup, "json")) {
            Ok(bytes) => serde_json::from_slice::<Description>(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Description { version, index, table, names, doubtful } = description;
        if version != VERSION || index != stream.index.sha256 {
            return Ok(None);
        }
        let mut file = File::open(self.path(item, backup, "index"))?;
        if digest(&file)? != table {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its SHA-256 is wrong"));
        }
        file.rewind()?;
        Kept::read(file, Names::of_key(names), doubtful, stream).map(Some)
    }

    /// Whether there is a table of an item of a backup.
    pub(super) fn has(&self, item: &Name, backup: &BackupId) -> bool {
        self.path(item, backup, "json").exists()
    }

    /// The newest backup that there is a table of.
    pub(in crate::job) fn last(&self) -> Option<BackupId> {
        let names = std::fs::read_dir(&self.0).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| parts(&name)?.1.parse().ok()).max()
    }

    /// After a commit: removes the earlier tables of items that have one of that backup, and those of items that it has not. A plain backup
    /// needs none.
    pub(in crate::job) fn committed(&self, manifest: &Manifest) {
        self.remove(|item, backup| {
            if manifest.encryption.is_none() {
                return true;
            }
            let current = manifest.items.iter().find(|current| current.name.as_str() == item);
            backup != manifest.id.as_str() && current.is_none_or(|item| self.has(&item.name, &manifest.id))
        });
    }

    /// Removes the tables of a backup that was not committed.
    pub(in crate::job) fn forget(&self, backup: &BackupId) {
        self.remove(|_, of| of == backup.as_str());
    }

    /// Removes tables by their item and backup.
    fn remove(&self, which: impl Fn(&str, &str) -> bool) {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((item, backup)) = parts(&name)
                && which(item, backup)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "could not remove the table of an earlier backup: the next run tries again");
            }
        }
    }
}

/// Whether nothing in a folder has changed for [`LEFT`].
fn is_old(folder: &Path) -> bool {
    let rests = |path: &Path| {
        let changed = path.symlink_metadata().and_then(|metadata| metadata.modified());
        changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > LEFT))
    };
    let entries = std::fs::read_dir(folder);
    entries.is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| rests(&entry.path())))) && rests(folder)
}

/// The item and the backup of a file's name.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (table, _kind) = name.rsplit_once('.')?;
    table.rsplit_once('.')
}

fn digest(mut file: &File) -> io::Result<[u8; 32]> {
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            count => digest.update(&buffer[..count]),
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_DESCRIPTION).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A table being written.
pub(in crate::job) struct Keeper {
    /// Of the table and of its description.
    paths: [PathBuf; 2],
    names: Names,
    index: index::Writer<Counted>,
}

impl Keeper {
    pub(in crate::job) fn chunk(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.index.chunk(chunk)
    }

    pub(in crate::job) fn file(&mut self, file: &FileEntry) -> io::Result<()> {
        self.index.file(self.names.hide(file))
    }

    /// Ends the table of a stored index. `doubtful` are the paths with a warning, if all are known.
    pub(in crate::job) fn finish(self, index: [u8; 32], doubtful: Option<&HashSet<String>>) -> io::Result<()> {
        let Self { paths: [_, path], names, index: writer } = self;
        let (Counted { mut out, digest, .. }, _) = writer.finish()?;
        out.flush()?;
        out.get_ref().sync_all()?;
        let hashes =
            |doubtful: &HashSet<String>| doubtful.iter().map(|path| hex::encode(names.hash(path.as_bytes()))).collect();
        let description = Description {
            version: VERSION,
            index,
            table: digest.finalize().into(),
            names: *names.key(),
            doubtful: doubtful.map(hashes),
        };
        let bytes = serde_json::to_vec(&description)?;
        state::replace(&path, &bytes).map_err(io::Error::other)
    }
}

/// A file that is digested as it is written, and does not grow without bound.
struct Counted {
    out: BufWriter<File>,
    digest: Sha256,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written + bytes.len() as u64 > MOST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it would be longer than {MOST} bytes")));
        }
        let count = self.out.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A table that was read and checked.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) chunks: Vec<Chunk>,
    /// `None` if it is unknown which files have warnings: all are read.
    pub(super) files: Option<Hashed>,
}

impl Kept {
    fn read(file: File, names: Names, doubtful: Option<Vec<String>>, stream: &Stream) -> io::Result<Self> {
        let doubtful =
            doubtful.map(|list| list.iter().filter_map(|hash| Hash::try_from(hex::decode(hash).ok()?).ok()).collect());
        // Of the length that is reserved for it.
        let mut chunks = Vec::with_capacity(usize::try_from(stream.chunks).unwrap_or_default());
        let mut failed = None;
        let mut records = index::open(BufReader::new(file), stream).map_err(io::Error::other)?;
        let files = std::iter::from_fn(|| {
            loop {
                match records.next_record() {
                    Ok(Some(Record::File(file))) => return Some(file),
                    Ok(Some(Record::Chunk(chunk))) => chunks.push(chunk),
                    Ok(Some(Record::End { .. })) => {}
                    Ok(None) => return None,
                    Err(error) => {
                        failed = Some(error);
                        return None;
                    }
                }
            }
        });
        let none = HashSet::new();
        let hashed = Hashed::new(names, files, stream.files, doubtful.as_ref().unwrap_or(&none));
        match failed {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(Self { chunks, files: doubtful.is_some().then_some(hashed) }),
        }
    }
}

#[cfg(test)]
mod tests;
