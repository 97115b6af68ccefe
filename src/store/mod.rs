//! The port to an object store: the requests of S3 that the engine needs, and no others.
//!
//! Implementations: [`memory::MemoryStore`] for tests and `aws::s3`; one conformance suite
//! (`tests/suite/conformance.rs`) runs on both. A method is one request (the SDK's own attempts included); [`crate::retry`] wraps a store
//! in one that repeats failed requests. Dropping a future abandons the request, but the server may still carry it out.

pub mod as_of;
pub mod memory;
mod versions;

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
pub use versions::{Hold, ListedVersion, Lock, VersionId, VersionKind, VersionPage, Versions};

/// Small objects, as manifests, that are read at a time. A store keeps so many connections: one that is not kept is a handshake for the
/// next request.
pub const READS: usize = 100;

/// The remedy for a listing that does not advance as S3's do.
pub(crate) const PAGING_REMEDY: &str =
    "the store does not page as S3 does, or a proxy removes the query: ask its operator (docs/stores.md)";

/// Bytes to send, with their checksum, which is sent as a plain header and checked by the server.
#[derive(Debug, Clone)]
pub struct Payload {
    /// In order; each has an allocation of its own.
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

/// Whether a PUT may replace an existing object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    Allow,
    /// `If-None-Match: *`; an existing object fails the PUT with [`Class::Conflict`].
    Refuse,
}

/// The result of deleting an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The store says that the object does not exist any more.
    Gone,
    /// The bucket keeps versions: a delete marker hides the object, which is still stored.
    Hidden,
}

/// A server-issued multipart upload ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(pub String);

/// Identifies a multipart upload.
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

/// A part that the server has stored, in the form that CompleteMultipartUpload needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    pub number: PartNumber,
    pub size: u64,
    pub etag: String,
    pub checksum: Option<Checksum>,
}

/// The server's data about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub size: u64,
    /// The full-object checksum, if the server keeps one.
    pub checksum: Option<Checksum>,
    /// `None` in a bucket that keeps no versions.
    pub version: Option<VersionId>,
}

impl ObjectInfo {
    /// Whether size and checksum are these. An unknown checksum counts as equal.
    #[must_use]
    pub fn is(&self, size: u64, checksum: Option<Checksum>) -> bool {
        self.size == size && (self.checksum.is_none() || self.checksum == checksum)
    }
}

/// A body that is being received. `length` is the body's, not the object's.
pub struct Download {
    pub length: u64,
    /// The version that is received; `None` in a bucket that keeps none.
    pub version: Option<VersionId>,
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

/// Reads a whole object of at most `limit` bytes.
///
/// # Errors
/// The request's error; [`Class::Integrity`] if the object is longer.
pub async fn read(store: &dyn Store, key: &ObjectKey, limit: u64) -> Result<Vec<u8>, Error> {
    collect(store.get(key, None).await?, key, limit).await
}

/// Receives a body of at most `limit` bytes.
///
/// # Errors
/// As [`read`].
pub async fn collect(download: Download, key: &ObjectKey, limit: u64) -> Result<Vec<u8>, Error> {
    let Download { length, mut body, .. } = download;
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(limit)).unwrap_or_default());
    while let Some(piece) = body.try_next().await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Error::local(
                "GetObject",
                key,
                Class::Integrity,
                format!("the object is longer than {limit} bytes"),
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
    /// Differs from that of any other object that had this key; `None` if the store, or this listing, does not say.
    pub etag: Option<String>,
}

/// One page of the names between a prefix and the next slash.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    pub names: Vec<String>,
    /// As [`Page::next`].
    pub next: Option<String>,
}

/// An upload in progress, by any client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    pub upload: UploadHandle,
    /// When it was created, if the store says so.
    pub initiated: Option<jiff::Timestamp>,
}

#[async_trait]
pub trait Store: Versions {
    /// The algorithm of the checksums that payloads are sent with and that the store keeps.
    fn algorithm(&self) -> Algorithm;
    /// As [`Store::put_locked`], without a lock.
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        self.put_locked(key, payload, overwrite, None).await.map(drop)
    }
    /// Writes an object, and locks it in the same request. Returns its version.
    async fn put_locked(
        &self,
        key: &ObjectKey,
        payload: Payload,
        overwrite: Overwrite,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error>;
    /// The whole object, or the bytes of `range` (which must lie within it).
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error>;
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error>;
    /// Succeeds also when there is no such object.
    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error>;
    /// Objects whose key starts with `prefix`; `from` is a previous page's `next`.
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error>;
    /// The names between `prefix` and the next slash, as a listing of folders has them; `from` is a previous page's `next`. May repeat one.
    async fn folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, Error>;
    /// As [`Store::create_locked`], without a lock.
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
        self.create_locked(key, None).await
    }
    /// Begins an upload, whose object will be locked until a time that is fixed now.
    async fn create_locked(&self, key: &ObjectKey, lock: Option<Lock>) -> Result<UploadId, Error>;
    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Error>;
    /// `parts` in ascending order; `checksum` is the whole object's, if the algorithm has one. Returns the object's version.
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<Option<VersionId>, Error>;
    /// Succeeds also when the upload does not exist any more.
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error>;
    /// The stored parts; `None` when the upload does not exist (any more).
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error>;
    /// Every upload in progress whose key starts with `prefix`. The policy need not permit it, so no caller may depend on it; the
    /// implementation logs a refusal ([`Class::AccessDenied`], [`Class::Compat`]) once.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error>;
}
