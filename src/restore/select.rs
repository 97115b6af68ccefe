//! Finds the members of a tree that `--include` and `--exclude` select, and their ranges in the stream: the matches, and their parent
//! directories, which keep others out as they did. Reads the index once, or twice if a hard link is selected without its
//! first name. Memory: one range for each run of selected members and one path for each parent directory.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Error;
use crate::download::index::IndexFile;
use crate::format::index::{FileEntry, FileKind, Record};
use crate::format::key::Name;
use crate::format::manifest::Stream;
use crate::pattern::{Pattern, plain, printable};

/// Which members of one item are wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Choice {
    /// `None`: all.
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    /// These paths alone.
    exactly: Option<HashSet<Vec<u8>>>,
}

impl Choice {
    /// `None` when everything is selected.
    pub(super) fn new(include: &[String], exclude: &[String], item: &Name) -> Option<Self> {
        let [include, exclude] = [include, exclude].map(|list| Patterns::new(list, item));
        (include.is_some() || exclude.is_some()).then_some(Self { include, exclude, exactly: None })
    }

    pub(super) fn exactly(paths: HashSet<Vec<u8>>) -> Self {
        Self { exactly: Some(paths), ..Self::default() }
    }

    pub(super) fn wants(&self, path: &[u8]) -> bool {
        if let Some(exactly) = &self.exactly {
            return exactly.contains(path);
        }
        // The root is not called by any name.
        let matches = |patterns: &Patterns| path != b"." && patterns.match_path(path);
        self.include.as_ref().is_none_or(matches) && !self.exclude.as_ref().is_some_and(matches)
    }
}

/// Patterns, as [`crate::pattern`] says; a directory that matches stands for everything below it. A path matches as it is, also one that a
/// glob would not match, and with the item's name before it, as `show --files` prints it.
#[derive(Debug, Clone)]
struct Patterns {
    globs: Vec<Pattern>,
    paths: Vec<String>,
}

impl Patterns {
    fn new(patterns: &[String], item: &Name) -> Option<Self> {
        let below = |pattern: &String| {
            pattern.strip_prefix(item.as_str()).filter(|rest| rest.starts_with('/')).map(str::to_owned)
        };
        let all: Vec<String> =
            patterns.iter().flat_map(|pattern| [Some(pattern.clone()), below(pattern)]).flatten().collect();
        // One that is no glob is a path all the same.
        let globs = all.iter().filter_map(|pattern| Pattern::new(pattern).ok()).collect();
        let paths = all.iter().map(|pattern| plain(pattern).to_owned()).collect();
        (!patterns.is_empty()).then_some(Self { globs, paths })
    }

    /// Whether the path, or one of its parent directories, matches.
    fn match_path(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| {
            let path = &path[..end];
            self.globs.iter().any(|glob| glob.matches(path)) || self.is_there(path)
        })
    }

    fn is_there(&self, path: &[u8]) -> bool {
        let printed = printable(path);
        self.paths.iter().any(|there| there.as_bytes() == path || *there == printed)
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
    /// Those of the paths of [`Choice::exactly`] that are there.
    pub(super) found: HashSet<Vec<u8>>,
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
pub(super) fn select(index: &IndexFile, stream: &Stream, choice: &Choice) -> Result<Selected, Error> {
    let mut selected = Selected::default();
    let mut way = Way::default();
    let mut link_sources = HashMap::new();
    each_file(index, stream, |file| {
        let wanted = choice.wants(&file.path);
        if wanted {
            selected.take(&file, &mut way);
            if choice.exactly.is_some() {
                selected.found.insert(file.path.clone());
            }
        }
        way.enter(&file, if wanted { Taken::Yes } else { Taken::No });
        if wanted && file.kind == FileKind::HardLink && !choice.wants(&file.link) {
            link_sources.entry(file.link).or_insert(file.path);
        }
    })?;
    if !link_sources.is_empty() {
        let mut with_sources = Vec::new();
        each_file(index, stream, |file| {
            let source = file.kind != FileKind::HardLink && link_sources.contains_key(&file.path);
            let on_the_way = file.kind == FileKind::Directory && selected.on_the_way.contains(below_root(&file.path));
            if source || on_the_way || choice.wants(&file.path) {
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

pub(super) fn each_file(index: &IndexFile, stream: &Stream, mut f: impl FnMut(FileEntry)) -> Result<(), Error> {
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
            let choice = choice(&[glob], &[]);
            let (mut selected, mut way) = (Selected::default(), Way::default());
            for (number, path) in tree.iter().enumerate() {
                let kind = if path.ends_with(['/', '.']) { FileKind::Directory } else { FileKind::Regular };
                let file = entry(path.trim_end_matches('/'), kind, number as u64);
                let wanted = choice.wants(&file.path);
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
            let wanted = |path: &&str| choice.wants(path.trim_end_matches('/').as_bytes());
            assert!(found.iter().all(|path| on_the_way(path) != wanted(path)), "{glob}: {selected:?}");
        }
    }

    fn choice(include: &[&str], exclude: &[&str]) -> Choice {
        let [include, exclude] =
            [include, exclude].map(|list| list.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>());
        Choice::new(&include, &exclude, &Name::new("item").unwrap()).unwrap()
    }

    #[test]
    fn a_matched_directory_brings_what_is_below_it() {
        for (glob, path, wanted) in [
            ("etc", "etc/a/b", true),
            ("/etc/", "etc", true),
            ("/etc", "usr/etc", false),
            ("./etc/*.conf", "etc/a.conf", true),
            ("etc/*.conf", "etc/sub/a.conf", false),
            ("**/*.conf", "etc/sub/a.conf", true),
            ("etc", "etcetera", false),
            ("*", ".", false),
            ("?", ".", false),
            // In any folder.
            ("*.conf", "etc/sub/a.conf", true),
            ("sub/", "etc/sub/a.conf", true),
            ("b", "etc/sub/a.conf", false),
            // As they are printed.
            ("item/etc/a.conf", "etc/a.conf", true),
            ("item/a", "item/a", true),
            ("items/a", "a", false),
            ("etc/a[1].conf", "etc/a[1].conf", true),
            ("etc/a[1].conf", "etc/a1.conf", true),
            ("etc/a[", "etc/a[", true),
            ("etc/a[", "etc/a", false),
        ] {
            assert_eq!(choice(&[glob], &[]).wants(path.as_bytes()), wanted, "{glob} {path}");
        }
        assert!(choice(&["etc/\u{fffd}"], &[]).wants(b"etc/\xff"), "as it is printed");
        assert!(choice(&["etc/a\\nb"], &[]).wants(b"etc/a\nb") && choice(&["etc/a\nb"], &[]).wants(b"etc/a\nb"));
        assert!(Choice::new(&[], &[], &Name::new("item").unwrap()).is_none());
    }

    #[test]
    fn what_is_excluded_is_so_with_all_below_it_whatever_is_included() {
        for (include, path, wanted) in [
            (&[][..], ".", true),
            (&[], "etc/a", true),
            (&[], "var/cache/a/b", false),
            (&[], "etc/x.tmp", false),
            (&["etc"], "etc/x.tmp", false),
            (&["etc"], "etc/a", true),
            (&["etc"], "usr/a", false),
            (&["var/cache/a"], "var/cache/a/b", false),
        ] {
            assert_eq!(choice(include, &["var/cache", "*.tmp"]).wants(path.as_bytes()), wanted, "{include:?} {path}");
        }
    }
}
