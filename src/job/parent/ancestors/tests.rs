use super::*;
use crate::checksum::Algorithm;
use crate::format::codec::Suffix;
use crate::format::index::Totals;
use crate::format::key::BackupPrefix;
use crate::format::manifest::{IndexObject, SourceDescription};
use crate::format::testing::{chain, item, manifest_of, name, stream};
use crate::location::memory;
use crate::store::memory::MemoryStore;
use crate::store::{Overwrite, Payload, Store as _};

const DAY: i64 = 24 * 3600;
const HOUR: Duration = Duration::from_hours(1);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn object(key: ObjectKey, size: u64) -> DataObject {
    DataObject { key, size, crc64nvme: [0; 8], payload: None, live_bytes: 0, version: None }
}

/// A chain in a store with pages of three.
struct World(Arc<MemoryStore>);

impl World {
    fn new() -> Self {
        Self(Arc::new(MemoryStore::with_limits(5 << 20, 3)))
    }

    async fn put(&self, key: &ObjectKey, data: Vec<u8>) {
        self.0.put(key, Payload::new(data, Algorithm::None), Overwrite::Refuse).await.unwrap();
    }

    /// A backup of `of` that says it started at `started` and took a minute, and was stored a minute after `began`. It stores an object
    /// of its own and refers to that of `parent`.
    async fn backup(&self, of: &str, started: i64, began: i64, parent: Option<&Manifest>) -> Manifest {
        self.0.set_now(at(began + 60));
        let id = BackupId::new(at(started), 0);
        let home = BackupPrefix::new("", &chain("n"), &id);
        let own = home.data(&name(of), 1, Suffix::Bin);
        self.put(&own, vec![0; 10]).await;
        let old = parent.into_iter().flat_map(Manifest::streams).flat_map(|(_, stream)| stream.objects.clone());
        let index = IndexObject { key: home.index(&name(of), Suffix::Index), size: 5, sha256: [0; 32], version: None };
        self.put(&index.key, vec![0; 5]).await;
        let objects: Vec<DataObject> = old.chain([object(own, 10)]).collect();
        let totals = Totals { chunks: 0, files: 0, plain_bytes: 0, digest: [0; 32] };
        let manifest = Manifest {
            finished: at(started + 60),
            parent: parent.map(|parent| parent.id.clone()),
            base: parent.map(|parent| base(parent).clone()),
            ..manifest_of(
                chain("n"),
                id,
                vec![item(of, SourceDescription::Stdin, Some(stream(totals, index, objects)))],
            )
        };
        self.put(&home.manifest(), manifest.to_json()).await;
        manifest
    }

    fn ancestors(&self, full_every: Option<Duration>, now: i64) -> Ancestors {
        let location = memory::open(Arc::clone(&self.0) as _, "", 1 << 20);
        Ancestors::new(&location, &chain("n"), Policy { full_every, ..Policy::default() }, at(now))
    }

    async fn parent(&self, of: &str, full_every: Option<Duration>, now: i64) -> Option<BackupId> {
        let candidate = self.ancestors(full_every, now).candidate(&name(of), 0).await.unwrap();
        candidate.map(|(ancestor, _)| ancestor.manifest.id.clone())
    }
}

#[tokio::test]
async fn backups_whose_clock_was_ahead_hide_no_parent() {
    let world = World::new();
    let db = world.backup("db", 0, 0, None).await;
    for number in (1..).take(LOOK_BACK) {
        world.backup("files", 3650 * DAY + number, number * 100, None).await;
    }
    let last = world.backup("files", DAY, DAY, None).await;
    assert_eq!(world.parent("files", None, 2 * DAY).await, Some(last.id), "the one that was taken last");
    assert_eq!(world.parent("db", None, 2 * DAY).await, None, "it has not been there for so long that it is new");
    world
        .0
        .delete(&BackupPrefix::new("", &chain("n"), &BackupId::new(at(3650 * DAY + 1), 0)).manifest())
        .await
        .unwrap();
    world
        .0
        .delete(&BackupPrefix::new("", &chain("n"), &BackupId::new(at(3650 * DAY + 2), 0)).manifest())
        .await
        .unwrap();
    assert_eq!(world.parent("db", None, 2 * DAY).await, Some(db.id));
}

#[tokio::test]
async fn a_full_backup_is_due_so_long_after_the_last_one() {
    let day = |days| Some(24 * HOUR * days);
    let world = World::new();
    let full = world.backup("files", 0, 0, None).await;
    for (every, now, due) in [(None, 90, false), (day(30), 30, true), (day(31), 30, false)] {
        assert_eq!(world.parent("files", every, now * DAY).await.is_none(), due, "{every:?}");
    }
    let incremental = world.backup("files", 29 * DAY, 29 * DAY, Some(&full)).await;
    assert_eq!(world.parent("files", day(31), 30 * DAY).await, Some(incremental.id.clone()));
    assert_eq!(world.parent("files", day(30), 30 * DAY).await, None);
    // Retention has deleted the full one; its objects are there.
    world.0.delete(&BackupPrefix::new("", &chain("n"), &full.id).manifest()).await.unwrap();
    assert_eq!(world.parent("files", day(31), 30 * DAY).await, Some(incremental.id));
    assert_eq!(world.parent("files", day(30), 30 * DAY).await, None);
}

/// A full backup that was taken a month ahead is due like any other: so long after the store took it.
#[tokio::test]
async fn a_clock_that_was_ahead_puts_off_no_full_backup() {
    let day = |days| Some(24 * HOUR * days);
    let world = World::new();
    let full = world.backup("files", 30 * DAY, 0, None).await;
    assert_eq!(world.parent("files", day(2), DAY).await, Some(full.id.clone()));
    assert_eq!(world.parent("files", day(1), 2 * DAY).await, None);
    let incremental = world.backup("files", DAY, DAY, Some(&full)).await;
    assert_eq!(world.parent("files", day(3), 2 * DAY).await, Some(incremental.id.clone()));
    assert_eq!(world.parent("files", day(1), 2 * DAY).await, None);
    // Nothing is left of it, and its id lies ahead: nobody knows how old it is.
    for key in world.0.keys().into_iter().filter(|key| key.as_str().contains(full.id.as_str())) {
        world.0.delete(&key).await.unwrap();
    }
    assert_eq!(world.parent("files", day(3), 2 * DAY).await, None);
    assert_eq!(world.parent("files", day(1), 3 * DAY).await, None);
}

#[tokio::test]
async fn a_backup_begins_no_later_than_the_store_says() {
    let world = World::new();
    let began = async |started, began| {
        world.backup("files", started, began, None).await;
        let (ancestor, _) = world.ancestors(None, 0).candidate(&name("files"), 0).await.unwrap().unwrap();
        ancestor.began()
    };
    assert_eq!(began(0, 0).await, at(0));
    assert_eq!(began(3650 * DAY, DAY).await, at(DAY), "the clock was ahead: it took a minute");
    assert_eq!(began(2 * DAY, 9 * DAY).await, at(2 * DAY), "it was copied a week later");
}

/// Both ways to look, in as many pages as it takes.
#[tokio::test]
async fn a_parents_objects_are_listed() {
    for strangers in [0, 20] {
        let world = World::new();
        let full = world.backup("files", 0, 0, None).await;
        let middle = world.backup("files", DAY, DAY, Some(&full)).await;
        let last = world.backup("files", 2 * DAY, 2 * DAY, Some(&middle)).await;
        for number in 0..strangers {
            world.backup("other", number + 1, number + 1, None).await;
        }
        let [_, (_, gone), _] = [&full, &middle, &last].map(|manifest| manifest.streams().next().unwrap());
        let gone = gone.objects.last().unwrap().key.clone();
        world.0.delete(&gone).await.unwrap();
        let mut ancestors = world.ancestors(None, 3 * DAY);
        let (ancestor, _) = ancestors.candidate(&name("files"), 0).await.unwrap().unwrap();
        ancestors.survey(&ancestor).await.unwrap();
        let (_, stream) = ancestor.manifest.streams().next().unwrap();
        let complaints: Vec<_> = stream.objects.iter().map(|object| ancestors.complaint(object)).collect();
        assert_eq!(complaints, [None, Some("is missing".to_owned()), None]);
        let larger = object(stream.objects[0].key.clone(), 11);
        assert_eq!(ancestors.complaint(&larger), Some("has 10 bytes; expected 11".to_owned()));
        assert_eq!(
            ancestors.sizes.len(),
            3,
            "the index, and what is there of three objects; nothing that the parent does not name"
        );
    }
}

/// What was listed with the chain need not be listed again.
#[tokio::test]
async fn a_chain_of_one_page_is_listed_once() {
    let world = World(Arc::new(MemoryStore::with_limits(5 << 20, 9)));
    let full = world.backup("files", 0, 0, None).await;
    let middle = world.backup("files", DAY, DAY, Some(&full)).await;
    world.backup("files", 2 * DAY, 2 * DAY, Some(&middle)).await;
    let gone = full.streams().next().unwrap().1.objects[0].key.clone();
    for expected in [None, Some("is missing".to_owned())] {
        let before = world.0.requests("ListObjectsV2");
        let mut ancestors = world.ancestors(None, 3 * DAY);
        let (ancestor, _) = ancestors.candidate(&name("files"), 0).await.unwrap().unwrap();
        ancestors.survey(&ancestor).await.unwrap();
        let objects = &ancestor.manifest.streams().next().unwrap().1.objects;
        let complaints: Vec<_> = objects.iter().map(|object| ancestors.complaint(object)).collect();
        assert_eq!(complaints, [expected, None, None]);
        assert_eq!(world.0.requests("ListObjectsV2") - before, 1);
        world.0.delete(&gone).await.unwrap();
    }
}
