//! Has a long file's bytes written to the disk while the next ones come, so that the flush at the end has little left to do.

use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};

use rustix::io::Errno;

/// Bytes from one flush to the next: a tenth of a second or more of most disks.
const EVERY: u64 = 64 << 20;

/// One file that is being written.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    waiting: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl Writeback {
    /// Counts bytes that were written, and begins a flush when there are enough and none is running.
    ///
    /// # Errors
    /// Those of an earlier flush: the kernel tells them once.
    pub(super) fn wrote(&mut self, file: &File, count: usize) -> io::Result<()> {
        self.waiting += count as u64;
        if self.waiting < EVERY || self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        self.waiting = 0;
        self.join()?;
        // Without a descriptor or a thread for it, everything is flushed at the end.
        let Ok(file) = file.try_clone() else { return Ok(()) };
        self.running = thread::Builder::new().name("penstock-flush".to_owned()).spawn(move || file.sync_data()).ok();
        Ok(())
    }

    /// Flushes all of the file. A file system that cannot has no error.
    ///
    /// # Errors
    /// When any byte could not be written to the disk.
    pub(super) fn end(mut self, file: &File) -> io::Result<()> {
        self.join()?;
        possible(file.sync_all())
    }

    fn join(&mut self) -> io::Result<()> {
        let ended = self.running.take().map(JoinHandle::join);
        ended
            .map_or(Ok(()), |ended| possible(ended.unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))))
    }
}

/// After an error the file is not needed any more once this is.
impl Drop for Writeback {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn possible(flushed: io::Result<()>) -> io::Result<()> {
    match flushed {
        Err(error) if unsupported(&error) => Ok(()),
        other => other,
    }
}

/// Whether the file system does not support the call.
pub(super) fn unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_flush_is_told_by_the_next_call() {
        let file = tempfile::tempfile().unwrap();
        let failed = || Writeback {
            waiting: 0,
            running: Some(thread::spawn(|| Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error())))),
        };
        assert_eq!(Errno::from_io_error(&failed().end(&file).unwrap_err()), Some(Errno::IO));
        let mut writeback = failed();
        while writeback.running.as_ref().is_some_and(|running| !running.is_finished()) {
            thread::yield_now();
        }
        let error = writeback.wrote(&file, EVERY.try_into().unwrap()).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    }

    #[test]
    fn a_file_system_that_cannot_flush_has_no_error() {
        let running = thread::spawn(|| Err(io::Error::from_raw_os_error(Errno::INVAL.raw_os_error())));
        let writeback = Writeback { waiting: 0, running: Some(running) };
        writeback.end(&tempfile::tempfile().unwrap()).unwrap();
    }

    #[test]
    fn every_so_many_bytes_are_flushed() {
        let file = tempfile::tempfile().unwrap();
        let mut writeback = Writeback::default();
        let half = usize::try_from(EVERY / 2).unwrap();
        writeback.wrote(&file, half).unwrap();
        assert!(writeback.running.is_none());
        writeback.wrote(&file, half).unwrap();
        assert!(writeback.running.is_some() && writeback.waiting == 0);
        writeback.end(&file).unwrap();
        // One at a time.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let running = thread::spawn(move || ended.recv().map_err(io::Error::other));
        let mut writeback = Writeback { waiting: 0, running: Some(running) };
        writeback.wrote(&file, 2 * half).unwrap();
        assert_eq!(writeback.waiting, EVERY, "the one that runs was not replaced");
        end.send(()).unwrap();
        writeback.end(&file).unwrap();
    }
}
