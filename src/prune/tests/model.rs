//! Whatever happens to a chain, in whatever order.

use proptest::prelude::*;

use super::*;

/// What may happen to a chain.
#[derive(Debug, Clone)]
enum Event {
    /// Objects of its own, whether it has a parent, and which of the parent's objects it still refers to.
    Backup(u32, bool, Vec<bool>),
    /// The node's clock is ten years ahead for what comes next.
    Ahead(Box<Event>),
    /// Dies before its manifest.
    Crash(u32),
    Prune(u32),
    /// Dies at that change.
    Interrupted(u32, usize, bool),
    Delete(usize),
    Hours(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let refers = prop::collection::vec(any::<bool>(), 0..8);
    let at_its_time = prop_oneof![
        4 => (0..3_u32, prop::bool::weighted(0.8), refers).prop_map(|(own, parent, refers)| Event::Backup(own, parent, refers)),
        1 => (0..3_u32).prop_map(Event::Crash),
        2 => (1..4_u32).prop_map(Event::Prune),
        2 => (1..4_u32, 0..12_usize, any::<bool>()).prop_map(|(last, step, before)| Event::Interrupted(last, step, before)),
        1 => (0..8_usize).prop_map(Event::Delete),
        3 => (1..40_i64).prop_map(Event::Hours),
    ];
    let event = (at_its_time, prop::bool::weighted(0.1)).prop_map(|(event, ahead)| match event {
        Event::Backup(..) | Event::Crash(_) if ahead => Event::Ahead(Box::new(event)),
        event => event,
    });
    prop::collection::vec(event, 1..40)
}

async fn happen(world: &mut World, manifests: &mut Vec<Manifest>, event: Event) {
    let (chain, now, cancel) = (node("a"), at(world.now), CancellationToken::new());
    match event {
        Event::Backup(own, has_parent, refers) => {
            let mut parent = None;
            for manifest in manifests.iter().rev() {
                if has_parent && world.read(&BackupPrefix::new("p", &chain, &manifest.id).manifest()).await.is_some() {
                    parent = Some(manifest.clone());
                    break;
                }
            }
            let manifest = world.upload(&chain, own, parent.as_ref(), &refers).await;
            world.commit(&chain, &manifest).await;
            manifests.push(manifest);
        }
        Event::Ahead(event) => {
            // Only ids and manifests go by this clock.
            world.now += 3650 * DAY;
            Box::pin(happen(world, manifests, *event)).await;
            world.now -= 3650 * DAY;
        }
        Event::Crash(own) => drop(world.upload(&chain, own, None, &[]).await),
        Event::Prune(last) => drop(world.prune(&chain, &keep_last(last)).await.unwrap()),
        Event::Interrupted(last, changes, before) => {
            let stop = if before { Stop::Before } else { Stop::After };
            world.stop_at(changes, stop, cancel.clone());
            drop(prune(&world.ctx, &chain, &keep_last(last), now, &cancel).await);
            world.let_everything_pass();
        }
        Event::Delete(which) => {
            let entries = world.entries().await;
            if let Some(entry) = entries.get(which) {
                delete(&world.ctx, &chain, std::slice::from_ref(&entry.id), Reclaim::AfterGrace, now, &cancel)
                    .await
                    .unwrap();
            }
        }
        Event::Hours(hours) => world.pass(hours * HOUR),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After each event every committed backup is whole, and so is every one that was deleted less than the grace period ago. At
    /// the end, after the grace period, nothing is left that no manifest names.
    #[test]
    fn whatever_happens_backups_are_whole_and_nothing_is_left(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut world, mut manifests) = (World::new(), Vec::new());
            // When each committed backup was last seen.
            let mut seen: BTreeMap<ObjectKey, i64> = BTreeMap::new();
            for event in events {
                world.pass(60);
                happen(&mut world, &mut manifests, event).await;
                world.whole().await;
                for (manifest, needs) in &world.promised {
                    if world.read(manifest).await.is_some() {
                        seen.insert(manifest.clone(), world.now);
                    } else if world.now - seen[manifest] < DAY {
                        for (key, data) in needs {
                            assert_eq!(world.read(key).await.as_ref(), Some(data), "a restore of {manifest} needs {key}");
                        }
                    }
                }
            }
            for _ in 0..2 {
                world.pass(DAY);
                world.prune(&node("a"), &KEEP_ALL).await.unwrap();
            }
            assert_eq!(world.keys(), world.whole().await);
        });
    }
}
