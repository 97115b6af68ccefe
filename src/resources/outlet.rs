//! Passes members from the lister to the thread that writes the archive, with a limit on the bytes in between.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The size of a member besides its bytes: path and place.
const MOST_MEMBERS: usize = 256;

/// One file of the archive. Its content is never shown: it may be a Secret.
pub struct Member {
    pub path: String,
    pub bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("path", &self.path).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// The lister's end.
#[derive(Debug)]
pub struct Outlet {
    sender: mpsc::Sender<Member>,
    budget: Arc<Semaphore>,
    whole: u32,
}

/// The writer's end: members in order.
#[derive(Debug)]
pub struct Members {
    receiver: mpsc::Receiver<Member>,
}

/// The writer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// At most `bytes` of members wait in between, or one larger member.
#[must_use]
pub fn channel(bytes: u32) -> (Outlet, Members) {
    let (sender, receiver) = mpsc::channel(MOST_MEMBERS);
    let whole = bytes.max(1);
    (Outlet { sender, budget: Arc::new(Semaphore::new(whole as usize)), whole }, Members { receiver })
}

impl Outlet {
    /// Waits until enough of the budget is free.
    ///
    /// # Errors
    /// When the writer has ended.
    pub async fn put(&self, path: String, bytes: Bytes) -> Result<(), Closed> {
        let needed = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(self.whole);
        // The semaphore is never closed; a writer that ends while this waits releases what its members had.
        let permit = self.budget.clone().acquire_many_owned(needed).await.ok();
        self.sender.send(Member { path, bytes, _permit: permit }).await.map_err(|_| Closed)
    }
}

impl Members {
    /// For a thread that may block; `None` when the lister has ended.
    pub fn next_blocking(&mut self) -> Option<Member> {
        self.receiver.blocking_recv()
    }

    pub async fn next(&mut self) -> Option<Member> {
        self.receiver.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_bytes_wait_than_allowed() {
        let (outlet, mut members) = channel(1000);
        outlet.put("a".into(), Bytes::from(vec![0; 600])).await.unwrap();
        let second = outlet.put("b".into(), Bytes::from(vec![0; 600]));
        tokio::pin!(second);
        let waits = futures_util::future::poll_immediate(second.as_mut()).await;
        assert!(waits.is_none());
        assert_eq!(members.next().await.unwrap().path, "a");
        second.await.unwrap();
        assert_eq!(members.next().await.unwrap().path, "b");
        // A member larger than the budget passes alone.
        outlet.put("c".into(), Bytes::from(vec![0; 5000])).await.unwrap();
        assert_eq!(members.next().await.unwrap().bytes.len(), 5000);
        drop(members);
        assert_eq!(outlet.put("d".into(), Bytes::new()).await, Err(Closed));
    }
}
