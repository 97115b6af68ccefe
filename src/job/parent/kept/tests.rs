use super::*;
use crate::format::codec::Encoding;
use crate::format::index::{ChunkId, FileKind, FileTime, Totals};
use crate::format::key::ObjectKey;
use crate::format::manifest::{IndexObject, SourceDescription};
use crate::format::sealed::Encryption;
use crate::format::testing::{item, manifest_of, name, object, stream};

fn id(backup: u8) -> BackupId {
    format!("20261123T2213{backup:02}Z-4f9a2c").parse().unwrap()
}

fn chain() -> Chain {
    Chain { cluster: name("c"), job: name("j"), node: name("n") }
}

fn chunk(number: u8) -> Chunk {
    Chunk { id: ChunkId([number; 32]), plain_len: 600, encoding: Encoding::Raw, object: 0, offset: 0, stored_len: 600 }
}

fn file(path: &str, member_start: u64) -> FileEntry {
    let time = FileTime { seconds: 1, nanoseconds: 2 };
    FileEntry {
        path: path.into(),
        kind: FileKind::Regular,
        size: 10,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: time,
        ctime: time,
        inode: 7,
        device: 1,
        link: Vec::new(),
        member_start,
        content_start: member_start + 512,
        content_len: 10,
    }
}

/// The stream of [`write`].
fn of() -> Stream {
    let digest = Sha256::new().chain_update([1; 32]).chain_update([2; 32]).finalize().into();
    let totals = Totals { chunks: 2, files: 1, plain_bytes: 1200, digest };
    let index = IndexObject { key: ObjectKey::new("i"), size: 1, sha256: [9; 32], version: None };
    stream(totals, index, vec![object(ObjectKey::new("o"), &[0; 600])])
}

fn write(tables: &Tables, item: &str, backup: u8, index: [u8; 32]) -> io::Result<()> {
    let mut keeper = tables.begin(&name(item), &id(backup))?;
    keeper.file(&file("canary/a", 0))?;
    keeper.chunk(&chunk(1))?;
    keeper.chunk(&chunk(2))?;
    keeper.finish(index, Some(&HashSet::from(["canary/b".to_owned()])))
}

fn files(tables: &Tables) -> Vec<String> {
    let names = std::fs::read_dir(&tables.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_table_is_what_was_stored_without_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::new(folder.path(), "primary", &chain());
    write(&tables, "a", 1, [9; 32]).unwrap();
    let kept = tables.read(&name("a"), &id(1), &of()).unwrap().unwrap();
    assert_eq!(kept.chunks, [chunk(1), chunk(2)]);
    assert!(kept.files.is_some());
    for file in files(&tables) {
        let bytes = std::fs::read(tables.0.join(&file)).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{file}");
    }
    assert!(tables.read(&name("a"), &id(2), &of()).unwrap().is_none(), "another backup");
    assert!(tables.read(&name("b"), &id(1), &of()).unwrap().is_none(), "another item");
    let mut other = of();
    other.index.sha256 = [8; 32];
    assert!(tables.read(&name("a"), &id(1), &other).unwrap().is_none(), "another index");
    let mut other = of();
    other.digest = [3; 32];
    assert!(tables.read(&name("a"), &id(1), &other).is_err(), "not the manifest's chunks");
}

#[test]
fn a_table_that_was_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::new(folder.path(), "primary", &chain());
    write(&tables, "a", 1, [9; 32]).unwrap();
    for kind in ["index", "json"] {
        let path = tables.path(&name("a"), &id(1), kind);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let read = tables.read(&name("a"), &id(1), &of());
            let harmless = read.as_ref().is_ok_and(|kept| kept.as_ref().is_none_or(|kept| kept.chunks.len() == 2));
            assert!(read.is_err() || (kind == "json" && harmless), "{kind}, byte {at}: {read:?}");
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(tables.read(&name("a"), &id(1), &of()).is_err(), "half of {kind}");
        std::fs::write(&path, &good).unwrap();
    }
    assert!(tables.read(&name("a"), &id(1), &of()).unwrap().is_some());
}

#[test]
fn only_the_last_committed_table_of_each_item_stays() {
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::new(folder.path(), "primary", &chain());
    for (item, backup) in [("a", 1), ("b", 1), ("c.d", 1), ("gone", 1), ("a", 2), ("c.d", 2)] {
        write(&tables, item, backup, [9; 32]).unwrap();
    }
    let chain = crate::format::testing::chain("n");
    let of = |item_name| item(item_name, SourceDescription::Stdin, None);
    let plain = manifest_of(chain, id(2), vec![of("a"), of("b"), of("c.d")]);
    let encryption = Some(Encryption::new(&[], Vec::new(), None));
    tables.committed(&Manifest { encryption, ..plain.clone() });
    let kept = |item: &str, backup| ["index", "json"].map(|kind| format!("{item}.{}.{kind}", id(backup)));
    // The item b failed in the second backup: the next one refers to the first.
    assert_eq!(files(&tables), [kept("a", 2), kept("b", 1), kept("c.d", 2)].concat());
    write(&tables, "a", 3, [9; 32]).unwrap();
    assert_eq!(tables.last(), Some(id(3)));
    tables.forget(&id(3));
    assert_eq!(files(&tables), [kept("a", 2), kept("b", 1), kept("c.d", 2)].concat());
    tables.committed(&plain);
    assert_eq!((files(&tables), tables.last()), (Vec::new(), None), "a plain backup needs none");
}

#[test]
fn the_tables_of_a_volume_that_this_node_saves_no_more_go_after_a_month() {
    let dir = tempfile::tempdir().unwrap();
    let tables = |node: &str| Tables::new(dir.path(), "l", &Chain { node: name(node), ..chain() });
    let age = |tables: &Tables, days: u64| {
        let time = std::time::SystemTime::now() - Duration::from_hours(24 * days);
        for entry in std::fs::read_dir(&tables.0).unwrap() {
            File::options().write(true).open(entry.unwrap().path()).unwrap().set_modified(time).unwrap();
        }
        File::open(&tables.0).unwrap().set_modified(time).unwrap();
    };
    for (node, days) in [("claim.shop.moved", 31), ("claim.shop.away", 29), ("claim.shop.saved", 31), ("n", 31)] {
        write(&tables(node), "volume", 1, [9; 32]).unwrap();
        age(&tables(node), days);
    }
    // One whose folder is older than what was written last.
    write(&tables("claim.shop.new"), "volume", 1, [9; 32]).unwrap();
    age(&tables("claim.shop.new"), 31);
    File::options()
        .write(true)
        .open(tables("claim.shop.new").path(&name("volume"), &id(1), "json"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    let is_left = |chain: &Name| chain.as_str() != "n" && chain.as_str() != "claim.shop.saved";
    Tables::forget_chains(dir.path(), "l", &name("j"), is_left);
    let left = |node: &str| tables(node).0.exists();
    assert!(!left("claim.shop.moved"));
    for node in ["claim.shop.away", "claim.shop.saved", "claim.shop.new", "n"] {
        assert!(left(node), "{node}");
    }
    Tables::forget_chains(dir.path(), "another", &name("j"), |_| true);
}
