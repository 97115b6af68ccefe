//! An object store in memory, as strict as S3: for tests of everything above the port.
//!
//! It promises what S3 promises: a wrong checksum is refused and leaves nothing behind, an object appears whole or not
//! at all, a part list is compared with the parts it holds. Payloads are kept, not copied. It never fails on its own:
//! [`MemoryStore::script`] sees each request first, and says what goes wrong with it. Its clock is the system's until a test sets it.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::{
    Deleted, Download, Error, ListedObject, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store,
    UploadHandle, UploadId, UploadedPart,
};
use crate::checksum::{Algorithm, Checksum};
use crate::error::Class;
use crate::format::key::ObjectKey;

/// S3's least size of every part but the last.
pub const MIN_PART_SIZE: u64 = 5 << 20;

/// S3's largest page of a listing.
const PAGE_SIZE: usize = 1000;

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is not done, and answered with this.
    Refuse(Error),
    /// It is done, and answered with this.
    LoseReply(Error),
    /// It is done a second time, as by a proxy that repeats it; the answer is the first one's.
    Repeat,
    /// It is done, and the answer is not what is stored: a body of zeros, a checksum of 0.
    Spoil,
    /// It is not done, and never answered.
    Hang,
    /// It is done, and never answered.
    HangAfter,
}

/// Sees S3's name of the operation, its key (of a listing the prefix), and how many of this operation came before.
type Script = Box<dyn FnMut(&'static str, &str, usize) -> Option<Fault> + Send>;

pub struct MemoryStore {
    algorithm: Algorithm,
    min_part_size: u64,
    page_size: usize,
    state: Arc<Mutex<State>>,
    client: Mutex<Client>,
}

/// Whoever makes the requests.
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
    objects: BTreeMap<ObjectKey, Object>,
    uploads: BTreeMap<String, Upload>,
    uploads_ever: u64,
    parts_ever: u64,
    /// What a test made the time; `None` is the system's clock.
    now: Option<jiff::Timestamp>,
    versioned: bool,
}

impl State {
    fn now(&self) -> jiff::Timestamp {
        self.now.unwrap_or_else(jiff::Timestamp::now)
    }
}

#[derive(Debug)]
struct Object {
    /// One for each part: joining them would double what a test holds.
    pieces: Vec<Bytes>,
    size: u64,
    checksum: Option<Checksum>,
    modified: jiff::Timestamp,
}

#[derive(Debug)]
struct Upload {
    key: ObjectKey,
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

    /// Other limits than S3's, so that a test need not move megabytes to have several parts or pages.
    #[must_use]
    pub fn with_limits(min_part_size: u64, page_size: usize) -> Self {
        let (page_size, state, client) = (page_size.max(1), Arc::default(), Mutex::default());
        Self { algorithm: Algorithm::default(), min_part_size, page_size, state, client }
    }

    /// With other checksums than the default ones.
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

    /// The keys of every object, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.state().objects.keys().cloned().collect()
    }

    /// Makes `now` the time at which objects are written from here on.
    pub fn set_now(&self, now: jiff::Timestamp) {
        self.state().now = Some(now);
    }

    /// From here on a DELETE says that the object is hidden, as in a bucket that keeps versions.
    pub fn keep_versions(&self) {
        self.state().versioned = true;
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

    async fn request<T>(
        &self,
        operation: &'static str,
        key: &str,
        mut work: impl FnMut(&mut State) -> Result<T, Error>,
        spoil: impl FnOnce(T) -> T,
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
            Some(Fault::Spoil) => work().map(spoil),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangAfter) => {
                drop(work());
                std::future::pending().await
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is made whole after its checks, so a panic elsewhere leaves the state good.
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

    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        let put = |state: &mut State| {
            verify("PutObject", key, &payload)?;
            if overwrite == Overwrite::Refuse && state.objects.contains_key(key) {
                let message = "At least one of the pre-conditions you specified did not hold";
                return Err(error("PutObject", key, Class::Conflict, 412, "PreconditionFailed", message));
            }
            let object = Object {
                pieces: vec![payload.pieces.concat().into()],
                size: payload.size(),
                checksum: payload.checksum,
                modified: state.now(),
            };
            state.objects.insert(key.clone(), object);
            Ok(())
        };
        self.request("PutObject", key.as_str(), put, |()| ()).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let get = |state: &mut State| {
            let missing =
                || error("GetObject", key, Class::NotFound, 404, "NoSuchKey", "The specified key does not exist.");
            let object = state.objects.get(key).ok_or_else(missing)?;
            let range = range.clone().unwrap_or(0..object.size);
            if range.start > range.end || range.end > object.size {
                let message = "The requested range is not satisfiable";
                return Err(error("GetObject", key, Class::Integrity, 416, "InvalidRange", message));
            }
            Ok((range.end - range.start, object.slice(&range)))
        };
        let zeros = |(length, pieces): (u64, Vec<Bytes>)| {
            (length, pieces.iter().map(|piece| vec![0; piece.len()].into()).collect())
        };
        let (length, pieces) = self.request("GetObject", key.as_str(), get, zeros).await?;
        Ok(Download { length, body: Box::pin(stream::iter(pieces.into_iter().map(Ok))) })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        let head = |state: &mut State| {
            let missing =
                || Error { status: Some(404), ..Error::local("HeadObject", key, Class::NotFound, "not found") };
            let object = state.objects.get(key).ok_or_else(missing)?;
            Ok(ObjectInfo { size: object.size, checksum: object.checksum })
        };
        let other = |info| ObjectInfo { checksum: Some(Checksum::Crc64nvme(0)), ..info };
        self.request("HeadObject", key.as_str(), head, other).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        let delete = |state: &mut State| {
            state.objects.remove(key);
            Ok(if state.versioned { Deleted::Hidden } else { Deleted::Gone })
        };
        self.request("DeleteObject", key.as_str(), delete, |deleted| deleted).await
    }

    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        let list = |state: &mut State| {
            let start = match from {
                Some(last) => Bound::Excluded(ObjectKey::new(last)),
                None => Bound::Included(ObjectKey::new(prefix)),
            };
            let mut rest = state
                .objects
                .range((start, Bound::Unbounded))
                .skip_while(|(key, _)| key.as_str() < prefix)
                .take_while(|(key, _)| key.as_str().starts_with(prefix))
                .map(|(key, object)| ListedObject { key: key.clone(), size: object.size, modified: object.modified });
            let objects: Vec<_> = rest.by_ref().take(self.page_size).collect();
            let next = rest.next().and_then(|_| objects.last().map(|last| last.key.as_str().to_owned()));
            Ok(Page { objects, next })
        };
        self.request("ListObjectsV2", prefix, list, |page| page).await
    }

    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
        let create = |state: &mut State| {
            state.uploads_ever += 1;
            let id = format!("upload-{:06}", state.uploads_ever);
            let upload = Upload { key: key.clone(), initiated: jiff::Timestamp::now(), parts: BTreeMap::new() };
            state.uploads.insert(id.clone(), upload);
            Ok(UploadId(id))
        };
        self.request("CreateMultipartUpload", key.as_str(), create, |id| id).await
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
        self.request("UploadPart", upload.key.as_str(), part, |part| part).await
    }

    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        let complete = |state: &mut State| {
            let now = state.now();
            let held = find(state, upload).ok_or_else(|| no_such_upload("CompleteMultipartUpload", &upload.key))?;
            let object = assemble(held, parts, size, checksum, self.min_part_size, now)?;
            state.uploads.remove(&upload.id.0);
            state.objects.insert(upload.key.clone(), object);
            Ok(())
        };
        self.request("CompleteMultipartUpload", upload.key.as_str(), complete, |()| ()).await
    }

    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        let abort = |state: &mut State| {
            if find(state, upload).is_some() {
                state.uploads.remove(&upload.id.0);
            }
            Ok(())
        };
        self.request("AbortMultipartUpload", upload.key.as_str(), abort, |()| ()).await
    }

    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        let list = |state: &mut State| {
            Ok(find(state, upload).map(|held| held.parts.values().map(|(part, _)| part.clone()).collect()))
        };
        self.request("ListParts", upload.key.as_str(), list, |parts| parts).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        let listed = |(id, held): (&String, &Upload)| ListedUpload {
            upload: UploadHandle { key: held.key.clone(), id: UploadId(id.clone()) },
            initiated: Some(held.initiated),
        };
        let list = |state: &mut State| {
            Ok(state.uploads.iter().filter(|(_, held)| held.key.as_str().starts_with(prefix)).map(listed).collect())
        };
        self.request("ListMultipartUploads", prefix, list, |uploads| uploads).await
    }
}

/// An upload is found by its ID and its key together, as in S3.
fn find<'a>(state: &'a mut State, upload: &UploadHandle) -> Option<&'a mut Upload> {
    state.uploads.get_mut(&upload.id.0).filter(|held| held.key == upload.key)
}

fn assemble(
    held: &Upload,
    parts: &[UploadedPart],
    size: u64,
    checksum: Option<Checksum>,
    min_part_size: u64,
    modified: jiff::Timestamp,
) -> Result<Object, Error> {
    let fail = |class, code, message: &str| error("CompleteMultipartUpload", &held.key, class, 400, code, message);
    if parts.is_empty() {
        return Err(fail(Class::Internal, "MalformedXML", "a part list needs at least one part"));
    }
    if !parts.is_sorted_by(|a, b| a.number < b.number) {
        return Err(fail(Class::Internal, "InvalidPartOrder", "The list of parts was not in ascending order."));
    }
    let mut pieces = Vec::with_capacity(parts.len());
    let mut total = 0;
    let mut combined = None;
    for (index, part) in parts.iter().enumerate() {
        let found = held
            .parts
            .get(&part.number)
            .filter(|(have, _)| have.etag == part.etag && (part.checksum.is_none() || have.checksum == part.checksum));
        let Some((have, data)) = found else {
            let message = format!("Part {} could not be found, or its entity tag or checksum differs.", part.number);
            return Err(fail(Class::Integrity, "InvalidPart", &message));
        };
        if index + 1 < parts.len() && have.size < min_part_size {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(fail(Class::Internal, "EntityTooSmall", message));
        }
        combined = match (index, combined, have.checksum) {
            (0, _, own) => own,
            (_, Some(so_far), Some(own)) => Checksum::combine(so_far, own, have.size),
            (_, _, _) => None,
        };
        total += have.size;
        pieces.push(data.clone());
    }
    if total != size {
        let message = format!("x-amz-mp-object-size is {size}, the parts have {total} bytes");
        return Err(fail(Class::Integrity, "InvalidRequest", &message));
    }
    // SHA-256 has no full-object value for an object of parts.
    let full = combined.filter(|checksum| !matches!(checksum, Checksum::Sha256(_)));
    if checksum.is_some() && checksum != full {
        return Err(fail(Class::Integrity, "BadDigest", "The full-object checksum did not match."));
    }
    Ok(Object { pieces, size: total, checksum: full, modified })
}
