//! Records which uploads exist, so that those of a dead process are found without the permission to list uploads.
//!
//! - **Promise**: the intent is durable (file and folder synced) before CreateMultipartUpload, the upload's ID before its first part is
//!   sent. So every upload begun with this state directory has ended or has an entry. An entry has no ID only if the answer to its
//!   Create never came.
//! - **Alive or dead**: a live entry's file is locked by its process. The kernel releases the lock when the process ends.
//! - **Cost**: two syncs before the first part, then one for all parts that have finished meanwhile; no part waits for it. About 60 bytes
//!   a chunk.
//! - **Encrypted objects**: the intent has the file key (mode 0600; overwritten and removed with the entry), and a chunk's tag is durable
//!   before any byte of the chunk is sent: a resumed object is compared with the tags, so that a key and a counter never meet two
//!   plaintexts ([`crate::age`]).
//! - **Failure**: an intent, ID or tag that cannot be written fails the upload. A finished part that cannot be written, or is lost in a torn
//!   tail, is sent again after an interruption.
//!
//! [`record`] is the file format. [`Entry::close`] removes an entry; [`super::sweep`] aborts the uploads of those that are left, or the
//! job resumes them ([`Interrupted`]).

mod durable;
pub mod record;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use self::durable::Recorded;
use self::durable::overwrite;
pub use self::record::{Intent, Part, Sealed};
use self::record::{Line, State};
use crate::age::{Recipient, Tags};
use crate::error::{Classify, Report};
use crate::format::key::ObjectKey;
use crate::state::{self, Lock};
use crate::store::UploadId;

/// Below the state directory.
const FOLDER: &str = "uploads";

/// The suffix of an entry's file name.
const SUFFIX: &str = ".upload";

/// Appended to the file name of an unreadable entry, which is kept for inspection.
const DAMAGED: &str = ".damaged";

#[derive(Debug, thiserror::Error)]
#[error("journal of uploads: {0}")]
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

    /// Records durably that an upload of `key`, in parts of `part_size`, is about to be created; of an encrypted object, with its key.
    ///
    /// # Errors
    /// When the disk does not take it. The caller must not create the upload then.
    pub async fn begin(&self, key: &ObjectKey, part_size: u64, sealed: Option<Sealed>) -> Result<Entry, Error> {
        let holds_key = sealed.is_some();
        let intent = Intent {
            version: if holds_key { record::VERSION } else { record::PLAIN_VERSION },
            location: self.location.to_string(),
            bucket: self.bucket.to_string(),
            key: key.clone(),
            part_size,
            begun: jiff::Timestamp::now(),
            sealed,
        };
        let name = getrandom::u64().map_err(|error| state::Error::Io {
            action: "name an entry in",
            path: self.folder.to_path_buf(),
            error: io::Error::other(error),
        })?;
        let path = self.folder.join(format!("{name:016x}{SUFFIX}"));
        let bytes = record::encode(&Line::Intent(intent));
        let file = blocking({
            let path = path.clone();
            move || state::create_locked(&path, &bytes)
        });
        Ok(Entry::of(path, file.await?, holds_key))
    }
}

impl Journal {
    /// Claims the newest interrupted upload that can be resumed as `key`: of the same object in another backup of its chain, with parts of
    /// the same size, encrypted to the same recipients or not at all. Returns it with the parts that had finished.
    ///
    /// # Errors
    /// When the folder or an entry in it cannot be read.
    pub async fn adopt(
        &self,
        key: &ObjectKey,
        part_size: u64,
        recipients: Option<Arc<[Recipient]>>,
    ) -> Result<Option<(Interrupted, Vec<Part>)>, Error> {
        let (journal, key) = (self.clone(), key.clone());
        let found = tokio::task::spawn_blocking(move || {
            let fits = |found: &Interrupted| {
                let Intent { location, bucket, key: theirs, part_size: size, sealed, .. } = &found.intent;
                let here = **location == *journal.location && **bucket == *journal.bucket;
                let to_the_same = match (sealed, &recipients) {
                    (Some(sealed), Some(recipients)) => sealed.is_to(recipients),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                };
                here && *size == part_size && found.id.is_some() && theirs.is_sibling_of(&key) && to_the_same
            };
            let Some(found) = entries(&journal.folder)?.into_iter().rfind(fits) else { return Ok(None) };
            if found.intent.sealed.is_some() && !found.is_whole()? {
                tracing::warn!(key = %found.intent.key, "an interrupted upload's journal entry is damaged before its end, and may lack what was sent: it is not resumed; the sweeper aborts it");
                return Ok(None);
            }
            found.trim()?;
            found.parts().map(|parts| Some((found, parts)))
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
    /// Its first line has a file key.
    holds_key: bool,
    queue: Mutex<Queue>,
}

/// Finished parts that are not written yet.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Told when all that was queued before them is durable.
    waiting: Vec<oneshot::Sender<()>>,
    /// A thread is writing, and continues until the queue is empty.
    writing: bool,
    /// After one failure the file's end is unknown: nothing more is written.
    failed: bool,
}

impl Entry {
    fn of(path: PathBuf, file: Lock, holds_key: bool) -> Self {
        Self { inner: Arc::new(Shared { path, file, holds_key, queue: Mutex::default() }) }
    }

    /// Makes the upload's ID durable.
    ///
    /// # Errors
    /// When the disk does not take it. The caller must abort the upload while it knows the ID.
    pub async fn created(&self, id: &UploadId) -> Result<(), Error> {
        self.append(Line::Created { id: id.0.clone() }).await
    }

    /// Records that the upload with this entry's ID has ended, but that another of unknown ID may exist.
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
            written.map_err(state::Error::io("write", &inner.path))
        })
        .await
    }

    /// Queues a finished part to be recorded. Parts that finish while the disk is busy are written together.
    pub fn finished(&self, part: Part) {
        self.enqueue(&record::encode(&Line::Part(part)), None);
    }

    /// Queues the tags of consecutive chunks, behind all that was queued before.
    #[must_use]
    pub fn tags(&self, from: u64, tags: &Tags) -> Recorded {
        let bytes =
            if tags.chunks() > 0 { record::encode(&record::tags_line(from, tags)) } else { Zeroizing::default() };
        let (durable, told) = oneshot::channel();
        self.enqueue(&bytes, Some(durable));
        Recorded::new(told, self.inner.path.clone())
    }

    fn enqueue(&self, bytes: &[u8], waiting: Option<oneshot::Sender<()>>) {
        let mut queue = self.inner.queue();
        if queue.failed {
            return;
        }
        queue.bytes.extend_from_slice(bytes);
        queue.waiting.extend(waiting);
        if !queue.writing {
            queue.writing = true;
            let inner = Arc::clone(&self.inner);
            tokio::task::spawn_blocking(move || inner.write_queue());
        }
    }

    /// Removes the entry, when the upload is completed or aborted. A file key is overwritten first.
    pub async fn close(self) {
        let (path, holds_key) = (self.inner.path.clone(), self.inner.holds_key);
        let removed = blocking(move || {
            if holds_key && let Err(error) = overwrite(&path) {
                tracing::warn!(path = %path.display(), %error, "could not overwrite the key of an upload that has ended: the disk may hold it until the blocks are used again");
            }
            std::fs::remove_file(&path).map_err(state::Error::io("remove", &path))
        });
        if let Err(error) = removed.await {
            // The sweeper finds no such upload, and removes the entry then.
            tracing::error!(%error, "could not remove the journal entry of an upload that has ended: the next sweep removes it");
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_queue(&self) {
        loop {
            let (bytes, waiting) = {
                let mut queue = self.queue();
                if queue.bytes.is_empty() && queue.waiting.is_empty() {
                    queue.writing = false;
                    return;
                }
                (std::mem::take(&mut queue.bytes), std::mem::take(&mut queue.waiting))
            };
            let written = || (&*self.file).write_all(&bytes).and_then(|()| self.file.sync_data());
            if let Err(error) = if bytes.is_empty() { Ok(()) } else { written() } {
                tracing::warn!(path = %self.path.display(), %error, "could not record finished parts: if this upload is interrupted, it sends them again; one of an encrypted object fails now");
                let mut queue = self.queue();
                *queue = Queue { failed: true, ..Queue::default() };
                return;
            }
            // Fails only if the part is not to be sent any more.
            for waiting in waiting {
                let _ = waiting.send(());
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

/// The entry of a dead process's upload. It stays locked while this exists: no other sweep or run claims it.
#[derive(Debug)]
pub struct Interrupted {
    pub intent: Intent,
    /// `None`: the process died before the answer to its Create was durable.
    pub id: Option<UploadId>,
    /// Another upload of this key may exist, whose ID is unknown.
    pub in_doubt: bool,
    entry: Entry,
}

impl Interrupted {
    /// The finished parts, in the order in which they finished. Those in a torn tail are missing.
    ///
    /// # Errors
    /// When the file cannot be read again.
    pub fn parts(&self) -> Result<Vec<Part>, Error> {
        let path = &self.entry.inner.path;
        let lines = record::read(path).map_err(state::Error::io("read", path))?;
        let part = |line| if let Line::Part(part) = line { Some(part) } else { None };
        Ok(lines.filter_map(part).collect())
    }

    /// The tags of the chunks that may have been sent. `None` where one is missing.
    ///
    /// # Errors
    /// When the file cannot be read again.
    pub fn tags(&self) -> Result<Option<Tags>, Error> {
        let path = &self.entry.inner.path;
        let lines = record::read(path).map_err(state::Error::io("read", path))?;
        Ok(record::tags(lines))
    }

    /// Whether all that was recorded can be read, but for a torn tail.
    fn is_whole(&self) -> Result<bool, Error> {
        let path = &self.entry.inner.path;
        Ok(record::is_whole_but_for_its_end(path).map_err(state::Error::io("read", path))?)
    }

    /// Cuts off a torn tail: what is written behind it would never be read.
    fn trim(&self) -> Result<(), Error> {
        let Shared { path, file, .. } = &*self.entry.inner;
        let cut = record::valid(path).and_then(|length| {
            file.set_len(length)?;
            file.sync_all()
        });
        Ok(cut.map_err(state::Error::io("cut", path))?)
    }

    /// Returns the entry, to resume the upload or to close it.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        self.entry
    }
}

/// Every entry of a state directory whose process is dead, for all locations. A directory that does not exist has none.
///
/// Renames an entry that cannot be read, and logs it once.
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

/// The keys of all entries, also of live ones. The key of a damaged entry is unknown.
///
/// # Errors
/// When the folder or an entry cannot be read: it may name any upload.
pub(super) fn keys(state_dir: &Path) -> Result<HashSet<ObjectKey>, Error> {
    let mut keys = HashSet::new();
    for path in paths(&state_dir.join(FOLDER))? {
        let lines = match record::read(&path) {
            Ok(lines) => lines,
            // Its process closed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(state::Error::io("read", &path)(error).into()),
        };
        match State::of(lines) {
            Ok(state) => drop(keys.insert(state.intent.key)),
            Err(record::Unreadable::Damaged) => {}
            Err(record::Unreadable::Newer(version)) => {
                let error = io::Error::other(format!("its journal format is version {version}, of a newer Penstock"));
                return Err(state::Error::io("read", &path)(error).into());
            }
        }
    }
    Ok(keys)
}

fn paths(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = state::Error::io("read the folder", folder);
    let paths = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    Ok(paths.map_err(failed)?)
}

/// Locks and returns the file, unless another process has it or has removed it.
fn take(path: &Path) -> io::Result<Option<Lock>> {
    let file = match OpenOptions::new().read(true).append(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(file) = Lock::on(file)? else { return Ok(None) };
    // Its process may have removed it before the lock was ours.
    Ok((file.metadata()?.nlink() > 0).then_some(file))
}

/// Removes an intent that was never renamed to its final name: no upload was created after it.
fn discard(path: &Path) {
    if let Ok(Some(_file)) = take(path)
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "could not remove an incomplete journal entry: the next sweep tries again");
    }
}

fn claim(path: &Path) -> Result<Option<Interrupted>, Error> {
    let Some(file) = take(path).map_err(state::Error::io("open", path))? else { return Ok(None) };
    let state = record::read(path).map(State::of).map_err(state::Error::io("read", path))?;
    match state {
        Ok(State { intent, id, in_doubt }) => {
            let holds_key = intent.sealed.is_some();
            Ok(Some(Interrupted { intent, id, in_doubt, entry: Entry::of(path.to_owned(), file, holds_key) }))
        }
        Err(record::Unreadable::Newer(version)) => {
            tracing::error!(path = %path.display(), version, "journal entry left as it is: a newer version of Penstock wrote it");
            Ok(None)
        }
        Err(record::Unreadable::Damaged) => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(DAMAGED);
            tracing::error!(path = %path.display(), "journal entry is damaged: its upload cannot be found or aborted; renaming the file");
            std::fs::rename(path, aside).map_err(state::Error::io("rename", path))?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
