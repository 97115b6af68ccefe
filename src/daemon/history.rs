//! The last failures, for `status` and the page. The log has them all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::state::Fault;

/// How many are kept.
const LENGTH: usize = 20;

#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) at: Timestamp,
    /// `job`, `location`, `configuration`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) fault: Fault,
}

/// Cheap to clone; all clones are one history.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    failures: Arc<Mutex<VecDeque<Failure>>>,
}

impl History {
    /// Logs the failure and keeps it.
    pub(super) fn failed(&self, kind: &'static str, name: &str, fault: &Fault) {
        let Fault { class, message, remedy } = fault;
        let (message, remedy) = (message.replace('\n', "; "), remedy.as_deref());
        match kind {
            "job" => tracing::error!(job = name, %class, remedy, "{message}"),
            "location" => tracing::error!(location = name, %class, remedy, "{message}"),
            _ => tracing::error!(%class, remedy, "{message}"),
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.truncate(LENGTH - 1);
        failures.push_front(Failure { at: Timestamp::now(), kind, name: name.to_owned(), fault: fault.clone() });
    }

    /// Newest first.
    pub(super) fn list(&self) -> Vec<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
