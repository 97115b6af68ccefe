//! The port's other half: versions of objects, and locks on them, of a bucket that has them.
//!
//! A bucket that keeps versions deletes nothing by itself: a DELETE adds a marker, a PUT a newer version. A lock or a hold is on one
//! version, and refuses only the deletion of that version. No code depends on versions unless the location locks its objects
//! (`object_lock`) or an operator asks for the past (`--as-of`).

use std::ops::Range;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Download, Error, ObjectInfo};
use crate::config::LockMode;
use crate::format::key::ObjectKey;
pub use crate::format::version::VersionId;

/// A lock on one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    pub mode: LockMode,
    /// By the store's clock.
    pub until: Timestamp,
}

/// A legal hold on one version: as a lock, without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    On,
    Off,
}

/// One page of a listing of versions: by key, and of each key the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionPage {
    pub entries: Vec<ListedVersion>,
    /// Where the next page starts; `None` on the last one.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    pub key: ObjectKey,
    pub version: VersionId,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
    pub kind: VersionKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionKind {
    Object {
        size: u64,
    },
    /// The key was deleted then.
    Marker,
}

/// Where `version` is `None`, the current one is meant.
#[async_trait]
pub trait Versions: Send + Sync {
    /// As [`Store::get`](super::Store::get), of one version.
    async fn get_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        range: Option<Range<u64>>,
    ) -> Result<Download, Error>;

    /// As [`Store::head`](super::Store::head), of one version.
    async fn head_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectInfo, Error>;

    /// Deletes a version or a marker for good. Succeeds also when there is none such. A locked or held one fails with
    /// [`Class::AccessDenied`](crate::error::Class::AccessDenied), as a missing permission does.
    async fn delete_version(&self, key: &ObjectKey, version: &VersionId) -> Result<(), Error>;

    /// Copies a version of `size` bytes over the current one, within the store. Returns the new version.
    async fn copy_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        size: u64,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error>;

    /// Versions and markers whose key starts with `prefix`; `from` is a previous page's `next`.
    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<VersionPage, Error>;

    /// The version's lock, also one that is over.
    async fn lock(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Option<Lock>, Error>;

    /// Locks the version until then. A lock can only be made longer.
    async fn set_lock(&self, key: &ObjectKey, version: Option<&VersionId>, lock: Lock) -> Result<(), Error>;

    async fn hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Hold, Error>;

    async fn set_hold(&self, key: &ObjectKey, version: Option<&VersionId>, hold: Hold) -> Result<(), Error>;

    /// Tells the store which version a manifest records of a key. Only a store that shows the past ([`super::as_of`]) uses it.
    fn recorded(&self, _key: &ObjectKey, _version: &VersionId) {}
}
