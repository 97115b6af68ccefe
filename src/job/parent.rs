//! Finds the earlier backup that an item is incremental to.
//!
//! - **Which**: for each item, the last committed backup of the chain ([`crate::catalog::date`]) that has it and whose index can be read. A
//!   listing shows its objects; chunks of an object that is missing or has another size are stored again. So are chunks that
//!   `verify --data` has found damaged since ([`crate::format::damage`]).
//! - **Compaction**: chunks are also stored again if less than `min_live` of their object is still referenced. Nothing else is needed: the
//!   old object is deleted with the last backup that references it.
//! - **Failure**: a manifest or index that is missing, damaged, denied or of another version is a warning, and the previous backup is tried;
//!   without any, the backup is a full one. A store that cannot be reached fails the run.
//! - **Encrypted backups**: the node cannot read its own index, and refers to the newest backup whose table it kept (the module `kept`), or
//!   reads the index with the index's identity; without either the backup is a full one, which the log says.
//! - **Memory**: [`ChunkTable::PER_CHUNK`] for each chunk, reserved together with the stream's own. If the whole budget is too small for it,
//!   the backup is a full one, with a warning. Of the listing only the newest backups and the sizes of their objects are kept.
//! - **Requests**: one listing of the chain, one GET of the manifest, if the listing had several pages one of the objects that the
//!   manifest names (of the backups that they were made for, or of the chain, whichever is shorter), one GET of each item's index; and with
//!   `full_every` one listing of the full backup.

mod ancestors;
mod kept;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::ancestors::stream_of;
pub(super) use self::ancestors::{Ancestor, Ancestors, base};
use self::kept::Kept;
pub(super) use self::kept::{Keeper, Tables};
use super::{Error, Streaming};
use crate::budget::Reservation;
use crate::config;
use crate::download;
use crate::download::index::{self, IndexFile, Records};
use crate::error::{Class, Classify as _};
use crate::format::cluster::Record;
use crate::format::index::{self as index_format, Chunk, FileEntry, FileTime, IndexError};
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{DataObject, Item, Manifest, SourceDescription, Stream, Warning, Warnings};
use crate::source::table::ChunkTable;
use crate::source::tree::{self, hashed::Hashed};

/// How a run may use earlier backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Nothing: a full backup.
    Nothing,
    /// Chunks; every file is read.
    Chunks,
    /// Chunks, and files that have not changed are not read.
    Files,
}

#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub reuse: Reuse,
    /// The time after the last full backup at which the next full backup is due. `None`: never.
    pub full_every: Option<Duration>,
    /// How many thousandths of an object must be live for this backup to reference it.
    pub min_live: u16,
    /// How long before the parent's start a file's last change must be for the file to count as unchanged.
    pub settle: Duration,
}

/// Covers the coarsest timestamps of a file system (2 s, FAT) and the clock of a file server that differs a little.
const SETTLE: Duration = Duration::from_secs(3);

impl Default for Policy {
    fn default() -> Self {
        Self { reuse: Reuse::Files, full_every: None, min_live: config::MIN_LIVE, settle: SETTLE }
    }
}

/// One item's stream in an earlier backup, ready to be referenced.
pub(super) struct Parent {
    pub(super) ancestor: Arc<Ancestor>,
    pub(super) chunks: Arc<ChunkTable>,
    stream: Stream,
    /// `None`: every file is read.
    members: Option<Members>,
}

/// The members of the parent's stream, for a tree. Taken once.
enum Members {
    /// Of its index. Paths with a warning are read again.
    Stored { index: IndexFile, doubtful: HashSet<String> },
    /// Of the table in the state directory.
    Kept(Hashed),
}

/// Whether the parent itself is at fault, so that an earlier backup may serve.
pub(super) fn excusable(class: Class) -> bool {
    matches!(
        class,
        Class::Integrity
            | Class::NotFound
            | Class::Compat
            | Class::AccessDenied
            | Class::KmsDenied
            | Class::KmsKeyState
            | Class::KmsConfig
    )
}

impl Streaming<'_, '_> {
    /// Reserves `bytes` and the memory of the item's parent, and opens the parent if there is one.
    pub(super) async fn parent(&mut self, bytes: u64) -> Result<(Reservation, Option<Parent>), Error> {
        let mut depth = 0;
        loop {
            let error = match self.try_parent(&mut depth, bytes).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if !excusable(error.class()) {
                return Err(error);
            }
            let message = format!("could not use an earlier backup as the parent: {error}");
            self.tally.warn(&self.run.ancestors.home(), message);
        }
    }

    async fn try_parent(&mut self, depth: &mut usize, bytes: u64) -> Result<(Reservation, Option<Parent>), Error> {
        let location = self.run.location;
        let budget = &location.process.budget;
        let Some(ancestor) = self.usable(depth).await? else {
            return Ok((budget.reserve(bytes).await?, None));
        };
        let (manifest, item) = (&ancestor.manifest, &self.tally.item);
        let (old, stream) = stream_of(manifest, item).expect("a candidate has the item's stream");
        let kept = self.run.keys.is_some() && self.run.tables.has(item, &manifest.id);
        let members = if kept { stream.files.saturating_mul(Hashed::PER_FILE as u64) } else { 0 };
        let table = stream.chunks.saturating_mul(ChunkTable::PER_CHUNK as u64).saturating_add(members);
        let wanted = bytes.saturating_add(table);
        if wanted > budget.total() {
            let reservation = budget.reserve(bytes).await?;
            let message = format!(
                "this is a full backup: the table of the {} chunks of the parent {} needs {table} bytes of memory; raise limits.memory to {wanted}",
                stream.chunks, manifest.id
            );
            self.tally.warn(&self.run.ancestors.home(), message);
            return Ok((reservation, None));
        }
        let reservation = budget.reserve(wanted).await?;
        self.run.ancestors.survey(&ancestor).await?;
        let again = self.again(stream);
        let (chunks, members) = match if kept { self.kept(&manifest.id, stream).await } else { None } {
            Some(Kept { chunks, files }) => (table_of(chunks, &again), files.map(Members::Kept)),
            None if self.run.keys.as_ref().is_some_and(|keys| keys.recipients.index_identity.is_empty()) => {
                self.full_again(&ancestor, "cannot be used");
                return Ok((reservation, None));
            }
            None => {
                let index = index::fetch(&self.run.reading(), stream).await?;
                let (records, of_file, count) = (index.open(stream)?, index.clone(), stream.chunks);
                let chunks = tokio::task::spawn_blocking(move || {
                    read_table(records, &of_file, count).map(|chunks| table_of(chunks, &again))
                });
                let chunks = chunks.await.map_err(|_| download::Error::Stopped)??;
                (chunks, doubtful(manifest, old).map(|doubtful| Members::Stored { index, doubtful }))
            }
        };
        let stream = stream.clone();
        let chunks = chunks.map_err(|chunks| too_many(&stream, chunks.len()))?;
        tracing::info!(item = %self.tally.item, parent = %manifest.id, chunks = chunks.len(), "item is incremental to an earlier backup");
        Ok((reservation, Some(Parent { ancestor, chunks: Arc::new(chunks), stream, members })))
    }

    /// The newest earlier backup behind the first `depth` that the item can be incremental to.
    async fn usable(&mut self, depth: &mut usize) -> Result<Option<Arc<Ancestor>>, Error> {
        let mut passed: Option<Arc<Ancestor>> = None;
        while let Some((ancestor, deeper)) = self.run.ancestors.candidate(&self.tally.item, *depth).await? {
            *depth = deeper;
            if let Some(reason) = self.run.unrelated(&ancestor) {
                tracing::warn!(item = %self.tally.item, last = %ancestor.manifest.id, "this is a full backup: {reason}");
                return Ok(None);
            }
            let Some(keys) = &self.run.keys else { return Ok(Some(ancestor)) };
            let readable = !keys.recipients.index_identity.is_empty();
            if readable || self.run.tables.has(&self.tally.item, &ancestor.manifest.id) {
                return Ok(Some(ancestor));
            }
            passed.get_or_insert(ancestor);
        }
        if let Some(passed) = passed {
            self.full_again(&passed, "is not in state_dir");
        }
        Ok(None)
    }

    /// Says what it costs that the last backup's table cannot be used.
    fn full_again(&self, last: &Ancestor, why: &str) {
        let again = stream_of(&last.manifest, &self.tally.item).map_or(0, |(_, stream)| stream.stored_bytes);
        tracing::warn!(
            item = %self.tally.item, last = %last.manifest.id, bytes = again,
            "this is a full backup: the last one's table {why}, and there is no index_identity_file; what it shares with the last one ({again} bytes were stored then) is stored again"
        );
    }

    /// The table that the state directory has of a backup. `None`, with a warning, if it cannot be used.
    async fn kept(&self, backup: &BackupId, stream: &Stream) -> Option<Kept> {
        let (tables, item, backup, stream) =
            (self.run.tables.clone(), self.tally.item.clone(), backup.clone(), stream.clone());
        let read = tokio::task::spawn_blocking(move || tables.read(&item, &backup, &stream)).await;
        match read.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(Some(kept)) => return Some(kept),
            Ok(None) => {
                tracing::warn!(item = %self.tally.item, "the table in state_dir is of another index: it is not used");
            }
            Err(error) => {
                tracing::warn!(item = %self.tally.item, %error, "could not read the last backup's table in state_dir: it is not used");
            }
        }
        None
    }

    /// Which chunks of the stream's objects are to be stored again.
    fn again(&mut self, stream: &Stream) -> Vec<Again> {
        let min_live = self.run.spec.parent.min_live;
        let judge = |object: &DataObject| {
            if let Some(complaint) = self.run.ancestors.complaint(object) {
                let message = format!("an object of an earlier backup {complaint}: its chunks are stored again");
                self.tally.warn(object.key.as_str(), message);
                return Again::All;
            }
            if wasted(object, min_live) {
                tracing::info!(key = %object.key, size = object.size, live = object.live_bytes, "compacting an object: its live chunks are stored again");
                return Again::All;
            }
            match self.run.ancestors.damaged(&object.key) {
                None => Again::None,
                Some(offsets) => {
                    let count = offsets.len();
                    tracing::warn!(key = %object.key, chunks = count, "`verify --data` found an object of an earlier backup damaged: its damaged chunks are stored again");
                    Again::At(offsets.clone())
                }
            }
        };
        stream.objects.iter().map(judge).collect()
    }
}

impl Parent {
    /// The objects by the numbers that the table uses.
    pub(super) fn objects(&self) -> &[DataObject] {
        &self.stream.objects
    }

    /// The record of the item's objects, if it is of a cluster.
    pub(super) fn record(&self, item: &Name) -> Option<&Record> {
        stream_of(&self.ancestor.manifest, item)?.0.kubernetes.as_deref()
    }

    /// What a tree source needs to skip unchanged files; `None` if it must read all. Returns it once.
    pub(super) fn take_members(&mut self, policy: &Policy) -> Result<Option<tree::Parent>, download::Error> {
        let Some(members) = self.members.take().filter(|_| policy.reuse == Reuse::Files) else { return Ok(None) };
        let (files, doubtful) = match members {
            Members::Kept(hashed) => (tree::Files::Hashed(hashed), HashSet::new()),
            Members::Stored { index, doubtful } => {
                let files = Files { records: Some(index.open(&self.stream)?), index };
                (tree::Files::Listed(Box::new(files)), doubtful)
            }
        };
        let settled = settled(self.ancestor.began(), policy.settle);
        Ok(Some(tree::Parent { chunks: Arc::clone(&self.chunks), files, settled, doubtful }))
    }
}

fn settled(started: Timestamp, settle: Duration) -> FileTime {
    let settle = SignedDuration::try_from(settle).unwrap_or(SignedDuration::MAX);
    let time = started.checked_sub(settle).unwrap_or(Timestamp::MIN);
    let whole = time.as_nanosecond().div_euclid(1_000_000_000);
    let nanoseconds = u32::try_from(time.as_nanosecond().rem_euclid(1_000_000_000)).unwrap_or(0);
    FileTime { seconds: i64::try_from(whole).unwrap_or(i64::MIN), nanoseconds }
}

/// The file entries of an index that has been checked already.
struct Files {
    records: Option<Records>,
    index: IndexFile,
}

impl Iterator for Files {
    type Item = FileEntry;

    fn next(&mut self) -> Option<FileEntry> {
        loop {
            match self.records.as_mut()?.next_record() {
                Ok(Some(index_format::Record::File(file))) => return Some(file),
                Ok(Some(_)) => {}
                Ok(None) => self.records = None,
                Err(error) => {
                    // The index is a local copy, so only the disk can be at fault: the rest of the tree is read as if it were new.
                    tracing::warn!(error = %self.index.refused(error), "could not read all of the parent's list of files: the rest of the files is read again");
                    self.records = None;
                }
            }
        }
    }
}

/// Reads and thereby checks the whole index. Blocks.
fn read_table(mut records: Records, index: &IndexFile, count: u64) -> Result<Vec<Chunk>, download::Error> {
    // The reservation is for one table of that length, not for the two that growing would need.
    let mut chunks = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        if let index_format::Record::Chunk(chunk) = record {
            chunks.push(chunk);
        }
    }
    Ok(chunks)
}

/// Which chunks of an object are stored again.
enum Again {
    None,
    All,
    /// Those at these offsets.
    At(HashSet<u64>),
}

fn table_of(chunks: Vec<Chunk>, again: &[Again]) -> Result<ChunkTable, Vec<Chunk>> {
    ChunkTable::new(chunks, |chunk| match again.get(chunk.object as usize) {
        Some(Again::None) => false,
        Some(Again::At(offsets)) => offsets.contains(&chunk.offset),
        Some(Again::All) | None => true,
    })
}

fn too_many(stream: &Stream, chunks: usize) -> download::Error {
    let reason = format!("it has {chunks} chunks; at most 2^32 can be looked up");
    download::Error::Index { key: stream.index.key.clone(), error: IndexError::Record { record: 0, reason } }
}

/// Whether too little of an object is live to reference it.
fn wasted(object: &DataObject, min_live: u16) -> bool {
    u128::from(object.live_bytes) * 1000 < u128::from(object.payload_len()) * u128::from(min_live)
}

/// The paths of one item's warnings, as in its archive; `None` if not all are known.
fn doubtful(manifest: &Manifest, item: &Item) -> Option<HashSet<String>> {
    doubtful_of(&manifest.warnings, &item.name, &item.source)
}

/// As [`doubtful`], of an item that is not in a manifest yet.
pub(super) fn doubtful_of(warnings: &Warnings, item: &Name, source: &SourceDescription) -> Option<HashSet<String>> {
    let Warnings { count, list } = warnings;
    let SourceDescription::Tree { path: root } = source else { return Some(HashSet::new()) };
    let mine = || list.iter().filter(|warning| warning.item == *item);
    if *count > list.len() as u64 || mine().any(|warning| warning.path.is_empty()) {
        return None;
    }
    let relative = |warning: &Warning| {
        let below = warning.path.strip_prefix(root.trim_end_matches('/'))?;
        Some(if below.is_empty() { ".".to_owned() } else { below.strip_prefix('/')?.to_owned() })
    };
    Some(mine().filter_map(relative).collect())
}

#[cfg(test)]
mod tests;
