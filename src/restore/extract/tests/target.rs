//! Targets that are not empty, that others share, or whose file system supports less than the backup's.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, lsetxattr, mknodat};

use super::*;
use crate::tar::acl;
use crate::tar::testing::sparse;
use crate::tar::xattr::{ACCESS_ACL, DEFAULT_ACL};

const KINDS: [u8; 4] = [flags::REGULAR, flags::DIRECTORY, flags::SYMLINK, flags::FIFO];

fn any(kind: u8, path: &str) -> Vec<u8> {
    let link = if kind == flags::SYMLINK { "somewhere" } else { "" };
    let data: &[u8] = if kind == flags::REGULAR { b"new" } else { b"" };
    member(kind, path, 0o751, link, data)
}

fn make(kind: u8, path: &Path) {
    match kind {
        flags::REGULAR => fs::write(path, b"old").unwrap(),
        flags::DIRECTORY => fs::create_dir(path).unwrap(),
        flags::SYMLINK => symlink("../outside", path).unwrap(),
        _ => mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
    }
}

fn type_of(path: &Path) -> fs::FileType {
    path.symlink_metadata().unwrap().file_type()
}

#[test]
fn an_existing_file_is_replaced_by_its_own_type_only_and_the_rest_is_restored() {
    for found in KINDS {
        for wanted in KINDS {
            for overwrite in [false, true] {
                let room = Room::new();
                let path = room.target().join("b");
                make(found, &path);
                let before = type_of(&path);
                let members = [any(flags::REGULAR, "a"), any(wanted, "b"), any(flags::REGULAR, "c")];
                let summary = room.extract(&archive(&members), overwrite).unwrap();
                room.check_outside();
                let kept = found == flags::DIRECTORY && wanted == flags::DIRECTORY;
                let restored = kept || found == wanted && overwrite;
                let what = format!("{} in the way of {}: {summary:?}", char::from(found), char::from(wanted));
                assert_eq!((summary.left_out, summary.files), if restored { (0, 3) } else { (1, 2) }, "{what}");
                assert!(summary.warnings.iter().all(|warning| warning.class == Class::Conflict), "{what}");
                assert_eq!(type_of(&path), before, "{what}");
                let new = if restored && wanted == flags::REGULAR { "new" } else { "old" };
                assert!(found != flags::REGULAR || fs::read(&path).unwrap() == new.as_bytes(), "{what}");
                assert_eq!(fs::read(room.target().join("c")).unwrap(), b"new", "{what}");
            }
        }
    }
}

#[test]
fn a_directory_that_became_a_link_keeps_out_what_was_in_it() {
    let whole =
        [any(flags::DIRECTORY, "d/"), any(flags::REGULAR, "d/f"), member(flags::HARD_LINK, "g", 0o644, "d/f", b"")];
    // With the directory's own member, and without.
    for members in [&whole[..], &whole[1..]] {
        for overwrite in [false, true] {
            let room = Room::new();
            symlink("../outside/dir", room.target().join("d")).unwrap();
            let summary = room.extract(&archive(members), overwrite).unwrap();
            room.check_outside();
            assert!(room.target().join("d").is_symlink());
            assert_eq!(summary.left_out, members.len() as u64, "{summary:?}");
            assert!(!room.target().join("g").exists());
            assert!(summary.warnings.iter().all(|warning| warning.class == Class::Conflict), "{summary:?}");
        }
    }
}

#[test]
fn a_file_that_is_replaced_keeps_its_other_names_as_they_are() {
    let room = Room::new();
    let (file, other) = (room.target().join("f"), room.target().join("other"));
    fs::write(&file, b"old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    fs::hard_link(&file, &other).unwrap();
    room.extract(&archive(&[member(flags::REGULAR, "f", 0o600, "", b"new")]), true).unwrap();
    assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"new".to_vec(), 0o600));
    assert_eq!((fs::read(&other).unwrap(), mode(&other)), (b"old".to_vec(), 0o666));
}

fn binary(text: &str) -> Vec<u8> {
    acl::to_binary(text.as_bytes()).unwrap()
}

fn acls(path: &Path) -> [Option<String>; 2] {
    [ACCESS_ACL, DEFAULT_ACL].map(|name| {
        let mut value = [0; 200];
        let length = lgetxattr(path, name, &mut value[..]).ok()?;
        acl::to_text(&value[..length])
    })
}

#[test]
fn the_targets_acls_let_nobody_in() {
    let room = Room::new();
    let open = binary("user::rwx,user:65534:rwx,group::r-x,mask::rwx,other::r-x");
    let set = |path: &Path, name: &CStr| lsetxattr(path, name, &open, XattrFlags::empty()).unwrap();
    // Both on the target, and on a directory in it.
    fs::create_dir(room.target().join("there")).unwrap();
    for path in [room.target(), room.target().join("there")] {
        set(&path, ACCESS_ACL);
        set(&path, DEFAULT_ACL);
    }
    let saved = "user::rw-,user:7:r--,group::---,mask::r--,other::---";
    let members = [
        member(flags::DIRECTORY, "there/", 0o750, "", b""),
        member(flags::REGULAR, "there/f", 0o640, "", b"x"),
        member(flags::DIRECTORY, "new/", 0o2750, "", b""),
        member(flags::REGULAR, "new/f", 0o664, "", b"x"),
        member(flags::FIFO, "new/fifo", 0o660, "", b""),
        member(flags::SYMLINK, "new/link", 0o777, "f", b""),
        pax(&[("SCHILY.acl.access", saved.as_bytes())], member(flags::REGULAR, "acl", 0o640, "", b"x")),
        pax(&[("SCHILY.acl.default", saved.as_bytes())], member(flags::DIRECTORY, "default/", 0o700, "", b"")),
    ];
    let summary = room.extract(&archive(&members), true).unwrap();
    assert_eq!(summary.warnings, []);
    for (path, expected) in [
        ("there", 0o750),
        ("there/f", 0o640),
        ("new", 0o2750),
        ("new/f", 0o664),
        ("new/fifo", 0o660),
        ("new/link", 0o777),
    ] {
        let path = room.target().join(path);
        assert_eq!((mode(&path), acls(&path)), (expected, [None, None]), "{}", path.display());
    }
    assert_eq!(acls(&room.target().join("acl")), [Some(saved.to_owned()), None]);
    assert_eq!(acls(&room.target().join("default")), [None, Some(saved.to_owned())]);

    // Members without a parent directory's member, and an item that is one file.
    let file = fs::File::create(room.target().join("single")).unwrap();
    remove_acls(&file, FileType::RegularFile);
    assert_eq!(acls(&room.target().join("single")), [None, None]);
    let room = Room::new();
    set(&room.target(), DEFAULT_ACL);
    let summary = room.extract(&archive(&[any(flags::REGULAR, "implied/f")]), false).unwrap();
    let implied = room.target().join("implied");
    assert_eq!((mode(&implied), acls(&implied)), (0o700, [None, None]));
    assert!(summary.altered == 1 && summary.warnings[0].path == Path::new("implied"), "{summary:?}");
}

#[test]
fn directories_on_the_way_are_as_saved_where_they_are_new_and_left_where_they_were_there() {
    let members = [
        member(flags::DIRECTORY, "./", 0o711, "", b""),
        member(flags::DIRECTORY, "a/", 0o710, "", b""),
        any(flags::REGULAR, "a/f"),
    ];
    let options = |root| Options {
        overwrite: true,
        root,
        on_the_way: [b"".to_vec(), b"a".to_vec()].into(),
        ..Options::default()
    };
    let room = Room::new();
    let (there, new) = (room.target(), room.target().join("new"));
    fs::create_dir(there.join("a")).unwrap();
    for path in [&there, &there.join("a")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o555)).unwrap();
    }
    let summary = extract(&archive(&members)[..], &there, &options(Root::There)).unwrap();
    assert_eq!((summary.files, summary.below, summary.warning_count), (1, 1, 0), "{summary:?}");
    assert_eq!((mode(&there), mode(&there.join("a"))), (0o555, 0o555));
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
    extract(&archive(&members)[..], &new, &options(Root::There)).unwrap();
    assert_eq!((mode(&new), mode(&new.join("a"))), (0o711, 0o710), "a target that is made is new too");
}

#[test]
fn a_directory_is_never_wider_meanwhile_and_gets_its_mode_back_when_a_restore_ends_early() {
    for (before, saved, expected) in [
        (0o555, None, 0o755),
        (0o755, None, 0o755),
        (0o755, Some(0o700), 0o700),
        (0o700, Some(0o755), 0o700),
        (0o1777, Some(0o755), 0o1755),
        (0o000, Some(0o777), 0o700),
    ] {
        assert_eq!(meanwhile(before, saved), expected, "{before:o} {saved:?}");
    }
    let room = Room::new();
    let directory = room.target().join("d");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    let members = [member(flags::DIRECTORY, "d/", 0o500, "", b""), any(flags::REGULAR, "d/f")];
    room.extract(&members.concat(), true).unwrap_err();
    assert_eq!(mode(&directory), 0o555);
    room.extract(&archive(&members), true).unwrap();
    assert_eq!(mode(&directory), 0o500);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn names_that_the_file_system_does_not_take_cost_those_members_only() {
    let room = Room::new();
    let long = "n".repeat(300);
    let named = |path: &str, kind: u8| pax(&[("path", path.as_bytes())], any(kind, "short"));
    let members = [
        named(&long, flags::REGULAR),
        named(&format!("{long}d/"), flags::DIRECTORY),
        named(&format!("{long}d/below"), flags::REGULAR),
        named(&format!("{long}implied/below"), flags::REGULAR),
        any(flags::REGULAR, "z"),
    ];
    let summary = room.extract(&archive(&members), false).unwrap();
    assert_eq!((summary.left_out, summary.files), (4, 1), "{summary:?}");
    assert!(summary.warnings.iter().all(|warning| warning.class == Class::Local), "{summary:?}");
    assert_eq!(fs::read_dir(room.target()).unwrap().count(), 1);
}

#[test]
fn what_the_disk_does_not_give_back_is_found() {
    let room = Room::new();
    let stream = archive(&[
        member(flags::REGULAR, "same", 0o600, "", b"one"),
        member(flags::REGULAR, "changed", 0o600, "", b"two"),
        member(flags::REGULAR, "longer", 0o600, "", b"three"),
        member(flags::REGULAR, "gone", 0o600, "", b""),
        any(flags::SYMLINK, "link"),
    ]);
    let options = Options { read_back: true, ..Options::default() };
    let mut extractor = extractor(&room.target(), &options, Root::There).unwrap();
    sink::unpack(Sound(&stream[..]), &mut extractor).unwrap();
    let at = |path: &str| room.target().join(path);
    fs::write(at("changed"), b"tow").unwrap();
    fs::write(at("longer"), b"three and more").unwrap();
    fs::remove_file(at("gone")).unwrap();
    extractor.read_back().unwrap();
    extractor.finish().unwrap();
    let summary = extractor.summary();
    assert_eq!((summary.read_back, summary.altered, summary.files), (1, 3, 5), "{summary:?}");
    let told: Vec<_> = summary.warnings.iter().map(|warning| warning.path.to_str().unwrap()).collect();
    assert_eq!(told, ["changed", "longer", "gone"]);
}

#[test]
fn a_link_that_cannot_be_is_a_copy_and_further_ones_go_to_it() {
    let room = Room::new();
    let stream = archive(&[any(flags::REGULAR, "f"), any(flags::SYMLINK, "l"), any(flags::FIFO, "p")]);
    let options = Options::default();
    let mut extractor = extractor(&room.target(), &options, Root::There).unwrap();
    sink::unpack(Sound(&stream[..]), &mut extractor).unwrap();
    extractor.finish().unwrap();
    let link = |path: &str, to: &str| {
        let bytes = archive(&[member(flags::HARD_LINK, path, 0o751, to, b"")]);
        tar::Reader::new(&bytes[..]).next_member().unwrap().unwrap()
    };
    for (first, copy) in [("f", "f2"), ("l", "l2"), ("p", "p2")] {
        extractor.copy(first.as_bytes(), &link(copy, first)).unwrap();
    }
    extractor.copies.insert(b"f".to_vec(), vec![b"f2".to_vec()]);
    extractor.hard_link(&link("f3", "f")).unwrap();
    let at = |path: &str| room.target().join(path);
    let inode = |path: &str| at(path).symlink_metadata().unwrap().ino();
    assert_eq!((fs::read(at("f2")).unwrap(), mode(&at("f2"))), (b"new".to_vec(), 0o751));
    assert!(inode("f") != inode("f2") && inode("f2") == inode("f3"));
    assert_eq!(fs::read_link(at("l2")).unwrap(), Path::new("somewhere"));
    assert!(type_of(&at("p2")).is_fifo());
}

#[test]
fn a_file_too_large_for_the_file_system_is_left_out_and_nothing_of_it_stays() {
    let room = Room::new();
    let members = [sparse(b"9223372036854775807", &map("1\n0\n512\n", 512)), any(flags::REGULAR, "z")];
    let summary = room.extract(&archive(&members), false).unwrap();
    assert_eq!((summary.left_out, summary.files, summary.altered), (1, 1, 0), "{summary:?}");
    assert!(summary.warnings[0].message.contains("size"), "{summary:?}");
    assert!(!room.target().join("f").exists() && room.target().join("z").exists());
}

#[test]
fn a_file_has_its_mode_from_the_beginning_only_where_nobody_else_can_go() {
    let room = Room::new();
    fs::create_dir(room.target().join("there")).unwrap();
    for (path, mode) in [(room.target(), 0o755), (room.target().join("there"), 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let file = |path: &str| member(flags::REGULAR, path, 0o4750, "", b"secret");
    let stream = archive(&[
        any(flags::DIRECTORY, "made"),
        file("made/f"),
        file("made/implied/f"),
        file("made/implied/g"),
        file("there/f"),
        file("f"),
    ]);
    let options = Options::default();
    let mut extractor = extractor(&room.target(), &options, Root::There).unwrap();
    let mut reader = tar::Reader::new(&stream[..]);
    let mut seen = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        let path = room.target().join(OsStr::from_bytes(&member.path));
        if extractor.begin(member).unwrap() == Wants::Data {
            let above = path.parent().unwrap();
            seen.push((mode(&path), above != room.target() && mode(above) == 0o700));
            extractor.end().unwrap();
            extractor.wait().unwrap();
            assert_eq!(mode(&path), 0o4750);
        }
    }
    let umask = 0o750 & !umask();
    assert_eq!(seen, [(umask, true), (umask, true), (umask, true), (0o600, false), (0o600, false)]);
    extractor.finish().unwrap();
}

/// What the mode of a new file lacks in this process.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}
