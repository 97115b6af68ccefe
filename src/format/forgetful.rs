//! A compressor that does not remember.
//!
//! zstd copies the literals of a block into its context's memory, which it keeps, and in the end frees without zeroing it: what is to be
//! forgotten is overwritten with what nobody wants to know. Where the literals are depends on the size of that memory, and on that of a block,
//! so a frame that is shorter than a block is overwritten at once. A context may exchange its memory for less once it has made [`LIVES`]
//! frames, whatever their length (zstd 1.5.7), so none makes as many: it is overwritten, and another one takes its place.

use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use super::index::MAX_CHUNK;

/// The longest block of a zstd frame.
const BLOCK: usize = 128 << 10;

/// The frames that overwrite a context.
const OVERWRITES: u32 = 2;

/// zstd lets a context go that was too large for more frames than these.
const LIVES: u32 = 128;

static ZEROS: [u8; MAX_CHUNK as usize] = [0; MAX_CHUNK as usize];

pub(super) struct Forgetful {
    level: i32,
    parameters: &'static [CParameter],
    compressor: Compressor<'static>,
    /// Those that this compressor has made.
    frames: u32,
    /// Room for the longest frame so far. Each frame is copied out of it: the program zeroes what it frees, and of a frame's memory that would
    /// be three times what was used.
    out: Vec<u8>,
}

impl Forgetful {
    /// # Errors
    /// When zstd cannot get memory or refuses the level.
    pub(super) fn new(level: i32, parameters: &'static [CParameter]) -> io::Result<Self> {
        let compressor = Compressor::new(level)?;
        let mut new = Self { level, parameters, compressor, frames: 0, out: Vec::new() };
        new.begin()?;
        Ok(new)
    }

    /// Sets up a new context. The longest frame gives it its full size.
    fn begin(&mut self) -> io::Result<()> {
        self.parameters.iter().try_for_each(|parameter| self.compressor.set_parameter(*parameter))?;
        // Zeros become a few hundred bytes.
        self.put(&ZEROS, BLOCK)
    }

    /// Compresses into [`Forgetful::out`], which has at least so much room.
    fn put(&mut self, plain: &[u8], room: usize) -> io::Result<()> {
        self.frames += 1;
        self.out.clear();
        self.out.reserve(room);
        self.compressor.compress_to_buffer(plain, &mut self.out).map(drop)
    }

    /// One frame.
    ///
    /// # Errors
    /// When zstd cannot get memory.
    pub(super) fn compress(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        // This frame, noise after it, and what overwrites both.
        if self.frames + 2 + OVERWRITES > LIVES {
            self.overwrite()?;
            self.compressor = Compressor::new(self.level)?;
            self.frames = 0;
            self.begin()?;
        }
        self.put(plain, compress_bound(plain.len()))?;
        let frame = self.out.clone();
        if plain.len() < BLOCK {
            self.put(&noise(plain.len()), compress_bound(plain.len()))?;
        }
        Ok(frame)
    }

    /// Overwrites the context's memory, with [`OVERWRITES`] frames.
    fn overwrite(&mut self) -> io::Result<()> {
        // Longer frames than the first have other parameters at some levels.
        [0, 3 * BLOCK].into_iter().try_for_each(|zeros| {
            let plain = [vec![0; zeros], noise(2 * BLOCK)].concat();
            self.put(&plain, compress_bound(plain.len()))
        })
    }

    /// Overwrites what zstd has of the last chunks.
    pub(super) fn forget(&mut self) {
        if let Err(error) = self.overwrite() {
            tracing::warn!(%error, "could not overwrite what zstd keeps of the last chunks in memory");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_context_lives_so_long_that_it_may_exchange_its_memory() {
        let mut compressor = Forgetful::new(1, &[]).unwrap();
        for number in 0..3 * LIVES as usize {
            let plain = vec![7; if number % 50 == 0 { 3 * BLOCK } else { number + 1 }];
            let frame = compressor.compress(&plain).unwrap();
            assert_eq!(zstd::bulk::decompress(&frame, plain.len()).unwrap(), plain);
            assert!(compressor.frames + OVERWRITES <= LIVES, "{number}: {}", compressor.frames);
            if number % 60 == 59 {
                compressor.forget();
            }
        }
    }
}
