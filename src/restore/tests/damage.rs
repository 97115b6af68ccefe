//! Any damage of any stream: what is whole is restored bit for bit, what is not is named, and nothing else is written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::format::index::FileKind;
use crate::store::Store as _;

/// Many small files, some larger than a chunk, a sparse one, links, and folders.
fn grow(dir: &Path, seed: u64) {
    for folder in ["a", "a/b", "c"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for (number, length) in [0, 1, 700, 4000, 900, 9000, 300, 512, 1024].into_iter().enumerate() {
        let folder = ["a", "a/b", "c"][number % 3];
        fs::write(dir.join(folder).join(format!("f{number}")), noise(length, seed + number as u64)).unwrap();
    }
    let sparse = fs::File::create(dir.join("c/sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(3000, seed), 500_000).unwrap();
    fs::hard_link(dir.join("a/b/f1"), dir.join("c/link")).unwrap();
    symlink("f0", dir.join("a/symlink")).unwrap();
}

fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, below: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let (path, kind) = (entry.as_ref().unwrap().path(), entry.unwrap().file_type().unwrap());
            let name = path.strip_prefix(below).unwrap().to_str().unwrap().to_owned();
            if kind.is_dir() {
                walk(&path, below, into);
            } else if kind.is_symlink() {
                into.insert(name, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
            } else {
                into.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, dir, &mut all);
    all
}

/// A backup of the tree, what is in the tree, and its members.
async fn saved(house: &House, item_name: &str, seed: u64) -> (Manifest, BTreeMap<String, Vec<u8>>, Vec<FileEntry>) {
    saved_as(SMALL, house, item_name, seed).await
}

async fn saved_as(
    cut: Cut,
    house: &House,
    item_name: &str,
    seed: u64,
) -> (Manifest, BTreeMap<String, Vec<u8>>, Vec<FileEntry>) {
    let dir = tempfile::tempdir().unwrap();
    grow(dir.path(), seed);
    let (bytes, files) = archive(dir.path());
    let stream = house.stream(item_name, &bytes, &files, cut).await;
    let tree = item("tree", SourceDescription::Tree { path: "/data".to_owned() }, Some(stream));
    (manifest(vec![tree]), content(dir.path()), files)
}

/// Damages the chunks of these numbers; returns where they are in the stream.
async fn damage(house: &House, stream: &Stream, chunks: &BTreeSet<usize>, missing: bool) -> Vec<Range<u64>> {
    let index = index::fetch(&house.location, stream).await.unwrap();
    let mut records = index.open(stream).unwrap();
    let (mut position, mut number, mut lost) = (0, 0, Vec::new());
    while let Some(record) = records.next_record().unwrap() {
        let crate::format::index::Record::Chunk(chunk) = record else { continue };
        if chunks.contains(&number) {
            let key = &stream.objects[chunk.object as usize].key;
            let at = usize::try_from(chunk.offset).unwrap() + chunk.stored_len as usize / 2;
            if missing {
                // Of the whole object.
                let _ = house.store.delete(key).await;
            } else {
                house.change(key, |data| data[at] ^= 1).await;
            }
            lost.push(position..position + u64::from(chunk.plain_len));
        }
        position += u64::from(chunk.plain_len);
        number += 1;
    }
    lost
}

/// The paths of the members that these positions touch, in a header or in data.
fn touched(files: &[FileEntry], lost: &[Range<u64>]) -> BTreeSet<String> {
    let hit = |file: &&FileEntry| {
        let bytes = file.member_start..file.content_start + file.content_len;
        lost.iter().any(|lost| lost.start < bytes.end && lost.end > bytes.start)
    };
    files.iter().filter(hit).map(|file| String::from_utf8(file.path.clone()).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_whole_is_restored_and_what_is_not_is_named(
        chunks in proptest::collection::btree_set(0_usize..36, 0..6),
        zeros in any::<bool>(),
        seed in 0_u64..1000,
        stored in prop_oneof![Just(SMALL), Just(RAW)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let house = house(40 * MIB);
            let (manifest, before, files) = saved_as(stored, &house, "tree", seed).await;
            let (_, stream) = manifest.streams().next().unwrap();
            let lost = damage(&house, stream, &chunks, false).await;
            let hit = touched(&files, &lost);
            let dir = tempfile::tempdir().unwrap();
            let damaged = if zeros { Damaged::ZeroFill } else { Damaged::LeaveOut };
            let summary = run(&house, &manifest, dir.path(), Options { damaged, ..Options::default() }).await.unwrap();

            let path = |file: &DamagedFile| match String::from_utf8(file.path.clone()).unwrap() {
                root if root.is_empty() => ".".to_owned(),
                path => path,
            };
            let mut named: BTreeSet<_> = summary.damage.iter().map(path).collect();
            // A further name of a file that is left out.
            let link_lost = summary.damage.iter().any(|file| file.path == b"a/b/f1" && file.outcome == Outcome::LeftOut);
            if link_lost && !hit.contains("c/link") {
                assert!(named.remove("c/link"));
            }
            assert_eq!(named, hit, "{lost:?}");
            assert_eq!(summary.damaged, summary.damage.len() as u64);
            assert_eq!(summary.failure().map(|report| report.class), (!hit.is_empty()).then_some(Class::Integrity));

            let after = content(dir.path());
            for (name, bytes) in &before {
                let outcome = summary.damage.iter().find(|file| file.path == name.as_bytes()).map(|file| &file.outcome);
                match outcome {
                    None => assert!(after.get(name) == Some(bytes), "{name}"),
                    Some(Outcome::LeftOut) => assert!(!after.contains_key(name), "{name}"),
                    Some(Outcome::Filled(ranges)) => {
                        let mut expected = bytes.clone();
                        for range in ranges {
                            expected[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].fill(0);
                        }
                        assert!(zeros && after.get(name) == Some(&expected) && expected != *bytes, "{name}");
                    }
                    Some(Outcome::Healed(_)) => unreachable!("no other backup was given"),
                }
            }
            assert!(after.keys().all(|name| before.contains_key(name)), "nothing else");
            if zeros {
                // Data that is lost leaves no file out, unless a header or a sparse file's map is lost with it.
                for file in files.iter().filter(|file| file.kind == FileKind::Regular && file.size == file.content_len) {
                    let header = file.member_start..file.content_start;
                    if !lost.iter().any(|lost| lost.start < header.end && lost.end > header.start) {
                        assert!(after.contains_key(std::str::from_utf8(&file.path).unwrap()), "{file:?}");
                    }
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_leaves_out_what_was_in_it() {
    let house = house(40 * MIB);
    let (manifest, before, files) = saved(&house, "tree", 1).await;
    let (_, stream) = manifest.streams().next().unwrap();
    assert!(stream.objects.len() > 1);
    damage(&house, stream, &BTreeSet::from([20]), true).await;
    let dir = tempfile::tempdir().unwrap();
    let summary = run(&house, &manifest, dir.path(), Options::default()).await.unwrap();
    let after = content(dir.path());
    assert!(summary.damaged > 1 && summary.damaged < files.len() as u64);
    assert!(!after.is_empty() && after.iter().all(|(name, bytes)| before[name] == *bytes));
    let report = summary.failure().unwrap();
    assert!(report.class == Class::Integrity && report.remedy.unwrap().contains("--heal-from"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_outside_the_selection_is_none_of_it() {
    let house = house(40 * MIB);
    let (manifest, before, files) = saved(&house, "tree", 1).await;
    let (_, stream) = manifest.streams().next().unwrap();
    let of = |path: &str| files.iter().find(|file| file.path == path.as_bytes()).unwrap();
    // The middle of the largest file.
    let chunk = usize::try_from((of("c/f5").content_start + 4500) / 1000).unwrap();
    damage(&house, stream, &BTreeSet::from([chunk]), false).await;
    let dir = tempfile::tempdir().unwrap();
    let summary = run(&house, &manifest, dir.path(), include(&["a"])).await.unwrap();
    assert_eq!((summary.damaged, summary.failure()), (0, None));
    assert!(content(dir.path()).iter().all(|(name, bytes)| before[name] == *bytes));
    // And the one that is hit is left out alone.
    let dir = tempfile::tempdir().unwrap();
    let summary = run(&house, &manifest, dir.path(), Options::default()).await.unwrap();
    assert_eq!((summary.damaged, summary.damage[0].path.as_slice()), (1, &b"c/f5"[..]));
    assert_eq!(content(dir.path()).len(), before.len() - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_come_from_another_backup() {
    let house = house(40 * MIB);
    let (mut manifest, mut before, files) = saved(&house, "tree", 1).await;
    let (other, others, _) = saved(&house, "other", 2).await;
    let mut broken = file(&house, "broken", SourceDescription::Stdin).await;
    if let Content::Stream { stream: Some(stream) } = &mut broken.content {
        house.store.delete(&stream.index.key).await.unwrap();
    }
    manifest.items.insert(0, broken);
    let (_, stream) = manifest.streams().nth(1).unwrap();
    let of = |path: &str| files.iter().find(|file| file.path == path.as_bytes()).unwrap().content_start + 100;
    let chunks = ["c/f5", "a/f3"].map(|path| usize::try_from(of(path) / 1000).unwrap() + 1);
    let lost = damage(&house, stream, &chunks.into(), false).await;
    let hit = touched(&files, &lost);
    assert!(hit.contains("c/f5") && hit.contains("a/f3"));
    let dir = tempfile::tempdir().unwrap();
    let heal = Options { heal: Some(Box::new(other.clone())), ..Options::default() };
    let summary = run(&house, &manifest, dir.path(), heal).await.unwrap();
    for name in &hit {
        before.insert(name.clone(), others[name].clone());
    }
    assert_eq!(content(&dir.path().join("tree")), before);
    let healed = summary.damage.iter().filter(|file| file.outcome == Outcome::Healed(other.id.clone())).count();
    // An item whose index is gone does not end the others.
    assert_eq!((healed, summary.left_out, summary.damaged), (hit.len(), 1, hit.len() as u64 + 1));
    assert!(summary.failure().unwrap().message.contains("1 left out"), "{:?}", summary.failure());

    // The other one's index is gone: what was whole is there all the same.
    let (_, lost_index) = other.streams().next().unwrap();
    let index = house.object(&lost_index.index.key).await;
    house.store.delete(&lost_index.index.key).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let heal = Options { heal: Some(Box::new(other.clone())), ..Options::default() };
    let unhealed = run(&house, &manifest, dir.path(), heal).await.unwrap();
    assert_eq!((unhealed.damaged, unhealed.left_out), (hit.len() as u64 + 1, hit.len() as u64 + 1));
    assert!(unhealed.warnings.list.iter().any(|warning| warning.message.contains("could not take")), "{unhealed:?}");
    assert_eq!(content(&dir.path().join("tree")).len(), before.len() - hit.len());
    house.put(&lost_index.index.key, index).await;

    let paths = hit.iter().map(|path| path.clone().into_bytes()).collect();
    let found = |manifest| {
        elsewhere::find(
            &house.location,
            manifest,
            &manifest.items[manifest.items.len() - 1].name,
            &paths,
            &summary.lost,
        )
    };
    let found_there: BTreeSet<_> = found(&other).await.unwrap().into_iter().collect();
    assert_eq!(found_there, hit.iter().map(|path| path.clone().into_bytes()).collect());
    assert!(found(&manifest).await.unwrap().is_empty(), "the damaged backup has none of them whole");
}
