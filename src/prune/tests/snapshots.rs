//! EBS snapshots of what is deleted.

use super::*;
use crate::clock::Virtual;

impl World {
    /// A backup of a stream, as [`World::backup`], and of a volume.
    async fn backup_of_a_volume(&mut self, chain: &Chain) -> Manifest {
        let mut manifest = self.upload(chain, 1, None, &[]).await;
        let tags = [("cluster", "c"), ("job", "j"), ("node", chain.node.as_str()), ("backup-id", manifest.id.as_str())];
        let tags: Tags = tags.iter().map(|(tag, value)| (format!("penstock:{tag}"), (*value).to_owned())).collect();
        let volume_id: VolumeId = "vol-01234567".parse().unwrap();
        let new = NewSnapshot { volume: volume_id.clone(), description: String::new(), tags };
        let snapshot = self.disks.create_snapshot(&new).await.unwrap();
        let snapshot = EbsSnapshot::example(snapshot.id, volume_id);
        let source = SourceDescription::Ebs { selected_by: "volumes".to_owned() };
        let content = Content::EbsSnapshot { snapshot: Some(snapshot) };
        manifest.items.push(Item::new(name("volume"), source, content));
        self.commit(chain, &manifest).await;
        manifest
    }

    fn snapshots(&self) -> usize {
        self.disks.all_snapshots().len()
    }
}

/// Refuses every DeleteSnapshot.
fn refuse_to_delete(world: &World, class: Class, code: &'static str) {
    world.disks.script(move |operation, _, _| {
        (operation == "DeleteSnapshot").then(|| disks::Fault::Refuse(error("DeleteSnapshot", class, 400, code)))
    });
}

#[tokio::test]
async fn snapshots_go_with_the_last_of_the_manifest() {
    let mut world = World::new();
    let chain = node("a");
    world.backup_of_a_volume(&chain).await;
    world.pass(HOUR);
    world.backup_of_a_volume(&chain).await;
    // The first deletion does not get further than writing the deleted manifest, and the backup stays after all.
    world.deny(Kind::Manifest);
    assert_eq!(world.prune(&chain, &keep_last(1)).await.unwrap().failures.count, 1);
    world.let_everything_pass();
    world.pass(2 * DAY);
    let pruned = world.prune(&chain, &keep_last(2)).await.unwrap();
    assert_eq!((pruned.objects, world.snapshots()), (1, 2), "only the deleted manifest of a backup that stays");

    world.prune(&chain, &keep_last(1)).await.unwrap();
    assert_eq!(world.snapshots(), 2, "somebody may be making a volume of it");
    world.pass(DAY);
    refuse_to_delete(&world, Class::AccessDenied, "UnauthorizedOperation");
    let pruned = world.prune(&chain, &keep_last(1)).await.unwrap();
    assert_eq!((pruned.objects, pruned.failures.list[0].1.class), (2, Class::AccessDenied));
    refuse_to_delete(&world, Class::Busy, "InvalidSnapshot.InUse");
    let pruned = world.prune(&chain, &keep_last(1)).await.unwrap();
    assert_eq!((pruned.objects, pruned.failures.count, world.snapshots()), (0, 0, 2), "an AMI uses it");
    world.disks.script(|_, _, _| None);
    let pruned = world.prune(&chain, &keep_last(1)).await.unwrap();
    assert_eq!((pruned.objects, pruned.failures.count, world.snapshots()), (1, 0, 1));
    assert_eq!(world.keys(), world.whole().await);
}

/// Retries of requests are the location's: counted, within its budget, and ended by a cancellation.
#[tokio::test]
async fn a_prune_honours_the_locations_budget_and_a_cancellation() {
    let mut world = World::new();
    let (chain, clock) = (node("a"), Virtual::default());
    world.backup_of_a_volume(&chain).await;
    world.pass(HOUR);
    world.backup(&chain, 1, None).await;
    world.ctx.catalog.location = world.ctx.catalog.location.clone().with_clock(Arc::new(clock.clone()));
    world.ctx.grace = Duration::ZERO;
    let location = world.ctx.catalog.location.clone();
    // Others have used up the budget: at two a second, whoever comes now waits.
    location.endpoint.use_up(64);
    world.disks.script(|operation, _, before| {
        let ill = operation == "DescribeSnapshots" && before < 2;
        ill.then(|| disks::Fault::Refuse(error("DescribeSnapshots", Class::Transient, 500, "InternalError")))
    });
    let pruned = clock.run(world.prune(&chain, &keep_last(1))).await.unwrap();
    assert_eq!((pruned.failures.count, world.snapshots()), (0, 0));
    assert!(clock.passed() >= Duration::from_secs(20), "{:?}", clock.passed());
    let families = location.process.metrics.gather();
    let retries = families.iter().find(|family| family.name() == "penstock_request_retries_total").unwrap();
    let transient =
        retries.get_metric().iter().find(|one| one.get_label().iter().any(|pair| pair.value() == "transient"));
    assert_eq!(transient.unwrap().get_counter().get_value().to_string(), "2");

    world.pass(HOUR);
    world.backup_of_a_volume(&chain).await;
    world.pass(HOUR);
    world.backup(&chain, 1, None).await;
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let asked = world.disks.requests("DescribeSnapshots");
    world.disks.script(move |operation, _, _| {
        stop.cancel();
        Some(disks::Fault::Refuse(error(operation, Class::Transient, 500, "InternalError")))
    });
    world.ctx.catalog.location = location.until(&cancel);
    let plan = plan(&world.ctx, &chain, &keep_last(1), at(world.now)).await.unwrap();
    let pruned = clock.run(apply(&world.ctx, &plan)).await;
    assert_eq!(world.disks.requests("DescribeSnapshots"), asked + 1, "not asked again");
    assert!(pruned.failures.list.iter().any(|(_, report)| report.class == Class::Cancelled));
}
