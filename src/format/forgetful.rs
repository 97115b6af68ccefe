//! A compressor that does not remember.
//!
//! zstd copies the literals of a block into its context's memory, which it keeps, and in the end frees without zeroing it: what is to be
//! forgotten is overwritten with what nobody wants to know. Where the literals are depends on the size of the memory, which therefore never
//! changes, and on that of a block, so a frame that is shorter than a block is overwritten at once.

use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::index::MAX_CHUNK;

/// The longest block of a zstd frame.
const BLOCK: usize = 128 << 10;

pub(super) struct Forgetful {
    compressor: Compressor<'static>,
    /// Room for the longest frame so far. Each frame is copied out of it: the program zeroes what it frees, and of a frame's memory that would
    /// be three times what was used.
    out: Vec<u8>,
    frames: u32,
}

static ZEROS: [u8; MAX_CHUNK as usize] = [0; MAX_CHUNK as usize];

/// zstd makes a context smaller that was too large for 128 frames.
const KEEPS_ITS_SIZE: u32 = 100;

impl Forgetful {
    /// # Errors
    /// When zstd cannot get memory or refuses the level.
    pub(super) fn new(level: i32) -> io::Result<Self> {
        Self::of(Compressor::new(level)?)
    }

    /// One that was made with its parameters.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub(super) fn of(compressor: Compressor<'static>) -> io::Result<Self> {
        let mut new = Self { compressor, out: Vec::new(), frames: 0 };
        new.grow()?;
        Ok(new)
    }

    /// The longest frame gives the context its full size.
    fn grow(&mut self) -> io::Result<()> {
        // Zeros become a few hundred bytes.
        self.fill(&ZEROS, BLOCK)
    }

    /// Compresses into [`Forgetful::out`], which has at least so much room.
    fn fill(&mut self, plain: &[u8], room: usize) -> io::Result<()> {
        self.out.clear();
        self.out.reserve(room);
        self.compressor.compress_to_buffer(plain, &mut self.out).map(drop)
    }

    /// One frame.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub(super) fn compress(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.frames += 1;
        if self.frames == KEEPS_ITS_SIZE {
            self.grow()?;
            self.frames = 0;
        }
        self.fill(plain, compress_bound(plain.len()))?;
        let frame = self.out.clone();
        if plain.len() < BLOCK {
            self.fill(&noise(plain.len()), compress_bound(plain.len()))?;
        }
        Ok(frame)
    }

    /// Overwrites what zstd has of the last chunks.
    pub(super) fn forget(&mut self) {
        // Longer frames than the first have other parameters at some levels.
        for zeros in [0, 3 * BLOCK] {
            let plain = [vec![0; zeros], noise(2 * BLOCK)].concat();
            if let Err(error) = self.fill(&plain, compress_bound(plain.len())) {
                tracing::warn!(%error, "could not overwrite what zstd keeps of the last chunks in memory");
            }
        }
        // Zeroed by the program's allocator.
        self.out = Vec::new();
    }
}

/// Nothing in it repeats, so all of it is literals.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> = std::iter::repeat_with(&mut next).take(length.div_ceil(8)).flatten().collect();
    noise.truncate(length);
    noise
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        self.forget();
    }
}
