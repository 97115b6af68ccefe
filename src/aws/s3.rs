//! The object store that is S3, or speaks its language.
//!
//! Bodies are the engine's `Bytes`, handed through without a copy and sent again from the same memory when the SDK
//! tries again. Their checksum goes as a plain header: the SDK's own way, a trailer in aws-chunked encoding, is refused
//! by several stores. Over TLS a body is not signed (TLS protects it and the checksum proves it), over plain HTTP it is.
//!
//! A method makes one request, of up to three attempts, and returns what the last one said; a part and the creation of an upload have one
//! attempt each: the engine must hear of every failure of these. A body that stalls is cut ([`body`]).

mod body;
mod condition;
mod incoming;
mod listing;
mod probe;
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
use aws_sdk_s3::types::{ChecksumMode, ChecksumType, CompletedMultipartUpload};
use futures_util::stream;

use self::body::Progress;
use self::incoming::{Incoming, Said};
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
    Deleted, Download, Error, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store, UploadHandle,
    UploadId, UploadedPart,
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

/// One request, for the error if it fails.
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

    /// The answer, unless the body stalls before it comes.
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
            why = progress.stalled() => Err(self.odd(Class::Transient, why)),
        }
    }

    fn odd(&self, class: Class, message: impl Into<String>) -> Error {
        self.call.error(class, message)
    }

    /// What the server says it computed over what it received, held against what was sent.
    fn agree(&self, sent: Option<Checksum>, got: Option<Checksum>) -> Result<(), Error> {
        match (sent, got) {
            (Some(sent), Some(got)) if sent != got => {
                let message = format!("sent {}, the server has {}", sent.to_header(), got.to_header());
                Err(self.odd(Class::Integrity, message))
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

    /// The same, sending no faster than `bandwidth`.
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

    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        match overwrite {
            Overwrite::Allow => self.put_object(key, payload, overwrite).await,
            Overwrite::Refuse => self.put_new(key, payload).await,
        }
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let request = self.request("GetObject", key.as_str());
        // HTTP cannot ask for no bytes.
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Download { length: 0, body: Box::pin(stream::empty()) });
        }
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let get = self.client.get_object().bucket(&self.bucket).key(key.as_str()).set_range(header);
        let output = get.send().await.map_err(|error| request.failed(&error))?;
        let said = Said { length: output.content_length(), range: output.content_range() };
        let length = match incoming::length(range.as_ref(), said) {
            Ok(Some(length)) => length,
            // A proxy that passes bodies on in chunks. HEAD is answered without one.
            Ok(None) => self.head(key).await?.size,
            Err((class, message)) => return Err(request.odd(class, message)),
        };
        let incoming = Incoming {
            resource: request.call.resource.clone(),
            trust: self.trust.clone(),
            metrics: self.metrics.clone(),
            body: output.body,
            left: length,
        };
        Ok(Download { length, body: Box::pin(stream::unfold(Some(incoming), Incoming::step)) })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        let request = self.request("HeadObject", key.as_str());
        let mode = match self.algorithm {
            Algorithm::None => None,
            Algorithm::Crc64nvme | Algorithm::Crc32c | Algorithm::Sha256 => Some(ChecksumMode::Enabled),
        };
        let head = self.client.head_object().bucket(&self.bucket).key(key.as_str()).set_checksum_mode(mode);
        let output = head.send().await.map_err(|error| request.failed(&error))?;
        let size = match output.content_length().and_then(|size| u64::try_from(size).ok()) {
            Some(size) => size,
            None => self.size_by_range(key).await?,
        };
        let headers = (output.checksum_crc64_nvme(), output.checksum_crc32_c(), output.checksum_sha256());
        let checksum = wire::checksum(self.algorithm, headers.0, headers.1, headers.2)
            .filter(|_| output.checksum_type() != Some(&ChecksumType::Composite));
        Ok(ObjectInfo { size, checksum })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        let request = self.request("DeleteObject", key.as_str());
        let delete = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
        match delete.send().await.map_err(|error| request.failed(&error)) {
            Ok(output) if output.delete_marker() == Some(true) => Ok(Deleted::Hidden),
            Ok(_) => Ok(Deleted::Gone),
            // AWS says 204 for what is not there; some stores say 404.
            Err(error) if error.class == Class::NotFound => Ok(Deleted::Gone),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.page_of_objects(prefix, from).await
    }

    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
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
            .customize()
            .config_override(once(aws_sdk_s3::config::Config::builder()))
            .send()
            .await
            .map_err(|error| request.failed(&error))?;
        let id = output.upload_id.filter(|id| !id.is_empty());
        id.map(UploadId).ok_or_else(|| request.odd(Class::Compat, "the reply holds no upload ID"))
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
        // A reply without one is refused before it comes here.
        let etag = output.e_tag.unwrap_or_default();
        Ok(UploadedPart { number, size, etag, checksum: payload.checksum })
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        let request = self.request("CompleteMultipartUpload", upload.key.as_str());
        // S3 has SHA-256 of a multipart object only as a hash of the parts' hashes.
        let checksum = checksum.filter(|checksum| !matches!(checksum, Checksum::Sha256(_)));
        let headers = Headers::from(checksum);
        let list =
            CompletedMultipartUpload::builder().set_parts(Some(parts.iter().map(wire::completed).collect())).build();
        // A store without checksums is an old one: it is sent no header that came with them.
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
            // Some stores have none here; HeadObject can tell these from what is no store (`upload::complete`).
            return Err(request.odd(Class::Compat, "the reply holds no ETag"));
        }
        Ok(())
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
    ) -> Result<(), Error> {
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
            .customize()
            .interceptor(signing)
            .config_override(untimed())
            .send();
        request.watched(&progress, put).await?;
        Ok(())
    }
}

/// Ceph says `NoSuchKey` of an upload that was completed.
fn gone(error: &Error) -> bool {
    matches!(error.code.as_deref(), Some("NoSuchUpload" | "NoSuchKey"))
}
