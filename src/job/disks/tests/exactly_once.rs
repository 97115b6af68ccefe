//! No snapshot is lost, none is doubled, whatever fails when.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;

use super::*;
use crate::disks::memory::{Fault, error};
use crate::error::{Class, Classify as _};
use crate::format::manifest::Outcome;

/// While no run is in progress, the snapshots that exist are those that manifests name, each once.
async fn assert_consistent(world: &World, what: &str) {
    let manifests = world.manifests().await;
    let named: Vec<_> =
        manifests.iter().flat_map(Manifest::snapshots).map(|(_, snapshot)| snapshot.snapshot_id.clone()).collect();
    let exist: BTreeSet<_> = world.disks.all_snapshots().into_iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), exist, "{what}");
    assert_eq!(named.len(), exist.len(), "{what}");
    for manifest in &manifests {
        let volumes: Vec<_> = manifest.snapshots().map(|(_, snapshot)| &snapshot.volume_id).collect();
        assert_eq!(volumes.len(), volumes.iter().collect::<BTreeSet<_>>().len(), "{what}");
    }
}

#[tokio::test]
async fn two_volumes_and_a_file_are_one_backup() {
    let mut world = World::new(volumes(2), by_tag());
    let path = world.folder.path().join("file");
    std::fs::write(&path, "content").unwrap();
    world.sources.push(Source { name: name("file"), kind: SourceKind::File { path } });
    world.disks.completing_in(Duration::from_secs(90));
    let committed = world.run().await.unwrap();
    let manifest = &committed.manifest;
    assert_eq!((committed.verdict(), manifest.items.len()), ((Outcome::Success, None), 3));
    assert_eq!(world.manifests().await, std::slice::from_ref(manifest));
    let (item, snapshot) = manifest.snapshots().next().unwrap();
    assert_eq!((item.name.as_str(), snapshot.volume_type.as_str(), snapshot.size_gib), ("data-vol-00000000", "gp3", 8));
    let made = &world.disks.all_snapshots()[0];
    for (key, value) in [
        ("penstock:cluster", "prod"),
        ("penstock:job", "disks"),
        ("penstock:node", "n1"),
        ("penstock:backup-id", manifest.id.as_str()),
        ("penstock:source-volume", "vol-00000000"),
        ("team", "platform"),
        ("role", "data"),
    ] {
        assert_eq!(made.tags[key], value);
    }
    assert_consistent(&world, "after a run").await;
    assert!(world.records().backups().unwrap().is_empty());
    assert_eq!(world.metric("penstock_ebs_snapshots_total"), 2);
    assert_eq!(world.metric("penstock_ebs_snapshots_pending"), 0);
}

#[tokio::test]
async fn a_lost_reply_is_looked_for_before_anything_is_created_again() {
    let world = World::new(volumes(3), by_tag());
    world.disks.script(|operation, volume, _| {
        let lost = operation == "CreateSnapshot" && volume == "vol-00000001";
        lost.then(|| Fault::LoseReply(error("CreateSnapshot", Class::Transient, 500, "InternalError")))
    });
    world.run().await.unwrap();
    assert_eq!((world.disks.all_snapshots().len(), world.disks.requests("CreateSnapshot")), (3, 3));
    assert_consistent(&world, "after lost replies").await;
}

#[tokio::test]
async fn a_snapshot_that_was_not_created_is_created_again() {
    let world = World::new(volumes(3), by_tag());
    world.disks.script(|operation, _, before| {
        let refused = operation == "CreateSnapshot" && before < 6;
        refused.then(|| Fault::Refuse(error("CreateSnapshot", Class::Transient, 503, "Unavailable")))
    });
    world.run().await.unwrap();
    assert_eq!((world.disks.all_snapshots().len(), world.disks.requests("CreateSnapshot")), (3, 9));
}

/// The service refuses what it has done.
#[tokio::test]
async fn a_double_is_deleted_before_the_commit() {
    let world = World::new(volumes(1), by_tag());
    world.disks.script(|operation, _, before| {
        let lost = operation == "CreateSnapshot" && before == 0;
        lost.then(|| Fault::LoseReply(error("CreateSnapshot", Class::Throttled, 503, "RequestLimitExceeded")))
    });
    world.run().await.unwrap();
    assert_eq!((world.disks.requests("CreateSnapshot"), world.disks.requests("DeleteSnapshot")), (2, 1));
    assert_consistent(&world, "after a double").await;
}

/// Dies before each request in turn (as `kill -9` would: nothing is cleaned up), then starts again.
#[tokio::test]
async fn a_crash_before_any_request_neither_loses_nor_doubles_a_snapshot() {
    let mut survived = false;
    for deadly in 0..40 {
        let world = World::new(volumes(3), by_tag());
        world.disks.completing_in(Duration::from_secs(10));
        let mut requests = 0;
        world.disks.script(move |_, _, _| {
            requests += 1;
            assert!(requests != deadly + 1, "killed, as the test wants it");
            None
        });
        let first = AssertUnwindSafe(world.run()).catch_unwind().await;
        world.disks.script(|_, _, _| None);
        let second = world.run().await.unwrap().manifest;
        assert_eq!(second.outcome, Outcome::Success);
        assert_consistent(&world, &format!("killed before request {deadly}")).await;
        let manifests = world.manifests().await;
        // DescribeVolumes, then three creations: a backup captured before the crash is committed, not thrown away.
        let captured = deadly >= 4;
        assert_eq!(manifests.len(), 1 + usize::from(captured), "killed before request {deadly}");
        assert!(manifests.iter().all(|manifest| manifest.snapshots().count() == 3));
        if first.is_ok() {
            survived = true;
            break;
        }
    }
    assert!(survived, "the crashes went through the whole run");
}

#[tokio::test]
async fn a_cancelled_creation_leaves_nothing() {
    let world = World::new(volumes(30), by_tag());
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    world.disks.script(move |operation, _, before| {
        let busy = operation == "CreateSnapshot" && before >= 12;
        if busy {
            token.cancel();
        }
        busy.then(|| Fault::Refuse(error("CreateSnapshot", Class::Busy, 400, "PendingSnapshotLimitExceeded")))
    });
    let failed = world.run_until(&cancel).await.unwrap_err();
    assert_eq!(failed.class(), Class::Cancelled);
    assert!(world.disks.requests("CreateSnapshot") >= 13);
    assert_consistent(&world, "after a cancellation").await;
    assert!(world.manifests().await.is_empty());
    // A creation was interrupted: the record stays, since its snapshot may still appear.
    assert_eq!(world.records().backups().unwrap().len(), 1);
}

#[tokio::test]
async fn a_stream_that_fails_the_run_takes_the_snapshots_with_it() {
    let mut world = World::new(volumes(2), by_tag());
    world.sources.push(Source {
        name: name("dump"),
        kind: SourceKind::Command { argv: vec!["true".to_owned()], allow_empty: true },
    });
    // Too little memory for one stream.
    world.memory = 1 << 20;
    let failed = world.run().await.unwrap_err();
    assert!(matches!(failed, Error::Memory(_)), "{failed}");
    assert_eq!((world.disks.requests("CreateSnapshot"), world.disks.all_snapshots().len()), (2, 0));
    assert!(world.records().backups().unwrap().is_empty());
}

#[tokio::test]
async fn snapshots_need_no_memory() {
    let mut world = World::new(volumes(2), by_tag());
    world.memory = 1 << 20;
    assert_eq!(world.run().await.unwrap().manifest.snapshots().count(), 2);
}

#[tokio::test]
async fn a_job_runs_once_at_a_time() {
    let world = World::new(volumes(1), by_tag());
    let _elsewhere = world.records().lock(&name("disks")).unwrap();
    let failed = world.run().await.unwrap_err();
    assert_eq!(failed.class(), Class::Busy);
    assert_eq!(world.disks.requests("CreateSnapshot"), 0);
}
