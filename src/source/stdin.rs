//! Standard input, or any other reader, as a stream.
//!
//! Passes bytes unchanged and buffers nothing. A read error fails the item, and so does an end before the first byte, unless that is
//! allowed. A closed standard input reads as an empty one. No exit code tells whether the writer completed: prefer the `command` source
//! if there is a choice.

use std::io::Read;

use super::{Empty, Error, Source};

/// A stream read from `R`.
#[derive(Debug)]
pub struct StdinSource<R = std::io::Stdin> {
    input: R,
    /// `Allowed` after the first byte.
    empty: Empty,
}

impl StdinSource {
    /// This process's standard input.
    #[must_use]
    pub fn new(empty: Empty) -> Self {
        Self::from_reader(std::io::stdin(), empty)
    }
}

impl<R: Read + Send> StdinSource<R> {
    pub fn from_reader(input: R, empty: Empty) -> Self {
        Self { input, empty }
    }
}

impl<R: Read + Send> Source for StdinSource<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Stdin(error)),
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
    use super::*;

    #[test]
    fn bytes_pass_and_the_end_is_the_end() {
        let mut source = StdinSource::from_reader(&b"hello"[..], Empty::Refused);
        let mut buffer = [0; 3];
        assert_eq!(source.read(&mut buffer).unwrap(), 3);
        assert_eq!(source.read(&mut buffer).unwrap(), 2);
        assert_eq!(source.read(&mut buffer).unwrap(), 0);
        assert_eq!(source.size_hint(), None);
    }

    #[test]
    fn an_end_before_the_first_byte_is_an_error_unless_it_is_allowed() {
        assert!(matches!(StdinSource::from_reader(&b""[..], Empty::Refused).read(&mut [0]), Err(Error::NoInput)));
        assert_eq!(StdinSource::from_reader(&b""[..], Empty::Allowed).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_interrupted_read_is_read_again_and_any_other_error_ends_the_item() {
        struct Flaky(u8);
        impl Read for Flaky {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                self.0 += 1;
                Err(if self.0 == 1 { std::io::ErrorKind::Interrupted } else { std::io::ErrorKind::BrokenPipe }.into())
            }
        }
        let error = StdinSource::from_reader(Flaky(0), Empty::Refused).read(&mut [0]).unwrap_err();
        assert!(matches!(error, Error::Stdin(error) if error.kind() == std::io::ErrorKind::BrokenPipe));
    }
}
