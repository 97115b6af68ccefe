use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

mod races;

fn open(root: &Path, options: &Options) -> TreeSource {
    TreeSource::new(root, options, None).unwrap()
}

/// Reads to the end, over marks.
fn read(source: &mut TreeSource, buffer: &mut [u8]) -> usize {
    loop {
        let length = source.read(buffer).unwrap();
        if length > 0 || source.take_marks().is_empty() {
            return length;
        }
    }
}

/// Reads in the smallest steps until `path`'s header has been yielded.
fn read_until(source: &mut TreeSource, path: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut byte = [0];
    loop {
        assert_eq!(read(source, &mut byte), 1);
        all.push(byte[0]);
        if let Some(entry) = source.take_entries().into_iter().find(|entry| entry.path == path) {
            // The header's first byte is in `all` already.
            let rest = usize::try_from(entry.content_start - entry.member_start).unwrap() - 1;
            let mut header = vec![0; rest];
            assert_eq!(read(source, &mut header), rest);
            all.append(&mut header);
            return all;
        }
    }
}

fn drain(source: &mut TreeSource) -> (Vec<u8>, Vec<String>) {
    let (mut all, mut paths) = (Vec::new(), Vec::new());
    let mut buffer = [0; 700];
    loop {
        let length = read(source, &mut buffer);
        all.extend_from_slice(&buffer[..length]);
        paths.extend(source.take_entries().into_iter().map(|entry| String::from_utf8(entry.path).unwrap()));
        if length == 0 {
            return (all, paths);
        }
    }
}

fn paths(root: &Path, exclude: &[&str]) -> Vec<String> {
    let exclude = exclude.iter().map(|glob| (*glob).to_owned()).collect();
    let mut source = open(root, &Options { exclude, one_file_system: false });
    let (_, paths) = drain(&mut source);
    assert_eq!(source.take_warnings(), []);
    paths
}

fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [b'x'; 2000]).unwrap();
    }
    dir
}

fn messages(source: &mut TreeSource, root: &Path) -> Vec<(String, String)> {
    let relative = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    source.take_warnings().into_iter().map(|warning| (relative(&warning.path), warning.message)).collect()
}

#[test]
fn members_are_depth_first_and_sorted_by_bytes() {
    let dir = tree(&["b/z", "b/a", "a", "b-", "B"]);
    assert_eq!(paths(dir.path(), &[]), [".", "B", "a", "b", "b/a", "b/z", "b-"]);
}

#[test]
fn what_is_excluded_is_left_out_with_all_below_it() {
    let dir = tree(&["lost+found/x", "a/lost+found/y", "a/b.tmp", "a/c/d.tmp", "keep", "top.tmp"]);
    assert_eq!(paths(dir.path(), &["**/lost+found", "*.tmp"]), [".", "a", "a/b.tmp", "a/c", "a/c/d.tmp", "keep"]);
    assert_eq!(paths(dir.path(), &["/a/", "**/*.tmp"]), [".", "keep", "lost+found", "lost+found/x"]);
    assert_eq!(paths(dir.path(), &["a/*"]).len(), 6);
    let error =
        TreeSource::new(dir.path(), &Options { exclude: vec!["a[".into()], ..Options::default() }, None).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("\"a[\""), "{error}");
}

#[test]
fn the_root_may_be_a_link_but_not_a_file() {
    let dir = tree(&["real/x"]);
    symlink("real", dir.path().join("link")).unwrap();
    assert_eq!(paths(&dir.path().join("link"), &[]), [".", "x"]);
    let error = TreeSource::new(dir.path().join("real/x"), &Options::default(), None).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("type \"file\""), "{error}");
    assert!(matches!(TreeSource::new(dir.path().join("none"), &Options::default(), None), Err(Error::Io { .. })));
}

#[test]
fn a_socket_is_left_out_and_no_warning() {
    let dir = tree(&["a"]);
    let _listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let mut source = open(dir.path(), &Options::default());
    assert_eq!(drain(&mut source).1, [".", "a"]);
    assert_eq!(messages(&mut source, dir.path()), []);
}

#[test]
fn a_removed_or_replaced_file_is_left_out() {
    let dir = tree(&["a", "b", "c", "d/x", "e"]);
    let mut source = open(dir.path(), &Options::default());
    read_until(&mut source, b".");
    fs::remove_file(dir.path().join("b")).unwrap();
    fs::remove_dir_all(dir.path().join("d")).unwrap();
    // A fifo in a file's place does not block the backup; it is stored as a fifo.
    fs::remove_file(dir.path().join("e")).unwrap();
    rustix::fs::mkfifoat(CWD, dir.path().join("e"), Mode::RUSR).unwrap();
    assert!(dir.path().join("e").metadata().unwrap().file_type().is_fifo());
    assert_eq!(drain(&mut source).1, ["a", "c", "e"]);
    let warnings = messages(&mut source, dir.path());
    assert_eq!(warnings.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["b", "d"]);
    assert!(warnings[0].1.starts_with("it was removed"), "{}", warnings[0].1);
}

#[test]
fn what_changes_while_it_is_read_keeps_its_announced_size() {
    type Change = fn(&Path);
    fn append(path: &Path) {
        fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    }
    fn shrink(path: &Path) {
        fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    }
    fn touch(path: &Path) {
        fs::File::options().write(true).open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let cases: [(Change, &str, usize); 3] = [
        (append, "it grew while it was read: from 2000 bytes to 2004", 2000),
        (shrink, "it shrank while it was read: it has no data at byte 100 of 2000", 100),
        (touch, "it changed while it was read", 2000),
    ];
    for (change, expected, real) in cases {
        let dir = tree(&["f", "g"]);
        let mut source = open(dir.path(), &Options::default());
        let mut all = read_until(&mut source, b"f");
        change(&dir.path().join("f"));
        let content = all.len();
        let (mut rest, paths) = drain(&mut source);
        all.append(&mut rest);
        assert_eq!(paths, ["g"]);
        assert!(all[content..content + real].iter().all(|byte| *byte == b'x'));
        assert!(all[content + real..content + 2048].iter().all(|byte| *byte == 0));
        assert_eq!(all.len() % BLOCK, 0);
        let warnings = messages(&mut source, dir.path());
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].0, "f");
        assert!(warnings[0].1.starts_with(expected), "{}", warnings[0].1);
    }
}

#[test]
fn unreadable_data_is_stored_as_zeros() {
    let dir = tree(&["f"]);
    // Open for writing only: every read of it fails.
    let file = fs::File::options().write(true).open(dir.path().join("f")).unwrap();
    let meta = meta::Meta::from(rustix::fs::fstat(&file).unwrap());
    let mut body = Body::open(file.into(), meta);
    let mut buffer = [1; 3000];
    assert_eq!(body.read(&mut buffer), 2000);
    assert!(buffer[..2000].iter().all(|byte| *byte == 0));
    assert_eq!(body.read(&mut buffer), 0);
    let complaint = body.finish().unwrap();
    assert!(complaint.starts_with("could not read it at byte 0 of 2000: Bad file descriptor"), "{complaint}");
}

#[test]
fn another_file_systems_directory_is_stored_without_what_is_in_it() {
    // Every machine and container has a file system of its own at /dev/pts.
    for (one_file_system, inside) in [(true, false), (false, true)] {
        let mut source = open(Path::new("/dev"), &Options { exclude: vec!["shm".into()], one_file_system });
        let (_, paths) = drain(&mut source);
        assert!(paths.contains(&"pts".to_owned()));
        assert_eq!(paths.contains(&"pts/ptmx".to_owned()), inside);
        let not_entered = source.take_not_entered();
        assert_eq!(not_entered.contains(&PathBuf::from("/dev/pts")), !inside, "{not_entered:?}");
        assert!(!not_entered.iter().any(|path| path.ends_with("shm")), "what is excluded is not there at all");
    }
}

#[test]
fn a_directory_that_is_moved_away_is_still_read() {
    let mut deep = String::from("d");
    (0..60).for_each(|_| deep.push_str("/d"));
    let dir = tree(&[&format!("{deep}/bottom"), "d/z", "z"]);
    let mut source = open(dir.path(), &Options::default());
    read_until(&mut source, deep.as_bytes());
    fs::rename(dir.path().join("d"), dir.path().join("moved")).unwrap();
    let (_, paths) = drain(&mut source);
    assert_eq!(paths, [format!("{deep}/bottom"), "d/z".into(), "z".into()]);
    assert_eq!(source.take_warnings(), []);
}

#[test]
fn a_flood_of_warnings_is_bounded() {
    let mut pending = Pending::default();
    (0..MAX_PENDING + 5).for_each(|_| pending.push(PathBuf::from("p"), "w"));
    let taken = pending.take();
    assert_eq!(taken.len(), MAX_PENDING + 1);
    assert_eq!(taken[MAX_PENDING].message, "5 more warnings were not listed");
    assert_eq!(pending.take(), []);
}

/// In the middle of a file, and among what is passed over.
#[test]
fn a_cancelled_tree_is_not_read_on() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..100 {
        fs::write(dir.path().join(format!("{number:02}")), "content").unwrap();
    }
    let stop = CancellationToken::new();
    let mut source = open(dir.path(), &Options::default()).stopped_by(stop.clone());
    read_until(&mut source, b"00");
    stop.cancel();
    assert!(matches!(source.read(&mut [0; 10_000]), Err(Error::Cancelled)));
    assert_eq!(source.take_entries().len(), 0, "no file was opened any more");
    let stop = CancellationToken::new();
    let mut source = open(dir.path(), &Options::default()).stopped_by(stop.clone());
    stop.cancel();
    let mut warnings = Pending::default();
    let first = [source.walk.next(&mut warnings), source.walk.next(&mut warnings)];
    assert!(matches!(first, [Some(Step::Found(_)), None]), "the root, and nothing below it");
}
