//! The versions of files in the backups of chains.
//!
//! Backups come newest first, of all chains together. Consecutive backups of one chain that have a file with the same type, size and time of
//! change have one [`Version`] of it. A backup that is not read, or whose item failed, says nothing and ends none.
//!
//! Every version that is kept is counted ([`Memory`]).

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::{Error, Memory};
use crate::format::index::{FileEntry, FileKind, FileTime};
use crate::format::key::Name;

/// The memory of a version besides its path: with the share of a table that grows, and of the line that is printed.
const VERSION: usize = 512;

/// One version of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The chain, as the caller numbers them.
    pub chain: usize,
    pub item: Arc<Name>,
    pub path: Arc<[u8]>,
    pub kind: FileKind,
    pub size: u64,
    pub mtime: FileTime,
    pub mode: u32,
    /// The newest and the oldest backup that has it, as the caller numbers them.
    pub newest: usize,
    pub oldest: usize,
    /// How many backups have it.
    pub backups: u64,
    /// The turn of its item in which it was seen last.
    turn: u64,
}

impl Version {
    fn is(&self, file: &FileEntry) -> bool {
        (self.kind, self.size, self.mtime) == (file.kind, file.size, file.mtime)
    }
}

/// An item of a chain.
#[derive(Debug)]
struct Source {
    chain: usize,
    name: Arc<Name>,
    /// Backups of it that were read.
    turn: u64,
    /// Its files' versions that may go on in the next older backup.
    open: HashMap<Arc<[u8]>, usize>,
}

/// Collects versions.
#[derive(Debug)]
pub struct Versions {
    memory: Memory,
    most: usize,
    found: Vec<Version>,
    sources: HashMap<(usize, Name), Source>,
}

impl Versions {
    /// At most `most` versions, the newest.
    #[must_use]
    pub fn new(memory: Memory, most: usize) -> Self {
        Self { memory, most, found: Vec::new(), sources: HashMap::new() }
    }

    /// Whether reading older backups of the chain can change anything.
    #[must_use]
    pub fn goes_on(&self, chain: usize) -> bool {
        self.found.len() < self.most
            || self.sources.values().any(|source| source.chain == chain && !source.open.is_empty())
    }

    /// Whether reading older backups of any chain can.
    #[must_use]
    pub fn go_on(&self) -> bool {
        self.found.len() < self.most || self.sources.values().any(|source| !source.open.is_empty())
    }

    /// Adds the matching files of one item of the backup with the number `backup`.
    ///
    /// # Errors
    /// When there are more versions than fit into memory.
    pub fn add(
        &mut self,
        (chain, backup): (usize, usize),
        item: &Name,
        files: impl IntoIterator<Item = FileEntry>,
    ) -> Result<(), Error> {
        let mut item = self.begin((chain, backup), item)?;
        files.into_iter().try_for_each(|file| item.file(file))?;
        item.end();
        Ok(())
    }

    /// The same, file by file. What is not ended says nothing of what older backups have.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn begin(&mut self, (chain, backup): (usize, usize), item: &Name) -> Result<Turn<'_>, Error> {
        if !self.sources.contains_key(&(chain, item.clone())) {
            self.memory.take(VERSION)?;
        }
        let source = self.sources.entry((chain, item.clone())).or_insert_with(|| Source {
            chain,
            name: Arc::new(item.clone()),
            turn: 0,
            open: HashMap::new(),
        });
        source.turn += 1;
        Ok(Turn { memory: &mut self.memory, most: self.most, found: &mut self.found, source, backup })
    }

    /// All of them, newest first; those of one backup by path.
    #[must_use]
    pub fn into_found(self) -> Vec<Version> {
        let mut found = self.found;
        found.sort_by(|a, b| (a.newest, &a.item, &a.path).cmp(&(b.newest, &b.item, &b.path)));
        found
    }
}

/// One item of one backup.
#[derive(Debug)]
pub struct Turn<'a> {
    memory: &'a mut Memory,
    most: usize,
    found: &'a mut Vec<Version>,
    source: &'a mut Source,
    backup: usize,
}

impl Turn<'_> {
    /// # Errors
    /// When there is not enough memory.
    pub fn file(&mut self, file: FileEntry) -> Result<(), Error> {
        let Self { source, backup, .. } = self;
        if let Some(version) = source.open.get(&*file.path).map(|at| &mut self.found[*at])
            && version.is(&file)
        {
            // An index may name a path twice.
            if version.turn < source.turn {
                (version.turn, version.oldest) = (source.turn, *backup);
                version.backups += 1;
            }
            return Ok(());
        }
        if self.found.len() >= self.most {
            return Ok(());
        }
        self.memory.take(VERSION + file.path.len())?;
        let path: Arc<[u8]> = file.path.into();
        source.open.insert(Arc::clone(&path), self.found.len());
        self.found.push(Version {
            chain: source.chain,
            item: Arc::clone(&source.name),
            path,
            kind: file.kind,
            size: file.size,
            mtime: file.mtime,
            mode: file.mode,
            newest: *backup,
            oldest: *backup,
            backups: 1,
            turn: source.turn,
        });
        Ok(())
    }

    /// All files were seen: a version that this backup has not ends.
    pub fn end(self) {
        let Self { found, source, .. } = self;
        let turn = source.turn;
        source.open.retain(|_, at| found[*at].turn == turn);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str, size: u64) -> FileEntry {
        crate::find::changes::tests::file(path, FileKind::Regular, size)
    }

    /// What a reader would say who has all lists before him: of each file the runs of equal versions, an item that failed left out.
    fn naive(backups: &[(usize, Option<Vec<u64>>)]) -> Vec<(usize, usize, String, u64, usize, u64)> {
        let mut runs = Vec::new();
        for chain in 0..2 {
            for path in 0..3 {
                let own = backups.iter().enumerate().filter(|(_, (of, _))| *of == chain);
                let mut run: Option<(usize, usize, u64, u64)> = None;
                for (at, files) in own.filter_map(|(at, (_, files))| Some((at, files.as_ref()?))) {
                    let size = files[path];
                    match &mut run {
                        Some((_, oldest, of, count)) if *of == size => (*oldest, *count) = (at, *count + 1),
                        _ => {
                            runs.extend(run.map(|run| (chain, path, run)));
                            run = Some((at, at, size, 1));
                        }
                    }
                }
                runs.extend(run.map(|run| (chain, path, run)));
            }
        }
        let mut found: Vec<_> = runs
            .into_iter()
            .filter(|(.., (_, _, size, _))| *size > 0)
            .map(|(chain, path, (newest, oldest, size, count))| {
                (newest, chain, format!("f{path}"), size, oldest, count)
            })
            .collect();
        found.sort();
        found
    }

    proptest! {
        /// Of each of some backups of two chains the sizes of three files; 0 is a file that is not there, `None` an item that failed.
        #[test]
        fn runs_of_equal_files_are_one_version(
            backups in proptest::collection::vec((0_usize..2, proptest::option::weighted(0.8, proptest::collection::vec(0_u64..3, 3))), 0..12),
            most in 0_usize..8,
        ) {
            let item = Name::new("i").unwrap();
            let mut versions = Versions::new(Memory::new(1 << 20), most);
            for (at, (chain, files)) in backups.iter().enumerate() {
                let (Some(files), true) = (files, versions.goes_on(*chain)) else { continue };
                let there = files.iter().enumerate().filter(|(_, size)| **size > 0);
                versions.add((*chain, at), &item, there.map(|(path, size)| file(&format!("f{path}"), *size))).unwrap();
            }
            let found: Vec<_> = versions.into_found().into_iter().map(|version| {
                let path = String::from_utf8(version.path.to_vec()).unwrap();
                (version.newest, version.chain, path, version.size, version.oldest, version.backups)
            }).collect();
            let mut expected = naive(&backups);
            expected.truncate(most);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_is_kept_is_counted() {
        let item = Name::new("i").unwrap();
        let mut versions = Versions::new(Memory::new(100 * VERSION as u64), usize::MAX);
        let many = (0..200).map(|number| file(&format!("f{number}"), 1));
        assert!(matches!(versions.add((0, 0), &item, many), Err(Error::Memory { .. })));
        let mut versions = Versions::new(Memory::new(100 * VERSION as u64), 50);
        let many = (0..200).map(|number| file(&format!("f{number}"), 1));
        versions.add((0, 0), &item, many).unwrap();
        assert_eq!(versions.into_found().len(), 50);
    }
}
