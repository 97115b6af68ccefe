//! Where a file's data is. Segments start on block boundaries, as GNU tar needs, and one of length 0 at the end says that
//! the file ends in a hole. Memory is at most 16 bytes for each of [`MAX_SEGMENTS`].

use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::meta::Meta;
use crate::tar::{BLOCK, Segment};

/// A file in more pieces than this has its smallest holes filled with zeros in the stream.
const MAX_SEGMENTS: usize = 1 << 16;

/// The segments of a file that has holes; `None` for one that has not, or on a file system that cannot tell.
pub(super) fn scan(fd: impl AsFd, meta: &Meta) -> Option<Vec<Segment>> {
    if meta.allocated >= meta.size {
        return None;
    }
    let fd = fd.as_fd();
    let mut segments = Segments::new(meta.size);
    let mut position = 0;
    while position < meta.size {
        let start = match seek(fd, SeekFrom::Data(position)) {
            Ok(start) if start < meta.size => start,
            // Past the end: the file grew; what is past it is not ours.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(fd, SeekFrom::Hole(start)).ok()?;
        if end <= start {
            return None;
        }
        segments.push(start, end);
        position = end;
    }
    segments.finish()
}

/// Data segments, on block boundaries and not too many.
struct Segments {
    size: u64,
    /// Holes below this are not worth their segment.
    least_hole: u64,
    list: Vec<Segment>,
}

impl Segments {
    const fn new(size: u64) -> Self {
        Self { size, least_hole: 1, list: Vec::new() }
    }

    fn push(&mut self, start: u64, end: u64) {
        let start = start - start % BLOCK as u64;
        let end = end.checked_next_multiple_of(BLOCK as u64).unwrap_or(end).min(self.size);
        self.append(start, end);
        while self.list.len() > MAX_SEGMENTS {
            self.least_hole *= 2;
            for Segment { offset, length } in std::mem::take(&mut self.list) {
                self.append(offset, offset + length);
            }
        }
    }

    fn append(&mut self, start: u64, end: u64) {
        match self.list.last_mut() {
            Some(last) if start < last.offset + last.length + self.least_hole => {
                last.length = end.max(last.offset + last.length) - last.offset;
            }
            _ => self.list.push(Segment { offset: start, length: end - start }),
        }
    }

    fn finish(mut self) -> Option<Vec<Segment>> {
        if self.list == [(Segment { offset: 0, length: self.size })] {
            return None;
        }
        let end = self.list.last().map_or(0, |last| last.offset + last.length);
        if end < self.size {
            self.list.push(Segment { offset: self.size, length: 0 });
        }
        Some(self.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(size: u64, data: &[(u64, u64)]) -> Option<Vec<(u64, u64)>> {
        let mut segments = Segments::new(size);
        for (start, end) in data {
            segments.push(*start, *end);
        }
        segments.finish().map(|list| list.iter().map(|segment| (segment.offset, segment.length)).collect())
    }

    #[test]
    fn segments_lie_on_blocks_and_say_how_the_file_ends() {
        assert_eq!(collect(4096, &[(0, 4096)]), None);
        assert_eq!(collect(4096, &[]), Some(vec![(4096, 0)]));
        assert_eq!(collect(5000, &[(4096, 5000)]), Some(vec![(4096, 904)]));
        assert_eq!(collect(9000, &[(700, 800), (1100, 1200)]), Some(vec![(512, 1024), (9000, 0)]));
        assert_eq!(collect(1000, &[(0, 10), (600, 1000)]), None);
    }

    #[test]
    fn too_many_segments_lose_their_smallest_holes() {
        let many: Vec<_> = (0..MAX_SEGMENTS as u64 * 2).map(|i| (i * 8192, i * 8192 + 4096)).collect();
        let size = 1 << 40;
        let segments = collect(size, &[&many[..], &[(size - 4096, size)]].concat()).unwrap();
        assert!(segments.len() <= MAX_SEGMENTS + 1);
        assert_eq!(segments.last(), Some(&(size - 4096, 4096)));
        let covered = |at: u64| segments.iter().any(|(offset, length)| (*offset..offset + length).contains(&at));
        assert!(many.iter().all(|(start, _)| covered(*start)));
    }
}
