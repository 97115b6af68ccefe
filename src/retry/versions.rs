//! Implements [`Versions`] for [`Retrying`]. A body that breaks off is not continued here: who reads versions does so through
//! [`crate::store::as_of`], below this decorator.

use std::ops::Range;

use async_trait::async_trait;

use super::{Call, Retrying};
use crate::format::key::ObjectKey;
use crate::store::{Download, Error, Hold, Lock, ObjectInfo, Store, VersionId, VersionPage, Versions};

#[async_trait]
impl Versions for Retrying<dyn Store> {
    async fn get_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        range: Option<Range<u64>>,
    ) -> Result<Download, Error> {
        self.request(Call::s3("GetObjectVersion", key), || self.inner.get_version(key, version, range.clone())).await
    }

    async fn head_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectInfo, Error> {
        self.request(Call::s3("HeadObjectVersion", key), || self.inner.head_version(key, version)).await
    }

    async fn delete_version(&self, key: &ObjectKey, version: &VersionId) -> Result<(), Error> {
        self.request(Call::s3("DeleteObjectVersion", key), || self.inner.delete_version(key, version)).await
    }

    async fn copy_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        size: u64,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        self.request(Call::s3("CopyObject", key), || self.inner.copy_version(key, version, size, lock)).await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<VersionPage, Error> {
        self.request(Call::s3("ListObjectVersions", &prefix), || self.inner.list_versions(prefix, from)).await
    }

    async fn lock(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Option<Lock>, Error> {
        self.request(Call::s3("GetObjectRetention", key), || self.inner.lock(key, version)).await
    }

    async fn set_lock(&self, key: &ObjectKey, version: Option<&VersionId>, lock: Lock) -> Result<(), Error> {
        self.request(Call::s3("PutObjectRetention", key), || self.inner.set_lock(key, version, lock)).await
    }

    async fn hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Hold, Error> {
        self.request(Call::s3("GetObjectLegalHold", key), || self.inner.hold(key, version)).await
    }

    async fn set_hold(&self, key: &ObjectKey, version: Option<&VersionId>, hold: Hold) -> Result<(), Error> {
        self.request(Call::s3("PutObjectLegalHold", key), || self.inner.set_hold(key, version, hold)).await
    }

    fn recorded(&self, key: &ObjectKey, version: &VersionId) {
        self.inner.recorded(key, version);
    }
}
