//! The readers under test, built from the same files as Penstock's library but without the rest of it.

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/format/mod.rs"]
pub mod format;
pub mod harness;
