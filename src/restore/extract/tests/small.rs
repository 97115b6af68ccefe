//! Files that another thread fills.

use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;

use super::super::finish::{Done, Finisher, SMALL};
use super::*;
use crate::restore::refusal::Refusal;
use crate::restore::salvage::Hurt;

/// Sizes around the longest that is held.
const SIZES: [usize; 6] = [0, 1, 700, 40_000, SMALL, SMALL + 1];

fn content(number: usize) -> Vec<u8> {
    (0..=250).cycle().skip(number).take(SIZES[number % SIZES.len()]).collect()
}

fn name(number: usize) -> String {
    format!("d{}/{number:03}", number % 3)
}

/// So many files, each fifth with a second name, which follows it.
fn many(count: usize) -> Vec<u8> {
    let mut members = Vec::new();
    for number in 0..count {
        members.push(member(flags::REGULAR, &name(number), 0o640, "", &content(number)));
        if number % 5 == 0 {
            members.push(member(flags::HARD_LINK, &format!("{}-too", name(number)), 0o640, &name(number), b""));
        }
    }
    archive(&members)
}

#[test]
fn every_file_is_whole_and_has_its_names() {
    let room = Room::new();
    let summary = room.extract(&many(100), false).unwrap();
    // The archive says nothing of the three directories.
    assert_eq!((summary.files, summary.left_out, summary.altered), (120, 0, 3), "{summary:?}");
    assert_eq!(summary.bytes, (0..100).map(|number| content(number).len() as u64).sum::<u64>());
    for number in 0..100 {
        let path = room.target().join(name(number));
        assert!(fs::read(&path).unwrap() == content(number) && mode(&path) == 0o640, "{number}");
        let names = if number % 5 == 0 { 2 } else { 1 };
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.mtime()), (names, 0), "{number}");
    }
}

#[test]
fn an_archive_that_ends_early_leaves_whole_files_only() {
    let whole = many(40);
    for part in 1..20 {
        let room = Room::new();
        let length = whole.len() * part / 20 + 13 * part;
        room.extract(&whole[..length], false).unwrap_err();
        let there: Vec<usize> = (0..40).filter(|number| room.target().join(name(*number)).exists()).collect();
        // A header and whole blocks each; of each fifth, a header more.
        let size = |number: usize| {
            512 + content(number).len().next_multiple_of(512) + 512 * usize::from(number.is_multiple_of(5))
        };
        let complete = (0..40).take_while(|number| (0..=*number).map(size).sum::<usize>() <= length).count();
        // The padding of the next may be missing, and its link.
        assert!([complete, complete + 1].contains(&there.len()), "{part}: {complete}, {there:?}");
        for number in there {
            let path = room.target().join(name(number));
            assert!(fs::read(&path).unwrap() == content(number) && mode(&path) == 0o640, "{part}: {number}");
            assert_eq!(path.metadata().unwrap().mtime(), 0, "{part}: {number}");
        }
    }
}

/// A regular file's member as the reader gives it.
fn parsed(path: &str, size: usize) -> Member {
    let bytes = member(flags::REGULAR, path, 0o600, "", &vec![0; size]);
    tar::Reader::new(&bytes[..]).next_member().unwrap().unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "the field's type")]
fn lost(range: Range<u64>) -> Option<Vec<Range<u64>>> {
    Some(std::iter::once(range).collect())
}

/// Begins a file and gives so much of it.
fn give(extractor: &mut Extractor<'_>, path: &str, size: usize, bytes: &[u8]) {
    assert_eq!(extractor.begin(parsed(path, size)).unwrap(), Wants::Data);
    assert_eq!(extractor.data(0, bytes).unwrap(), Wants::Data);
}

#[test]
fn what_is_held_of_a_damaged_file_is_taken_back() {
    let room = Room::new();
    let options = Options::default();
    let mut extractor = extractor(&room.target(), &options, Root::There).unwrap();
    let of = |path: &str, filled| Hurt { path: path.into(), kind: FileKind::Regular, filled };
    give(&mut extractor, "before", 6, b"before");
    extractor.end().unwrap();
    // Its rest cannot be read.
    give(&mut extractor, "cut", 10, b"half");
    extractor.cut();
    extractor.hurt(of("cut", None)).unwrap();
    give(&mut extractor, "between", 7, b"between");
    extractor.end().unwrap();
    // Its rest is zeros.
    give(&mut extractor, "filled", 8, b"half");
    extractor.hurt(of("filled", lost(4..8))).unwrap();
    extractor.data(4, &[0; 4]).unwrap();
    extractor.end().unwrap();
    give(&mut extractor, "after", 5, b"after");
    extractor.end().unwrap();
    extractor.finish().unwrap();
    let mut there: Vec<_> = fs::read_dir(room.target()).unwrap().map(|entry| entry.unwrap().path()).collect();
    there.sort();
    let there: Vec<_> = there.iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(there, [&b"after"[..], b"before", b"between", b"half\0\0\0\0"]);
    let damaged: Vec<_> =
        extractor.summary.damage.iter().map(|damage| (&damage.path[..], damage.filled.clone())).collect();
    assert_eq!(damaged, [(&b"cut"[..], None), (b"filled", lost(4..8))]);
}

#[test]
fn damage_of_a_name_that_comes_twice_is_the_later_ones() {
    let room = Room::new();
    let options = Options { overwrite: true, ..Options::default() };
    fs::write(room.target().join("f"), b"old").unwrap();
    let mut extractor = extractor(&room.target(), &options, Root::There).unwrap();
    give(&mut extractor, "f", 5, b"first");
    extractor.end().unwrap();
    assert!(extractor.finisher.as_ref().unwrap().has(b"f"));
    let hurt = Hurt { path: b"f".into(), kind: FileKind::Regular, filled: lost(0..5) };
    extractor.hurt(hurt).unwrap();
    assert!(!extractor.finisher.as_ref().unwrap().has(b"f"), "it is done before the next one of its name is created");
    assert_eq!((extractor.summary.files, extractor.summary.damaged), (1, 0));
    give(&mut extractor, "f", 5, &[0; 5]);
    extractor.end().unwrap();
    extractor.finish().unwrap();
    assert_eq!((extractor.summary.files, extractor.summary.damaged), (2, 1));
    assert_eq!(fs::read(room.target().join("f")).unwrap(), [0; 5]);
}

#[test]
fn files_come_back_in_order_each_with_its_own_error() {
    let room = Room::new();
    let mut finisher = Finisher::start().unwrap();
    for path in ["a", "read-only", "c"] {
        let at = room.target().join(path);
        fs::write(&at, b"").unwrap();
        let file = File::options().write(path != "read-only").read(true).open(at).unwrap();
        finisher.hold(path.as_bytes());
        assert!(finisher.end(Output::new(file, parsed(path, path.len()))).is_empty());
    }
    let done: Vec<_> = finisher.drain().into_iter().map(|done| (done.path, done.result.is_ok())).collect();
    assert_eq!(done, [(b"a".to_vec(), true), (b"read-only".to_vec(), false), (b"c".to_vec(), true)]);
    assert_eq!(fs::read(room.target().join("c")).unwrap(), b"c");
    // Its memory is used again, and nothing of before is in it.
    fs::write(room.target().join("d"), b"").unwrap();
    finisher.hold(b"d");
    assert_eq!(finisher.held(), b"d");
    finisher.end(Output::new(File::options().write(true).open(room.target().join("d")).unwrap(), parsed("d", 1)));
    assert!(finisher.drain()[0].result.is_ok());
    assert_eq!(fs::read(room.target().join("d")).unwrap(), b"d");
}

#[test]
fn one_that_cannot_be_filled_is_removed_and_so_are_those_after_it_that_cannot() {
    let room = Room::new();
    let options = Options::default();
    let mut extractor = extractor(&room.target(), &options, Root::There).unwrap();
    for path in ["refused", "full", "full too", "whole"] {
        fs::write(room.target().join(path), b"half").unwrap();
    }
    let done = |path: &str, result| Done { path: path.into(), differences: Vec::new(), result };
    let refused = Failure::LeftOut(Refusal::system("write", Errno::FBIG));
    let full = |path: &str| Err(Failure::Ends(failed("write", path.as_bytes())(Errno::NOSPC)));
    let files = vec![
        done("refused", Err(refused)),
        done("full", full("full")),
        done("full too", full("full too")),
        done("whole", Ok(())),
    ];
    let error = extractor.settle_files(files).unwrap_err();
    assert!(error.to_string().contains("\"full\""), "{error}");
    let left: Vec<_> = fs::read_dir(room.target()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["whole"]);
    assert_eq!(extractor.target.known.left_out(b"refused"), Some(Class::Local));
    assert_eq!((extractor.summary.files, extractor.ledger.left_out), (1, 1));
}
