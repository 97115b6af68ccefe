//! A parent's members without their names: what a node keeps of a backup that it cannot read.
//!
//! A path is known by a keyed hash, so the members have no order, and are looked up: [`Hashed::PER_FILE`] bytes each.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::meta::Meta;
use crate::format::index::{FileEntry, FileKind, FileTime};
use crate::scrub;

/// The key of a table's hashes.
#[derive(Clone)]
pub struct Names(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names(…)")
    }
}

/// The hash of a path or link.
pub type Hash = [u8; 16];

impl Names {
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key)?;
        Ok(Self(key))
    }

    #[must_use]
    pub fn of_key(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of lossy UTF-8, which is what warnings have: paths that only differ in other bytes are one, and never unchanged.
    #[must_use]
    pub fn hash(&self, path: &[u8]) -> Hash {
        let path = String::from_utf8_lossy(path);
        *self.keyed(path.as_bytes()).first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// The key and the first bytes are in a hash's first block: none of it stays on the stack.
    fn keyed(&self, bytes: &[u8]) -> [u8; 32] {
        #[inline(never)]
        fn hash(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
            Sha256::new().chain_update(key).chain_update(bytes).finalize().into()
        }
        let found = hash(&self.0, bytes);
        scrub::call();
        found
    }

    /// The entry with hashes for its names. An empty link stays empty.
    #[must_use]
    pub fn hide(&self, file: &FileEntry) -> FileEntry {
        let link = if file.link.is_empty() { Vec::new() } else { self.hash(&file.link).to_vec() };
        FileEntry { path: self.hash(&file.path).to_vec(), link, ..file.clone() }
    }
}

/// The members of a parent's stream by the hashes of their paths.
#[derive(Debug)]
pub struct Hashed {
    names: Names,
    /// Sorted by `path`, without two of one path.
    members: Vec<Member>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    path: u64,
    /// Hash of the kind and what `stat` says.
    same: u64,
    /// 0 without a link.
    link: u64,
    start: u64,
    content_start: u64,
    content_len: u64,
}

impl Hashed {
    pub const PER_FILE: usize = size_of::<Member>();

    /// Of `count` hidden entries ([`Names::hide`]). Those in `doubtful` are left out.
    #[must_use]
    pub fn new(names: Names, hidden: impl Iterator<Item = FileEntry>, count: u64, doubtful: &HashSet<Hash>) -> Self {
        let mut members = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
        for file in hidden {
            if file.path.as_slice().try_into().is_ok_and(|path: Hash| doubtful.contains(&path)) {
                continue;
            }
            let FileEntry { member_start, content_start, content_len, .. } = file;
            let (path, same, link) = (short(&file.path), names.same(&file), short(&file.link));
            members.push(Member { path, same, link, start: member_start, content_start, content_len });
        }
        members.sort_unstable_by_key(|member| member.path);
        let twice: HashSet<u64> =
            members.windows(2).filter(|two| two[0].path == two[1].path).map(|two| two[0].path).collect();
        members.retain(|member| !twice.contains(&member.path));
        Self { names, members }
    }

    /// See `Comparison::unchanged`. The entry has no link unless `link` is one.
    pub(super) fn unchanged(
        &self,
        path: &[u8],
        kind: FileKind,
        link: &[u8],
        meta: &Meta,
        settled: FileTime,
    ) -> Option<FileEntry> {
        let hash = short(&self.names.hash(path));
        let found = self.members.binary_search_by_key(&hash, |member| member.path).ok()?;
        let member = self.members.get(found)?;
        let entry = FileEntry {
            path: path.to_vec(),
            kind,
            size: meta.size,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            ctime: meta.ctime,
            inode: meta.inode,
            device: meta.device,
            link: link.to_vec(),
            member_start: member.start,
            content_start: member.content_start,
            content_len: member.content_len,
        };
        let leads_there = link.is_empty() || short(&self.names.hash(link)) == member.link;
        let settled = meta.mtime < settled && meta.ctime < settled;
        (settled && leads_there && self.names.same(&entry) == member.same).then_some(entry)
    }
}

impl Names {
    /// Hash of what must be the same, but for names.
    fn same(&self, file: &FileEntry) -> u64 {
        let FileEntry { kind, size, mode, uid, gid, mtime, ctime, inode, .. } = file;
        let same = (kind, size, mode, uid, gid, mtime, ctime, inode);
        let bytes = postcard::to_stdvec(&same).expect("plain numbers into a growing buffer");
        short(&self.keyed(&bytes))
    }
}

fn short(hash: &[u8]) -> u64 {
    hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_their_names_only_while_they_are_the_same() {
        let names = Names::random().unwrap();
        let listed = [
            Meta::entry_of_test(b"a", b""),
            Meta::entry_of_test(b"b", b""),
            Meta::entry_of_test(b"c/\xff", b""),
            Meta::entry_of_test(b"h", b"first"),
        ];
        let hidden: Vec<FileEntry> = listed.iter().map(|file| names.hide(file)).collect();
        assert!(hidden.iter().zip(&listed).all(|(hidden, file)| hidden.path.len() == 16 && hidden.path != file.path));
        let doubtful = HashSet::from([names.hash(b"b")]);
        let hashed = Hashed::new(Names::of_key(*names.key()), hidden.into_iter(), 4, &doubtful);
        let late = FileTime { seconds: 2000, nanoseconds: 0 };
        let find = |path: &[u8], link: &[u8], meta: Meta, settled| {
            hashed.unchanged(path, FileKind::Regular, link, &meta, settled).map(|entry| entry.path)
        };
        let meta = || Meta::of_test(1);
        assert_eq!(find(b"a", b"", meta(), late), Some(b"a".to_vec()));
        assert_eq!(find(b"c/\xff", b"", meta(), late), Some(b"c/\xff".to_vec()));
        assert_eq!(find(b"h", b"first", meta(), late), Some(b"h".to_vec()));
        for (path, link, meta, settled, why) in [
            (b"b", &b""[..], meta(), late, "doubtful"),
            (b"z", b"", meta(), late, "not there"),
            (b"h", b"other", meta(), late, "leads elsewhere"),
            (b"a", b"", Meta { inode: 8, ..meta() }, late, "another inode"),
            (b"a", b"", Meta { size: 11, ..meta() }, late, "another size"),
            (b"a", b"", meta(), meta().ctime, "too close to the start"),
        ] {
            assert_eq!(find(path, link, meta, settled), None, "{why}");
        }
        assert!(hashed.unchanged(b"a", FileKind::Fifo, b"", &meta(), late).is_none());
    }

    #[test]
    fn paths_that_are_one_when_shown_are_never_unchanged() {
        let names = Names::random().unwrap();
        let hidden =
            [Meta::entry_of_test(b"\xfe", b""), Meta::entry_of_test(b"\xff", b"")].map(|file| names.hide(&file));
        let hashed = Hashed::new(names, hidden.into_iter(), 2, &HashSet::new());
        let late = FileTime { seconds: 2000, nanoseconds: 0 };
        assert!(hashed.unchanged(b"\xff", FileKind::Regular, b"", &Meta::of_test(1), late).is_none());
    }
}
