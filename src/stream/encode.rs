//! The pipeline from a source to frames in order.
//!
//! ```text
//! source ─ read (one thread) ─ cut (one thread) ─┬─ hash, look up, compress ─┬─ frames and references, in stream order
//!                                                └─ hash, look up, compress ─┘  (the pool)
//! ```
//!
//! Memory: [`BLOCKS`](crate::budget::stream::BLOCKS) blocks of [`BLOCK`](crate::budget::stream::BLOCK) bytes from the stream's own
//! buffers, one chunk that begins in a block and ends in the next, and frames of at most `window` times the largest chunk; see
//! [`crate::budget::stream`]. A slow consumer stops the reader: every queue is bounded.
//!
//! Failure: the source's first error ends the stream. When the consumer drops the [`Encoder`], the threads end at their next chunk or
//! block; a source that blocks must be interrupted by its own means.

use std::path::PathBuf;
use std::sync::{Arc, mpsc as blocking};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::cut::{self, More};
use super::read::{Filled, Reader};
use crate::budget::{Buffer, OwnBuffers};
use crate::format::cluster::Record;
use crate::format::codec::{self, Codec, Encoding, max_stored};
use crate::format::index::{ChunkId, FileEntry, MAX_CHUNK};
use crate::scrub;
use crate::source::table::ChunkTable;
use crate::source::{self, Mark, Source, Warning};

/// The most events between the cutter and the consumer. Memory bounds the chunks among them.
const QUEUE: usize = 512;

/// Bytes of a block that are copied to a rest before it is searched for a border again.
const STEP: usize = 128 << 10;

/// Chunks that one thread hashes together, which is faster than one by one ([`codec::digests`]).
const BATCH: usize = 4;

/// The unit in which memory for frames is counted.
const UNIT: usize = 1 << 10;

#[derive(Debug, Clone)]
pub struct Options {
    pub codec: Codec,
    /// The threads that hash and compress chunks.
    pub pool: Arc<rayon::ThreadPool>,
    /// See [`crate::budget::stream`].
    pub blocks: OwnBuffers,
    pub joint: OwnBuffers,
    /// Memory between the cutter and the consumer, in chunks of the largest size; at least 1.
    pub window: usize,
    /// Chunks that need not be stored again.
    pub parent: Option<Arc<ChunkTable>>,
}

/// One chunk, ready to be stored.
#[derive(Debug)]
pub struct Frame {
    pub id: ChunkId,
    pub plain_len: u32,
    pub encoding: Encoding,
    pub stored: Bytes,
    /// Released when the consumer drops the frame.
    _memory: OwnedSemaphorePermit,
}

/// The output, in stream order. Files and warnings come no later than the chunk in which they begin.
#[derive(Debug)]
pub enum Event {
    File(FileEntry),
    Warning(Warning),
    /// A directory that is stored without its content.
    NotEntered(PathBuf),
    /// What is said of a cluster's objects.
    Record(Box<Record>),
    Frame(Frame),
    /// A chunk that was read and that the parent has, by its position in the table.
    Reference(u32),
    /// A chunk of the parent that was not read, by its position.
    Taken(u32),
}

type Encoded = std::io::Result<Event>;

#[derive(Debug)]
enum Pending {
    Ready(Event),
    /// An [`Event::Frame`] or an [`Event::Reference`].
    Chunk(oneshot::Receiver<Encoded>),
    Failed(source::Error),
    End,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("could not compress a chunk: {0}")]
    Compress(#[source] std::io::Error),
    /// The position of an [`Event::Reference`] or [`Event::Taken`] is out of range.
    #[error("the parent's table has no chunk {0}")]
    NoChunk(u32),
    #[error("the pipeline stopped unexpectedly")]
    Stopped,
}

impl crate::error::Classify for Error {
    fn report(&self) -> crate::error::Report {
        use crate::error::{Class, Report};
        match self {
            Self::Source(error) => error.report(),
            Self::Compress(_) | Self::NoChunk(_) | Self::Stopped => {
                Report::new(Class::Internal, self.to_string()).remedy("this is a bug in Penstock: please report it")
            }
        }
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct Encoder {
    pending: mpsc::Receiver<Pending>,
    /// The next chunk in order: kept here so that dropping [`Encoder::next`]'s future loses nothing.
    current: Option<oneshot::Receiver<Encoded>>,
    ended: bool,
    /// Its senders end with the threads and the pool's chunks.
    threads: watch::Receiver<()>,
}

impl Encoder {
    /// Starts reading `source`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(source: Box<dyn Source>, options: Options) -> std::io::Result<Self> {
        let (sender, pending) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        let memory = Arc::new(Semaphore::new(options.window * units(MAX_CHUNK as usize)));
        let (filled, blocks) = blocking::sync_channel(1);
        let reader = Reader { source, blocks: options.blocks.clone(), runtime: runtime.clone(), filled };
        let (running, threads) = watch::channel(());
        let (cuts, reads) = (running.clone(), running.clone());
        let cutter = Cutter { blocks, rest: None, options, runtime, memory, sender, running };
        spawn("penstock-cut", cuts, move || cutter.run())?;
        spawn("penstock-read", reads, move || reader.run())?;
        Ok(Self { pending, current: None, ended: false, threads })
    }

    /// Waits until the encoder's threads, and the pool with its chunks, are done: nothing of the source is open or in memory then. That
    /// comes after the stream's end, its error, or the drop of the encoder. (The task that lists a cluster's objects ends a moment later.)
    pub fn threads(&self) -> impl Future<Output = ()> + use<> {
        let mut threads = self.threads.clone();
        // Nothing is sent.
        async move { drop(threads.changed().await) }
    }

    /// The next event; `None` after the end of a source without errors. Its future may be dropped and called again.
    ///
    /// # Errors
    /// The source's error, once; the stream is incomplete then.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(current) = &mut self.current {
                let event = current.await.map_err(|_| Error::Stopped)?.map_err(Error::Compress)?;
                self.current = None;
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            match self.pending.recv().await {
                Some(Pending::Ready(event)) => return Ok(Some(event)),
                Some(Pending::Chunk(chunk)) => self.current = Some(chunk),
                Some(Pending::Failed(error)) => return Err(error.into()),
                Some(Pending::End) => self.ended = true,
                None => return Err(Error::Stopped),
            }
        }
    }
}

/// Drops `running` when nothing is left of the work.
fn spawn(
    name: &str,
    running: watch::Sender<()>,
    work: impl FnOnce() -> Result<(), Gone> + Send + 'static,
) -> std::io::Result<()> {
    let work = move || {
        // Fails only if the encoder was dropped.
        work().ok();
        scrub::thread();
        drop(running);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// The encoder was dropped.
pub(super) struct Gone;

struct Cutter {
    blocks: blocking::Receiver<Result<Filled, source::Error>>,
    /// The bytes behind the last border, of which no end of a chunk is certain.
    rest: Option<Buffer>,
    options: Options,
    runtime: tokio::runtime::Handle,
    /// Counts in [`UNIT`]s the memory between the cutter and the consumer.
    memory: Arc<Semaphore>,
    sender: mpsc::Sender<Pending>,
    /// See [`Encoder::threads`].
    running: watch::Sender<()>,
}

impl Cutter {
    fn run(mut self) -> Result<(), Gone> {
        // The reader ends before it has sent the last block only if it panics: the consumer is told that the pipeline stopped.
        while let Ok(filled) = self.blocks.recv() {
            let Filled { block, marks, said, more } = match filled {
                Ok(filled) => filled,
                Err(error) => return self.send(Pending::Failed(error)),
            };
            for event in said {
                self.send(Pending::Ready(event))?;
            }
            self.cut(&block, marks, more)?;
            if more == More::No {
                return self.send(Pending::End);
            }
        }
        Ok(())
    }

    /// Cuts off every chunk whose end is certain.
    fn cut(&mut self, block: &Bytes, marks: Vec<(usize, Mark)>, more: More) -> Result<(), Gone> {
        let (mut used, mut batch) = (0, Vec::with_capacity(BATCH));
        for (at, mark) in marks {
            self.chunks(&block.slice(used..at), More::No, &mut batch)?;
            used = at;
            match mark {
                Mark::Border => {}
                Mark::Taken(chunks) => {
                    self.encode(&mut batch)?;
                    for position in chunks {
                        self.send(Pending::Ready(Event::Taken(position)))?;
                    }
                }
            }
        }
        self.chunks(&block.slice(used..), more, &mut batch)?;
        self.encode(&mut batch)
    }

    /// Cuts the rest and the bytes that follow it, and keeps what is left of them as the next rest.
    fn chunks(&mut self, bytes: &Bytes, more: More, batch: &mut Vec<Plain>) -> Result<(), Gone> {
        let mut used = 0;
        if let Some(rest) = self.rest.take() {
            let before = rest.len();
            let Some((joined, length)) = self.join(rest, bytes, more) else { return Ok(()) };
            used = length - before;
            self.push(joined.slice(..length), batch)?;
        }
        while let Some(length) = cut::first_chunk(&bytes[used..], more) {
            self.push(bytes.slice(used..used + length), batch)?;
            used += length;
        }
        if used < bytes.len() {
            // The one before may be in the batch.
            self.encode(batch)?;
            let mut rest = self.options.joint.blocking_get(&self.runtime);
            rest.fill(&bytes[used..]);
            self.rest = Some(rest);
        }
        Ok(())
    }

    /// Adds bytes to a rest up to the end of its chunk, and returns them with the chunk's length. Keeps the rest if that end is not among them.
    fn join(&mut self, mut rest: Buffer, bytes: &[u8], more: More) -> Option<(Bytes, usize)> {
        let (mut taken, mut known) = (0, rest.len());
        loop {
            let end = bytes.len().min(taken + STEP);
            taken += rest.fill(&bytes[taken..end]);
            let more = if taken == bytes.len() { more } else { More::Maybe };
            if let Some(length) = cut::first_chunk_beyond(rest.as_slice(), known, more) {
                return Some((rest.freeze(), length));
            }
            if taken == bytes.len() {
                self.rest = Some(rest);
                return None;
            }
            known = rest.len();
        }
    }

    fn push(&self, plain: Bytes, batch: &mut Vec<Plain>) -> Result<(), Gone> {
        let memory = self.memory(plain.len(), batch)?;
        batch.push(Plain { plain, memory });
        if batch.len() == BATCH { self.encode(batch) } else { Ok(()) }
    }

    /// Reserves memory for a chunk's stored form. Sends the batch before waiting: its own memory may be what is
    /// missing.
    fn memory(&self, plain_len: usize, batch: &mut Vec<Plain>) -> Result<OwnedSemaphorePermit, Gone> {
        let units = u32::try_from(units(plain_len)).expect("a chunk is at most 4 MiB");
        if let Ok(memory) = Arc::clone(&self.memory).try_acquire_many_owned(units) {
            return Ok(memory);
        }
        self.encode(batch)?;
        let memory = self.runtime.block_on(Arc::clone(&self.memory).acquire_many_owned(units));
        Ok(memory.expect("the semaphore is never closed"))
    }

    /// Sends a batch to the pool, and its future results to the consumer.
    fn encode(&self, batch: &mut Vec<Plain>) -> Result<(), Gone> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut promised = Vec::with_capacity(batch.len());
        for plain in batch.drain(..) {
            let (sender, receiver) = oneshot::channel();
            self.send(Pending::Chunk(receiver))?;
            promised.push((plain, sender));
        }
        let (codec, parent) = (self.options.codec, self.options.parent.clone());
        let running = self.running.clone();
        self.options.pool.spawn(move || {
            // Nobody waits for the chunks of a run that was given up.
            promised.retain(|(_, sender)| !sender.is_closed());
            let ids = codec::digests(promised.iter().map(|(chunk, _)| &chunk.plain[..]));
            // A chunk's last block of SHA-256.
            scrub::call();
            for (id, (chunk, sender)) in ids.into_iter().zip(promised) {
                if !sender.is_closed() {
                    // Fails only if nobody waits for the chunk any more.
                    let _ = sender.send(chunk.encode(id, codec, parent.as_deref()));
                }
            }
            drop((parent, running));
        });
        Ok(())
    }

    fn send(&self, pending: Pending) -> Result<(), Gone> {
        self.sender.blocking_send(pending).map_err(|_| Gone)
    }
}

/// The [`UNIT`]s of memory for the stored form of a chunk of that length.
fn units(plain_len: usize) -> usize {
    (max_stored(u32::try_from(plain_len).unwrap_or(MAX_CHUNK)) as usize).div_ceil(UNIT)
}

/// A chunk as read, with memory for its stored form.
struct Plain {
    plain: Bytes,
    memory: OwnedSemaphorePermit,
}

impl Plain {
    fn encode(self, id: ChunkId, codec: Codec, parent: Option<&ChunkTable>) -> Encoded {
        if let Some(position) = parent.and_then(|parent| parent.find(&id)) {
            return Ok(Event::Reference(position));
        }
        let plain_len = u32::try_from(self.plain.len()).expect("a chunk is at most 4 MiB");
        let (encoding, stored) = codec.encode(self.plain)?;
        Ok(Event::Frame(Frame { id, plain_len, encoding, stored, _memory: self.memory }))
    }
}

#[cfg(test)]
mod tests;
