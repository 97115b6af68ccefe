//! Snapshots beside encrypted items: EC2 shows them, and what stands beside them in the records stays sealed.

use super::*;
use crate::age::Identity;
use crate::clock::Clock as _;
use crate::format::manifest::{Moment, Outcome, SourceDescription};
use crate::store;

const CANARY: &str = "canary-in-the-mine";

/// The files of the state directory, and the objects.
async fn everything(world: &World) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![world.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                all.push((path.display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    for key in world.store.keys() {
        all.push((key.to_string(), store::read(&*world.store, &key, 1 << 30).await.unwrap()));
    }
    all
}

#[tokio::test]
async fn a_record_of_pending_snapshots_names_no_path_and_the_manifest_that_comes_of_it_stays_sealed() {
    let sources = tempfile::tempdir().unwrap();
    let identity = [Identity::generate().unwrap()];
    let mut world = World::new(volumes(2), Ebs { wait: Some(Duration::from_secs(1)), ..by_tag() });
    world.disks.completing_in(Duration::from_mins(25));
    world.recipients = vec![identity[0].recipient()];
    let file = |item: &str, path: &str| Source {
        name: name(item),
        kind: SourceKind::File { path: sources.path().join(path) },
    };
    std::fs::write(sources.path().join(CANARY), CANARY).unwrap();
    world.sources.extend([file("good", CANARY), file("bad", &format!("{CANARY}/none"))]);
    let first = world.run().await.unwrap().manifest;
    let pending = first.snapshots().filter(|(item, _)| item.outcome == Outcome::Partial).count();
    assert_eq!((pending, first.judge(Moment::Captured)), (2, Outcome::Partial), "the file failed, and two are pending");
    let held = everything(&world).await;
    assert!(held.iter().any(|(path, bytes)| path.contains("snapshots/") && bytes.starts_with(b"{")), "a record");
    let with_canary = |held: &[(String, Vec<u8>)]| {
        let has = |bytes: &[u8]| memchr::memmem::find(bytes, CANARY.as_bytes()).is_some();
        held.iter().filter(|(_, bytes)| has(bytes)).map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(with_canary(&held), Vec::<String>::new());

    // The next run writes the first one's manifest again.
    world.clock.run(world.clock.sleep(Duration::from_hours(2))).await;
    world.run().await.unwrap();
    assert_eq!(with_canary(&everything(&world).await), Vec::<String>::new());
    let mut manifests = world.manifests().await;
    let again = manifests.iter_mut().find(|manifest| manifest.id == first.id).unwrap();
    assert!(
        again
            .snapshots()
            .all(|(item, _)| matches!(&item.source, SourceDescription::Ebs { selected_by } if !selected_by.is_empty()))
    );
    again.unseal(&identity).unwrap();
    let failed = again.items.iter().find(|item| item.name.as_str() == "bad").unwrap();
    assert!(failed.error.as_ref().unwrap().message.contains(CANARY), "{failed:?}");
}
