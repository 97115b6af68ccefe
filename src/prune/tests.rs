mod attacks;
mod locks;
mod model;
mod runs;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::checksum::Algorithm;
use crate::disks::memory::{self as disks, MemoryDisks, error, volume};
use crate::disks::{Disks as _, NewSnapshot, Tags};
use crate::format::codec::Suffix;
use crate::format::ebs::{EbsSnapshot, VolumeId};
use crate::format::index::Totals;
use crate::format::key::{BackupPrefix, Kind};
use crate::format::manifest::{Content, DataObject, IndexObject, Item, Manifest, SourceDescription};
use crate::format::testing::{chain as node, item, manifest_of, name, object, stream};
use crate::location::memory;
use crate::metrics::Metrics;
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Error as StoreError, Overwrite, Payload, Store as _};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn keep_last(count: u32) -> Rules {
    let retention = Retention { keep_last: Some(count), ..Retention::default() };
    Rules { retention: Some(retention), zone: TimeZone::UTC }
}

const KEEP_ALL: Rules = Rules { retention: None, zone: TimeZone::UTC };

/// A store with chains in it, and a clock.
struct World {
    store: Arc<MemoryStore>,
    /// The same for the process under test.
    client: Arc<MemoryStore>,
    disks: Arc<MemoryDisks>,
    ctx: Context,
    now: i64,
    serial: u32,
    /// What each committed backup must still find, by the manifest's key.
    promised: BTreeMap<ObjectKey, BTreeMap<ObjectKey, Bytes>>,
}

impl World {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let client = Arc::new(store.client());
        let disks = Arc::new(MemoryDisks::new([volume(&"vol-01234567".parse().unwrap(), &[])]));
        let remote = memory::Memory::new(Arc::clone(&client) as _).with_disks(Arc::clone(&disks) as _);
        let catalog = Catalog::new(&remote.open(&memory::config("p"), 1 << 20));
        let ctx = Context { catalog, grace: GRACE };
        let mut world = Self { store, client, disks, ctx, now: 0, serial: 0, promised: BTreeMap::new() };
        world.pass(0);
        world
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.store.set_now(at(self.now));
    }

    async fn put(&self, key: &ObjectKey, data: impl Into<Bytes>) {
        let payload = Payload::new(data, Algorithm::None);
        self.store.put(key, payload, Overwrite::Refuse).await.unwrap();
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
            let key = home.data(&name("item"), number, Suffix::Zst);
            let data = format!("data of {key}");
            self.put(&key, data.clone()).await;
            objects.push(object(key, data.as_bytes()));
        }
        let key = home.index(&name("item"), Suffix::Index);
        let data = format!("index of {key}");
        self.put(&key, data.clone()).await;
        let index = IndexObject { key, size: data.len() as u64, sha256: Sha256::digest(&data).into(), version: None };
        let totals = Totals { chunks: 1, files: 0, plain_bytes: 1000, digest: [0; 32] };
        Manifest {
            parent: parent.map(|parent| parent.id.clone()),
            base: parent.map(|parent| parent.base.clone().unwrap_or_else(|| parent.id.clone())),
            ..manifest_of(
                chain.clone(),
                id,
                vec![item("item", SourceDescription::Stdin, Some(stream(totals, index, objects)))],
            )
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
        let mut body = self.store.get(key, None).await.ok()?.body;
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
        self.store.keys().into_iter().collect()
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

/// When the process dies at a request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The process dies before the store hears of the request.
    Before,
    /// The store does what it was asked, and nobody hears of it.
    After,
}

impl World {
    /// PUTs and DELETEs so far.
    fn changes(&self) -> usize {
        self.client.requests("PutObject") + self.client.requests("DeleteObject")
    }

    /// Stops the process at the change after so many.
    fn stop_at(&self, changes: usize, stop: Stop, cancel: CancellationToken) {
        let mut left = changes;
        self.client.script(move |operation, _, _| {
            if !matches!(operation, "PutObject" | "DeleteObject") {
                return None;
            }
            let Some(less) = left.checked_sub(1) else {
                cancel.cancel();
                return Some(if stop == Stop::After { Fault::HangAfter } else { Fault::Hang });
            };
            left = less;
            None
        });
    }

    /// Denies the deletion of such objects.
    fn deny(&self, denied: Kind) {
        self.client.script(move |operation, key, _| {
            let kind = || BackupPrefix::parse_object("p", &name("c"), &ObjectKey::new(key)).map(|(_, _, kind)| kind);
            (operation == "DeleteObject" && kind() == Some(denied))
                .then(|| Fault::Refuse(StoreError::local("DeleteObject", key, Class::AccessDenied, "no")))
        });
    }

    fn let_everything_pass(&self) {
        self.client.script(|_, _, _| None);
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
