//! Standard input as a stream.
//!
//! Passes bytes unchanged and buffers nothing. Nobody waits for its writer once the run is cancelled or has failed. A read error fails the
//! item, and so does an end before the first byte, unless that is allowed. A closed standard input reads as an empty one. No exit code tells
//! whether the writer completed: prefer the `command` source if there is a choice.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr};
use tokio_util::sync::CancellationToken;

use super::cancel::Cancel;
use super::{Empty, Error, Source};

/// A stream read from a descriptor.
#[derive(Debug)]
pub struct StdinSource<F = std::io::Stdin> {
    input: F,
    cancel: Cancel,
    /// `Allowed` after the first byte.
    empty: Empty,
}

impl StdinSource {
    /// This process's standard input.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn open(empty: Empty, stop: CancellationToken) -> Result<Self, Error> {
        Self::of(std::io::stdin(), empty, stop)
    }
}

impl<F: AsFd + Send> StdinSource<F> {
    fn of(input: F, empty: Empty, stop: CancellationToken) -> Result<Self, Error> {
        let cancel = Cancel::new(stop).map_err(|error| Error::Stdin(error.into()))?;
        Ok(Self { input, cancel, empty })
    }
}

impl<F: AsFd + Send> Source for StdinSource<F> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let failed = |error: Errno| Error::Stdin(error.into());
        loop {
            let mut ready = [PollFd::new(&self.input, PollFlags::IN), PollFd::new(self.cancel.event(), PollFlags::IN)];
            retry_on_intr(|| poll(&mut ready, None)).map_err(failed)?;
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match read(&self.input, &mut *buffer) {
                // Interrupted, or another process was faster.
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(failed(error)),
                Ok(0) if self.empty == Empty::Refused => return Err(Error::NoInput),
                Ok(length) => {
                    self.empty = Empty::Allowed;
                    return Ok(length);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Write as _, pipe};

    use super::*;

    fn of(input: PipeReader, empty: Empty) -> StdinSource<PipeReader> {
        StdinSource::of(input, empty, CancellationToken::new()).unwrap()
    }

    #[test]
    fn bytes_pass_and_the_end_is_the_end() {
        let (input, mut output) = pipe().unwrap();
        output.write_all(b"hello").unwrap();
        drop(output);
        let mut source = of(input, Empty::Refused);
        let mut buffer = [0; 3];
        assert_eq!(source.read(&mut buffer).unwrap(), 3);
        assert_eq!(source.read(&mut buffer).unwrap(), 2);
        assert_eq!(source.read(&mut buffer).unwrap(), 0);
        assert_eq!(source.size_hint(), None);
    }

    #[test]
    fn an_end_before_the_first_byte_is_an_error_unless_it_is_allowed() {
        let ended = || pipe().unwrap().0;
        assert!(matches!(of(ended(), Empty::Refused).read(&mut [0]), Err(Error::NoInput)));
        assert_eq!(of(ended(), Empty::Allowed).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_read_error_ends_the_item() {
        let folder = std::fs::File::open("/").unwrap();
        let mut source = StdinSource::of(folder, Empty::Refused, CancellationToken::new()).unwrap();
        let error = source.read(&mut [0]).unwrap_err();
        assert!(matches!(error, Error::Stdin(error) if error.kind() == std::io::ErrorKind::IsADirectory));
    }

    #[test]
    fn a_cancellation_ends_a_read_that_waits_for_the_writer() {
        let (input, _output) = pipe().unwrap();
        let stop = CancellationToken::new();
        let mut source = StdinSource::of(input, Empty::Refused, stop.clone()).unwrap();
        let reading = std::thread::spawn(move || source.read(&mut [0]));
        stop.cancel();
        assert!(matches!(reading.join().unwrap(), Err(Error::Cancelled)));
    }
}
