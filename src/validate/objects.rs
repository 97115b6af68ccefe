//! The checks that write. Everything they write is below one folder of their own, and is removed again.

mod condition;
mod sealed;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::{Found, Known, NO_CREDENTIALS, Outcome, Proof};
use crate::age::Identity;
use crate::checksum::{Algorithm, Checksum, Crc64nvme, crc32c, sha256};
use crate::config::{EncryptionMode, Location};
use crate::error::{Class, Classify as _, Report, ServiceError};
use crate::format::key::ObjectKey;
use crate::location as opened;
use crate::site::Site;
use crate::store::{Deleted, Lock, Overwrite, PartNumber, Payload, Store, UploadHandle, UploadedPart};

/// A part is sent as pieces of this size, all from the same memory.
const PIECE: usize = 1 << 20;

/// No check locks an object for longer.
const LONGEST_LOCK: Duration = Duration::from_secs(30);

const LIST: &str = "s3:ListBucket";

const ENCRYPTION: &str = "client encryption";

/// The checks that write, or read what was written, in order.
const WRITES: [&str; 7] = [
    "s3:PutObject",
    "s3:GetObject",
    ENCRYPTION,
    "If-None-Match",
    "multipart upload",
    "s3:ListMultipartUploadParts",
    "s3:AbortMultipartUpload",
];

const UNDELETABLE: &str = "written objects could not be deleted (s3:DeleteObject failed)";

/// The prefix under which validation writes. No job's name begins with a dot, so it is never taken for a backup.
pub(super) fn folder(prefix: &str, cluster: &str, leaf: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("{prefix}{slash}{cluster}/.validate/{leaf}/")
}

/// The objects and uploads to remove. An object is added before it is sent: a PUT that seems to fail may have succeeded.
pub(super) struct Made {
    pub(super) folder: String,
    /// When the last lock ends of what was written.
    locked: Mutex<Timestamp>,
    left: Mutex<Left>,
}

#[derive(Default)]
pub(super) struct Left {
    pub(super) objects: Vec<ObjectKey>,
    pub(super) uploads: Vec<UploadHandle>,
}

impl Made {
    pub(super) fn new(opened: &opened::Location) -> Self {
        // Without randomness two validations of one node would share a folder, and disturb only each other.
        let random = getrandom::u32().unwrap_or_default();
        let leaf = format!("{}-{random:08x}", opened.node);
        Self {
            folder: folder(opened.prefix(), opened.cluster.as_str(), &leaf),
            locked: Mutex::new(Timestamp::MIN),
            left: Mutex::default(),
        }
    }

    pub(super) fn left(&self) -> MutexGuard<'_, Left> {
        // No code that can panic holds it.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn locked_until(&self, until: Timestamp) {
        *self.locked.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Waits for the end of the locks, so that what was written can be deleted.
    pub(super) async fn wait_for_locks(&self, opened: &opened::Location) {
        let until = *self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = opened.remote.now().unwrap_or_else(Timestamp::now);
        if let Ok(left) = Duration::try_from(until.duration_since(now)) {
            tokio::time::sleep(left.min(LONGEST_LOCK) + Duration::from_secs(1)).await;
        }
    }

    fn absent(&self) -> ObjectKey {
        ObjectKey::new(format!("{}absent", self.folder))
    }

    pub(super) fn object(&self, name: &str) -> ObjectKey {
        let key = ObjectKey::new(format!("{}{name}", self.folder));
        self.left().objects.push(key.clone());
        key
    }

    fn upload(&self, handle: &UploadHandle) {
        self.left().uploads.push(handle.clone());
    }

    pub(super) fn upload_is_gone(&self, handle: &UploadHandle) {
        self.left().uploads.retain(|left| left != handle);
    }
}

/// The S3 checks of one location.
pub(super) struct Writing<'a> {
    location: &'a Location,
    identities: &'a [Identity],
    site: &'a dyn Site,
    pub(super) store: &'a dyn Store,
    pub(super) made: &'a Made,
}

type Failed = ServiceError;

/// Returns what later checks write with; `None` if nothing can be written.
pub(super) async fn prove<'a>(
    proof: &mut Proof,
    opened: &'a opened::Location,
    site: &'a dyn Site,
    made: &'a Made,
    known: Known,
) -> Option<Writing<'a>> {
    let (location, store) = (&*opened.config, &*opened.store);
    let writes = WRITES.into_iter().filter(|name| *name != ENCRYPTION || location.client_encryption.is_some());
    if known == Known::No {
        for name in [LIST].into_iter().chain(writes) {
            proof.add(name, Duration::ZERO, Ok(not_tried(NO_CREDENTIALS)));
        }
        return None;
    }
    let writing = Writing { location, identities: &opened.identities, site, store, made };
    timed(proof, LIST, writing.list()).await;
    // Checked first, with a missing key, so that nothing is written that could not be deleted.
    let absent = made.absent();
    let began = Instant::now();
    let deleted = store.delete(&absent).await;
    if matches!(deleted, Ok(Deleted::Hidden)) {
        // A versioned bucket adds a delete marker even for a missing key.
        made.object("absent");
    }
    if let Err(error) = deleted {
        for name in writes {
            proof.add(name, Duration::ZERO, Ok(not_tried(UNDELETABLE)));
        }
        proof.add("s3:DeleteObject", began.elapsed(), Err(error.report()));
        return None;
    }
    timed(proof, "s3:PutObject", writing.put()).await;
    let put = !proof.last_failed();
    timed(proof, "s3:GetObject", writing.get(put)).await;
    if let Some(encryption) = &location.client_encryption {
        timed(proof, ENCRYPTION, writing.encrypted(encryption, put)).await;
    }
    if put {
        timed(proof, "If-None-Match", writing.condition()).await;
    } else {
        proof.add("If-None-Match", Duration::ZERO, Ok(not_tried("s3:PutObject failed")));
    }
    timed(proof, "multipart upload", writing.complete()).await;
    writing.list_and_abort(proof).await;
    put.then_some(writing)
}

pub(super) fn not_tried(why: &str) -> Found {
    Found::NotTried(why.to_owned())
}

pub(super) fn good(message: impl Into<String>) -> Found {
    Found::Good(message.into())
}

pub(super) async fn timed(proof: &mut Proof, name: &str, check: impl Future<Output = Outcome>) {
    let began = Instant::now();
    let outcome = check.await;
    proof.add(name, began.elapsed(), outcome);
}

/// Content that no other run writes.
pub(super) fn content(made: &Made) -> Bytes {
    Bytes::from(format!("penstock validate wrote this; it may be deleted: {}", made.folder))
}

impl Writing<'_> {
    pub(super) fn payload(&self, data: Bytes) -> Payload {
        Payload::new(data, self.store.algorithm())
    }

    async fn list(&self) -> Outcome {
        let folder = &self.made.folder;
        let result = self.store.list(folder, None).await;
        result.map_err(|error| error.report()).map(|_| good("allowed"))
    }

    async fn put(&self) -> Outcome {
        let key = self.made.object("object");
        match self.put_as_configured(&key, content(self.made)).await {
            Ok(()) => Ok(good(format!("written with {}", self.encryption()))),
            Err(error) => Err(self.tell_apart(error, "kms:GenerateDataKey", "object").await),
        }
    }

    async fn put_as_configured(&self, key: &ObjectKey, data: Bytes) -> Result<(), Failed> {
        let payload = self.payload(data);
        self.store.put(key, payload, Overwrite::Allow).await
    }

    const fn encryption(&self) -> &'static str {
        match self.location.encryption.mode {
            EncryptionMode::BucketDefault => "the bucket's default encryption",
            EncryptionMode::SseS3 => "SSE-S3",
            EncryptionMode::SseKms => "SSE-KMS",
            EncryptionMode::DsseKms => "DSSE-KMS",
        }
    }

    async fn get(&self, put: bool) -> Outcome {
        if !put {
            // If the role may read (and list), the answer is NotFound; if not, a refusal.
            let absent = self.made.absent();
            return match self.store.get(&absent, None).await {
                Err(error) if error.class == Class::NotFound => Ok(good("allowed (asked for a key that is not there)")),
                Err(error) => Err(error.report()),
                Ok(_) => Ok(not_tried("no object was written to read")),
            };
        }
        let key = ObjectKey::new(format!("{}object", self.made.folder));
        match self.read(&key, None).await {
            Ok(data) if data == content(self.made) => self.get_a_range(&key).await,
            Ok(data) => {
                let written = content(self.made).len();
                let message = format!("read {} bytes of {key}; expected the {written} bytes written", data.len());
                Err(Report::new(Class::Integrity, message))
            }
            Err(error) => Err(self.tell_apart(error, "kms:Decrypt", "readable").await),
        }
    }

    /// Reads a range, as every restore does.
    async fn get_a_range(&self, key: &ObjectKey) -> Outcome {
        let inner = 1..content(self.made).len() - 1;
        match self.read(key, Some(inner.start as u64..inner.end as u64)).await {
            Ok(data) if data == content(self.made)[inner.clone()] => {
                Ok(good("the object and a range of it were read back"))
            }
            Ok(data) => {
                let message = format!("read {} bytes from {key}; expected the bytes {inner:?} written", data.len());
                Err(Report::new(Class::Integrity, message))
            }
            Err(error) => Err(error.report()),
        }
    }

    async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>, Failed> {
        let download = self.store.get(key, range).await?;
        Ok(download.body.try_collect::<Vec<Bytes>>().await?.concat())
    }

    /// Tells whether S3 or the KMS key refuses with a bare "Access Denied": repeats the request without KMS.
    async fn tell_apart(&self, error: Failed, action: &str, name: &str) -> Report {
        let report = error.report();
        let bare = error.class == Class::AccessDenied && !error.message.contains("not authorized to perform");
        if !bare || matches!(self.location.encryption.mode, EncryptionMode::SseS3) {
            return report;
        }
        let key = self.made.object(&format!("{name}-without-kms"));
        let without = match self.site.put_without_kms(&key, content(self.made)).await {
            Ok(()) if action == "kms:Decrypt" => self.read(&key, None).await.map(drop),
            result => result,
        };
        match without {
            Ok(()) => {
                let of = self.location.encryption.kms_key_id.as_deref().unwrap_or("the bucket's KMS key");
                let remedy = format!(
                    "the same request without KMS succeeds, so it is the key: grant {action} on {of}, in the key policy too if \
                     the key is in another account"
                );
                Report { class: Class::KmsDenied, ..report }.remedy(remedy)
            }
            Err(other) if other.class == Class::AccessDenied => {
                let remedy = report.remedy.clone().unwrap_or_default();
                report.remedy(format!("{remedy} (the same request without KMS is refused too)"))
            }
            Err(_) => report,
        }
    }

    async fn begin(&self, name: &str) -> Result<UploadHandle, Failed> {
        self.begin_locked(name, None).await
    }

    pub(super) async fn begin_locked(&self, name: &str, lock: Option<Lock>) -> Result<UploadHandle, Failed> {
        let key = self.made.object(name);
        let id = self.store.create_locked(&key, lock).await?;
        let handle = UploadHandle { key, id };
        self.made.upload(&handle);
        Ok(handle)
    }

    pub(super) async fn part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Failed> {
        self.store.upload_part(upload, number, payload).await
    }

    async fn complete(&self) -> Outcome {
        match self.two_parts().await {
            Ok(size) => Ok(good(format!("two parts, {size} bytes, completed"))),
            // PutObject has passed with this encryption, so what UploadPart needs in addition is kms:Decrypt.
            Err(error) => Err(self.tell_apart(error, "kms:GenerateDataKey and kms:Decrypt", "parts").await),
        }
    }

    /// Uploads a part of the configured size, which shows whether anything on the way limits it, and a small last part.
    async fn two_parts(&self) -> Result<u64, Failed> {
        let upload = self.begin("two-parts").await?;
        let numbers = (PartNumber::FIRST, PartNumber::FIRST.next().expect("there is a second part"));
        let first = filled(self.location.upload.part_size, self.store.algorithm());
        let last = self.payload(content(self.made));
        let size = first.size() + last.size();
        let both = first.checksum.zip(last.checksum);
        let checksum = both.and_then(|(first, next)| first.combine(next, last.size()));
        let parts = [self.part(&upload, numbers.0, first).await?, self.part(&upload, numbers.1, last).await?];
        let completed = self.store.complete_upload(&upload, &parts, size, checksum).await;
        // As in a backup, the stored object decides, whatever the answer was.
        let found = self.store.head(&upload.key).await;
        let info = completed.map_or_else(|error| found.clone().map_err(|_| error), |_| found.clone())?;
        self.made.upload_is_gone(&upload);
        if info.size == size {
            return Ok(size);
        }
        let message = format!("the object has {} bytes; expected {size}", info.size);
        Err(Failed::local("HeadObject", &upload.key, Class::Integrity, message))
    }

    async fn list_and_abort(&self, proof: &mut Proof) {
        let since = Instant::now();
        let started = match self.begin("aborted").await {
            Ok(upload) => {
                self.part(&upload, PartNumber::FIRST, self.payload(content(self.made))).await.map(|part| (upload, part))
            }
            Err(error) => Err(error),
        };
        let (upload, part) = match started {
            Ok(both) => both,
            Err(error) => {
                let message = format!("no upload could be created ({})", error.class);
                proof.add("s3:ListMultipartUploadParts", since.elapsed(), Ok(not_tried(&message)));
                proof.add("s3:AbortMultipartUpload", Duration::ZERO, Ok(not_tried(&message)));
                return;
            }
        };
        timed(proof, "s3:ListMultipartUploadParts", self.list_parts(&upload)).await;
        let began = Instant::now();
        let aborted = self.store.abort_upload(&upload).await;
        if aborted.is_err() {
            // Complete it: an object can be deleted, while this upload could never be removed.
            let parts = [part];
            let checksum = self.store.algorithm().compute(&content(self.made));
            let completed = self.store.complete_upload(&upload, &parts, parts[0].size, checksum).await;
            if completed.is_err() {
                proof.add("s3:AbortMultipartUpload", began.elapsed(), report_abort(aborted));
                return;
            }
        }
        self.made.upload_is_gone(&upload);
        proof.add("s3:AbortMultipartUpload", began.elapsed(), report_abort(aborted));
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Outcome {
        match self.store.list_parts(upload).await {
            Ok(Some(parts)) if parts.len() == 1 => Ok(good("the part that was sent is listed")),
            Ok(Some(parts)) => {
                Err(Report::new(Class::Compat, format!("{} parts are listed; expected 1", parts.len())))
            }
            Ok(None) => Err(Report::new(Class::Compat, "the store does not know the upload just begun").remedy(
                "the store cannot list an upload's parts, so interrupted uploads are not resumed; there is nothing to configure",
            )),
            Err(error) => Err(error.report()),
        }
    }
}

/// So many bytes, from one piece of memory.
fn filled(size: u64, algorithm: Algorithm) -> Payload {
    let piece = Bytes::from(vec![0x50; PIECE]);
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    let pieces = std::iter::from_fn(|| {
        let next = left.min(PIECE);
        left -= next;
        (next > 0).then(|| piece.slice(..next))
    });
    let pieces: Arc<[Bytes]> = pieces.collect();
    let checksum = match algorithm {
        Algorithm::Crc64nvme => {
            let mut crc = Crc64nvme::new();
            pieces.iter().for_each(|piece| crc.update(piece));
            Some(Checksum::Crc64nvme(crc.finish()))
        }
        Algorithm::Crc32c => Some(Checksum::Crc32c(crc32c(&*pieces))),
        Algorithm::Sha256 => Some(Checksum::Sha256(sha256(&*pieces))),
        Algorithm::None => None,
    };
    Payload { pieces, checksum }
}

fn report_abort(aborted: Result<(), Failed>) -> Outcome {
    aborted.map_err(|error| error.report()).map(|()| good("aborted"))
}
