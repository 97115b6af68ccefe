//! Reads an object, or one version of it.

use std::ops::Range;

use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use futures_util::stream;

use super::incoming::{self, Announced, Incoming};
use super::{S3Store, versions, wire};
use crate::checksum::Algorithm;
use crate::format::key::ObjectKey;
use crate::store::{Download, Error, ObjectInfo, VersionId};

impl S3Store {
    pub(super) async fn fetch(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        range: Option<Range<u64>>,
    ) -> Result<Download, Error> {
        let request = self.request("GetObject", key.as_str());
        // HTTP has no empty ranges.
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Download { length: 0, version: None, body: Box::pin(stream::empty()) });
        }
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let get = self.client.get_object().bucket(&self.bucket).key(key.as_str()).set_range(header);
        let get = get.set_version_id(version.map(ToString::to_string));
        let output = get.send().await.map_err(|error| versions::about(version, request.failed(&error)))?;
        let announced = Announced { length: output.content_length(), range: output.content_range() };
        let length = match incoming::length(range.as_ref(), announced) {
            Ok(Some(length)) => length,
            // A proxy sends bodies in chunks, without a length. The answer to HEAD has no body, so it has the length.
            Ok(None) => self.info(key, version).await?.size,
            Err((class, message)) => return Err(request.error(class, message)),
        };
        let version = VersionId::lasting(output.version_id());
        let incoming = Incoming {
            resource: request.call.resource.clone(),
            trust: self.trust.clone(),
            metrics: self.metrics.clone(),
            body: output.body,
            left: length,
        };
        Ok(Download { length, version, body: Box::pin(stream::unfold(Some(incoming), Incoming::step)) })
    }

    pub(super) async fn info(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<ObjectInfo, Error> {
        let request = self.request("HeadObject", key.as_str());
        let mode = match self.algorithm {
            Algorithm::None => None,
            Algorithm::Crc64nvme | Algorithm::Crc32c | Algorithm::Sha256 => Some(ChecksumMode::Enabled),
        };
        let head = self.client.head_object().bucket(&self.bucket).key(key.as_str()).set_checksum_mode(mode);
        let head = head.set_version_id(version.map(ToString::to_string));
        let output = head.send().await.map_err(|error| versions::about(version, request.failed(&error)))?;
        let size = match output.content_length().and_then(|size| u64::try_from(size).ok()) {
            Some(size) => size,
            None => self.size_by_range(key, version).await?,
        };
        let headers = (output.checksum_crc64_nvme(), output.checksum_crc32_c(), output.checksum_sha256());
        let checksum = wire::checksum(self.algorithm, headers.0, headers.1, headers.2)
            .filter(|_| output.checksum_type() != Some(&ChecksumType::Composite));
        Ok(ObjectInfo { size, checksum, version: VersionId::lasting(output.version_id()) })
    }
}
