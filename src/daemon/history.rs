//! The last failures, for `status` and the page. The log has them all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::error::Report;

/// How many are kept.
const LENGTH: usize = 20;

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Job,
    Location,
    Configuration,
}

impl About {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Location => "location",
            Self::Configuration => "configuration",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) at: Timestamp,
    pub(super) about: About,
    /// Empty for the configuration.
    pub(super) name: String,
    pub(super) report: Report,
}

/// Cheap to clone; all clones are one history.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    failures: Arc<Mutex<VecDeque<Failure>>>,
}

impl History {
    /// Logs the failure and keeps it.
    pub(super) fn failed(&self, about: About, name: &str, report: &Report) {
        let Report { class, message, remedy, .. } = report;
        let (message, remedy) = (message.replace('\n', "; "), remedy.as_deref());
        match about {
            About::Job => tracing::error!(job = name, %class, remedy, "{message}"),
            About::Location => tracing::error!(location = name, %class, remedy, "{message}"),
            About::Configuration => tracing::error!(%class, remedy, "{message}"),
        }
        self.keep(about, name, report);
    }

    /// Keeps a failure that was logged where it was handled.
    pub(super) fn keep(&self, about: About, name: &str, report: &Report) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.truncate(LENGTH - 1);
        failures.push_front(Failure { at: Timestamp::now(), about, name: name.to_owned(), report: report.clone() });
    }

    /// Newest first.
    pub(super) fn list(&self) -> Vec<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
