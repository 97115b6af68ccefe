//! A cluster's API objects as a tar stream, each as the bytes that the server sent.
//!
//! The lister runs as a task and puts the objects into an [`outlet`]; this thread makes members of them. Modes, owners and times are
//! constant, so that a cluster that has not changed is a stream that has not, and chunks end between members as those of a tree of small
//! files do ([`Group`]). A directory's member comes before what is in it.
//!
//! Memory: at most [`WAITING`] bytes of objects between the two, or one object that is larger, and the one that is being written.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::group::{Group, LARGE};
use super::{Error, Mark, Source};
use crate::cluster::Cluster;
use crate::error::Classify as _;
use crate::format::cluster::Record;
use crate::format::index::{FileEntry, FileKind, FileTime};
use crate::resources::lister::{Lister, Progress, Stopped};
use crate::resources::outlet::{self, Members};
use crate::resources::patience::Patience;
use crate::resources::select::Selection;
use crate::tar::{BLOCK, END, Layout, Member};

/// Bytes of objects between the lister and the archive.
const WAITING: u32 = 1 << 20;

static ZEROS: [u8; 2 * BLOCK] = END;

type Listed = Result<Box<Record>, Error>;

/// The objects' stream.
pub struct ObjectSource {
    members: Members,
    /// How the lister ends; taken then.
    listed: Option<oneshot::Receiver<Listed>>,
    /// What is yielded next; behind the end it is empty.
    pieces: VecDeque<Piece>,
    ended: bool,
    /// The directory that the last member is in.
    directory: String,
    group: Group,
    group_ends: bool,
    offset: u64,
    marks: Vec<Mark>,
    entries: Vec<FileEntry>,
    record: Option<Box<Record>>,
}

enum Piece {
    Bytes(Bytes),
    Border,
}

impl std::fmt::Debug for ObjectSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectSource").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl ObjectSource {
    /// Starts the lister, which ends with `stop`. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        cluster: Arc<dyn Cluster>,
        selection: Selection,
        patience: Patience,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        let (outlet, members) = outlet::channel(WAITING);
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let lister = Lister { cluster: &*cluster, selection: &selection, patience, progress: &progress };
            let result = tokio::select! {
                () = stop.cancelled() => Err(Error::Cancelled),
                result = lister.run(&outlet) => result.map(Box::new).map_err(|stopped| match stopped {
                    Stopped::Failed(failure) => Error::Cluster(failure.report()),
                    Stopped::Closed => Error::Cancelled,
                }),
            };
            // Where nobody waits for it any more, nobody needs it.
            let _ = sender.send(result);
        });
        Self {
            members,
            listed: Some(receiver),
            pieces: VecDeque::new(),
            ended: false,
            directory: String::new(),
            group: Group::default(),
            group_ends: false,
            offset: 0,
            marks: Vec::new(),
            entries: Vec::new(),
            record: None,
        }
    }

    /// Puts what comes next into `pieces`.
    fn next_member(&mut self) -> Result<(), Error> {
        if let Some(outlet::Member { path, bytes, .. }) = self.members.next_blocking() {
            self.directories(&path);
            self.member(FileKind::Regular, 0o644, path, bytes);
            return Ok(());
        }
        let listed = self.listed.take().and_then(|listed| listed.blocking_recv().ok());
        let silent = || Error::Invalid("the lister has ended without a word".to_owned());
        self.record = Some(listed.ok_or_else(silent)??);
        self.ended = true;
        self.pieces.extend([Piece::Border, Piece::Bytes(Bytes::from_static(&ZEROS))]);
        Ok(())
    }

    /// The directories of `path` that the member before it is not in.
    fn directories(&mut self, path: &str) {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let last = std::mem::replace(&mut self.directory, directory.to_owned());
        let is_known = |end: usize| {
            last.get(..end) == directory.get(..end) && matches!(last.as_bytes().get(end), None | Some(b'/'))
        };
        let ends = directory.match_indices('/').map(|(end, _)| end).chain([directory.len()]);
        for end in ends.filter(|end| *end > 0 && !is_known(*end)) {
            self.member(FileKind::Directory, 0o755, directory[..end].to_owned(), Bytes::new());
        }
    }

    fn member(&mut self, kind: FileKind, mode: u32, path: String, bytes: Bytes) {
        let size = bytes.len() as u64;
        let member = Member { kind, path: path.into_bytes(), mode, size, ..Member::default() };
        let mut head = Vec::with_capacity(3 * BLOCK);
        let Layout { headers, content } = member.encode(&mut head);
        let padded = size.next_multiple_of(BLOCK as u64);
        if std::mem::take(&mut self.group_ends) || size >= LARGE {
            self.pieces.push_back(Piece::Border);
        }
        let length = head.len() as u64 + padded;
        self.group_ends = self.group.ends_with(&member.path, length);
        self.entries.push(FileEntry {
            path: member.path,
            kind,
            size,
            mode,
            uid: 0,
            gid: 0,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            inode: 0,
            device: 0,
            link: Vec::new(),
            member_start: self.offset,
            content_start: self.offset + headers,
            content_len: content,
        });
        self.offset += length;
        self.pieces.push_back(Piece::Bytes(head.into()));
        if size >= LARGE {
            self.pieces.push_back(Piece::Border);
        }
        let padding = usize::try_from(padded - size).expect("less than a block");
        self.pieces.extend([Piece::Bytes(bytes), Piece::Bytes(Bytes::from_static(&ZEROS[..padding]))]);
    }
}

impl Source for ObjectSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.pieces.front_mut() {
                Some(Piece::Border) => {
                    self.pieces.pop_front();
                    self.marks.push(Mark::Border);
                    break;
                }
                Some(Piece::Bytes(bytes)) => {
                    let length = bytes.len().min(buffer.len() - filled);
                    bytes.copy_to_slice(&mut buffer[filled..filled + length]);
                    filled += length;
                    if !bytes.has_remaining() {
                        self.pieces.pop_front();
                    }
                }
                None if self.ended => break,
                None => self.next_member()?,
            }
        }
        Ok(filled)
    }

    fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    fn take_entries(&mut self) -> Vec<FileEntry> {
        std::mem::take(&mut self.entries)
    }

    fn take_record(&mut self) -> Option<Box<Record>> {
        self.record.take()
    }
}
