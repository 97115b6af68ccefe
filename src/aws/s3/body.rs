//! A body on its way: in slices, at the pace of `limits.bandwidth`, and watched.
//!
//! The SDK takes an in-memory body as sent at once, so neither its stall protection nor anybody else sees how far it is. Slices
//! show it: hyper asks for the next when the connection has room. From that comes the rule that ends a part that hangs —
//! [`STALLED`] without a slice, or [`UNANSWERED`] after the last — however long the part as a whole may take: a slow
//! line is not a broken one.
//!
//! A request that is given up gives its bytes back at once ([`Lent`]). hyper does not: it keeps the connection, the body and the slices
//! it has taken until a peer that no longer reads has read them. So a slice is part of one piece of the payload; what such a peer can hold
//! on to is the pieces of the half megabyte that hyper takes ahead (docs/decisions/0013).

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::limits::{Bandwidth, LARGEST_SLICE};
use crate::store::Payload;

/// A slice of 64 KiB in 30 s is 2 kB/s.
const STALLED: Duration = Duration::from_secs(30);

/// What the kernel still holds of a body that hyper has handed over (4 MiB at most on Linux) must go out in this time too.
const UNANSWERED: Duration = Duration::from_secs(120);

/// How often the watch looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far a body is. Counts up with each slice, each wait for bandwidth and each attempt.
#[derive(Debug, Default)]
pub(super) struct Progress {
    steps: AtomicU64,
    left: AtomicU64,
}

impl Progress {
    fn step(&self, left: usize) {
        self.left.store(left as u64, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the body has stalled, with words for it.
    pub(super) async fn stalled(&self) -> String {
        let mut watch = Watch { steps: 0, since: Instant::now() };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (steps, left) = (self.steps.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed));
            if let Some(limit) = watch.look(steps, left, Instant::now()) {
                let seconds = limit.as_secs();
                return match left {
                    0 => format!("the body was sent, and no answer came within {seconds} s"),
                    left => format!("the connection took no byte for {seconds} s, {left} bytes before the body's end"),
                };
            }
        }
    }
}

/// The minimum-progress rule.
struct Watch {
    steps: u64,
    since: Instant,
}

impl Watch {
    /// The limit that was passed, if one was.
    fn look(&mut self, steps: u64, left: u64, now: Instant) -> Option<Duration> {
        if steps != self.steps {
            *self = Self { steps, since: now };
            return None;
        }
        let limit = if left == 0 { UNANSWERED } else { STALLED };
        (now.duration_since(self.since) >= limit).then_some(limit)
    }
}

/// The bytes of a request that is being made; whoever makes it holds this. Dropped, no attempt has them any longer.
#[derive(Debug)]
pub(super) struct Lent(Arc<Mutex<Arc<[Bytes]>>>);

impl Drop for Lent {
    fn drop(&mut self) {
        std::mem::take(&mut *lock(&self.0));
    }
}

/// Nothing that can panic runs under it.
fn lock(data: &Mutex<Arc<[Bytes]>>) -> MutexGuard<'_, Arc<[Bytes]>> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The request was given up.
#[derive(Debug, thiserror::Error)]
#[error("the request was given up")]
struct GivenUp;

/// One attempt's body.
#[derive(Debug)]
struct Outgoing {
    pieces: Arc<Mutex<Arc<[Bytes]>>>,
    /// The piece that the next slice is of, and how much of that was sent.
    piece: usize,
    at: usize,
    left: usize,
    bandwidth: Option<Bandwidth>,
    /// A slice whose time has not come.
    turn: Option<(Bytes, Pin<Box<Sleep>>)>,
    progress: Arc<Progress>,
}

/// `payload` as a request's body, for as long as what is returned beside it.
pub(super) fn lend(payload: &Payload, bandwidth: Option<&Bandwidth>, progress: &Arc<Progress>) -> (ByteStream, Lent) {
    let (bandwidth, progress) = (bandwidth.cloned(), Arc::clone(progress));
    let length = payload.pieces.iter().map(Bytes::len).sum();
    let pieces = Arc::new(Mutex::new(Arc::clone(&payload.pieces)));
    let lent = Lent(Arc::clone(&pieces));
    let body = SdkBody::retryable(move || {
        progress.step(length);
        let (pieces, bandwidth, progress) = (Arc::clone(&pieces), bandwidth.clone(), Arc::clone(&progress));
        SdkBody::from_body_1_x(Outgoing { pieces, piece: 0, at: 0, left: length, bandwidth, turn: None, progress })
    });
    (ByteStream::new(body), lent)
}

impl Outgoing {
    /// The next of the payload, `most` bytes at most; `None` once the request was given up.
    fn take(&mut self, most: usize) -> Option<Bytes> {
        let pieces = lock(&self.pieces);
        loop {
            let piece = pieces.get(self.piece)?;
            if self.at < piece.len() {
                let start = self.at;
                self.at = piece.len().min(start + most);
                return Some(piece.slice(start..self.at));
            }
            (self.piece, self.at) = (self.piece + 1, 0);
        }
    }

    /// The next slice, once it may be sent.
    fn poll_slice(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let (slice, mut turn) = match (self.turn.take(), self.bandwidth.clone()) {
            (Some(waiting), _) => waiting,
            (None, None) => return Poll::Ready(self.take(LARGEST_SLICE)),
            (None, Some(bandwidth)) => {
                let Some(slice) = self.take(bandwidth.slice()) else { return Poll::Ready(None) };
                let wait = bandwidth.take(slice.len(), Instant::now());
                (slice, Box::pin(tokio::time::sleep(wait)))
            }
        };
        if turn.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(slice));
        }
        // Our own wait, not the connection's.
        self.progress.step(self.left);
        self.turn = Some((slice, turn));
        Poll::Pending
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Some(slice) = ready!(self.poll_slice(context)) else { return Poll::Ready(Some(Err(GivenUp))) };
        self.left -= slice.len();
        self.progress.step(self.left);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_move_is_cut() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch { steps: 0, since: start };
        // A slice every 29 s, for an hour.
        for n in 1..=124 {
            assert_eq!(watch.look(n, 1, at(29 * n)), None);
            assert_eq!(watch.look(n, 1, at(29 * n + 28)), None);
        }
        let last = 29 * 124;
        assert_eq!(watch.look(124, 1, at(last + 30)), Some(STALLED));
        assert_eq!(watch.look(124, 0, at(last + 119)), None, "the answer has its own limit");
        assert_eq!(watch.look(124, 0, at(last + 120)), Some(UNANSWERED));
    }

    #[tokio::test]
    async fn slices_are_the_bytes() {
        use futures_util::future::poll_fn;

        let data: Bytes = (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into();
        let pieces = [data.slice(..100_000), Bytes::new(), data.slice(100_000..100_001), data.slice(100_001..)];
        let payload = Payload { pieces: Arc::new(pieces), checksum: None };
        for bandwidth in [None, Some(Bandwidth::new(1 << 40))] {
            let progress = Arc::default();
            let (body, _lent) = lend(&payload, bandwidth.as_ref(), &progress);
            let mut body = body.into_inner();
            let mut seen = Vec::new();
            assert_eq!(Body::size_hint(&body).exact(), Some(400_000));
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                let slice = frame.unwrap().into_data().unwrap();
                assert!(slice.len() <= LARGEST_SLICE);
                seen.extend_from_slice(&slice);
            }
            assert!(seen == data && Body::is_end_stream(&body));
            assert_eq!(progress.left.load(Ordering::Relaxed), 0);
        }
    }

    #[tokio::test]
    async fn a_slice_waits_for_its_turn_on_the_line() {
        let payload = Payload { pieces: Arc::new([Bytes::from(vec![7; 100_000])]), checksum: None };
        let (body, _lent) = lend(&payload, Some(&Bandwidth::new(1000)), &Arc::default());
        let mut body = body.into_inner();
        let first = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        // It takes the line for four seconds.
        assert_eq!(first.unwrap().unwrap().into_data().unwrap().len(), 4096);
        let mut context = Context::from_waker(futures_util::task::noop_waker_ref());
        assert!(Pin::new(&mut body).poll_frame(&mut context).is_pending());
    }

    #[tokio::test]
    async fn what_is_given_up_is_given_back() {
        use futures_util::future::poll_fn;

        let pieces: [_; 3] = std::array::from_fn(|_| Bytes::from(vec![7; LARGEST_SLICE]));
        let payload = Payload { pieces: Arc::new(pieces.clone()), checksum: None };
        let (body, lent) = lend(&payload, None, &Arc::default());
        let mut body = body.into_inner();
        let next = async |body: &mut SdkBody| poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        let first = next(&mut body).await.unwrap().unwrap().into_data().unwrap();
        drop((lent, payload));
        let given_back = pieces.map(|piece| piece.is_unique());
        assert_eq!(given_back, [false, true, true], "all but the slice that is on its way");
        assert_eq!(first.len(), LARGEST_SLICE);
        assert!(next(&mut body).await.unwrap().is_err());
    }
}
