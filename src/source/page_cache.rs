//! Keeps a backup from washing the node's page cache out: what was not there before it is not there after it.
//!
//! From Linux 6.14 on, where the file system has it (ext4, xfs, btrfs), a read says so itself (`RWF_DONTCACHE`): what an application had
//! cached stays. Elsewhere what has been read is given back behind the reader (`POSIX_FADV_DONTNEED`), whoever had put it there: telling the
//! two apart costs more system calls than the read. Files of at most [`SMALL`] bytes, which are the most likely to be hot and matter
//! least, are left alone there. Advice is only advice: an error from it changes nothing and is ignored.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, read};

/// One read-ahead window (the kernel's default, 128 KiB): below it there is nothing to advise.
const SMALL: u64 = 128 << 10;

/// How far a reader gets before the pages behind it are dropped. Large, so that the calls cost nothing; small against
/// any node's memory.
const STEP: u64 = 8 << 20;

/// `RWF_DONTCACHE` of linux/fs.h, which rustix does not name yet.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// One file's reader.
#[derive(Debug)]
pub(super) struct Reader {
    how: How,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Small,
    DontCache,
    /// And the pages before this offset have been.
    DropBehind(u64),
    /// It cannot seek (some FUSE files): it is read in order, whatever is asked for.
    InOrder,
}

impl Reader {
    /// To be called when a file of `size` bytes is opened.
    pub(super) fn start(fd: impl AsFd, size: u64) -> Self {
        if size <= SMALL {
            return Self { how: How::Small };
        }
        let _ = fadvise(fd, 0, None, Advice::Sequential);
        Self { how: How::DontCache }
    }

    /// Reads some bytes into `buffer`; 0 is the end.
    ///
    /// `EAGAIN` is an error like others: a file opened without blocking answers so where nothing is to be read now (tracefs, FUSE), for
    /// as long as nothing comes. Leases are waited for when the file is opened.
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
            // The page that holds `end` is only dropped whole: it is asked for again with the next step.
            *dropped = end & !4095;
        }
        Ok(length)
    }

    /// The reader is done with the file.
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

    /// Memory is no file system that could read around the page cache: the kernel refuses, and the reader goes on the other way.
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
