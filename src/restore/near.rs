//! Writes to a file by way of memory that stays in the processor's cache.
//!
//! The kernel copies with `rep movsb`, which is slow where the bytes were last written by another core (on AMD's Zen 4, 3 to 10 times): a copy
//! in user space, which is not, and then the kernel's out of the cache cost less together (docs/decisions/0097).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

const NEAR: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Near(Vec<u8>);

impl Near {
    pub(super) fn new() -> Self {
        Self(vec![0; NEAR])
    }

    pub(super) fn write_all_at(&mut self, file: &File, bytes: &[u8], mut offset: u64) -> io::Result<()> {
        for piece in bytes.chunks(NEAR) {
            let near = &mut self.0[..piece.len()];
            near.copy_from_slice(piece);
            file.write_all_at(near, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }
}
