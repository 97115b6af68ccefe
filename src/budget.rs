//! The memory budget: the process takes every large buffer out of it before it allocates the buffer.
//!
//! A [`Budget`] has `limits.memory` bytes. A stream takes a [`Reservation`] when it starts, in one step: enough for its
//! pipeline and for one part. With that it can always finish: it takes more parts in flight only if their memory is free right now
//! ([`Budget::try_grant`]), and never waits for memory while it has some. So streams wait for each other only before they
//! have read anything, first come first served, and cannot deadlock.
//!
//! A [`Grant`] becomes a [`Buffer`], whose permit returns when the last reference to its bytes is dropped, or
//! [`Segments`](segments::Segments) for data that the HTTP client sends. A run keeps the memory of both for its next ones of the same size
//! ([`RunMemory`]) and does not return it to the system: that saves a page fault for every 4 KiB, and keeps the resident size flat. Kept
//! memory never exceeds the free part of the budget. It has what was read, so it is no other run's, and goes with the run.
//!
//! A request for more than the whole budget fails at once, with an error that names the setting.

pub mod segments;
pub mod stream;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes per permit: a semaphore takes at most 2^32 - 1 permits in one request.
const UNIT: u64 = 1024;

/// Cheap to clone; all clones, of all runs, are one budget.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<Inner>,
    /// Without a run no memory is kept.
    run: Option<u64>,
}

#[derive(Debug)]
struct Inner {
    total: u64,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Milliseconds that streams waited in [`Budget::reserve`].
    waited: AtomicU64,
}

/// Memory of dropped buffers, for the next ones of the same run and size.
#[derive(Debug, Default)]
struct Idle {
    memory: Vec<(u64, Vec<u8>)>,
    /// Those that have not ended.
    runs: BTreeSet<u64>,
    begun: u64,
}

/// What a run keeps of its dropped buffers, until this is dropped.
#[derive(Debug)]
pub struct RunMemory {
    budget: Budget,
    run: u64,
}

impl RunMemory {
    /// The budget, for this run's buffers. It may outlive the run, and keeps nothing then.
    #[must_use]
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }
}

impl Drop for RunMemory {
    fn drop(&mut self) {
        let mut idle = self.budget.idle();
        idle.runs.remove(&self.run);
        let ended: Vec<_> = idle.memory.extract_if(.., |(run, _)| *run == self.run).collect();
        drop(idle);
        // Zeroed meanwhile, which takes its time.
        drop(ended);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limits.memory is {total} bytes; the buffers need {wanted}")]
pub struct TooSmall {
    pub wanted: u64,
    pub total: u64,
}

impl Budget {
    #[must_use]
    pub fn new(total: u64) -> Self {
        let permits = usize::try_from(total / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            total,
            permits: Arc::new(Semaphore::new(permits)),
            idle: Mutex::default(),
            waited: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner), run: None }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.inner.total
    }

    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.inner.total.saturating_sub(self.inner.permits.available_permits() as u64 * UNIT)
    }

    /// The total time that streams have waited for memory.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.inner.waited.load(Ordering::Relaxed))
    }

    /// Waits until `bytes` are free, in turn with others that wait.
    ///
    /// # Errors
    /// At once when the whole budget is smaller than `bytes`.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation, TooSmall> {
        let too_small = TooSmall { wanted: bytes, total: self.inner.total };
        if bytes > self.inner.total {
            return Err(too_small);
        }
        let permits = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| too_small.clone())?;
        let started = tokio::time::Instant::now();
        let permit = Arc::clone(&self.inner.permits).acquire_many_owned(permits).await;
        let waited = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.inner.waited.fetch_add(waited, Ordering::Relaxed);
        self.trim();
        Ok(Reservation { permit: permit.map_err(|_| too_small)? })
    }

    /// Takes `capacity` bytes if that much is free right now.
    #[must_use]
    pub fn try_grant(&self, capacity: usize) -> Option<Grant> {
        let permits = u32::try_from((capacity as u64).div_ceil(UNIT)).ok()?;
        let permit = Arc::clone(&self.inner.permits).try_acquire_many_owned(permits).ok()?;
        Some(Grant { budget: self.clone(), capacity, _permit: Permit::Shared(permit) })
    }

    /// Idle memory of that capacity, with its old content, or new memory.
    fn memory(&self, capacity: usize) -> Vec<u8> {
        let idle = {
            let mut idle = self.idle();
            let fits = |(run, memory): &(u64, Vec<u8>)| Some(*run) == self.run && memory.capacity() == capacity;
            idle.memory.iter().rposition(fits).map(|index| idle.memory.swap_remove(index).1)
        };
        idle.unwrap_or_else(|| {
            self.trim();
            Vec::with_capacity(capacity)
        })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to keep a run's memory.
    #[must_use]
    pub fn begin_run(&self) -> RunMemory {
        let mut idle = self.idle();
        let run = idle.begun;
        idle.begun += 1;
        idle.runs.insert(run);
        RunMemory { budget: Self { run: Some(run), ..self.clone() }, run }
    }

    /// Takes the memory of a dropped buffer: keeps it, or returns it to the system.
    fn take_back(&self, memory: Vec<u8>) {
        let mut idle = self.idle();
        if let Some(run) = self.run.filter(|run| idle.runs.contains(run)) {
            idle.memory.push((run, memory));
        }
    }

    /// Returns idle memory to the system until the rest fits into the free part of the budget.
    fn trim(&self) {
        let mut idle = self.idle();
        let free = self.inner.permits.available_permits() as u64 * UNIT;
        let mut kept: u64 = idle.memory.iter().map(|(_, buffer)| buffer.capacity() as u64).sum();
        while kept > free {
            let Some((_, buffer)) = idle.memory.pop() else { break };
            kept -= buffer.capacity() as u64;
        }
    }
}

/// A part of the budget, taken until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// Splits off `bytes` of it, which then end on their own.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        let permits = usize::try_from(bytes.div_ceil(UNIT)).ok()?;
        self.permit.split(permits).map(|permit| Self { permit })
    }
}

/// Buffers of one stream that no other stream can take: `count` of `capacity` bytes, out of its reservation.
#[derive(Debug, Clone)]
pub struct OwnBuffers {
    budget: Budget,
    capacity: usize,
    slots: Arc<Semaphore>,
    /// Every buffer has a reference too: the reservation ends with the last of them.
    reservation: Arc<Reservation>,
}

impl OwnBuffers {
    /// `reservation` covers `count` × `capacity` bytes.
    #[must_use]
    pub fn new(budget: Budget, reservation: Arc<Reservation>, count: usize, capacity: usize) -> Self {
        Self { budget, capacity, slots: Arc::new(Semaphore::new(count)), reservation }
    }

    /// Waits until one of the own buffers is free.
    pub async fn get(&self) -> Buffer {
        self.grant().await.buffer()
    }

    /// Like [`OwnBuffers::get`], on a thread that may block.
    #[must_use]
    pub fn blocking_get(&self, runtime: &tokio::runtime::Handle) -> Buffer {
        runtime.block_on(self.get())
    }

    /// Waits for the memory of one of the own buffers.
    pub async fn grant(&self) -> Grant {
        self.with(Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// The memory of one of the own buffers, if it is free now.
    #[must_use]
    pub fn try_grant(&self) -> Option<Grant> {
        Arc::clone(&self.slots).try_acquire_owned().ok().map(|slot| self.with(slot))
    }

    fn with(&self, slot: OwnedSemaphorePermit) -> Grant {
        let permit = Permit::Own(slot, Arc::clone(&self.reservation));
        Grant { budget: self.budget.clone(), capacity: self.capacity, _permit: permit }
    }
}

#[derive(Debug)]
#[expect(dead_code, reason = "permits are held, not read")]
enum Permit {
    Shared(OwnedSemaphorePermit),
    Own(OwnedSemaphorePermit, Arc<Reservation>),
}

/// Bytes of the budget, taken until this is dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Budget,
    capacity: usize,
    _permit: Permit,
}

impl Grant {
    #[must_use]
    pub fn buffer(self) -> Buffer {
        Buffer { data: self.budget.memory(self.capacity), length: 0, grant: self }
    }
}

/// Memory with its permit. Never grows past its capacity.
///
/// Written memory stays initialised, so a used buffer need not be zeroed again.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<u8>,
    length: usize,
    grant: Grant,
}

impl Buffer {
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    #[must_use]
    pub fn room(&self) -> usize {
        self.data.capacity() - self.length
    }

    /// Appends as much of `bytes` as fits and returns how much that was.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let end = self.length + count;
        if end <= self.data.len() {
            self.data[self.length..end].copy_from_slice(&bytes[..count]);
        } else {
            self.data.truncate(self.length);
            self.data.extend_from_slice(&bytes[..count]);
        }
        self.length = end;
        count
    }

    /// The next `count` bytes of room (or all there is), to be written and then counted with [`Buffer::commit`].
    pub fn spare(&mut self, count: usize) -> &mut [u8] {
        let end = self.length + count.min(self.room());
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        &mut self.data[self.length..end]
    }

    /// Counts `count` bytes that were written into [`Buffer::spare`] as content.
    pub fn commit(&mut self, count: usize) {
        self.length = (self.length + count).min(self.data.len());
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.data[..self.length]
    }

    /// Makes the content shared, immutable and sliceable, with its permit.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The grant is dropped after this, so the idle memory is never more than the free budget.
        let data = std::mem::take(&mut self.data);
        self.grant.budget.take_back(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    #[tokio::test]
    async fn a_request_above_the_whole_budget_is_refused() {
        let budget = Budget::new(64 * KIB);
        assert_eq!(budget.reserve(65 * KIB).await.unwrap_err(), TooSmall { wanted: 65 * KIB, total: 64 * KIB });
    }

    #[tokio::test]
    async fn permits_travel_with_the_last_slice() {
        let budget = Budget::new(64 * KIB);
        let mut buffer = budget.try_grant(40 * 1024).unwrap().buffer();
        assert_eq!(buffer.fill(&vec![7; 50 * 1024]), 40 * 1024);
        assert!(budget.try_grant(40 * 1024).is_none());
        let bytes = buffer.freeze();
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.in_use(), 40 * KIB);
        drop(slice);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn a_reservation_ends_with_its_last_buffer() {
        let budget = Budget::new(64 * KIB);
        let reservation = Arc::new(budget.reserve(32 * KIB).await.unwrap());
        let own = OwnBuffers::new(budget.clone(), reservation, 2, 16 * 1024);
        let (a, b) = (own.get().await, own.get().await);
        assert!(own.try_grant().is_none());
        drop(a);
        assert!(own.try_grant().is_some());
        drop(own);
        assert_eq!(budget.in_use(), 32 * KIB);
        drop(b);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn idle_memory_is_returned_when_a_stream_needs_the_budget() {
        let process = Budget::new(64 * KIB);
        let run = process.begin_run();
        drop(run.budget().try_grant(48 * 1024).unwrap().buffer());
        assert_eq!(process.idle().memory.len(), 1);
        let _small = process.try_grant(32 * 1024).unwrap().buffer();
        assert_eq!(process.idle().memory.len(), 0);
    }

    /// A daemon holds nothing of what a run read when it has ended, whatever other runs there are, and also where a source's thread ends later.
    #[tokio::test]
    async fn memory_is_kept_for_the_run_that_used_it_and_no_longer_than_it() {
        let process = Budget::new(64 * KIB);
        let (one, other) = (process.begin_run(), process.begin_run());
        let buffer = |run: &RunMemory| {
            let mut buffer = run.budget().try_grant(16 * 1024).unwrap().buffer();
            let found = buffer.spare(1)[0];
            buffer.fill(&[7]);
            (found, buffer)
        };
        let ((_, early), (_, late)) = (buffer(&one), buffer(&one));
        let segments = one.budget().try_grant(16 * 1024).unwrap().segments();
        drop(early);
        assert_eq!((buffer(&other).0, buffer(&one).0), (0, 7), "each has its own");
        drop(one);
        assert_eq!(process.idle().memory.len(), 1, "of the other run");
        drop((late, segments));
        assert_eq!(process.idle().memory.len(), 1);
        drop(other);
        assert_eq!(process.idle().memory.len(), 0);
    }
}
