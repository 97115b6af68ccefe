//! EBS snapshots of what is deleted.

use super::*;

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
