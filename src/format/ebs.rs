//! An EBS snapshot in a manifest: everything that is needed to create a volume like the original.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// EC2 User Guide, "Tag restrictions": tags on a resource.
pub const MAX_TAGS: usize = 50;

/// A tag of every snapshot: its cluster. Policies have conditions on it.
pub const CLUSTER_TAG: &str = "penstock:cluster";

/// A tag of every volume that a restore makes: the restore's token. Policies have conditions on it.
pub const RESTORE_TAG: &str = "penstock:restore";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct IdError {
    found: String,
    expected: &'static str,
}

/// EC2 ids: a prefix and 8 or 17 hexadecimal digits.
fn parse_id(text: &str, prefix: &str, expected: &'static str) -> Result<String, IdError> {
    let hex = text.strip_prefix(prefix).unwrap_or_default();
    if matches!(hex.len(), 8 | 17) && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
        return Ok(text.to_owned());
    }
    Err(IdError { found: text.chars().take(64).collect(), expected })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_id(text, $prefix, $expected).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id!(
    /// `vol-0123456789abcdef0`.
    VolumeId, "vol-", "a volume's ID such as \"vol-0123456789abcdef0\""
);
id!(
    /// `snap-0123456789abcdef0`.
    SnapshotId, "snap-", "a snapshot's ID such as \"snap-0123456789abcdef0\""
);
id!(
    /// `i-0123456789abcdef0`.
    InstanceId, "i-", "an instance's ID such as \"i-0123456789abcdef0\""
);

/// One snapshot and its volume, as that was when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EbsSnapshot {
    pub snapshot_id: SnapshotId,
    pub volume_id: VolumeId,
    pub size_gib: u32,
    pub availability_zone: String,
    /// As EC2 names it, `gp3`.
    pub volume_type: String,
    pub iops: Option<u32>,
    /// MiB per second; only gp3 has one.
    pub throughput: Option<u32>,
    pub encrypted: bool,
    pub kms_key_id: Option<String>,
    /// The volume's tags.
    pub tags: BTreeMap<String, String>,
    pub state: State,
    pub started: jiff::Timestamp,
    /// When EC2 had all of the snapshot, if EC2 reports it.
    pub completed: Option<jiff::Timestamp>,
}

#[cfg(test)]
impl EbsSnapshot {
    /// A completed snapshot of a small volume.
    pub(crate) fn example(snapshot_id: SnapshotId, volume_id: VolumeId) -> Self {
        Self {
            snapshot_id,
            volume_id,
            size_gib: 8,
            availability_zone: "eu-west-1a".to_owned(),
            volume_type: "gp3".to_owned(),
            iops: Some(3000),
            throughput: Some(125),
            encrypted: false,
            kms_key_id: None,
            tags: BTreeMap::new(),
            state: State::Completed,
            started: jiff::Timestamp::UNIX_EPOCH,
            completed: None,
        }
    }
}

/// Only [`State::Completed`] is a valid backup. A later run finishes a pending one, or records its item as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Completed,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_form() {
        for good in ["vol-0123456789abcdef0", "vol-01234567"] {
            assert_eq!(good.parse::<VolumeId>().unwrap().as_str(), good);
        }
        for bad in ["", "vol-", "vol-012345678", "vol-0123456789ABCDEF0", "snap-01234567", "vol-0123456789abcdef0 "] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
        assert!("snap-01234567".parse::<SnapshotId>().is_ok() && "i-01234567".parse::<InstanceId>().is_ok());
    }
}
