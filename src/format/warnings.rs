//! The warnings of a backup.

use serde::{Deserialize, Serialize};

use super::key::Name;
use super::manifest::Outcome;

/// The most warnings that a manifest lists; further ones are only counted.
pub const MAX_WARNINGS: usize = 1000;

/// Files that could not be read, or changed while they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Warnings {
    /// All of them; `list` holds at most [`MAX_WARNINGS`].
    pub count: u64,
    pub list: Vec<Warning>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub item: Name,
    /// Lossy UTF-8 of the path.
    pub path: String,
    pub message: String,
}

impl Warnings {
    pub fn push(&mut self, warning: Warning) {
        self.count += 1;
        if self.list.len() < MAX_WARNINGS {
            self.list.push(warning);
        }
    }

    /// The outcome of an item with these warnings and without a failure.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        if self.count == 0 { Outcome::Success } else { Outcome::Partial }
    }

    /// Adds another item's warnings.
    pub fn append(&mut self, other: Self) {
        self.count += other.count;
        self.list.extend(other.list.into_iter().take(MAX_WARNINGS.saturating_sub(self.list.len())));
    }
}
