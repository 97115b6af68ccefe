//! Checks whether a backup is whole: `penstock verify`.
//!
//! # What it promises
//! Lists every problem, not only the first (of one stream's chunks, [`MAX_CHUNK_FINDINGS`] at most). [`Depth::Structure`] reads the index
//! and compares each data object's size and checksum; [`Depth::Data`] also reads every chunk and checks its digest, as a restore
//! would.
//!
//! Of an encrypted backup a machine without a key proves less: that each object is there, of its size and checksum, begins with a
//! header of age and has the length of a payload, and that the index has its digest. What is in them it cannot read; [`Findings::locked`] says
//! so, item by item. With a key it proves all of it, and with [`Depth::Data`] also that each object ends where it should.
//!
//! # What it costs
//! Structure: a HEAD for each object and a GET for each index; of encrypted objects a small GET besides. Data: the whole backup is
//! downloaded, on [`crate::download::plain`]'s memory.
//!
//! # What happens on failure
//! An object that is missing or differs is a [`Finding`]; one that differs only where this backup has nothing is none, if the data was read. A failure that proves nothing about the backup (an unreachable service, a
//! missing permission) is an error.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::catalog::Entry;
use crate::checksum::Checksum;
use crate::download::index::{self, IndexFile};
use crate::download::{self, Error, Lost, Progress, Selection, plain, sealed};
use crate::error::{Class, Classify as _};
use crate::format::damage::{self, Places};
use crate::format::index::Record;
use crate::format::key::{Name, ObjectKey};
use crate::format::manifest::{Content, DataObject, Item, Manifest, Stream};
use crate::location::Location;
use crate::snapshot;
use crate::store::{self, Overwrite, Payload};

/// The most chunks of a stream that are listed.
pub const MAX_CHUNK_FINDINGS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    Structure,
    /// Also every chunk.
    Data,
}

/// One problem of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub item: Name,
    /// The object at fault.
    pub key: Option<ObjectKey>,
    pub class: Class,
    pub message: String,
}

/// The result: how much was checked, and the problems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub items: u64,
    pub objects: u64,
    /// Plain bytes that were read and checked; none at [`Depth::Structure`].
    pub bytes: u64,
    pub list: Vec<Finding>,
    /// The chunks that cannot be read as they were stored: the objects, and the first [`damage::MAX_CHUNKS`] places in them.
    pub lost: Places,
    /// How often such a chunk is in the streams.
    pub lost_chunks: u64,
    /// Items that no identity opens: nothing is proven of their content. Why, with the first object of each that is locked.
    pub locked: Vec<Finding>,
}

/// Asks EC2 for the snapshots of a backup: each must exist, complete, and be of the volume that the manifest names.
///
/// # Errors
/// When EC2 cannot be asked.
pub async fn snapshots(location: &Location, manifest: &Manifest) -> Result<Vec<Finding>, snapshot::Error> {
    let findings = snapshot::check(location, manifest).await?;
    let finding = |(item, error): (Name, snapshot::Error)| Finding {
        item,
        key: None,
        class: error.class(),
        message: error.to_string(),
    };
    Ok(findings.into_iter().map(finding).collect())
}

/// Records beside the manifest which chunks are lost, so that the next backup of the chain stores them again. Returns how many the record
/// has: one record has not room for all of a large damage.
///
/// # Errors
/// When the store refuses it.
pub async fn record(location: &Location, entry: &Entry, lost: &Places) -> Result<usize, store::Error> {
    let (json, chunks) = damage::to_json(lost);
    let payload = Payload::new(json, location.store.algorithm());
    location.store.put(&entry.damaged(), payload, Overwrite::Allow).await?;
    Ok(chunks)
}

/// Checks all streams of a backup, and whether it has its snapshots ([`snapshots`] asks EC2).
///
/// # Errors
/// When the check cannot be made, or is cancelled.
pub async fn verify(
    location: &Location,
    manifest: &Manifest,
    depth: Depth,
    cancel: &CancellationToken,
    progress: &Progress,
) -> Result<Findings, Error> {
    let (full, findings) = (manifest.parent.is_none(), Findings::default());
    let mut check = Check { location, full, cancel, progress, findings, unlike: Vec::new() };
    for item in &manifest.items {
        check.findings.items += 1;
        let there = match &item.content {
            Content::Stream { stream: Some(stream) } => {
                check.stream(item, stream, depth).await?;
                true
            }
            Content::EbsSnapshot { snapshot } => snapshot.is_some(),
            Content::Stream { stream: None } => false,
        };
        if !there {
            let why = item.error.as_ref().map_or("no reason is recorded", |error| error.message.as_str());
            let message = format!("the item failed in the backup: {why}");
            check.push(&item.name, None, Class::NotFound, message);
        }
    }
    Ok(check.findings)
}

struct Check<'a> {
    location: &'a Location,
    /// A backup without a parent does not deduplicate: its chunks tile its objects.
    full: bool,
    cancel: &'a CancellationToken,
    progress: &'a Progress,
    findings: Findings,
    /// Objects that differ somewhere, and of which the backup needs a part: [`Depth::Data`] reads that part.
    unlike: Vec<Finding>,
}

const CRC: &str = "the CRC-64/NVME";

/// Turns an error that proves the backup damaged, or locked, into a finding; returns any other.
fn finding(item: &Name, error: Error) -> Result<Finding, Error> {
    let report = error.report();
    match report.class {
        Class::Integrity | Class::NotFound | Class::Identity => {
            Ok(Finding { item: item.clone(), key: error.key().cloned(), class: report.class, message: report.message })
        }
        _ => Err(error),
    }
}

impl Check<'_> {
    fn add(&mut self, found: Finding) {
        if found.class != Class::Identity {
            self.findings.list.push(found);
        } else if !self.findings.locked.iter().any(|locked| locked.item == found.item) {
            self.findings.locked.push(found);
        }
    }

    fn push(&mut self, item: &Name, key: Option<ObjectKey>, class: Class, message: String) {
        self.findings.list.push(Finding { item: item.clone(), key, class, message });
    }

    async fn stream(&mut self, item: &Item, stream: &Stream, depth: Depth) -> Result<(), Error> {
        let bad = self.objects(&item.name, stream, depth).await?;
        let index = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
            index = index::fetch(self.location, stream) => index,
        };
        self.findings.objects += 1;
        let index = match index {
            Ok(index) => index,
            Err(error) => {
                self.unread(finding(&item.name, error)?);
                return Ok(());
            }
        };
        if let Err(error) = self.index(&item.name, stream, &index).await {
            self.unread(finding(&item.name, error)?);
            return Ok(());
        }
        if depth == Depth::Structure {
            return Ok(());
        }
        let all_read = self.data(&item.name, stream, index, &bad).await?;
        for found in std::mem::take(&mut self.unlike) {
            let lost = found.key.as_ref().is_none_or(|key| self.findings.lost.contains_key(key));
            if lost || !all_read {
                self.add(found);
            } else {
                tracing::info!("{}; this backup's part of it is whole", found.message);
            }
        }
        Ok(())
    }

    /// Adds why the content cannot be read, and what only reading it could have excused.
    fn unread(&mut self, found: Finding) {
        for unlike in std::mem::take(&mut self.unlike) {
            self.add(unlike);
        }
        self.add(found);
    }

    /// Checks the objects. Returns the keys of those that are missing or differ.
    async fn objects(&mut self, item: &Name, stream: &Stream, depth: Depth) -> Result<BTreeSet<ObjectKey>, Error> {
        let location = self.location;
        let examined = stream::iter(&stream.objects).map(|object| async move {
            let found = examine(location, object, depth).await;
            (object, found)
        });
        let mut examined = std::pin::pin!(examined.buffered(download::requests(location)));
        let mut bad = BTreeSet::new();
        loop {
            let next = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::Cancelled),
                next = examined.next() => next,
            };
            let Some((object, found)) = next else { return Ok(bad) };
            self.findings.objects += 1;
            let Err(error) = found else { continue };
            let part = object.live_bytes < object.payload_len();
            let is_checksum = matches!(error, Error::Object { field: CRC, .. });
            let found = finding(item, error)?;
            if depth == Depth::Data && part && is_checksum {
                self.unlike.push(found);
            } else {
                self.add(found);
            }
            bad.insert(object.key.clone());
        }
    }

    /// Decodes the whole index, which compares it with the manifest.
    async fn index(&mut self, item: &Name, stream: &Stream, index: &IndexFile) -> Result<(), Error> {
        let (stream, index, full) = (stream.clone(), index.clone(), self.full);
        let gaps = tokio::task::spawn_blocking(move || decode(&stream, &index, full));
        for (key, message) in gaps.await.map_err(|_| Error::Stopped)?? {
            self.push(item, Some(key), Class::Integrity, message);
        }
        Ok(())
    }

    /// Reads every chunk. Returns whether all could be asked for.
    async fn data(
        &mut self,
        item: &Name,
        stream: &Stream,
        index: IndexFile,
        bad: &BTreeSet<ObjectKey>,
    ) -> Result<bool, Error> {
        let selection = Selection::Whole;
        let mut reader = plain::read_past_damage(self.location, stream, index, selection, self.cancel.clone());
        let mut count = 0;
        let all_read = loop {
            let next = reader.next().await;
            if let Ok(Some(bytes)) = &next {
                self.findings.bytes += bytes.len() as u64;
                (self.progress)(bytes.len() as u64);
            }
            for Lost { positions, object, offset, reason, class } in reader.take_lost() {
                self.findings.bytes -= positions.end - positions.start;
                let Some(object) = stream.objects.get(object as usize) else { continue };
                let places = self.findings.lost.entry(object.key.clone()).or_default();
                if self.findings.lost_chunks < damage::MAX_CHUNKS as u64 {
                    places.insert(offset);
                }
                self.findings.lost_chunks += 1;
                // A missing object is one finding, not one for each of its chunks.
                if class == Class::NotFound && bad.contains(&object.key) {
                    continue;
                }
                count += 1;
                if count <= MAX_CHUNK_FINDINGS {
                    self.push(item, Some(object.key.clone()), class, reason);
                }
            }
            match next {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                // An object that no identity opens is locked; no other try opens it.
                Err(error) => {
                    self.add(finding(item, error)?);
                    break false;
                }
            }
        };
        if count > MAX_CHUNK_FINDINGS {
            let more = count - MAX_CHUNK_FINDINGS;
            self.push(item, None, Class::Integrity, format!("and {more} further chunks are damaged"));
        }
        Ok(all_read)
    }
}

/// Checks one object; of an encrypted one also its header, and that the payload has the length that the manifest says.
async fn examine(location: &Location, object: &DataObject, depth: Depth) -> Result<(), Error> {
    let info = location.store.head(&object.key).await.map_err(Error::store(&object.key))?;
    compare(object, info.size, info.checksum)?;
    if !object.key.is_encrypted() {
        return Ok(());
    }
    let (header, length) = sealed::inspect(location, object).await?;
    if length != object.payload_len() {
        let (expected, found) = (object.payload_len().to_string(), length.to_string());
        return Err(Error::Object { key: object.key.clone(), field: "the length of the payload", expected, found });
    }
    if depth == Depth::Data && !location.identities.is_empty() {
        match sealed::prove_end(location, object, &header).await {
            // Reading its chunks says so too, if any is to be read.
            Err(Error::Identity { .. }) => {}
            ended => ended?,
        }
    }
    Ok(())
}

fn compare(object: &DataObject, size: u64, checksum: Option<Checksum>) -> Result<(), Error> {
    let differs = |field, expected, found| Error::Object { key: object.key.clone(), field, expected, found };
    if size != object.size {
        return Err(differs("the size", object.size.to_string(), size.to_string()));
    }
    let expected = u64::from_be_bytes(object.crc64nvme);
    match checksum {
        Some(Checksum::Crc64nvme(found)) if found != expected => {
            Err(differs(CRC, format!("{expected:016x}"), format!("{found:016x}")))
        }
        Some(Checksum::Crc64nvme(_) | Checksum::Crc32c(_) | Checksum::Sha256(_)) | None => Ok(()),
    }
}

/// The objects that the chunks of a full backup do not cover exactly, in order.
fn decode(stream: &Stream, index: &IndexFile, full: bool) -> Result<Vec<(ObjectKey, String)>, Error> {
    let mut records = index.open(stream)?;
    let mut ends = vec![Some(0); stream.objects.len()];
    let mut gaps = Vec::new();
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        let Record::Chunk(chunk) = record else { continue };
        let number = chunk.object as usize;
        let (Some(end), Some(object)) = (ends.get_mut(number), stream.objects.get(number)) else { continue };
        let Some(expected) = *end else { continue };
        *end = if chunk.offset == expected {
            Some(chunk.offset + u64::from(chunk.stored_len))
        } else {
            let found = chunk.offset;
            gaps.push((object.key.clone(), format!("a chunk starts at byte {found}; expected byte {expected}")));
            None
        };
    }
    for (object, end) in stream.objects.iter().zip(ends) {
        let Some(end) = end else { continue };
        if end != object.payload_len() || object.live_bytes != end {
            let (size, live) = (object.payload_len(), object.live_bytes);
            let message =
                format!("its chunks end at byte {end}, {live} bytes are live; expected {size} of a full backup");
            gaps.push((object.key.clone(), message));
        }
    }
    Ok(if full { gaps } else { Vec::new() })
}
