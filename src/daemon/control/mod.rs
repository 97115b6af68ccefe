//! The control socket: `trigger`, `reload` and `status`, for the daemon's own user and root.
//!
//! One request on each connection, a line of JSON; the answer is one line, or for `trigger` several: `queued`, then again and again
//! `queued` or `progress`, and `ended`. Whoever does not want to wait hangs up after the first `queued`.
//!
//! - **One daemon at a socket** ([`socket`]): a socket that is alive is respected, and so is a file that is no socket.
//! - **An answer in time** ([`client`]): between two lines a caller waits for seconds, not for ever. The daemon takes whoever comes
//!   ([`super::callers`]), and obeys no order whose caller has gone.
//! - **Waiting costs no place**: callers that wait for a run have a large number of their own, and one above it is told so.

mod client;
mod server;
mod socket;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::board::Refusal;
use super::state::Ended;
use super::status::{LastRun, RunningStatus, Status};
use crate::error::Report;
pub use client::Client;
pub(super) use socket::Socket;

/// The longest request; a job's name has 64 bytes.
const MAX_REQUEST: u64 = 4 << 10;

/// The longest answer: the status of thousands of jobs.
const MAX_ANSWER: u64 = 64 << 20;

/// How long a caller waits for a line. Whoever waits for a run gets one every [`PROGRESS_EVERY`].
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long the scheduler has to obey, so that a caller hears of a scheduler that hangs while it still listens.
const OBEY_WITHIN: Duration = Duration::from_secs(8);

/// Between two lines to a caller that waits for a run.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Request {
    Status,
    Reload,
    Trigger { job: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Status(Box<Status>),
    Reloaded,
    /// The run has not begun yet.
    Queued,
    Progress(RunningStatus),
    Ended(LastRun),
    Refused(Report),
}

impl From<Report> for Answer {
    fn from(report: Report) -> Self {
        Self::Refused(report)
    }
}

/// What the scheduler's loop is asked to do; it answers when it has done it. One whose asker has gone is not obeyed.
#[derive(Debug)]
pub(super) enum Order {
    Reload(oneshot::Sender<Result<(), Report>>),
    Trigger(String, oneshot::Sender<Result<oneshot::Receiver<Ended>, Refusal>>),
}
