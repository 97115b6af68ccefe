//! A store whose client dies with its n-th request: from then on nothing is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use penstock::store::memory::{Fault, MemoryStore};
use tokio_util::sync::CancellationToken;

pub(crate) struct Dying {
    /// As its client has it.
    pub(crate) store: Arc<MemoryStore>,
    answered: Arc<AtomicU32>,
    dead: CancellationToken,
}

impl Dying {
    pub(crate) fn new(store: &MemoryStore, requests: u32) -> Self {
        let store = Arc::new(store.client());
        let (answered, dead) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let (count, died) = (Arc::clone(&answered), dead.clone());
        store.script(move |_, _, _| {
            if count.load(Ordering::Relaxed) == requests {
                died.cancel();
                return Some(Fault::Hang);
            }
            count.fetch_add(1, Ordering::Relaxed);
            None
        });
        Self { store, answered, dead }
    }

    /// Requests that were answered.
    pub(crate) fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Parts that were sent.
    pub(crate) fn parts(&self) -> usize {
        self.store.requests("UploadPart")
    }

    /// Waits for the end.
    pub(crate) async fn dead(&self) {
        self.dead.cancelled().await;
    }
}
