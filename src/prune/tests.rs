mod model;
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
use crate::format::ebs::{EbsSnapshot, State, VolumeId};
use crate::format::key::{BackupPrefix, Kind, Name};
use crate::format::manifest::{
    Content, DataObject, IndexObject, Item, Manifest, NotEntered, Outcome, SourceDescription, Stream, VERSION, Warnings,
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
        let item = Item {
            name: name("item"),
            source: SourceDescription::Stdin,
            outcome: Outcome::Success,
            error: None,
            labels: BTreeMap::new(),
            content: Content::Stream { stream: Some(stream) },
        };
        Manifest {
            version: VERSION,
            id,
            job: chain.job.clone(),
            cluster: chain.cluster.clone(),
            node: chain.node.clone(),
            agent: String::new(),
            started: at(self.now),
            finished: at(self.now),
            parent: parent.map(|parent| parent.id.clone()),
            base: parent.map(|parent| parent.base.clone().unwrap_or_else(|| parent.id.clone())),
            labels: BTreeMap::new(),
            outcome: Outcome::Success,
            items: vec![item],
            warnings: Warnings::default(),
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

#[tokio::test]
async fn backups_go_at_once_and_objects_after_the_grace_period() {
    let mut world = World::new();
    let manifests = ten_days(&mut world).await;
    let strangers_before = strangers(&world);
    let before = world.keys().len();
    let pruned = world.prune(&node("a"), &keep_last(3)).await.unwrap();
    let ids: Vec<_> = manifests[..7].iter().map(|manifest| manifest.id.clone()).collect();
    assert_eq!((pruned.deleted, pruned.kept, pruned.objects, pruned.failures.count), (ids, 3, 0, 0));
    assert_eq!(world.keys().len(), before, "each manifest has another name, and nothing else went");
    assert_eq!(world.entries().await.len(), 5);
    // A full backup on the sixth day: nothing of the first five is referred to. Of the two after that only the indexes go.
    assert_eq!(pruned.waiting.waiting.objects, 5 * 3 + 2);
    assert_eq!(pruned.waiting.until, Some(at(world.now + DAY)));

    world.pass(DAY - 1);
    assert_eq!(world.prune(&node("a"), &keep_last(3)).await.unwrap().objects, 0);
    world.pass(1);
    let pruned = world.prune(&node("a"), &keep_last(3)).await.unwrap();
    assert_eq!((pruned.objects, pruned.waiting.waiting.objects), (5 * 3 + 2 + 7, 0));
    let mut expected = world.whole().await;
    assert_eq!(strangers(&world), strangers_before);
    expected.extend(strangers_before);
    assert_eq!(world.keys(), expected);
    assert_eq!(world.prune(&node("a"), &keep_last(3)).await.unwrap().objects, 0);
}

/// The clock of the node jumps ten years ahead for one backup, and back.
#[tokio::test]
async fn a_clock_that_runs_ahead_makes_no_backup_old() {
    let mut world = World::new();
    let chain = node("a");
    ten_days(&mut world).await;
    let right = world.now;
    world.now += 3650 * DAY;
    let mut ahead = world.upload(&chain, 1, None, &[]).await;
    world.now = right + HOUR;
    world.store.inner.set_now(at(world.now));
    ahead.finished = ahead.started;
    world.commit(&chain, &ahead).await;
    let month = Duration::from_hours(30 * 24);
    let within = |window| {
        let retention = Retention { keep_within: Some(window), ..Retention::default() };
        Rules { retention: Some(retention), zone: TimeZone::UTC }
    };
    let pruned = world.prune(&chain, &within(month)).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.kept), (0, 11));
    // It ages as what it is: an hour younger than the last of the ten.
    world.pass(40 * DAY);
    world.backup(&chain, 1, None).await;
    let pruned = world.prune(&chain, &within(month)).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.kept), (11, 1));
}

#[tokio::test]
async fn a_plan_says_what_will_happen_and_does_nothing() {
    let mut world = World::new();
    ten_days(&mut world).await;
    let before = (world.keys(), world.store.changes.load(Ordering::Relaxed));
    world.ctx.grace = Duration::ZERO;
    let plan = plan(&world.ctx, &node("a"), &keep_last(2), at(world.now)).await.unwrap();
    let garbage = survey(&world.ctx, &plan).await.unwrap();
    assert_eq!((world.keys(), world.store.changes.load(Ordering::Relaxed)), before);
    assert_eq!(plan.backups.iter().filter(|backup| backup.stays()).count(), 2);
    let pruned = apply(&world.ctx, &plan).await;
    // The eight deleted manifests went as well.
    assert_eq!(pruned.objects, garbage.due.objects + 8);
    assert!(pruned.bytes > garbage.due.bytes && garbage.due.bytes > 0);
}

#[tokio::test]
async fn what_is_deleted_at_once_takes_nothing_from_what_waits() {
    let mut world = World::new();
    let manifests = ten_days(&mut world).await;
    let chain = node("a");
    world.prune(&chain, &keep_last(4)).await.unwrap();
    let before = world.keys();
    // The first of the second full backup's line: the one after it needs all of its objects, but not its index.
    let last = [manifests[6].id.clone(), manifests[9].id.clone()];
    let cancel = CancellationToken::new();
    let pruned = delete(&world.ctx, &chain, &last, Reclaim::AtOnce, at(world.now), &cancel).await.unwrap();
    assert_eq!((pruned.deleted.as_slice(), pruned.kept), (&last[..], 2));
    world.whole().await;
    let gone: Vec<_> =
        before.difference(&world.keys()).map(|key| key.as_str().rsplit_once('/').unwrap().1.to_owned()).collect();
    assert_eq!(
        gone,
        ["item.index.zst", "manifest.json", "item.0001.zst", "item.0002.zst", "item.index.zst", "manifest.json"]
    );
    for key in manifests[5].named() {
        assert!(world.read(key).await.is_some(), "{key}");
    }
}

#[tokio::test]
async fn no_grace_leaves_nothing_at_once() {
    let mut world = World::new();
    ten_days(&mut world).await;
    let strangers_before = strangers(&world);
    world.ctx.grace = Duration::ZERO;
    world.prune(&node("a"), &keep_last(1)).await.unwrap();
    let mut expected = world.whole().await;
    expected.extend(strangers_before);
    assert_eq!(world.keys(), expected);
}

/// The run dies at each of its changes in turn, before and after the store has done it. The next runs finish the work.
#[tokio::test]
async fn an_interrupted_run_is_taken_up_by_the_next() {
    for grace in [GRACE, Duration::ZERO] {
        for stop in [Stop::Before, Stop::After] {
            let mut step = 0;
            loop {
                let mut world = World::new();
                ten_days(&mut world).await;
                let strangers_before = strangers(&world);
                world.ctx.grace = grace;
                // What was deleted a day ago is due in the run that dies.
                world.prune(&node("a"), &keep_last(6)).await.unwrap();
                world.pass(DAY);
                let cancel = CancellationToken::new();
                *world.store.fuse.lock().unwrap() = Some((step, stop, cancel.clone()));
                let died = prune(&world.ctx, &node("a"), &keep_last(3), at(world.now), &cancel).await;
                *world.store.fuse.lock().unwrap() = None;
                world.whole().await;
                world.pass(HOUR);
                world.prune(&node("a"), &keep_last(3)).await.unwrap();
                world.whole().await;
                world.pass(DAY);
                world.prune(&node("a"), &keep_last(3)).await.unwrap();
                let mut expected = world.whole().await;
                expected.extend(strangers_before);
                assert_eq!(world.keys(), expected, "{stop:?} of change {step}, {grace:?}");
                match died {
                    Err(Error::Cancelled) => step += 1,
                    Ok(_) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(step > 10, "only {step} changes");
        }
    }
}

#[tokio::test]
async fn what_is_denied_is_counted_and_the_rest_goes_on() {
    let metrics = Metrics::new();
    let mut world = World::new();
    world.ctx.metrics = metrics.job("j");
    world.ctx.grace = Duration::ZERO;
    ten_days(&mut world).await;
    *world.store.denied.lock().unwrap() = Some(Kind::Data);
    let pruned = world.prune(&node("a"), &keep_last(3)).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.failures.count, pruned.objects), (7, 10, 7 + 7));
    assert!(pruned.failures.list.iter().all(|(_, report)| report.class == Class::AccessDenied));
    world.whole().await;

    *world.store.denied.lock().unwrap() = Some(Kind::Manifest);
    let pruned = world.prune(&node("a"), &keep_last(2)).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.kept, pruned.failures.count), (0, 3, 1));
    assert_eq!(world.whole().await.iter().filter(|key| key.as_str().ends_with("manifest.json")).count(), 3 + 2);

    *world.store.denied.lock().unwrap() = None;
    assert_eq!(world.prune(&node("a"), &keep_last(2)).await.unwrap().failures.count, 0);
    let value = |name: &str, outcome: &str| {
        let family = metrics.gather().into_iter().find(|family| family.name() == name).unwrap();
        let of = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|pair| pair.value() == outcome);
        let metric = family.get_metric().iter().find(of).cloned().unwrap();
        format!("{}", metric.get_counter().get_value() + metric.get_gauge().get_value())
    };
    assert_eq!(value("penstock_backups_deleted_total", "success"), "8");
    assert_eq!(value("penstock_backups_deleted_total", "failure"), "1");
    assert_eq!(value("penstock_backups", "j"), "2");
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_stops_the_chain_until_it_is_deleted() {
    let mut world = World::new();
    let manifests = ten_days(&mut world).await;
    let key = |manifest: &Manifest| BackupPrefix::new("p", &node("a"), &manifest.id).manifest();
    let (bad, newer) = (&manifests[4], &manifests[9]);
    let spoil = |key: ObjectKey, text: &'static str| {
        let payload = Payload::new(text, Algorithm::None);
        let store = Arc::clone(&world.store);
        async move { store.inner.put(&key, payload, Overwrite::Allow).await.unwrap() }
    };
    spoil(key(bad), "{").await;
    let before = world.keys();
    let refused = world.prune(&node("a"), &keep_last(1)).await.unwrap_err();
    assert_eq!(refused.class(), Class::Integrity);
    assert!(refused.to_string().contains(key(bad).as_str()), "{refused}");
    let cancel = CancellationToken::new();
    let others = [manifests[0].id.clone()];
    let refused =
        delete(&world.ctx, &node("a"), &others, Reclaim::AfterGrace, at(world.now), &cancel).await.unwrap_err();
    assert_eq!(refused.class(), Class::Integrity, "what the bad one needs is not known");
    assert_eq!(world.keys(), before);

    let bad_one = [bad.id.clone()];
    let pruned = delete(&world.ctx, &node("a"), &bad_one, Reclaim::AfterGrace, at(world.now), &cancel).await.unwrap();
    assert_eq!((pruned.deleted.as_slice(), pruned.kept), (&bad_one[..], 9));
    world.promised.remove(&key(bad));
    world.whole().await;

    // One that a newer Penstock wrote is not deleted by an older one.
    let text = r#"{ "version": 2 }"#;
    let payload = Payload::new(text, Algorithm::None);
    world.store.inner.put(&key(newer), payload, Overwrite::Allow).await.unwrap();
    let newer_one = [newer.id.clone()];
    let refused =
        delete(&world.ctx, &node("a"), &newer_one, Reclaim::AfterGrace, at(world.now), &cancel).await.unwrap_err();
    assert_eq!(refused.class(), Class::Compat);
    let missing = [BackupId::new(at(0), 0xff_ffff)];
    let refused =
        delete(&world.ctx, &node("a"), &missing, Reclaim::AfterGrace, at(world.now), &cancel).await.unwrap_err();
    assert_eq!(refused.class(), Class::NotFound, "{refused}");
}

#[tokio::test]
async fn a_run_without_a_manifest_is_left_alone_until_nothing_came_for_the_grace_period() {
    let mut world = World::new();
    let chain = node("a");
    let done = world.backup(&chain, 1, None).await;
    world.pass(DAY);
    let running = world.upload(&chain, 2, Some(&done), &[]).await;
    // An hour before the grace period ends it completes another object.
    world.pass(DAY - HOUR);
    let late = BackupPrefix::new("p", &chain, &running.id).data(&name("other"), 1, "bin");
    world.put(&late, "late").await;
    world.pass(2 * HOUR);
    let pruned = world.prune(&chain, &KEEP_ALL).await.unwrap();
    assert_eq!((pruned.objects, pruned.waiting.waiting.objects), (0, 4));
    world.pass(DAY - 2 * HOUR);
    let pruned = world.prune(&chain, &KEEP_ALL).await.unwrap();
    assert_eq!((pruned.objects, pruned.deleted.len(), pruned.kept), (4, 0, 1));
    assert_eq!(world.keys(), world.whole().await);
}

#[tokio::test]
async fn who_began_to_restore_finds_everything_for_the_grace_period() {
    let mut world = World::new();
    let manifests = ten_days(&mut world).await;
    world.prune(&node("a"), &keep_last(4)).await.unwrap();
    world.pass(DAY - HOUR);
    // The seventh is kept until now; its objects are as old as those that may go any moment.
    world.prune(&node("a"), &keep_last(2)).await.unwrap();
    for hours in [0, 2, 23 - 2] {
        world.pass(hours * HOUR);
        world.prune(&node("a"), &keep_last(2)).await.unwrap();
        for key in manifests[7].named() {
            assert!(world.read(key).await.is_some(), "{key}, {hours} hours");
        }
    }
}

#[tokio::test]
async fn a_job_without_retention_costs_a_listing_until_something_is_left_behind() {
    let metrics = Metrics::new();
    let mut world = World::new();
    world.ctx.metrics = metrics.job("j");
    let chain = node("a");
    // Not a manifest is read: this one could not be.
    for _ in 0..3 {
        let manifest = world.upload(&chain, 1, None, &[]).await;
        world.put(&BackupPrefix::new("p", &chain, &manifest.id).manifest(), "{").await;
    }
    assert_eq!(world.prune(&chain, &KEEP_ALL).await.unwrap().kept, 3);
    let backups = metrics.gather().into_iter().find(|family| family.name() == "penstock_backups").unwrap();
    assert_eq!(format!("{}", backups.get_metric()[0].get_gauge().get_value()), "3");
    world.upload(&chain, 1, None, &[]).await;
    assert_eq!(world.prune(&chain, &KEEP_ALL).await.unwrap_err().class(), Class::Integrity);
}
