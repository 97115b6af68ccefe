//! The journal: which uploads exist, so that one whose process died is found without any permission to list them.
//!
//! - **Promise**: before a CreateMultipartUpload its intent is durable (file and folder synced), and before its first part is sent its
//!   ID is. So every upload that this state directory's agents ever began has ended, or has an entry. Only a Create whose answer
//!   never came has an entry without an ID.
//! - **Alive or not** is the kernel's to say: a live entry's file is locked by its process, in this process and in others. Nobody has to
//!   clean up a lock.
//! - **Cost**: two syncs before the first part, and one for whatever parts have finished meanwhile, never waited for. About 60 bytes
//!   a chunk.
//! - **Failure**: an intent or an ID that cannot be written fails the upload. A finished part that cannot be written is only one that cannot
//!   be resumed; so is what a torn tail loses.
//!
//! [`record`] is the file format. Entries end with [`Entry::close`]; what is left is for [`super::sweep`], or to be resumed
//! ([`Interrupted`]).

pub mod record;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::record::{Intent, Part};
use self::record::{Line, State};
use crate::error::{Classify, Report};
use crate::format::key::ObjectKey;
use crate::state::{self, Lock};
use crate::store::UploadId;

/// Below the state directory.
const FOLDER: &str = "uploads";

/// The end of an entry's name.
const SUFFIX: &str = ".upload";

/// The end of the name of one that cannot be read, kept for whoever wants to look.
const DAMAGED: &str = ".damaged";

#[derive(Debug, thiserror::Error)]
#[error("the journal of uploads: {0}")]
pub struct Error(#[from] state::Error);

impl Classify for Error {
    fn report(&self) -> Report {
        Report { message: self.to_string(), ..self.0.report() }
    }
}

/// The journal of one location's uploads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: Arc<Path>,
    location: Arc<str>,
    bucket: Arc<str>,
}

impl Journal {
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(state_dir: &Path, location: &str, bucket: &str) -> Result<Self, Error> {
        let folder = state_dir.join(FOLDER);
        state::make_folder(&folder)?;
        Ok(Self { folder: folder.into(), location: location.into(), bucket: bucket.into() })
    }

    /// Says durably that `key` is about to be uploaded in parts of `part_size`.
    ///
    /// # Errors
    /// When the disk does not take it. No upload may be created then.
    pub async fn begin(&self, key: &ObjectKey, part_size: u64) -> Result<Entry, Error> {
        let intent = Intent {
            version: record::VERSION,
            location: self.location.to_string(),
            bucket: self.bucket.to_string(),
            key: key.clone(),
            part_size,
            begun: jiff::Timestamp::now(),
        };
        let name = getrandom::u64().map_err(|error| state::Error::Io {
            action: "naming an entry in",
            path: self.folder.to_path_buf(),
            error: io::Error::other(error),
        })?;
        let path = self.folder.join(format!("{name:016x}{SUFFIX}"));
        let bytes = record::encode(&Line::Intent(intent));
        let file = blocking({
            let path = path.clone();
            move || state::create_locked(&path, &bytes)
        });
        Ok(Entry::of(path, file.await?))
    }
}

impl Journal {
    /// Takes the entry, begun last, of an upload that nobody works on and that can take the place of `key`'s: of the same object in
    /// another backup of its chain, with parts of the same size. Those that had finished come with it.
    ///
    /// # Errors
    /// When the folder or an entry in it cannot be read.
    pub async fn adopt(&self, key: &ObjectKey, part_size: u64) -> Result<Option<(Interrupted, Vec<Part>)>, Error> {
        let (journal, key) = (self.clone(), key.clone());
        let found = tokio::task::spawn_blocking(move || {
            let fits = |found: &Interrupted| {
                let Intent { location, bucket, key: theirs, part_size: size, .. } = &found.intent;
                let here = **location == *journal.location && **bucket == *journal.bucket;
                here && *size == part_size && found.id.is_some() && theirs.is_sibling_of(&key)
            };
            let found = entries(&journal.folder)?.into_iter().rfind(fits);
            found.map(|found| found.parts().map(|parts| (found, parts))).transpose()
        });
        found.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// The entry of an upload that this process works on.
#[derive(Debug, Clone)]
pub struct Entry {
    inner: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: Lock,
    queue: Mutex<Queue>,
}

/// Parts on their way to the disk.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// A thread writes what comes, until there is nothing.
    writing: bool,
    /// After one failure the file's end is unknown: nothing more is written.
    failed: bool,
}

impl Entry {
    fn of(path: PathBuf, file: Lock) -> Self {
        Self { inner: Arc::new(Shared { path, file, queue: Mutex::default() }) }
    }

    /// Makes the upload's ID durable.
    ///
    /// # Errors
    /// When the disk does not take it: abort the upload now, while its ID is known.
    pub async fn created(&self, id: &UploadId) -> Result<(), Error> {
        self.append(Line::Created { id: id.0.clone() }).await
    }

    /// Says that the upload this entry has the ID of has ended, but that there may be another whose ID never came.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub async fn in_doubt(&self) -> Result<(), Error> {
        self.append(Line::InDoubt).await
    }

    async fn append(&self, line: Line) -> Result<(), Error> {
        let (inner, bytes) = (Arc::clone(&self.inner), record::encode(&line));
        blocking(move || {
            let written = (&*inner.file).write_all(&bytes).and_then(|()| inner.file.sync_data());
            written.map_err(state::Error::io("writing", &inner.path))
        })
        .await
    }

    /// Notes a finished part, soon. Parts that finish while the disk is busy are written together.
    pub fn finished(&self, part: Part) {
        let bytes = record::encode(&Line::Part(part));
        let mut queue = self.inner.queue();
        if queue.failed {
            return;
        }
        queue.bytes.extend_from_slice(&bytes);
        if !queue.writing {
            queue.writing = true;
            let inner = Arc::clone(&self.inner);
            tokio::task::spawn_blocking(move || inner.write_queue());
        }
    }

    /// Removes the entry: the upload is completed, or gone.
    pub async fn close(self) {
        let path = self.inner.path.clone();
        let removed = blocking(move || std::fs::remove_file(&path).map_err(state::Error::io("removing", &path)));
        if let Err(error) = removed.await {
            // The sweeper will find that there is no such upload, and try to remove it again.
            tracing::error!(%error, "the entry of an upload that has ended stays");
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_queue(&self) {
        loop {
            let bytes = {
                let mut queue = self.queue();
                if queue.bytes.is_empty() {
                    queue.writing = false;
                    return;
                }
                std::mem::take(&mut queue.bytes)
            };
            if let Err(error) = (&*self.file).write_all(&bytes).and_then(|()| self.file.sync_data()) {
                tracing::warn!(path = %self.path.display(), %error, "finished parts cannot be noted: if this upload is interrupted it is not resumed");
                let mut queue = self.queue();
                *queue = Queue { failed: true, ..Queue::default() };
                return;
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, state::Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// An entry that nobody works on. While this exists it is locked: no other sweep, and no resumption, takes it.
#[derive(Debug)]
pub struct Interrupted {
    pub intent: Intent,
    /// `None`: the process died before the answer to its Create was durable.
    pub id: Option<UploadId>,
    /// There may be an upload of this key whose ID is not known.
    pub in_doubt: bool,
    entry: Entry,
}

impl Interrupted {
    /// The parts that had finished, in the order in which they did. Those of a torn tail are missing.
    ///
    /// # Errors
    /// When the file cannot be read again.
    pub fn parts(&self) -> Result<Vec<Part>, Error> {
        let path = &self.entry.inner.path;
        let lines = record::read(path).map_err(state::Error::io("reading", path))?;
        let part = |line| if let Line::Part(part) = line { Some(part) } else { None };
        Ok(lines.filter_map(part).collect())
    }

    /// Goes on with the upload, or ends it.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        self.entry
    }
}

/// Every entry of a state directory that nobody works on, whatever its location. A directory that does not exist has none.
///
/// What cannot be read is put aside and said, once.
///
/// # Errors
/// When the folder cannot be read.
pub fn interrupted(state_dir: &Path) -> Result<Vec<Interrupted>, Error> {
    entries(&state_dir.join(FOLDER))
}

fn entries(folder: &Path) -> Result<Vec<Interrupted>, Error> {
    let mut found = Vec::new();
    for path in paths(folder)? {
        let name = path.to_string_lossy();
        if name.ends_with(SUFFIX) {
            found.extend(claim(&path)?);
        } else if name.ends_with(state::TEMPORARY) {
            discard(&path);
        }
    }
    found.sort_by_key(|entry| entry.intent.begun);
    Ok(found)
}

/// The key of every entry, live ones too; of damaged ones nobody knows it.
///
/// # Errors
/// When the folder or an entry cannot be read: which uploads are somebody's is not known then.
pub(super) fn keys(state_dir: &Path) -> Result<HashSet<ObjectKey>, Error> {
    let mut keys = HashSet::new();
    for path in paths(&state_dir.join(FOLDER))? {
        let lines = match record::read(&path) {
            Ok(lines) => lines,
            // It was closed while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(state::Error::io("reading", &path)(error).into()),
        };
        match State::of(lines) {
            Ok(state) => drop(keys.insert(state.intent.key)),
            Err(record::Unreadable::Damaged) => {}
            Err(record::Unreadable::Newer(version)) => {
                let error = io::Error::other(format!("version {version} of Penstock's journal wrote it"));
                return Err(state::Error::io("reading", &path)(error).into());
            }
        }
    }
    Ok(keys)
}

fn paths(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = state::Error::io("reading the folder", folder);
    let paths = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    Ok(paths.map_err(failed)?)
}

/// Takes the file if nobody else has it and it still has its name.
fn take(path: &Path) -> io::Result<Option<Lock>> {
    let file = match OpenOptions::new().read(true).append(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(file) = Lock::on(file)? else { return Ok(None) };
    // Its process may have closed it in between.
    Ok((file.metadata()?.nlink() > 0).then_some(file))
}

/// An intent that never got its name: no upload was created after it.
fn discard(path: &Path) {
    if let Ok(Some(_file)) = take(path)
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "what is left of an entry cannot be removed");
    }
}

fn claim(path: &Path) -> Result<Option<Interrupted>, Error> {
    let Some(file) = take(path).map_err(state::Error::io("opening", path))? else { return Ok(None) };
    let state = record::read(path).map(State::of).map_err(state::Error::io("reading", path))?;
    match state {
        Ok(State { intent, id, in_doubt }) => {
            Ok(Some(Interrupted { intent, id, in_doubt, entry: Entry::of(path.to_owned(), file) }))
        }
        Err(record::Unreadable::Newer(version)) => {
            tracing::error!(path = %path.display(), version, "a newer version of Penstock wrote this entry; it is left for that");
            Ok(None)
        }
        Err(record::Unreadable::Damaged) => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(DAMAGED);
            tracing::error!(path = %path.display(), "this entry is damaged: its upload cannot be found; the file is put aside");
            std::fs::rename(path, aside).map_err(state::Error::io("renaming", path))?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
