//! A tree's stream against GNU tar, and the extractor against both.
//!
//! Runs as root on a file system with extended attributes, ACLs and holes, as the backups do; anything missing fails.

// Helpers of tests are tests; and a link count is not as wide everywhere.
#![allow(clippy::unwrap_used, clippy::useless_conversion)]

mod readers;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use penstock::format::index::{FileEntry, FileKind};
use penstock::restore::extract::{self, extract};
use penstock::source::tree::{Options, TreeSource};
use penstock::source::{Source, Warning};
use penstock::tar::END;
use proptest::prelude::*;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid, XattrFlags, chownat,
    lgetxattr, llistxattr, lsetxattr, makedev, mkdirat, mknodat, openat, readlinkat, seek, statat, utimensat,
};

/// Everything about one path that a restore must bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u64),
    size: u64,
    device: u64,
    links: u64,
    /// The first path of the same inode.
    same_as: Vec<u8>,
    target: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where data is, and what: holes count.
    data: Vec<(u64, Vec<u8>)>,
}

pub(crate) type Facility = BTreeMap<Vec<u8>, Facts>;

/// Looks at a tree with nothing that the code under test uses but system calls.
pub(crate) fn facts(root: &Path) -> Facility {
    let fd = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut all = Facility::new();
    let mut inodes = BTreeMap::new();
    look(&fd, c".", b".", &mut all, &mut inodes);
    all
}

fn look(parent: &OwnedFd, name: &std::ffi::CStr, path: &[u8], all: &mut Facility, inodes: &mut BTreeMap<u64, Vec<u8>>) {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let regular = kind == FileType::RegularFile;
    let proc_path = [format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(), name.to_bytes()].concat();
    all.insert(
        path.to_vec(),
        Facts {
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            size: if regular { u64::try_from(stat.st_size).unwrap() } else { 0 },
            device: if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) { stat.st_rdev } else { 0 },
            links: if kind == FileType::Directory { 0 } else { stat.st_nlink.into() },
            same_as: inodes.entry(stat.st_ino).or_insert_with(|| path.to_vec()).clone(),
            target: if kind == FileType::Symlink {
                readlinkat(parent, name, Vec::new()).unwrap().into_bytes()
            } else {
                Vec::new()
            },
            xattrs: xattrs(&proc_path),
            data: if regular { data(parent, name) } else { Vec::new() },
        },
    );
    if kind == FileType::Directory {
        let fd = openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let names: Vec<_> = Dir::read_from(&fd).unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
        let mut names: Vec<_> = names.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect();
        names.sort();
        for name in names {
            let path = if path == b"." { name.to_bytes().to_vec() } else { [path, b"/", name.to_bytes()].concat() };
            look(&fd, &name, &path, all, inodes);
        }
    }
}

fn xattrs(path: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut names, mut value) = (vec![0; 65536], vec![0; 65536]);
    let length = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let length = lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

fn data(parent: &OwnedFd, name: &std::ffi::CStr) -> Vec<(u64, Vec<u8>)> {
    let file = std::fs::File::from(openat(parent, name, OFlags::RDONLY, Mode::empty()).unwrap());
    let mut segments = Vec::new();
    let mut position = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(position)) {
        let end = seek(&file, SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        file.read_exact_at(&mut bytes, start).unwrap();
        segments.push((start, bytes));
        position = end;
    }
    segments
}

#[track_caller]
pub(crate) fn assert_same(left: &Facility, right: &Facility) {
    let names = |all: &Facility| all.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (path, facts) in left {
        // Not `assert_eq`: the data would fill the terminal.
        let (mut a, mut b) = (facts.clone(), right[path].clone());
        let same_data = a.data == b.data;
        let extents = |data: &[(u64, Vec<u8>)]| data.iter().map(|(at, bytes)| (*at, bytes.len())).collect::<Vec<_>>();
        assert_eq!(extents(&a.data), extents(&b.data), "{}", String::from_utf8_lossy(path));
        (a.data, b.data) = (Vec::new(), Vec::new());
        assert_eq!(a, b, "{}", String::from_utf8_lossy(path));
        assert!(same_data, "{}", String::from_utf8_lossy(path));
    }
}

/// Builds things below a directory, however long their paths get.
struct Builder {
    root: OwnedFd,
}

impl Builder {
    fn new(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        Self { root: openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap() }
    }

    fn file(&self, name: &[u8], content: &[u8]) -> std::fs::File {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = std::fs::File::from(openat(&self.root, name, flags, Mode::from_raw_mode(0o644)).unwrap());
        file.write_all_at(content, 0).unwrap();
        file
    }

    fn sparse(&self, name: &[u8], size: u64, data: &[u64]) {
        let file = self.file(name, b"");
        file.set_len(size).unwrap();
        for at in data {
            file.write_all_at(&[b'd'; 4096], *at).unwrap();
        }
    }

    fn directory(&self, name: &[u8]) -> Self {
        mkdirat(&self.root, name, Mode::from_raw_mode(0o755)).unwrap();
        Self { root: openat(&self.root, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap() }
    }

    fn symlink(&self, target: &[u8], name: &[u8]) {
        rustix::fs::symlinkat(target, &self.root, name).unwrap();
    }

    fn link(&self, old: &[u8], name: &[u8]) {
        rustix::fs::linkat(&self.root, old, &self.root, name, AtFlags::empty()).unwrap();
    }

    fn node(&self, name: &[u8], kind: FileType, device: (u32, u32)) {
        mknodat(&self.root, name, kind, Mode::from_raw_mode(0o640), makedev(device.0, device.1))
            .expect("these tests make device nodes: they need root and a file system that is not `nodev`");
    }

    fn owner(&self, name: &[u8], uid: u32, gid: u32) {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(&self.root, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).expect("these tests need root");
    }

    fn mode(&self, name: &[u8], mode: u32) {
        rustix::fs::chmodat(&self.root, name, Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
    }

    fn time(&self, name: &[u8], seconds: i64, nanoseconds: i64) {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(&self.root, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn xattr(&self, name: &[u8], key: &str, value: &[u8]) {
        let path = [format!("/proc/self/fd/{}/", self.root.as_raw_fd()).as_bytes(), name].concat();
        lsetxattr(path, key, value, XattrFlags::empty()).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

/// `system.posix_acl_*` of tag, permissions and id.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut binary = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        binary.extend(tag.to_le_bytes());
        binary.extend(permissions.to_le_bytes());
        binary.extend(id.to_le_bytes());
    }
    binary
}

const M: u64 = 1 << 20;

/// An ACL entry without an id.
const NONE: u32 = u32::MAX;

fn nasty_tree(root: &Path) {
    let tree = Builder::new(root);
    tree.file(b"empty", b"");
    tree.file(b"plain", &[b'p'; 1000]);
    tree.file(b"block", &[b'b'; 512]);
    tree.file(b"big", &(0..3_000_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    tree.directory(b"empty dir");
    tree.link(b"plain", b"z-hard");
    tree.link(b"plain", b"a-hard");
    tree.symlink(b"nowhere", b"dangling");
    tree.symlink(b"/etc/passwd", b"absolute");
    tree.symlink(b"loop", b"loop");
    tree.symlink(b"../../outside", b"up");
    tree.symlink(&[b't'; 3000], b"long target");
    tree.symlink(b"plain", b"symlink");
    tree.link(b"symlink", b"symlink-hard");
    tree.node(b"fifo", FileType::Fifo, (0, 0));
    tree.node(b"char", FileType::CharacterDevice, (1, 3));
    tree.node(b"block-device", FileType::BlockDevice, (259, 70_000));

    tree.sparse(b"hole-start", 2 * M, &[2 * M - 4096]);
    tree.sparse(b"hole-middle", 2 * M, &[0, 2 * M - 4096]);
    tree.sparse(b"hole-end", 2 * M + 77, &[0, 8192, 65536]);
    tree.sparse(b"all-hole", 5 * M + 1, &[]);
    tree.sparse(b"odd-end", 2 * M + 100, &[M, 2 * M - 3996]);
    tree.sparse(b"huge", (8 << 30) + 4096, &[4096, 8 << 30]);

    tree.file(b"not \xff\xfe utf-8 \x80", b"x");
    tree.file(b"new\nline\ttab\\back", b"x");
    tree.file("häufig ☃".as_bytes(), b"x");
    tree.file(&[b'n'; 100], b"x");
    tree.file(&[b'n'; 101], b"x");
    tree.file(&[b'n'; 255], b"x");
    tree.directory(&[b'm'; 100]);
    let mut deep = tree.directory(&[b'0'; 250]);
    for level in 1..15_u8 {
        deep = deep.directory(&[b'0' + level % 10; 250]);
    }
    deep.file(b"bottom", b"as far down as GNU tar gets: PATH_MAX");
    deep.sparse(b"sparse bottom", M, &[4096]);
    deep.link(b"bottom", b"bottom-hard");
    deep.symlink(b"bottom", b"bottom-link");
    let mut many = tree.directory(b"many");
    for level in 0..300 {
        many.file(b"z-after", format!("{level}").as_bytes());
        many = many.directory(b"d");
    }

    nasty_attributes(&tree);
}

fn nasty_attributes(tree: &Builder) {
    tree.file(b"owned", b"x");
    tree.owner(b"owned", 3_000_000_000, 4_000_000_000);
    tree.mode(b"owned", 0o6755);
    tree.owner(b"absolute", 12, 2_097_152);
    tree.owner(b"fifo", 12, 2_097_151);
    tree.mode(b"char", 0o4711);
    tree.mode(b"empty dir", 0o3777);
    tree.mode(b"big", 0);

    tree.xattr(b"plain", "user.binary", b"\0nul\nline=equals\xff\n12 user=x\n");
    tree.xattr(b"plain", "user.empty", b"");
    tree.xattr(b"plain", "user.a=b%c%3D", b"odd name");
    tree.xattr(b"plain", "trusted.thing", &[7; 900]);
    tree.xattr(b"empty dir", "user.dir", b"d");
    tree.xattr(b"dangling", "trusted.link", b"l");
    tree.xattr(b"fifo", "trusted.fifo", b"f");
    tree.xattr(b"owned", "security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let access =
        acl(&[(1, 6, NONE), (2, 4, 54_321), (2, 7, 3_000_000_000), (4, 4, NONE), (0x10, 6, NONE), (0x20, 0, NONE)]);
    let default = acl(&[(1, 7, NONE), (4, 5, NONE), (8, 2, 54_322), (0x10, 7, NONE), (0x20, 1, NONE)]);
    tree.xattr(b"block", "system.posix_acl_access", &access);
    tree.xattr(b"char", "system.posix_acl_access", &access);
    let with_default = tree.directory(b"defaults");
    with_default.file(b"made before", b"x");
    with_default.directory(b"dir made before");
    tree.xattr(b"defaults", "system.posix_acl_default", &default);
    tree.xattr(b"defaults", "system.posix_acl_access", &access);

    tree.time(b"empty", 1_600_000_000, 123_456_789);
    tree.time(b"plain", -1, 500_000_000);
    tree.time(b"block", -1_000_000_000, 0);
    tree.time(b"owned", -1_000_000_001, 1);
    tree.time(b"dangling", 5, 100);
    tree.time(b"fifo", 0, 0);
    tree.time(b"defaults", 1, 999_999_999);
    tree.time(b"many", 12, 0);
    tree.mode(b".", 0o751);
    tree.time(b".", 1_234_567_890, 987_654_321);
}

struct Streamed {
    bytes: Vec<u8>,
    entries: Vec<FileEntry>,
    warnings: Vec<Warning>,
}

fn stream(root: &Path, options: &Options, step: usize) -> Streamed {
    let mut source = TreeSource::new(root, options, None).unwrap();
    let mut all = Streamed { bytes: Vec::new(), entries: Vec::new(), warnings: Vec::new() };
    let mut buffer = vec![0xaa; step];
    loop {
        let length = source.read(&mut buffer).unwrap();
        all.bytes.extend_from_slice(&buffer[..length]);
        all.entries.append(&mut source.take_entries());
        all.warnings.append(&mut source.take_warnings());
        if length == 0 && source.take_marks().is_empty() {
            return all;
        }
    }
}

#[track_caller]
fn tar(arguments: &[&str], directory: &Path) {
    let output = Command::new("tar").args(arguments).current_dir(directory).output().expect("GNU tar is needed");
    let errors: String = String::from_utf8_lossy(&output.stderr).chars().take(4000).collect();
    assert!(output.status.success() && errors.is_empty(), "tar {arguments:?}: {errors}");
}

#[test]
fn gnu_tar_restores_our_stream_completely_and_so_do_we() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    nasty_tree(&source);
    let before = facts(&source);
    let streamed = stream(&source, &Options::default(), 1 << 20);
    assert_eq!(streamed.warnings, []);
    assert_eq!(facts(&source), before, "reading changed something");
    check_entries(&streamed, &before);
    let archive = dir.path().join("a.tar");
    std::fs::write(&archive, &streamed.bytes).unwrap();
    let archive = archive.to_str().unwrap();

    // Without the one file whose 8 GiB of nothing it would read; it is compared below.
    tar(&["--compare", "--exclude=huge", "--numeric-owner", "-f", archive], &source);
    let by_gnu = dir.path().join("gnu");
    std::fs::create_dir(&by_gnu).unwrap();
    // Without its remarks on times before 1970, which it restores.
    let how = ["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf"];
    tar(&[&how[..], &[archive]].concat(), &by_gnu);
    assert_same(&before, &facts(&by_gnu));

    let by_us = dir.path().join("us");
    let summary = extract(&streamed.bytes[..], &by_us, &extract::Options::default()).unwrap();
    assert_eq!(summary.warnings, []);
    assert_eq!(summary.files, streamed.entries.len() as u64);
    assert_same(&before, &facts(&by_us));

    // Again over itself, and the same.
    let again = extract::Options { overwrite: true, ..Default::default() };
    extract(&streamed.bytes[..], &by_us, &again).unwrap();
    assert_same(&before, &facts(&by_us));

    // An unchanged tree is an unchanged stream, however it is read.
    assert!(stream(&source, &Options::default(), 1013).bytes == streamed.bytes);
}

#[test]
fn we_restore_what_gnu_tar_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    nasty_tree(&source);
    let before = facts(&source);
    let archive = dir.path().join("a.tar");
    let name = archive.to_str().unwrap();
    let how = ["--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"];
    tar(&[&how[..], &["-cf", name, "."]].concat(), &source);
    let target = dir.path().join("target");
    let summary = extract(std::fs::File::open(&archive).unwrap(), &target, &extract::Options::default()).unwrap();
    assert_eq!(summary.warnings, []);
    assert_same(&before, &facts(&target));
}

/// A tree of every kind of member, in which nothing depends on the machine or the moment.
fn fixed_tree(root: &Path) {
    let tree = Builder::new(root);
    tree.file(b"empty", b"");
    tree.file(b"plain", &[b'p'; 1000]);
    tree.file(b"block", &[b'b'; 512]);
    tree.file(b"big", &(0..600_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    tree.file(b"not \xff\xfe utf-8 \x80\n", b"x");
    tree.file(&[b'n'; 101], b"x");
    tree.directory(b"empty dir");
    tree.directory(b"many").file(&[b'n'; 255], b"in a directory");
    tree.directory(&[b'm'; 100]);
    tree.link(b"plain", b"z-hard");
    tree.symlink(b"nowhere", b"dangling");
    tree.symlink(b"/etc/passwd", b"absolute");
    tree.symlink(&[b't'; 3000], b"long target");
    tree.node(b"fifo", FileType::Fifo, (0, 0));
    tree.node(b"char", FileType::CharacterDevice, (1, 3));
    tree.node(b"block-device", FileType::BlockDevice, (259, 70_000));
    nasty_attributes(&tree);
    let inner = [&b"many/"[..], &[b'n'; 255]].concat();
    for name in [
        &b"big"[..],
        b"not \xff\xfe utf-8 \x80\n",
        &[b'n'; 101],
        b"empty dir",
        &inner,
        &[b'm'; 100],
        b"absolute",
        b"long target",
        b"char",
        b"block-device",
        b"defaults/made before",
        b"defaults/dir made before",
    ] {
        tree.time(name, 1_700_000_000, 42);
    }
}

#[test]
fn a_trees_stream_is_the_same_in_every_release() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fixed_tree(&source);
    let streamed = stream(&source, &Options::default(), 1 << 16);
    assert_eq!((streamed.entries.len(), &streamed.warnings[..]), (22, &[][..]));
    // A golden value: if this fails, every backup after the change stores all small files again once. Say so in the changelog.
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&streamed.bytes));
    assert_eq!(digest, "dd194e1aae6355fd5b126776a239cafca1bec205824f0f73b4523fd65c4fcabf");
}

/// Every entry says where its member and its data are, and the members tile the stream.
fn check_entries(streamed: &Streamed, facts: &Facility) {
    let mut end = 0;
    assert_eq!(streamed.entries.len(), facts.len());
    for entry in &streamed.entries {
        let facts = &facts[&entry.path];
        assert_eq!(entry.member_start, end);
        end = entry.member().end;
        let at = usize::try_from(entry.member_start).unwrap();
        assert_eq!(&streamed.bytes[at + 257..at + 263], b"ustar\0");
        assert_eq!((entry.size, entry.mode), (facts.size, facts.mode & 0o7777));
        assert_eq!((entry.uid, entry.gid), facts.owner);
        assert_eq!((entry.mtime.seconds, u64::from(entry.mtime.nanoseconds)), facts.mtime);
        let content = usize::try_from(entry.content_start).unwrap();
        let content = &streamed.bytes[content..content + usize::try_from(entry.content_len).unwrap()];
        match entry.kind {
            FileKind::Regular => {
                let data: Vec<u8> = facts.data.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
                assert!(content.ends_with(&data));
                let dense = data.len() as u64 == facts.size;
                assert_eq!(dense, content.len() == data.len());
            }
            FileKind::HardLink => assert_eq!(entry.link, facts.same_as),
            FileKind::Symlink => assert_eq!(entry.link, facts.target),
            _ => assert!(content.is_empty()),
        }
    }
    assert_eq!(streamed.bytes.len() as u64, end + 1024);
    assert!(streamed.bytes.ends_with(&END));
}

#[test]
fn one_member_is_restored_from_its_range() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    nasty_tree(&source);
    let streamed = stream(&source, &Options::default(), 1 << 16);
    let find = |path: &[u8]| streamed.entries.iter().find(|entry| entry.path == path).unwrap();
    let bytes = |entry: &FileEntry| {
        let range = entry.member();
        streamed.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec()
    };
    // The wanted one is a hard link: its first name's data is written to it instead.
    let (first, wanted) = (find(b"a-hard"), find(b"z-hard"));
    assert_eq!((wanted.kind, &wanted.link), (FileKind::HardLink, &first.path));
    let feed = [bytes(first), bytes(wanted), END.to_vec()].concat();
    let target = dir.path().join("target");
    let link_sources =
        [(b"a-hard".to_vec(), b"new/z-hard".to_vec()), (b"z-hard".to_vec(), b"new/z-hard".to_vec())].into();
    let options = extract::Options { link_sources, ..Default::default() };
    let summary = extract(&feed[..], &target, &options).unwrap();
    assert_eq!(std::fs::read(target.join("new/z-hard")).unwrap(), [b'p'; 1000]);
    // Nobody was asked about the directory: it lets nobody in.
    assert_eq!(std::fs::metadata(target.join("new")).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!((summary.altered, summary.left_out), (1, 0));
    assert_eq!(std::fs::metadata(target.join("new/z-hard")).unwrap().nlink(), 1);
}

#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>),
    Sparse(u16, Vec<u16>),
    Directory,
    Symlink(Vec<u8>),
    /// Of the file made at this position, if there is one.
    HardLink(usize),
    Fifo,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'c', 1 => (1..=255_u8).prop_filter("a slash", |byte| *byte != b'/')];
    prop::collection::vec(byte, 1..6).prop_filter("a dot", |name| name != b"." && name != b"..")
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..3000).prop_map(Node::File),
        1 => (any::<u16>(), prop::collection::vec(any::<u16>(), 0..4)).prop_map(|(size, at)| Node::Sparse(size, at)),
        2 => Just(Node::Directory),
        1 => name().prop_map(Node::Symlink),
        1 => any::<usize>().prop_map(Node::HardLink),
        1 => Just(Node::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_tree_comes_back(
        nodes in prop::collection::vec((any::<usize>(), name(), node(), 0..0o10000_u32, -9_000_000_000..9_000_000_000_i64), 0..20),
        step in 1..5000_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let mut directories = vec![Builder::new(&source)];
        let mut files: Vec<(usize, Vec<u8>)> = Vec::new();
        for (place, name, node, mode, time) in nodes {
            let place = place % directories.len();
            let parent = &directories[place];
            if statat(&parent.root, &name[..], AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            let mut linked = false;
            let mut made = None;
            match node {
                Node::File(content) => drop(parent.file(&name, &content)),
                Node::Sparse(size, at) => {
                    let at: Vec<u64> = at.into_iter().map(|at| u64::from(at) * 16).collect();
                    parent.sparse(&name, u64::from(size) * 17, &at);
                }
                Node::Directory => made = Some(parent.directory(&name)),
                Node::Symlink(target) => { parent.symlink(&target, &name); linked = true; }
                Node::HardLink(of) if !files.is_empty() => {
                    linked = true;
                    let (place, old) = &files[of % files.len()];
                    rustix::fs::linkat(&directories[*place].root, &old[..], &parent.root, &name[..], AtFlags::empty()).unwrap();
                }
                Node::HardLink(_) => continue,
                Node::Fifo => parent.node(&name, FileType::Fifo, (0, 0)),
            }
            if !linked {
                parent.mode(&name, mode);
                parent.time(&name, time / 4, time.rem_euclid(1_000_000_000));
            }
            if made.is_none() {
                files.push((place, name));
            }
            directories.extend(made);
        }
        drop(directories);
        let before = facts(&source);
        let streamed = stream(&source, &Options::default(), step);
        prop_assert_eq!(&streamed.warnings, &[]);
        check_entries(&streamed, &before);
        let target = dir.path().join("target");
        extract(Cursor::new(&streamed.bytes), &target, &extract::Options::default()).unwrap();
        assert_same(&before, &facts(&target));
    }
}

#[test]
fn deeper_than_open_files_and_longer_than_path_max() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = Builder::new(&dir.path().join("source"));
    for _ in 0..2000 {
        tree.file(b"a", b"x");
        tree.file(b"z", b"x");
        tree = tree.directory(b"deeper");
    }
    let streamed = stream(&dir.path().join("source"), &Options::default(), 1 << 20);
    assert_eq!(streamed.entries.len(), 1 + 3 * 2000);
    assert_eq!(streamed.warnings, []);
    let target = dir.path().join("target");
    assert_eq!(extract(&streamed.bytes[..], &target, &extract::Options::default()).unwrap().files, 6001);
    assert!(stream(&target, &Options::default(), 1 << 20).bytes == streamed.bytes);
}
