//! Bytes into a new file, with holes where the file system can make them and zeros where it cannot.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;

use super::target::verdict;
use super::{BUFFER, Failure};
use crate::restore::refusal::ends;

static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// A file of a known size that is written from its start to its end, with gaps.
pub(super) struct Sparse<'a> {
    file: &'a File,
    path: &'a [u8],
    size: u64,
    gaps: Gaps,
    position: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Holes,
    /// The file system does not lengthen a file without data.
    Zeros,
}

impl<'a> Sparse<'a> {
    pub(super) fn new(file: &'a File, path: &'a [u8], size: u64) -> Result<Self, Failure> {
        let gaps = match file.set_len(size).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)) {
            Ok(()) => Gaps::Holes,
            Err(errno) if errno == Errno::FBIG || ends(errno) => {
                return Err(verdict("setting its length", path)(errno));
            }
            Err(_) => Gaps::Zeros,
        };
        Ok(Self { file, path, size, gaps, position: 0 })
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        self.fill(offset)?;
        write_at(self.file, self.path, bytes, offset)?;
        self.position = offset + bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.fill(self.size)
    }

    fn fill(&mut self, end: u64) -> Result<(), Failure> {
        while self.gaps == Gaps::Zeros && self.position < end {
            let length = usize::try_from(end - self.position).map_or(BUFFER, |left| left.min(BUFFER));
            write_at(self.file, self.path, &ZEROS[..length], self.position)?;
            self.position += length as u64;
        }
        Ok(())
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes == &ZEROS[..bytes.len()]
}

pub(super) fn write_at(file: &File, path: &[u8], bytes: &[u8], offset: u64) -> Result<(), Failure> {
    let written = file.write_all_at(bytes, offset);
    // Only a call that writes nothing has no number.
    written.map_err(|error| verdict("writing it", path)(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_take_the_place_of_holes() {
        for gaps in [Gaps::Holes, Gaps::Zeros] {
            let file = tempfile::tempfile().unwrap();
            let size = 600_000;
            let mut sparse = Sparse::new(&file, b"f", size).unwrap();
            if gaps == Gaps::Zeros {
                file.set_len(0).unwrap();
                sparse.gaps = gaps;
            }
            sparse.write(b"a", 10).unwrap();
            sparse.write(b"b", 300_000).unwrap();
            sparse.finish().unwrap();
            let mut bytes = vec![1; 600_000];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size);
            let data: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            assert_eq!(data, [10, 300_000]);
        }
    }

    #[test]
    fn what_the_file_system_cannot_hold_is_left_out() {
        let file = tempfile::tempfile().unwrap();
        let Err(Failure::LeftOut(refusal)) = Sparse::new(&file, b"f", i64::MAX as u64) else {
            panic!("no file system has files of 8 EiB but one byte");
        };
        assert!(refusal.message.contains("size"), "{refusal:?}");
    }
}
