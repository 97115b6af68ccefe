//! A stream in a store, as a backup would leave it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::Context;
use crate::budget::Budget;
use crate::checksum::{Algorithm, Checksum, crc64nvme};
use crate::error::Class;
use crate::format::index::{Chunk, FileEntry, Writer};
use crate::format::key::{BackupId, Chain, Name, ObjectKey};
use crate::format::manifest::{
    Content, DataObject, IndexObject, Item, Manifest, NotEntered, SourceDescription, Stream,
};
use crate::store::memory::MemoryStore;
use crate::store::{
    Download, Error, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store, UploadHandle, UploadId,
    UploadedPart,
};
use crate::stream::frame::{self, Compression};

pub(crate) const MIB: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct House {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) ctx: Context,
}

pub(crate) fn house(memory: u64) -> House {
    let store = Arc::new(MemoryStore::new());
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let ctx = Context { store: Arc::clone(&store) as _, budget: Budget::new(memory), pool, concurrency: 4 };
    House { store, ctx }
}

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

/// Bytes that do not compress, the same for each seed.
pub(crate) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// How [`House::stream`] cuts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) chunk: usize,
    pub(crate) chunks_an_object: usize,
    pub(crate) compression: Compression,
}

pub(crate) const SMALL: Cut = Cut { chunk: 1000, chunks_an_object: 16, compression: Compression::Zstd { level: 1 } };

impl House {
    pub(crate) async fn put(&self, key: &ObjectKey, data: Vec<u8>) {
        let payload = Payload::new(data, Algorithm::Crc64nvme);
        self.store.put(key, payload, Overwrite::Allow).await.unwrap();
    }

    pub(crate) async fn object(&self, key: &ObjectKey) -> Vec<u8> {
        let mut body = self.store.get(key, None).await.unwrap().body;
        let mut out = Vec::new();
        while let Some(piece) = body.next().await {
            out.extend_from_slice(&piece.unwrap());
        }
        out
    }

    /// Replaces an object by what `f` makes of it.
    pub(crate) async fn change(&self, key: &ObjectKey, f: impl FnOnce(&mut Vec<u8>)) {
        let mut data = self.object(key).await;
        f(&mut data);
        self.put(key, data).await;
    }

    pub(crate) async fn stream(&self, item: &str, plain: &[u8], files: &[FileEntry], cut: Cut) -> Stream {
        let mut index = Writer::new(Vec::new()).unwrap();
        for file in files {
            index.file(file.clone()).unwrap();
        }
        let mut objects = Vec::new();
        let chunks: Vec<&[u8]> = plain.chunks(cut.chunk).collect();
        for (number, of_object) in chunks.chunks(cut.chunks_an_object).enumerate() {
            let mut data = Vec::new();
            for plain in of_object {
                let stored = match cut.compression {
                    Compression::None => plain.to_vec(),
                    Compression::Zstd { level } => frame::compress(plain, level).unwrap(),
                };
                let chunk = Chunk {
                    id: frame::digest(plain),
                    plain_len: u32::try_from(plain.len()).unwrap(),
                    encoding: cut.compression.encoding(),
                    object: u32::try_from(number).unwrap(),
                    offset: data.len() as u64,
                    stored_len: u32::try_from(stored.len()).unwrap(),
                };
                index.chunk(&chunk).unwrap();
                data.extend_from_slice(&stored);
            }
            let key = ObjectKey::new(format!("p/c/j/n/id/{item}.{number:04}"));
            let (size, crc64nvme) = (data.len() as u64, crc64nvme(&data).to_be_bytes());
            self.put(&key, data).await;
            objects.push(DataObject { key, size, crc64nvme, live_bytes: size });
        }
        let (bytes, totals) = index.finish().unwrap();
        let stored_bytes = objects.iter().map(|object| object.size).sum();
        let index = self.index(item, bytes).await;
        let (plain_bytes, chunks, files, digest) = (totals.plain_bytes, totals.chunks, totals.files, totals.digest);
        let (new_bytes, not_entered) = (stored_bytes, NotEntered::default());
        Stream { plain_bytes, stored_bytes, new_bytes, chunks, files, digest, index, objects, not_entered }
    }

    pub(crate) async fn index(&self, item: &str, bytes: Vec<u8>) -> IndexObject {
        let key = ObjectKey::new(format!("p/c/j/n/id/{item}.index.zst"));
        let (size, sha256) = (bytes.len() as u64, Sha256::digest(&bytes).into());
        self.put(&key, bytes).await;
        IndexObject { key, size, sha256 }
    }
}

pub(crate) fn item(item: &str, source: SourceDescription, stream: Option<Stream>) -> Item {
    Item::new(name(item), source, Content::Stream { stream })
}

pub(crate) fn manifest(items: Vec<Item>) -> Manifest {
    let started = jiff::Timestamp::UNIX_EPOCH;
    let chain = Chain { cluster: name("c"), job: name("j"), node: name("n") };
    Manifest { items, ..Manifest::new(chain, BackupId::new(started, 7), started) }
}

/// Spoils the first `failures` GETs of part of an object as `how` says.
pub(crate) struct Flaky {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) failures: AtomicU32,
    pub(crate) how: How,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// The request fails.
    Fail(Class),
    /// The body has zeros in it.
    Corrupt,
}

#[async_trait::async_trait]
impl Store for Flaky {
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let left = self.failures.load(Ordering::Relaxed);
        if range.is_none() || left == 0 {
            return self.store.get(key, range).await;
        }
        self.failures.store(left - 1, Ordering::Relaxed);
        if let How::Fail(class) = self.how {
            return Err(Error::local("GetObject", key, class, "spoiled"));
        }
        let length = range.map_or(0, |range| range.end - range.start);
        let zeros = Bytes::from(vec![0; usize::try_from(length).unwrap()]);
        Ok(Download { length, body: Box::pin(futures_util::stream::iter([Ok(zeros)])) })
    }
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        self.store.put(key, payload, overwrite).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        self.store.head(key).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<crate::store::Deleted, Error> {
        self.store.delete(key).await
    }
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.store.list(prefix, from).await
    }
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
        self.store.create_upload(key).await
    }
    async fn upload_part(&self, to: &UploadHandle, n: PartNumber, payload: Payload) -> Result<UploadedPart, Error> {
        self.store.upload_part(to, n, payload).await
    }
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        self.store.complete_upload(upload, parts, size, checksum).await
    }
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        self.store.abort_upload(upload).await
    }
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        self.store.list_parts(upload).await
    }
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        self.store.list_uploads(prefix).await
    }
}
