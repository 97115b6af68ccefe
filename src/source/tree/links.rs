//! Which inodes are in the stream already that may have further names, and under which name.
//!
//! A further name is stored as a hard link to the first, and its content is not read. So the two must be one file, and a device and an inode
//! number do not say that: a number is given to a new file as soon as the old one is removed. Neither does a name that is in the stream say that
//! its file was stored: what was passed over as unchanged may have been replaced when it had to be read after all. Hence:
//! - a further name is a link only while ctime, mtime and size are what they were when the first was looked at;
//! - a first name that turns out to be something else, or is gone, is no longer one ([`Links::lose`]).
//!
//! All else is stored whole, which is never wrong. A file that gets another name or mode during the walk is stored twice by that, and comes back as
//! two files.
//!
//! Memory: one path for each inode that has names which have not been seen yet, 150 to 310 bytes and its length (docs/sizing.md).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::format::index::FileTime;
use crate::source::tree::meta::Meta;

#[derive(Debug, Default)]
pub(super) struct Links {
    first_names: HashMap<(u64, u64), FirstName>,
    /// Paths in the stream, or left out of it, that nothing may be a link to.
    lost: HashSet<Vec<u8>>,
}

#[derive(Debug)]
struct FirstName {
    path: Vec<u8>,
    state: State,
    /// How many names of the inode have not been seen.
    left: u64,
}

/// What differs between two files of one inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    ctime: FileTime,
    mtime: FileTime,
    size: u64,
}

impl From<&Meta> for State {
    fn from(meta: &Meta) -> Self {
        let Meta { ctime, mtime, size, .. } = *meta;
        Self { ctime, mtime, size }
    }
}

/// Whether two looks at one device and inode number saw one file, as it was.
pub(super) fn same(a: &Meta, b: &Meta) -> bool {
    a.id() == b.id() && a.file_type == b.file_type && State::from(a) == State::from(b)
}

impl Links {
    /// Where an inode is in the stream already that the walk now has one more name of.
    pub(super) fn first_name(&mut self, meta: &Meta) -> Option<Vec<u8>> {
        if meta.links < 2 {
            return None;
        }
        let Entry::Occupied(mut first) = self.first_names.entry(meta.id()) else { return None };
        if first.get().state != State::from(meta) {
            first.remove();
            return None;
        }
        first.get_mut().left -= 1;
        Some(if first.get().left == 0 { first.remove().path } else { first.get().path.clone() })
    }

    /// What is at `path` goes into the stream there.
    pub(super) fn remember(&mut self, path: &[u8], meta: &Meta) {
        if meta.links > 1 {
            let first = FirstName { path: path.to_vec(), state: meta.into(), left: meta.links - 1 };
            self.first_names.insert(meta.id(), first);
        }
    }

    /// What has been remembered with `path` is not what the stream has there.
    pub(super) fn lose(&mut self, path: &[u8], meta: &Meta) {
        if meta.links < 2 {
            return;
        }
        if let Entry::Occupied(first) = self.first_names.entry(meta.id())
            && first.get().path == path
        {
            first.remove();
        }
        self.lost.insert(path.to_vec());
    }

    /// Whether nothing may be a link to `path`, although it was to be.
    pub(super) fn is_lost(&self, path: &[u8]) -> bool {
        !self.lost.is_empty() && self.lost.contains(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta::of_test(3)
    }

    #[test]
    fn only_a_file_that_is_as_it_was_is_a_link() {
        let later = FileTime { seconds: 1000, nanoseconds: 6 };
        for (what, now, is_link) in [
            ("the same", meta(), true),
            ("written out meanwhile", Meta { allocated: 8192, ..meta() }, true),
            ("ctime", Meta { ctime: later, ..meta() }, false),
            ("mtime", Meta { mtime: later, ..meta() }, false),
            ("size", Meta { size: 11, ..meta() }, false),
            ("another inode", Meta { inode: 8, ..meta() }, false),
            ("another device", Meta { device: 2, ..meta() }, false),
            ("one name left", Meta { links: 1, ..meta() }, false),
        ] {
            let mut links = Links::default();
            links.remember(b"first", &meta());
            assert_eq!(links.first_name(&now), is_link.then(|| b"first".to_vec()), "{what}");
        }
    }

    #[test]
    fn what_differs_becomes_the_first_name_of_what_follows() {
        let mut links = Links::default();
        links.remember(b"old", &meta());
        let new = Meta { size: 11, links: 2, ..meta() };
        assert_eq!(links.first_name(&new), None);
        links.remember(b"new", &new);
        assert_eq!(links.first_name(&new), Some(b"new".to_vec()));
        assert!(links.first_names.is_empty(), "all names were seen");
    }

    #[test]
    fn a_name_that_is_lost_is_no_first_name() {
        let mut links = Links::default();
        links.remember(b"first", &meta());
        assert_eq!(links.first_name(&meta()), Some(b"first".to_vec()));
        links.lose(b"first", &meta());
        assert!(links.is_lost(b"first") && !links.is_lost(b"second"));
        assert_eq!(links.first_name(&meta()), None);
        // Another path has it by now.
        links.remember(b"second", &meta());
        links.lose(b"first", &meta());
        assert_eq!(links.first_name(&meta()), Some(b"second".to_vec()));
        links.lose(b"single", &Meta { links: 1, ..meta() });
        assert!(!links.is_lost(b"single"));
    }
}
