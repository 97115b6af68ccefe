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
//! An object that is missing or differs is a [`Finding`]. A failure that proves nothing about the backup (an unreachable service, a
//! missing permission) is an error.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::checksum::Checksum;
use crate::download::index::{self, IndexFile};
use crate::download::{self, Error, Progress, Selection, plain, sealed};
use crate::error::{Class, Classify as _};
use crate::format::index::Record;
use crate::format::key::{Name, ObjectKey};
use crate::format::manifest::{Content, DataObject, Item, Manifest, Stream};
use crate::location::Location;
use crate::snapshot;

/// After so many bad ranges the rest of a stream is not read.
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
    let mut check =
        Check { location, full: manifest.parent.is_none(), cancel, progress, findings: Findings::default() };
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
}

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
                self.add(finding(&item.name, error)?);
                return Ok(());
            }
        };
        if let Err(error) = self.index(&item.name, stream, &index).await {
            self.add(finding(&item.name, error)?);
            return Ok(());
        }
        match depth {
            Depth::Structure => Ok(()),
            Depth::Data => self.data(&item.name, stream, index, &bad).await,
        }
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
            if let Err(error) = found {
                self.add(finding(item, error)?);
                bad.insert(object.key.clone());
            }
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

    async fn data(
        &mut self,
        item: &Name,
        stream: &Stream,
        index: IndexFile,
        bad: &BTreeSet<ObjectKey>,
    ) -> Result<(), Error> {
        let mut left: Vec<Range<u64>> = std::iter::once(0..stream.plain_bytes).collect();
        for _ in 0..MAX_CHUNK_FINDINGS {
            let selection = Selection::Ranges(left.clone());
            let mut reader = plain::read(self.location, stream, index.clone(), selection, self.cancel.clone());
            let mut read = 0;
            let error = loop {
                match reader.next().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(bytes)) => {
                        read += bytes.len() as u64;
                        self.findings.bytes += bytes.len() as u64;
                        (self.progress)(bytes.len() as u64);
                    }
                    Err(error) => break error,
                }
            };
            let positions = error.positions();
            let found = finding(item, error)?;
            // A missing object is one finding, not one for each of its ranges.
            let known = found.class == Class::NotFound && found.key.as_ref().is_some_and(|key| bad.contains(key));
            // No range of the object opens with another try, and none of them is damaged by that.
            let locked = found.class == Class::Identity;
            if !known {
                self.add(found);
            }
            if locked {
                return Ok(());
            }
            let Some(positions) = positions else { return Ok(()) };
            left = without(left, read, &positions);
        }
        let message = format!("more than {MAX_CHUNK_FINDINGS} ranges are damaged; the rest was not read");
        self.push(item, None, Class::Integrity, message);
        Ok(())
    }
}

/// The rest of `ranges` after their first `read` bytes and without `bad`. Bytes that were fetched with the bad ones are read again.
fn without(ranges: Vec<Range<u64>>, mut read: u64, bad: &Range<u64>) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for range in ranges {
        let done = read.min(range.end - range.start);
        read -= done;
        let range = range.start + done..range.end;
        for part in [range.start..range.end.min(bad.start), range.start.max(bad.end)..range.end] {
            if part.start < part.end {
                left.push(part);
            }
        }
    }
    left
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
            Err(differs("the CRC-64/NVME", format!("{expected:016x}"), format!("{found:016x}")))
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
