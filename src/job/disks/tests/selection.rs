//! Which volumes become items, and what it means that there are none.

use super::*;
use crate::config::AttachedTo;
use crate::disks::VolumeState;
use crate::error::{Class, Classify as _};
use crate::format::ebs::InstanceId;
use crate::format::manifest::{Outcome, SourceDescription};

fn instance(number: usize) -> InstanceId {
    format!("i-{number:08x}").parse().unwrap()
}

/// Volumes 0 and 1 are attached to instance 1, volume 2 to instance 2; 3 is being deleted.
fn fleet() -> Vec<Volume> {
    let mut all = volumes(4);
    for (volume, to) in [(0, 1), (1, 1), (2, 2)] {
        all[volume].attached_to = vec![instance(to)];
    }
    all[1].tags.insert("kubernetes.io/created-for/pvc/namespace".into(), "shop".into());
    all[1].tags.insert("kubernetes.io/created-for/pvc/name".into(), "db".into());
    all[3].state = VolumeState::Unusable("deleting".into());
    all
}

async fn chosen(ebs: Ebs) -> Vec<(String, String)> {
    let world = World::new(fleet(), ebs);
    world.disks.on_instance(instance(1));
    let manifest = world.run().await.unwrap().manifest;
    let items = manifest.items.iter().map(|item| match &item.source {
        SourceDescription::Ebs { selected_by } => (item.name.to_string(), selected_by.clone()),
        other => panic!("{other:?}"),
    });
    items.collect()
}

#[tokio::test]
async fn by_tags_by_instance_by_name_and_by_more_than_one() {
    let nothing = Ebs { select_tags: [].into(), ..by_tag() };
    let names = |chosen: &[(String, String)]| chosen.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let by_tags = chosen(by_tag()).await;
    assert_eq!(names(&by_tags), ["data-vol-00000000", "data-vol-00000001", "data-vol-00000002"]);
    assert_eq!(by_tags[0].1, "tagged role=data");
    let here = chosen(Ebs { attached_to: Some(AttachedTo::ThisInstance), ..by_tag() }).await;
    assert_eq!(names(&here), ["data-vol-00000000", "data-vol-00000001"]);
    assert_eq!(here[0].1, "tagged role=data and attached to i-00000001 (this instance)");
    let there = chosen(Ebs { attached_to: Some(AttachedTo::Instance(instance(2))), ..nothing.clone() }).await;
    assert_eq!(there, [("data-vol-00000002".to_owned(), "attached to i-00000002".to_owned())]);
    let one_of_two = Ebs {
        volumes: vec![volume_id(2), volume_id(0)],
        attached_to: Some(AttachedTo::ThisInstance),
        ..nothing.clone()
    };
    assert_eq!(names(&chosen(one_of_two).await), ["data-vol-00000000"], "one that is attached elsewhere was not meant");
}

#[tokio::test]
async fn a_claim_becomes_the_items_labels() {
    let world = World::new(fleet(), by_tag());
    let manifest = world.run().await.unwrap().manifest;
    assert_eq!(crate::snapshot::claim(&manifest.items[1].labels).as_deref(), Some("shop/db"));
    assert!(manifest.items[0].labels.is_empty());
}

#[tokio::test]
async fn a_named_volume_that_is_not_there_fails_its_item_only() {
    let ebs = Ebs { volumes: vec![volume_id(0), volume_id(9), volume_id(3)], select_tags: [].into(), ..by_tag() };
    let world = World::new(fleet(), ebs);
    let committed = world.run().await.unwrap();
    assert_eq!(committed.verdict(), (Outcome::Partial, Some(Class::NotFound)));
    let failed: Vec<_> =
        committed.manifest.items.iter().filter(|item| item.error.is_some()).map(|item| item.name.as_str()).collect();
    assert_eq!(failed, ["data-vol-00000009", "data-vol-00000003"]);
}

#[tokio::test]
async fn a_volume_that_is_there_and_broken_fails_its_item_and_one_being_deleted_does_not() {
    let mut fleet = fleet();
    fleet[1].state = VolumeState::Unusable("error".into());
    fleet[3].state = VolumeState::Unusable("deleting".into());
    let committed = World::new(fleet, by_tag()).run().await.unwrap();
    assert_eq!(committed.verdict(), (Outcome::Partial, Some(Class::Source)));
    let failed: Vec<_> =
        committed.manifest.items.iter().filter(|item| item.error.is_some()).map(|item| item.name.as_str()).collect();
    assert_eq!(failed, ["data-vol-00000001"]);
    let report = committed.failure().unwrap();
    assert!(report.message.contains("is error") && report.remedy.is_some(), "{report:?}");
}

#[tokio::test]
async fn no_volume_is_what_the_configuration_says_it_is() {
    let run = async |on_no_match| {
        let world = World::new(Vec::new(), Ebs { on_no_match, ..by_tag() });
        world.run().await
    };
    let failed = run(OnNoMatch::Error).await.unwrap_err();
    assert_eq!(failed.class(), Class::Source);
    assert!(failed.to_string().contains("no volume is tagged role=data"), "{failed}");
    let world = World::new(Vec::new(), Ebs { on_no_match: OnNoMatch::Warn, ..by_tag() });
    let warned = world.run().await.unwrap();
    assert_eq!(world.metric("penstock_source_warnings_total"), 1);
    assert_eq!((warned.verdict().0, warned.manifest.warnings.count), (Outcome::Partial, 1));
    let ignored = run(OnNoMatch::Ignore).await.unwrap();
    assert_eq!((ignored.verdict().0, ignored.manifest.items.len()), (Outcome::Success, 0));
}

#[tokio::test]
async fn a_volume_that_two_sources_select_has_one_snapshot() {
    let mut world = World::new(fleet(), by_tag());
    let ebs = Ebs { volumes: vec![volume_id(0)], select_tags: [].into(), ..by_tag() };
    world.sources.insert(0, Source { name: name("root"), kind: SourceKind::Ebs(ebs) });
    // A third source finds nothing that is not taken already, and that is no failure.
    world.sources.push(Source { name: name("again"), kind: SourceKind::Ebs(by_tag()) });
    let manifest = world.run().await.unwrap().manifest;
    let names: Vec<_> = manifest.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["root-vol-00000000", "data-vol-00000001", "data-vol-00000002"]);
    assert_eq!(world.disks.all_snapshots().len(), 3);
}

#[tokio::test]
async fn an_instance_that_nobody_knows_fails_the_source() {
    let world = World::new(fleet(), Ebs { attached_to: Some(AttachedTo::ThisInstance), ..by_tag() });
    let failed = world.run().await.unwrap_err();
    assert_eq!(failed.class(), Class::Config);
}

#[tokio::test]
async fn volumes_that_cannot_be_asked_for_fail_by_their_names() {
    let mut world = World::new(fleet(), by_tag());
    let file = world.folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    world.sources.push(Source { name: name("file"), kind: SourceKind::File { path: file } });
    world.run().await.unwrap();
    world.disks.script(|operation, _, _| {
        let refused = crate::disks::memory::error(operation, Class::AccessDenied, 403, "UnauthorizedOperation");
        (operation == "DescribeVolumes").then_some(crate::disks::memory::Fault::Refuse(refused))
    });
    for _ in 0..2 {
        let manifest = world.run().await.unwrap().manifest;
        let failed: Vec<_> =
            manifest.items.iter().filter(|item| item.error.is_some()).map(|item| item.name.as_str()).collect();
        assert_eq!(failed, ["data", "data-vol-00000000", "data-vol-00000001", "data-vol-00000002"]);
    }
}
