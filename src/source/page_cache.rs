//! Keeps a backup from washing the node's page cache out: what has been read is given back.
//!
//! `POSIX_FADV_DONTNEED` drops clean pages of the range whoever put them there, so a file that an application had
//! cached is cold after its backup too. Telling the two apart costs more system calls than the file's own read, so it
//! is not tried; only files of at most [`SMALL`] bytes, which are the most likely to be hot and matter least, are left
//! alone. Advice is only advice: an error from it changes nothing and is ignored.

use std::num::NonZeroU64;
use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};

/// One read-ahead window (the kernel's default, 128 KiB): below it there is nothing to advise.
const SMALL: u64 = 128 << 10;

/// How far a reader gets before the pages behind it are dropped. Large, so that the calls cost nothing; small against
/// any node's memory.
const STEP: u64 = 8 << 20;

/// The pages behind one file's reader.
#[derive(Debug)]
pub(super) struct Trail {
    small: bool,
    dropped: u64,
}

impl Trail {
    /// To be called when a file of `size` bytes is opened.
    pub(super) fn start(fd: impl AsFd, size: u64) -> Self {
        let small = size <= SMALL;
        if !small {
            let _ = fadvise(fd, 0, None, Advice::Sequential);
        }
        Self { small, dropped: 0 }
    }

    /// The reader has everything before `offset`.
    pub(super) fn passed(&mut self, fd: impl AsFd, offset: u64) {
        if self.small {
            return;
        }
        let behind = offset.saturating_sub(self.dropped);
        if behind >= STEP {
            let _ = fadvise(fd, self.dropped, NonZeroU64::new(behind), Advice::DontNeed);
            // The page that holds `offset` is only dropped whole: it is asked for again with the next step.
            self.dropped = offset & !4095;
        }
    }

    /// The reader is done with the file.
    pub(super) fn end(&self, fd: impl AsFd) {
        if !self.small {
            let _ = fadvise(fd, self.dropped, None, Advice::DontNeed);
        }
    }
}
