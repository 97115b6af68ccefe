//! Stores one item's stream: source → chunk → frame → part → store, and its index.

use std::io::{Read as _, Seek as _};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tempfile::SpooledTempFile;

use super::objects::Objects;
use super::parent::{Ancestor, Parent};
use super::plan::Open;
use super::tally::Tally;
use super::{Error, Streaming};
use crate::budget::OwnBuffers;
use crate::budget::stream::{self, BLOCK, BLOCKS, Plan};
use crate::format::cluster::Record;
use crate::format::codec::Suffix;
use crate::format::index::{self, Chunk};
use crate::format::key::{BackupPrefix, ObjectKey};
use crate::format::manifest::{IndexObject, NotEntered, SourceDescription, Stream};
use crate::metrics::AbortReason;
use crate::process::Process;
use crate::stream::{Encoder, Event, Options, encode};
use crate::upload::{ObjectWriter, Uploader, Written, resume};

/// An index up to this size stays in memory (about 100,000 chunks: 100 GiB); a larger one goes to an unnamed temporary file.
const INDEX_IN_MEMORY: usize = 4 << 20;

/// How many directories that were not entered the log names.
const LOGGED: usize = 5;

/// How much of the index is read at a time for its upload.
const INDEX_READ: usize = 256 << 10;

impl Streaming<'_, '_> {
    /// Stores the item's stream. On failure it leaves no object.
    pub(super) async fn store(&mut self, description: &SourceDescription, open: Open<'_>) -> Result<Stream, Error> {
        let (location, spec, stop) = (self.run.location, self.run.spec, self.run.stop.clone());
        let (pool, journal) = (Arc::clone(&self.run.pool), self.run.journal.clone());
        let Process { budget, .. } = &location.process;
        let part_size = location.config.upload.part_size;
        let Plan { window, bytes } = stream::plan(budget.total(), part_size, pool.current_num_threads());
        let (reservation, parent) = tokio::select! {
            () = stop.cancelled() => return Err(Error::Cancelled),
            parent = self.parent(bytes) => parent?,
        };
        let reservation = Arc::new(reservation);
        let part_size = usize::try_from(part_size).unwrap_or(usize::MAX);
        let own = |count, capacity| OwnBuffers::new(budget.clone(), Arc::clone(&reservation), count, capacity);
        // Ends a command also when the upload fails; dropped at the end of this function.
        let stop_source = stop.child_token();
        let _guard = stop_source.clone().drop_guard();
        let of_tree = match &parent {
            Some(parent) if matches!(description, SourceDescription::Tree { .. }) => parent.of_tree(&spec.parent)?,
            _ => None,
        };
        let source = open(stop_source, of_tree).map_err(|error| self.tally.failed(error))?;
        self.tally.expected(source.size_hint().unwrap_or(0));
        let options = Options {
            codec: spec.codec,
            pool,
            blocks: own(BLOCKS, BLOCK),
            window,
            parent: parent.as_ref().map(|parent| Arc::clone(&parent.chunks)),
        };
        let thread = |error| Error::Local { action: "start the reader's thread", error };
        let encoder = Encoder::start(source, options).map_err(thread)?;
        let uploader = Uploader::new(location.clone(), journal, own(1, part_size));
        let suffix = spec.codec.suffix(description.is_tree());
        let mut writer = ItemWriter::new(self, uploader, suffix, parent.as_ref())?;
        let result = tokio::select! {
            () = stop.cancelled() => Err(Error::Cancelled),
            result = writer.write(encoder) => result,
        };
        let ItemWriter { current, mut written, .. } = writer;
        if let Some((_, current)) = current {
            // It may have been completed although the answer was lost.
            written.push(current.key().clone());
            current.abort(reason(&result)).await;
        }
        match &result {
            Ok(stream) => {
                let newer =
                    |than: &Arc<Ancestor>| parent.as_ref().is_some_and(|parent| parent.ancestor.is_newer_than(than));
                if self.run.parent.as_ref().is_none_or(newer) {
                    self.run.parent = parent.map(|parent| parent.ancestor);
                }
                self.run.written.append(&mut written);
                self.run.written.push(stream.index.key.clone());
            }
            // Clean up now, since the run may still commit the other items.
            Err(_) => self.run.clean_up(&written).await,
        }
        result
    }
}

/// The objects and the index of one stream.
struct ItemWriter<'r, 'a> {
    uploader: Uploader,
    tally: &'r mut Tally<'a>,
    home: &'r BackupPrefix,
    suffix: Suffix,
    object_size: u64,
    /// How many of this stream's own data objects have been begun.
    begun: u32,
    /// The object being written, and its number.
    current: Option<(u32, ObjectWriter)>,
    /// This stream's own complete objects.
    written: Vec<ObjectKey>,
    objects: Objects,
    index: Option<index::Writer<SpooledTempFile>>,
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

fn index_error(error: std::io::Error) -> Error {
    Error::Local { action: "write the index to a temporary file", error }
}

impl<'r, 'a> ItemWriter<'r, 'a> {
    fn new(
        streaming: &'r mut Streaming<'_, 'a>,
        uploader: Uploader,
        suffix: Suffix,
        parent: Option<&Parent>,
    ) -> Result<Self, Error> {
        let objects = parent.map(|parent| Objects::after(Arc::clone(&parent.chunks), parent.objects().to_vec()));
        let before = parent.and_then(|parent| parent.record(&streaming.tally.item).cloned().map(Box::new));
        let index = index::Writer::new(tempfile::spooled_tempfile(INDEX_IN_MEMORY)).map_err(index_error)?;
        Ok(Self {
            uploader,
            tally: &mut streaming.tally,
            home: &streaming.run.home,
            suffix,
            object_size: streaming.run.location.config.upload.object_size,
            begun: 0,
            current: None,
            written: Vec::new(),
            objects: objects.unwrap_or_default(),
            index: Some(index),
            stored: 0,
            not_entered: NotEntered::default(),
            before,
        })
    }

    async fn write(&mut self, mut encoder: Encoder) -> Result<Stream, Error> {
        while let Some(event) = self.next(&mut encoder).await? {
            match event {
                Event::File(file) => {
                    self.tally.file();
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
        let index = self.upload_index(file).await?;
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

    fn index(&mut self) -> &mut index::Writer<SpooledTempFile> {
        self.index.as_mut().expect("the index is finished after the last event")
    }

    async fn frame(&mut self, frame: &encode::Frame) -> Result<(), Error> {
        let length = frame.stored.len() as u64;
        if self.current.as_ref().is_some_and(|(_, current)| current.size() + length > self.object_size) {
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
            offset: current.size(),
            stored_len: u32::try_from(length).expect("a frame is little more than 4 MiB"),
        };
        current.chunk(chunk);
        current.write(&frame.stored).await?;
        self.index().chunk(&chunk).map_err(index_error)?;
        self.stored += length;
        self.tally.stored(frame.plain_len.into(), length);
        Ok(())
    }

    /// Begins the next object: resumes an interrupted upload, or begins a new one.
    async fn begin(&mut self) -> Result<(), Error> {
        self.begun += 1;
        let key = self.home.data(&self.tally.item, self.begun, self.suffix);
        let writer = match resume::find(&self.uploader, &key).await? {
            Some(resumable) => ObjectWriter::resume(self.uploader.clone(), resumable),
            None => ObjectWriter::new(self.uploader.clone(), key),
        };
        self.current = Some((self.objects.begin(writer.key().clone()), writer));
        Ok(())
    }

    /// References a chunk of the parent. Returns its plain length.
    fn reference(&mut self, position: u32) -> Result<u64, Error> {
        let chunk = self.objects.refer(position).ok_or(Error::Stream(encode::Error::NoChunk(position)))?;
        self.index().chunk(&chunk).map_err(index_error)?;
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
        let mut buffer = vec![0; INDEX_READ];
        // In `current`, as the data objects are, so that a cancelled run aborts it.
        let (_, writer) =
            self.current.insert((0, ObjectWriter::new(self.uploader.clone(), self.home.index(&self.tally.item))));
        loop {
            let count = file.read(&mut buffer).map_err(index_error)?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            writer.write(&buffer[..count]).await?;
        }
        let Written { key, size, version, .. } = writer.finish().await?;
        self.current = None;
        Ok(IndexObject { key, size, sha256: digest.finalize().into(), version })
    }
}
