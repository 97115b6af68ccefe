//! The objects in S3: names, the manifest and the index. Encodes, decodes and checks, and does no I/O.
//!
//! Everything decoded here comes from a bucket and is hostile until checked; every failed check names what was
//! expected.

pub mod claim;
pub mod cluster;
pub mod codec;
pub mod damage;
pub mod ebs;
mod forgetful;
pub mod index;
pub mod key;
pub mod manifest;
pub mod round;
pub mod sealed;
mod source;
#[cfg(test)]
pub(crate) mod testing;
pub mod version;
mod warnings;
