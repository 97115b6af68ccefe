mod model;
mod runs;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::checksum::{Algorithm, Checksum, crc64nvme};
use crate::disks::memory::{Fault, MemoryDisks, error, volume};
use crate::disks::{Disks as _, NewSnapshot, Tags};
use crate::format::ebs::{EbsSnapshot, VolumeId};
use crate::format::key::{BackupPrefix, Kind, Name};
use crate::format::manifest::{
    Content, DataObject, IndexObject, Item, Manifest, NotEntered, SourceDescription, Stream,
};
use crate::metrics::Metrics;
use crate::store::memory::MemoryStore;
use crate::store::{
    Download, Error as StoreError, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store, UploadHandle,
    UploadId, UploadedPart,
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn node(node: &str) -> Chain {
    Chain { cluster: name("c"), job: name("j"), node: name(node) }
}

fn keep_last(count: u32) -> Rules {
    let retention = Retention { keep_last: Some(count), ..Retention::default() };
    Rules { retention: Some(retention), zone: TimeZone::UTC }
}

const KEEP_ALL: Rules = Rules { retention: None, zone: TimeZone::UTC };

/// A store with chains in it, and a clock.
struct World {
    store: Arc<Obstacle>,
    disks: Arc<MemoryDisks>,
    ctx: Context,
    now: i64,
    serial: u32,
    /// What each committed backup must still find, by the manifest's key.
    promised: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Bytes>>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(Obstacle::default());
        let catalog =
            Catalog { store: Arc::clone(&store) as _, prefix: "p".to_owned(), cluster: name("c"), memory: 1 << 20 };
        let metrics = Metrics::new().job("j");
        let disks = Arc::new(MemoryDisks::new([volume(&"vol-01234567".parse().unwrap(), &[])]));
        let checksum = Algorithm::Crc64nvme;
        let snapshots = snapshot::Service::new(Arc::clone(&disks) as _);
        let ctx = Context { catalog, checksum, grace: GRACE, snapshots, metrics };
        let mut world = Self { store, disks, ctx, now: 0, serial: 0, promised: BTreeMap::new() };
        world.pass(0);
        world
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.store.inner.set_now(at(self.now));
    }

    async fn put(&self, key: &ObjectKey, data: impl Into<Bytes>) {
        let payload = Payload::new(data, Algorithm::None);
        self.store.inner.put(key, payload, Overwrite::Refuse).await.unwrap();
    }

    /// Uploads `count` data objects and an index of a new backup, and returns what its manifest would say. Every object of
    /// `parent` that `refers` says is one of its own too.
    async fn upload(&mut self, chain: &Chain, count: u32, parent: Option<&Manifest>, refers: &[bool]) -> Manifest {
        self.serial += 1;
        let id = BackupId::new(at(self.now), self.serial);
        let home = BackupPrefix::new("p", chain, &id);
        let old = parent.into_iter().flat_map(Manifest::streams).flat_map(|(_, stream)| stream.objects.clone());
        let old = old.enumerate().filter(|(n, _)| refers.get(*n).copied().unwrap_or(true)).map(|(_, object)| object);
        let mut objects: Vec<DataObject> = old.collect();
        for number in 1..=count {
            let key = home.data(&name("item"), number, "zst");
            let data = format!("data of {key}");
            self.put(&key, data.clone()).await;
            let (size, crc64nvme) = (data.len() as u64, crc64nvme(data.as_bytes()).to_be_bytes());
            objects.push(DataObject { key, size, crc64nvme, live_bytes: size });
        }
        let key = home.index(&name("item"));
        let data = format!("index of {key}");
        self.put(&key, data.clone()).await;
        let index = IndexObject { key, size: data.len() as u64, sha256: Sha256::digest(&data).into() };
        let stored_bytes = objects.iter().map(|object| object.live_bytes).sum();
        let stream = Stream {
            plain_bytes: 1000,
            stored_bytes,
            new_bytes: 0,
            chunks: 1,
            files: 0,
            digest: [0; 32],
            index,
            objects,
            not_entered: NotEntered::default(),
        };
        let content = Content::Stream { stream: Some(stream) };
        Manifest {
            parent: parent.map(|parent| parent.id.clone()),
            base: parent.map(|parent| parent.base.clone().unwrap_or_else(|| parent.id.clone())),
            items: vec![Item::new(name("item"), SourceDescription::Stdin, content)],
            ..Manifest::new(chain.clone(), id, at(self.now))
        }
    }

    async fn commit(&mut self, chain: &Chain, manifest: &Manifest) {
        let key = BackupPrefix::new("p", chain, &manifest.id).manifest();
        self.put(&key, manifest.to_json()).await;
        let mut needs = BTreeMap::new();
        for key in manifest.named() {
            needs.insert(key.clone(), self.read(key).await.unwrap());
        }
        self.promised.insert(key, needs);
    }

    async fn backup(&mut self, chain: &Chain, count: u32, parent: Option<&Manifest>) -> Manifest {
        let manifest = self.upload(chain, count, parent, &[]).await;
        self.commit(chain, &manifest).await;
        manifest
    }

    async fn read(&self, key: &ObjectKey) -> Option<Bytes> {
        let mut body = self.store.inner.get(key, None).await.ok()?.body;
        let mut out = Vec::new();
        while let Some(piece) = body.next().await {
            out.extend_from_slice(&piece.unwrap());
        }
        Some(out.into())
    }

    async fn entries(&self) -> Vec<catalog::Entry> {
        self.ctx.catalog.entries(catalog::Scope::default()).await.unwrap()
    }

    async fn prune(&self, chain: &Chain, rules: &Rules) -> Result<Pruned, Error> {
        prune(&self.ctx, chain, rules, at(self.now), &CancellationToken::new()).await
    }

    fn keys(&self) -> BTreeSet<ObjectKey> {
        self.store.inner.keys().into_iter().collect()
    }

    /// Everything that a committed backup needs is there, bit for bit. Returns all of those keys, the manifests' included.
    async fn whole(&self) -> BTreeSet<ObjectKey> {
        let mut needed = BTreeSet::new();
        for (manifest, needs) in &self.promised {
            if self.read(manifest).await.is_none() {
                continue;
            }
            needed.insert(manifest.clone());
            for (key, data) in needs {
                assert_eq!(self.read(key).await.as_ref(), Some(data), "{manifest} needs {key}");
                needed.insert(key.clone());
            }
        }
        needed
    }
}

/// What happens to requests that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The process dies before the store hears of the request.
    Before,
    /// The store does what it was asked, and nobody hears of it.
    After,
}

/// A store in memory that can be stopped at any change, and that may deny DELETEs.
#[derive(Default)]
struct Obstacle {
    inner: MemoryStore,
    /// Changes until `stop`.
    fuse: Mutex<Option<(usize, Stop, CancellationToken)>>,
    denied: Mutex<Option<Kind>>,
    changes: AtomicUsize,
}

impl Obstacle {
    /// Whether the request goes through; does not return when the process is dead.
    async fn change<T>(&self, request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let blown = {
            let mut fuse = self.fuse.lock().unwrap();
            match &mut *fuse {
                None => None,
                Some((0, stop, cancel)) => Some((*stop, cancel.clone())),
                Some((left, ..)) => {
                    *left -= 1;
                    None
                }
            }
        };
        let Some((stop, cancel)) = blown else { return request.await };
        if stop == Stop::After {
            drop(request.await);
        }
        cancel.cancel();
        std::future::pending().await
    }
}

#[async_trait::async_trait]
impl Store for Obstacle {
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), StoreError> {
        self.change(self.inner.put(key, payload, overwrite)).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<crate::store::Deleted, StoreError> {
        let kind = BackupPrefix::parse_object("p", &name("c"), key).map(|(_, _, kind)| kind);
        if kind.is_some() && *self.denied.lock().unwrap() == kind {
            return Err(StoreError::local("DeleteObject", key, Class::AccessDenied, "no"));
        }
        self.change(self.inner.delete(key)).await
    }
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, StoreError> {
        self.inner.get(key, range).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        self.inner.list(prefix, from).await
    }
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, StoreError> {
        self.inner.create_upload(key).await
    }
    async fn upload_part(
        &self,
        to: &UploadHandle,
        n: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, StoreError> {
        self.inner.upload_part(to, n, payload).await
    }
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), StoreError> {
        self.inner.complete_upload(upload, parts, size, checksum).await
    }
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), StoreError> {
        self.inner.abort_upload(upload).await
    }
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, StoreError> {
        self.inner.list_parts(upload).await
    }
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, StoreError> {
        self.inner.list_uploads(prefix).await
    }
}

/// Ten daily backups, each with two objects of its own and all of the one before; the first two of another node; and things
/// that are not ours.
async fn ten_days(world: &mut World) -> Vec<Manifest> {
    let (here, there) = (node("a"), node("b"));
    world.put(&ObjectKey::new("p/c/j/a/README.txt"), "mine").await;
    let mut manifests: Vec<Manifest> = Vec::new();
    for day in 0..10 {
        world.pass(DAY);
        if day < 2 {
            world.backup(&there, 1, None).await;
        }
        let parent = manifests.last().filter(|_| day != 5).cloned();
        manifests.push(world.backup(&here, 2, parent.as_ref()).await);
    }
    let notes = BackupPrefix::new("p", &here, &manifests[0].id).as_str().to_owned() + "notes.txt";
    world.put(&ObjectKey::new(notes), "mine too").await;
    manifests
}

fn strangers(world: &World) -> BTreeSet<ObjectKey> {
    let ours = |key: &ObjectKey| {
        BackupPrefix::parse_object("p", &name("c"), key).is_some_and(|(chain, ..)| chain == node("a"))
    };
    world.keys().into_iter().filter(|key| !ours(key)).collect()
}
