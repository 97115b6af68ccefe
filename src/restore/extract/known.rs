//! The paths that this restore created or left out, by their hash: some bytes for each, however long the paths.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use crate::error::Class;

/// The most bytes of paths kept for warnings.
const MAX_PATHS: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Known {
    hasher: RandomState,
    /// Directories whose whole content was created by this restore.
    fresh: HashSet<u64>,
    left_out: HashMap<u64, Class>,
    /// Directories created as parents, before (or without) a member of their own.
    implied: HashMap<u64, Option<Vec<u8>>>,
    paths: usize,
}

impl Known {
    fn key(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }

    pub(super) fn made(&mut self, path: &[u8]) {
        self.fresh.insert(self.key(path));
    }

    pub(super) fn is_fresh(&self, path: &[u8]) -> bool {
        self.fresh.contains(&self.key(path))
    }

    pub(super) fn leave_out(&mut self, path: &[u8], class: Class) {
        self.left_out.insert(self.key(path), class);
    }

    pub(super) fn left_out(&self, path: &[u8]) -> Option<Class> {
        if self.left_out.is_empty() { None } else { self.left_out.get(&self.key(path)).copied() }
    }

    pub(super) fn imply(&mut self, path: &[u8]) {
        self.made(path);
        let room = self.paths + path.len() <= MAX_PATHS;
        self.paths += if room { path.len() } else { 0 };
        self.implied.insert(self.key(path), room.then(|| path.to_vec()));
    }

    /// Records that the directory's own member was read.
    pub(super) fn explain(&mut self, path: &[u8]) {
        if !self.implied.is_empty()
            && let Some(Some(path)) = self.implied.remove(&self.key(path))
        {
            self.paths -= path.len();
        }
    }

    /// The directories without a member; the path is missing if there were too many.
    pub(super) fn unexplained(&mut self) -> Vec<Option<Vec<u8>>> {
        let mut left: Vec<_> = self.implied.drain().map(|(_, path)| path).collect();
        left.sort_unstable();
        left
    }
}
