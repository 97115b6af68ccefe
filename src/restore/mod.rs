//! From a backup back to files.

pub mod extract;
