//! Writes bytes into a new file, with holes if the file system supports them and zeros otherwise.

use std::fs::File;

use rustix::io::Errno;

use super::target::verdict;
use super::{BUFFER, Failure};
use crate::restore::near;
use crate::restore::refusal::ends;
use crate::tar::Member;

static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// A new file, written from its start to its end; a sparse one with gaps.
pub(super) struct Output {
    pub(super) file: File,
    pub(super) member: Member,
    gaps: Gaps,
    position: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Holes,
    /// For a file system that cannot lengthen a file without data.
    Zeros,
}

impl Output {
    pub(super) const fn new(file: File, member: Member) -> Self {
        Self { file, member, gaps: Gaps::Holes, position: 0 }
    }

    /// Sets the whole length of a file that may have gaps.
    pub(super) fn set_length(&mut self) -> Result<(), Failure> {
        let set = self.file.set_len(self.member.size);
        match set.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            Ok(()) => Ok(()),
            Err(errno) if errno == Errno::FBIG || ends(errno) => {
                Err(verdict("set the length of", &self.member.path)(errno))
            }
            Err(_) => {
                self.gaps = Gaps::Zeros;
                Ok(())
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        self.fill(offset)?;
        self.write_at(bytes, offset)?;
        self.position = offset + bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.fill(self.member.size)
    }

    fn fill(&mut self, end: u64) -> Result<(), Failure> {
        while self.gaps == Gaps::Zeros && self.position < end {
            let length = usize::try_from(end - self.position).map_or(BUFFER, |left| left.min(BUFFER));
            self.write_at(&ZEROS[..length], self.position)?;
            self.position += length as u64;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        let written = near::write_all_at(&self.file, bytes, offset);
        // Only a call that wrote nothing has no error number.
        let errno = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        written.map_err(|error| verdict("write", &self.member.path)(errno(error)))
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn output(size: u64) -> Output {
        Output::new(tempfile::tempfile().unwrap(), Member { size, ..Member::default() })
    }

    #[test]
    fn zeros_take_the_place_of_holes() {
        for gaps in [Gaps::Holes, Gaps::Zeros] {
            let size = 600_000;
            let mut output = output(size);
            output.set_length().unwrap();
            if gaps == Gaps::Zeros {
                output.file.set_len(0).unwrap();
                output.gaps = gaps;
            }
            output.write(b"a", 10).unwrap();
            output.write(b"b", 300_000).unwrap();
            output.finish().unwrap();
            let mut bytes = vec![1; 600_000];
            output.file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(output.file.metadata().unwrap().len(), size);
            let data: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            assert_eq!(data, [10, 300_000]);
        }
    }

    #[test]
    fn a_file_that_the_file_system_cannot_hold_is_left_out() {
        let Err(Failure::LeftOut(refusal)) = output(i64::MAX as u64).set_length() else {
            panic!("no file system has files of 8 EiB but one byte");
        };
        assert!(refusal.message.contains("size"), "{refusal:?}");
    }
}
