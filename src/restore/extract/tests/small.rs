//! Files that another thread fills.

use std::os::unix::fs::MetadataExt as _;

use rustix::io::Errno;

use super::super::finish::{Done, SMALL};
use super::*;
use crate::restore::refusal::Refusal;

/// Sizes around the longest that is held.
const SIZES: [u64; 6] = [0, 1, 700, 40_000, SMALL, SMALL + 1];

fn content(number: usize) -> Vec<u8> {
    let size = usize::try_from(SIZES[number % SIZES.len()]).unwrap();
    (0..=250).cycle().skip(number).take(size).collect()
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
        assert_eq!(path.metadata().unwrap().nlink(), names, "{number}");
    }
}

#[test]
fn an_archive_that_ends_early_leaves_whole_files_only() {
    let whole = many(40);
    for part in 1..20 {
        let room = Room::new();
        room.extract(&whole[..whole.len() * part / 20 + 13 * part], false).unwrap_err();
        let there: Vec<usize> = (0..40).filter(|number| room.target().join(name(*number)).exists()).collect();
        assert_eq!(there, (0..there.len()).collect::<Vec<_>>(), "all before the end are there");
        for number in there {
            let path = room.target().join(name(number));
            assert!(fs::read(&path).unwrap() == content(number) && mode(&path) == 0o640, "{part}: {number}");
        }
    }
}

#[test]
fn a_name_that_comes_twice_is_replaced_by_the_last_when_it_was_there_before() {
    let room = Room::new();
    fs::write(room.target().join("f"), b"old").unwrap();
    let twice = [b"first", b"other"].map(|data| member(flags::REGULAR, "f", 0o600, "", data));
    let summary = room.extract(&archive(&twice), true).unwrap();
    assert_eq!((summary.files, summary.left_out), (2, 0), "{summary:?}");
    assert_eq!(fs::read(room.target().join("f")).unwrap(), b"other");
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
