//! What a round over a node's volumes says in its manifest: what was saved, what was not and why, which claims are missing, and how the
//! pods' commands ended.

mod reason;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::reason::{Reason, Standing, Unsaved};
use super::key::{BackupId, Name};

pub const VERSION: u32 = 1;

/// Volumes and notes that are listed; further ones are only counted.
pub const MOST: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// By chain.
    pub saved: BTreeMap<Name, Saved>,
    pub unsaved: Vec<Unsaved>,
    /// How many volumes are not saved for each reason; never-saved kinds too.
    pub reasons: BTreeMap<Reason, u64>,
    pub missing: Vec<Missing>,
    pub notes: Vec<String>,
    /// How the pods' commands ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<Ran>,
    /// Losses, whether listed or not.
    pub losses: u64,
}

/// A volume's backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// `NAMESPACE/CLAIM`, whole, also where the chain's name was cut; absent for a pod's own volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Absent where it failed in this round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
}

/// A claim that is there, was saved, and is mounted nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub claim: String,
    /// Of the first round that missed it.
    pub since: jiff::Timestamp,
    /// Its last backup, as far as this node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<BackupId>,
    /// Why it is not known where it is; empty where it is known to be mounted nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unknown: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, since, last, unknown } = self;
        match unknown.as_str() {
            "" => write!(f, "claim {claim}: no running pod has it mounted since {since}")?,
            why => write!(f, "claim {claim}: could not find out where it is mounted: {why}")?,
        }
        last.as_ref().map_or(Ok(()), |last| write!(f, "; its last backup here is {last}"))
    }
}

/// A command that was run in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// `NAMESPACE/POD`.
    pub pod: String,
    /// `pre` or `post`.
    pub when: String,
    pub seconds: u64,
    /// Absent where it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The end of its output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl Record {
    /// Whether every volume that should be saved was tried.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.losses == 0
    }
}
