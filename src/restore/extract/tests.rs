use std::fs;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

mod small;
mod target;

use std::path::PathBuf;

use super::*;
use crate::tar::END;
use crate::tar::testing::{flags, map, pax, raw, seal};

struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    /// A target, and files next to it that must not be touched.
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

/// A member that this user owns, so that the tests need no root.
fn member(kind: u8, path: &str, mode: u32, link: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = raw(kind, path, link, data);
    bytes[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    bytes[108..116].copy_from_slice(format!("{uid:07o}\0").as_bytes());
    bytes[116..124].copy_from_slice(format!("{gid:07o}\0").as_bytes());
    seal(&mut bytes);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), END.to_vec()].concat()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

fn file(path: &str) -> Vec<u8> {
    raw(flags::REGULAR, path, "", b"evil")
}

/// Name, archive without its end, and part of the error; `evil` is an absolute path that nothing may write to.
// The table needs a line for each row.
#[allow(clippy::too_many_lines)]
fn attacks(evil: &str) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let dir = |path: &str| raw(flags::DIRECTORY, path, "", b"");
    let link = |path: &str, to: &str| raw(flags::SYMLINK, path, to, b"");
    let hard = |path: &str, to: &str| raw(flags::HARD_LINK, path, to, b"");
    let x = |key: &str, value: &[u8]| pax(&[(key, value)], file("f"));
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
                raw(flags::REGULAR, "f", "", &map("1\n0\n0\n", 0)),
            ),
            "\"..\"",
        ),
        ("absolute", file(evil), "absolute"),
        ("absolute in pax", x("path", evil.as_bytes()), "absolute"),
        ("NUL", x("path", b"a\0b"), "NUL"),
        ("empty", file(""), "empty"),
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
            [link("l", "../outside"), raw(flags::FIFO, "l/new", "", b"")].concat(),
            "expected a directory",
        ),
        ("hard link out", hard("h", "../outside/secret"), "below the target"),
        ("absolute hard link", hard("h", "/etc/passwd"), "below the target"),
        ("hard link through a link", [link("l", "../outside"), hard("h", "l/secret")].concat(), "expected a directory"),
        ("hard link to nothing", hard("h", "none"), "was restored"),
        ("hard link to a directory", [dir("d"), hard("h", "d")].concat(), "was restored"),
        ("hard link to the target", hard("h", "."), "was restored"),
        ("write through a file", [file("f"), file("f/x")].concat(), "expected a directory"),
        ("a link to nothing", link("l", ""), "its link is empty"),
    ]
}

#[test]
fn every_attack_is_refused_and_nothing_outside_is_touched() {
    let elsewhere = tempfile::tempdir().unwrap();
    let evil = elsewhere.path().join("evil");
    for (name, archive, expected) in attacks(evil.to_str().unwrap()) {
        for overwrite in [false, true] {
            let room = Room::new();
            let archive = [&archive[..], &END].concat();
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
        [raw(flags::SYMLINK, "f", "../outside/secret", b""), file("f")].concat(),
        // A hard link to a symbolic link is another name of the link, not of the link's target.
        [raw(flags::SYMLINK, "l", "../outside/secret", b""), raw(flags::HARD_LINK, "f", "l", b""), file("f")].concat(),
        [raw(flags::DIRECTORY, "f", "", b""), raw(flags::SYMLINK, "f", "../outside", b"")].concat(),
    ];
    for archive in archives {
        for overwrite in [false, true] {
            let archive = [&archive[..], &END].concat();
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
    let whole = [file("a"), raw(flags::REGULAR, "b", "", &[b'x'; 3000]), END.to_vec()].concat();
    for length in (0..whole.len()).step_by(97).chain([512, 1024, 1536, whole.len() - 1]) {
        let room = Room::new();
        let error = room.extract(&whole[..length], false).unwrap_err();
        assert!(matches!(error, Error::Archive(tar::Error::Truncated { .. })), "{length}: {error}");
        // Only the padding of `b` may be missing.
        let complete = length >= 1536 + 3000;
        assert_eq!(room.target().join("b").exists(), complete, "{length}");
    }
    assert_eq!(Room::new().extract(&whole, false).unwrap().files, 2);
    let padded = [&whole[..], &[0; 10_000]].concat();
    assert_eq!(Room::new().extract(&padded, false).unwrap().bytes, 3004);
    let followed = [&padded[..], b"x"].concat();
    assert!(matches!(Room::new().extract(&followed, false), Err(Error::Archive(tar::Error::Header { .. }))));
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
        matches!(&error, Error::Archive(tar::Error::Read { offset: 600, error }) if error.to_string() == "chunk 7 is missing"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Well-formed blocks with any fields never change anything outside the target.
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
        archive.extend_from_slice(&END);
        let _ = room.extract(&archive, overwrite);
        room.check_outside();
    }
}
