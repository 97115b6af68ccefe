//! Deleting and restoring, on the block service in memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::restore::{Made, Wanted};
use super::*;
use crate::clock::Virtual;
use crate::config::{Ebs, OnNoMatch};
use crate::disks::memory::{Fault, MemoryDisks, error, volume};
use crate::disks::{self, Disks as _, Encryption, NewSnapshot, SnapshotState, Tags};
use crate::format::ebs::{EbsSnapshot, State};
use crate::format::manifest::{Content, Item, SourceDescription};
use crate::format::testing::name;
use crate::location::memory;
use crate::store::memory::MemoryStore;
use tokio_util::sync::CancellationToken;

fn owner(job: &str, id: &str) -> Owner {
    Owner { chain: Chain { cluster: name("c"), job: name(job), node: name("n") }, id: id.parse().unwrap() }
}

const ID: &str = "20261123T221300Z-4f9a2c";
const OTHER: &str = "20261122T221300Z-000000";

fn vol(number: u8) -> VolumeId {
    format!("vol-{number:08x}").parse().unwrap()
}

struct World {
    clock: Virtual,
    disks: Arc<MemoryDisks>,
    location: Location,
}

impl World {
    fn new() -> Self {
        let clock = Virtual::default();
        let volumes = (0..4).map(|number| volume(&vol(number), &[("Name", "db")]));
        let disks = Arc::new(MemoryDisks::with_clock(volumes, Arc::new(clock.clone())));
        let remote = memory::Memory::new(Arc::new(MemoryStore::new())).with_disks(disks.clone());
        let location = remote.open(&memory::config(""), 1 << 20).with_clock(Arc::new(clock.clone()));
        Self { clock, disks, location }
    }

    /// A snapshot of a backup, as `create` tags it.
    async fn snapshot(&self, owner: &Owner, number: u8) -> SnapshotId {
        let ebs = Ebs {
            volumes: Vec::new(),
            select_tags: Tags::new(),
            attached_to: None,
            on_no_match: OnNoMatch::Error,
            tags: Tags::new(),
            copy_volume_tags: false,
            concurrency: 1,
            wait: None,
        };
        let tags = tags::of_new_snapshot(owner, &volume(&vol(number), &[]), &ebs);
        let new = NewSnapshot { volume: vol(number), description: String::new(), tags };
        self.disks.create_snapshot(&new).await.unwrap().id
    }

    fn left(&self) -> Vec<SnapshotId> {
        self.disks.all_snapshots().into_iter().map(|snapshot| snapshot.id).collect()
    }

    async fn restore(&self, original: &EbsSnapshot, wanted: &Wanted) -> Result<(disks::Volume, Made), Error> {
        let stop = CancellationToken::new();
        let owner = owner("disks", ID);
        let made = restore::volume(&self.location, &owner, original, wanted, &stop);
        Box::pin(self.clock.run(made)).await
    }
}

fn recorded(id: &SnapshotId, number: u8) -> EbsSnapshot {
    EbsSnapshot::example(id.clone(), vol(number))
}

fn manifest(owner: &Owner, snapshots: Vec<EbsSnapshot>) -> Manifest {
    let item = |snapshot: EbsSnapshot| {
        let labels = [("pvc_namespace", "shop".to_owned()), ("pvc_name", snapshot.volume_id.to_string())];
        let item = name(&format!("data-{}", snapshot.volume_id));
        let source = SourceDescription::Ebs { selected_by: "named".to_owned() };
        let item = Item::new(item, source, Content::EbsSnapshot { snapshot: Some(snapshot) });
        Item { labels: labels.map(|(label, value)| (label.to_owned(), value)).into(), ..item }
    };
    let items = snapshots.into_iter().map(item).collect();
    Manifest { items, ..Manifest::new(owner.chain.clone(), owner.id.clone(), jiff::Timestamp::UNIX_EPOCH) }
}

#[tokio::test]
async fn a_backups_snapshots_are_deleted_and_nobody_elses() {
    let world = World::new();
    let (mine, other) = (owner("disks", ID), owner("other", ID));
    let first = world.snapshot(&mine, 0).await;
    let double = world.snapshot(&mine, 0).await;
    let (older, foreign) = (world.snapshot(&owner("disks", OTHER), 1).await, world.snapshot(&other, 2).await);
    // A manifest that names what is not its own, and what is gone.
    let gone = "snap-ffffffff".parse().unwrap();
    let named = [&first, &foreign, &gone].map(|id| recorded(id, 0)).to_vec();
    let deletion = delete::backup(&*world.disks, &manifest(&mine, named)).await.unwrap();
    assert_eq!(deletion.deleted.iter().collect::<BTreeSet<_>>(), [&first, &double].into());
    assert_eq!(deletion.kept.len(), 1);
    assert_eq!(deletion.kept[0].0, foreign);
    assert_eq!(world.left(), [older, foreign]);
}

#[tokio::test]
async fn what_an_ami_uses_is_kept_and_deleted_later() {
    let world = World::new();
    let mine = owner("disks", ID);
    let (used, free) = (world.snapshot(&mine, 0).await, world.snapshot(&mine, 1).await);
    let in_use = used.to_string();
    world.disks.script(move |operation, id, before| {
        let refused = operation == "DeleteSnapshot" && id == in_use && before < 2;
        refused.then(|| Fault::Refuse(error("DeleteSnapshot", Class::Conflict, 400, "InvalidSnapshot.InUse")))
    });
    let backup = manifest(&mine, vec![recorded(&used, 0), recorded(&free, 1)]);
    let delete = async || delete::backup(&*world.disks, &backup).await.unwrap();
    let deletion = delete().await;
    assert_eq!((deletion.deleted, deletion.kept[0].0.clone()), (vec![free], used.clone()));
    assert_eq!(delete().await.deleted, [used]);
    assert_eq!(delete().await, delete::Deletion::default(), "again is success");
}

fn wanted() -> Wanted {
    Wanted {
        availability_zone: "eu-west-1b".to_owned(),
        volume_type: None,
        size_gib: None,
        iops: None,
        throughput: None,
        encryption: Encryption::Inherit,
        tags: Tags::new(),
        copy: String::new(),
        timeout: Duration::from_mins(10),
    }
}

#[tokio::test]
async fn a_restored_volume_is_waited_for_and_made_once() {
    let world = World::new();
    let id = world.snapshot(&owner("disks", ID), 0).await;
    let (first, made) = world.restore(&recorded(&id, 0), &wanted()).await.unwrap();
    assert_eq!((made, first.state.clone(), first.size_gib), (Made::Now, disks::VolumeState::Ready, 8));
    let (again, made) = world.restore(&recorded(&id, 0), &wanted()).await.unwrap();
    assert_eq!((again.id, made), (first.id, Made::Earlier));
    let copy = Wanted { copy: "2".to_owned(), ..wanted() };
    assert_eq!(world.restore(&recorded(&id, 0), &copy).await.unwrap().1, Made::Now);
    assert_eq!(world.disks.requests("CreateVolume"), 2);
}

#[tokio::test]
async fn a_volume_that_vanishes_was_denied_its_key() {
    let world = World::new();
    let id = world.snapshot(&owner("disks", ID), 0).await;
    let mut looks = 0;
    world.disks.script(move |operation, volume, _| {
        // The search for an earlier volume names none.
        if operation != "DescribeVolumes" || volume.is_empty() {
            return None;
        }
        looks += 1;
        (looks > 1).then(|| Fault::Refuse(error("DescribeVolumes", Class::KmsDenied, 400, "InvalidVolume.NotFound")))
    });
    let failed = world.restore(&recorded(&id, 0), &wanted()).await.unwrap_err();
    assert_eq!(failed.class(), Class::KmsDenied);
    assert!(world.clock.passed() < Duration::from_secs(10), "it was there: no waiting for it to be listed");
}

#[tokio::test]
async fn a_volume_that_is_not_listed_yet_is_looked_for_again() {
    let world = World::new();
    let id = world.snapshot(&owner("disks", ID), 0).await;
    world.disks.script(|operation, volume, before| {
        let hidden = operation == "DescribeVolumes" && !volume.is_empty() && before < 4;
        hidden.then(|| Fault::Refuse(error("DescribeVolumes", Class::KmsDenied, 400, "InvalidVolume.NotFound")))
    });
    world.restore(&recorded(&id, 0), &wanted()).await.unwrap();
    world.disks.script(|operation, volume, _| {
        let hidden = operation == "DescribeVolumes" && !volume.is_empty();
        hidden.then(|| Fault::Refuse(error("DescribeVolumes", Class::KmsDenied, 400, "InvalidVolume.NotFound")))
    });
    let copy = Wanted { copy: "2".to_owned(), ..wanted() };
    let before = world.clock.passed();
    let failed = world.restore(&recorded(&id, 0), &copy).await.unwrap_err();
    assert_eq!(failed.class(), Class::KmsDenied);
    assert!(world.clock.passed().saturating_sub(before) >= Duration::from_secs(30));
}

#[tokio::test]
async fn nothing_is_made_of_a_snapshot_that_will_not_do() {
    let world = World::new();
    world.disks.completing_in(Duration::from_hours(1));
    let id = world.snapshot(&owner("disks", ID), 0).await;
    let class = async |recorded: &EbsSnapshot| world.restore(recorded, &wanted()).await.unwrap_err().class();
    assert_eq!(class(&recorded(&id, 0)).await, Class::Busy, "not complete, whatever the manifest says");
    assert_eq!(class(&recorded(&id, 1)).await, Class::Integrity, "of another volume");
    assert_eq!(class(&recorded(&"snap-ffffffff".parse().unwrap(), 0)).await, Class::NotFound);
    world.disks.end(&id, SnapshotState::InRecycleBin);
    assert_eq!(class(&recorded(&id, 0)).await, Class::NotFound);
    assert_eq!(world.disks.requests("CreateVolume"), 0);
    world.disks.end(&id, SnapshotState::Completed);
    let pending = EbsSnapshot { state: State::Pending, ..recorded(&id, 0) };
    assert_eq!(world.restore(&pending, &wanted()).await.unwrap().1, Made::Now, "a record that nobody finished");
}

#[test]
fn what_a_user_may_call_a_volume() {
    let backup = manifest(
        &owner("disks", ID),
        vec![recorded(&"snap-00000001".parse().unwrap(), 0), recorded(&"snap-00000002".parse().unwrap(), 1)],
    );
    for text in ["vol-00000001", "data-vol-00000001", "snap-00000002", "shop/vol-00000001"] {
        assert_eq!(restore::find(&backup, text).unwrap().1.volume_id, vol(1), "{text}");
    }
    let missing = restore::find(&backup, "vol-00000009").unwrap_err();
    assert!(
        missing.class() == Class::NotFound && missing.to_string().contains("vol-00000000, vol-00000001"),
        "{missing}"
    );
    let mut twice = backup.clone();
    twice.items[1].name = name("vol-00000000");
    assert_eq!(restore::find(&twice, "vol-00000000").unwrap_err().class(), Class::Config);
}
