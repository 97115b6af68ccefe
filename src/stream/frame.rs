//! One chunk, stored: its plain bytes, or one zstd frame with a content checksum, so that `zstd -d` checks it too.

use std::cell::RefCell;
use std::io;

use sha2::{Digest, Sha256};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::format::index::{Chunk, ChunkId, Encoding};

/// What SHA-256 takes at once.
const HASH_BLOCK: usize = 64;

/// How chunks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd { level: i32 },
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd { level: 1 }
    }
}

impl Compression {
    #[must_use]
    pub const fn encoding(self) -> Encoding {
        match self {
            Self::None => Encoding::Raw,
            Self::Zstd { .. } => Encoding::Zstd,
        }
    }
}

#[must_use]
pub fn digest(plain: &[u8]) -> ChunkId {
    ChunkId(Sha256::digest(plain).into())
}

/// Names several chunks in less time than one after the other: two at a time, block by block. Each round of SHA-256 waits for the
/// one before it, so the processor has room for a second hash beside the first.
#[must_use]
pub fn digests<'a>(chunks: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<ChunkId> {
    struct Lane<'a> {
        at: usize,
        hash: Sha256,
        left: &'a [u8],
    }
    impl Lane<'_> {
        fn finish(self, ids: &mut [ChunkId]) {
            ids[self.at] = ChunkId(self.hash.chain_update(self.left).finalize().into());
        }
    }
    let mut ids = vec![ChunkId([0; 32]); chunks.len()];
    let mut lanes = chunks.enumerate().map(|(at, left)| Lane { at, hash: Sha256::new(), left });
    let mut first = lanes.next();
    while let Some(mut a) = first {
        let Some(mut b) = lanes.next() else {
            a.finish(&mut ids);
            break;
        };
        let common = a.left.len().min(b.left.len()) / HASH_BLOCK;
        let (blocks_a, _) = a.left.as_chunks::<HASH_BLOCK>();
        let (blocks_b, _) = b.left.as_chunks::<HASH_BLOCK>();
        for (block_a, block_b) in blocks_a[..common].iter().zip(&blocks_b[..common]) {
            a.hash.update(block_a);
            b.hash.update(block_b);
        }
        a.left = &a.left[common * HASH_BLOCK..];
        b.left = &b.left[common * HASH_BLOCK..];
        let (short, long) = if a.left.len() < b.left.len() { (a, b) } else { (b, a) };
        short.finish(&mut ids);
        first = Some(long);
    }
    ids
}

thread_local! {
    /// A compression context costs a megabyte and some time to make: one for each thread, for its last level.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// zstd's level 1 looks back 512 KiB for 7 bytes or more at 16,384 places, which is little for a chunk (docs/decisions/0044).
const FASTEST: [CParameter; 3] = [CParameter::WindowLog(21), CParameter::HashLog(15), CParameter::MinMatch(6)];

/// Compresses one chunk to one frame.
///
/// # Errors
/// Only when zstd cannot get memory or refuses the level.
pub fn compress(plain: &[u8], level: i32) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(have, _)| *have != level) {
            let mut compressor = Compressor::new(level)?;
            compressor.set_parameter(CParameter::ChecksumFlag(true))?;
            if level == 1 {
                FASTEST.into_iter().try_for_each(|parameter| compressor.set_parameter(parameter))?;
            }
            *slot = Some((level, compressor));
        }
        let (_, compressor) = slot.as_mut().expect("set just above");
        compressor.compress(plain)
    })
}

/// Why a stored chunk is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("is not a zstd frame of {expected} bytes: {reason}")]
    Zstd { expected: usize, reason: String },
    #[error("has {found} plain bytes; expected {expected}")]
    Length { expected: usize, found: usize },
    #[error("has the digest {found:?}; expected {expected:?}")]
    Digest { expected: ChunkId, found: ChunkId },
}

/// Turns stored bytes back into `chunk`'s plain bytes, which fill `plain` (of `chunk.plain_len` bytes) exactly, and checks its name.
///
/// Never writes more than `plain` holds, whatever the frame claims.
///
/// # Errors
/// When `stored` is not that chunk.
pub fn open(chunk: &Chunk, stored: &[u8], plain: &mut [u8]) -> Result<(), FrameError> {
    let expected = plain.len();
    let found = match chunk.encoding {
        Encoding::Raw => {
            if stored.len() != expected {
                return Err(FrameError::Length { expected, found: stored.len() });
            }
            plain.copy_from_slice(stored);
            expected
        }
        Encoding::Zstd => {
            decompress(stored, plain).map_err(|error| FrameError::Zstd { expected, reason: error.to_string() })?
        }
    };
    if found != expected {
        return Err(FrameError::Length { expected, found });
    }
    let found = digest(plain);
    if found != chunk.id {
        return Err(FrameError::Digest { expected: chunk.id, found });
    }
    Ok(())
}

fn decompress(stored: &[u8], plain: &mut [u8]) -> io::Result<usize> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Decompressor::new()?);
        }
        slot.as_mut().expect("set just above").decompress_to_buffer(stored, plain)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(plain: &[u8], encoding: Encoding, stored_len: usize) -> Chunk {
        Chunk {
            id: digest(plain),
            plain_len: u32::try_from(plain.len()).unwrap(),
            encoding,
            object: 0,
            offset: 0,
            stored_len: u32::try_from(stored_len).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn round_trip(plain in proptest::collection::vec(any::<u8>(), 1..10_000), level in 1..4) {
            let stored = compress(&plain, level).unwrap();
            prop_assert!(stored.len() <= crate::format::index::max_stored(u32::try_from(plain.len()).unwrap()) as usize);
            let mut out = vec![0; plain.len()];
            open(&chunk(&plain, Encoding::Zstd, stored.len()), &stored, &mut out).unwrap();
            prop_assert_eq!(&out, &plain);
            open(&chunk(&plain, Encoding::Raw, plain.len()), &plain, &mut out).unwrap();
        }

        #[test]
        fn any_change_is_refused(plain in proptest::collection::vec(any::<u8>(), 1..2000), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut stored = compress(&plain, 1).unwrap();
            let described = chunk(&plain, Encoding::Zstd, stored.len());
            let at = at.index(stored.len());
            stored[at] ^= 1 << bit;
            let mut out = vec![0; plain.len()];
            let opened = open(&described, &stored, &mut out);
            // A bit that zstd does not use may flip without harm; then the bytes are right all the same.
            prop_assert!(opened.is_err() || out == plain);
        }
    }

    proptest! {
        #[test]
        fn names_do_not_depend_on_what_is_hashed_beside_them(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1000), 0..7),
        ) {
            let one_by_one: Vec<ChunkId> = chunks.iter().map(|chunk| digest(chunk)).collect();
            prop_assert_eq!(digests(chunks.iter().map(Vec::as_slice)), one_by_one);
        }
    }

    #[test]
    fn a_bomb_stays_within_its_buffer() {
        let stored = compress(&vec![0; 4 << 20], 1).unwrap();
        let mut out = vec![0; 1000];
        let refused = open(&chunk(&[0; 1000], Encoding::Zstd, stored.len()), &stored, &mut out);
        assert!(matches!(refused, Err(FrameError::Zstd { expected: 1000, .. })), "{refused:?}");
    }
}
