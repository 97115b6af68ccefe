//! The map of a sparse file (GNU sparse format, PAX version 1.0).
//!
//! The map is text, `count\n` and `offset\nlength\n` for each segment, padded to a whole block, and comes first in the
//! member's data. Segments start on block boundaries, as GNU tar needs; a last one of length 0 means that the file ends
//! in a hole.

use std::fmt::Write as _;
use std::io::BufRead;

use sha2::{Digest as _, Sha256};

use super::pax::number;
use super::{BLOCK, Error, Reader};

/// Sixteen times the most that Penstock writes; 16 MiB of memory.
const MAX_SEGMENTS: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub length: u64,
}

/// The name that a sparse file has in its ustar block, of at most 100 bytes. A reader that does not know sparse files stores the map
/// and the condensed data under this name, not under the file's own, where it would be taken for the file. Two files have two names.
pub(super) fn stand_in(path: &[u8]) -> Vec<u8> {
    let mut name = format!("GNUSparseFile.{}/", hex::encode(&Sha256::digest(path)[..8])).into_bytes();
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.extend_from_slice(&file[..file.len().min(100 - name.len())]);
    name
}

/// The map as stored, including padding.
pub(super) fn encode(segments: &[Segment]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len());
    for Segment { offset, length } in segments {
        // Writing to a String cannot fail.
        let _ = write!(map, "{offset}\n{length}\n");
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads the map of the current member, block by block.
pub(super) struct Map<'a, R> {
    reader: &'a mut Reader<R>,
    path: &'a [u8],
    block: [u8; BLOCK],
    position: usize,
}

impl<'a, R: BufRead> Map<'a, R> {
    pub(super) fn new(reader: &'a mut Reader<R>, path: &'a [u8]) -> Self {
        Self { reader, path, block: [0; BLOCK], position: BLOCK }
    }

    /// Checks the map against the file's size and the data behind the map.
    pub(super) fn read(mut self, size: u64) -> Result<Vec<Segment>, Error> {
        let count = self.number()?;
        if count > MAX_SEGMENTS {
            return Err(self.wrong(&format!("has {count} segments; expected at most {MAX_SEGMENTS}")));
        }
        let mut segments = Vec::new();
        let (mut end, mut sum, mut aligned) = (0, 0_u64, true);
        for _ in 0..count {
            let (offset, length) = (self.number()?, self.number()?);
            let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size);
            let Some(next) = next else {
                return Err(self.wrong(&format!("has {length} bytes at {offset}; expected {end} to {size}, in order")));
            };
            if !aligned && length > 0 {
                return Err(self.wrong("has a segment of broken blocks; expected that of the last one only"));
            }
            aligned &= length % BLOCK as u64 == 0;
            (end, sum) = (next, sum + length);
            segments.push(Segment { offset, length });
        }
        let left = self.reader.left();
        if sum != left {
            return Err(self.wrong(&format!("has {sum} bytes of data; expected the {left} that there are")));
        }
        Ok(segments)
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::refused(self.path, format!("its sparse map {reason}"))
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut digits = [0; 20];
        let mut length = 0;
        loop {
            if self.position == BLOCK {
                if self.reader.left() < BLOCK as u64 {
                    return Err(self.wrong("ends early; expected whole blocks before the data"));
                }
                self.reader.exact(&mut self.block)?;
                self.position = 0;
            }
            let byte = self.block[self.position];
            self.position += 1;
            if byte == b'\n' {
                return number(&digits[..length]).map_err(|reason| self.wrong(&format!("has a line that {reason}")));
            }
            let Some(digit) = digits.get_mut(length) else {
                return Err(self.wrong("has a line of over 20 digits; expected numbers"));
            };
            *digit = byte;
            length += 1;
        }
    }
}
