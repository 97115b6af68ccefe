//! A stream in a store, as a backup would leave it.

use std::sync::Arc;

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::age::{self, Identity, Recipient};
use crate::checksum::Algorithm;
use crate::format::codec::{self, Codec, Compression};
use crate::format::index::{Chunk, FileEntry, Writer};
use crate::format::key::ObjectKey;
use crate::format::manifest::{DataObject, IndexObject, Stream};
use crate::format::testing;
use crate::location::{self, Location};
use crate::store::memory::MemoryStore;
use crate::store::{Overwrite, Payload, Store as _};

pub(crate) const MIB: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct House {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) location: Location,
}

pub(crate) fn house(memory: u64) -> House {
    let store = Arc::new(MemoryStore::new());
    let location = location::memory::open(Arc::clone(&store) as _, "p", memory);
    House { store, location }
}

/// Bytes that do not compress, the same for each seed.
pub(crate) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// How [`House::stream`] cuts a stream into chunks and objects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) chunk: usize,
    pub(crate) chunks_an_object: usize,
    pub(crate) codec: Codec,
}

pub(crate) const SMALL: Cut =
    Cut { chunk: 1000, chunks_an_object: 16, codec: Codec { compression: Compression::Zstd { level: 1 } } };

/// The same, stored as they are.
pub(crate) const RAW: Cut = Cut { codec: Codec { compression: Compression::None }, ..SMALL };

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

    /// Replaces an object with the result of `f`.
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
                let (encoding, stored) = cut.codec.encode(plain.to_vec()).unwrap();
                let chunk = Chunk {
                    id: codec::digest(plain),
                    plain_len: u32::try_from(plain.len()).unwrap(),
                    encoding,
                    object: u32::try_from(number).unwrap(),
                    offset: data.len() as u64,
                    stored_len: u32::try_from(stored.len()).unwrap(),
                };
                index.chunk(&chunk).unwrap();
                data.extend_from_slice(&stored);
            }
            let key = ObjectKey::new(format!("p/c/j/n/id/{item}.{number:04}"));
            objects.push(testing::object(key.clone(), &data));
            self.put(&key, data).await;
        }
        let (bytes, totals) = index.finish().unwrap();
        testing::stream(totals, self.index(item, bytes).await, objects)
    }

    pub(crate) async fn index(&self, item: &str, bytes: Vec<u8>) -> IndexObject {
        let key = ObjectKey::new(format!("p/c/j/n/id/{item}.index.zst"));
        let (size, sha256) = (bytes.len() as u64, Sha256::digest(&bytes).into());
        self.put(&key, bytes).await;
        IndexObject { key, size, sha256, version: None }
    }

    /// Encrypts the stream's objects and its index, each under its key with `.age`.
    pub(crate) async fn encrypt(&self, stream: &mut Stream, to: &[Recipient]) {
        for object in &mut stream.objects {
            let sealed = age::seal(self.object(&object.key).await.into(), to).unwrap();
            let key = ObjectKey::new(format!("{}.age", object.key));
            let DataObject { size, live_bytes, .. } = *object;
            *object = DataObject { payload: Some(size), live_bytes, ..testing::object(key, &sealed) };
            self.put(&object.key, sealed).await;
        }
        let index = &mut stream.index;
        let sealed = age::seal(self.object(&index.key).await.into(), to).unwrap();
        (index.size, index.sha256) = (sealed.len() as u64, Sha256::digest(&sealed).into());
        index.key = ObjectKey::new(format!("{}.age", index.key));
        self.put(&index.key, sealed).await;
    }

    /// The same store, read with these identities.
    pub(crate) fn with(&self, identities: Vec<Identity>) -> Self {
        Self { store: Arc::clone(&self.store), location: self.location.clone().with_identities(identities.into()) }
    }
}
