//! The readers under test, built from the same files as Penstock's library but without the rest of it.

/// Only the text of a header: it knows no cryptography, which a sanitizer would take minutes to build.
#[path = "../../src/age"]
pub mod age {
    pub mod wire;
}
pub mod age_header;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/format/mod.rs"]
pub mod format;
pub mod harness;
