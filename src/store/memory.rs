//! An object store in memory, as strict as S3, for tests of everything above the port.
//!
//! It has S3's guarantees: a wrong checksum is refused and leaves nothing behind, an object appears whole or not
//! at all, a part list is compared with the stored parts. Payloads are kept, not copied. It never fails by itself:
//! [`MemoryStore::script`] sees each request first and may return a [`Fault`]. Its clock is the system's until a test sets it. It keeps
//! versions and locks ([`versions`]) once a test says so.

mod assemble;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use self::assemble::assemble;
use self::versions::Bucket;
pub use self::versions::Bypass;
use super::{
    Deleted, Download, Error, Folders, ListedObject, ListedUpload, Lock, ObjectInfo, Overwrite, Page, PartNumber,
    Payload, Store, UploadHandle, UploadId, UploadedPart, VersionId,
};
use crate::checksum::{Algorithm, Checksum};
use crate::error::Class;
use crate::format::key::ObjectKey;

/// S3's minimum size of every part but the last.
pub const MIN_PART_SIZE: u64 = 5 << 20;

/// S3's largest page of a listing.
const PAGE_SIZE: usize = 1000;

/// A fault that a script injects into a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Not done; answered with this error.
    Refuse(Error),
    /// Done; answered with this error.
    LoseReply(Error),
    /// Done twice, as by a proxy that repeats it; answered with the first answer.
    Repeat,
    /// Done; the answer is wrong: a body of zeros, a checksum of 0.
    Spoil,
    /// Done; the body of the answer breaks off after so many bytes with this.
    CutBody(usize, Error),
    /// Not done; never answered.
    Hang,
    /// Done; never answered.
    HangAfter,
}

/// Gets S3's name of the operation, its key (for a listing the prefix), and how many of this operation came before.
type Script = Box<dyn FnMut(&'static str, &str, usize) -> Option<Fault> + Send>;

pub struct MemoryStore {
    algorithm: Algorithm,
    min_part_size: u64,
    page_size: usize,
    state: Arc<Mutex<State>>,
    client: Mutex<Client>,
}

/// The state of one client: its script and its counts.
#[derive(Default)]
struct Client {
    script: Option<Script>,
    requests: BTreeMap<&'static str, usize>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    bucket: Bucket,
    uploads: BTreeMap<String, Upload>,
    uploads_ever: u64,
    parts_ever: u64,
    /// The time that a test has set; `None` for the system's clock.
    now: Option<jiff::Timestamp>,
}

impl State {
    fn now(&self) -> jiff::Timestamp {
        self.now.unwrap_or_else(jiff::Timestamp::now)
    }
}

#[derive(Debug)]
struct Object {
    /// One for each part: joining them would double a test's memory.
    pieces: Vec<Bytes>,
    size: u64,
    checksum: Option<Checksum>,
    modified: jiff::Timestamp,
}

impl Object {
    fn listed(&self, key: &ObjectKey) -> ListedObject {
        let etag = Some(format!("{:?} {}", self.checksum, self.modified));
        ListedObject { key: key.clone(), size: self.size, modified: self.modified, etag }
    }
}

#[derive(Debug)]
struct Upload {
    key: ObjectKey,
    lock: Option<Lock>,
    initiated: jiff::Timestamp,
    parts: BTreeMap<PartNumber, (UploadedPart, Bytes)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(MIN_PART_SIZE, PAGE_SIZE)
    }

    /// Sets other limits than S3's, so that a test has several parts or pages without moving megabytes.
    #[must_use]
    pub fn with_limits(min_part_size: u64, page_size: usize) -> Self {
        let (page_size, state, client) = (page_size.max(1), Arc::default(), Mutex::default());
        Self { algorithm: Algorithm::default(), min_part_size, page_size, state, client }
    }

    /// Sets another checksum algorithm than the default.
    #[must_use]
    pub fn with_algorithm(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }

    /// The same store for another client, which has a script of its own.
    #[must_use]
    pub fn client(&self) -> Self {
        Self { state: Arc::clone(&self.state), client: Mutex::default(), ..*self }
    }

    /// Uploads that are neither completed nor aborted, in the order they were created.
    #[must_use]
    pub fn uploads_in_progress(&self) -> Vec<UploadHandle> {
        let handle =
            |(id, upload): (&String, &Upload)| UploadHandle { key: upload.key.clone(), id: UploadId(id.clone()) };
        self.state().uploads.iter().map(handle).collect()
    }

    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.state().bucket.current().map(|(key, _)| key.clone()).collect()
    }

    /// Sets the time at which objects are written from here on.
    pub fn set_now(&self, now: jiff::Timestamp) {
        self.state().now = Some(now);
    }

    /// Replaces this client's script, which sees each request before the store does, and may look into the store.
    pub fn script(&self, script: impl FnMut(&'static str, &str, usize) -> Option<Fault> + Send + 'static) {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).script = Some(Box::new(script));
    }

    /// This client's requests of this operation so far, refused ones too.
    #[must_use]
    pub fn requests(&self, operation: &str) -> usize {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.requests.get(operation).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn all_requests(&self) -> usize {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).requests.values().sum()
    }

    async fn request<T>(
        &self,
        operation: &'static str,
        key: &str,
        mut work: impl FnMut(&mut State) -> Result<T, Error>,
        spoil: impl FnOnce(T, Fault) -> T,
    ) -> Result<T, Error> {
        let fault = {
            let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            let Client { script, requests } = &mut *client;
            let count = requests.entry(operation).or_default();
            *count += 1;
            script.as_mut().and_then(|script| script(operation, key, *count - 1))
        };
        let mut work = || work(&mut self.state());
        match fault {
            None => work(),
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::LoseReply(error)) => work().and(Err(error)),
            Some(Fault::Repeat) => work().and_then(|first| work().map(|_| first)),
            Some(fault @ (Fault::Spoil | Fault::CutBody(..))) => work().map(|answer| spoil(answer, fault)),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangAfter) => {
                drop(work());
                std::future::pending().await
            }
        }
    }

    /// Answers with a body, which a fault may spoil or cut.
    async fn download(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        read: impl FnMut(&mut State) -> Result<(u64, Vec<Bytes>, Option<Result<Bytes, Error>>), Error>,
    ) -> Result<Download, Error> {
        let spoil = |(length, pieces, _): (u64, Vec<Bytes>, _), fault| {
            let Fault::CutBody(at, error) = fault else {
                return (length, pieces.iter().map(|piece| vec![0; piece.len()].into()).collect(), None);
            };
            let whole = Bytes::from(pieces.concat());
            (length, vec![whole.slice(..at.min(whole.len()))], Some(Err(error)))
        };
        let (length, pieces, cut) = self.request(operation, key.as_str(), read, spoil).await?;
        Ok(Download { length, version: None, body: Box::pin(stream::iter(pieces.into_iter().map(Ok).chain(cut))) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is made in one step after its checks, so a panic elsewhere leaves the state valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    fn slice(&self, range: &Range<u64>) -> Vec<Bytes> {
        let mut start = 0;
        let mut out = Vec::new();
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                let offset = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
                out.push(piece.slice(offset(from)..offset(to)));
            }
            start = end;
        }
        out
    }
}

/// A HEAD that a fault spoils.
fn other(info: ObjectInfo, _: Fault) -> ObjectInfo {
    ObjectInfo { checksum: Some(Checksum::Crc64nvme(0)), ..info }
}

fn error(operation: &'static str, key: &ObjectKey, class: Class, status: u16, code: &str, message: &str) -> Error {
    Error { status: Some(status), code: Some(code.to_owned()), ..Error::local(operation, key, class, message) }
}

fn no_such_upload(operation: &'static str, key: &ObjectKey) -> Error {
    error(operation, key, Class::NotFound, 404, "NoSuchUpload", "The specified upload does not exist.")
}

fn verify(operation: &'static str, key: &ObjectKey, payload: &Payload) -> Result<(), Error> {
    let Some(claimed) = &payload.checksum else { return Ok(()) };
    if claimed.algorithm().compute(&payload.pieces.concat()).as_ref() == Some(claimed) {
        return Ok(());
    }
    let message = "The checksum you specified did not match the calculated checksum.";
    Err(error(operation, key, Class::Integrity, 400, "BadDigest", message))
}

#[async_trait]
impl Store for MemoryStore {
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
        let put = |state: &mut State| {
            verify("PutObject", key, &payload)?;
            if overwrite == Overwrite::Refuse && state.bucket.get(key).is_some() {
                let message = "At least one of the pre-conditions you specified did not hold";
                return Err(error("PutObject", key, Class::Conflict, 412, "PreconditionFailed", message));
            }
            let now = state.now();
            state.bucket.accepts("PutObject", key, lock, payload.checksum.is_some(), now)?;
            let object = Object {
                pieces: vec![payload.pieces.concat().into()],
                size: payload.size(),
                checksum: payload.checksum,
                modified: now,
            };
            Ok(state.bucket.put(key, object, lock, now))
        };
        self.request("PutObject", key.as_str(), put, |version, _| version).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let mut version = None;
        let get = |state: &mut State| {
            version = state.bucket.info(key, None).ok().and_then(|info| info.version);
            state.bucket.read("GetObject", key, None, range.clone())
        };
        let download = self.download("GetObject", key, get).await?;
        Ok(Download { version, ..download })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        let head = |state: &mut State| state.bucket.info(key, None);
        self.request("HeadObject", key.as_str(), head, other).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        let delete = |state: &mut State| {
            let now = state.now();
            Ok(state.bucket.delete(key, now))
        };
        self.request("DeleteObject", key.as_str(), delete, |deleted, _| deleted).await
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        let list = |state: &mut State| {
            let start = match from {
                Some(last) => Bound::Excluded(ObjectKey::new(last)),
                None => Bound::Included(ObjectKey::new(prefix)),
            };
            let mut rest = state
                .bucket
                .current_from(start)
                .skip_while(|(key, _)| key.as_str() < prefix)
                .take_while(|(key, _)| key.as_str().starts_with(prefix))
                .map(|(key, object)| object.listed(key));
            let objects: Vec<_> = rest.by_ref().take(self.page_size).collect();
            let next = rest.next().and_then(|_| objects.last().map(|last| last.key.as_str().to_owned()));
            Ok(Page { objects, next })
        };
        self.request("ListObjectsV2", prefix, list, |page, _| page).await
    }

    async fn folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, Error> {
        let list = |state: &mut State| {
            let keys = state.bucket.current_from(Bound::Included(ObjectKey::new(prefix)));
            let keys = keys.skip_while(|(key, _)| key.as_str() < prefix).map(|(key, _)| key.as_str());
            let names = keys.map_while(|key| key.strip_prefix(prefix)).filter_map(|rest| rest.split_once('/'));
            let names: BTreeSet<String> = names.map(|(name, _)| name.to_owned()).collect();
            let mut rest = names.into_iter().filter(|name| from.is_none_or(|from| name.as_str() > from));
            let names: Vec<String> = rest.by_ref().take(self.page_size).collect();
            let next = rest.next().and_then(|_| names.last().cloned());
            Ok(Folders { names, next })
        };
        self.request("ListObjectsV2", prefix, list, |page, _| page).await
    }

    async fn create_locked(&self, key: &ObjectKey, lock: Option<Lock>) -> Result<UploadId, Error> {
        let create = |state: &mut State| {
            let now = state.now();
            // The checksums of an upload come with its parts.
            state.bucket.accepts("CreateMultipartUpload", key, lock, true, now)?;
            state.uploads_ever += 1;
            let id = format!("upload-{:06}", state.uploads_ever);
            let initiated = jiff::Timestamp::now();
            let upload = Upload { key: key.clone(), lock, initiated, parts: BTreeMap::new() };
            state.uploads.insert(id.clone(), upload);
            Ok(UploadId(id))
        };
        self.request("CreateMultipartUpload", key.as_str(), create, |id, _| id).await
    }

    async fn upload_part(
        &self,
        upload: &UploadHandle,
        number: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, Error> {
        let part = |state: &mut State| {
            verify("UploadPart", &upload.key, &payload)?;
            state.parts_ever += 1;
            let etag = format!("\"{:016x}\"", state.parts_ever);
            let held = find(state, upload).ok_or_else(|| no_such_upload("UploadPart", &upload.key))?;
            let part = UploadedPart { number, size: payload.size(), etag, checksum: payload.checksum };
            held.parts.insert(number, (part.clone(), Bytes::from(payload.pieces.concat())));
            Ok(part)
        };
        self.request("UploadPart", upload.key.as_str(), part, |part, _| part).await
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<Option<VersionId>, Error> {
        let complete = |state: &mut State| {
            let now = state.now();
            let held = find(state, upload).ok_or_else(|| no_such_upload("CompleteMultipartUpload", &upload.key))?;
            let object = assemble(held, parts, size, checksum, self.min_part_size, now)?;
            let lock = held.lock;
            state.uploads.remove(&upload.id.0);
            Ok(state.bucket.put(&upload.key, object, lock, now))
        };
        self.request("CompleteMultipartUpload", upload.key.as_str(), complete, |version, _| version).await
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        let abort = |state: &mut State| {
            if find(state, upload).is_some() {
                state.uploads.remove(&upload.id.0);
            }
            Ok(())
        };
        self.request("AbortMultipartUpload", upload.key.as_str(), abort, |(), _| ()).await
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        let list = |state: &mut State| {
            Ok(find(state, upload).map(|held| held.parts.values().map(|(part, _)| part.clone()).collect()))
        };
        self.request("ListParts", upload.key.as_str(), list, |parts, _| parts).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        let listed = |(id, held): (&String, &Upload)| ListedUpload {
            upload: UploadHandle { key: held.key.clone(), id: UploadId(id.clone()) },
            initiated: Some(held.initiated),
        };
        let list = |state: &mut State| {
            Ok(state.uploads.iter().filter(|(_, held)| held.key.as_str().starts_with(prefix)).map(listed).collect())
        };
        self.request("ListMultipartUploads", prefix, list, |uploads, _| uploads).await
    }
}

/// Finds an upload by its ID and its key together, as S3 does.
fn find<'a>(state: &'a mut State, upload: &UploadHandle) -> Option<&'a mut Upload> {
    state.uploads.get_mut(&upload.id.0).filter(|held| held.key == upload.key)
}
