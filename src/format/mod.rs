//! What lies in S3: names, the manifest and the index. Pure: it encodes, decodes and checks, and does no I/O.
//!
//! Everything decoded here came from a bucket and is hostile until checked; every check names what was expected.

pub mod cluster;
pub mod codec;
pub mod ebs;
pub mod index;
pub mod key;
pub mod manifest;
mod source;
#[cfg(test)]
pub(crate) mod testing;
