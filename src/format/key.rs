//! The names of backups, items and objects.
//!
//! `{prefix}/{cluster}/{job}/{node}/{backup-id}/…`, each component restricted to `[a-z0-9._-]` so that a key never
//! needs escaping (the operator's prefix may have other characters).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::codec::Suffix;

/// The longest name of a cluster, job, node or item: six of them and the prefix stay far below S3's 1024 bytes.
pub const MAX_NAME: usize = 128;

/// A full key in the bucket, prefix included.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(String);

impl ObjectKey {
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the object is an age file, by its suffix.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.rsplit_once('.').is_some_and(|(_, last)| last == "age")
    }

    /// Whether both keys name the same object in backups of one chain: they differ at most in the backup's id.
    #[must_use]
    pub fn is_sibling_of(&self, other: &Self) -> bool {
        let split = |key: &'_ Self| {
            let (home, file) = key.0.rsplit_once('/')?;
            let (chain, id) = home.rsplit_once('/')?;
            id.parse::<BackupId>().ok().map(|_| (chain.to_owned(), file.to_owned()))
        };
        split(self).is_some_and(|this| split(other) == Some(this))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A name that is a component of keys: cluster, job, node, item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty; expected 1 to {MAX_NAME} characters of [a-z0-9._-]")]
    Empty,
    #[error("is {0} bytes long; expected at most {MAX_NAME}")]
    TooLong(usize),
    #[error("holds {0:?}; expected only [a-z0-9._-]")]
    Character(char),
    #[error("starts with {0:?}; expected a letter or digit first")]
    Start(char),
}

impl Name {
    /// # Errors
    /// When `name` is empty, too long, starts with `.`, `-` or `_`, or holds a character outside `[a-z0-9._-]`.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.len() > MAX_NAME {
            return Err(NameError::TooLong(name.len()));
        }
        let first = name.chars().next().ok_or(NameError::Empty)?;
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(*c);
        if let Some(bad) = name.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character(bad));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Start(first));
        }
        Ok(Self(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `20261123T221300Z-4f9a2c`: UTC start to the second, two digits for the 256th of it, and 16 random bits. Sorts by time, so of two
/// consecutive short backups the second is the newer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup id; expected the form 20261123T221300Z-4f9a2c")]
pub struct BackupIdError(String);

/// `0` stands for a digit, `x` for a hexadecimal one.
const FORM: &[u8] = b"00000000T000000Z-xxxxxx";

impl BackupId {
    /// Whether an id may begin like this.
    #[must_use]
    pub fn may_begin(text: &str) -> bool {
        let fits = |(have, form): (u8, &u8)| match form {
            b'0' => have.is_ascii_digit(),
            b'x' => have.is_ascii_digit() || (b'a'..=b'f').contains(&have),
            literal => have == *literal,
        };
        text.len() <= FORM.len() && text.bytes().zip(FORM).all(fits)
    }

    #[must_use]
    pub fn new(started: jiff::Timestamp, random: u32) -> Self {
        let fraction = started.subsec_nanosecond().unsigned_abs() / (1_000_000_000 / 256);
        Self(format!("{}-{:02x}{:04x}", started.strftime("%Y%m%dT%H%M%SZ"), fraction.min(255), random & 0xffff))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the backup started by its node's clock, to the 256th of a second. `None` if the digits are not a time.
    #[must_use]
    pub fn started(&self) -> Option<jiff::Timestamp> {
        let (time, rest) = self.0.split_once('-')?;
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
        let fraction = i64::from_str_radix(rest.get(..2)?, 16).ok()?;
        let second = time.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        second.checked_add(jiff::SignedDuration::from_nanos(fraction * (1_000_000_000 / 256))).ok()
    }
}

impl FromStr for BackupId {
    type Err = BackupIdError;

    fn from_str(id: &str) -> Result<Self, BackupIdError> {
        if id.len() == FORM.len() && Self::may_begin(id) {
            Ok(Self(id.to_owned()))
        } else {
            Err(BackupIdError(id.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for BackupId {
    type Error = BackupIdError;

    fn try_from(id: String) -> Result<Self, BackupIdError> {
        id.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The backups of one job on one node: one writer, one history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Chain {
    pub cluster: Name,
    pub job: Name,
    pub node: Name,
}

/// The place of one backup's objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackupPrefix(String);

/// The last component of every manifest's key.
pub const MANIFEST: &str = "manifest.json";

/// The name of a deleted backup's manifest during the grace period (docs/decisions/0035).
pub const DELETED: &str = "deleted.json";

/// The name of the record of a backup's damage ([`super::damage`]).
pub const DAMAGED: &str = "damaged.json";

/// The kind of a backup's object, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Manifest,
    /// The manifest of a backup that was deleted.
    Deleted,
    /// The record of its damage.
    Damaged,
    Index,
    Data,
}

impl Kind {
    /// By the last component of the key; `None` for an object that Penstock does not write.
    fn of(file: &str) -> Option<Self> {
        let is_name = |item: &str| Name::new(item).is_ok();
        if file == MANIFEST {
            return Some(Self::Manifest);
        }
        if file == DELETED {
            return Some(Self::Deleted);
        }
        if file == DAMAGED {
            return Some(Self::Damaged);
        }
        let is_numbered = |rest: &str| {
            rest.rsplit_once('.').is_some_and(|(item, number)| {
                number.len() >= 4 && number.bytes().all(|digit| digit.is_ascii_digit()) && is_name(item)
            })
        };
        Suffix::ALL.iter().find_map(|suffix| {
            let rest = file.strip_suffix(suffix.as_str())?.strip_suffix('.')?;
            if suffix.is_index() {
                is_name(rest).then_some(Self::Index)
            } else {
                is_numbered(rest).then_some(Self::Data)
            }
        })
    }
}

/// A cluster's listing prefix, `{prefix}/{cluster}/`.
#[must_use]
pub fn cluster_prefix(prefix: &str, cluster: &Name) -> String {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() { format!("{cluster}/") } else { format!("{prefix}/{cluster}/") }
}

/// One chain's listing prefix, `{prefix}/{cluster}/{job}/{node}/`.
#[must_use]
pub fn chain_prefix(prefix: &str, chain: &Chain) -> String {
    format!("{}{}/{}/", cluster_prefix(prefix, &chain.cluster), chain.job, chain.node)
}

/// The backup that an object's key belongs to. `None` for a key that is not of a backup of this cluster.
#[must_use]
pub fn owner(prefix: &str, cluster: &Name, key: &ObjectKey) -> Option<Chain> {
    let rest = key.as_str().strip_prefix(&cluster_prefix(prefix, cluster))?;
    let mut parts = rest.split('/');
    let job = parts.next()?.parse().ok()?;
    let node = parts.next()?.parse().ok()?;
    let _: BackupId = parts.next()?.parse().ok()?;
    Some(Chain { cluster: cluster.clone(), job, node })
}

impl BackupPrefix {
    #[must_use]
    pub fn new(prefix: &str, chain: &Chain, id: &BackupId) -> Self {
        Self(format!("{}{id}/", chain_prefix(prefix, chain)))
    }

    /// Parses the key of any object of a backup. `None` for an object that Penstock does not write and must not touch.
    #[must_use]
    pub fn parse_object(prefix: &str, cluster: &Name, key: &ObjectKey) -> Option<(Chain, BackupId, Kind)> {
        let rest = key.as_str().strip_prefix(&cluster_prefix(prefix, cluster))?;
        let mut parts = rest.split('/');
        let job = parts.next()?.parse().ok()?;
        let node = parts.next()?.parse().ok()?;
        let id: BackupId = parts.next()?.parse().ok()?;
        let kind = Kind::of(parts.next()?)?;
        if parts.next().is_some() {
            return None;
        }
        Some((Chain { cluster: cluster.clone(), job, node }, id, kind))
    }

    /// Parses a manifest's key. `None` for any other key.
    #[must_use]
    pub fn parse_manifest(prefix: &str, cluster: &Name, key: &ObjectKey) -> Option<(Self, Chain, BackupId)> {
        match Self::parse_object(prefix, cluster, key)? {
            (chain, id, Kind::Manifest) => Some((Self::new(prefix, &chain, &id), chain, id)),
            (_, _, Kind::Deleted | Kind::Damaged | Kind::Index | Kind::Data) => None,
        }
    }

    #[must_use]
    pub fn manifest(&self) -> ObjectKey {
        ObjectKey(format!("{}{MANIFEST}", self.0))
    }

    #[must_use]
    pub fn deleted(&self) -> ObjectKey {
        ObjectKey(format!("{}{DELETED}", self.0))
    }

    #[must_use]
    pub fn index(&self, item: &Name, suffix: Suffix) -> ObjectKey {
        ObjectKey(format!("{}{item}.{}", self.0, suffix.as_str()))
    }

    /// The `number`th data object of an item, counted from 1.
    #[must_use]
    pub fn data(&self, item: &Name, number: u32, suffix: Suffix) -> ObjectKey {
        ObjectKey(format!("{}{item}.{number:04}.{}", self.0, suffix.as_str()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests;
