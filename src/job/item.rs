//! Stores one item's stream: source → chunk → frame → part → store, and its index.

use std::io::{Read as _, Seek as _};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::SpooledTempFile;

use super::objects::Objects;
use super::parent::{self, Ancestor, Keeper, Parent};
use super::plan::Open;
use super::spool::Spool;
use super::tally::Tally;
use super::{Error, Streaming};
use crate::budget::OwnBuffers;
use crate::budget::stream::{self, BLOCK, BLOCKS, JOINT, Plan, READING, SEALING};
use crate::format::cluster::Record;
use crate::format::codec::Suffix;
use crate::format::index::{self, Chunk};
use crate::format::key::{BackupPrefix, ObjectKey};
use crate::format::manifest::{IndexObject, NotEntered, SourceDescription, Stream};
use crate::metrics::AbortReason;
use crate::process::Process;
use crate::stream::{Encoder, Event, Options, encode};
use crate::upload::{self, ObjectWriter, Uploader, Written, resume};

/// How long a source may take to close what it has open when its stream has ended or failed: longer than a command has between SIGTERM and
/// SIGKILL.
const CLOSES_WITHIN: Duration = Duration::from_secs(8);

/// How many directories that were not entered the log names.
const LOGGED: usize = 5;

/// How much of the index is read at a time for its upload.
const INDEX_READ: usize = 256 << 10;

impl Streaming<'_, '_> {
    /// Stores the item's stream. On failure it leaves no object.
    pub(super) async fn store(&mut self, description: &SourceDescription, open: &Open<'_>) -> Result<Stream, Error> {
        // An interrupted encrypted object is of use only to the same bytes, and costs a second reading if they differ: a command is not run
        // twice for it, and a list of objects never is what it was.
        let is_read_again = matches!(description, SourceDescription::Tree { .. } | SourceDescription::File { .. });
        match self.store_once(description, open, self.run.keys.is_none() || is_read_again).await {
            Err(Error::Upload(error @ upload::Error::Diverged { .. })) => {
                tracing::info!(item = %self.tally.item, %error, "reading the source again, for a new object");
                self.tally = self.run.tally(&self.tally.item);
                self.store_once(description, open, false).await
            }
            result => result,
        }
    }

    async fn store_once(
        &mut self,
        description: &SourceDescription,
        open: &Open<'_>,
        resumes: bool,
    ) -> Result<Stream, Error> {
        let (location, spec, stop) = (self.run.location, self.run.spec, self.run.stop.clone());
        let pool = Arc::clone(&self.run.pool);
        let Process { budget, .. } = &location.process;
        let part_size = location.config.upload.part_size;
        let encrypts = if self.run.keys.is_some() { SEALING } else { 0 };
        let Plan { window, bytes } = stream::plan(budget.total(), part_size + encrypts, pool.current_num_threads());
        let (reservation, mut parent) = tokio::select! {
            () = stop.cancelled() => return Err(Error::Cancelled),
            parent = self.parent(bytes) => parent?,
        };
        // A source that never answers keeps its threads, and with them the blocks and the parent's table, but no more.
        let mut reading = reservation;
        let rest = reading.split(bytes - READING).expect("the plan has more than the blocks");
        let joint = reading.split(JOINT as u64).expect("the reader's memory has room for a chunk");
        let part_size = usize::try_from(part_size).unwrap_or(usize::MAX);
        let own = |of, count, capacity| OwnBuffers::new(budget.clone(), Arc::new(of), count, capacity);
        // Ends the source also when the upload fails.
        let stop_source = stop.child_token();
        let guard = stop_source.clone().drop_guard();
        let of_tree = match &mut parent {
            Some(parent) if matches!(description, SourceDescription::Tree { .. }) => {
                parent.take_members(&spec.parent)?
            }
            _ => None,
        };
        let source = open(stop_source, of_tree).map_err(|error| self.tally.failed(error))?;
        self.tally.expected(source.size_hint().unwrap_or(0));
        let options = Options {
            codec: spec.codec,
            pool,
            blocks: own(reading, BLOCKS, BLOCK),
            joint: own(joint, 1, JOINT),
            window,
            parent: parent.as_ref().map(|parent| Arc::clone(&parent.chunks)),
        };
        let uploader = self.uploader(own(rest, 1, part_size));
        let suffix = spec.codec.suffix(description.is_tree());
        let keeper = self.run.keys.as_ref().and_then(|_| self.keeper());
        let mut writer = ItemWriter::new(self, uploader, (suffix, resumes), keeper, parent.as_ref())?;
        let encoder = Encoder::start(source, options).map_err(not_started)?;
        let threads = encoder.threads();
        let result = tokio::select! {
            () = stop.cancelled() => Err(Error::Cancelled),
            result = writer.write(encoder, description) => result,
        };
        drop(guard);
        let ItemWriter { current, mut written, uploader, .. } = writer;
        drop(uploader);
        if let Some((_, current)) = current {
            // It may have been completed although the answer was lost.
            written.push(current.key().clone());
            current.abort(reason(&result)).await;
        }
        match &result {
            Ok(stream) => {
                let newer =
                    |than: &Arc<Ancestor>| parent.as_ref().is_some_and(|parent| parent.ancestor.is_newer_than(than));
                if let (Some(keys), Some(parent)) = (&mut self.run.keys, &parent) {
                    keys.refers_to(&parent.ancestor.manifest);
                }
                if self.run.parent.as_ref().is_none_or(newer) {
                    self.run.parent = parent.map(|parent| parent.ancestor);
                }
                self.run.written.append(&mut written);
                self.run.written.push(stream.index.key.clone());
            }
            // Clean up now, since the run may still commit the other items.
            Err(_) => self.run.clean_up(&written).await,
        }
        self.closed(threads).await;
        result
    }

    fn uploader(&self, memory: OwnBuffers) -> Uploader {
        let run = &self.run;
        let recipients = run.keys.as_ref().map(|keys| Arc::clone(&keys.recipients.data));
        let mut uploader = Uploader::new(run.location.clone(), run.journal.clone(), memory).encrypting(recipients);
        uploader.sent = Arc::clone(&run.progress.sent);
        uploader
    }

    /// Waits until the source has closed what it had open, so that an `after` command can unmount it, and the run leaves nothing in memory.
    async fn closed(&self, threads: impl Future<Output = ()>) {
        if tokio::time::timeout(CLOSES_WITHIN, threads).await.is_err() {
            tracing::warn!(item = %self.tally.item, "the source, or the compression of what it gave, has not ended: what is open and in memory stays until it does");
        }
    }
}

impl Streaming<'_, '_> {
    fn keeper(&self) -> Option<Keeper> {
        let begun = self.run.tables.begin(&self.tally.item, &self.run.owner.id);
        begun.inspect_err(|error| tracing::warn!(item = %self.tally.item, %error, "could not begin this backup's table in state_dir: the next backup refers to an earlier one, or is a full one")).ok()
    }
}

/// The objects and the index of one stream.
struct ItemWriter<'r, 'a> {
    uploader: Uploader,
    tally: &'r mut Tally<'a>,
    home: &'r BackupPrefix,
    suffix: Suffix,
    index_suffix: Suffix,
    object_size: u64,
    /// Whether interrupted uploads are resumed.
    resumes: bool,
    /// How many of this stream's own data objects have been begun.
    begun: u32,
    /// The object being written, and its number.
    current: Option<(u32, ObjectWriter)>,
    /// This stream's own complete objects.
    written: Vec<ObjectKey>,
    objects: Objects,
    index: Option<index::Writer<Spool>>,
    /// The table that this node keeps, if it cannot read the index.
    keeper: Option<Keeper>,
    stored: u64,
    not_entered: NotEntered,
    /// What the backup before says of the item's objects.
    before: Option<Box<Record>>,
}

const fn reason<T>(result: &Result<T, Error>) -> AbortReason {
    match result {
        Err(Error::Cancelled) => AbortReason::Cancelled,
        _ => AbortReason::Failure,
    }
}

fn not_started(error: std::io::Error) -> Error {
    Error::Local { action: "start the reader's thread", error }
}

fn index_error(error: std::io::Error) -> Error {
    Error::Local { action: "write the index to a temporary file", error }
}

impl<'r, 'a> ItemWriter<'r, 'a> {
    fn new(
        streaming: &'r mut Streaming<'_, 'a>,
        uploader: Uploader,
        (suffix, resumes): (Suffix, bool),
        keeper: Option<Keeper>,
        parent: Option<&Parent>,
    ) -> Result<Self, Error> {
        let objects = parent.map(|parent| Objects::after(Arc::clone(&parent.chunks), parent.objects().to_vec()));
        let before = parent.and_then(|parent| parent.record(&streaming.tally.item).cloned().map(Box::new));
        let keys = streaming.run.keys.as_ref().map(|keys| &keys.recipients);
        let spool = Spool::new(keys.map(|keys| &*keys.index)).map_err(index_error)?;
        let index = index::Writer::new(spool).map_err(index_error)?;
        let stored_as = |suffix: Suffix| if keys.is_some() { suffix.encrypted() } else { suffix };
        Ok(Self {
            uploader,
            tally: &mut streaming.tally,
            home: &streaming.run.home,
            suffix: stored_as(suffix),
            index_suffix: stored_as(Suffix::Index),
            resumes,
            object_size: streaming.run.location.config.upload.object_size,
            begun: 0,
            current: None,
            written: Vec::new(),
            objects: objects.unwrap_or_default(),
            index: Some(index),
            keeper,
            stored: 0,
            not_entered: NotEntered::default(),
            before,
        })
    }

    async fn write(&mut self, mut encoder: Encoder, description: &SourceDescription) -> Result<Stream, Error> {
        while let Some(event) = self.next(&mut encoder).await? {
            match event {
                Event::File(file) => {
                    self.tally.file();
                    self.keep(|keeper| keeper.file(&file));
                    self.index().file(file).map_err(index_error)?;
                }
                Event::Warning(warning) => self.tally.warn(&warning.path.to_string_lossy(), warning.message),
                Event::NotEntered(path) => self.not_entered.push(&path),
                Event::Record(record) => self.tally.record(record, self.before.as_deref()),
                Event::Frame(frame) => self.frame(&frame).await?,
                Event::Reference(position) => {
                    let plain = self.reference(position)?;
                    self.tally.deduplicated(plain);
                }
                Event::Taken(position) => {
                    let plain = self.reference(position)?;
                    self.tally.unread(plain);
                }
            }
        }
        self.roll_over().await?;
        if !self.not_entered.is_empty() {
            let NotEntered { count, list } = &self.not_entered;
            let first = list[..list.len().min(LOGGED)].join(", ");
            tracing::info!(item = %self.tally.item, count, first, "directories were not entered, and are not in the backup: another file system or subvolume is mounted there");
        }
        let (file, totals) = self.index.take().expect("taken only here").finish().map_err(index_error)?;
        let index = self.upload_index(file.finish().map_err(index_error)?).await?;
        if let Some(keeper) = self.keeper.take() {
            let doubtful = parent::doubtful_of(&self.tally.warnings, &self.tally.item, description);
            self.kept(keeper.finish(index.sha256, doubtful.as_ref()));
        }
        let objects = std::mem::take(&mut self.objects).into_list();
        Ok(Stream {
            plain_bytes: totals.plain_bytes,
            stored_bytes: objects.iter().map(|object| object.live_bytes).sum(),
            new_bytes: self.stored,
            chunks: totals.chunks,
            files: totals.files,
            digest: totals.digest,
            index,
            objects,
            not_entered: std::mem::take(&mut self.not_entered),
        })
    }

    /// Returns the encoder's next event, or the failure of a part in flight.
    async fn next(&mut self, encoder: &mut Encoder) -> Result<Option<Event>, Error> {
        let event = match &mut self.current {
            None => encoder.next().await,
            Some((_, current)) => tokio::select! {
                event = encoder.next() => event,
                error = current.failure() => return Err(error.into()),
            },
        };
        event.map_err(|error| match error {
            encode::Error::Source(crate::source::Error::Cancelled) => Error::Cancelled,
            encode::Error::Source(error) => self.tally.failed(error),
            error => Error::Stream(error),
        })
    }

    fn index(&mut self) -> &mut index::Writer<Spool> {
        self.index.as_mut().expect("the index is finished after the last event")
    }

    fn indexed(&mut self, chunk: &Chunk) -> Result<(), Error> {
        self.keep(|keeper| keeper.chunk(chunk));
        self.index().chunk(chunk).map_err(index_error)
    }

    /// Adds to the table that this node keeps, if it keeps one. A table that fails is given up.
    fn keep(&mut self, add: impl FnOnce(&mut Keeper) -> std::io::Result<()>) {
        let Some(keeper) = &mut self.keeper else { return };
        let added = add(keeper);
        if added.is_err() {
            self.keeper = None;
        }
        self.kept(added);
    }

    fn kept(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(item = %self.tally.item, %error, "could not keep this backup's table in state_dir: the next backup refers to an earlier one, or is a full one");
        }
    }

    async fn frame(&mut self, frame: &encode::Frame) -> Result<(), Error> {
        let length = frame.stored.len() as u64;
        if self.current.as_ref().is_some_and(|(_, current)| current.len_with(length) > self.object_size) {
            self.roll_over().await?;
        }
        if self.current.is_none() {
            self.begin().await?;
        }
        let (number, current) = self.current.as_mut().expect("begun just above");
        let chunk = Chunk {
            id: frame.id,
            plain_len: frame.plain_len,
            encoding: frame.encoding,
            object: *number,
            offset: current.offset(),
            stored_len: u32::try_from(length).expect("a frame is little more than 4 MiB"),
        };
        current.chunk(chunk);
        current.write(frame.stored.clone()).await?;
        self.indexed(&chunk)?;
        self.stored += length;
        self.tally.stored(frame.plain_len.into(), length);
        Ok(())
    }

    /// Begins the next object: resumes an interrupted upload, or begins a new one.
    async fn begin(&mut self) -> Result<(), Error> {
        self.begun += 1;
        let key = self.home.data(&self.tally.item, self.begun, self.suffix);
        let found = if self.resumes { resume::find(&self.uploader, &key).await? } else { None };
        let writer = match found {
            Some(resumable) => ObjectWriter::resume(self.uploader.clone(), resumable),
            None => ObjectWriter::new(self.uploader.clone(), key)?,
        };
        self.current = Some((self.objects.begin(writer.key().clone()), writer));
        Ok(())
    }

    /// References a chunk of the parent. Returns its plain length.
    fn reference(&mut self, position: u32) -> Result<u64, Error> {
        let chunk = self.objects.refer(position).ok_or(Error::Stream(encode::Error::NoChunk(position)))?;
        self.indexed(&chunk)?;
        Ok(chunk.plain_len.into())
    }

    /// Completes the current object; the next frame starts another.
    async fn roll_over(&mut self) -> Result<(), Error> {
        // `current` stays set until the object is complete, so that a cancelled run aborts it.
        if let Some((number, current)) = &mut self.current {
            let written = current.finish().await?;
            self.objects.complete(*number, &written);
            self.current = None;
            self.written.push(written.key);
        }
        Ok(())
    }

    async fn upload_index(&mut self, mut file: SpooledTempFile) -> Result<IndexObject, Error> {
        file.rewind().map_err(index_error)?;
        let mut digest = Sha256::new();
        let key = self.home.index(&self.tally.item, self.index_suffix);
        // In `current`, as the data objects are, so that a cancelled run aborts it. It is encrypted already.
        let (_, writer) = self.current.insert((0, ObjectWriter::plain(self.uploader.clone(), key)));
        loop {
            let mut buffer = vec![0; INDEX_READ];
            let count = file.read(&mut buffer).map_err(index_error)?;
            if count == 0 {
                break;
            }
            buffer.truncate(count);
            digest.update(&buffer);
            writer.write(buffer.into()).await?;
        }
        let Written { key, size, version, .. } = writer.finish().await?;
        self.current = None;
        Ok(IndexObject { key, size, sha256: digest.finalize().into(), version })
    }
}
