//! Translates the port's types to S3's: checksums, encryption, tags, signing, timeouts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, ConfigBag, Intercept, RuntimeComponents, StalledStreamProtectionConfig};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedPart, ObjectLockMode, ServerSideEncryption as Sse, StorageClass,
};

use bytes::Bytes;

use crate::checksum::{self, Algorithm, Checksum};
use crate::config::{EncryptionMode, Location, LockMode, SignPayload};
use crate::store::{Lock, Payload, UploadedPart};

/// S3 assembles tens of thousands of megabytes before it answers a Complete.
const COMPLETE_TIMEOUT: Duration = Duration::from_mins(10);

/// For a Complete: a timeout of its own and no stall protection, since a working store sends a byte of white space now and
/// then, or nothing. The connect timeout stays the client's.
pub(super) fn patient() -> Builder {
    aws_sdk_s3::config::Config::builder()
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(COMPLETE_TIMEOUT).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
}

/// For an upload: no timeout of an attempt; `body` watches its progress instead.
pub(super) fn untimed() -> Builder {
    let timeouts = TimeoutConfig::builder().disable_operation_attempt_timeout().build();
    aws_sdk_s3::config::Config::builder().timeout_config(timeouts)
}

/// Limits the request to one attempt: the engine makes the next.
pub(super) fn once(builder: Builder) -> Builder {
    builder.retry_config(RetryConfig::disabled())
}

/// The checksum for the SDK's setters, one per algorithm.
#[derive(Debug, Default, Clone)]
pub(super) struct Headers {
    pub(super) crc64nvme: Option<String>,
    pub(super) crc32c: Option<String>,
    pub(super) sha256: Option<String>,
}

impl From<Option<Checksum>> for Headers {
    fn from(checksum: Option<Checksum>) -> Self {
        let value = checksum.map(Checksum::to_header);
        match checksum {
            Some(Checksum::Crc64nvme(_)) => Self { crc64nvme: value, ..Self::default() },
            Some(Checksum::Crc32c(_)) => Self { crc32c: value, ..Self::default() },
            Some(Checksum::Sha256(_)) => Self { sha256: value, ..Self::default() },
            None => Self::default(),
        }
    }
}

/// Reads a checksum out of an SDK type's three getters. A composite one (`…-N`) is not a checksum of bytes: `None`.
pub(super) fn checksum(
    algorithm: Algorithm,
    crc64nvme: Option<&str>,
    crc32c: Option<&str>,
    sha256: Option<&str>,
) -> Option<Checksum> {
    let header = match algorithm {
        Algorithm::Crc64nvme => crc64nvme,
        Algorithm::Crc32c => crc32c,
        Algorithm::Sha256 => sha256,
        Algorithm::None => None,
    };
    header.and_then(|header| Checksum::from_header(algorithm, header))
}

/// The checksum headers of CreateMultipartUpload.
pub(super) fn declared(algorithm: Algorithm) -> (Option<ChecksumAlgorithm>, Option<ChecksumType>) {
    match algorithm {
        Algorithm::Crc64nvme => (Some(ChecksumAlgorithm::Crc64Nvme), Some(ChecksumType::FullObject)),
        Algorithm::Crc32c => (Some(ChecksumAlgorithm::Crc32C), Some(ChecksumType::FullObject)),
        Algorithm::Sha256 => (Some(ChecksumAlgorithm::Sha256), Some(ChecksumType::Composite)),
        Algorithm::None => (None, None),
    }
}

pub(super) fn lock_mode(lock: Lock) -> ObjectLockMode {
    match lock.mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

/// Rounded up to a whole second, which is all that some stores keep.
pub(super) fn retain_until(lock: Lock) -> DateTime {
    let more = i64::from(lock.until.subsec_nanosecond() > 0);
    DateTime::from_secs(lock.until.as_second() + more)
}

pub(super) fn completed(part: &UploadedPart) -> CompletedPart {
    let headers = Headers::from(part.checksum);
    CompletedPart::builder()
        .part_number(i32::from(part.number.get()))
        .e_tag(&part.etag)
        .set_checksum_crc64_nvme(headers.crc64nvme)
        .set_checksum_crc32_c(headers.crc32c)
        .set_checksum_sha256(headers.sha256)
        .build()
}

/// The location's settings for every new object.
#[derive(Debug, Clone)]
pub(super) struct NewObject {
    pub(super) sse: Option<Sse>,
    pub(super) kms_key: Option<String>,
    pub(super) bucket_key: Option<bool>,
    pub(super) storage_class: Option<StorageClass>,
    pub(super) tagging: Option<String>,
}

impl NewObject {
    pub(super) fn of(location: &Location) -> Self {
        let encryption = &location.encryption;
        let (sse, kms_key, bucket_key) = match encryption.mode {
            EncryptionMode::BucketDefault => (None, None, None),
            EncryptionMode::SseS3 => (Some(Sse::Aes256), None, None),
            EncryptionMode::SseKms => (Some(Sse::AwsKms), encryption.kms_key_id.clone(), Some(encryption.bucket_key)),
            // S3 refuses the bucket-key header with double encryption.
            EncryptionMode::DsseKms => (Some(Sse::AwsKmsDsse), encryption.kms_key_id.clone(), None),
        };
        let pairs: Vec<_> =
            location.tags.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
        Self {
            sse,
            kms_key: kms_key.filter(|key| !key.is_empty()),
            bucket_key,
            storage_class: location.storage_class.as_deref().filter(|class| !class.is_empty()).map(StorageClass::from),
            tagging: (!pairs.is_empty()).then(|| pairs.join("&")),
        }
    }
}

/// Percent-encodes everything outside RFC 3986's unreserved characters.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            // Writing to a String does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

/// Whether a body is signed, and with which hash (docs/decisions/0004).
#[derive(Debug, Clone)]
pub(super) struct PayloadSigning {
    signed: bool,
}

impl PayloadSigning {
    pub(super) fn of(location: &Location) -> Self {
        let plain = location.s3_url.as_deref().is_some_and(|url| url.starts_with("http://"));
        let signed = match location.upload.sign_payload {
            SignPayload::Always => true,
            SignPayload::Never => false,
            SignPayload::Auto => plain,
        };
        Self { signed }
    }

    pub(super) async fn interceptor(&self, payload: &Payload) -> SignBody {
        SignBody(match (self.signed, payload.checksum) {
            (false, _) => PayloadSigningOverride::UnsignedPayload,
            // The digest exists already: hashing the part again would cost as much as all the rest.
            (true, Some(Checksum::Sha256(digest))) => PayloadSigningOverride::Precomputed(hex::encode(digest)),
            (true, _) => PayloadSigningOverride::Precomputed(hex::encode(sha256(Arc::clone(&payload.pieces)).await)),
        })
    }
}

/// Computed off the runtime's threads: 16 MiB take 11 ms.
async fn sha256(data: Arc<[Bytes]>) -> [u8; 32] {
    match tokio::task::spawn_blocking(move || checksum::sha256(&*data)).await {
        Ok(digest) => digest,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[derive(Debug)]
pub(super) struct SignBody(PayloadSigningOverride);

impl Intercept for SignBody {
    fn name(&self) -> &'static str {
        "SignBody"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.0.clone());
        Ok(())
    }
}

/// A flag that is set once, to log something once.
#[derive(Debug, Clone, Default)]
pub(super) struct Once(Arc<AtomicBool>);

impl Once {
    pub(super) fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_escaped() {
        assert_eq!(escape("team a/b=c&é"), "team%20a%2Fb%3Dc%26%C3%A9");
        assert_eq!(escape("A-z_0.~"), "A-z_0.~");
    }

    #[test]
    fn composite_checksums_are_not_the_objects() {
        let header = Checksum::Sha256([7; 32]).to_header();
        assert_eq!(checksum(Algorithm::Sha256, None, None, Some(&format!("{header}-3"))), None);
        assert_eq!(checksum(Algorithm::Sha256, None, None, Some(&header)), Some(Checksum::Sha256([7; 32])));
        assert_eq!(checksum(Algorithm::Crc32c, None, None, Some(&header)), None);
    }
}
