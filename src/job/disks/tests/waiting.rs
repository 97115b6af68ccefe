//! Slow, failing and throttled snapshots, and how many requests they cost.

use super::*;
use crate::clock::Clock as _;
use crate::disks::memory::{Fault, error};
use crate::disks::{Disks as _, SnapshotState};
use crate::error::{Class, Classify as _};
use crate::format::ebs::State;
use crate::format::manifest::{Content, Outcome};

#[tokio::test]
async fn five_hundred_volumes_cost_few_requests() {
    let world = World::new(volumes(500), by_tag());
    world.disks.completing_in(Duration::from_mins(40));
    let manifest = world.run().await.unwrap().manifest;
    assert_eq!((manifest.outcome, manifest.snapshots().count()), (Outcome::Success, 500));
    assert_eq!(world.disks.requests("DescribeVolumes"), 1);
    assert_eq!(world.disks.requests("CreateSnapshot"), 500);
    // About 42 looks in 40 minutes, three pages each, and one at the end for strays.
    let looks = world.disks.requests("DescribeSnapshots");
    assert!((60..=150).contains(&looks), "{looks}");
    assert_eq!(world.disks.requests("DeleteSnapshot"), 0);
    let passed = world.clock.passed();
    assert!(passed >= Duration::from_mins(40) && passed < Duration::from_mins(42), "{passed:?}");
}

#[tokio::test]
async fn small_pages_are_all_read() {
    let world = World::new(volumes(25), by_tag());
    world.disks.page_size(10);
    assert_eq!(world.run().await.unwrap().manifest.snapshots().count(), 25);
    assert_eq!(world.disks.requests("DescribeVolumes"), 3);
}

#[tokio::test]
async fn a_throttling_storm_passes() {
    let world = World::new(volumes(200), by_tag());
    // Two out of three creations are refused.
    world.disks.script(|operation, _, before| {
        let refused = operation == "CreateSnapshot" && before % 3 != 0;
        refused.then(|| Fault::Refuse(error("CreateSnapshot", Class::Throttled, 503, "RequestLimitExceeded")))
    });
    let manifest = world.run().await.unwrap().manifest;
    assert_eq!((manifest.outcome, world.disks.all_snapshots().len()), (Outcome::Success, 200));
    let created = world.disks.requests("CreateSnapshot");
    assert_eq!(created, 598, "no more than the refusals ask for");
    assert!(world.clock.passed() > Duration::from_mins(5), "the pace gives way: {:?}", world.clock.passed());
}

#[tokio::test]
async fn a_volumes_own_rate_is_respected() {
    let world = World::new(volumes(1), by_tag());
    world.disks.script(|operation, _, before| {
        let refused = operation == "CreateSnapshot" && before < 2;
        refused
            .then(|| Fault::Refuse(error("CreateSnapshot", Class::Busy, 400, "SnapshotCreationPerVolumeRateExceeded")))
    });
    world.run().await.unwrap();
    let passed = world.clock.passed();
    assert!(passed >= Duration::from_secs(30) && passed <= Duration::from_secs(65), "{passed:?}");
}

#[tokio::test]
async fn what_stays_busy_is_given_up() {
    let world = World::new(volumes(2), by_tag());
    world.disks.script(|operation, volume, _| {
        let refused = operation == "CreateSnapshot" && volume == "vol-00000001";
        refused.then(|| Fault::Refuse(error("CreateSnapshot", Class::Busy, 400, "ConcurrentSnapshotLimitExceeded")))
    });
    let committed = world.run().await.unwrap();
    assert_eq!(committed.verdict(), (Outcome::Partial, Some(Class::Busy)));
    let message = &committed.manifest.items[1].error.as_ref().unwrap().message;
    assert!(message.contains("minutes of trying") && message.contains("ConcurrentSnapshotLimitExceeded"), "{message}");
    assert!(world.clock.passed() < Duration::from_mins(32));
}

/// The whole life of an unfinished record.
#[tokio::test]
async fn what_is_not_complete_in_time_is_pending_and_finished_later() {
    let world = World::new(volumes(2), Ebs { wait: Some(Duration::from_mins(10)), ..by_tag() });
    world.disks.completing_in(Duration::from_mins(25));
    let first = world.run().await.unwrap();
    assert_eq!(first.verdict(), (Outcome::Partial, None));
    assert!(first.manifest.snapshots().all(|(item, snapshot)| {
        snapshot.state == State::Pending && snapshot.completed.is_none() && item.outcome == Outcome::Partial
    }));
    assert_eq!(world.metric("penstock_ebs_snapshots_pending"), 2);
    assert_eq!(world.records().backups().unwrap().len(), 1);
    // Still pending when the second run begins, complete when the daemon looks after it.
    let second = world.run().await.unwrap().manifest;
    assert_eq!(world.metric("penstock_ebs_snapshots_pending"), 4);
    assert!(world.manifests().await.iter().all(|manifest| manifest.outcome == Outcome::Partial));
    world.clock.run(world.clock.sleep(Duration::from_hours(1))).await;
    world.clock.run(crate::snapshot::recover::all(&world.location())).await;
    let manifests = world.manifests().await;
    assert!(manifests.len() == 2 && manifests.iter().any(|manifest| manifest.id == second.id));
    for manifest in manifests {
        assert_eq!(manifest.outcome, Outcome::Success);
        assert!(manifest.snapshots().all(|(_, snapshot)| snapshot.state == State::Completed));
    }
    assert!(world.records().backups().unwrap().is_empty());
    assert_eq!(world.metric("penstock_ebs_snapshots_total"), 4);
    assert_eq!(world.metric("penstock_ebs_snapshots_pending"), 0);
}

#[tokio::test]
async fn nobody_waits_where_nobody_is_asked_to() {
    let world = World::new(volumes(3), Ebs { wait: None, ..by_tag() });
    world.disks.completing_in(Duration::from_mins(25));
    let committed = world.run().await.unwrap();
    assert_eq!((committed.verdict().0, committed.is_good()), (Outcome::Partial, true));
    assert_eq!(world.clock.passed(), Duration::ZERO);
}

/// A rollout of the DaemonSet must not throw hours of snapshots away.
#[tokio::test]
async fn a_stop_while_waiting_commits_what_is_captured() {
    let world = World::new(volumes(2), by_tag());
    world.disks.completing_in(Duration::from_mins(60));
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    world.disks.script(move |operation, _, before| {
        if operation == "DescribeSnapshots" && before == 3 {
            token.cancel();
        }
        None
    });
    let committed = world.run_until(&cancel).await.unwrap();
    assert_eq!(committed.verdict(), (Outcome::Partial, None));
    assert_eq!((committed.manifest.snapshots().count(), world.manifests().await.len()), (2, 1));
    assert!(world.clock.passed() < Duration::from_mins(2));
}

/// Runs the job while `meanwhile` does something to it.
async fn run_with(world: &World, meanwhile: impl Future<Output = ()>) -> Committed {
    let run = async {
        tokio::pin!(meanwhile);
        let mut run = Box::pin(world.run());
        tokio::select! {
            biased;
            () = &mut meanwhile => run.await,
            committed = &mut run => committed,
        }
    };
    Box::pin(world.clock.run(run)).await.unwrap()
}

#[tokio::test]
async fn a_snapshot_that_fails_fails_its_item_and_is_deleted() {
    let world = World::new(volumes(2), by_tag());
    world.disks.completing_in(Duration::from_mins(3));
    let mut denied = error("DescribeSnapshots", Class::KmsDenied, 200, "");
    denied.message = "the snapshot's state is error: Given key ID is not accessible".to_owned();
    let fail = async {
        world.clock.sleep(Duration::from_secs(45)).await;
        world.disks.end(&"snap-00000000000000001".parse().unwrap(), SnapshotState::Failed(denied));
    };
    let committed = run_with(&world, fail).await;
    assert_eq!(committed.verdict(), (Outcome::Partial, Some(Class::KmsDenied)));
    let item = &committed.manifest.items[0];
    assert_eq!((item.outcome, &item.content), (Outcome::Failure, &Content::EbsSnapshot { snapshot: None }));
    assert!(item.error.as_ref().unwrap().message.contains("not accessible"));
    let left: Vec<_> = world.disks.all_snapshots().into_iter().filter_map(|snapshot| snapshot.volume_id).collect();
    assert_eq!(left, [volume_id(1)]);
}

#[tokio::test]
async fn a_snapshot_that_someone_deletes_meanwhile_is_gone() {
    let world = World::new(volumes(2), by_tag());
    world.disks.completing_in(Duration::from_mins(30));
    let delete = async {
        world.clock.sleep(Duration::from_mins(1)).await;
        world.disks.delete_snapshot(&"snap-00000000000000001".parse().unwrap()).await.unwrap();
    };
    let committed = run_with(&world, delete).await;
    assert_eq!(committed.verdict(), (Outcome::Partial, Some(Class::NotFound)));
    assert!(committed.manifest.items[0].error.as_ref().unwrap().message.contains("disappeared"));
}

#[tokio::test]
async fn looks_that_are_throttled_are_made_again() {
    let world = World::new(volumes(2), by_tag());
    world.disks.completing_in(Duration::from_mins(5));
    world.disks.script(|operation, _, before| {
        let refused = operation == "DescribeSnapshots" && before < 2;
        refused.then(|| Fault::Refuse(error("DescribeSnapshots", Class::Throttled, 503, "RequestLimitExceeded")))
    });
    assert_eq!(world.run().await.unwrap().verdict(), (Outcome::Success, None));
}

#[tokio::test]
async fn when_every_item_fails_nothing_is_committed() {
    let world = World::new(volumes(2), by_tag());
    world.disks.script(|operation, _, _| {
        let refused = operation == "CreateSnapshot";
        refused.then(|| Fault::Refuse(error("CreateSnapshot", Class::AccessDenied, 403, "UnauthorizedOperation")))
    });
    let failed = world.run().await.unwrap_err();
    assert_eq!(failed.class(), Class::AccessDenied);
    assert!(failed.to_string().contains("data-vol-00000000"), "{failed}");
    assert_eq!((world.manifests().await.len(), world.disks.requests("CreateSnapshot")), (0, 2));
    assert!(world.records().backups().unwrap().is_empty());
}

/// A filesystem is frozen while snapshots are created, not while they complete.
#[tokio::test]
async fn after_runs_when_all_is_captured_and_before_the_waiting() {
    let mut world = World::new(volumes(2), by_tag());
    let note = world.folder.path().join("note");
    let shell = |script: String| vec![vec!["sh".to_owned(), "-c".to_owned(), script]];
    world.hooks = Hooks {
        before: shell(format!("echo before >> {}", note.display())),
        after: shell(format!("echo after $PENSTOCK_OUTCOME >> {}", note.display())),
        time_limit: Duration::from_secs(20),
    };
    world.disks.completing_in(Duration::from_mins(10));
    let seen = note.clone();
    world.disks.script(move |operation, _, _| {
        let notes = std::fs::read_to_string(&seen).unwrap();
        match operation {
            "CreateSnapshot" => assert_eq!(notes, "before\n"),
            "DescribeSnapshots" => assert_eq!(notes, "before\nafter success\n"),
            _ => {}
        }
        None
    });
    let committed = world.run().await.unwrap();
    assert_eq!((committed.verdict(), committed.after.is_none()), ((Outcome::Success, None), true));
    assert_eq!(std::fs::read_to_string(note).unwrap(), "before\nafter success\n", "once each");
}

/// What a recovery asks again is within the location's budget, and ends with the run that waits for it.
#[tokio::test]
async fn a_recovery_honours_the_locations_budget_and_a_cancellation() {
    let world = World::new(volumes(1), Ebs { wait: Some(Duration::from_mins(10)), ..by_tag() });
    world.disks.completing_in(Duration::from_mins(25));
    world.run().await.unwrap();
    world.clock.run(world.clock.sleep(Duration::from_hours(1))).await;
    let ill = |operation, before, until| {
        let ill = operation == "DescribeSnapshots" && before < until;
        ill.then(|| Fault::Refuse(error("DescribeSnapshots", Class::Transient, 500, "InternalError")))
    };
    let recover = async |location: &Location| world.clock.run(crate::snapshot::recover::all(location)).await;

    let (location, stop) = (world.location(), CancellationToken::new());
    let (asked, stopping) = (world.disks.requests("DescribeSnapshots"), stop.clone());
    world.disks.script(move |operation, _, before| {
        stopping.cancel();
        ill(operation, before, usize::MAX)
    });
    recover(&location.until(&stop)).await;
    assert_eq!(world.disks.requests("DescribeSnapshots"), asked + 1, "not asked again");
    assert_eq!(world.records().backups().unwrap().len(), 1, "the record stays for the next time");

    location.endpoint.use_up(64);
    let (before, retried) = (world.clock.passed(), world.metric("penstock_request_retries_total"));
    world.disks.script(move |operation, _, before| ill(operation, before, asked + 3));
    recover(&location).await;
    assert!(world.clock.passed() >= before + Duration::from_secs(20), "{:?}", world.clock.passed());
    assert_eq!(world.metric("penstock_request_retries_total"), retried + 2);
    assert!(world.records().backups().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_items_remedy_and_request_id_reach_the_operator() {
    let world = World::new(volumes(2), by_tag());
    world.disks.script(|operation, _, before| {
        let denied = error("CreateSnapshot", Class::AccessDenied, 403, "UnauthorizedOperation");
        let (remedy, request_id) = (Some("grant it".to_owned()), Some("r-1".to_owned()));
        let denied = crate::disks::Error { request_id, remedy, ..denied };
        (operation == "CreateSnapshot" && before == 0).then_some(Fault::Refuse(denied))
    });
    let committed = world.run().await.unwrap();
    // The daemon keeps and shows this very report.
    let told = committed.failure().unwrap();
    assert_eq!((told.class, told.service.as_deref()), (Class::AccessDenied, Some("ec2")));
    assert_eq!((told.remedy.as_deref(), told.request_id.as_deref()), (Some("grant it"), Some("r-1")));
    let stored = world.manifests().await.remove(0).items.into_iter().find_map(|item| item.error).unwrap();
    assert_eq!((stored.remedy, stored.request_id), (told.remedy, told.request_id));
}
