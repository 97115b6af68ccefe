//! What runs delete, keep and leave behind.

use super::*;

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
    world.store.set_now(at(world.now));
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
    let before = (world.keys(), world.changes());
    world.ctx.grace = Duration::ZERO;
    let plan = plan(&world.ctx, &node("a"), &keep_last(2), at(world.now)).await.unwrap();
    let garbage = survey(&world.ctx, &plan).await.unwrap().garbage;
    assert_eq!((world.keys(), world.changes()), before);
    assert_eq!(plan.backups.iter().filter(|backup| backup.stays()).count(), 2);
    let pruned = apply(&world.ctx, &plan).await;
    // The eight deleted manifests went as well.
    assert_eq!(pruned.objects, garbage.due.objects + 8);
    assert!(pruned.bytes > garbage.due.bytes && garbage.due.bytes > 0);
}

#[tokio::test]
async fn deleting_at_once_leaves_the_objects_of_other_deleted_backups() {
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
async fn without_grace_a_prune_leaves_nothing() {
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
                world.stop_at(step, stop, cancel.clone());
                let died = prune(&world.ctx, &node("a"), &keep_last(3), at(world.now), &cancel).await;
                world.let_everything_pass();
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
async fn a_denied_deletion_is_counted_and_the_others_go_on() {
    let metrics = Metrics::new();
    let mut world = World::new();
    world.ctx.catalog.location.process.metrics = metrics.clone();
    world.ctx.grace = Duration::ZERO;
    ten_days(&mut world).await;
    world.deny(Kind::Data);
    let pruned = world.prune(&node("a"), &keep_last(3)).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.failures.count, pruned.objects), (7, 10, 7 + 7));
    assert!(pruned.failures.list.iter().all(|(_, report)| report.class == Class::AccessDenied));
    world.whole().await;

    world.deny(Kind::Manifest);
    let pruned = world.prune(&node("a"), &keep_last(2)).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.kept, pruned.failures.count), (0, 3, 1));
    assert_eq!(world.whole().await.iter().filter(|key| key.as_str().ends_with("manifest.json")).count(), 3 + 2);

    world.let_everything_pass();
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
        async move { store.put(&key, payload, Overwrite::Allow).await.unwrap() }
    };
    spoil(key(bad), "{").await;
    let before = world.keys();
    let refused = world.prune(&node("a"), &keep_last(1)).await.unwrap_err();
    assert_eq!(refused.class(), Class::Integrity);
    assert!(matches!(refused, Error::Chain { error: catalog::Error::Manifest { key: at, .. }, .. } if at == key(bad)));
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
    for text in [r#"{ "version": 2 }"#, r#"{ "version": 1, "features": ["of-the-future"] }"#] {
        let payload = Payload::new(text, Algorithm::None);
        world.store.put(&key(newer), payload, Overwrite::Allow).await.unwrap();
        let newer_one = [newer.id.clone()];
        let refused =
            delete(&world.ctx, &node("a"), &newer_one, Reclaim::AfterGrace, at(world.now), &cancel).await.unwrap_err();
        assert_eq!(refused.class(), Class::Compat);
    }
    let missing = [BackupId::new(at(0), 0xff_ffff)];
    let refused =
        delete(&world.ctx, &node("a"), &missing, Reclaim::AfterGrace, at(world.now), &cancel).await.unwrap_err();
    assert_eq!(refused.class(), Class::NotFound, "{refused}");
}

#[tokio::test]
async fn objects_of_every_suffix_are_seen() {
    let mut world = World::new();
    let home = BackupPrefix::new("p", &node("a"), &BackupId::new(at(0), 1));
    for suffix in Suffix::ALL {
        world.put(&home.data(&name("item"), 1, *suffix), "left behind").await;
    }
    world.pass(30 * DAY);
    let pruned = world.prune(&node("a"), &KEEP_ALL).await.unwrap();
    assert_eq!(pruned.objects, Suffix::ALL.len() as u64);
    assert!(world.keys().is_empty(), "{:?}", world.keys());
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
    let late = BackupPrefix::new("p", &chain, &running.id).data(&name("other"), 1, Suffix::Bin);
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
async fn a_restore_in_progress_finds_everything_for_the_grace_period() {
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
    world.ctx.catalog.location.process.metrics = metrics.clone();
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
