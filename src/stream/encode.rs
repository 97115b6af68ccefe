//! The pipeline from a source to frames in order.
//!
//! ```text
//! source ─ read and cut (one thread) ─┬─ hash, compress ─┬─ frames, in stream order
//!                                     └─ hash, compress ─┘  (the pool, `window` chunks at most)
//! ```
//!
//! Memory: [`BLOCKS`](crate::budget::stream::BLOCKS) blocks of [`BLOCK`](crate::budget::stream::BLOCK) bytes out of the stream's own buffers, plus at most `window` frames of a chunk's size; see
//! [`crate::budget::stream`]. A slow consumer stops the reader: every queue is bounded.
//!
//! Failure: the first error of the source ends the stream with that error. When the consumer drops the [`Encoder`], the thread ends at
//! its next chunk; a source that blocks for ever is the source's to interrupt.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::cut::{self, More};
use super::frame::{self, Compression};
use crate::budget::{Buffer, OwnBuffers};
use crate::format::index::{ChunkId, Encoding, FileEntry};
use crate::source::{self, Source, Warning};

/// The smallest request made of the source, so that a pipe's few bytes do not each cost a pass over what is there.
const READ: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct Options {
    pub compression: Compression,
    /// Where chunks are hashed and compressed.
    pub pool: Arc<rayon::ThreadPool>,
    /// Of [`crate::budget::stream`].
    pub blocks: OwnBuffers,
    /// Chunks between the cutter and the consumer, at least 1.
    pub window: usize,
}

/// One chunk, ready to be stored.
#[derive(Debug, Clone)]
pub struct Frame {
    pub id: ChunkId,
    pub plain_len: u32,
    pub encoding: Encoding,
    pub stored: Bytes,
}

/// What comes out, in stream order. Files and warnings come no later than the chunk in which they begin.
#[derive(Debug)]
pub enum Event {
    File(FileEntry),
    Warning(Warning),
    Frame(Frame),
}

#[derive(Debug)]
enum Pending {
    File(FileEntry),
    Warning(Warning),
    Chunk(oneshot::Receiver<std::io::Result<Frame>>),
    Failed(source::Error),
    End,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("compressing a chunk failed: {0}")]
    Compress(#[source] std::io::Error),
    #[error("the pipeline stopped unexpectedly")]
    Stopped,
}

impl crate::error::Classify for Error {
    fn report(&self) -> crate::error::Report {
        use crate::error::{Class, Report};
        match self {
            Self::Source(error) => error.report(),
            Self::Compress(_) | Self::Stopped => {
                Report::new(Class::Internal, self.to_string()).remedy("this is a bug in Penstock: please report it")
            }
        }
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct Encoder {
    pending: mpsc::Receiver<Pending>,
    /// The chunk whose turn it is: kept here so that a dropped [`Encoder::next`] loses nothing.
    current: Option<oneshot::Receiver<std::io::Result<Frame>>>,
    ended: bool,
}

impl Encoder {
    /// Starts reading `source`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(source: Box<dyn Source>, options: Options) -> std::io::Result<Self> {
        let (sender, pending) = mpsc::channel(options.window);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("penstock-read".to_owned()).spawn(move || {
            let mut cutter = Cutter { source, options, runtime, sender };
            // An error here is only that nobody listens any more.
            let _ = cutter.run();
        })?;
        Ok(Self { pending, current: None, ended: false })
    }

    /// The next event; `None` once the source has ended well. Safe to drop and call again.
    ///
    /// # Errors
    /// The source's, once; the stream is worthless then.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(current) = &mut self.current {
                let frame = current.await.map_err(|_| Error::Stopped)?.map_err(Error::Compress)?;
                self.current = None;
                return Ok(Some(Event::Frame(frame)));
            }
            if self.ended {
                return Ok(None);
            }
            match self.pending.recv().await {
                Some(Pending::File(file)) => return Ok(Some(Event::File(file))),
                Some(Pending::Warning(warning)) => return Ok(Some(Event::Warning(warning))),
                Some(Pending::Chunk(frame)) => self.current = Some(frame),
                Some(Pending::Failed(error)) => return Err(error.into()),
                Some(Pending::End) => self.ended = true,
                None => return Err(Error::Stopped),
            }
        }
    }
}

/// The consumer is gone.
struct Gone;

struct Cutter {
    source: Box<dyn Source>,
    options: Options,
    runtime: tokio::runtime::Handle,
    sender: mpsc::Sender<Pending>,
}

impl Cutter {
    fn run(&mut self) -> Result<(), Gone> {
        let mut block = self.block();
        loop {
            let more = match self.fill(&mut block) {
                Ok(more) => more,
                Err(error) => return self.send(Pending::Failed(error)),
            };
            self.annotations()?;
            let bytes = block.freeze();
            let used = self.cut(&bytes, more)?;
            if more == More::No {
                return self.send(Pending::End);
            }
            block = self.block();
            block.fill(&bytes[used..]);
        }
    }

    fn block(&self) -> Buffer {
        self.options.blocks.blocking_get(&self.runtime)
    }

    /// Reads until the block is full or the source has ended.
    fn fill(&mut self, block: &mut Buffer) -> Result<More, source::Error> {
        while block.room() > 0 {
            let count = self.source.read(block.spare(READ))?;
            if count == 0 {
                return Ok(More::No);
            }
            block.commit(count);
        }
        Ok(More::Maybe)
    }

    fn annotations(&mut self) -> Result<(), Gone> {
        for file in self.source.take_entries() {
            self.send(Pending::File(file))?;
        }
        for warning in self.source.take_warnings() {
            self.send(Pending::Warning(warning))?;
        }
        Ok(())
    }

    /// Hands over every chunk whose end is certain; returns how many bytes they were.
    fn cut(&self, block: &Bytes, more: More) -> Result<usize, Gone> {
        let mut used = 0;
        while let Some(length) = cut::first_chunk(&block[used..], more) {
            let plain = block.slice(used..used + length);
            used += length;
            let (sender, receiver) = oneshot::channel();
            self.send(Pending::Chunk(receiver))?;
            let compression = self.options.compression;
            self.options.pool.spawn(move || {
                // An error here is only that nobody waits any more.
                let _ = sender.send(encode_chunk(plain, compression));
            });
        }
        Ok(used)
    }

    fn send(&self, pending: Pending) -> Result<(), Gone> {
        self.sender.blocking_send(pending).map_err(|_| Gone)
    }
}

fn encode_chunk(plain: Bytes, compression: Compression) -> std::io::Result<Frame> {
    let id = frame::digest(&plain);
    let plain_len = u32::try_from(plain.len()).expect("a chunk is at most 4 MiB");
    let stored = match compression {
        Compression::None => plain,
        Compression::Zstd { level } => frame::compress(&plain, level)?.into(),
    };
    Ok(Frame { id, plain_len, encoding: compression.encoding(), stored })
}
