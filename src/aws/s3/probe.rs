//! Requests to S3 that only `validate` makes.

use aws_sdk_s3::types::ServerSideEncryption;
use bytes::Bytes;

use super::S3Store;
use crate::format::key::ObjectKey;
use crate::store::{Error, Overwrite, Payload, VersionId};

impl S3Store {
    /// The bucket's region, if the store names it, perhaps in a refusal.
    pub(in crate::aws) async fn bucket_region(&self) -> Result<Option<String>, Error> {
        let request = self.request("HeadBucket", "");
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(output) => Ok(output.bucket_region().map(str::to_owned)),
            Err(error) => {
                let header = error.raw_response().and_then(|raw| raw.headers().get("x-amz-bucket-region"));
                header.map(|region| Some(region.to_owned())).ok_or_else(|| request.failed(&error))
            }
        }
    }

    /// The key's current version. For a delete marker the reply is a 404 that names the marker's version.
    pub(in crate::aws) async fn version_of(&self, key: &ObjectKey) -> Result<Option<VersionId>, Error> {
        let request = self.request("HeadObject", key.as_str());
        match self.client.head_object().bucket(&self.bucket).key(key.as_str()).send().await {
            Ok(output) => Ok(output.version_id.and_then(|version| VersionId::new(version).ok())),
            Err(error) => {
                let marker =
                    error.raw_response().filter(|raw| raw.headers().get("x-amz-delete-marker") == Some("true"));
                let version = marker.and_then(|raw| raw.headers().get("x-amz-version-id"));
                version.map(|version| VersionId::new(version).ok()).ok_or_else(|| request.failed(&error))
            }
        }
    }

    /// Writes with SSE-S3, whatever is configured: if this succeeds and a write with KMS does not, the key refuses.
    pub(in crate::aws) async fn put_without_kms(&self, key: &ObjectKey, data: Bytes) -> Result<(), Error> {
        let request = self.request("PutObject", key.as_str());
        let put = self.client.put_object().bucket(&self.bucket).key(key.as_str()).body(data.into());
        let put = put.server_side_encryption(ServerSideEncryption::Aes256);
        put.send().await.map(drop).map_err(|error| request.failed(&error))
    }
    /// Writes with `If-None-Match: *`, without the workaround for a store that refuses it.
    pub(in crate::aws) async fn put_if_absent(&self, key: &ObjectKey, data: Bytes) -> Result<(), Error> {
        self.put_object(key, Payload::new(data, self.algorithm), Overwrite::Refuse, None).await.map(drop)
    }
}
