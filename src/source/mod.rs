//! Reads a stream's bytes from a tree, a file, a command, or standard input.
//!
//! A source blocks and is read on its own thread. It yields bytes in order. If it cannot read something, or something changes
//! while it reads, it gives a [`Warning`] and the stream stays valid. Only a failure that makes the whole item worthless (a
//! command failed, a root does not exist) is an error.
//!
//! An async source runs as a task; its reader waits for it at a bounded channel: [`objects`].

mod announced;
mod cancel;
pub mod command;
pub mod file;
pub mod glob;
mod group;
pub mod objects;
mod open;
mod page_cache;
pub mod stdin;
pub mod table;
pub mod tree;

use std::ops::Range;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::error::{Class, Classify, Report};
use crate::format::cluster::Record;
use crate::format::index::FileEntry;

pub trait Source: Send {
    /// Fills the start of `buffer` with the stream's next bytes, at most up to the next [`Mark`]. 0 bytes without a mark
    /// are the end of a complete stream.
    ///
    /// # Errors
    /// When the item is worthless. The caller does not read again after an error.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error>;

    /// The marks behind the bytes of the last call of [`Source::read`]. Only a tree has any.
    fn take_marks(&mut self) -> Vec<Mark> {
        Vec::new()
    }

    /// The members whose headers have been yielded since the last call, in stream order. Only a tree has any.
    fn take_entries(&mut self) -> Vec<FileEntry> {
        Vec::new()
    }

    /// The warnings since the last call.
    fn take_warnings(&mut self) -> Vec<Warning> {
        Vec::new()
    }

    /// The directories since the last call that are stored without their content, because another file system is mounted there.
    fn take_not_entered(&mut self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The record of a cluster's objects, once, at the stream's end: which of them are in the stream, and which are not.
    fn take_record(&mut self) -> Option<Box<Record>> {
        None
    }

    /// How many bytes the stream will have, if known without reading: for a progress bar only.
    fn size_hint(&self) -> Option<u64> {
        None
    }
}

/// Information about the stream besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A chunk should end here: the next bytes are likely to come again in a later backup, whatever precedes them.
    Border,
    /// Here the stream has these chunks of the parent's table; their bytes are neither read nor yielded. Also a border.
    Taken(Range<u32>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub path: PathBuf,
    pub message: String,
}

/// Whether a stream without bytes is valid: a dump that dies before its first byte leaves one too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    Refused,
    Allowed,
}

impl From<bool> for Empty {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Allowed } else { Self::Refused }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {action} {path}: {error}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("could not {action} {path}: {error}; the items of {pattern} below it are unknown", path = path.display())]
    Unlisted {
        action: &'static str,
        path: PathBuf,
        pattern: String,
        #[source]
        error: std::io::Error,
    },
    /// The command exited with 0 but wrote nothing.
    #[error(
        "the command {argv:?} exited with status 0 and wrote nothing to its standard output; expected at least one byte{}",
        stderr_suffix(stderr)
    )]
    Silent { argv: Vec<String>, stderr: String },
    #[error(
        "standard input ended before its first byte (it is empty, closed or /dev/null); expected at least one byte"
    )]
    NoInput,
    #[error("the command {argv:?} {outcome}{}", stderr_suffix(stderr))]
    Command { argv: Vec<String>, outcome: String, stderr: String },
    /// The API server, or the connection to it.
    #[error("{}", .0.message)]
    Cluster(Report),
    /// A pod's volume that is not there, or no longer.
    #[error("{}", .0.message)]
    Volume(Report),
    #[error("could not read standard input: {0}")]
    Stdin(#[source] std::io::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("cancelled")]
    Cancelled,
}

fn stderr_suffix(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; stderr ended with: {stderr}") }
}

impl Classify for Error {
    fn report(&self) -> Report {
        let class = match self {
            Self::Cluster(report) | Self::Volume(report) => return report.clone(),
            Self::Cancelled => Class::Cancelled,
            _ => Class::Source,
        };
        let report = Report::new(class, self.to_string());
        match self {
            Self::Io { error, .. } | Self::Unlisted { error, .. } => match remedy(error) {
                Some(remedy) => report.remedy(remedy),
                None => report,
            },
            Self::Silent { .. } => report.remedy(
                "find out why the command wrote nothing; in `sh -c 'a | b'` only b's exit code counts, `bash -o pipefail -c 'a | b'` fails \
                 with a too; if an empty output is valid, set `allow_empty = true` on the source, or give --allow-empty",
            ),
            Self::NoInput => report.remedy(
                "look at the command before the pipe: Penstock cannot see its exit code, but checks that of `-- COMMAND` in place \
                 of `-`; if an empty input is valid, give --allow-empty",
            ),
            Self::Command { .. }
            | Self::Stdin(_)
            | Self::Cluster(_)
            | Self::Volume(_)
            | Self::Invalid(_)
            | Self::Cancelled => report,
        }
    }
}

/// The remedy for an error on an existing path.
fn remedy(error: &std::io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::ACCESS | Errno::PERM => {
            Some("run Penstock as root or with CAP_DAC_READ_SEARCH, or let its user read the path")
        }
        Errno::NOTCONN | Errno::STALE | Errno::IO | Errno::TIMEDOUT | Errno::HOSTDOWN => Some(
            "the file system that is mounted there does not answer: mount it again; the last backup of it is kept until then",
        ),
        _ => None,
    }
}
