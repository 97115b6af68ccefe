//! Where a stream's bytes come from: a tree, a file, a command, standard input.
//!
//! A source is blocking and is read on a thread of its own. It yields bytes in order; what it could not read, or what
//! changed under it, becomes a [`Warning`] and the stream stays valid; only what makes the whole item worthless (a
//! command that failed, a root that does not exist) is an error.

mod announced;
pub mod command;
pub mod file;
pub mod glob;
mod open;
mod page_cache;
pub mod stdin;
pub mod tree;

use std::ops::Range;
use std::path::PathBuf;

use crate::error::{Class, Classify, Report};
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

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} {path}: {error}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("the command {argv:?} {outcome}{}", stderr_suffix(stderr))]
    Command { argv: Vec<String>, outcome: String, stderr: String },
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
            Self::Io { .. } | Self::Command { .. } | Self::Stdin(_) | Self::Invalid(_) => Class::Source,
            Self::Cancelled => Class::Cancelled,
        };
        Report::new(class, self.to_string())
    }
}
