//! Finds the inodes that have not changed since the parent backup.
//!
//! Both trees are walked in the same order, so the parent's list is read one entry at a time, and memory does not depend on the number
//! of files (of a backup that the node cannot read it does: [`super::hashed`]). A parent in another order, from another version, only helps less.
//!
//! Unchanged means: the same path, type, link, size, mode, owner, mtime, ctime and inode. (Not the device: volumes get another number
//! each time they are mounted.) Two cases are never taken as unchanged:
//! - an inode that changed shortly before the parent's start, or later ([`Parent::settled`]): it may have been written after it was
//!   read, in the same tick of the clock;
//! - a path that the parent has a warning for: it is not stored as it was.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::iter::Peekable;
use std::sync::Arc;

use super::hashed::Hashed;
use super::meta::Meta;
use crate::format::index::{FileEntry, FileKind, FileTime, order};
use crate::source::table::ChunkTable;

/// The parts of the parent's stream that a tree needs.
pub struct Parent {
    pub chunks: Arc<ChunkTable>,
    pub files: Files,
    /// Files that changed before this time did not change again while the parent was made.
    pub settled: FileTime,
    /// Paths in the archive, in lossy UTF-8, that the parent has warnings for, if its members are listed.
    pub doubtful: HashSet<String>,
}

/// The parent's members.
pub enum Files {
    /// In stream order.
    Listed(Box<dyn Iterator<Item = FileEntry> + Send>),
    /// Without their names; those with warnings are left out.
    Hashed(Hashed),
}

impl std::fmt::Debug for Parent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parent").field("settled", &self.settled).finish_non_exhaustive()
    }
}

pub(super) struct Comparison {
    members: Members,
    settled: FileTime,
    doubtful: HashSet<String>,
}

enum Members {
    Listed(Peekable<Box<dyn Iterator<Item = FileEntry> + Send>>),
    Hashed(Hashed),
}

impl Comparison {
    pub(super) fn new(files: Files, settled: FileTime, doubtful: HashSet<String>) -> Self {
        let members = match files {
            Files::Listed(files) => Members::Listed(files.peekable()),
            Files::Hashed(files) => Members::Hashed(files),
        };
        Self { members, settled, doubtful }
    }

    /// The parent's entry of an inode that has not changed since. Must be called in the order of the walk. Of hashed members, it has no link
    /// but the one asked for.
    pub(super) fn unchanged(&mut self, path: &[u8], kind: FileKind, link: &[u8], meta: &Meta) -> Option<FileEntry> {
        let files = match &mut self.members {
            Members::Listed(files) => files,
            Members::Hashed(files) => return files.unchanged(path, kind, link, meta, self.settled),
        };
        while files.next_if(|entry| order(&entry.path, path) == Ordering::Less).is_some() {}
        let entry = files.next_if(|entry| entry.path == path)?;
        let doubtful = !self.doubtful.is_empty() && self.doubtful.contains(&*String::from_utf8_lossy(path));
        (!doubtful && entry.kind == kind && (link.is_empty() || entry.link == link) && same(&entry, meta, self.settled))
            .then_some(entry)
    }
}

fn same(entry: &FileEntry, meta: &Meta, settled: FileTime) -> bool {
    entry.size == meta.size
        && entry.mode == meta.mode
        && (entry.uid, entry.gid) == (meta.uid, meta.gid)
        && entry.mtime == meta.mtime
        && entry.ctime == meta.ctime
        && entry.inode == meta.inode
        && meta.mtime < settled
        && meta.ctime < settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta::of_test(1)
    }

    #[test]
    fn only_what_is_the_same_in_everything_is_unchanged() {
        let settled = FileTime { seconds: 1000, nanoseconds: 6 };
        let later = |time: FileTime| FileTime { nanoseconds: time.nanoseconds + 1, ..time };
        assert!(same(&Meta::entry_of_test(b"a", b""), &meta(), settled));
        for (what, changed) in [
            ("size", Meta { size: 11, ..meta() }),
            ("mode", Meta { mode: 0o600, ..meta() }),
            ("owner", Meta { uid: 9, ..meta() }),
            ("group", Meta { gid: 9, ..meta() }),
            ("mtime", Meta { mtime: later(meta().mtime), ..meta() }),
            ("ctime", Meta { ctime: later(meta().ctime), ..meta() }),
            ("inode", Meta { inode: 8, ..meta() }),
        ] {
            assert!(!same(&Meta::entry_of_test(b"a", b""), &changed, settled), "{what}");
        }
        assert!(
            same(&Meta::entry_of_test(b"a", b""), &Meta { device: 3, ..meta() }, settled),
            "a device's number says nothing"
        );
        assert!(!same(&Meta::entry_of_test(b"a", b""), &meta(), meta().ctime), "too close to the start");
    }

    #[test]
    fn the_lists_are_merged_in_the_order_of_the_walk() {
        let settled = FileTime { seconds: 2000, nanoseconds: 0 };
        let old = [".", "a", "a/gone", "a/x", "a-", "b", "d"].map(|path| Meta::entry_of_test(path.as_bytes(), b""));
        let mut comparison =
            Comparison::new(Files::Listed(Box::new(old.into_iter())), settled, HashSet::from(["b".to_owned()]));
        let mut found = |path: &str| comparison.unchanged(path.as_bytes(), FileKind::Regular, b"", &meta()).is_some();
        assert_eq!(
            [".", "a", "a/new", "a/x", "a\u{1}", "a-", "b", "c", "d", "e"].map(&mut found),
            [true, true, false, true, false, true, false, false, true, false]
        );
    }

    #[test]
    fn a_link_that_leads_elsewhere_has_changed() {
        let settled = FileTime { seconds: 2000, nanoseconds: 0 };
        let links =
            [b"a", b"b"].map(|path| FileEntry { kind: FileKind::HardLink, ..Meta::entry_of_test(path, b"first") });
        let mut comparison = Comparison::new(Files::Listed(Box::new(links.into_iter())), settled, HashSet::new());
        assert!(comparison.unchanged(b"a", FileKind::HardLink, b"first", &meta()).is_some());
        assert!(comparison.unchanged(b"b", FileKind::HardLink, b"other", &meta()).is_none());
    }
}
