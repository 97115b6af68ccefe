//! Reads a stream's plain bytes in order, within a memory budget.
//!
//! Memory: for each of `n` concurrent requests a buffer for stored bytes and one for plain bytes, and one more, which the consumer may keep
//! while it asks for the next: about 16 MiB × `n` + 8 MiB. `n` is as many as fit into three quarters of the budget, but at least 1 and at most
//! [`MAX_REQUESTS`] and the location's own limit. All memory is reserved before anything is read. Groups take their buffers in stream order,
//! before their requests are sent: the next group always has its buffers, so groups cannot wait for each other. Bytes that are stored as they
//! are go to the consumer from where they were fetched.
//!
//! [`read_past_damage`] gives zeros for a chunk that cannot be read as it was stored, and says which chunks those are. It asks for each chunk of
//! such a group by itself, so that the chunks beside a damaged one are read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::index::IndexFile;
use super::plan::{self, Extent, Form, Group, Piece, STORED};
use super::sealed::{Headers, Part};
use super::{Error, Lost, Selection, get_into, requests};
use crate::age::PayloadError;
use crate::budget::{Buffer, OwnBuffers};
use crate::error::{Class, Classify as _};
use crate::format::codec::{self, Codec, FrameError};
use crate::format::index::Chunk;
use crate::format::manifest::Stream;
use crate::location::Location;

/// More concurrent requests do not make one stream faster.
const MAX_REQUESTS: usize = 8;

/// A task that is aborted when its owner is dropped.
#[derive(Debug)]
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Task<Result<T, Error>> {
    async fn join(mut self) -> Result<T, Error> {
        (&mut self.0).await.unwrap_or(Err(Error::Stopped))
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct PlainReader {
    plain: mpsc::Receiver<Slice>,
    driver: Option<Task<Result<(), Error>>>,
    cancel: CancellationToken,
    lost: Vec<Lost>,
}

/// Plain bytes, and the lost chunks that begin with them: those of a whole group come with its first bytes.
#[derive(Debug)]
struct Slice {
    bytes: Bytes,
    lost: Vec<Lost>,
}

/// What a damaged chunk does to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Ends,
    /// Zeros are given in its place.
    Zeros,
}

/// Starts reading the part of `stream` that `selection` selects. Must be called within a tokio runtime; the reader
/// returns every failure.
#[must_use]
pub fn read(
    location: &Location,
    stream: &Stream,
    index: IndexFile,
    selection: Selection,
    cancel: CancellationToken,
) -> PlainReader {
    start(location, stream, index, selection, cancel, Damage::Ends)
}

/// As [`read`], with zeros in the place of chunks that are missing or differ from what was stored: [`PlainReader::take_lost`] names them.
#[must_use]
pub fn read_past_damage(
    location: &Location,
    stream: &Stream,
    index: IndexFile,
    selection: Selection,
    cancel: CancellationToken,
) -> PlainReader {
    start(location, stream, index, selection, cancel, Damage::Zeros)
}

fn start(
    location: &Location,
    stream: &Stream,
    index: IndexFile,
    selection: Selection,
    cancel: CancellationToken,
    damage: Damage,
) -> PlainReader {
    let (sender, plain) = mpsc::channel(1);
    let (location, stream) = (location.clone(), Arc::new(stream.clone()));
    let drive = async move {
        let failed = |error| Error::Local { action: "start threads", error };
        let pool = location.process.pool().map_err(failed)?;
        let requests = Arc::new(Semaphore::new(requests(&location).clamp(1, MAX_REQUESTS)));
        let headers = Arc::default();
        Driver { location, pool, stream, requests, headers, damage }.run(index, selection, sender).await
    };
    let driver = Some(Task(tokio::spawn(drive)));
    PlainReader { plain, driver, cancel, lost: Vec::new() }
}

impl PlainReader {
    /// The next bytes, never empty; `None` after the last, when the end of the index has been checked too. Dropping the
    /// future loses nothing.
    ///
    /// The caller may keep at most one returned slice while asking for the next.
    ///
    /// # Errors
    /// At the first object that cannot be fetched or does not pass its check. `None` follows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let next = tokio::select! {
            biased;
            () = self.cancel.cancelled(), if self.driver.is_some() => {
                self.driver = None;
                // Drops the channel with the slices in it, so that nothing follows the error.
                self.plain = mpsc::channel(1).1;
                return Err(Error::Cancelled);
            }
            next = self.plain.recv() => next,
        };
        if next.is_none()
            && let Some(driver) = self.driver.take()
        {
            driver.join().await?;
        }
        Ok(next.map(|Slice { bytes, lost }| {
            self.lost.extend(lost);
            bytes
        }))
    }

    /// The chunks that zeros were given for, in stream order, each once. All that concern returned bytes are there, and maybe some of the
    /// next few megabytes.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }
}

/// Two for each of so many requests, and the consumer's.
const fn buffers(requests: usize) -> usize {
    2 * requests + 1
}

/// The number of concurrent requests, and the bytes that they need.
fn plan_memory(budget: u64, concurrency: usize) -> (usize, u64) {
    let share = (budget / 4 * 3).saturating_sub(STORED as u64) / (2 * STORED) as u64;
    let most = concurrency.clamp(1, MAX_REQUESTS);
    let requests = usize::try_from(share).map_or(most, |share| share.clamp(1, most));
    (requests, (buffers(requests) * STORED) as u64)
}

#[derive(Debug, Clone)]
struct Driver {
    location: Location,
    pool: Arc<rayon::ThreadPool>,
    stream: Arc<Stream>,
    /// Limits concurrent requests: a group may need several.
    requests: Arc<Semaphore>,
    /// Of encrypted objects.
    headers: Arc<Headers>,
    damage: Damage,
}

/// A group with its buffers for stored and plain bytes, either of which has room for both.
type Filling = (Group, Buffer, Buffer);

/// Why a group could not be read, and the positions of the failed chunks, if it concerns only some.
type Unread = (Option<Range<u64>>, Error);

fn failed(group: &Group, (positions, error): Unread) -> Error {
    let positions = positions.unwrap_or_else(|| group.positions.clone());
    Error::Fetch { positions, error: Box::new(error) }
}

impl Driver {
    async fn run(self, index: IndexFile, selection: Selection, sender: mpsc::Sender<Slice>) -> Result<(), Error> {
        let budget = &self.location.process.budget;
        let (requests, bytes) = plan_memory(budget.total(), requests(&self.location));
        let reservation = Arc::new(budget.reserve(bytes).await?);
        let buffers = OwnBuffers::new(budget.clone(), reservation, buffers(requests), STORED);
        let (group_sender, groups) = mpsc::channel(requests);
        let stream = Arc::clone(&self.stream);
        let planner = tokio::task::spawn_blocking(move || plan::run(&index, &stream, selection, &group_sender));
        let ready = stream::unfold((groups, buffers), |(mut groups, buffers)| async move {
            let filling = (groups.recv().await?, buffers.get().await, buffers.get().await);
            Some((filling, (groups, buffers)))
        });
        // Separate tasks, so that they run on while the consumer is busy.
        let fetched = ready.map(|filling| Task(tokio::spawn(self.clone().fetch(filling))).join()).buffered(requests);
        let mut fetched = std::pin::pin!(fetched);
        while let Some(group) = fetched.next().await {
            let (group, plain, mut lost) = group?;
            for span in group.spans {
                let slice = Slice { bytes: plain.slice(span), lost: std::mem::take(&mut lost) };
                if sender.send(slice).await.is_err() {
                    return Ok(());
                }
            }
        }
        planner.await.map_err(|_| Error::Stopped)?
    }

    async fn fetch(self, filling: Filling) -> Result<(Group, Bytes, Vec<Lost>), Error> {
        let in_place = filling.0.in_place();
        let ((group, mut stored, plain), filled) = self.fill(filling, in_place.is_some()).await?;
        match (filled, in_place) {
            (Ok(()), None) => Ok((group, plain.freeze(), Vec::new())),
            (Ok(()), Some(range)) => {
                stored.commit(range.end);
                Ok((group, stored.freeze().slice(range), Vec::new()))
            }
            (Err((_, error)), _) if self.damage == Damage::Zeros && is_damage(&error) => {
                self.fetch_apart(group, stored, plain, error).await
            }
            (Err(unread), _) => Err(failed(&group, unread)),
        }
    }

    /// Fetches the chunks of a damaged group one by one, with zeros for those that are damaged.
    async fn fetch_apart(
        &self,
        group: Group,
        mut stored: Buffer,
        mut plain: Buffer,
        error: Error,
    ) -> Result<(Group, Bytes, Vec<Lost>), Error> {
        let mut lost = Vec::new();
        // The only chunk was asked for already.
        let mut known = (group.pieces.len() == 1).then_some(error);
        for piece in &group.pieces {
            let filled;
            if let Some(error) = known.take() {
                filled = Err((None, error));
            } else {
                let alone = group.alone(piece);
                ((_, stored, plain), filled) = self.fill((alone, stored, plain), false).await?;
            }
            let length = piece.chunk.plain_len as usize;
            match filled {
                Ok(()) => {}
                Err((_, error)) if is_damage(&error) => {
                    plain.spare(length).fill(0);
                    plain.commit(length);
                    lost.push(Lost {
                        positions: piece.position..piece.position + length as u64,
                        object: piece.chunk.object,
                        offset: piece.chunk.offset,
                        class: error.class(),
                        reason: error.to_string(),
                    });
                }
                Err(unread) => return Err(failed(&group, unread)),
            }
        }
        Ok((group, plain.freeze(), lost))
    }

    /// Appends the group's plain bytes to the buffer for them, if all can be read; or leaves them `in_place`.
    async fn fill(
        &self,
        (mut group, mut stored, mut plain): Filling,
        in_place: bool,
    ) -> Result<(Filling, Result<(), Unread>), Error> {
        let for_plain = if in_place { None } else { Some(group.plain) };
        let mut spoilt = false;
        loop {
            let (positions, error) = match self.get(&group.extents, stored.spare(group.stored())).await {
                Ok(parts) => {
                    let opened;
                    (group, stored, plain, opened) = self.open((group, stored, plain), parts, for_plain).await?;
                    match opened {
                        Ok(()) => {
                            plain.commit(for_plain.unwrap_or(0));
                            return Ok(((group, stored, plain), Ok(())));
                        }
                        Err(bad) => self.refused(&group, &bad),
                    }
                }
                Err((extent, error)) => (group.first_of(extent), error),
            };
            // The store repeats failed requests; bytes that fail their check are fetched once more here.
            if spoilt || !is_spoilt(&error) {
                return Ok(((group, stored, plain), Err((positions, error))));
            }
            spoilt = true;
            tracing::debug!(%error, "could not fetch a group of chunks: fetching it once more");
            self.location.once_more(error.class()).await;
        }
    }

    /// Fills `into` with the extents, each in its room, one behind the other. Returns what decrypts each, if it is encrypted. An error comes
    /// with the number of the failed extent.
    async fn get(&self, extents: &[Extent], mut into: &mut [u8]) -> Result<Vec<Option<Part>>, (usize, Error)> {
        let mut requests = Vec::with_capacity(extents.len());
        for (number, extent) in extents.iter().enumerate() {
            let part;
            (part, into) = into.split_at_mut(extent.room());
            let request = self.get_extent(extent, part);
            requests.push(async move { request.await.map_err(|error| (number, error)) });
        }
        try_join_all(requests).await
    }

    async fn get_extent(&self, extent: &Extent, into: &mut [u8]) -> Result<Option<Part>, Error> {
        let number = extent.object;
        let object = self.stream.objects.get(number as usize).ok_or(Error::NoObject(number))?;
        let _permit = self.requests.acquire().await.map_err(|_| Error::Stopped)?;
        let store = &*self.location.store;
        match extent.form {
            Form::Plain => get_into(store, &object.key, extent.bytes.start, into).await.map(|()| None),
            Form::Sealed => {
                let part = self.headers.part(&self.location, (number, object), extent.bytes.clone()).await?;
                get_into(store, &object.key, part.fetch.start, &mut into[..part.length()]).await?;
                Ok(Some(part))
            }
        }
    }

    fn refused(&self, group: &Group, bad: &Bad) -> (Option<Range<u64>>, Error) {
        let (number, positions) = match bad {
            Bad::Piece { piece, .. } => {
                (piece.chunk.object, Some(piece.position..piece.position + u64::from(piece.chunk.plain_len)))
            }
            Bad::Extent { extent, .. } => (group.extents[*extent].object, group.first_of(*extent)),
        };
        // The header may be what was spoilt: of its nonce, only the payload says so.
        self.headers.forget(number);
        let Some(object) = self.stream.objects.get(number as usize) else { return (None, Error::NoObject(number)) };
        let key = object.key.clone();
        let error = match bad {
            Bad::Piece { piece, reason } => Error::Chunk { key, offset: piece.chunk.offset, reason: reason.clone() },
            Bad::Extent { error, .. } => Error::Payload { key, error: *error },
        };
        (positions, error)
    }

    /// Decrypts, decompresses and checks a group on the pool. Without room `for_plain` bytes, they stay where they are.
    async fn open(
        &self,
        (group, mut stored, mut plain): Filling,
        parts: Vec<Option<Part>>,
        for_plain: Option<usize>,
    ) -> Result<(Group, Buffer, Buffer, Result<(), Bad>), Error> {
        let (sender, opened) = oneshot::channel();
        self.pool.spawn(move || {
            let room = for_plain.map(|length| plain.spare(length));
            let result = open_group(&group, &parts, stored.spare(group.stored()), room);
            // Fails only if nobody waits for the result any more.
            let _ = sender.send((group, stored, plain, result));
        });
        opened.await.map_err(|_| Error::Stopped)
    }
}

/// What fails its check: a chunk, or an encrypted extent, by its number.
enum Bad {
    Piece { piece: Piece, reason: String },
    Extent { extent: usize, error: PayloadError },
}

/// Whether fetching the same once more may help.
fn is_spoilt(error: &Error) -> bool {
    use Error::{Body, Chunk, Header, Object, Payload};
    matches!(error, Object { .. } | Body { .. } | Chunk { .. } | Header { .. } | Payload { .. })
}

/// Whether the object is at fault, so that its other chunks, and other objects, may be whole.
fn is_damage(error: &Error) -> bool {
    matches!(error.class(), Class::Integrity | Class::NotFound)
}

/// Without `plain`, the bytes stay where they are.
fn open_group(
    group: &Group,
    parts: &[Option<Part>],
    stored: &mut [u8],
    mut plain: Option<&mut [u8]>,
) -> Result<(), Bad> {
    let mut at = 0;
    for (number, (extent, part)) in group.extents.iter().zip(parts).enumerate() {
        if let Some(part) = part {
            let opened = part.of.open_in_place(&part.payload, &mut stored[at..at + part.length()]);
            opened.map_err(|error| Bad::Extent { extent: number, error })?;
        }
        at += extent.room();
    }
    let bad = |piece: &Piece, error: FrameError| Bad::Piece { piece: piece.clone(), reason: error.to_string() };
    let mut decoded: Vec<(&Chunk, &[u8])> = Vec::with_capacity(group.pieces.len());
    for piece in &group.pieces {
        let from = &stored[piece.start..piece.start + piece.chunk.stored_len as usize];
        let Some(room) = plain.take() else {
            decoded.push((&piece.chunk, from));
            continue;
        };
        let (into, rest) = room.split_at_mut(piece.chunk.plain_len as usize);
        plain = Some(rest);
        Codec::decode(&piece.chunk, from, into).map_err(|error| bad(piece, error))?;
        decoded.push((&piece.chunk, into));
    }
    codec::check(decoded.iter().copied()).map_err(|(number, error)| bad(&group.pieces[number], error))
}

#[cfg(test)]
mod tests;
