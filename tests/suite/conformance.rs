//! One suite for every store: what the engine may rely on, held on the store in memory and on a real S3 server.
//!
//! Where a server is known to differ, the difference has a name in [`Quirks`] and only that assertion is left out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, StreamExt as _};
use penstock::aws::AwsLocation;
use penstock::checksum::{Algorithm, Checksum};
use penstock::error::Class;
use penstock::format::key::ObjectKey;
use penstock::metrics::Metrics;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Error, ListedObject, Overwrite, PartNumber, Payload, Store, UploadHandle, UploadId, UploadedPart, VersionId,
};

use crate::conformance_versions::{keeps_locks, keeps_versions};
use crate::locking_s3::LockingS3;
use crate::servers::{S3Server, Scheme, Servers};

const MIB: usize = 1 << 20;

/// What a server is known not to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// A PUT whose checksum is refused leaves its object behind.
    KeepsRefusedObject,
    /// A body that does not match its signed hash is an "internal error".
    SignedHashIsInternal,
    /// UploadPart takes a part whatever its checksum.
    IgnoresPartChecksums,
    /// ListParts has neither ETags nor checksums, and an upload that is gone has an empty list.
    BareParts,
    /// The list of parts stands in another element than S3's, and cannot be read.
    OddParts,
    /// Complete does not compare everything with the parts it holds.
    TrustsThePartList,
    /// An upload that is gone is "access denied".
    DeniesDeadUploads,
    /// A part for an upload that is gone is an internal error.
    FailsOnDeadUploads,
    /// No checksum is kept for an object of parts.
    NoMultipartChecksum,
    /// No checksum is compared or kept at all.
    IgnoresChecksums,
    /// Complete compares neither the size that was announced nor the order of the parts.
    LenientComplete,
    /// Uploads cannot be listed.
    NoUploadList,
    /// The lock of an upload is ignored.
    IgnoresLocksOfUploads,
    /// The answer to a Complete may have no ETag.
    NoETagOnComplete,
    /// An empty list of parts is not read, as by a store that does not know its elements.
    CannotReadAnEmptyList,
}

/// A store and what the suite has to know about it.
pub(crate) struct Backend {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) algorithm: Algorithm,
    /// Objects on a page of a listing.
    pub(crate) page: usize,
    /// Bodies are signed.
    signed: bool,
    quirks: &'static [Quirk],
}

impl Backend {
    pub(crate) fn lacks(&self, quirk: Quirk) -> bool {
        self.quirks.contains(&quirk)
    }

    pub(crate) fn payload(&self, data: impl Into<Bytes>) -> Payload {
        Payload::new(data, self.algorithm)
    }

    /// Whether the payload's checksum is the hash its request is signed with.
    fn signs(&self, payload: &Payload) -> bool {
        self.signed && matches!(payload.checksum, Some(Checksum::Sha256(_)))
    }

    /// What ListParts says of these.
    fn listed(&self, parts: &[UploadedPart]) -> Vec<UploadedPart> {
        let kept = |part: &UploadedPart| part.checksum.filter(|_| !self.lacks(Quirk::IgnoresChecksums));
        parts.iter().map(|part| UploadedPart { checksum: kept(part), ..part.clone() }).collect()
    }

    /// Completes an upload. Returns the object's version, if it is known.
    pub(crate) async fn complete(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Option<VersionId> {
        match self.store.complete_upload(upload, parts, size, checksum).await {
            // As in a backup, the object decides.
            Err(error) if self.lacks(Quirk::NoETagOnComplete) && error.message.contains("no ETag") => {
                self.store.head(&upload.key).await.unwrap().version
            }
            completed => completed.unwrap(),
        }
    }

    pub(crate) async fn put(&self, key: &str, data: impl Into<Bytes>) {
        self.store.put(&ObjectKey::new(key), self.payload(data), Overwrite::Allow).await.unwrap();
    }

    pub(crate) async fn read(&self, key: &str, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, Error> {
        let download = self.store.get(&ObjectKey::new(key), range).await?;
        let body: Vec<Bytes> = download.body.try_collect().await?;
        let body = body.concat();
        assert_eq!(body.len() as u64, download.length);
        Ok(body)
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        let mut from = None;
        loop {
            let page = self.store.list(prefix, from.as_deref()).await.unwrap();
            assert!(page.objects.len() <= self.page);
            keys.extend(page.objects.iter().map(|object| object.key.as_str().to_owned()));
            from = page.next;
            if from.is_none() {
                assert!(keys.is_sorted(), "{keys:?}");
                return keys;
            }
            assert!(!page.objects.is_empty(), "a page before the last one is not empty");
        }
    }
}

pub(crate) async fn conforms(backend: &Backend) {
    objects(backend).await;
    odd_keys(backend).await;
    conflicts(backend).await;
    refused_checksums(backend).await;
    listings(backend).await;
    multipart(backend).await;
    listed_uploads(backend).await;
    aborted(backend).await;
    wrong_part_lists(backend).await;
}

async fn objects(backend: &Backend) {
    let (store, key) = (&backend.store, ObjectKey::new("o/some"));
    backend.put("o/some", &b"0123456789"[..]).await;
    assert_eq!(backend.read("o/some", None).await.unwrap(), b"0123456789");
    assert_eq!(backend.read("o/some", Some(2..5)).await.unwrap(), b"234");
    assert_eq!(backend.read("o/some", Some(9..10)).await.unwrap(), b"9");
    assert_eq!(backend.read("o/some", Some(4..4)).await.unwrap(), b"");
    let info = store.head(&key).await.unwrap();
    assert_eq!(info.size, 10);
    if !backend.lacks(Quirk::IgnoresChecksums) {
        assert_eq!(info.checksum, backend.algorithm.compute(b"0123456789"));
    }
    backend.put("o/some", &b"replaced"[..]).await;
    assert_eq!(backend.read("o/some", None).await.unwrap(), b"replaced");

    backend.put("o/empty", Bytes::new()).await;
    assert_eq!(backend.read("o/empty", None).await.unwrap(), b"");
    assert_eq!(store.head(&ObjectKey::new("o/empty")).await.unwrap().size, 0);

    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    let gone = store.get(&key, None).await.err().unwrap();
    assert_eq!((gone.class, gone.operation), (Class::NotFound, "GetObject"));
    assert!(gone.to_string().contains("o/some"), "{gone}");
    assert_eq!(store.head(&key).await.unwrap_err().class, Class::NotFound);
}

async fn odd_keys(backend: &Backend) {
    let mut odd =
        ["k/a b+c", "k/é–🦀", "k/100%25", "k/x=y&z;w", "k/'quoted\"<xml>", "k/(star)*!", "k/~.-_", "k/back\\slash#?"];
    odd.sort_unstable();
    for key in odd {
        backend.put(key, key.as_bytes()).await;
        assert_eq!(backend.read(key, None).await.unwrap(), key.as_bytes(), "{key}");
    }
    assert_eq!(backend.keys("k/").await, odd);
    for key in odd {
        backend.store.delete(&ObjectKey::new(key)).await.unwrap();
    }
    assert!(backend.keys("k/").await.is_empty());
}

async fn conflicts(backend: &Backend) {
    let key = ObjectKey::new("c/once");
    let put = |data: &'static [u8]| backend.store.put(&key, backend.payload(data), Overwrite::Refuse);
    put(b"first").await.unwrap();
    assert_eq!(put(b"second").await.unwrap_err().class, Class::Conflict);
    assert_eq!(backend.read("c/once", None).await.unwrap(), b"first");
}

fn wrong(algorithm: Algorithm) -> Option<Payload> {
    algorithm
        .compute(b"something else")
        .map(|checksum| Payload { checksum: Some(checksum), ..Payload::new("data", algorithm) })
}

async fn refused_checksums(backend: &Backend) {
    let Some(payload) = wrong(backend.algorithm).filter(|_| !backend.lacks(Quirk::IgnoresChecksums)) else { return };
    let key = ObjectKey::new("w/wrong");
    let refused = backend.store.put(&key, payload.clone(), Overwrite::Allow).await.unwrap_err();
    if !(backend.lacks(Quirk::SignedHashIsInternal) && backend.signs(&payload)) {
        assert_eq!(refused.class, Class::Integrity, "{refused}");
    }
    if !backend.lacks(Quirk::KeepsRefusedObject) {
        assert_eq!(backend.store.head(&key).await.unwrap_err().class, Class::NotFound);
    }
    let upload = begin(backend, "w/part").await;
    let part = backend.store.upload_part(&upload, PartNumber::FIRST, payload).await;
    if !backend.lacks(Quirk::IgnoresPartChecksums) {
        assert_eq!(part.unwrap_err().class, Class::Integrity);
        assert_eq!(backend.store.list_parts(&upload).await.unwrap(), Some(Vec::new()));
    }
    backend.store.abort_upload(&upload).await.unwrap();
}

async fn listings(backend: &Backend) {
    let number = backend.page + 2;
    let keys: Vec<_> = (0..number).map(|number| format!("l/{number:05}")).collect();
    let puts = stream::iter(&keys).map(|key| backend.put(key, Bytes::new()));
    puts.buffer_unordered(8).collect::<Vec<_>>().await;
    backend.put("l.before", Bytes::new()).await;
    backend.put("lz", Bytes::new()).await;
    assert_eq!(backend.keys("l/").await, keys);
    assert_eq!(backend.keys("l/0000").await, keys.iter().take(10).cloned().collect::<Vec<_>>());
    assert!(backend.keys("nothing/").await.is_empty());
    backend.put("s/sized", &b"12345"[..]).await;
    let page = backend.store.list("s/", None).await.unwrap();
    let modified = page.objects[0].modified;
    assert!(jiff::Timestamp::now().duration_since(modified).abs() < jiff::SignedDuration::from_mins(5), "{modified}");
    let etag = page.objects[0].etag.clone();
    assert_eq!(page.objects, [ListedObject { key: ObjectKey::new("s/sized"), size: 5, modified, etag }]);
    assert_eq!(page.next, None);
    // Where a listing has ETags, another object of the key has another one.
    let etag = page.objects[0].etag.clone();
    backend.put("s/sized", &b"54321"[..]).await;
    let now = backend.store.list("s/", None).await.unwrap().objects[0].etag.clone();
    assert!(etag.is_some() == now.is_some() && (etag.is_none() || etag != now), "{etag:?} {now:?}");
    folders(backend).await;
}

/// The names of one level, whatever lies below each.
async fn folders(backend: &Backend) {
    for key in ["f/b/1/x", "f/a/1", "f/a/2/x", "f/a/3", "f/file", "f/c d/x", "fa/x"] {
        backend.put(key, Bytes::new()).await;
    }
    for (prefix, expected) in [("f/", vec!["a", "b", "c d"]), ("f/a/", vec!["2"]), ("f", vec![""]), ("none/", vec![])] {
        let (mut names, mut from) = (Vec::new(), None);
        loop {
            let page = backend.store.folders(prefix, from.as_deref()).await.unwrap();
            names.extend(page.names);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        names.sort();
        names.dedup();
        names.retain(|name| prefix != "f" || name.is_empty());
        assert_eq!(names, expected, "{prefix}");
    }
}

async fn begin(backend: &Backend, key: &str) -> UploadHandle {
    let key = ObjectKey::new(key);
    let id = backend.store.create_upload(&key).await.unwrap();
    UploadHandle { key, id }
}

/// Three parts, the last one small, uploaded out of order.
async fn three_parts(backend: &Backend, upload: &UploadHandle) -> (Vec<UploadedPart>, Vec<u8>, Option<Checksum>) {
    let bodies: Vec<Bytes> =
        [5 * MIB, 5 * MIB, 1234].iter().zip(1u8..).map(|(len, byte)| vec![byte; *len].into()).collect();
    let mut parts = Vec::new();
    for number in [3u16, 1, 2] {
        let payload = backend.payload(bodies[usize::from(number) - 1].clone());
        parts.push(backend.store.upload_part(upload, PartNumber::new(number).unwrap(), payload).await.unwrap());
    }
    parts.sort_by_key(|part| part.number);
    let whole = bodies.concat();
    let checksum = match backend.algorithm {
        Algorithm::Crc64nvme | Algorithm::Crc32c => backend.algorithm.compute(&whole),
        Algorithm::Sha256 | Algorithm::None => None,
    };
    (parts, whole, checksum)
}

async fn multipart(backend: &Backend) {
    let upload = begin(backend, "m/three").await;
    let (parts, whole, checksum) = three_parts(backend, &upload).await;
    let listed = backend.store.list_parts(&upload).await;
    if backend.lacks(Quirk::OddParts) {
        let error = listed.unwrap_err();
        assert!(error.class == Class::Compat && error.message.contains("ListPartsResponse"), "{error}");
    } else if backend.lacks(Quirk::BareParts) {
        let listed = listed.unwrap().unwrap();
        let bare = |part: &UploadedPart| (part.number, part.size);
        assert!(listed.iter().map(bare).eq(parts.iter().map(bare)), "{listed:?}");
    } else {
        assert_eq!(listed.unwrap().unwrap(), backend.listed(&parts));
    }
    assert_eq!(backend.store.head(&upload.key).await.unwrap_err().class, Class::NotFound);
    backend.complete(&upload, &parts, whole.len() as u64, checksum).await;
    assert!(backend.read("m/three", None).await.unwrap() == whole);
    let seam = 5 * MIB as u64;
    assert_eq!(backend.read("m/three", Some(seam - 2..seam + 2)).await.unwrap(), [1, 1, 2, 2]);
    let info = backend.store.head(&upload.key).await.unwrap();
    assert_eq!(info.size, whole.len() as u64);
    if !backend.lacks(Quirk::NoMultipartChecksum) {
        assert_eq!(info.checksum, checksum);
    }
    if !backend.lacks(Quirk::BareParts) {
        assert_eq!(backend.store.list_parts(&upload).await.unwrap(), None);
    }
}

async fn listed_uploads(backend: &Backend) {
    let (mine, other) = (begin(backend, "u/mine").await, begin(backend, "u2/other").await);
    let list = backend.store.list_uploads("u/").await;
    if backend.lacks(Quirk::NoUploadList) {
        assert_eq!(list.unwrap_err().class, Class::Compat);
    } else {
        let listed = list.unwrap();
        assert_eq!(listed.iter().map(|listed| &listed.upload).collect::<Vec<_>>(), [&mine]);
        assert!(listed[0].initiated.is_some());
        assert_eq!(backend.store.list_uploads("nothing/").await.unwrap(), []);
    }
    for upload in [&mine, &other] {
        backend.store.abort_upload(upload).await.unwrap();
    }
}

async fn aborted(backend: &Backend) {
    let upload = begin(backend, "a/aborted").await;
    backend.store.upload_part(&upload, PartNumber::FIRST, backend.payload(&b"part"[..])).await.unwrap();
    backend.store.abort_upload(&upload).await.unwrap();
    let after = backend.store.list_parts(&upload).await.unwrap();
    assert_eq!(after, if backend.lacks(Quirk::BareParts) { Some(Vec::new()) } else { None });
    let late = backend.store.upload_part(&upload, PartNumber::FIRST, backend.payload(&b"part"[..])).await.unwrap_err();
    if backend.lacks(Quirk::DeniesDeadUploads) {
        assert_eq!(late.class, Class::AccessDenied);
    } else {
        if backend.lacks(Quirk::FailsOnDeadUploads) {
            assert_eq!(late.status, Some(500));
        } else {
            assert_eq!((late.class, late.code.as_deref()), (Class::NotFound, Some("NoSuchUpload")));
        }
        backend.store.abort_upload(&upload).await.unwrap();
        let stranger = UploadHandle { key: upload.key.clone(), id: UploadId("never-was".into()) };
        backend.store.abort_upload(&stranger).await.unwrap();
        assert_eq!(backend.store.list_parts(&stranger).await.unwrap(), None);
    }
    assert_eq!(backend.store.head(&upload.key).await.unwrap_err().class, Class::NotFound);
}

async fn wrong_part_lists(backend: &Backend) {
    if !backend.lacks(Quirk::TrustsThePartList) {
        let upload = begin(backend, "p/wrong").await;
        let (parts, whole, checksum) = three_parts(backend, &upload).await;
        let size = whole.len() as u64;
        let complete = |parts: Vec<UploadedPart>, size, checksum| {
            let (store, upload) = (backend.store.clone(), upload.clone());
            async move { store.complete_upload(&upload, &parts, size, checksum).await.unwrap_err().class }
        };
        let etag = |part: &UploadedPart| UploadedPart { etag: "\"0\"".into(), ..part.clone() };
        assert_eq!(complete(parts.iter().map(etag).collect(), size, checksum).await, Class::Integrity);
        assert_eq!(complete(parts[..2].to_vec(), size, checksum).await, Class::Integrity);
        if !backend.lacks(Quirk::LenientComplete) {
            assert_eq!(complete(parts.clone(), size - 1, checksum).await, Class::Integrity);
            assert_eq!(complete(parts.iter().rev().cloned().collect(), size, checksum).await, Class::Internal);
        }
        let none = complete(Vec::new(), 0, None).await;
        let unread = backend.lacks(Quirk::LenientComplete) || backend.lacks(Quirk::CannotReadAnEmptyList);
        let expected = if unread { Class::Compat } else { Class::Internal };
        assert_eq!(none, expected);
        if let Some(payload) = wrong(backend.algorithm).filter(|_| !backend.lacks(Quirk::IgnoresChecksums)) {
            assert_eq!(complete(parts.clone(), size, payload.checksum).await, Class::Integrity);
        }
        // None of these ended the upload.
        assert_eq!(backend.store.list_parts(&upload).await.unwrap(), Some(backend.listed(&parts)));
        backend.store.abort_upload(&upload).await.unwrap();
    }
    let upload = begin(backend, "p/small").await;
    let small = backend.store.upload_part(&upload, PartNumber::FIRST, backend.payload(&b"small"[..])).await.unwrap();
    let second = PartNumber::FIRST.next().unwrap();
    let last = backend.store.upload_part(&upload, second, backend.payload(&b"last"[..])).await.unwrap();
    let refused = backend.store.complete_upload(&upload, &[small, last], 9, None).await.unwrap_err();
    assert_eq!(refused.code.as_deref(), Some("EntityTooSmall"), "{refused}");
    if !backend.lacks(Quirk::DeniesDeadUploads) {
        backend.store.abort_upload(&upload).await.unwrap();
    }
}

#[tokio::test]
async fn the_store_in_memory() {
    for algorithm in [Algorithm::Crc64nvme, Algorithm::Crc32c, Algorithm::Sha256, Algorithm::None] {
        let memory = Arc::new(MemoryStore::with_limits(5 << 20, 12));
        let backend = Backend { store: memory.clone(), algorithm, page: 12, signed: false, quirks: &[] };
        conforms(&backend).await;
        assert_eq!(memory.uploads_in_progress(), []);
        // All of it holds of a bucket that keeps versions, too.
        let memory = Arc::new(MemoryStore::with_limits(5 << 20, 12).with_algorithm(algorithm));
        memory.keep_locks();
        let backend = Backend { store: memory.clone(), ..backend };
        conforms(&backend).await;
        keeps_versions(&backend).await;
        if algorithm != Algorithm::None {
            keeps_locks(&backend, memory.now()).await;
        }
    }
}

/// The store in memory, through the adapter.
const AS_S3: &[Quirk] = &[Quirk::CannotReadAnEmptyList];

/// The stand-in that other tests use: what is said of the store in memory holds of it through S3's requests, and of the adapter.
#[tokio::test]
async fn the_store_in_memory_as_an_s3() {
    let servers = Servers::start();
    for locks in [false, true] {
        let memory = Arc::new(MemoryStore::with_limits(5 << 20, 12));
        let server = LockingS3::over(&servers, Arc::clone(&memory));
        let location =
            penstock::config::Location { s3_url: Some(server.url.clone()), ..servers.s3(Scheme::Http).location() };
        let store = AwsLocation::connect_with(&location, Metrics::new().location("test"), |_| None).unwrap().store();
        let backend = Backend { store, algorithm: Algorithm::default(), page: 12, signed: true, quirks: AS_S3 };
        if locks {
            memory.keep_locks();
        }
        conforms(&backend).await;
        if locks {
            keeps_versions(&backend).await;
            keeps_locks(&backend, memory.now()).await;
        }
    }
}

/// s3s-fs 0.14.1.
const S3S_FS: &[Quirk] = &[
    Quirk::NoUploadList,
    Quirk::KeepsRefusedObject,
    Quirk::SignedHashIsInternal,
    Quirk::IgnoresPartChecksums,
    Quirk::BareParts,
    Quirk::TrustsThePartList,
    Quirk::DeniesDeadUploads,
    Quirk::NoMultipartChecksum,
];

async fn a_real_server(scheme: Scheme, algorithm: Algorithm) -> (Servers, S3Server) {
    let servers = Servers::start();
    let server = servers.s3(scheme);
    let location = penstock::config::Location { checksum: algorithm, ..server.location() };
    let aws = AwsLocation::connect_with(&location, Metrics::new().location("test"), |_| None).unwrap();
    let backend = Backend { store: aws.store(), algorithm, page: 1000, signed: scheme == Scheme::Http, quirks: S3S_FS };
    conforms(&backend).await;
    assert_eq!(server.uploads_in_progress(), 0);
    for request in server.seen() {
        let encoding = request.header("content-encoding").unwrap_or_default();
        assert!(!encoding.contains("aws-chunked") && request.header("x-amz-trailer").is_none(), "{request:?}");
    }
    (servers, server)
}

/// The PUTs' `x-amz-content-sha256`, and the value of a checksum header.
fn puts(server: &S3Server, checksum: &str) -> Vec<(String, Option<String>)> {
    let puts = server.seen().into_iter().filter(|request| request.method == "PUT");
    let of = |header: Option<&str>| header.map(str::to_owned);
    puts.map(|put| (of(put.header("x-amz-content-sha256")).unwrap(), of(put.header(checksum)))).collect()
}

#[tokio::test]
async fn s3_over_tls_with_a_private_ca() {
    let (_servers, server) = a_real_server(Scheme::Https, Algorithm::Crc64nvme).await;
    let puts = puts(&server, "x-amz-checksum-crc64nvme");
    assert!(puts.iter().all(|(signed, checksum)| signed == "UNSIGNED-PAYLOAD" && checksum.is_some()), "{puts:?}");
}

#[tokio::test]
async fn s3_over_plain_http_with_signed_payloads() {
    use base64::Engine as _;

    let (_servers, server) = a_real_server(Scheme::Http, Algorithm::Sha256).await;
    for (signed, checksum) in puts(&server, "x-amz-checksum-sha256") {
        // The digest is computed once, and serves as the signature's hash too.
        let digest = base64::engine::general_purpose::STANDARD.decode(checksum.unwrap()).unwrap();
        assert_eq!(signed, hex::encode(digest));
    }
}

#[tokio::test]
async fn s3_over_plain_http_without_checksums() {
    let (_servers, server) = a_real_server(Scheme::Http, Algorithm::None).await;
    assert!(
        puts(&server, "x-amz-checksum-crc64nvme")
            .iter()
            .all(|(signed, checksum)| signed.len() == 64 && checksum.is_none())
    );
    for request in server.seen() {
        let new = request
            .headers
            .keys()
            .find(|name| name.as_str().contains("checksum") || name.as_str().contains("mp-object"));
        assert_eq!(new, None, "{request:?}");
    }
}

#[tokio::test]
async fn crc32c_over_tls() {
    a_real_server(Scheme::Https, Algorithm::Crc32c).await;
}

/// moto 5.2.5, authentication off.
const MOTO: &[Quirk] = &[
    Quirk::FailsOnDeadUploads,
    Quirk::IgnoresChecksums,
    Quirk::NoMultipartChecksum,
    Quirk::OddParts,
    Quirk::TrustsThePartList,
];

/// radosgw 16.2.
const RADOSGW: &[Quirk] = &[
    Quirk::IgnoresChecksums,
    Quirk::IgnoresLocksOfUploads,
    Quirk::LenientComplete,
    Quirk::NoETagOnComplete,
    Quirk::NoMultipartChecksum,
];

/// A location of another server, in whose bucket the suite runs. The bucket is made here: Penstock never makes one.
async fn elsewhere(url: &str, region: &str, keys: (&str, &str), bucket: &str) -> penstock::config::Location {
    elsewhere_with(url, region, keys, bucket, Locks::None).await
}

async fn elsewhere_with(
    url: &str,
    region: &str,
    (key, secret): (&str, &str),
    bucket: &str,
    locks: Locks,
) -> penstock::config::Location {
    let servers = Servers::start();
    let secret_of =
        |value: &str| penstock::config::SecretSource::Inline(penstock::config::Secret::new(value.to_owned()));
    let location = penstock::config::Location {
        bucket: bucket.to_owned(),
        region: region.to_owned(),
        s3_url: Some(url.to_owned()),
        credentials: penstock::config::Credentials::Static {
            access_key_id: secret_of(key),
            secret_access_key: secret_of(secret),
            session_token: None,
        },
        ..servers.s3(Scheme::Http).location()
    };
    make_bucket(url, region, (key, secret), bucket, locks).await;
    location
}

/// Whether a bucket has Object Lock, and with it versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    None,
    Kept,
}

pub(crate) async fn make_bucket(url: &str, region: &str, (key, secret): (&str, &str), bucket: &str, locks: Locks) {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
        .region(aws_sdk_s3::config::Region::new(region.to_owned()))
        .endpoint_url(url)
        .force_path_style(true)
        .credentials_provider(aws_sdk_s3::config::Credentials::new(key, secret, None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let create = aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(bucket);
    let lock = (locks == Locks::Kept).then_some(true);
    create.set_object_lock_enabled_for_bucket(lock).send().await.unwrap();
}

#[tokio::test]
async fn moto() {
    let moto = tokio::task::spawn_blocking(crate::moto::Moto::start).await.unwrap();
    for algorithm in [Algorithm::Crc32c, Algorithm::None] {
        let bucket = format!("conformance-{}", if algorithm == Algorithm::None { "none" } else { "crc32c" });
        let location = elsewhere(&moto.url, "us-east-1", ("key", "secret"), &bucket).await;
        let location = penstock::config::Location { checksum: algorithm, ..location };
        let store = AwsLocation::connect_with(&location, penstock::metrics::Metrics::new().location("test"), |_| None)
            .unwrap()
            .store();
        let backend = Backend { store, algorithm, page: 1000, signed: true, quirks: MOTO };
        conforms(&backend).await;
        assert_eq!(backend.store.list_uploads("").await.unwrap(), []);
    }
}

/// `make radosgw` starts the server and runs this.
#[tokio::test]
#[ignore = "needs Ceph: make radosgw"]
async fn radosgw() {
    let url = std::env::var("PENSTOCK_RADOSGW").expect("PENSTOCK_RADOSGW is the server's URL");
    let location = elsewhere(&url, "default", ("RGWAK", "RGWSK"), "conformance").await;
    for algorithm in [Algorithm::None, Algorithm::Crc64nvme] {
        let location = penstock::config::Location { checksum: algorithm, ..location.clone() };
        let store = AwsLocation::connect_with(&location, penstock::metrics::Metrics::new().location("test"), |_| None)
            .unwrap()
            .store();
        let backend = Backend { store, algorithm, page: 1000, signed: true, quirks: RADOSGW };
        conforms(&backend).await;
        assert_eq!(backend.store.list_uploads("").await.unwrap(), []);
        for key in backend.keys("").await {
            backend.store.delete(&ObjectKey::new(key)).await.unwrap();
        }
    }
    let location = elsewhere_with(&url, "default", ("RGWAK", "RGWSK"), "conformance-locks", Locks::Kept).await;
    let location = penstock::config::Location { checksum: Algorithm::Crc64nvme, ..location };
    let store = AwsLocation::connect_with(&location, penstock::metrics::Metrics::new().location("test"), |_| None)
        .unwrap()
        .store();
    let backend = Backend { store, algorithm: Algorithm::Crc64nvme, page: 1000, signed: true, quirks: RADOSGW };
    keeps_versions(&backend).await;
    keeps_locks(&backend, jiff::Timestamp::now()).await;
}
