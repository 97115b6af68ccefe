//! One item's stream: source → chunk → frame → part → store, and its index.

use std::io::{Read as _, Seek as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest as _, Sha256};
use tempfile::SpooledTempFile;

use super::objects::Objects;
use super::parent::{Ancestor, Parent};
use super::plan::PlannedItem;
use super::{Error, Progress, Run};
use crate::budget::OwnBuffers;
use crate::budget::stream::{self, BLOCK, BLOCKS, Plan};
use crate::format::codec::Suffix;
use crate::format::index::{self, Chunk};
use crate::format::key::{BackupPrefix, Name, ObjectKey};
use crate::format::manifest::{IndexObject, NotEntered, Stream, Warning, Warnings};
use crate::metrics::AbortReason;
use crate::process::Process;
use crate::stream::{Encoder, Event, Options, encode};
use crate::upload::{ObjectWriter, Uploader, Written, resume};

/// An index up to this size stays in memory (about 100,000 chunks: 100 GiB); a larger one goes to an unnamed temporary file.
const INDEX_IN_MEMORY: usize = 4 << 20;

/// Directories that were not entered that the log names.
const LOGGED: usize = 5;

/// How much of the index is read at a time to be uploaded.
const INDEX_READ: usize = 256 << 10;

impl Run<'_> {
    /// Writes one item. Returns its stream and how many warnings it had; a failed item has left no object.
    pub(super) async fn item(
        &mut self,
        backup: &BackupPrefix,
        item: &PlannedItem<'_>,
        warnings: &mut Warnings,
    ) -> Result<(Stream, u64), Error> {
        let Process { budget, .. } = &self.location.process;
        let (part_size, threads) = (self.location.config.upload.part_size, self.pool.current_num_threads());
        let Plan { window, bytes } = stream::plan(budget.total(), part_size, threads);
        let (stop, before) = (self.stop.clone(), warnings.count);
        let (reservation, parent) = tokio::select! {
            () = stop.cancelled() => return Err(Error::Cancelled),
            parent = self.parent(&item.name, bytes, warnings) => parent?,
        };
        let reservation = Arc::new(reservation);
        let part_size = usize::try_from(part_size).unwrap_or(usize::MAX);
        let own = |count, capacity| OwnBuffers::new(budget.clone(), Arc::clone(&reservation), count, capacity);
        // Ends a command also when it is the upload that fails; dropped with this function.
        let stop_source = self.stop.child_token();
        let _guard = stop_source.clone().drop_guard();
        let named = |error| Error::Source { item: item.name.clone(), error };
        let of_tree = match &parent {
            Some(parent) if item.description.is_tree() => parent.of_tree(&self.spec.parent)?,
            _ => None,
        };
        let source = item.open(stop_source, of_tree).map_err(named)?;
        self.progress.expected.fetch_add(source.size_hint().unwrap_or(0), Ordering::Relaxed);
        let options = Options {
            codec: self.spec.codec,
            pool: Arc::clone(&self.pool),
            blocks: own(BLOCKS, BLOCK),
            window,
            parent: parent.as_ref().map(|parent| Arc::clone(&parent.chunks)),
        };
        let thread = |error| Error::Local { action: "starting the reader's thread", error };
        let encoder = Encoder::start(source, options).map_err(thread)?;
        let uploader = Uploader::new(self.location.clone(), self.journal.clone(), own(1, part_size));
        let mut writer = ItemWriter::new(self, uploader, backup, item, parent.as_ref())?;
        let stopped = self.stop.clone();
        let result = tokio::select! {
            () = stopped.cancelled() => Err(Error::Cancelled),
            result = writer.write(encoder, warnings) => result,
        };
        let ItemWriter { current, mut written, .. } = writer;
        if let Some((_, current)) = current {
            // Its completion may have succeeded although nobody heard of it.
            written.push(current.key().clone());
            current.abort(reason(&result)).await;
        }
        match result {
            Ok(stream) => {
                let newer =
                    |than: &Arc<Ancestor>| parent.as_ref().is_some_and(|parent| parent.ancestor.is_newer_than(than));
                if self.parent.as_ref().is_none_or(newer) {
                    self.parent = parent.map(|parent| parent.ancestor);
                }
                self.written.append(&mut written);
                self.written.push(stream.index.key.clone());
                Ok((stream, warnings.count - before))
            }
            Err(error) => {
                // At once, for the run may still commit the other items.
                self.clean_up(&written).await;
                Err(error)
            }
        }
    }
}

/// The objects and the index of one stream.
struct ItemWriter<'a> {
    uploader: Uploader,
    progress: &'a Progress,
    metrics: crate::metrics::Job,
    backup: &'a BackupPrefix,
    item: &'a Name,
    suffix: Suffix,
    object_size: u64,
    /// The object being written, and its number.
    current: Option<(u32, ObjectWriter)>,
    /// Our own complete objects.
    written: Vec<ObjectKey>,
    objects: Objects,
    index: Option<index::Writer<SpooledTempFile>>,
    stored: u64,
    not_entered: NotEntered,
}

const fn reason<T>(result: &Result<T, Error>) -> AbortReason {
    match result {
        Err(Error::Cancelled) => AbortReason::Cancelled,
        _ => AbortReason::Failure,
    }
}

fn index_error(error: std::io::Error) -> Error {
    Error::Local { action: "writing the index to a temporary file", error }
}

impl<'a> ItemWriter<'a> {
    fn new(
        run: &Run<'a>,
        uploader: Uploader,
        backup: &'a BackupPrefix,
        item: &'a PlannedItem<'_>,
        parent: Option<&Parent>,
    ) -> Result<Self, Error> {
        let objects = parent.map(|parent| Objects::after(Arc::clone(&parent.chunks), parent.objects().to_vec()));
        let index = index::Writer::new(tempfile::spooled_tempfile(INDEX_IN_MEMORY)).map_err(index_error)?;
        Ok(Self {
            uploader,
            progress: run.progress,
            metrics: run.metrics.clone(),
            backup,
            item: &item.name,
            suffix: run.spec.codec.suffix(item.description.is_tree()),
            object_size: run.location.config.upload.object_size,
            current: None,
            written: Vec::new(),
            objects: objects.unwrap_or_default(),
            index: Some(index),
            stored: 0,
            not_entered: NotEntered::default(),
        })
    }

    async fn write(&mut self, mut encoder: Encoder, warnings: &mut Warnings) -> Result<Stream, Error> {
        while let Some(event) = self.next(&mut encoder).await? {
            match event {
                Event::File(file) => {
                    Progress::add(&self.progress.files, 1);
                    self.metrics.file();
                    self.index().file(file).map_err(index_error)?;
                }
                Event::Warning(warning) => {
                    Progress::add(&self.progress.warnings, 1);
                    self.metrics.warning();
                    tracing::warn!(item = %self.item, path = %warning.path.display(), "{}", warning.message);
                    let path = warning.path.to_string_lossy().into_owned();
                    warnings.push(Warning { item: self.item.clone(), path, message: warning.message });
                }
                Event::NotEntered(path) => self.not_entered.push(&path),
                Event::Frame(frame) => self.frame(&frame).await?,
                Event::Reference(position) => {
                    let plain = self.reference(position)?;
                    self.metrics.read(plain);
                }
                Event::Taken(position) => {
                    self.reference(position)?;
                }
            }
        }
        self.roll_over().await?;
        if !self.not_entered.is_empty() {
            let NotEntered { count, list } = &self.not_entered;
            let first = list[..list.len().min(LOGGED)].join(", ");
            tracing::info!(item = %self.item, count, first, "directories were not entered, because another file system or subvolume is mounted there");
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

    /// The encoder's next event, or the failure of a part that is in flight meanwhile.
    async fn next(&mut self, encoder: &mut Encoder) -> Result<Option<Event>, Error> {
        let item = self.item;
        let event = match &mut self.current {
            None => encoder.next().await,
            Some((_, current)) => tokio::select! {
                event = encoder.next() => event,
                error = current.failure() => return Err(error.into()),
            },
        };
        event.map_err(|error| match error {
            encode::Error::Source(crate::source::Error::Cancelled) => Error::Cancelled,
            encode::Error::Source(error) => Error::Source { item: item.clone(), error },
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
        Progress::add(&self.progress.plain, frame.plain_len.into());
        Progress::add(&self.progress.stored, length);
        self.metrics.read(frame.plain_len.into());
        self.metrics.stored(length);
        Ok(())
    }

    /// The next object: one that a run which died had begun, or a new one.
    async fn begin(&mut self) -> Result<(), Error> {
        let nth = u32::try_from(self.written.len()).unwrap_or(u32::MAX - 1) + 1;
        let key = self.backup.data(self.item, nth, self.suffix);
        let writer = match resume::find(&self.uploader, &key).await? {
            Some(resumable) => ObjectWriter::resume(self.uploader.clone(), resumable),
            None => ObjectWriter::new(self.uploader.clone(), key),
        };
        self.current = Some((self.objects.begin(writer.key().clone()), writer));
        Ok(())
    }

    /// A chunk that the parent has. Returns its plain length.
    fn reference(&mut self, position: u32) -> Result<u64, Error> {
        let chunk = self.objects.refer(position).ok_or(Error::Stream(encode::Error::NoChunk(position)))?;
        self.index().chunk(&chunk).map_err(index_error)?;
        let plain = u64::from(chunk.plain_len);
        Progress::add(&self.progress.plain, plain);
        self.metrics.deduplicated(plain);
        Ok(plain)
    }

    /// Completes the current object; the next frame starts another.
    async fn roll_over(&mut self) -> Result<(), Error> {
        // Stays in its place until it is complete: a cancelled run aborts it from there.
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
        // In the same place as the data, so that it is aborted from there too.
        let (_, writer) =
            self.current.insert((0, ObjectWriter::new(self.uploader.clone(), self.backup.index(self.item))));
        loop {
            let count = file.read(&mut buffer).map_err(index_error)?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            writer.write(&buffer[..count]).await?;
        }
        let Written { key, size, .. } = writer.finish().await?;
        self.current = None;
        Ok(IndexObject { key, size, sha256: digest.finalize().into() })
    }
}
