//! The file format of a journal entry, versions 1 and 2.
//!
//! One line for each record: CRC-32C of what follows the blank, eight hex digits; a blank; JSON; a line feed.
//!
//! ```text
//! 8f0c3e5a {"intent":{"version":1,"location":"primary","bucket":"b","key":"…","part_size":16777216,"begun":"…"}}
//! 1c9a77d0 {"created":{"id":"…"}}
//! 03b1f2c4 {"part":{"number":2,"size":16777216,"etag":"…","checksum":["crc64nvme","…"],"crc64nvme":"…","chunks":"…"}}
//! ```
//!
//! Version 2 is that of an encrypted object: the intent has `"sealed":{"recipients":["…"],"record":"…"}`, **with the object's file key**, and
//! `{"tags":{"from":0,"tags":"…"}}` has the tags of consecutive chunks, 16 bytes each in base64.
//!
//! Parts are in the order in which they finished. `chunks` is base64 of postcard: the chunks whose last byte lies in that part, so a
//! chunk is stored once every part up to that one is. Reading ends at the first torn or invalid line.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::age::{Envelope, Fingerprint, Interrupted, JournalError, Recipient, Tags};
use crate::checksum::{Algorithm, Checksum};
use crate::format::index::Chunk;
use crate::format::key::ObjectKey;
use crate::store::{PartNumber, UploadId, UploadedPart};

/// The newest, and that of an object that is not encrypted.
pub(super) const VERSION: u32 = 2;
pub(super) const PLAIN_VERSION: u32 = 1;

/// A part of 1 GiB completes 2,048 chunks at most, of some 60 bytes each: far below this.
const MAX_LINE: u64 = 4 << 20;

/// The upload that is about to be created, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub version: u32,
    pub location: String,
    pub bucket: String,
    pub key: ObjectKey,
    pub part_size: u64,
    pub begun: jiff::Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
}

/// What continues an encrypted object.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    recipients: Vec<Fingerprint>,
    /// [`Envelope::record`]: it holds the file key.
    #[serde(with = "secret")]
    record: Zeroizing<String>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("recipients", &self.recipients).finish_non_exhaustive()
    }
}

impl Sealed {
    #[must_use]
    pub fn new(envelope: &Envelope, recipients: &[Recipient]) -> Self {
        Self { recipients: fingerprints(recipients), record: envelope.record() }
    }

    /// Whether it is encrypted to exactly these.
    #[must_use]
    pub fn is_to(&self, recipients: &[Recipient]) -> bool {
        self.recipients == fingerprints(recipients)
    }

    /// # Errors
    /// When the record is damaged.
    pub fn interrupted(&self, tags: Tags) -> Result<Interrupted, JournalError> {
        Interrupted::read(&self.record, tags)
    }
}

fn fingerprints(recipients: &[Recipient]) -> Vec<Fingerprint> {
    recipients.iter().map(Recipient::fingerprint).collect()
}

mod secret {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

/// A part that the store has taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct Part {
    pub uploaded: UploadedPart,
    /// The checksum of the part, whichever other one the location uses.
    pub crc64nvme: u64,
    /// The chunks that end in this part.
    pub chunks: Vec<Chunk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    Intent(Intent),
    Created {
        id: String,
    },
    /// The tags of consecutive chunks, the first of which is the chunk `from`.
    Tags {
        from: u64,
        tags: String,
    },
    Part(Part),
    InDoubt,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    number: u16,
    size: u64,
    etag: String,
    checksum: Option<(Algorithm, String)>,
    crc64nvme: String,
    chunks: String,
}

impl From<Part> for Raw {
    fn from(part: Part) -> Self {
        let UploadedPart { number, size, etag, checksum } = part.uploaded;
        let chunks = postcard::to_stdvec(&part.chunks).expect("plain numbers into a growing buffer");
        Self {
            number: number.get(),
            size,
            etag,
            checksum: checksum.map(|checksum| (checksum.algorithm(), checksum.to_header())),
            crc64nvme: Checksum::Crc64nvme(part.crc64nvme).to_header(),
            chunks: STANDARD.encode(chunks),
        }
    }
}

impl TryFrom<Raw> for Part {
    type Error = &'static str;

    fn try_from(raw: Raw) -> Result<Self, Self::Error> {
        let checksum = match &raw.checksum {
            Some((algorithm, header)) => {
                Some(Checksum::from_header(*algorithm, header).ok_or("a checksum is malformed")?)
            }
            None => None,
        };
        let Some(Checksum::Crc64nvme(crc64nvme)) = Checksum::from_header(Algorithm::Crc64nvme, &raw.crc64nvme) else {
            return Err("crc64nvme is malformed");
        };
        let chunks = STANDARD.decode(&raw.chunks).map_err(|_| "chunks is not base64")?;
        let number = PartNumber::new(raw.number).ok_or("number is not a valid part number")?;
        Ok(Self {
            uploaded: UploadedPart { number, size: raw.size, etag: raw.etag, checksum },
            crc64nvme,
            chunks: postcard::from_bytes(&chunks).map_err(|_| "chunks is malformed")?,
        })
    }
}

fn crc(text: &[u8]) -> u32 {
    match Algorithm::Crc32c.compute(text) {
        Some(Checksum::Crc32c(value)) => value,
        _ => unreachable!("an algorithm gives its own checksum"),
    }
}

pub(super) fn encode(line: &Line) -> Zeroizing<Vec<u8>> {
    let json = Zeroizing::new(serde_json::to_string(line).expect("string keys and plain values"));
    Zeroizing::new(format!("{:08x} {}\n", crc(json.as_bytes()), *json).into_bytes())
}

fn decode(line: &[u8]) -> Option<Line> {
    let (head, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    // As it is written, not as a number: `A` for `a` is damage too.
    if *head != *format!("{:08x} ", crc(json)).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// The records up to the first that is torn or wrong.
pub(super) fn read(path: &Path) -> io::Result<impl Iterator<Item = Line>> {
    Ok(lines(path)?.map(|(_, line)| line))
}

/// Bytes of the file up to the first record that is torn or wrong.
pub(super) fn valid(path: &Path) -> io::Result<u64> {
    Ok(lines(path)?.map(|(length, _)| length).sum())
}

/// Whether at most one torn line follows the records. More is damage, which may hide the tags of what was sent.
pub(super) fn is_whole_but_for_its_end(path: &Path) -> io::Result<bool> {
    let valid = valid(path)?;
    let (mut file, mut rest) = (File::open(path)?, Zeroizing::new(Vec::new()));
    file.seek(io::SeekFrom::Start(valid))?;
    file.take(MAX_LINE).read_to_end(&mut rest)?;
    Ok(!rest.contains(&b'\n'))
}

/// With the length of each.
fn lines(path: &Path) -> io::Result<impl Iterator<Item = (u64, Line)>> {
    let mut file = BufReader::new(File::open(path)?);
    Ok(std::iter::from_fn(move || {
        let mut line = Zeroizing::new(Vec::new());
        // A read that fails counts as a lost tail.
        let _ = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        Some((line.len() as u64, decode(&line)?))
    }))
}

/// The tags of an entry's records. `None` where one is missing: then it is unknown what left the process.
pub(super) fn tags(lines: impl Iterator<Item = Line>) -> Option<Tags> {
    let mut all = Tags::default();
    for line in lines {
        let Line::Tags { from, tags } = line else { continue };
        if from != all.chunks() {
            return None;
        }
        all.append(&Tags::from_bytes(STANDARD.decode(tags).ok()?)?);
    }
    Some(all)
}

pub(super) fn tags_line(from: u64, tags: &Tags) -> Line {
    Line::Tags { from, tags: STANDARD.encode(tags.as_bytes()) }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Newer(u32),
    Damaged,
}

/// The state that an entry's records add up to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) intent: Intent,
    pub(super) id: Option<UploadId>,
    pub(super) in_doubt: bool,
}

impl State {
    pub(super) fn of(mut lines: impl Iterator<Item = Line>) -> Result<Self, Unreadable> {
        // The intent is complete before the file gets its name, so a crash cannot be why it is missing.
        let Some(Line::Intent(intent)) = lines.next() else { return Err(Unreadable::Damaged) };
        if intent.version > VERSION {
            return Err(Unreadable::Newer(intent.version));
        }
        let mut state = Self { intent, id: None, in_doubt: false };
        for line in lines {
            match line {
                Line::Created { id } => state.id = Some(UploadId(id)),
                // The upload with the known ID has ended: only the one in doubt is left.
                Line::InDoubt => state = Self { id: None, in_doubt: true, ..state },
                Line::Intent(_) | Line::Part(_) | Line::Tags { .. } => {}
            }
        }
        Ok(state)
    }
}
