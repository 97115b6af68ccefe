//! A stream's plain bytes, in order, on bounded memory.
//!
//! Memory: for each of `n` requests at a time a buffer for what is fetched and one for what it decompresses to, and one
//! more of the latter, which the consumer may hold while it asks for the next: about 16 MiB × `n` + 8 MiB. `n` is what
//! fits into three quarters of the budget, so that something is left for others, but at least 1 and at most
//! [`MAX_REQUESTS`] and the location's own bound. All of it is reserved before anything is read.
//!
//! A group takes its buffers in stream order, before its request is sent: the group whose turn it is always has
//! its own, so groups cannot wait for each other.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::index::IndexFile;
use super::plan::{self, Extent, Group, PLAIN, Piece, STORED};
use super::{Error, Selection, get_into, requests};
use crate::budget::{Buffer, OwnBuffers};
use crate::error::Classify as _;
use crate::format::codec::Codec;
use crate::format::index::Chunk;
use crate::format::manifest::Stream;
use crate::location::Location;

/// More requests at a time than this do not help one stream.
const MAX_REQUESTS: usize = 8;

/// A task that ends when its owner goes.
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
    plain: mpsc::Receiver<Bytes>,
    driver: Option<Task<Result<(), Error>>>,
    cancel: CancellationToken,
}

/// Starts reading what `selection` says of `stream`. Must be called within a tokio runtime; every failure comes out of
/// the reader.
#[must_use]
pub fn read(
    location: &Location,
    stream: &Stream,
    index: IndexFile,
    selection: Selection,
    cancel: CancellationToken,
) -> PlainReader {
    let (sender, plain) = mpsc::channel(1);
    let (location, stream) = (location.clone(), Arc::new(stream.clone()));
    let drive = async move {
        let failed = |error| Error::Local { action: "starting threads", error };
        let pool = location.process.pool().map_err(failed)?;
        let requests = Arc::new(Semaphore::new(requests(&location).clamp(1, MAX_REQUESTS)));
        Driver { location, pool, stream, requests }.run(index, selection, sender).await
    };
    let driver = Some(Task(tokio::spawn(drive)));
    PlainReader { plain, driver, cancel }
}

impl PlainReader {
    /// The next bytes, never empty; `None` after the last, when the index's end too has been checked. Dropping the
    /// future loses nothing.
    ///
    /// At most one of the returned slices may be held while asking for the next.
    ///
    /// # Errors
    /// At the first thing that cannot be fetched or is not what it should be. `None` follows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let next = tokio::select! {
            biased;
            () = self.cancel.cancelled(), if self.driver.is_some() => {
                self.driver = None;
                // With what it may still hold, so that nothing comes after the error.
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
        Ok(next)
    }
}

/// Requests at a time, and the bytes that so many need.
fn plan_memory(budget: u64, concurrency: usize) -> (usize, u64) {
    let share = (budget / 4 * 3).saturating_sub(PLAIN as u64) / (STORED + PLAIN) as u64;
    let most = concurrency.clamp(1, MAX_REQUESTS);
    let requests = usize::try_from(share).map_or(most, |share| share.clamp(1, most));
    (requests, (requests * (STORED + PLAIN) + PLAIN) as u64)
}

#[derive(Debug, Clone)]
struct Driver {
    location: Location,
    /// Where chunks are decompressed and checked.
    pool: Arc<rayon::ThreadPool>,
    stream: Arc<Stream>,
    /// Requests at a time: a group may need several.
    requests: Arc<Semaphore>,
}

impl Driver {
    async fn run(self, index: IndexFile, selection: Selection, sender: mpsc::Sender<Bytes>) -> Result<(), Error> {
        let budget = &self.location.process.budget;
        let (requests, bytes) = plan_memory(budget.total(), requests(&self.location));
        let reservation = Arc::new(budget.reserve(bytes).await?);
        let stored = OwnBuffers::new(budget.clone(), Arc::clone(&reservation), requests, STORED);
        let plain = OwnBuffers::new(budget.clone(), reservation, requests + 1, PLAIN);
        let (group_sender, groups) = mpsc::channel(requests);
        let stream = Arc::clone(&self.stream);
        let planner = tokio::task::spawn_blocking(move || plan::run(&index, &stream, selection, &group_sender));
        let ready = stream::unfold((groups, stored, plain), |(mut groups, stored, plain)| async move {
            let group = groups.recv().await?;
            let buffers = (stored.get().await, plain.get().await);
            Some(((group, buffers), (groups, stored, plain)))
        });
        // Tasks of their own: they go on while the consumer is busy.
        let fetched = ready
            .map(|(group, buffers)| Task(tokio::spawn(self.clone().fetch(group, buffers))).join())
            .buffered(requests);
        let mut fetched = std::pin::pin!(fetched);
        while let Some(group) = fetched.next().await {
            let (group, plain) = group?;
            for span in group.spans {
                if sender.send(plain.slice(span)).await.is_err() {
                    return Ok(());
                }
            }
        }
        planner.await.map_err(|_| Error::Stopped)?
    }

    async fn fetch(self, group: Group, buffers: (Buffer, Buffer)) -> Result<(Group, Bytes), Error> {
        let all = group.positions.clone();
        let fetched = self.fetch_checked(group, buffers).await;
        fetched
            .map_err(|(positions, error)| Error::Fetch { positions: positions.unwrap_or(all), error: Box::new(error) })
    }

    /// An error comes with the positions of the chunks at fault, where it is some.
    async fn fetch_checked(
        &self,
        mut group: Group,
        (mut stored, mut plain): (Buffer, Buffer),
    ) -> Result<(Group, Bytes), (Option<Range<u64>>, Error)> {
        let mut spoilt = false;
        loop {
            let (positions, error) = match self.get(&group.extents, stored.spare(group.stored())).await {
                Ok(()) => {
                    let opened;
                    (group, stored, plain, opened) =
                        self.open(group, stored, plain).await.map_err(|error| (None, error))?;
                    match opened {
                        Ok(()) => {
                            plain.commit(group.plain);
                            return Ok((group, plain.freeze()));
                        }
                        Err(bad) => self.refused(&bad),
                    }
                }
                Err((extent, error)) => (group.first_of(extent), error),
            };
            // The store makes failed requests again; what came and is not what was stored is asked for once more here.
            if spoilt || !matches!(error, Error::Object { .. } | Error::Body { .. } | Error::Chunk { .. }) {
                return Err((positions, error));
            }
            spoilt = true;
            tracing::debug!(%error, "fetching the group again");
            self.location.endpoint.once_more("s3", error.class()).await;
        }
    }

    /// Fills `into` with the extents, one behind the other. An error comes with the number of the extent at fault.
    async fn get(&self, extents: &[Extent], mut into: &mut [u8]) -> Result<(), (usize, Error)> {
        let mut requests = Vec::with_capacity(extents.len());
        for (number, extent) in extents.iter().enumerate() {
            let part;
            (part, into) = into.split_at_mut(extent.length);
            let request = self.get_extent(extent, part);
            requests.push(async move { request.await.map_err(|error| (number, error)) });
        }
        try_join_all(requests).await.map(drop)
    }

    async fn get_extent(&self, extent: &Extent, into: &mut [u8]) -> Result<(), Error> {
        let object = self.stream.objects.get(extent.object as usize).ok_or(Error::NoObject(extent.object))?;
        let _permit = self.requests.acquire().await.map_err(|_| Error::Stopped)?;
        get_into(&*self.location.store, &object.key, extent.offset, into).await
    }

    fn refused(&self, Bad { piece, reason }: &Bad) -> (Option<Range<u64>>, Error) {
        let Chunk { object, offset, plain_len, .. } = piece.chunk;
        let positions = piece.position..piece.position + u64::from(plain_len);
        let Some(object) = self.stream.objects.get(object as usize) else { return (None, Error::NoObject(object)) };
        (Some(positions), Error::Chunk { key: object.key.clone(), offset, reason: reason.clone() })
    }

    /// Decompresses and checks on the pool.
    async fn open(
        &self,
        group: Group,
        mut stored: Buffer,
        mut plain: Buffer,
    ) -> Result<(Group, Buffer, Buffer, Result<(), Bad>), Error> {
        let (sender, opened) = oneshot::channel();
        self.pool.spawn(move || {
            let result = open_group(&group, stored.spare(group.stored()), plain.spare(group.plain));
            // An error is only that nobody waits any more.
            let _ = sender.send((group, stored, plain, result));
        });
        opened.await.map_err(|_| Error::Stopped)
    }
}

/// A chunk that is not what its name says.
struct Bad {
    piece: Piece,
    reason: String,
}

/// Fills `plain`.
fn open_group(group: &Group, stored: &[u8], mut plain: &mut [u8]) -> Result<(), Bad> {
    for piece in &group.pieces {
        let into;
        (into, plain) = plain.split_at_mut(piece.chunk.plain_len as usize);
        let from = &stored[piece.start..piece.start + piece.chunk.stored_len as usize];
        Codec::open(&piece.chunk, from, into)
            .map_err(|error| Bad { piece: piece.clone(), reason: error.to_string() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also when bytes are ready, or are sent by a driver that has not yet seen that it was aborted.
    #[tokio::test]
    async fn after_a_cancellation_comes_nothing_more() {
        let (sender, plain) = mpsc::channel(1);
        sender.send(Bytes::from_static(b"ready")).await.unwrap();
        let (driver, cancel) = (Some(Task(tokio::spawn(std::future::pending()))), CancellationToken::new());
        let mut reader = PlainReader { plain, driver, cancel: cancel.clone() };
        cancel.cancel();
        assert!(matches!(reader.next().await, Err(Error::Cancelled)));
        assert!(sender.is_closed() && reader.next().await.unwrap().is_none());
    }

    #[test]
    fn memory_is_bounded_by_budget_and_concurrency() {
        const MIB: u64 = 1 << 20;
        for (budget, concurrency, requests) in
            [(16, 8, 1), (40, 8, 1), (64, 8, 2), (256, 8, 8), (256, 3, 3), (4096, 64, 8), (256, 0, 1)]
        {
            let (found, bytes) = plan_memory(budget * MIB, concurrency);
            assert_eq!(found, requests, "{budget} MiB, {concurrency}");
            assert!(requests == 1 || bytes <= budget * MIB / 4 * 3);
        }
    }
}
