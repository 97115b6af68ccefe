//! A cluster's API objects as a tar stream, each as the bytes that the server sent.
//!
//! The lister runs as a task and passes the objects to an [`outlet`]; this thread writes members. Modes, owners and times are constant,
//! so that an unchanged cluster gives an unchanged stream, and chunks end between members, as those of a tree of small files do
//! ([`Group`]). A directory's member comes before its content.
//!
//! Memory: at most [`WAITING`] bytes of objects between the two, or one larger object, and the object that is being written.

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

/// The bytes of objects between the lister and the archive.
const WAITING: u32 = 1 << 20;

static ZEROS: [u8; 2 * BLOCK] = END;

type Listed = Result<Box<Record>, Error>;

/// The stream of the objects.
pub struct ObjectSource {
    members: Members,
    /// The lister's result; taken when it ends.
    listed: Option<oneshot::Receiver<Listed>>,
    /// The pieces that come next; empty at the end.
    pieces: VecDeque<Piece>,
    ended: bool,
    /// The directory of the last member.
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
    /// Starts the lister; `stop` cancels it. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(
        cluster: Arc<dyn Cluster>,
        selection: Selection,
        patience: Patience,
        progress: Arc<Progress>,
        stop: CancellationToken,
    ) -> Self {
        let (outlet, members) = outlet::channel(WAITING);
        let (sender, record) = oneshot::channel();
        tokio::spawn(async move {
            let lister = Lister { cluster: &*cluster, selection: &selection, patience, progress: &progress };
            let result = tokio::select! {
                () = stop.cancelled() => Err(Error::Cancelled),
                result = lister.run(&outlet) => result.map(Box::new).map_err(|stopped| match stopped {
                    Stopped::Failed(failure) => Error::Cluster(failure.report()),
                    Stopped::Closed => Error::Cancelled,
                }),
            };
            // If the receiver is gone, nobody needs the result.
            let _ = sender.send(result);
        });
        Self {
            members,
            listed: Some(record),
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

    /// Puts the next member into `pieces`.
    fn next_member(&mut self) -> Result<(), Error> {
        if let Some(outlet::Member { path, bytes, .. }) = self.members.next_blocking() {
            self.directories(&path);
            self.member(FileKind::Regular, 0o644, path, bytes);
            return Ok(());
        }
        let listed = self.listed.take().and_then(|listed| listed.blocking_recv().ok());
        let silent = || Error::Invalid("the lister has ended without a result".to_owned());
        self.record = Some(listed.ok_or_else(silent)??);
        self.ended = true;
        self.pieces.extend([Piece::Border, Piece::Bytes(Bytes::from_static(&ZEROS))]);
        Ok(())
    }

    /// Adds the directories of `path` that do not contain the previous member.
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
