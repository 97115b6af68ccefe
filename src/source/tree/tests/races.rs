//! Files that disappear, come back or change while a tree is read.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;

use super::*;
use crate::format::codec::Encoding;
use crate::format::index::{Chunk, ChunkId, FileTime};
use crate::source::table::ChunkTable;

/// A member of a backup: the type, and the content or the link's target.
type Stored = (String, FileKind, String);

/// A whole backup.
struct Backup {
    bytes: Vec<u8>,
    entries: Vec<FileEntry>,
    /// Chunks reused from the parent.
    taken: u32,
    warnings: Vec<Warning>,
}

impl Backup {
    /// Reads a tree; reused chunks are copied from the parent's bytes.
    fn read(mut source: TreeSource, parent: Option<(&Backup, &[u64])>) -> Self {
        let mut all = Self { bytes: Vec::new(), entries: Vec::new(), taken: 0, warnings: Vec::new() };
        let mut buffer = [0; 700];
        loop {
            let length = source.read(&mut buffer).unwrap();
            all.bytes.extend_from_slice(&buffer[..length]);
            all.entries.extend(source.take_entries());
            let marks = source.take_marks();
            if length == 0 && marks.is_empty() {
                all.warnings = source.take_warnings();
                return all;
            }
            for mark in marks {
                let (Mark::Taken(chunks), Some((parent, borders))) = (mark, parent) else { continue };
                for chunk in chunks {
                    let at = |border: usize| usize::try_from(borders[border]).unwrap();
                    all.bytes.extend_from_slice(&parent.bytes[at(chunk as usize)..at(chunk as usize + 1)]);
                    all.taken += 1;
                }
            }
        }
    }

    fn stored(&self) -> Vec<Stored> {
        let stored = |entry: &FileEntry| {
            let start = usize::try_from(entry.content_start).unwrap();
            let content = &self.bytes[start..start + usize::try_from(entry.content_len).unwrap()];
            let content = if entry.kind == FileKind::HardLink { &entry.link } else { content };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&entry.path), entry.kind, text(content))
        };
        self.entries.iter().filter(|entry| entry.kind != FileKind::Directory).map(stored).collect()
    }

    /// Chunk ends: behind each member of these paths, and at the end.
    fn borders(&self, behind: &[&str]) -> Vec<u64> {
        let ends = self.entries.iter().filter(|entry| behind.iter().any(|path| path.as_bytes() == entry.path));
        let ends = ends.map(|entry| entry.member().end);
        [0].into_iter().chain(ends).chain([self.bytes.len() as u64]).collect()
    }

    /// The backup as a parent, with chunks that end at `borders`. Calls `change` when the walk reaches its entry of
    /// `path`.
    fn parent(&self, borders: &[u64], path: &'static str, change: impl FnOnce() + Send + 'static) -> Parent {
        let chunk = |(number, ends): (usize, &[u64])| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let plain_len = u32::try_from(ends[1] - ends[0]).unwrap();
            Chunk {
                id: ChunkId(id),
                plain_len,
                encoding: Encoding::Raw,
                object: 0,
                offset: ends[0],
                stored_len: plain_len,
            }
        };
        let chunks = borders.windows(2).enumerate().map(chunk).collect();
        let mut change = Some(change);
        let files = self.entries.clone().into_iter().inspect(move |entry| {
            if entry.path == path.as_bytes()
                && let Some(change) = change.take()
            {
                change();
            }
        });
        Parent {
            chunks: Arc::new(ChunkTable::new(chunks, |_| false).unwrap()),
            files: Files::Listed(Box::new(files)),
            settled: FileTime { seconds: i64::MAX, nanoseconds: 0 },
            doubtful: HashSet::new(),
        }
    }
}

fn regular(path: &str, content: &str) -> Stored {
    (path.to_owned(), FileKind::Regular, content.to_owned())
}

fn link(path: &str, first: &str) -> Stored {
    (path.to_owned(), FileKind::HardLink, first.to_owned())
}

/// `a/x`, `m`, `n` and `y`; the first and the last are one file.
fn linked() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir(at("a")).unwrap();
    fs::write(at("a/x"), "old").unwrap();
    fs::hard_link(at("a/x"), at("y")).unwrap();
    fs::write(at("m"), "between").unwrap();
    fs::write(at("n"), "between too").unwrap();
    dir
}

/// Repeats a change until the clock behind ctime has ticked.
fn change_ctime(path: &Path, change: impl Fn()) {
    let ctime = || {
        let metadata = path.metadata().unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let before = ctime();
    while ctime() == before {
        change();
    }
}

#[test]
fn a_further_name_of_what_has_changed_is_stored_whole() {
    type Change = fn(&Path);
    let cases: [(&str, Change, bool); 4] = [
        ("nothing", |_| (), true),
        ("content", |y| fs::write(y, "newer").unwrap(), false),
        (
            "ctime alone, as another file's of that inode number would be",
            |y| change_ctime(y, || fs::set_permissions(y, fs::Permissions::from_mode(0o600)).unwrap()),
            false,
        ),
        (
            "the number of its names",
            |y| {
                let new = y.with_file_name("new");
                change_ctime(y, || {
                    let _ = fs::remove_file(&new);
                    fs::hard_link(y, &new).unwrap();
                });
            },
            false,
        ),
    ];
    for (what, change, is_link) in cases {
        let dir = linked();
        let mut source = open(dir.path(), &Options::default());
        read_until(&mut source, b"a/x");
        change(&dir.path().join("y"));
        let rest = Backup::read(source, None);
        let y = rest.entries.iter().find(|entry| entry.path == b"y").map(|entry| (entry.kind, &entry.link[..]));
        let expected = if is_link { (FileKind::HardLink, &b"a/x"[..]) } else { (FileKind::Regular, &b""[..]) };
        assert_eq!(y, Some(expected), "{what}");
    }
}

/// The first name is unchanged and waits for its run; when the run breaks, another file is there, or none.
#[test]
fn a_first_name_that_is_gone_when_it_is_read_after_all_leads_nobody_astray() {
    type Change = fn(&Path);
    let replaced: Change = |root| {
        fs::write(root.join("new"), "other").unwrap();
        fs::rename(root.join("new"), root.join("a/x")).unwrap();
    };
    let removed: Change = |root| fs::remove_file(root.join("a/x")).unwrap();
    let mut astray = 0;
    // A run begins behind the root, whose entry differs, and ends nowhere, or behind one of these.
    for ends in [&["."][..], &[".", "a/x"], &[".", "m"], &[".", "n"], &[".", "n", "y"]] {
        for (change, replaced) in [(replaced, true), (removed, false)] {
            // The walk has passed a/x when it asks for m, and has inspected y when it asks for y.
            for (asked, new, gone) in [("m", "b", ""), ("m", "z", ""), ("y", "mm", ""), ("y", "z", ""), ("y", "z", "n")]
            {
                let dir = linked();
                let whole = Backup::read(open(dir.path(), &Options::default()), None);
                let root = dir.path().to_owned();
                fs::write(root.join(new), "new").unwrap();
                if !gone.is_empty() {
                    fs::remove_file(root.join(gone)).unwrap();
                }
                let borders = whole.borders(ends);
                let parent = whole.parent(&borders, asked, move || change(&root));
                let source = TreeSource::new(dir.path(), &Options::default(), Some(parent)).unwrap();
                let again = Backup::read(source, Some((&whole, &borders)));
                let stored = again.stored();
                let content = |path: &str| stored.iter().find(|stored| stored.0 == path).cloned();
                let seen = format!("{ends:?}, {asked} {new} {gone}, replaced {replaced}: {stored:?}");
                let first = content("a/x").map(|(_, _, text)| text);
                // Reused or read before the change, or after it.
                assert!(first == replaced.then(|| "other".to_owned()) || first.as_deref() == Some("old"), "{seen}");
                let last = match content("y") {
                    Some((_, FileKind::HardLink, to)) => content(&to).map(|(_, _, text)| text),
                    found => found.map(|(_, _, text)| text),
                };
                assert_eq!(last.as_deref(), Some("old"), "{seen}");
                assert_eq!(content("m"), Some(regular("m", "between")), "{seen}");
                astray += usize::from(first.as_deref() != Some("old"));
            }
        }
    }
    assert!(astray > 10, "{astray}: a first name is held back long enough to be lost");
}

#[test]
fn unchanged_members_are_reused_with_their_links() {
    let dir = linked();
    let whole = Backup::read(open(dir.path(), &Options::default()), None);
    let borders = whole.borders(&["m", "y"]);
    let parent = whole.parent(&borders, "m", || ());
    let source = TreeSource::new(dir.path(), &Options::default(), Some(parent)).unwrap();
    let again = Backup::read(source, Some((&whole, &borders)));
    assert_eq!((again.stored(), again.taken), (whole.stored(), 2));
    assert_eq!(again.stored().last(), Some(&link("y", "a/x")));
}

/// Files that Linux generates on reading, with 0 bytes: stored whole, and not reused from a backup that has them empty.
#[test]
fn a_size_of_0_is_not_believed() {
    let root = Path::new("/proc/sys/kernel/random");
    let whole = Backup::read(open(root, &Options::default()), None);
    let live = fs::read_to_string(root.join("poolsize")).unwrap();
    assert!(whole.stored().contains(&regular("poolsize", &live)), "{:?}", whole.stored());
    let entry = whole.entries.iter().find(|entry| entry.path == b"poolsize").unwrap();
    assert_eq!(entry.size, live.len() as u64);
    let mut old = whole;
    old.entries.iter_mut().for_each(|entry| entry.size = 0);
    let borders = old.borders(&["poolsize"]);
    let parent = old.parent(&borders, ".", || ());
    let again = Backup::read(TreeSource::new(root, &Options::default(), Some(parent)).unwrap(), Some((&old, &borders)));
    assert_eq!(again.taken, 0);
    assert!(again.stored().contains(&regular("poolsize", &live)), "{:?}", again.stored());
}

#[test]
fn an_empty_file_is_unchanged_like_any_other() {
    let dir = tree(&["a"]);
    fs::write(dir.path().join("b"), b"").unwrap();
    let whole = Backup::read(open(dir.path(), &Options::default()), None);
    let borders = whole.borders(&["b"]);
    let parent = whole.parent(&borders, "a", || ());
    let again =
        Backup::read(TreeSource::new(dir.path(), &Options::default(), Some(parent)).unwrap(), Some((&whole, &borders)));
    assert_eq!((again.taken, again.warnings), (1, vec![]));
}

/// A cgroup's files get another time when somebody first asks for their attributes, as a backup does.
#[test]
fn an_empty_file_that_is_only_touched_is_no_warning() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), b"").unwrap();
    let mut source = open(dir.path(), &Options::default());
    read_until(&mut source, b"a");
    fs::File::open(dir.path().join("a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(Backup::read(source, None).warnings, []);
}
