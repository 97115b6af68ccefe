//! Finds the members of a tree that `--include` selects, and their ranges in the stream: the matches, and their parent
//! directories, which keep others out as they did. Reads the index once, or twice if a hard link is selected without its
//! first name. Memory: one range for each run of selected members and one path for each parent directory.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Error;
use crate::download::index::IndexFile;
use crate::format::index::{FileEntry, FileKind, Record};
use crate::format::manifest::Stream;

/// The globs of `--include`; a matching directory is selected with everything below it. `*` stays within a folder.
#[derive(Debug, Clone)]
pub(super) struct Include(GlobSet);

impl Include {
    /// `None` when everything is selected.
    pub(super) fn new(globs: &[String]) -> Result<Option<Self>, Error> {
        if globs.is_empty() {
            return Ok(None);
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let relative = glob.trim_start_matches("./").trim_matches('/');
            let invalid = |error: globset::Error| Error::Usage(format!("--include {glob:?}: {}", error.kind()));
            set.add(GlobBuilder::new(relative).literal_separator(true).build().map_err(invalid)?);
        }
        let set = set.build().map_err(|error| Error::Usage(format!("--include: {error}")))?;
        Ok(Some(Self(set)))
    }

    /// Whether the path, or one of its parent directories, matches. Not called for the root.
    pub(super) fn wants(&self, path: &[u8]) -> bool {
        if path == b"." {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| self.0.is_match(Path::new(OsStr::from_bytes(&path[..end]))))
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// Ascending, disjoint, not adjacent.
    pub(super) ranges: Vec<Range<u64>>,
    /// See [`super::extract::Options::link_sources`].
    pub(super) link_sources: HashMap<Vec<u8>, Vec<u8>>,
    /// See [`super::extract::Options::on_the_way`].
    pub(super) on_the_way: HashSet<Vec<u8>>,
}

impl Selected {
    fn take(&mut self, file: &FileEntry, way: &mut Way) {
        for (path, member) in way.down_to(&file.path) {
            add(&mut self.ranges, member);
            self.on_the_way.insert(path);
        }
        add(&mut self.ranges, file.member());
    }
}

/// The parent directories of the current entry; an index is in depth-first order. If one is missing, [`super::extract`]
/// creates it for its owner alone, and lists it.
#[derive(Debug, Default)]
struct Way {
    /// The innermost directory; the outer ones are parts of this path.
    path: Vec<u8>,
    /// The length of each one's path, where its member is, and whether that was selected.
    levels: Vec<(usize, Range<u64>, Taken)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

impl Way {
    /// Moves on to `file`; `taken` tells whether it is selected itself.
    fn enter(&mut self, file: &FileEntry, taken: Taken) {
        self.leave_for(&file.path);
        if file.kind == FileKind::Directory {
            let path = below_root(&file.path);
            self.path.clear();
            self.path.extend_from_slice(path);
            self.levels.push((path.len(), file.member(), taken));
        }
    }

    /// Drops directories that do not contain `path`.
    fn leave_for(&mut self, path: &[u8]) {
        let path = below_root(path);
        let leads = |length: usize| {
            let above = self.path.get(..length);
            length < path.len()
                && above.is_some_and(|above| path.starts_with(above))
                && (length == 0 || path[length] == b'/')
        };
        let left = self.levels.iter().take_while(|(length, ..)| leads(*length)).count();
        self.levels.truncate(left);
        self.path.truncate(self.levels.last().map_or(0, |(length, ..)| *length));
    }

    /// The parent directories of `path` that were not selected so far, from the outermost.
    fn down_to(&mut self, path: &[u8]) -> Vec<(Vec<u8>, Range<u64>)> {
        self.leave_for(path);
        let mut way = Vec::new();
        for (length, member, taken) in &mut self.levels {
            if std::mem::replace(taken, Taken::Yes) == Taken::No {
                way.push((self.path[..*length].to_vec(), member.clone()));
            }
        }
        way
    }
}

/// The root is `.` in an index, and above everything.
fn below_root(path: &[u8]) -> &[u8] {
    if path == b"." { b"" } else { path }
}

/// Blocks.
pub(super) fn select(index: &IndexFile, stream: &Stream, include: &Include) -> Result<Selected, Error> {
    let mut selected = Selected::default();
    let mut way = Way::default();
    let mut link_sources = HashMap::new();
    each_file(index, stream, |file| {
        let wanted = include.wants(&file.path);
        if wanted {
            selected.take(&file, &mut way);
        }
        way.enter(&file, if wanted { Taken::Yes } else { Taken::No });
        if wanted && file.kind == FileKind::HardLink && !include.wants(&file.link) {
            link_sources.entry(file.link).or_insert(file.path);
        }
    })?;
    if !link_sources.is_empty() {
        let mut with_sources = Vec::new();
        each_file(index, stream, |file| {
            let source = file.kind != FileKind::HardLink && link_sources.contains_key(&file.path);
            let on_the_way = file.kind == FileKind::Directory && selected.on_the_way.contains(below_root(&file.path));
            if source || on_the_way || include.wants(&file.path) {
                add(&mut with_sources, file.member());
            }
        })?;
        selected.ranges = with_sources;
    }
    Ok(Selected { link_sources, ..selected })
}

fn add(ranges: &mut Vec<Range<u64>>, member: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == member.start => last.end = member.end,
        _ => ranges.push(member),
    }
}

fn each_file(index: &IndexFile, stream: &Stream, mut f: impl FnMut(FileEntry)) -> Result<(), Error> {
    let mut records = index.open(stream)?;
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        if let Record::File(file) = record {
            f(file);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: FileKind, number: u64) -> FileEntry {
        let time = crate::format::index::FileTime { seconds: 0, nanoseconds: 0 };
        FileEntry {
            path: path.into(),
            kind,
            size: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            inode: 0,
            device: 0,
            link: Vec::new(),
            member_start: number * 512,
            content_start: (number + 1) * 512,
            content_len: 0,
        }
    }

    #[test]
    fn the_directories_on_the_way_come_along_and_only_those() {
        let tree = [".", "a/", "a/b/", "a/b/f", "a/bc/", "a/bc/g", "ab", "c/", "c/d/", "c/d/e/", "c/d/e/f", "c/z"];
        for (glob, expected) in [
            ("a/b/f", vec![".", "a/", "a/b/", "a/b/f"]),
            ("**/g", vec![".", "a/", "a/bc/", "a/bc/g"]),
            ("ab", vec![".", "ab"]),
            ("c/d", vec![".", "c/", "c/d/", "c/d/e/", "c/d/e/f"]),
            ("c/{d/e/f,z}", vec![".", "c/", "c/d/", "c/d/e/", "c/d/e/f", "c/z"]),
            ("none", vec![]),
        ] {
            let include = Include::new(&[glob.to_owned()]).unwrap().unwrap();
            let (mut selected, mut way) = (Selected::default(), Way::default());
            for (number, path) in tree.iter().enumerate() {
                let kind = if path.ends_with(['/', '.']) { FileKind::Directory } else { FileKind::Regular };
                let file = entry(path.trim_end_matches('/'), kind, number as u64);
                let wanted = include.wants(&file.path);
                if wanted {
                    selected.take(&file, &mut way);
                }
                way.enter(&file, if wanted { Taken::Yes } else { Taken::No });
            }
            let found: Vec<&str> = selected
                .ranges
                .iter()
                .flat_map(|range| range.start / 512..range.end / 512)
                .map(|number| tree[usize::try_from(number).unwrap()])
                .collect();
            assert_eq!(found, expected, "{glob}");
            let on_the_way = |path: &&str| {
                let path = path.trim_end_matches('/').as_bytes();
                selected.on_the_way.contains(below_root(path))
            };
            let wanted = |path: &&str| include.wants(path.trim_end_matches('/').as_bytes());
            assert!(found.iter().all(|path| on_the_way(path) != wanted(path)), "{glob}: {selected:?}");
        }
    }

    #[test]
    fn a_matched_directory_brings_what_is_below_it() {
        let include = |glob: &str| Include::new(&[glob.to_owned()]).unwrap().unwrap();
        for (glob, path, wanted) in [
            ("etc", "etc/a/b", true),
            ("/etc/", "etc", true),
            ("./etc/*.conf", "etc/a.conf", true),
            ("etc/*.conf", "etc/sub/a.conf", false),
            ("**/*.conf", "etc/sub/a.conf", true),
            ("etc", "etcetera", false),
            ("*", ".", false),
            ("?", ".", false),
        ] {
            assert_eq!(include(glob).wants(path.as_bytes()), wanted, "{glob} {path}");
        }
        assert!(Include::new(&[]).unwrap().is_none());
        assert!(Include::new(&["a[".to_owned()]).is_err());
    }
}
