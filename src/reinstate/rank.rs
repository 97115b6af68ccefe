//! Which kinds are made before which. Pure.

/// Where a kind stands in the order, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// `deployments.apps`.
    pub resource: &'static str,
    pub rank: u8,
    pub reason: &'static str,
}

/// Custom resources, and every kind that is not in the table.
pub const OTHERS: u8 = 10;

/// The highest rank.
pub const LAST: u8 = 15;

/// One row a kind; sorted by rank.
pub const RANKS: &[Row] = &[];

/// When the kind `resource` (`deployments.apps`) is made: lower ones first, one rank in parallel.
#[must_use]
pub fn rank(resource: &str) -> u8 {
    RANKS.iter().find(|row| row.resource == resource).map_or(OTHERS, |row| row.rank)
}
