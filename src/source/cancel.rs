//! A cancellation that `poll` can wait for, as a descriptor.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(super) struct Cancel {
    token: CancellationToken,
    event: Arc<Event>,
    /// A descriptor that never becomes readable; set by [`Cancel::silence`].
    silent: Option<OwnedFd>,
    /// Keeps the waker registered.
    _waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("token", &self.token).finish_non_exhaustive()
    }
}

struct Event(OwnedFd);

impl Wake for Event {
    fn wake(self: Arc<Self>) {
        // Fails only if the counter is full, and then the descriptor is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

fn new_event() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

impl Cancel {
    pub(super) fn new(token: CancellationToken) -> Result<Self, Errno> {
        let event = Arc::new(Event(new_event()?));
        let mut waiting = Box::pin(token.clone().cancelled_owned());
        let waker = Waker::from(Arc::clone(&event));
        if Future::poll(waiting.as_mut(), &mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
        Ok(Self { token, event, silent: None, _waiting: waiting })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(super) fn event(&self) -> &OwnedFd {
        self.silent.as_ref().unwrap_or(&self.event.0)
    }

    /// Makes `poll` ignore the cancellation from now on.
    pub(super) fn silence(&mut self) {
        self.silent = new_event().ok();
    }
}
