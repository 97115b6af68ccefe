use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

mod target;

use std::path::PathBuf;

use super::*;
use crate::source::tree::header::{BLOCK, MAX_PAX, kind};

/// One member, as an attacker writes it.
#[derive(Clone, Default)]
struct Raw {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    /// As it stands in the field.
    size: Option<Vec<u8>>,
    data: Vec<u8>,
}

fn raw(kind: u8, path: &str, link: &str, data: &[u8]) -> Vec<u8> {
    Raw { kind, path: path.into(), link: link.into(), size: None, data: data.to_vec() }.bytes()
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..self.path.len()].copy_from_slice(&self.path);
        block[100..108].copy_from_slice(b"0000755\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        let size = self.size.clone().unwrap_or_else(|| format!("{:011o}\0", self.data.len()).into_bytes());
        block[124..136].copy_from_slice(&size);
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        block.extend_from_slice(&self.data);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block[..BLOCK].iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..rest + 10).find(|length| *length == rest + length.to_string().len()).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn pax(records: &[(&str, &[u8])], member: Vec<u8>) -> Vec<u8> {
    let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    [raw(kind::PAX, "PaxHeaders/x", "", &records), member].concat()
}

fn sparse(size: &[u8], data: &[u8]) -> Vec<u8> {
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", size),
    ];
    pax(&records, raw(kind::REGULAR, "GNUSparseFile.0/f", "", data))
}

fn map(text: &str, data: usize) -> Vec<u8> {
    let mut map = text.as_bytes().to_vec();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map.resize(map.len() + data, b'd');
    map
}

fn sized(size: &[u8; 12]) -> Vec<u8> {
    Raw { kind: kind::REGULAR, path: b"f".to_vec(), size: Some(size.to_vec()), ..Raw::default() }.bytes()
}

struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    /// A target, and next to it what must not be touched.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside/dir")).unwrap();
        let secret = dir.path().join("outside/secret");
        fs::write(&secret, b"secret").unwrap();
        fs::set_permissions(secret, PermissionsExt::from_mode(0o644)).unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        Self { dir }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    fn extract(&self, archive: &[u8], overwrite: bool) -> Result<Summary, Error> {
        extract(archive, &self.target(), &Options { overwrite, ..Options::default() })
    }

    fn check_outside(&self) {
        use std::os::unix::fs::MetadataExt;
        let outside = self.dir.path().join("outside");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        let secret = fs::metadata(outside.join("secret")).unwrap();
        let user = rustix::process::geteuid().as_raw();
        assert_eq!((secret.mode() & 0o7777, secret.nlink(), secret.uid()), (0o644, 1, user));
        assert_eq!(fs::read_dir(outside.join("dir")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }
}

fn file(path: &str) -> Vec<u8> {
    raw(kind::REGULAR, path, "", b"evil")
}

/// Name, archive without its end, and what the error says; `evil` is an absolute path that nothing may write to.
// A table has as many lines as it has rows.
#[allow(clippy::too_many_lines)]
fn attacks(evil: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let dir = |path: &str| raw(kind::DIRECTORY, path, "", b"");
    let link = |path: &str, to: &str| raw(kind::SYMLINK, path, to, b"");
    let hard = |path: &str, to: &str| raw(kind::HARD_LINK, path, to, b"");
    let x = |key: &str, value: &[u8]| pax(&[(key, value)], file("f"));
    let huge = vec![b'a'; MAX_PAX + 1];
    vec![
        ("dots", file("../outside/new"), "\"..\""),
        ("dots inside", file("a/../../outside/new"), "\"..\""),
        ("dots in pax", x("path", b"../outside/new"), "\"..\""),
        (
            "dots in a sparse name",
            pax(
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"../outside/new"),
                    ("GNU.sparse.realsize", b"0"),
                ],
                file("f"),
            ),
            "\"..\"",
        ),
        ("absolute", file(evil), "absolute"),
        ("absolute in pax", x("path", evil.as_bytes()), "absolute"),
        ("NUL", x("path", b"a\0b"), "NUL"),
        ("empty", file(""), "empty"),
        ("empty in pax", x("path", b""), "empty"),
        ("a file as the target itself", file("."), "expected a directory"),
        ("a link as the target itself", link(".", "../outside"), "expected a directory"),
        ("write through a link", [link("l", "../outside"), file("l/new")].concat(), "expected a directory"),
        (
            "write through an absolute link",
            [link("l", "/"), file(&format!("l{evil}"))].concat(),
            "expected a directory",
        ),
        (
            "write through a chain",
            [link("a", "../outside"), link("b", "a"), file("b/dir/new")].concat(),
            "expected a directory",
        ),
        ("make a directory through a link", [link("l", "../outside"), dir("l/new")].concat(), "expected a directory"),
        ("link through a link", [link("l", "../outside"), link("l/new", "x")].concat(), "expected a directory"),
        (
            "fifo through a link",
            [link("l", "../outside"), raw(kind::FIFO, "l/new", "", b"")].concat(),
            "expected a directory",
        ),
        ("hard link out", hard("h", "../outside/secret"), "below the target"),
        ("absolute hard link", hard("h", "/etc/passwd"), "below the target"),
        ("hard link through a link", [link("l", "../outside"), hard("h", "l/secret")].concat(), "expected a directory"),
        ("hard link to nothing", hard("h", "none"), "was restored"),
        ("hard link to a directory", [dir("d"), hard("h", "d")].concat(), "was restored"),
        ("hard link to the target", hard("h", "."), "was restored"),
        ("write through a file", [file("f"), file("f/x")].concat(), "expected a directory"),
        ("size below zero", x("size", b"-1"), "2^63"),
        ("size too large", x("size", b"18446744073709551616"), "2^63"),
        ("size that overflows with its padding", x("size", b"9223372036854775807"), "ends at byte"),
        ("size below zero in ustar", sized(b"-0000000001\0"), "octal"),
        ("size in base 256", sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "octal"),
        ("uid of all ones", x("uid", b"4294967295"), "2^32"),
        ("time that is none", x("mtime", b"1.2.3"), "decimal"),
        ("data in a directory", raw(kind::DIRECTORY, "d", "", b"data"), "only a regular file"),
        ("data in a link", raw(kind::SYMLINK, "l", "x", b"data"), "only a regular file"),
        ("an unknown type", raw(b'L', "l", "", b"data"), "its type"),
        ("a global header", raw(b'g', "l", "", b""), "its type"),
        ("a link to nothing", link("l", ""), "links to nothing"),
        ("a huge PAX header", raw(kind::PAX, "x", "", &huge), "at most 1048576"),
        (
            "a PAX header that says it is huge",
            Raw { kind: kind::PAX, size: Some(b"77777777777\0".to_vec()), ..Raw::default() }.bytes(),
            "at most 1048576",
        ),
        ("a record longer than its header", [raw(kind::PAX, "x", "", b"99 path=f\n"), file("f")].concat(), "at most"),
        ("a record of length 0", [raw(kind::PAX, "x", "", b"0 path=f\n"), file("f")].concat(), "at most"),
        ("a record without a line feed", [raw(kind::PAX, "x", "", b"9 path=ff"), file("f")].concat(), "malformed"),
        ("two PAX headers", [raw(kind::PAX, "x", "", b""), raw(kind::PAX, "x", "", b""), file("f")].concat(), "two"),
        ("a PAX header for nothing", raw(kind::PAX, "x", "", b""), "for no member"),
        ("a map out of order", sparse(b"9000", &map("2\n4096\n512\n0\n512\n", 1024)), "in order"),
        ("a map past the end", sparse(b"1000", &map("1\n512\n512\n", 512)), "0 to 1000"),
        ("a map that overflows", sparse(b"1000", &map("1\n9223372036854775807\n9223372036854775807\n", 0)), "in order"),
        ("a map of more than there is", sparse(b"9000", &map("1\n0\n1024\n", 512)), "expected the 512"),
        ("a map of less than there is", sparse(b"9000", &map("1\n0\n512\n", 1024)), "expected the 1024"),
        ("a map of too many segments", sparse(b"9000", &map("99999999\n", 0)), "at most"),
        ("a map that does not end", sparse(b"9000", &map("3\n0\n0\n", 0)), "over 20 digits"),
        ("a map of no numbers", sparse(b"9000", &map("x\n", 0)), "line that"),
        ("a map shorter than a block", sparse(b"9000", b"1\n0\n0\n"), "whole blocks"),
        ("broken blocks", sparse(b"9000", &map("2\n0\n100\n4096\n512\n", 612)), "broken blocks"),
        ("an old sparse format", x("GNU.sparse.map", b"0,1"), "older"),
        ("half a sparse file", x("GNU.sparse.major", b"1"), "incompletely"),
    ]
}

#[test]
fn every_attack_is_refused_and_nothing_outside_is_touched() {
    let elsewhere = tempfile::tempdir().unwrap();
    let evil = elsewhere.path().join("evil");
    for (name, archive, expected) in attacks(evil.to_str().unwrap()) {
        for overwrite in [false, true] {
            let room = Room::new();
            let archive = [&archive[..], &END_OF_ARCHIVE].concat();
            let error = room.extract(&archive, overwrite).expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
            room.check_outside();
            assert!(!evil.exists(), "{name}");
        }
    }
}

#[test]
fn a_refusal_is_a_fault_of_the_data() {
    let error = Room::new().extract(&file("../x"), false).unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    assert_eq!(
        error.to_string(),
        "the archive's member \"../x\" is refused: its path holds \"..\"; expected one that stays below the target"
    );
}

#[test]
fn a_name_that_comes_twice_is_never_written_through_nor_lost_in_silence() {
    let archives = [
        [raw(kind::SYMLINK, "f", "../outside/secret", b""), file("f")].concat(),
        // A hard link to a symbolic link is one more name of the link, not of what it points to.
        [raw(kind::SYMLINK, "l", "../outside/secret", b""), raw(kind::HARD_LINK, "f", "l", b""), file("f")].concat(),
        [raw(kind::DIRECTORY, "f", "", b""), raw(kind::SYMLINK, "f", "../outside", b"")].concat(),
    ];
    for archive in archives {
        for overwrite in [false, true] {
            let archive = [&archive[..], &END_OF_ARCHIVE].concat();
            let room = Room::new();
            let summary = room.extract(&archive, overwrite).unwrap();
            room.check_outside();
            assert_eq!(summary.left_out, 1);
            let said = summary.warnings.iter().find(|warning| warning.class == Class::Conflict).unwrap();
            assert!(said.message.contains("another member"), "{said:?}");
            assert!(!room.target().join("f").symlink_metadata().unwrap().is_file(), "the first one stays");
        }
    }
}

#[test]
fn an_archive_that_ends_early_leaves_no_half_file() {
    let whole = [file("a"), raw(kind::REGULAR, "b", "", &[b'x'; 3000]), END_OF_ARCHIVE.to_vec()].concat();
    for length in (0..whole.len()).step_by(97).chain([512, 1024, 1536, whole.len() - 1]) {
        let room = Room::new();
        let error = room.extract(&whole[..length], false).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{length}: {error}");
        // Only the padding of `b` may be missing.
        let complete = length >= 1536 + 3000;
        assert_eq!(room.target().join("b").exists(), complete, "{length}");
    }
    assert_eq!(Room::new().extract(&whole, false).unwrap().files, 2);
    let padded = [&whole[..], &[0; 10_000]].concat();
    assert_eq!(Room::new().extract(&padded, false).unwrap().bytes, 3004);
    let followed = [&padded[..], b"x"].concat();
    assert!(matches!(Room::new().extract(&followed, false), Err(Error::Header { .. })));
}

#[test]
fn a_flipped_bit_in_a_header_is_found() {
    let whole = [file("name"), END_OF_ARCHIVE.to_vec()].concat();
    for position in 0..BLOCK {
        let mut archive = whole.clone();
        archive[position] ^= 4;
        let room = Room::new();
        let result = room.extract(&archive, false);
        // The checksum's own last two bytes hold no digits.
        assert!(result.is_err() || (154..156).contains(&position), "{position}");
    }
}

#[test]
fn a_readers_error_is_passed_on() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("chunk 7 is missing"))
        }
    }
    let room = Room::new();
    let error = extract(Read::chain(&file("f")[..600], Broken), &room.target(), &Options::default()).unwrap_err();
    assert!(
        matches!(&error, Error::Read { offset: 600, error } if error.to_string() == "chunk 7 is missing"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Well-formed blocks with any fields: whatever comes of it, it comes of it inside.
    #[test]
    fn nothing_gets_out(
        members in prop::collection::vec(
            (
                prop::sample::select(b"0123456xgL".to_vec()),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "..", ".", "", "outside", "l"]), 1..5),
                prop::collection::vec(prop::sample::select(vec!["a", "b", "..", ".", "", "outside", "secret", "dir"]), 1..5),
                prop::collection::vec(any::<u8>(), 0..20),
            ),
            1..12,
        ),
        overwrite: bool,
    ) {
        let room = Room::new();
        let mut archive = Vec::new();
        for (kind, path, link, data) in members {
            let data = if matches!(kind, b'0' | b'x') { &data[..] } else { b"" };
            archive.append(&mut raw(kind, &path.join("/"), &link.join("/"), data));
        }
        archive.extend_from_slice(&END_OF_ARCHIVE);
        let _ = room.extract(&archive, overwrite);
        room.check_outside();
    }

    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(mut blocks in prop::collection::vec(any::<u8>(), 512..2048), ustar: bool) {
        if ustar {
            blocks[257..265].copy_from_slice(b"ustar\x0000");
            seal(&mut blocks);
        }
        let room = Room::new();
        let _ = room.extract(&blocks, false);
        room.check_outside();
    }
}
