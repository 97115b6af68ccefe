//! The connections of a listener, which takes every caller at once.
//!
//! - **Bounded**: when every place is taken, the oldest connection loses its place to the newest. So connections that ask and do not
//!   read, or that never finish asking, keep nobody out: `/healthz` and `penstock status` are answered beside any number of them.
//! - **Failure**: a listener out of descriptors closes its oldest connection and goes on a second later.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Class;

/// Between two warnings that the places were all taken.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// After an accept that failed: descriptors come back as others end.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Callers {
    /// Whose places they are, for the log.
    name: &'static str,
    places: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// By age.
    taken: BTreeMap<u64, CancellationToken>,
    said: Option<Instant>,
}

impl Inside {
    fn close_oldest(&mut self) {
        if let Some((_, lost)) = self.taken.pop_first() {
            lost.cancel();
        }
    }
}

/// A connection's own, given back when dropped.
#[derive(Debug)]
pub(super) struct Caller {
    callers: Arc<Callers>,
    number: u64,
    lost: CancellationToken,
}

impl Caller {
    /// Returns when the place went to a newer connection: this one is to be closed.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.callers.lock().taken.remove(&self.number);
    }
}

impl Callers {
    pub(super) fn new(name: &'static str, places: usize) -> Arc<Self> {
        Arc::new(Self { name, places, inside: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(self: &Arc<Self>) -> Caller {
        let mut inside = self.lock();
        if inside.taken.len() >= self.places {
            inside.close_oldest();
            if inside.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                inside.said = Some(Instant::now());
                let places = self.places;
                tracing::warn!("{}: more than {places} connections at a time; the oldest are closed", self.name);
            }
        }
        let (number, lost) = (inside.next, CancellationToken::new());
        inside.next += 1;
        inside.taken.insert(number, lost.clone());
        Caller { callers: Arc::clone(self), number, lost }
    }

    /// Hands each connection that `accept` takes to `serve`, as a task of its own. Never returns.
    pub(super) async fn serve<S, F: Future<Output = ()> + Send + 'static>(
        self: Arc<Self>,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>,
        serve: impl Fn(S, Caller) -> F,
    ) {
        loop {
            match poll_fn(&mut accept).await {
                Ok(stream) => drop(tokio::spawn(serve(stream, self.enter()))),
                Err(error) => {
                    tracing::warn!(class = %Class::Local, "{} cannot take a connection: {error}", self.name);
                    self.lock().close_oldest();
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_way_for_the_newest() {
        let callers = Callers::new("the test", 3);
        let mut places: Vec<Caller> = (0..3).map(|_| callers.enter()).collect();
        let lost = |places: &[Caller]| places.iter().map(|place| place.lost.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(lost(&places), [false; 3]);
        // One that has ended frees its place.
        drop(places.remove(1));
        places.push(callers.enter());
        assert_eq!(lost(&places), [false; 3]);
        places.extend((0..2).map(|_| callers.enter()));
        assert_eq!(lost(&places), [true, true, false, false, false]);
        assert_eq!(callers.lock().taken.len(), 3);
        // The end of one that had lost its place frees no other's.
        drop(places.remove(0));
        assert_eq!(callers.lock().taken.len(), 3);
        drop(places);
        assert!(callers.lock().taken.is_empty());
    }

    #[tokio::test]
    async fn a_failed_accept_closes_the_oldest() {
        let callers = Callers::new("the test", 3);
        let place = callers.enter();
        let accept = |_: &mut Context<'_>| Poll::Ready(Err::<(), _>(io::ErrorKind::Other.into()));
        let serving = Arc::clone(&callers).serve(accept, |(), _| async {});
        tokio::select! {
            () = serving => unreachable!(),
            () = place.lost() => {}
        }
    }
}
