//! Where a stream's bytes come from: a tree, a file, a command, standard input.
//!
//! A source is blocking and is read on a thread of its own. It yields bytes in order; what it could not read, or what
//! changed under it, becomes a [`Warning`] and the stream stays valid; only what makes the whole item worthless (a
//! command that failed, a root that does not exist) is an error.
//!
//! What is async by nature runs as a task, and the source waits for it at a bounded channel: [`objects`].

mod announced;
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
    /// Fills the start of `buffer` with the stream's next bytes, at most up to the next [`Mark`]; 0 without a mark is the
    /// end, and says that all went well.
    ///
    /// # Errors
    /// When the item is worthless. The source is not read again after an error.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error>;

    /// What stands in the stream behind the bytes of the last call of [`Source::read`]. Only a tree has any.
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

    /// The directories since the last call that are in the stream without what is in them, because another file system is mounted there.
    fn take_not_entered(&mut self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What of a cluster's objects is in the stream and what is not, once, at its end.
    fn take_record(&mut self) -> Option<Box<Record>> {
        None
    }

    /// How many bytes the stream will have, as far as is known without reading: for a progress bar only.
    fn size_hint(&self) -> Option<u64> {
        None
    }
}

/// What a source knows about its stream beyond the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A chunk should end here, for what follows is likely to come again as it is, whatever was before it.
    Border,
    /// Here the stream has these chunks of the parent's table, whose bytes are neither read nor yielded. A border too.
    Taken(Range<u32>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub path: PathBuf,
    pub message: String,
}

/// Whether a stream without a byte is one: nothing at all is what a dump writes that dies before its first byte.
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
    #[error("{action} {path}: {error}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("{action} {path}: {error}; which items of {pattern} lie there is not known", path = path.display())]
    Unlisted {
        action: &'static str,
        path: PathBuf,
        pattern: String,
        #[source]
        error: std::io::Error,
    },
    /// The command ended well, and nothing came.
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
    /// The API server, or the way to it.
    #[error("{}", .0.message)]
    Cluster(Report),
    #[error("standard input: {0}")]
    Stdin(#[source] std::io::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("cancelled")]
    Cancelled,
}

fn stderr_suffix(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its last words: {stderr}") }
}

impl Classify for Error {
    fn report(&self) -> Report {
        let class = match self {
            Self::Cluster(report) => return report.clone(),
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
                "find out why it wrote nothing; in `sh -c 'a | b'` only b's exit code counts, `bash -o pipefail -c 'a | b'` fails \
                 with a too; where nothing is a good answer, set `allow_empty = true` on the source, or give --allow-empty",
            ),
            Self::NoInput => report.remedy(
                "look at the command before the pipe: Penstock cannot see its exit code, and does see that of `-- COMMAND` in place \
                 of `-`; where nothing is a good answer, give --allow-empty",
            ),
            Self::Command { .. } | Self::Stdin(_) | Self::Cluster(_) | Self::Invalid(_) | Self::Cancelled => report,
        }
    }
}

/// What helps against the errors of a path that is there.
fn remedy(error: &std::io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::ACCESS | Errno::PERM => {
            Some("run Penstock as root or with CAP_DAC_READ_SEARCH, or let its user read the path")
        }
        Errno::NOTCONN | Errno::STALE | Errno::IO | Errno::TIMEDOUT | Errno::HOSTDOWN => Some(
            "the file system that is mounted there does not answer: mount it again; its last copy in a backup is kept meanwhile",
        ),
        _ => None,
    }
}
