//! Reads stored chunks back into a stream's plain bytes.
//!
//! ```text
//! index ─ decode, group (one thread) ─ ranged GET ─ decrypt, decompress, check (the pool) ─ plain bytes, in stream order
//! ```
//!
//! # What it promises
//! Returns only checked bytes: the index is checked against the manifest ([`index`]), each chunk against its SHA-256
//! ([`plain`]). Any other data is an error that names the object's key and what was expected. An object whose key ends in `.age` is
//! decrypted with the location's identities; each of its chunks is proven to be that object's, in its place.
//!
//! # What it costs
//! One [`crate::budget::Reservation`], taken whole at the start, and at most [`index::IN_MEMORY`] bytes of index; a longer
//! index is kept in an unnamed temporary file, encrypted if it is. One small GET more for each encrypted object.
//!
//! # What happens on failure
//! The location's store repeats requests and bodies that break off; bytes with a wrong digest are fetched once more. The
//! first failure ends the stream, unless it is read past damage ([`plain::read_past_damage`]). Dropping the reader, or
//! cancelling, ends its tasks.

pub mod index;
pub mod input;
pub mod plain;
mod plan;
pub mod sealed;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt as _;

use crate::age::PayloadError;
use crate::age::header::HeaderError;
use crate::budget::TooSmall;
use crate::error::{Class, Classify, Report};
use crate::format::index::IndexError;
use crate::format::key::ObjectKey;
use crate::location::Location;
use crate::store::{self, Store};

pub use plan::Selection;

/// The most requests at a time; the budget may allow fewer.
#[must_use]
pub fn requests(location: &Location) -> usize {
    location.config.upload.concurrency.most().into()
}

/// Called with the number of further plain bytes; called often, from any thread.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{error}")]
    Store {
        key: ObjectKey,
        #[source]
        error: Box<store::Error>,
    },
    /// The server sent too many or too few bytes.
    #[error("GetObject {key}: the body has {found} bytes; expected {expected}")]
    Body { key: ObjectKey, expected: u64, found: u64 },
    /// The object differs from the manifest.
    #[error("the object {key}: {field} is {found}; expected {expected}")]
    Object { key: ObjectKey, field: &'static str, expected: String, found: String },
    #[error("the index {key}: {error}")]
    Index {
        key: ObjectKey,
        #[source]
        error: IndexError,
    },
    #[error("the object {key}: the chunk at byte {offset} {reason}")]
    Chunk { key: ObjectKey, offset: u64, reason: String },
    /// None of the location's identities opens the object.
    #[error("could not decrypt the object {key}: it {error}")]
    Identity {
        key: ObjectKey,
        #[source]
        error: HeaderError,
    },
    #[error("could not decrypt the object {key}: {error}")]
    Header {
        key: ObjectKey,
        #[source]
        error: HeaderError,
    },
    #[error("could not decrypt the object {key}: it {error}")]
    Payload {
        key: ObjectKey,
        #[source]
        error: PayloadError,
    },
    /// Fetching the chunks of these stream positions failed.
    #[error("{error}")]
    Fetch {
        positions: Range<u64>,
        #[source]
        error: Box<Error>,
    },
    #[error("could not read the backup: {0}")]
    Memory(#[from] TooSmall),
    #[error("could not {action}: {error}")]
    Local {
        action: &'static str,
        #[source]
        error: std::io::Error,
    },
    #[error("cancelled")]
    Cancelled,
    /// The index refers to an object that the manifest does not list.
    #[error("the index names data object {0}; the manifest lists no such object")]
    NoObject(u32),
    #[error("the pipeline stopped unexpectedly")]
    Stopped,
}

/// A chunk that cannot be read as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub positions: Range<u64>,
    /// Position in the stream's objects.
    pub object: u32,
    /// Where the chunk is in its object; in the payload of an encrypted one.
    pub offset: u64,
    pub class: Class,
    pub reason: String,
}

impl Error {
    pub(crate) fn store(key: &ObjectKey) -> impl Fn(store::Error) -> Self {
        |error| Self::Store { key: key.clone(), error: Box::new(error) }
    }

    /// The stream positions that could not be read, if only some could not.
    #[must_use]
    pub fn positions(&self) -> Option<Range<u64>> {
        if let Self::Fetch { positions, .. } = self { Some(positions.clone()) } else { None }
    }

    /// The object that the error concerns.
    #[must_use]
    pub fn key(&self) -> Option<&ObjectKey> {
        match self {
            Self::Store { key, .. }
            | Self::Body { key, .. }
            | Self::Object { key, .. }
            | Self::Index { key, .. }
            | Self::Chunk { key, .. }
            | Self::Identity { key, .. }
            | Self::Header { key, .. }
            | Self::Payload { key, .. } => Some(key),
            Self::Fetch { error, .. } => error.key(),
            Self::Memory(_) | Self::Local { .. } | Self::NoObject(_) | Self::Cancelled | Self::Stopped => None,
        }
    }
}

impl Classify for Error {
    fn report(&self) -> Report {
        let class = match self {
            Self::Store { error, .. } => return error.report(),
            Self::Fetch { error, .. } => return error.report(),
            Self::Body { .. } => Class::Transient,
            // The index's digest was right, so the system failed to read the local copy.
            Self::Index { error: IndexError::Read(error), .. } if error.raw_os_error().is_some() => Class::Local,
            Self::Identity { .. } => {
                let remedy = "give the private key of one of the backup's recipients with --identity FILE";
                return Report::new(Class::Identity, self.to_string()).remedy(remedy);
            }
            Self::Header { error, .. } if sealed::is_newer(error) => {
                return Report::new(Class::Compat, self.to_string()).remedy("use a newer Penstock");
            }
            Self::Object { .. }
            | Self::Index { .. }
            | Self::Chunk { .. }
            | Self::Header { .. }
            | Self::Payload { .. }
            | Self::NoObject(_) => Class::Integrity,
            Self::Memory(_) => {
                return Report::new(Class::Config, self.to_string()).remedy("raise limits.memory");
            }
            Self::Local { .. } => Class::Local,
            Self::Cancelled => Class::Cancelled,
            Self::Stopped => {
                let report = Report::new(Class::Internal, self.to_string());
                return report.remedy("this is a bug in Penstock: please report it");
            }
        };
        Report::new(class, self.to_string())
    }
}

/// Fills `into` with the object's bytes from `offset` on, in one request.
async fn get_into(store: &dyn Store, key: &ObjectKey, offset: u64, into: &mut [u8]) -> Result<(), Error> {
    let expected = into.len() as u64;
    let mut download = store.get(key, Some(offset..offset + expected)).await.map_err(Error::store(key))?;
    if download.length != expected {
        return Err(Error::Object {
            key: key.clone(),
            field: "the length of a range",
            expected: format!("{expected} bytes from {offset} on"),
            found: download.length.to_string(),
        });
    }
    let mut filled = 0;
    while let Some(piece) = download.body.next().await {
        let piece = piece.map_err(Error::store(key))?;
        let Some(rest) = into.get_mut(filled..filled + piece.len()) else {
            let found = (filled + piece.len()) as u64;
            return Err(Error::Body { key: key.clone(), expected, found });
        };
        rest.copy_from_slice(&piece);
        filled += piece.len();
    }
    if filled as u64 == expected {
        Ok(())
    } else {
        Err(Error::Body { key: key.clone(), expected, found: filled as u64 })
    }
}
