//! The port to an object store: what the engine needs of S3, and nothing more.
//!
//! Implementations: [`memory::MemoryStore`] for tests and `aws::s3` for the real thing; one conformance suite
//! (`tests/suite/conformance.rs`) runs on both. A method is one request (the SDK's own attempts included); [`crate::retry`] wraps a store
//! in one that makes a failed request again. Dropping a future abandons the request but promises nothing about the server.

pub mod memory;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};

use crate::checksum::{Algorithm, Checksum};
use crate::error::Class;
/// A request to the store that failed.
pub use crate::error::ServiceError as Error;
use crate::format::key::ObjectKey;

/// What to do about a listing that does not go on as S3's do.
pub(crate) const PAGING_REMEDY: &str =
    "the store's paging is not S3's, or a proxy leaves the query out: ask whoever runs it (docs/stores.md)";

/// Bytes to send, with the checksum the engine computed over them: it is sent as a plain header and checked by the server.
#[derive(Debug, Clone)]
pub struct Payload {
    /// In order; each is memory of its own.
    pub pieces: Arc<[Bytes]>,
    pub checksum: Option<Checksum>,
}

impl Payload {
    #[must_use]
    pub fn new(data: impl Into<Bytes>, algorithm: Algorithm) -> Self {
        let data = data.into();
        Self { checksum: algorithm.compute(&data), pieces: Arc::new([data]) }
    }

    #[must_use]
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// Whether a PUT may replace what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    Allow,
    /// `If-None-Match: *`; an existing object fails the PUT with [`Class::Conflict`].
    Refuse,
}

/// What deleting an object came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is not there any more, as far as the store says.
    Gone,
    /// The bucket keeps versions: it is hidden behind a delete marker, and still stored.
    Hidden,
}

/// A server-issued multipart upload ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(pub String);

/// Which upload a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadHandle {
    pub key: ObjectKey,
    pub id: UploadId,
}

/// From 1 to [`PartNumber::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartNumber(u16);

impl PartNumber {
    pub const MAX: u16 = crate::config::MAX_PARTS;
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number >= 1 && number <= Self::MAX { Some(Self(number)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A part the server has taken, as CompleteMultipartUpload wants it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    pub number: PartNumber,
    pub size: u64,
    pub etag: String,
    pub checksum: Option<Checksum>,
}

/// What the server says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub size: u64,
    /// The full-object checksum, where the server keeps one.
    pub checksum: Option<Checksum>,
}

impl ObjectInfo {
    /// Whether it is so many bytes with that checksum, as far as the server says.
    #[must_use]
    pub fn is(&self, size: u64, checksum: Option<Checksum>) -> bool {
        self.size == size && (self.checksum.is_none() || self.checksum == checksum)
    }
}

/// A body being received. `length` is the body's, not the object's.
pub struct Download {
    pub length: u64,
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

/// Reads a whole object of at most `limit` bytes.
///
/// # Errors
/// The request's; one of [`Class::Integrity`] where the object is longer.
pub async fn read(store: &dyn Store, key: &ObjectKey, limit: u64) -> Result<Vec<u8>, Error> {
    let Download { length, mut body } = store.get(key, None).await?;
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(limit)).unwrap_or_default());
    while let Some(piece) = body.try_next().await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Error::local(
                "GetObject",
                key,
                Class::Integrity,
                format!("the object is longer than the {limit} bytes expected"),
            ));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// One page of a listing, in key order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub objects: Vec<ListedObject>,
    /// Where the next page starts; `None` on the last one.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: ObjectKey,
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: jiff::Timestamp,
}

/// An upload in progress, somebody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    pub upload: UploadHandle,
    /// When it was begun, where the store says so.
    pub initiated: Option<jiff::Timestamp>,
}

#[async_trait]
pub trait Store: Send + Sync {
    /// Of the checksums that payloads are sent with, and that it keeps.
    fn algorithm(&self) -> Algorithm;
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error>;
    /// The whole object, or the bytes of `range` (which must lie within it).
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error>;
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error>;
    /// Success also when there is no such object.
    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error>;
    /// Objects whose key starts with `prefix`; `from` is a previous page's `next`.
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error>;
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error>;
    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Error>;
    /// `parts` in ascending order; `checksum` is the whole object's where the algorithm has one.
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error>;
    /// Success also when the upload is gone already.
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error>;
    /// The parts the server holds; `None` when the upload does not exist (any more).
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error>;
    /// Every upload in progress whose key starts with `prefix`. The policy need not permit it: nothing may depend on it, and a
    /// refusal ([`Class::AccessDenied`], [`Class::Compat`]) is logged once, here.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error>;
}
