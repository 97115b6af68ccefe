//! A body on its way: in slices, at the pace of `limits.bandwidth`, and watched.
//!
//! The SDK takes an in-memory body as sent at once, so neither its stall protection nor anybody else sees how far it is. Slices
//! show it: hyper asks for the next when the connection has room. From that comes the rule that ends a part that hangs —
//! [`STALLED`] without a slice, or [`UNANSWERED`] after the last — however long the part as a whole may take: a slow
//! line is not a broken one. The bytes are not copied, and the same memory is sent again where the SDK tries again.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::limits::{Bandwidth, LARGEST_SLICE};

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

/// One attempt's body.
#[derive(Debug)]
pub(super) struct Outgoing {
    rest: Bytes,
    bandwidth: Option<Bandwidth>,
    /// A slice whose time has not come.
    turn: Option<(usize, Pin<Box<Sleep>>)>,
    progress: Arc<Progress>,
}

impl Outgoing {
    /// `data` as a request's body.
    pub(super) fn stream(data: &Bytes, bandwidth: Option<&Bandwidth>, progress: &Arc<Progress>) -> ByteStream {
        let (data, bandwidth, progress) = (data.clone(), bandwidth.cloned(), Arc::clone(progress));
        ByteStream::new(SdkBody::retryable(move || {
            progress.step(data.len());
            let (rest, bandwidth, progress) = (data.clone(), bandwidth.clone(), Arc::clone(&progress));
            SdkBody::from_body_1_x(Self { rest, bandwidth, turn: None, progress })
        }))
    }

    /// The length of the next slice, once it may be sent.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let Some(bandwidth) = &self.bandwidth else { return Poll::Ready(self.rest.len().min(LARGEST_SLICE)) };
        let (length, turn) = self.turn.get_or_insert_with(|| {
            let length = self.rest.len().min(bandwidth.slice());
            let wait = bandwidth.take(length, Instant::now());
            (length, Box::pin(tokio::time::sleep(wait)))
        });
        let length = *length;
        if turn.as_mut().poll(context).is_pending() {
            // Our own wait, not the connection's.
            self.progress.step(self.rest.len());
            return Poll::Pending;
        }
        self.turn = None;
        Poll::Ready(length)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = ready!(self.poll_turn(context));
        let slice = self.rest.split_to(length);
        self.progress.step(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
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
    async fn slices_are_the_bytes_and_keep_the_pace() {
        use futures_util::future::poll_fn;

        let data: Bytes = (0..100_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>().into();
        for bandwidth in [None, Some(Bandwidth::new(8_000_000))] {
            let started = Instant::now();
            let progress = Arc::new(Progress::default());
            let mut body = Outgoing { rest: data.clone(), bandwidth: bandwidth.clone(), turn: None, progress };
            let mut seen = Vec::new();
            assert_eq!(body.size_hint().exact(), Some(400_000));
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                let slice = frame.unwrap().into_data().unwrap();
                assert!(slice.len() <= LARGEST_SLICE);
                seen.extend_from_slice(&slice);
            }
            assert!(seen == data && body.is_end_stream());
            assert_eq!(body.progress.left.load(Ordering::Relaxed), 0);
            // 400,000 bytes at 8 MB/s, less what may go at once.
            assert!(bandwidth.is_none() || started.elapsed() >= Duration::from_millis(35));
        }
    }
}
