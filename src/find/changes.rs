//! In what two lists of files differ.
//!
//! Merges them, in the order of a tree ([`order`]), so that it keeps one record of each. A list in another order (of API objects, in the
//! server's) is sorted first, and has to fit into memory ([`Memory`]). Each list is read once before the first difference is given: none is
//! given of a damaged index.

use std::cmp::Ordering;

use crate::catalog::Memory;
use crate::download;
use crate::download::index::{IndexFile, Records};
use crate::error::{Class, Classify, Report};
use crate::find::files;
use crate::format::index::{FileEntry, FileKind, Record, order};
use crate::format::manifest::Stream;

/// The memory of a record in a list that grows, besides its paths.
const ENTRY: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Index(#[from] download::Error),
    #[error("the index has files in another order than a tree's, and too many to sort within limits.memory")]
    Memory,
    #[error("could not write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Index(error) => error.report(),
            Self::Memory => {
                Report::new(Class::Local, self.to_string()).remedy("raise limits.memory, or name one item with --item")
            }
            Self::Output(_) => Report::new(Class::Local, self.to_string()),
        }
    }
}

/// A file that differs: `before`, `after`, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Added(FileEntry),
    Removed(FileEntry),
    Changed(Box<(FileEntry, FileEntry)>),
}

/// What of a file differs. Of a folder's size and time nothing is said: they follow from what is in it.
#[must_use]
pub fn differing(before: &FileEntry, after: &FileEntry) -> Vec<&'static str> {
    let folder = before.kind == FileKind::Directory && after.kind == FileKind::Directory;
    [
        ("type", before.kind != after.kind),
        ("size", !folder && before.size != after.size),
        ("mtime", !folder && before.mtime != after.mtime),
        ("link", before.link != after.link),
        ("mode", before.mode & 0o7777 != after.mode & 0o7777),
        ("owner", (before.uid, before.gid) != (after.uid, after.gid)),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}

/// The files of one side, in order.
#[derive(Debug)]
pub enum List {
    Empty,
    Read { index: IndexFile, records: Box<Records> },
    Sorted(std::vec::IntoIter<FileEntry>),
}

impl List {
    /// Checks all of an index, and how it is ordered. Blocks.
    ///
    /// # Errors
    /// When it is damaged, or is to be sorted and does not fit into memory.
    pub fn of(index: IndexFile, stream: &Stream, memory: &mut Memory) -> Result<Self, Error> {
        let (mut last, mut ordered): (Option<Vec<u8>>, bool) = (None, true);
        files(&index, stream, |file| {
            ordered &= last.as_ref().is_none_or(|last| order(last, &file.path) == Ordering::Less);
            last = Some(file.path);
            Ok::<_, Error>(())
        })?;
        if ordered {
            let records = Box::new(index.open(stream)?);
            return Ok(Self::Read { index, records });
        }
        let mut all = Vec::new();
        files(&index, stream, |file| {
            memory.take(ENTRY + file.path.len() + file.link.len()).map_err(|_| Error::Memory)?;
            all.push(file);
            Ok::<_, Error>(())
        })?;
        Ok(Self::sorted(all))
    }

    fn sorted(mut files: Vec<FileEntry>) -> Self {
        files.sort_by(|a, b| order(&a.path, &b.path));
        Self::Sorted(files.into_iter())
    }

    fn next(&mut self) -> Result<Option<FileEntry>, Error> {
        match self {
            Self::Empty => Ok(None),
            Self::Sorted(files) => Ok(files.next()),
            Self::Read { index, records } => loop {
                match records.next_record().map_err(|error| index.refused(error))? {
                    Some(Record::File(file)) => break Ok(Some(file)),
                    Some(_) => {}
                    None => break Ok(None),
                }
            },
        }
    }
}

/// Calls `each` with every difference, in order. Blocks.
///
/// # Errors
/// When a list cannot be read, and those of `each`.
pub fn compare(
    mut before: List,
    mut after: List,
    mut each: impl FnMut(&Change) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut old, mut new) = (before.next()?, after.next()?);
    loop {
        let side = match (&old, &new) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => order(&old.path, &new.path),
        };
        let (left, right) = (
            if side == Ordering::Greater { None } else { std::mem::replace(&mut old, before.next()?) },
            if side == Ordering::Less { None } else { std::mem::replace(&mut new, after.next()?) },
        );
        match (left, right) {
            (Some(file), None) => each(&Change::Removed(file))?,
            (None, Some(file)) => each(&Change::Added(file))?,
            (Some(left), Some(right)) if !differing(&left, &right).is_empty() => {
                each(&Change::Changed(Box::new((left, right))))?;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::download::index::fetch;
    use crate::download::testing::{MIB, SMALL, house, noise};
    use crate::format::index::FileTime;

    pub(in crate::find) fn file(path: &str, kind: FileKind, size: u64) -> FileEntry {
        FileEntry {
            path: path.into(),
            kind,
            size,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            inode: 0,
            device: 0,
            link: Vec::new(),
            member_start: 0,
            content_start: 512,
            content_len: 0,
        }
    }

    fn listed(sizes: &BTreeMap<String, u64>) -> List {
        List::sorted(sizes.iter().map(|(path, size)| file(path, FileKind::Regular, *size)).collect())
    }

    proptest! {
        /// As two maps differ, whatever the names sort like; and in the order of a tree.
        #[test]
        fn lists_differ_as_maps_do(
            before in proptest::collection::btree_map("[ab-](/[ab.-]){0,2}", 0_u64..2, 0..12),
            after in proptest::collection::btree_map("[ab-](/[ab.-]){0,2}", 0_u64..2, 0..12),
        ) {
            let mut found = Vec::new();
            compare(listed(&before), listed(&after), |change| {
                let (path, sizes) = match change {
                    Change::Added(new) => (&new.path, (None, Some(new.size))),
                    Change::Removed(old) => (&old.path, (Some(old.size), None)),
                    Change::Changed(both) => (&both.0.path, (Some(both.0.size), Some(both.1.size))),
                };
                found.push((String::from_utf8(path.clone()).unwrap(), sizes));
                Ok(())
            }).unwrap();
            prop_assert!(found.windows(2).all(|two| order(two[0].0.as_bytes(), two[1].0.as_bytes()) == Ordering::Less));
            found.sort();
            let mut expected: Vec<_> = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)))
                .map(|path| (path.clone(), (before.get(path).copied(), after.get(path).copied())))
                .filter(|(_, (old, new))| old != new)
                .collect();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_differs_is_named() {
        let one = file("a", FileKind::Regular, 1);
        let with = |change: fn(&mut FileEntry)| {
            let mut other = one.clone();
            change(&mut other);
            differing(&one, &other)
        };
        assert_eq!(with(|_| {}), Vec::<&str>::new());
        assert_eq!(with(|file| (file.inode, file.ctime.seconds, file.device) = (7, 7, 7)), Vec::<&str>::new());
        assert_eq!(with(|file| file.size = 2), ["size"]);
        assert_eq!(with(|file| file.mtime.nanoseconds = 2), ["mtime"]);
        assert_eq!(with(|file| (file.mode, file.gid) = (0o600, 5)), ["mode", "owner"]);
        assert_eq!(with(|file| file.mode |= 0o100_000), Vec::<&str>::new(), "the type is not the mode's");
        assert_eq!(with(|file| (file.kind, file.link) = (FileKind::Symlink, b"b".to_vec())), ["type", "link"]);
        let folder = file("d", FileKind::Directory, 4096);
        let grown = FileEntry { size: 8192, mtime: FileTime { seconds: 9, nanoseconds: 0 }, ..folder.clone() };
        assert_eq!(differing(&folder, &grown), Vec::<&str>::new());
    }

    /// An index in another order is sorted, within its memory; one in order takes none.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_in_any_order_is_compared() {
        let house = house(64 * MIB);
        let entry = |path: &str, number: u64| FileEntry {
            member_start: number * 512,
            content_start: number * 512 + 512,
            ..file(path, FileKind::Regular, number)
        };
        let (ordered, other) = ([entry("a/b", 0), entry("a-b", 1)], [entry("a-b", 0), entry("a/b", 1)]);
        let plain = noise(5000, 1);
        let (one, two) =
            (house.stream("one", &plain, &ordered, SMALL).await, house.stream("two", &plain, &other, SMALL).await);
        let (first, second) =
            (fetch(&house.location, &one).await.unwrap(), fetch(&house.location, &two).await.unwrap());
        let work = move || {
            let none = || Memory::new(0);
            assert!(matches!(List::of(second.clone(), &two, &mut none()), Err(Error::Memory)));
            let before = List::of(first, &one, &mut none()).unwrap();
            let after = List::of(second, &two, &mut Memory::new(10_000)).unwrap();
            let mut found = Vec::new();
            compare(before, after, |change| {
                let Change::Changed(both) = change else { panic!("{change:?}") };
                found.push((both.0.path.clone(), differing(&both.0, &both.1)));
                Ok(())
            })
            .unwrap();
            assert_eq!(found, [(b"a/b".to_vec(), vec!["size"]), (b"a-b".to_vec(), vec!["size"])]);
        };
        tokio::task::spawn_blocking(work).await.unwrap();
    }
}
