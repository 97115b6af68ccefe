//! Decides how long a failed request to the API server is repeated.
//!
//! There are two limits. [`Patience::answered`] is for a server that answers that *this* request fails (5xx): a kind whose backend is
//! dead must not delay the others. [`Patience::silent`] is for a server that does not answer, or asks to wait (429): an API server that is
//! being replaced is away for a minute, and nothing can be saved without it.

use std::future::Future;
use std::time::Duration;

use crate::cluster::Failure;
use crate::error::{Class, NOT_THE_SERVICE};
use crate::retry::{Attempts, PATIENCE};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub answered: Duration,
    pub silent: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answered: Duration::from_secs(20), silent: PATIENCE }
    }
}

/// The failures of one request so far.
#[derive(Debug)]
pub(super) struct Failures {
    answered: Attempts,
    silent: Attempts,
}

impl Patience {
    pub(super) fn failures(self) -> Failures {
        Failures { answered: Attempts::within(self.answered), silent: Attempts::within(self.silent) }
    }

    /// Repeats `request` until it succeeds or its patience ends.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub async fn retried<T, F, Fut>(self, what: &'static str, mut request: F) -> Result<T, Failure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut failures = self.failures();
        loop {
            let failure = match request().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if !failures.wait(&failure).await {
                return Err(failure);
            }
            tracing::warn!(what, class = %failure.error.class, error = %failure, "trying again");
        }
    }
}

impl Failures {
    /// Waits before the next attempt; `false` if there is none.
    pub(super) async fn wait(&mut self, failure: &Failure) -> bool {
        if let Some(pause) = failure.retry_after {
            tokio::time::sleep(pause).await;
        }
        let attempts = if is_silent(failure) { &mut self.silent } else { &mut self.answered };
        attempts.wait(failure.error.class).await
    }
}

/// Whether the server itself did not answer, or asks to wait.
#[must_use]
pub fn is_silent(failure: &Failure) -> bool {
    let error = &failure.error;
    error.status.is_none() || error.class == Class::Throttled || error.code.as_deref() == Some(NOT_THE_SERVICE)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::cluster::classify::{Asked, Freshness, Reply, classify};

    fn failure(status: u16, body: &str) -> Failure {
        let asked =
            Asked { verb: "list", path: "/x", group: "", resource: "", namespace: None, fresh: Freshness::Kept };
        classify(&asked, &Reply { status, body: body.as_bytes(), ..Reply::default() })
    }

    async fn attempts(patience: Patience, failures: &[Failure]) -> usize {
        let made = Cell::new(0);
        let request = || {
            let failure = failures[made.get().min(failures.len() - 1)].clone();
            made.set(made.get() + 1);
            std::future::ready(Err(failure))
        };
        let result: Result<(), Failure> = patience.retried("test", request).await;
        result.unwrap_err();
        made.get()
    }

    #[tokio::test]
    async fn a_kind_that_fails_has_another_limit_than_a_server_that_is_gone() {
        let (now, later) = (Duration::ZERO, Duration::from_secs(3600));
        let broken =
            failure(500, r#"{"kind":"Status","reason":"InternalError","message":"conversion webhook for x failed"}"#);
        let busy = failure(429, r#"{"kind":"Status","reason":"TooManyRequests"}"#);
        let (gateway, refused) = (failure(502, "<html>"), failure(403, "{}"));
        for silent in [&busy, &gateway] {
            assert!(is_silent(silent), "{silent}");
            assert_eq!(attempts(Patience { answered: later, silent: now }, &[(*silent).clone()]).await, 1);
            // One more attempt, and then a refusal for good.
            let patience = Patience { answered: now, silent: later };
            assert_eq!(attempts(patience, &[(*silent).clone(), refused.clone()]).await, 2);
        }
        assert!(!is_silent(&broken));
        assert_eq!(attempts(Patience { answered: now, silent: later }, &[broken]).await, 1);
        // A retry cannot change the first; the second is retried once, with fresh credentials.
        let patience = Patience { answered: later, silent: later };
        assert_eq!(attempts(patience, &[refused]).await, 1);
        assert_eq!(attempts(patience, &[failure(401, "{}")]).await, 2);
    }
}
