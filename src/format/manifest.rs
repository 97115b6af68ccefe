//! The manifest: a backup's commit point, small plain JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cluster;
use super::codec::{AGE, FEATURES, KUBERNETES};
use super::ebs::{EbsSnapshot, MAX_TAGS, State};
use super::key::{BackupId, Chain, Name, ObjectKey};
use super::round;
use super::sealed::Encryption;
pub use super::source::{SourceDescription, Target};
use super::version::VersionId;
pub use super::warnings::{MAX_WARNINGS, Warning, Warnings};
use crate::error::Report;

/// The only version so far. A reader refuses a higher one, because it cannot know what it would miss.
pub const VERSION: u32 = 1;

/// A larger manifest is refused before it is parsed: 64 MiB has room for a hundred thousand items.
pub const MAX_SIZE: u64 = 64 << 20;

/// The most directories without content that a stream lists; further ones are only counted.
pub const MAX_NOT_ENTERED: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub id: BackupId,
    pub job: Name,
    pub cluster: Name,
    pub node: Name,
    /// Penstock's own version.
    pub agent: String,
    pub started: jiff::Timestamp,
    pub finished: jiff::Timestamp,
    pub parent: Option<BackupId>,
    /// The full backup that the chain began with; absent in a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BackupId>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub outcome: Outcome,
    /// Absent in a backup that is not encrypted; then none of its objects is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    pub items: Vec<Item>,
    pub warnings: Warnings,
}

/// The result of a backup or one of its items. A failed or cancelled backup is never committed, but a backup of several
/// items may have failed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    /// Committed, with warnings or with an item missing.
    Partial,
    Failure,
    Cancelled,
}

impl Outcome {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub name: Name,
    /// As configured: the path, or the command's argv. Secrets do not belong in argv; a command's environment is not recorded.
    pub source: SourceDescription,
    pub outcome: Outcome,
    /// Why the item failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Report>,
    /// The cluster's names for it: of a volume, its claim's namespace and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What of a cluster's objects was saved and what was not; absent in any other item, and in one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Box<cluster::Record>>,
    /// What a round over a node's volumes saved and what it did not; absent in any other item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Box<round::Record>>,
    #[serde(flatten)]
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Content {
    Stream {
        /// Absent in a failed item.
        stream: Option<Stream>,
    },
    EbsSnapshot {
        /// Absent in a failed item.
        snapshot: Option<EbsSnapshot>,
    },
}

impl Content {
    /// The content of a failed item.
    #[must_use]
    pub fn none(of: &SourceDescription) -> Self {
        match of.target() {
            Target::Folder | Target::File(_) => Self::Stream { stream: None },
            Target::Volume => Self::EbsSnapshot { snapshot: None },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Bytes the source yielded.
    pub plain_bytes: u64,
    /// Stored bytes of all chunks that this stream refers to.
    pub stored_bytes: u64,
    /// Stored bytes that this backup added.
    pub new_bytes: u64,
    pub chunks: u64,
    pub files: u64,
    /// SHA-256 over the chunk digests in order; [`SEALED_DIGEST`], and absent, in the readable part of an encrypted backup: it would
    /// confirm a guess of the content.
    #[serde(with = "hex::serde", default, skip_serializing_if = "is_sealed")]
    pub digest: [u8; 32],
    pub index: IndexObject,
    /// The data objects that the index refers to by position; some may be earlier backups'.
    pub objects: Vec<DataObject>,
    /// Directories stored without content because another file system is mounted there and `one_file_system` is set.
    #[serde(default, skip_serializing_if = "NotEntered::is_empty")]
    pub not_entered: NotEntered,
}

/// Directories that a stream has without their content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NotEntered {
    /// All of them; `list` holds at most [`MAX_NOT_ENTERED`].
    pub count: u64,
    /// Lossy UTF-8 of their paths.
    pub list: Vec<String>,
}

/// Says of a [`Stream::digest`] that it is not known here.
pub const SEALED_DIGEST: [u8; 32] = [0; 32];

fn is_sealed(digest: &[u8; 32]) -> bool {
    *digest == SEALED_DIGEST
}

impl NotEntered {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn push(&mut self, path: &Path) {
        self.count += 1;
        if self.list.len() < MAX_NOT_ENTERED {
            self.list.push(path.to_string_lossy().into_owned());
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexObject {
    pub key: ObjectKey,
    pub size: u64,
    #[serde(with = "hex::serde")]
    pub sha256: [u8; 32],
    /// As [`DataObject::version`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataObject {
    pub key: ObjectKey,
    pub size: u64,
    /// CRC-64/NVME of the whole object, 16 hexadecimal digits.
    #[serde(with = "hex::serde")]
    pub crc64nvme: [u8; 8],
    /// Bytes of the payload, if the object is encrypted: the chunks' offsets are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<u64>,
    /// Bytes of it that this backup's chunks refer to.
    pub live_bytes: u64,
    /// The version that was written, in a bucket that keeps versions. Locks and reading as of a time go by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionId>,
}

impl DataObject {
    /// The bytes that chunks can refer to.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        self.payload.unwrap_or(self.size)
    }
}

/// The moment for which a backup is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everything is captured: a snapshot that EC2 is still completing counts as complete.
    Captured,
    /// Now: a snapshot that is not complete makes the backup partial.
    Settled,
}

/// Why a manifest is refused. The caller adds the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("is {0} bytes long; expected at most {MAX_SIZE}")]
    TooLarge(u64),
    #[error("is not a manifest: {0}")]
    Syntax(String),
    #[error("has version {0}; this Penstock reads version {VERSION}: use a newer one")]
    Version(u64),
    #[error("needs the feature {0:?}, which this Penstock lacks: use a newer one")]
    Feature(String),
    #[error("{field} is {found}; expected {expected}")]
    Mismatch { field: String, expected: String, found: String },
}

fn mismatch(field: impl Into<String>, expected: impl ToString, found: impl ToString) -> ManifestError {
    ManifestError::Mismatch { field: field.into(), expected: expected.to_string(), found: found.to_string() }
}

impl Item {
    /// An item without a failure.
    #[must_use]
    pub fn new(name: Name, source: SourceDescription, content: Content) -> Self {
        let labels = BTreeMap::new();
        Self { name, source, outcome: Outcome::Success, error: None, labels, kubernetes: None, claims: None, content }
    }
}

impl Manifest {
    /// The manifest of a backup without items.
    #[must_use]
    pub fn new(chain: Chain, id: BackupId, started: jiff::Timestamp) -> Self {
        Self {
            version: VERSION,
            id,
            job: chain.job,
            cluster: chain.cluster,
            node: chain.node,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            finished: started,
            parent: None,
            base: None,
            labels: BTreeMap::new(),
            outcome: Outcome::Success,
            encryption: None,
            items: Vec::new(),
            warnings: Warnings::default(),
        }
    }

    /// Parses and checks a manifest that was found under `chain` and `id`, in a bucket whose prefix for that cluster is
    /// `cluster_prefix`: it must not refer to anything outside the chain.
    ///
    /// # Errors
    /// When it is malformed, of a newer version, or inconsistent.
    pub fn parse(bytes: &[u8], chain: &Chain, id: &BackupId, cluster_prefix: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
            #[serde(default)]
            features: Vec<String>,
        }
        let syntax = |error: serde_json::Error| ManifestError::Syntax(error.to_string());
        let Head { version, features } = serde_json::from_slice(bytes).map_err(syntax)?;
        if version != u64::from(VERSION) {
            return Err(ManifestError::Version(version));
        }
        if let Some(unknown) = features.iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
            return Err(ManifestError::Feature(unknown.chars().take(64).collect()));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        manifest.check(chain, id, cluster_prefix)?;
        Ok(manifest)
    }

    fn check(&self, chain: &Chain, id: &BackupId, cluster_prefix: &str) -> Result<(), ManifestError> {
        for (field, found, expected) in [
            ("id", self.id.as_str(), id.as_str()),
            ("cluster", self.cluster.as_str(), chain.cluster.as_str()),
            ("job", self.job.as_str(), chain.job.as_str()),
            ("node", self.node.as_str(), chain.node.as_str()),
        ] {
            if found != expected {
                return Err(mismatch(field, expected, found));
            }
        }
        let home = format!("{cluster_prefix}{}/{}/", chain.job, chain.node);
        let mut names = std::collections::BTreeSet::new();
        for item in &self.items {
            if !names.insert(&item.name) {
                return Err(mismatch("items", "names that are unique", &item.name));
            }
            match &item.content {
                Content::Stream { stream: Some(stream) } => {
                    stream.check(&item.name, &home, self.encryption.is_some())?;
                }
                Content::EbsSnapshot { snapshot: Some(snapshot) } => check_snapshot(&item.name, snapshot)?,
                Content::Stream { stream: None } | Content::EbsSnapshot { snapshot: None } => {}
            }
        }
        Ok(())
    }

    /// Partial if there is a warning, or an item that failed or is incomplete; whole otherwise.
    #[must_use]
    pub fn judge(&self, moment: Moment) -> Outcome {
        let pending = |item: &Item| matches!(&item.content, Content::EbsSnapshot { snapshot: Some(snapshot) } if snapshot.state == State::Pending);
        let whole = |item: &Item| item.outcome == Outcome::Success || (moment == Moment::Captured && pending(item));
        if self.items.iter().all(whole) { self.warnings.outcome() } else { Outcome::Partial }
    }

    /// The chain it belongs to.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain { cluster: self.cluster.clone(), job: self.job.clone(), node: self.node.clone() }
    }

    /// The streams that can be restored, with the item each belongs to.
    pub fn streams(&self) -> impl Iterator<Item = (&Item, &Stream)> {
        self.items.iter().filter_map(|item| match &item.content {
            Content::Stream { stream } => stream.as_ref().map(|stream| (item, stream)),
            Content::EbsSnapshot { .. } => None,
        })
    }

    /// The EBS snapshots, pending ones too, with the item each belongs to.
    pub fn snapshots(&self) -> impl Iterator<Item = (&Item, &EbsSnapshot)> {
        self.items.iter().filter_map(|item| match &item.content {
            Content::EbsSnapshot { snapshot } => snapshot.as_ref().map(|snapshot| (item, snapshot)),
            Content::Stream { .. } => None,
        })
    }

    /// Every object that the backup needs besides the manifest, including those of earlier backups. May name one twice.
    pub fn named(&self) -> impl Iterator<Item = &ObjectKey> {
        self.streams().flat_map(|(_, stream)| {
            stream.objects.iter().map(|object| &object.key).chain(std::iter::once(&stream.index.key))
        })
    }

    /// The same as [`Manifest::named`], with the version that was recorded of each.
    pub fn versions(&self) -> impl Iterator<Item = (&ObjectKey, Option<&VersionId>)> {
        self.streams().flat_map(|(_, stream)| {
            let objects = stream.objects.iter().map(|object| (&object.key, object.version.as_ref()));
            objects.chain([(&stream.index.key, stream.index.version.as_ref())])
        })
    }

    /// What a reader must know beyond version 1. One that does not says so, instead of failing on a word.
    fn features(&self) -> Vec<&'static str> {
        let is_kubernetes = |item: &Item| matches!(item.source, SourceDescription::Kubernetes { .. });
        let kubernetes = self.items.iter().any(is_kubernetes).then_some(KUBERNETES);
        kubernetes.into_iter().chain(self.encryption.as_ref().map(|_| AGE)).collect()
    }

    /// Pretty JSON with a final line feed: people read it. What was sealed is written sealed only.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(skip_serializing_if = "Vec::is_empty")]
            features: Vec<&'static str>,
            #[serde(flatten)]
            manifest: &'a Manifest,
        }
        let written = Written { features: self.features(), manifest: &self.redacted() };
        let mut json = serde_json::to_vec_pretty(&written).expect("a manifest has only string keys and finite numbers");
        json.push(b'\n');
        json
    }
}

fn check_snapshot(item: &Name, snapshot: &EbsSnapshot) -> Result<(), ManifestError> {
    let field = |name: &str| format!("items.{item}.snapshot.{name}");
    if snapshot.size_gib == 0 {
        return Err(mismatch(field("size_gib"), "at least 1", 0));
    }
    if snapshot.tags.len() > MAX_TAGS {
        return Err(mismatch(field("tags"), format!("at most {MAX_TAGS}"), snapshot.tags.len()));
    }
    Ok(())
}

impl Stream {
    fn check(&self, item: &Name, home: &str, encrypted: bool) -> Result<(), ManifestError> {
        let inside = |key: &ObjectKey| {
            key.as_str()
                .strip_prefix(home)
                .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
        };
        let field = |name: &str| format!("items.{item}.stream.{name}");
        let keys = self.objects.iter().map(|object| &object.key).chain([&self.index.key]);
        for key in keys {
            if !inside(key) {
                return Err(mismatch(field("objects"), format!("keys under {home}"), key));
            }
            if key.is_encrypted() != encrypted {
                let kind = if encrypted { "encrypted objects" } else { "objects that are not encrypted" };
                return Err(mismatch(field("objects"), format!("keys of {kind}"), key));
            }
        }
        let mut live: u64 = 0;
        for object in &self.objects {
            let payload = object.payload_len();
            if payload > object.size || object.payload.is_some() != encrypted {
                let expected = if encrypted { format!("at most {}", object.size) } else { "none".to_owned() };
                return Err(mismatch(field("payload"), expected, format!("{:?}", object.payload)));
            }
            if object.live_bytes > payload {
                return Err(mismatch(field("live_bytes"), format!("at most {payload}"), object.live_bytes));
            }
            live = live
                .checked_add(object.live_bytes)
                .ok_or_else(|| mismatch(field("live_bytes"), "a sum below 2^64", "more"))?;
        }
        if live != self.stored_bytes {
            return Err(mismatch(field("stored_bytes"), live, self.stored_bytes));
        }
        if self.new_bytes > self.stored_bytes {
            return Err(mismatch(field("new_bytes"), format!("at most {}", self.stored_bytes), self.new_bytes));
        }
        if self.chunks > self.plain_bytes {
            return Err(mismatch(field("chunks"), format!("at most {} (one a byte)", self.plain_bytes), self.chunks));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
