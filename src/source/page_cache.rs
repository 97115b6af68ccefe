//! Keeps a backup from displacing the node's page cache: pages that it brought in are dropped again.
//!
//! From Linux 6.14 on, if the file system supports it (ext4, xfs, btrfs), each read asks for that itself (`RWF_DONTCACHE`): pages that an
//! application had cached stay. Elsewhere the pages behind the reader are dropped (`POSIX_FADV_DONTNEED`), also those that others had
//! cached: telling the two apart costs more system calls than the read. There, files of at most [`SMALL`] bytes, which are the most likely
//! to be in use and matter least, are not dropped. Errors from advice are ignored.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, read};

/// One read-ahead window (the kernel's default, 128 KiB): smaller files need no advice.
const SMALL: u64 = 128 << 10;

/// How far a reader gets before the pages behind it are dropped. Large, so that the calls cost little; small compared
/// to any node's memory.
const STEP: u64 = 8 << 20;

/// `RWF_DONTCACHE` of linux/fs.h, which rustix does not define yet.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

#[derive(Debug)]
pub(super) struct Reader {
    how: How,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Small,
    DontCache,
    /// The pages before this offset were dropped.
    DropBehind(u64),
    /// The file cannot seek (some FUSE files): it is read in order, and offsets are ignored.
    InOrder,
}

impl Reader {
    /// Must be called when a file of `size` bytes is opened.
    pub(super) fn start(fd: impl AsFd, size: u64) -> Self {
        if size <= SMALL {
            return Self { how: How::Small };
        }
        let _ = fadvise(fd, 0, None, Advice::Sequential);
        Self { how: How::DontCache }
    }

    /// Reads some bytes into `buffer`; 0 is the end.
    ///
    /// `EAGAIN` is returned like other errors: a file opened without blocking returns it when it has no data to read now (tracefs,
    /// FUSE), perhaps for ever. Leases are waited for when the file is opened.
    pub(super) fn read_at(&mut self, fd: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let length = loop {
            let length = match self.how {
                How::DontCache => preadv2(&fd, &mut [IoSliceMut::new(buffer)], offset, DONT_CACHE),
                How::Small | How::DropBehind(_) => pread(&fd, &mut *buffer, offset),
                How::InOrder => read(&fd, &mut *buffer),
            };
            match length {
                Err(Errno::INTR) => {}
                Err(Errno::SPIPE) if offset == 0 => self.how = How::InOrder,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) if matches!(self.how, How::DontCache) => {
                    self.how = How::DropBehind(0);
                }
                other => break other?,
            }
        };
        let end = offset + length as u64;
        if let How::DropBehind(dropped) = &mut self.how
            && end.saturating_sub(*dropped) >= STEP
        {
            let _ = fadvise(fd, *dropped, NonZeroU64::new(end - *dropped), Advice::DontNeed);
            // The kernel drops only whole pages: the page that holds `end` is dropped with the next step.
            *dropped = end & !4095;
        }
        Ok(length)
    }

    /// Must be called when the reader is done with the file.
    pub(super) fn end(&self, fd: impl AsFd) {
        if let How::DropBehind(dropped) = self.how {
            let _ = fadvise(fd, dropped, None, Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn all(reader: &mut Reader, file: &std::fs::File) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        loop {
            let count = reader.read_at(file, &mut buffer, bytes.len() as u64).unwrap();
            if count == 0 {
                reader.end(file);
                return bytes;
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
    }

    #[test]
    fn every_way_reads_the_same_bytes() {
        let content: Vec<u8> = (0..2 * STEP + 4097).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        for how in [How::Small, How::DontCache, How::DropBehind(0)] {
            assert!(all(&mut Reader { how }, &file) == content, "{how:?}");
        }
    }

    /// tmpfs does not support uncached reads: the kernel refuses, and the reader uses the other way.
    #[test]
    fn where_the_kernel_refuses_pages_are_dropped_behind() {
        let fd = rustix::fs::memfd_create("page-cache", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = std::fs::File::from(fd);
        file.write_all_at(&vec![7; 3 << 20], 0).unwrap();
        let mut reader = Reader::start(&file, 3 << 20);
        assert!(matches!(reader.how, How::DontCache));
        assert!(all(&mut reader, &file) == vec![7; 3 << 20]);
        assert!(matches!(reader.how, How::DropBehind(_)));
    }
}
