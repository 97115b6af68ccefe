//! Implements the port [`crate::store`] with S3 or a compatible store.
//!
//! Bodies are the engine's `Bytes`, passed on without a copy and sent from the same memory when the SDK repeats the request. Their
//! checksum is sent as a plain header: several stores refuse the SDK's default, a trailer in aws-chunked encoding. A body is signed
//! over plain HTTP only (TLS protects it, and the checksum proves it).
//!
//! A method makes one request, of up to three attempts, and returns the result of the last; a part and the creation of an upload have
//! one attempt each: the engine must see every failure of these. A request whose body stalls is ended ([`body`]).

mod body;
mod condition;
mod incoming;
mod listing;
mod probe;
mod read;
mod versions;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{ChecksumType, CompletedMultipartUpload};

use self::body::Progress;
use self::wire::{Headers, NewObject, Once, PayloadSigning, once, patient, untimed};
use super::classify::Service;
use super::failure::Call;
use super::watch::Watch;
use crate::checksum::{Algorithm, Checksum};
use crate::config::Location;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::limits::Bandwidth;
use crate::metrics;
use crate::store::{
    Deleted, Download, Error, Folders, ListedUpload, Lock, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store,
    UploadHandle, UploadId, UploadedPart, VersionId,
};

#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bandwidth: Option<Bandwidth>,
    bucket: String,
    algorithm: Algorithm,
    new_object: NewObject,
    signing: PayloadSigning,
    trust: String,
    metrics: metrics::Location,
    bare_parts: Once,
    unlisted_uploads: Once,
    unconditional: Once,
}

/// Describes a request, for the error if it fails.
struct Request<'a> {
    call: Call<'a>,
}

impl Request<'_> {
    fn failed<E>(&self, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.call.sdk(error)
    }

    /// Waits for the answer; an error if the body stalls before.
    async fn watched<T, E>(
        &self,
        progress: &Progress,
        answer: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Error>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        tokio::select! {
            answer = answer => answer.map_err(|error| self.failed(&error)),
            why = progress.stalled() => Err(self.error(Class::Transient, why)),
        }
    }

    fn error(&self, class: Class, message: impl Into<String>) -> Error {
        self.call.error(class, message)
    }

    /// Compares the checksum that the server computed with the one sent.
    fn agree(&self, sent: Option<Checksum>, got: Option<Checksum>) -> Result<(), Error> {
        match (sent, got) {
            (Some(sent), Some(got)) if sent != got => {
                let message = format!("sent {}, the server has {}", sent.to_header(), got.to_header());
                Err(self.error(Class::Integrity, message))
            }
            _ => Ok(()),
        }
    }
}

impl S3Store {
    pub(super) fn new(location: &Location, sdk: &SdkConfig, watch: Watch, trust: String) -> Self {
        let metrics = watch.metrics.clone();
        let config = aws_sdk_s3::config::Builder::from(sdk)
            .interceptor(watch.clone())
            .retry_classifier(watch)
            .force_path_style(location.force_path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Self {
            client: Client::from_conf(config),
            bandwidth: None,
            bucket: location.bucket.clone(),
            algorithm: location.checksum,
            new_object: NewObject::of(location),
            signing: PayloadSigning::of(location),
            trust,
            metrics,
            bare_parts: Once::default(),
            unlisted_uploads: Once::default(),
            unconditional: Once::default(),
        }
    }

    /// Returns the same store, which sends no faster than `bandwidth`.
    #[must_use]
    pub fn limited(&self, bandwidth: Bandwidth) -> Self {
        Self { bandwidth: Some(bandwidth), ..self.clone() }
    }

    fn request(&self, operation: &'static str, key: &str) -> Request<'_> {
        let resource = format!("s3://{}/{key}", self.bucket);
        let call = Call { service: Service::S3, operation, resource, trust: &self.trust };
        Request { call }
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.bucket)
            .field("checksum", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for S3Store {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    async fn put_locked(
        &self,
        key: &ObjectKey,
        payload: Payload,
        overwrite: Overwrite,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        match overwrite {
            Overwrite::Allow => self.put_object(key, payload, overwrite, lock).await,
            Overwrite::Refuse => self.put_new(key, payload, lock).await,
        }
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        self.fetch(key, None, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        self.info(key, None).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        let request = self.request("DeleteObject", key.as_str());
        let delete = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
        match delete.send().await.map_err(|error| request.failed(&error)) {
            Ok(output) if output.delete_marker() == Some(true) => Ok(Deleted::Hidden),
            Ok(_) => Ok(Deleted::Gone),
            // AWS answers 204 when there is no such object; some stores answer 404.
            Err(error) if error.class == Class::NotFound => Ok(Deleted::Gone),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.page_of_objects(prefix, from).await
    }

    async fn folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, Error> {
        self.page_of_folders(prefix, from).await
    }

    async fn create_locked(&self, key: &ObjectKey, lock: Option<Lock>) -> Result<UploadId, Error> {
        let request = self.request("CreateMultipartUpload", key.as_str());
        let new = self.new_object.clone();
        let (algorithm, kind) = wire::declared(self.algorithm);
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(key.as_str());
        let output = create
            .set_checksum_algorithm(algorithm)
            .set_checksum_type(kind)
            .set_server_side_encryption(new.sse)
            .set_ssekms_key_id(new.kms_key)
            .set_bucket_key_enabled(new.bucket_key)
            .set_storage_class(new.storage_class)
            .set_tagging(new.tagging)
            .set_object_lock_mode(lock.map(wire::lock_mode))
            .set_object_lock_retain_until_date(lock.map(wire::retain_until))
            .customize()
            .config_override(once(aws_sdk_s3::config::Config::builder()))
            .send()
            .await
            .map_err(|error| request.failed(&error))?;
        let id = output.upload_id.filter(|id| !id.is_empty());
        id.map(UploadId).ok_or_else(|| request.error(Class::Compat, "the reply holds no upload ID"))
    }

    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Error> {
        let request = self.request("UploadPart", upload.key.as_str());
        let size = payload.size();
        let headers = Headers::from(payload.checksum);
        let signing = self.signing.interceptor(&payload).await;
        let progress = Arc::new(Progress::default());
        let (body, _lent) = body::lend(&payload, self.bandwidth.as_ref(), &progress);
        let put = self.client.upload_part().bucket(&self.bucket).key(upload.key.as_str()).upload_id(&upload.id.0);
        let put = put
            .part_number(i32::from(number.get()))
            .body(body)
            .set_checksum_algorithm(wire::declared(self.algorithm).0.filter(|_| payload.checksum.is_some()))
            .set_checksum_crc64_nvme(headers.crc64nvme)
            .set_checksum_crc32_c(headers.crc32c)
            .set_checksum_sha256(headers.sha256)
            .customize()
            .interceptor(signing)
            .config_override(once(untimed()))
            .send();
        let output = request.watched(&progress, put).await?;
        let got = (output.checksum_crc64_nvme(), output.checksum_crc32_c(), output.checksum_sha256());
        request.agree(payload.checksum, wire::checksum(self.algorithm, got.0, got.1, got.2))?;
        // `reply::check` refuses a reply without one.
        let etag = output.e_tag.unwrap_or_default();
        Ok(UploadedPart { number, size, etag, checksum: payload.checksum })
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<Option<VersionId>, Error> {
        let request = self.request("CompleteMultipartUpload", upload.key.as_str());
        // The SHA-256 that S3 keeps of a multipart object is a hash of the parts' hashes.
        let checksum = checksum.filter(|checksum| !matches!(checksum, Checksum::Sha256(_)));
        let headers = Headers::from(checksum);
        let list =
            CompletedMultipartUpload::builder().set_parts(Some(parts.iter().map(wire::completed).collect())).build();
        // A store without checksums is old: it gets no header that was introduced with them.
        let checked = !matches!(self.algorithm, Algorithm::None);
        let object_size = i64::try_from(size).ok().filter(|_| checked);
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(upload.key.as_str());
        let output = complete
            .upload_id(&upload.id.0)
            .multipart_upload(list)
            .set_mpu_object_size(object_size)
            .set_checksum_type(checksum.map(|_| ChecksumType::FullObject))
            .set_checksum_crc64_nvme(headers.crc64nvme)
            .set_checksum_crc32_c(headers.crc32c)
            .set_checksum_sha256(headers.sha256)
            .customize()
            .config_override(patient())
            .send()
            .await
            .map_err(|error| request.failed(&error))?;
        let got = (output.checksum_crc64_nvme(), output.checksum_crc32_c(), output.checksum_sha256());
        request.agree(checksum, wire::checksum(self.algorithm, got.0, got.1, got.2))?;
        if output.e_tag.is_none_or(|etag| etag.trim_matches('"').is_empty()) {
            // Some stores send none here; `upload::complete` tells these from something that is no store with HeadObject.
            return Err(request.error(Class::Compat, "the reply holds no ETag"));
        }
        Ok(VersionId::lasting(output.version_id.as_deref()))
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        let request = self.request("AbortMultipartUpload", upload.key.as_str());
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(upload.key.as_str());
        match abort.upload_id(&upload.id.0).send().await.map_err(|error| request.failed(&error)) {
            Ok(_) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        self.all_parts(upload).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        self.all_uploads(prefix).await
    }
}

impl S3Store {
    pub(in crate::aws) async fn put_object(
        &self,
        key: &ObjectKey,
        payload: Payload,
        overwrite: Overwrite,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        let request = self.request("PutObject", key.as_str());
        let checksum = Headers::from(payload.checksum);
        let new = self.new_object.clone();
        let condition = match overwrite {
            Overwrite::Allow => None,
            Overwrite::Refuse => Some("*".to_owned()),
        };
        let signing = self.signing.interceptor(&payload).await;
        let progress = Arc::new(Progress::default());
        let (body, _lent) = body::lend(&payload, self.bandwidth.as_ref(), &progress);
        let put = self.client.put_object().bucket(&self.bucket).key(key.as_str()).body(body);
        let put = put
            .set_if_none_match(condition)
            .set_checksum_algorithm(wire::declared(self.algorithm).0.filter(|_| payload.checksum.is_some()))
            .set_checksum_crc64_nvme(checksum.crc64nvme)
            .set_checksum_crc32_c(checksum.crc32c)
            .set_checksum_sha256(checksum.sha256)
            .set_server_side_encryption(new.sse)
            .set_ssekms_key_id(new.kms_key)
            .set_bucket_key_enabled(new.bucket_key)
            .set_storage_class(new.storage_class)
            .set_tagging(new.tagging)
            .set_object_lock_mode(lock.map(wire::lock_mode))
            .set_object_lock_retain_until_date(lock.map(wire::retain_until))
            .customize()
            .interceptor(signing)
            .config_override(untimed())
            .send();
        let output = request.watched(&progress, put).await?;
        Ok(VersionId::lasting(output.version_id.as_deref()))
    }
}

/// Whether the upload does not exist. Ceph says `NoSuchKey` of a completed one.
fn gone(error: &Error) -> bool {
    matches!(error.code.as_deref(), Some("NoSuchUpload" | "NoSuchKey"))
}
