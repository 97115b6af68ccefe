use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::download::testing::{Cut, House, MIB, RAW, SMALL, house, noise};
use crate::error::{Class, Classify as _};
use crate::format::index::FileEntry;
use crate::format::manifest::SourceDescription;
use crate::format::testing::{item, manifest, name};
use crate::source::Source as _;
use crate::source::tree::{Options as TreeOptions, TreeSource};

mod damage;

fn archive(root: &Path) -> (Vec<u8>, Vec<FileEntry>) {
    let mut source = TreeSource::new(root, &TreeOptions::default(), None).unwrap();
    let (mut bytes, mut files, mut buffer) = (Vec::new(), Vec::new(), vec![0; 10_000]);
    loop {
        let count = source.read(&mut buffer).unwrap();
        files.extend(source.take_entries());
        if count == 0 && source.take_marks().is_empty() {
            return (bytes, files);
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

async fn tree(house: &House) -> Item {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("a/deep")).unwrap();
    fs::create_dir(at("b")).unwrap();
    fs::write(at("a/big"), noise(20_000, 1)).unwrap();
    fs::write(at("a/deep/x.conf"), b"x").unwrap();
    fs::hard_link(at("a/big"), at("b/link1")).unwrap();
    fs::hard_link(at("a/big"), at("b/link2")).unwrap();
    symlink("/etc/passwd", at("b/symlink")).unwrap();
    for (path, mode) in [("", 0o710), ("a", 0o700), ("a/deep", 0o750), ("b", 0o2771)] {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
        let times =
            fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000));
        fs::File::open(at(path)).unwrap().set_times(times).unwrap();
    }
    let (bytes, files) = archive(dir.path());
    let stream = house.stream("tree", &bytes, &files, SMALL).await;
    item("tree", SourceDescription::Tree { path: "/data".to_owned() }, Some(stream))
}

async fn file(house: &House, item_name: &str, source: SourceDescription) -> Item {
    let stream = house.stream(item_name, &noise(30_000, 9), &[], SMALL).await;
    item(item_name, source, Some(stream))
}

async fn run(house: &House, manifest: &Manifest, target: &Path, options: Options) -> Result<Summary, Error> {
    let counter = AtomicU64::new(0);
    let progress: Progress = Arc::new(move |bytes| {
        counter.fetch_add(bytes, Ordering::Relaxed);
    });
    restore(&house.location, manifest, target, &options, &CancellationToken::new(), &progress).await
}

fn include(globs: &[&str]) -> Options {
    Options { include: globs.iter().map(|glob| (*glob).to_owned()).collect(), ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_item_goes_straight_into_the_target_and_only_if_it_is_empty() {
    let house = house(40 * MIB);
    let manifest = manifest(vec![tree(&house).await]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new/target");
    let summary = run(&house, &manifest, &target, Options::default()).await.unwrap();
    assert_eq!(summary.items, [name("tree")]);
    assert_eq!(fs::read(target.join("b/link2")).unwrap(), noise(20_000, 1));
    assert_eq!(fs::metadata(target.join("a/big")).unwrap().nlink(), 3);
    let report = run(&house, &manifest, &target, Options::default()).await.unwrap_err().report();
    assert_eq!(report.class, Class::Conflict);
    assert!(report.remedy.unwrap().contains("--overwrite"));
    run(&house, &manifest, &target, Options { onto: Onto::Overwrite, ..Options::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_included_hard_link_brings_its_data() {
    let house = house(40 * MIB);
    let manifest = manifest(vec![tree(&house).await]);
    let dir = tempfile::tempdir().unwrap();
    run(&house, &manifest, dir.path(), include(&["b/link*", "**/*.conf"])).await.unwrap();
    assert_eq!(fs::read(dir.path().join("b/link1")).unwrap(), noise(20_000, 1));
    assert_eq!(fs::metadata(dir.path().join("b/link2")).unwrap().nlink(), 2);
    assert_eq!(fs::read(dir.path().join("a/deep/x.conf")).unwrap(), b"x");
    assert!(!dir.path().join("a/big").exists() && dir.path().join("b/symlink").symlink_metadata().is_err());

    let dir = tempfile::tempdir().unwrap();
    let nothing = run(&house, &manifest, dir.path(), include(&["nothing"])).await.unwrap_err();
    assert_eq!(nothing.class(), Class::NotFound);
    run(&house, &manifest, dir.path(), include(&["a"])).await.unwrap();
    assert!(dir.path().join("a/big").exists() && !dir.path().join("b").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directories_above_what_is_included_keep_others_out_as_they_did() {
    let house = house(40 * MIB);
    let manifest = manifest(vec![tree(&house).await]);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new");
    let mode = |path: &str| fs::metadata(target.join(path)).unwrap().mode() & 0o7777;
    let summary = run(&house, &manifest, &target, include(&["**/x.conf", "b/link2"])).await.unwrap();
    assert_eq!((summary.files, summary.warnings.count), (2, 0));
    assert_eq!((mode(""), mode("a"), mode("a/deep"), mode("b")), (0o710, 0o700, 0o750, 0o2771));
    assert_eq!(fs::metadata(target.join("a")).unwrap().mtime(), 1_000_000_000);

    // An existing target keeps its mode.
    let overwrite = Options { onto: Onto::Overwrite, ..include(&["**/x.conf"]) };
    for path in ["a", "a/deep"] {
        fs::set_permissions(target.join(path), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let summary = run(&house, &manifest, &target, overwrite).await.unwrap();
    assert_eq!((summary.files, summary.warnings.count), (1, 0));
    assert_eq!((mode("a"), mode("a/deep")), (0o555, 0o555));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_items_go_into_folders_and_a_failed_one_is_a_warning() {
    let house = house(40 * MIB);
    let path = "/var/lib/db.sqlite".to_owned();
    let items = vec![
        tree(&house).await,
        file(&house, "db", SourceDescription::File { path }).await,
        file(&house, "evil", SourceDescription::File { path: "/x/..".to_owned() }).await,
        file(&house, "dump", SourceDescription::Command { argv: vec!["dump".to_owned()] }).await,
        item("broken", SourceDescription::Stdin, None),
    ];
    let manifest = manifest(items);
    let dir = tempfile::tempdir().unwrap();
    let summary = run(&house, &manifest, dir.path(), Options::default()).await.unwrap();
    assert_eq!((summary.items.len(), summary.warnings.count), (4, 1));
    for path in ["db/db.sqlite", "evil/evil", "dump/dump"] {
        assert_eq!(fs::read(dir.path().join(path)).unwrap(), noise(30_000, 9), "{path}");
    }
    assert!(dir.path().join("tree/a/big").exists());

    let of = |item: &str| Options { items: vec![name(item)], onto: Onto::Overwrite, ..Options::default() };
    let report = run(&house, &manifest, dir.path(), of("broken")).await.unwrap_err().report();
    assert!(report.class == Class::NotFound && report.message.contains("failed"), "{report:?}");
    let report = run(&house, &manifest, dir.path(), of("other")).await.unwrap_err().report();
    assert!(report.class == Class::NotFound && report.message.contains("dump"), "{report:?}");
    // The single item's file would have the path of its existing folder.
    let summary = run(&house, &manifest, dir.path(), of("dump")).await.unwrap();
    assert_eq!((summary.left_out, summary.warnings.count), (1, 1));
    let report = summary.failure().unwrap();
    assert!(report.class == Class::Conflict && report.message.contains("directory"), "{report:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);

    // A conflict of one item leaves the others alone.
    fs::remove_dir_all(dir.path().join("tree")).unwrap();
    symlink("db", dir.path().join("tree")).unwrap();
    fs::remove_file(dir.path().join("db/db.sqlite")).unwrap();
    fs::create_dir(dir.path().join("db/db.sqlite")).unwrap();
    let summary =
        run(&house, &manifest, dir.path(), Options { onto: Onto::Overwrite, ..Options::default() }).await.unwrap();
    assert_eq!((summary.left_out, summary.files, summary.failure()), (2, 2, None));
    let said: Vec<_> = summary.warnings.list.iter().map(|line| (line.item.as_str(), line.class)).collect();
    assert_eq!(said, [("broken", Class::Source), ("tree", Class::Conflict), ("db", Class::Conflict)]);
    assert!(dir.path().join("tree").is_symlink());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_written_whole_or_not_at_all_and_through_no_link() {
    let house = house(40 * MIB);
    let item = file(&house, "dump", SourceDescription::Stdin).await;
    let manifest = manifest(vec![item]);
    let dir = tempfile::tempdir().unwrap();
    let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
    fs::create_dir(&target).unwrap();
    fs::write(&outside, b"outside").unwrap();
    symlink(&outside, target.join("dump")).unwrap();
    let overwrite = Options { onto: Onto::Overwrite, ..Options::default() };
    // A link is not a file: it stays, and the restore lists it.
    let summary = run(&house, &manifest, &target, overwrite.clone()).await.unwrap();
    assert_eq!(summary.failure().unwrap().class, Class::Conflict);
    assert!(target.join("dump").is_symlink());
    assert_eq!(fs::read(&outside).unwrap(), b"outside");
    // The file is replaced, not written into: its other name keeps the old content.
    fs::remove_file(target.join("dump")).unwrap();
    fs::hard_link(&outside, target.join("dump")).unwrap();
    run(&house, &manifest, &target, overwrite.clone()).await.unwrap();
    assert_eq!(fs::read(target.join("dump")).unwrap(), noise(30_000, 9));
    assert_eq!(fs::metadata(target.join("dump")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read(&outside).unwrap(), b"outside");

    let (_, stream) = manifest.streams().next().unwrap();
    house.change(&stream.objects[1].key, |data| data[100] ^= 1).await;
    fs::remove_file(target.join("dump")).unwrap();
    let summary = run(&house, &manifest, &target, overwrite.clone()).await.unwrap();
    assert_eq!((summary.failure().unwrap().class, summary.left_out, summary.damaged), (Class::Integrity, 1, 1));
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);

    let fill = Options { damaged: Damaged::ZeroFill, ..overwrite };
    let summary = run(&house, &manifest, &target, fill).await.unwrap();
    let Outcome::Filled(zeros) = &summary.damage[0].outcome else { panic!("{summary:?}") };
    let (mut expected, zeros) = (noise(30_000, 9), &zeros[0]);
    expected[usize::try_from(zeros.start).unwrap()..usize::try_from(zeros.end).unwrap()].fill(0);
    assert!(zeros.end - zeros.start == 1000 && fs::read(target.join("dump")).unwrap() == expected);
    assert_eq!((summary.failure().unwrap().class, summary.left_out, summary.altered), (Class::Integrity, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cat_writes_one_item() {
    let house = house(40 * MIB);
    let one = file(&house, "one", SourceDescription::Stdin).await;
    let two = file(&house, "two", SourceDescription::Stdin).await;
    let cancel = CancellationToken::new();
    let both = manifest(vec![one.clone(), two]);
    let mut out = Vec::new();
    let report = cat(&house.location, &both, None, &mut out, &cancel).await.unwrap_err().report();
    assert!(report.class == Class::Config && report.message.contains("one, two"), "{report:?}");
    assert_eq!(cat(&house.location, &both, Some(&name("two")), &mut out, &cancel).await.unwrap(), 30_000);
    assert!(out == noise(30_000, 9));
    cat(&house.location, &manifest(vec![one]), None, tokio::io::sink(), &cancel).await.unwrap();
}
