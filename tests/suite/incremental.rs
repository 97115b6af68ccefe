//! What an incremental backup reads, stores and asks for; and that a parent that is not what it was is only a warning.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use penstock::checksum::Algorithm;
use penstock::format::codec::Compression;
use penstock::format::key::ObjectKey;
use penstock::format::manifest::{DataObject, Manifest, Outcome, Stream};
use penstock::job::{self, Progress, Reuse};
use penstock::location::Location;
use penstock::store::{Overwrite, Payload, Store as _};
use penstock::upload::journal;
use tokio_util::sync::CancellationToken;

use crate::dying::Dying;
use crate::model::{World, noise, tick};
use crate::tar::facts;

const ZSTD: Compression = Compression::Zstd { level: 1 };

/// What a run did.
struct Done {
    manifest: Manifest,
    requests: u32,
    parts: usize,
    read: u64,
    deduplicated: u64,
}

impl Done {
    fn stream(&self) -> &Stream {
        self.manifest.streams().next().unwrap().1
    }

    fn warnings(&self) -> Vec<&str> {
        self.manifest.warnings.list.iter().map(|warning| warning.message.as_str()).collect()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "these counters count bytes")]
fn counter(location: &Location, name: &str) -> u64 {
    let families = location.process.metrics.gather();
    let family = families.iter().find(|family| family.name() == format!("penstock_{name}"));
    family.map_or(0, |family| family.get_metric()[0].get_counter().get_value() as u64)
}

async fn run(world: &mut World, reuse: Reuse, adapt: impl FnOnce(&mut Location, &mut job::Spec)) -> Done {
    tick(world.folder.path());
    let counted = Dying::new(&world.store, u32::MAX);
    let (mut location, mut spec) = (world.location(counted.store.clone()), world.spec(reuse, ZSTD, 300));
    adapt(&mut location, &mut spec);
    let before = facts(&world.tree());
    let result = job::run(&location, &spec, &Arc::new(Progress::default()), &CancellationToken::new()).await;
    let manifest = result.unwrap().manifest;
    world.kept.push((manifest.clone(), before));
    let (read, deduplicated) =
        (counter(&location, "source_bytes_total"), counter(&location, "deduplicated_bytes_total"));
    Done { manifest, requests: counted.answered(), parts: counted.parts(), read, deduplicated }
}

async fn incremental(world: &mut World) -> Done {
    run(world, Reuse::Files, |_, _| {}).await
}

async fn replace(world: &World, key: &ObjectKey, data: Vec<u8>) {
    let payload = Payload::new(data, Algorithm::Crc64nvme);
    world.store.put(key, payload, Overwrite::Allow).await.unwrap();
}

async fn object(world: &World, key: &ObjectKey) -> Vec<u8> {
    use futures_util::TryStreamExt as _;
    let pieces: Vec<bytes::Bytes> = world.store.get(key, None).await.unwrap().body.try_collect().await.unwrap();
    pieces.concat()
}

fn manifest_key(manifest: &Manifest) -> ObjectKey {
    ObjectKey::new(format!("fleet/c/model/n/{}/manifest.json", manifest.id))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_neither_read_nor_stored() {
    let mut world = World::new();
    fs::write(world.path(20), noise(9_000_000, 99)).unwrap();
    let first = incremental(&mut world).await;
    let plain = first.stream().plain_bytes;
    assert_eq!((first.read, first.deduplicated, &first.manifest.parent), (plain, 0, &None));

    let second = incremental(&mut world).await;
    assert_eq!(second.manifest.parent.as_ref(), Some(&first.manifest.id));
    assert_eq!(second.manifest.base.as_ref(), Some(&first.manifest.id));
    // The end of the archive is all that is read.
    assert_eq!((second.read, second.deduplicated), (1024, plain));
    assert_eq!((second.stream().new_bytes, second.stream().digest), (0, first.stream().digest));
    assert!(second.requests <= 12, "{}", second.requests);

    let third = run(&mut world, Reuse::Chunks, |_, _| {}).await;
    assert_eq!((third.read, third.stream().new_bytes), (plain, 0), "--force");
    let fourth = run(&mut world, Reuse::Nothing, |_, _| {}).await;
    assert_eq!((fourth.manifest.parent, fourth.manifest.base), (None, None), "--full");
    world.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_moves_little_more_than_itself() {
    let mut world = World::new();
    fs::write(world.path(20), noise(9_000_000, 99)).unwrap();
    incremental(&mut world).await;
    fs::write(world.path(3), noise(40_000, 77)).unwrap();
    let small = incremental(&mut world).await;
    assert!((40_000..400_000).contains(&small.read), "{}", small.read);
    assert!((40_000..400_000).contains(&small.stream().new_bytes), "{}", small.stream().new_bytes);

    // Another header, the same content: it is read, but not stored again.
    fs::rename(world.path(20), world.path(21)).unwrap();
    fs::set_permissions(world.path(21), fs::Permissions::from_mode(0o600)).unwrap();
    let large = incremental(&mut world).await;
    assert!((9_000_000..9_500_000).contains(&large.read), "{}", large.read);
    assert!(large.stream().new_bytes < 300_000, "{}", large.stream().new_bytes);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_back_when_the_tree_ended_is_still_found() {
    let mut world = World::new();
    incremental(&mut world).await;
    // The last file of the walk: those before it in its chunk are unchanged, and have to be read after all.
    fs::remove_file(world.path(12)).unwrap();
    let second = incremental(&mut world).await;
    assert_eq!(second.warnings(), Vec::<&str>::new());
    world.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_damaged_is_a_warning_and_the_one_before_it_is_asked() {
    let mut world = World::new();
    let first = incremental(&mut world).await;
    let second = incremental(&mut world).await;
    let index = second.stream().index.key.clone();
    let good = object(&world, &index).await;
    let mut bad = good.clone();
    bad[40] ^= 1;
    replace(&world, &index, bad).await;
    let third = incremental(&mut world).await;
    assert_eq!(third.manifest.parent.as_ref(), Some(&first.manifest.id));
    assert_eq!((third.manifest.outcome, third.stream().new_bytes), (Outcome::Partial, 0));
    assert!(third.warnings()[0].contains(index.as_str()), "{:?}", third.warnings());
    replace(&world, &index, good).await;
    let fourth = incremental(&mut world).await;
    assert_eq!(
        (fourth.read, &fourth.manifest.parent),
        (1024, &Some(third.manifest.id)),
        "the warning was about no file"
    );
    world.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_parent_that_can_be_read_the_backup_is_full() {
    let mut world = World::new();
    let first = incremental(&mut world).await;
    let key = manifest_key(&first.manifest);
    let good = object(&world, &key).await;
    let newer = String::from_utf8(good.clone()).unwrap().replacen("\"version\": 1", "\"version\": 2", 1);
    for (bad, said) in [(newer.into_bytes(), "version 2"), (b"{".to_vec(), "not a manifest")] {
        replace(&world, &key, bad).await;
        let run = incremental(&mut world).await;
        assert_eq!((&run.manifest.parent, run.deduplicated), (&None, 0));
        assert!(run.warnings().len() == 1 && run.warnings()[0].contains(said), "{:?}", run.warnings());
        world.store.delete(&manifest_key(&run.manifest)).await.unwrap();
        world.kept.pop();
    }
    replace(&world, &key, good).await;
    world.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_a_lost_object_is_stored_again() {
    let mut world = World::new();
    fs::write(world.path(20), noise(9_000_000, 99)).unwrap();
    let first = incremental(&mut world).await;
    let lost = first.stream().objects[1].clone();
    world.store.delete(&lost.key).await.unwrap();
    // The one backup that cannot be restored any more.
    world.kept.clear();
    let second = incremental(&mut world).await;
    assert!(second.warnings()[0].contains("is missing"), "{:?}", second.warnings());
    let new = second.stream().new_bytes;
    assert!((lost.size..lost.size + 200_000).contains(&new), "{new} of {}", lost.size);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_little_use_is_let_go() {
    let mut world = World::new();
    let first = incremental(&mut world).await;
    for file in 0..13 {
        fs::write(world.path(file), noise(40_000, 500 + u64::from(file))).unwrap();
    }
    let names = |run: &Done| {
        let mine = |object: &&DataObject| object.key == first.stream().objects[0].key;
        run.stream().objects.iter().find(mine).map(|object| object.live_bytes * 100 / object.size)
    };
    let second = incremental(&mut world).await;
    assert!(names(&second).is_some_and(|live| live < 30), "{:?}", names(&second));
    let third = incremental(&mut world).await;
    assert_eq!(names(&third), None, "what was live of it is stored again");
    assert!(third.stream().new_bytes > 0);
    world.check().await;
}

/// A run that dies with its n-th request.
async fn die(world: &World, requests: u32) {
    let dying = Dying::new(&world.store, requests);
    let mut location = world.location(dying.store.clone());
    Arc::make_mut(&mut location.config).upload.object_size = 1 << 30;
    let spec = world.spec(Reuse::Files, Compression::None, 300);
    let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
    tokio::select! {
        _ = job::run(&location, &spec, &progress, &cancel) => panic!("it came to its end"),
        () = dying.dead() => {}
    }
}

/// Waits until what the dead run had under way is on the disk, and its entry is nobody's.
async fn buried(world: &World) -> usize {
    for _ in 0..1000 {
        let entries = journal::interrupted(&world.state()).unwrap();
        if let [entry] = &entries[..] {
            return entry.parts().unwrap().len();
        }
        drop(entries);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the entry stays locked");
}

async fn again(world: &mut World) -> Done {
    let large = |location: &mut Location, spec: &mut job::Spec| {
        Arc::make_mut(&mut location.config).upload.object_size = 1 << 30;
        spec.codec.compression = Compression::None;
    };
    run(world, Reuse::Files, large).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_is_gone_on_with() {
    let mut world = World::new();
    fs::write(world.path(20), noise(40_000_000, 99)).unwrap();
    // The listing, the create and four parts.
    die(&world, 6).await;
    let stored = buried(&world).await;
    assert!((1..=4).contains(&stored), "{stored}");
    let uploads = world.store.list_uploads("").await.unwrap();
    let run = again(&mut world).await;
    let plain = run.stream().plain_bytes;
    assert_eq!(run.parts as u64, plain.div_ceil(5 << 20) - stored as u64);
    assert_eq!(run.stream().objects[0].key, uploads[0].upload.key, "the object is the one that was begun");
    assert_eq!(run.stream().objects[0].size, plain, "and a plain archive");
    world.check().await;
    world.sweep().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_since_is_sent_again() {
    let mut world = World::new();
    fs::write(world.path(20), noise(40_000_000, 99)).unwrap();
    die(&world, 6).await;
    buried(&world).await;
    // In the first part of the archive.
    fs::write(world.path(2), noise(40_000, 1234)).unwrap();
    let run = again(&mut world).await;
    assert!(run.parts >= 1 && run.stream().objects.len() == 1);
    world.check().await;
    world.sweep().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_gone_is_begun_afresh() {
    let mut world = World::new();
    fs::write(world.path(20), noise(40_000_000, 99)).unwrap();
    die(&world, 6).await;
    buried(&world).await;
    let gone = world.store.list_uploads("").await.unwrap();
    world.store.abort_upload(&gone[0].upload).await.unwrap();
    let run = again(&mut world).await;
    assert_eq!(run.parts as u64, run.stream().plain_bytes.div_ceil(5 << 20));
    assert_ne!(run.stream().objects[0].key, gone[0].upload.key);
    world.check().await;
    world.sweep().await;
}

/// Damage that leaves an object's size alone shows in no listing: the record of `verify --data` tells the next run.
#[tokio::test(flavor = "multi_thread")]
async fn what_verify_found_damaged_is_stored_again_and_only_that() {
    use penstock::catalog::{Catalog, Scope};
    use penstock::verify::{self, Depth};

    let mut world = World::new();
    fs::write(world.path(20), noise(9_000_000, 99)).unwrap();
    let first = incremental(&mut world).await;
    let damaged = first.stream().objects[1].clone();
    let mut data = object(&world, &damaged.key).await;
    let middle = data.len() / 2;
    data[middle] ^= 1;
    replace(&world, &damaged.key, data).await;
    let location = world.location(world.store.clone());
    let progress: penstock::download::Progress = Arc::new(|_| {});
    let cancel = CancellationToken::new();
    let find = |manifest: Manifest| {
        let (location, progress, cancel) = (location.clone(), progress.clone(), cancel.clone());
        async move { verify::verify(&location, &manifest, Depth::Data, &cancel, &progress).await.unwrap() }
    };
    let found = find(first.manifest.clone()).await;
    assert_eq!(found.lost.keys().collect::<Vec<_>>(), [&damaged.key]);

    let second = incremental(&mut world).await;
    assert_eq!(second.stream().new_bytes, 0, "nobody knows of it yet");
    assert_eq!(find(second.manifest).await.lost.len(), 1);

    let entry = Catalog::new(&location).entries(Scope::default()).await.unwrap().remove(0);
    verify::record(&location, &entry, &found.lost).await.unwrap();
    let third = incremental(&mut world).await;
    let new = third.stream().new_bytes;
    assert!(new > 0 && new < damaged.size, "{new} of {}: the damaged chunk alone", damaged.size);
    assert_eq!(find(third.manifest).await.list, []);
    let fourth = incremental(&mut world).await;
    assert_eq!(fourth.stream().new_bytes, 0, "once");
    // The object differs still, where these backups have nothing of it.
    assert_eq!(find(fourth.manifest).await.list, []);
}
