//! Versions, locks and holds ([`crate::store::Versions`]).
//!
//! An object of more than 5 GiB is copied in parts. A copy has the location's settings, as every new object, and takes nothing over
//! from the version: reading its tags would need another permission.

use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, DeleteMarkerEntry, EncodingType, ObjectLockLegalHold,
    ObjectLockLegalHoldStatus, ObjectLockRetention, ObjectLockRetentionMode, ObjectVersion, TaggingDirective,
};
use jiff::Timestamp;

use super::listing::Keys;
use super::wire::{self, patient};
use super::{S3Store, Store as _};
use crate::config::LockMode;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::store::{
    Download, Error, Hold, ListedVersion, Lock, ObjectInfo, UploadHandle, VersionId, VersionKind, VersionPage, Versions,
};

/// The largest object that one CopyObject takes (S3 User Guide, "Copying objects").
const MAX_COPY: u64 = 5 << 30;

/// 10,000 of them are more than the largest object, 5 TiB.
const COPY_PART: u64 = 1 << 30;

/// The same error; about a version, it names the version's permission.
pub(super) fn about(version: Option<&VersionId>, error: Error) -> Error {
    let of_version = |remedy: String| {
        remedy.replace("s3:GetObject ", "s3:GetObjectVersion ").replace("s3:DeleteObject ", "s3:DeleteObjectVersion ")
    };
    let remedy = if version.is_some() { error.remedy.map(of_version) } else { error.remedy };
    Error { remedy, ..error }
}

/// Whether the store says that a version has no lock, or no hold. Ceph says so as AWS does of a bucket without locks.
fn is_unlocked(error: &Error) -> bool {
    matches!(error.code.as_deref(), Some("NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError"))
}

fn time(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

impl S3Store {
    /// The value of `x-amz-copy-source`.
    fn source(&self, key: &ObjectKey, version: &VersionId) -> String {
        let key: Vec<String> = key.as_str().split('/').map(wire::escape).collect();
        format!("{}/{}?versionId={}", self.bucket, key.join("/"), wire::escape(version.as_str()))
    }

    async fn copy_whole(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        let (request, new) = (self.request("CopyObject", key.as_str()), self.new_object.clone());
        let copy = self.client.copy_object().bucket(&self.bucket).key(key.as_str());
        let copy = copy
            .copy_source(self.source(key, version))
            .set_checksum_algorithm(wire::declared(self.algorithm).0)
            .set_server_side_encryption(new.sse)
            .set_ssekms_key_id(new.kms_key)
            .set_bucket_key_enabled(new.bucket_key)
            .set_storage_class(new.storage_class)
            .tagging_directive(TaggingDirective::Replace)
            .set_tagging(new.tagging)
            .set_object_lock_mode(lock.map(wire::lock_mode))
            .set_object_lock_retain_until_date(lock.map(wire::retain_until))
            .customize()
            .config_override(patient());
        let output = copy.send().await.map_err(|error| request.failed(&error))?;
        Ok(VersionId::lasting(output.version_id()))
    }

    async fn copy_parts(
        &self,
        upload: &UploadHandle,
        version: &VersionId,
        size: u64,
    ) -> Result<Option<VersionId>, Error> {
        let key = &upload.key;
        let mut parts = Vec::new();
        for (number, start) in (1..).zip((0..size).step_by(usize::try_from(COPY_PART).unwrap_or(usize::MAX))) {
            let request = self.request("UploadPartCopy", key.as_str());
            let last = (start + COPY_PART).min(size) - 1;
            let copy = self.client.upload_part_copy().bucket(&self.bucket).key(key.as_str()).upload_id(&upload.id.0);
            let copy = copy
                .part_number(number)
                .copy_source(self.source(key, version))
                .copy_source_range(format!("bytes={start}-{last}"))
                .customize()
                .config_override(patient());
            let output = copy.send().await.map_err(|error| request.failed(&error))?;
            let copied = output.copy_part_result();
            let part = CompletedPart::builder().part_number(number);
            parts.push(
                part.set_e_tag(copied.and_then(|part| part.e_tag().map(str::to_owned)))
                    .set_checksum_crc64_nvme(copied.and_then(|part| part.checksum_crc64_nvme().map(str::to_owned)))
                    .set_checksum_crc32_c(copied.and_then(|part| part.checksum_crc32_c().map(str::to_owned)))
                    .set_checksum_sha256(copied.and_then(|part| part.checksum_sha256().map(str::to_owned)))
                    .build(),
            );
        }
        let request = self.request("CompleteMultipartUpload", key.as_str());
        let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(key.as_str());
        let complete = complete.upload_id(&upload.id.0).multipart_upload(list).customize().config_override(patient());
        let output = complete.send().await.map_err(|error| request.failed(&error))?;
        Ok(VersionId::lasting(output.version_id()))
    }
}

#[async_trait]
impl Versions for S3Store {
    async fn get_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        range: Option<Range<u64>>,
    ) -> Result<Download, Error> {
        self.fetch(key, Some(version), range).await
    }

    async fn head_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectInfo, Error> {
        self.info(key, Some(version)).await
    }

    async fn delete_version(&self, key: &ObjectKey, version: &VersionId) -> Result<(), Error> {
        let request = self.request("DeleteObjectVersion", key.as_str());
        let delete = self.client.delete_object().bucket(&self.bucket).key(key.as_str()).version_id(version.as_str());
        match delete.send().await.map_err(|error| about(Some(version), request.failed(&error))) {
            Err(error) if error.class != Class::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn copy_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        size: u64,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        if size <= MAX_COPY {
            return self.copy_whole(key, version, lock).await;
        }
        let upload = UploadHandle { key: key.clone(), id: self.create_locked(key, lock).await? };
        let copied = self.copy_parts(&upload, version, size).await;
        if copied.is_err()
            && let Err(error) = self.abort_upload(&upload).await
        {
            tracing::warn!(%key, id = upload.id.0, %error, "could not abort the upload of a copy that failed: a lifecycle rule (AbortIncompleteMultipartUpload) removes it");
        }
        copied
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<VersionPage, Error> {
        let request = self.request("ListObjectVersions", prefix);
        let list = self.client.list_object_versions().bucket(&self.bucket).prefix(prefix);
        // The position: a version, and after a line feed its key.
        let (version, key) = from.and_then(|from| from.split_once('\n')).unzip();
        let list = list.encoding_type(EncodingType::Url).set_key_marker(key.map(str::to_owned));
        let list = list.set_version_id_marker(version.filter(|version| !version.is_empty()).map(str::to_owned));
        let output = list.send().await.map_err(|error| request.failed(&error))?;
        let keys = output.versions().iter().map(ObjectVersion::key);
        let keys = keys.chain(output.delete_markers().iter().map(DeleteMarkerEntry::key));
        let keys = Keys::of(prefix, output.encoding_type(), keys);
        let versions = output.versions().iter().map(|version| listed_version(keys, version));
        let markers = output.delete_markers().iter().map(|marker| listed_marker(keys, marker));
        let entries = versions.chain(markers).collect::<Option<Vec<_>>>();
        let mut entries =
            entries.ok_or_else(|| request.error(Class::Compat, "a version has no key, no ID, no size or no date"))?;
        // The reply has versions and markers mixed; the SDK does not. Within one second, all that the dates show, a version counts as
        // newer than a marker: rather shown than hidden.
        entries.sort_by(|a, b| (&a.key, b.modified).cmp(&(&b.key, a.modified)));
        if output.is_truncated() != Some(true) {
            return Ok(VersionPage { entries, next: None });
        }
        let key = output.next_key_marker().filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| request.stuck("the list of versions is truncated, but the reply has no marker"))?;
        let next = format!("{}\n{}", output.next_version_id_marker().unwrap_or_default(), keys.read(key));
        if from == Some(next.as_str()) {
            return Err(
                request.stuck("the list of versions does not advance: this page's marker leads to the same page")
            );
        }
        Ok(VersionPage { entries, next: Some(next) })
    }

    async fn lock(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Option<Lock>, Error> {
        let request = self.request("GetObjectRetention", key.as_str());
        let get = self.client.get_object_retention().bucket(&self.bucket).key(key.as_str());
        let get = get.set_version_id(version.map(ToString::to_string));
        let output = match get.send().await.map_err(|error| request.failed(&error)) {
            Ok(output) => output,
            Err(error) if is_unlocked(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(retention) = output.retention() else { return Ok(None) };
        let mode = match retention.mode() {
            Some(ObjectLockRetentionMode::Governance) => LockMode::Governance,
            Some(ObjectLockRetentionMode::Compliance) => LockMode::Compliance,
            // An empty document: not locked.
            _ => return Ok(None),
        };
        let until = retention.retain_until_date().and_then(time);
        let until = until.ok_or_else(|| request.error(Class::Compat, "the lock has no date"))?;
        Ok(Some(Lock { mode, until }))
    }

    async fn set_lock(&self, key: &ObjectKey, version: Option<&VersionId>, lock: Lock) -> Result<(), Error> {
        let request = self.request("PutObjectRetention", key.as_str());
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(wire::retain_until(lock)).build();
        let put = self.client.put_object_retention().bucket(&self.bucket).key(key.as_str()).retention(retention);
        let put = put.set_version_id(version.map(ToString::to_string));
        put.send().await.map(drop).map_err(|error| request.failed(&error))
    }

    async fn hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Hold, Error> {
        let request = self.request("GetObjectLegalHold", key.as_str());
        let get = self.client.get_object_legal_hold().bucket(&self.bucket).key(key.as_str());
        let get = get.set_version_id(version.map(ToString::to_string));
        match get.send().await.map_err(|error| request.failed(&error)) {
            Ok(output) => match output.legal_hold().and_then(ObjectLockLegalHold::status) {
                Some(ObjectLockLegalHoldStatus::On) => Ok(Hold::On),
                _ => Ok(Hold::Off),
            },
            Err(error) if is_unlocked(&error) => Ok(Hold::Off),
            Err(error) => Err(error),
        }
    }

    async fn set_hold(&self, key: &ObjectKey, version: Option<&VersionId>, hold: Hold) -> Result<(), Error> {
        let request = self.request("PutObjectLegalHold", key.as_str());
        let status = match hold {
            Hold::On => ObjectLockLegalHoldStatus::On,
            Hold::Off => ObjectLockLegalHoldStatus::Off,
        };
        let put = self.client.put_object_legal_hold().bucket(&self.bucket).key(key.as_str());
        let put = put.legal_hold(ObjectLockLegalHold::builder().status(status).build());
        let put = put.set_version_id(version.map(ToString::to_string));
        put.send().await.map(drop).map_err(|error| request.failed(&error))
    }
}

/// `None` for an entry that makes no sense.
fn listed_version(keys: Keys<'_>, version: &ObjectVersion) -> Option<ListedVersion> {
    let size = version.size().and_then(|size| u64::try_from(size).ok())?;
    let key = ObjectKey::new(keys.read(version.key()?));
    let (id, modified) = (VersionId::new(version.version_id()?).ok()?, version.last_modified().and_then(time)?);
    Some(ListedVersion { key, version: id, modified, kind: VersionKind::Object { size } })
}

/// `None` for an entry that makes no sense.
fn listed_marker(keys: Keys<'_>, marker: &DeleteMarkerEntry) -> Option<ListedVersion> {
    let key = ObjectKey::new(keys.read(marker.key()?));
    let (id, modified) = (VersionId::new(marker.version_id()?).ok()?, marker.last_modified().and_then(time)?);
    Some(ListedVersion { key, version: id, modified, kind: VersionKind::Marker })
}
