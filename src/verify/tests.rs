use std::sync::Arc;

use super::*;
use crate::age::Identity;
use crate::download::testing::{House, MIB, SMALL, house, noise};
use crate::format::manifest::SourceDescription;
use crate::format::testing::{item, manifest};
use crate::store::Store as _;

async fn check(house: &House, manifest: &Manifest, depth: Depth) -> Findings {
    let progress: Progress = Arc::new(|_| {});
    verify(&house.location, manifest, depth, &CancellationToken::new(), &progress).await.unwrap()
}

async fn fixture(house: &House) -> (Manifest, Stream) {
    let stream = house.stream("a", &noise(100_000, 1), &[], SMALL).await;
    (manifest(vec![item("a", SourceDescription::Stdin, Some(stream.clone()))]), stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_backup_has_no_findings() {
    let house = house(40 * MIB);
    let (manifest, stream) = fixture(&house).await;
    let found = check(&house, &manifest, Depth::Structure).await;
    assert_eq!((found.items, found.objects, found.bytes), (1, stream.objects.len() as u64 + 1, 0));
    assert_eq!(found.list, []);
    let found = check(&house, &manifest, Depth::Data).await;
    assert_eq!((found.bytes, found.list.len()), (100_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_object_is_found() {
    let house = house(40 * MIB);
    let (manifest, stream) = fixture(&house).await;
    let key = |number: usize| stream.objects[number].key.clone();
    house.store.delete(&key(0)).await.unwrap();
    house.change(&key(1), |data| data.truncate(1000)).await;
    house.change(&key(2), |data| data[1000] ^= 1).await;
    let found = check(&house, &manifest, Depth::Structure).await;
    let classes: Vec<_> = found.list.iter().map(|finding| (finding.key.clone().unwrap(), finding.class)).collect();
    assert_eq!(classes, [(key(0), Class::NotFound), (key(1), Class::Integrity), (key(2), Class::Integrity)]);
    let found = check(&house, &manifest, Depth::Data).await;
    // The rest is read all the same.
    assert_eq!(found.bytes, 100_000 - 2 * 16_000 - 1000);
    assert!(found.list.len() >= 4, "{found:#?}");
    let lost = |number: usize| found.lost.get(&key(number)).map(std::collections::HashSet::len);
    assert_eq!((lost(0), lost(2), lost(3)), (Some(16), Some(1), None), "each lost chunk, and no other");

    house.change(&stream.index.key, |data| data[20] ^= 1).await;
    let found = check(&house, &manifest, Depth::Structure).await;
    assert_eq!(found.list.last().unwrap().key, Some(stream.index.key.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_full_backup_tile_its_objects() {
    let house = house(40 * MIB);
    let (mut manifest, mut stream) = fixture(&house).await;
    house.change(&stream.objects[0].key, |data| data.push(0)).await;
    let data = house.object(&stream.objects[0].key).await;
    stream.objects[0].size += 1;
    stream.objects[0].crc64nvme = crate::checksum::crc64nvme(&data).to_be_bytes();
    manifest.items = vec![item("a", SourceDescription::Stdin, Some(stream))];
    let found = check(&house, &manifest, Depth::Structure).await;
    assert_eq!(found.list.len(), 1);
    assert!(found.list[0].message.contains("chunks end"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_the_structure_is_proven_and_the_content_is_said_not_to_be() {
    let house = house(40 * MIB);
    let (mut manifest, mut stream) = fixture(&house).await;
    let key = Identity::generate().unwrap();
    house.encrypt(&mut stream, &[key.recipient()]).await;
    manifest.items = vec![item("a", SourceDescription::Stdin, Some(stream.clone()))];
    let with_key = house.with(vec![key]);
    for depth in [Depth::Structure, Depth::Data] {
        let found = check(&house, &manifest, depth).await;
        assert_eq!((found.list.len(), found.objects, found.bytes), (0, stream.objects.len() as u64 + 1, 0));
        let [locked] = &found.locked[..] else { panic!("{found:#?}") };
        assert_eq!((locked.item.as_str(), locked.class), ("a", Class::Identity));
        let found = check(&with_key, &manifest, depth).await;
        assert_eq!((found.list.len(), found.locked.len()), (0, 0), "{found:#?}");
        assert_eq!(found.bytes, if depth == Depth::Data { 100_000 } else { 0 });
    }
    // What needs no key is found without one.
    let [first, second, third, ..] = &stream.objects[..] else { panic!() };
    house.store.delete(&first.key).await.unwrap();
    house.change(&second.key, |data| data[3] ^= 1).await;
    house.change(&third.key, |data| data.truncate(data.len() - 1)).await;
    let found = check(&house, &manifest, Depth::Structure).await;
    let classes: Vec<_> = found.list.iter().map(|finding| finding.class).collect();
    assert_eq!((classes, found.locked.len()), (vec![Class::NotFound, Class::Integrity, Class::Integrity], 1));
    // A manifest that was changed with the object: the header and the length say so.
    let mut forged = stream.clone();
    house.change(&third.key, |data| data.extend([0; 9])).await;
    let data = house.object(&third.key).await;
    (forged.objects[2].size, forged.objects[2].crc64nvme) =
        (data.len() as u64, crate::checksum::crc64nvme(&data).to_be_bytes());
    manifest.items = vec![item("a", SourceDescription::Stdin, Some(forged))];
    let found = check(&with_key, &manifest, Depth::Data).await;
    assert!(found.list.iter().any(|found| found.key.as_ref() == Some(&third.key)), "{found:#?}");
}
