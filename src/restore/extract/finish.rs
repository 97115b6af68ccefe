//! Fills small files and sets their attributes on a thread of its own, while the archive's next files are read and created.
//!
//! Files come back in their order. One is held whole until its last byte is there, so that one that turns out to be damaged can still be taken
//! back. Costs at most [`BATCHES`] times a batch: [`BATCH`] bytes and [`SMALL`], and [`FILES`] open files with their names and attributes.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use super::Failure;
use super::attributes::{Place, set};
use super::data::Output;
use super::ledger::Difference;

/// The longest file that is held.
pub(super) const SMALL: usize = 256 << 10;

/// The least bytes of a batch, and the most files of one: a thread is woken for as much, not for each file.
const BATCH: usize = 1 << 20;
const FILES: usize = 32;

/// One is collected, one waits and one is being written.
const BATCHES: usize = 3;

/// A file that was filled, or was not.
pub(super) struct Done {
    pub(super) path: Vec<u8>,
    pub(super) differences: Vec<Difference>,
    pub(super) result: Result<(), Failure>,
}

#[derive(Default)]
struct Batch {
    /// With the end of its data.
    files: Vec<(Output, usize)>,
    data: Vec<u8>,
}

/// What became of a batch, and its memory.
type Written = (Vec<Done>, Vec<u8>);

pub(super) struct Finisher {
    /// Being collected; the last bytes may be those of a file that has not ended.
    batch: Batch,
    batches: SyncSender<Batch>,
    written: Receiver<Written>,
    /// The paths of each batch that was sent.
    sent: VecDeque<Vec<Vec<u8>>>,
    /// Memory for the next batches.
    idle: Vec<Vec<u8>>,
}

impl Finisher {
    pub(super) fn start() -> io::Result<Self> {
        let (batches, todo) = mpsc::sync_channel::<Batch>(BATCHES - 2);
        let (told, written) = mpsc::channel();
        let work = move || {
            // Ends with the other end.
            for batch in todo {
                if told.send(batch.write()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("penstock-write".to_owned()).spawn(work)?;
        Ok(Self { batch: Batch::default(), batches, written, sent: VecDeque::new(), idle: Vec::new() })
    }

    /// Holds the next bytes of the file that is being read.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        if self.batch.data.capacity() == 0 {
            // What was waited for in sending has left its memory.
            self.batch.data = self.idle.pop().unwrap_or_else(|| Vec::with_capacity(BATCH + SMALL));
        }
        self.batch.data.extend_from_slice(bytes);
    }

    /// The bytes held of the file that is being read.
    pub(super) fn held(&self) -> &[u8] {
        &self.batch.data[self.batch.complete()..]
    }

    /// Forgets the file that is being read.
    pub(super) fn take_back(&mut self) {
        self.batch.data.truncate(self.batch.complete());
    }

    /// All bytes of this file are held. Returns what is done of earlier ones.
    pub(super) fn end(&mut self, output: Output) -> Vec<Done> {
        self.batch.files.push((output, self.batch.data.len()));
        if self.batch.data.len() < BATCH && self.batch.files.len() < FILES {
            return Vec::new();
        }
        self.send();
        let mut done = Vec::new();
        while let Ok(written) = self.written.try_recv() {
            done.extend(self.came(written));
        }
        done
    }

    /// Whether this file is not done yet.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        let mut collected = self.batch.files.iter().map(|(output, _)| &output.member.path);
        collected.any(|other| other == path) || self.sent.iter().flatten().any(|other| other == path)
    }

    /// Waits until every file is done. None is being read.
    pub(super) fn drain(&mut self) -> Vec<Done> {
        if !self.batch.files.is_empty() {
            self.send();
        }
        let mut done = Vec::new();
        while !self.sent.is_empty() {
            // The thread ends only with this end, or by a panic, which then comes up here.
            let written = self.written.recv().expect("the thread that writes files panicked");
            done.extend(self.came(written));
        }
        done
    }

    fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.sent.push_back(batch.files.iter().map(|(output, _)| output.member.path.clone()).collect());
        self.batches.send(batch).expect("the thread that writes files panicked");
    }

    fn came(&mut self, (done, mut data): Written) -> Vec<Done> {
        self.sent.pop_front();
        // A batch of empty files has none.
        if data.capacity() > 0 {
            data.clear();
            self.idle.push(data);
        }
        done
    }
}

impl Batch {
    /// The length of the data of files that have ended.
    fn complete(&self) -> usize {
        self.files.last().map_or(0, |(_, end)| *end)
    }

    fn write(self) -> Written {
        let mut done = Vec::with_capacity(self.files.len());
        let mut start = 0;
        for (mut output, end) in self.files {
            let mut differences = Vec::new();
            let result = fill(&mut output, &self.data[start..end], &mut differences);
            done.push(Done { path: output.member.path, differences, result });
            start = end;
        }
        (done, self.data)
    }
}

fn fill(output: &mut Output, bytes: &[u8], differences: &mut Vec<Difference>) -> Result<(), Failure> {
    if !bytes.is_empty() {
        output.write(bytes, 0)?;
    }
    output.finish()?;
    Ok(set(&Place::Open(&output.file), &output.member, differences)?)
}
