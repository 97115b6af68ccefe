//! Encodes a backup's bytes: the name of a chunk, its stored form, and the suffix of the object that contains it.
//!
//! A job uses only a [`Codec`]. A stored chunk is its plain bytes, or one zstd frame with a content checksum, so that `zstd -d`
//! checks it too. Encryption is of whole objects, not of chunks: see [`crate::age`].

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, RangeInclusive};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::CParameter;

use super::forgetful::Forgetful;
use super::index::{Chunk, ChunkId, MAX_CHUNK};
use crate::scrub;

/// Bytes of a SHA-256 block.
const HASH_BLOCK: usize = 64;

/// The levels of zstd that a job may ask for.
pub const LEVELS: RangeInclusive<u32> = 1..=19;

/// The level if none is configured.
pub const DEFAULT_LEVEL: u32 = 1;

/// The longest stored chunk.
pub const MAX_STORED: u32 = max_stored(MAX_CHUNK);

/// The features that a manifest may require of its reader.
pub const FEATURES: [&str; 2] = [KUBERNETES, AGE];

/// The manifest has an item of a cluster's objects.
pub const KUBERNETES: &str = "kubernetes";

/// The backup's objects are age files.
pub const AGE: &str = "age";

/// The longest stored form of a chunk: zstd lengthens incompressible bytes a little, but by less than this.
#[must_use]
pub const fn max_stored(plain_len: u32) -> u32 {
    plain_len + plain_len / 64 + 1024
}

/// How the index says that one chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// The plain bytes.
    Raw,
    /// One zstd frame.
    Zstd,
}

/// The compression that a job is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    /// A level of [`LEVELS`].
    Zstd {
        level: u32,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd { level: DEFAULT_LEVEL }
    }
}

macro_rules! suffixes {
    ($($(#[$meta:meta])* $suffix:ident = $text:literal,)+) => {
        /// The end of a stored object's key, which tells a reader without Penstock how to decode it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Suffix {
            $($(#[$meta])* $suffix,)+
        }

        impl Suffix {
            /// All suffixes. Keys are written with a [`Suffix`] and read by this list, so prune recognizes every object that a job writes.
            pub const ALL: &[Self] = &[$(Self::$suffix,)+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$suffix => $text,)+
                }
            }
        }
    };
}

suffixes! {
    TarZst = "tar.zst",
    Tar = "tar",
    Zst = "zst",
    Bin = "bin",
    /// An index, whatever the suffix of its data.
    Index = "index.zst",
    TarZstAge = "tar.zst.age",
    TarAge = "tar.age",
    ZstAge = "zst.age",
    BinAge = "bin.age",
    IndexAge = "index.zst.age",
}

impl Suffix {
    /// The suffix of the same content in an age file.
    #[must_use]
    pub const fn encrypted(self) -> Self {
        match self {
            Self::TarZst | Self::TarZstAge => Self::TarZstAge,
            Self::Tar | Self::TarAge => Self::TarAge,
            Self::Zst | Self::ZstAge => Self::ZstAge,
            Self::Bin | Self::BinAge => Self::BinAge,
            Self::Index | Self::IndexAge => Self::IndexAge,
        }
    }

    #[must_use]
    pub const fn is_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexAge)
    }
}

/// How a job stores what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codec {
    pub compression: Compression,
}

impl Codec {
    /// The suffix of the data objects of a tree's tar stream, or of one file's bytes.
    #[must_use]
    pub const fn suffix(self, tree: bool) -> Suffix {
        match (tree, self.compression) {
            (true, Compression::Zstd { .. }) => Suffix::TarZst,
            (true, Compression::None) => Suffix::Tar,
            (false, Compression::Zstd { .. }) => Suffix::Zst,
            (false, Compression::None) => Suffix::Bin,
        }
    }

    /// A chunk's stored form, at most [`max_stored`] long.
    ///
    /// # Errors
    /// When zstd cannot get memory or refuses the level.
    pub fn encode<B: Deref<Target = [u8]> + From<Vec<u8>>>(self, plain: B) -> io::Result<(Encoding, B)> {
        match self.compression {
            Compression::None => Ok((Encoding::Raw, plain)),
            Compression::Zstd { level } => Ok((Encoding::Zstd, compress(&plain, level)?.into())),
        }
    }

    /// Decodes `chunk`'s stored bytes into `plain` (of `chunk.plain_len` bytes), which they must fill exactly. Never writes past the end of
    /// `plain`, whatever length the frame states. Whether it is that chunk is for [`check`] to say.
    ///
    /// # Errors
    /// When `stored` is not the stored form of so many bytes.
    pub fn decode(chunk: &Chunk, stored: &[u8], plain: &mut [u8]) -> Result<(), FrameError> {
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
        if found == expected { Ok(()) } else { Err(FrameError::Length { expected, found }) }
    }
}

/// Checks the names of decoded chunks, together as [`digests`].
///
/// # Errors
/// The number of the first that has another, and why.
pub fn check<'a>(
    chunks: impl ExactSizeIterator<Item = (&'a Chunk, &'a [u8])> + Clone,
) -> Result<(), (usize, FrameError)> {
    let found = digests(chunks.clone().map(|(_, plain)| plain));
    let wrong = chunks.zip(found).enumerate().find(|(_, ((chunk, _), found))| chunk.id != *found);
    wrong
        .map_or(Ok(()), |(number, ((chunk, _), found))| Err((number, FrameError::Digest { expected: chunk.id, found })))
}

#[must_use]
pub fn digest(plain: &[u8]) -> ChunkId {
    ChunkId(Sha256::digest(plain).into())
}

/// Names several chunks faster than one by one: two at a time, block by block. Each round of SHA-256 waits for the one before it,
/// so the processor can compute a second hash at the same time.
#[must_use]
#[inline(never)]
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

/// Overwrites what this thread has of the last chunks, in its compressor and on its stack.
pub fn forget() {
    COMPRESSOR.with_borrow_mut(|slot| slot.as_mut().map(|(_, compressor)| compressor.forget()));
    scrub::thread();
}

/// Whether this thread has a compressor.
#[cfg(test)]
pub(crate) fn has_compressed() -> bool {
    COMPRESSOR.with_borrow(Option::is_some)
}

thread_local! {
    /// A compression context costs a megabyte and some time to create: each thread keeps one, for its last level.
    static COMPRESSOR: RefCell<Option<(u32, Forgetful)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// zstd's level 1 searches 512 KiB for 7 bytes or more at 16,384 places, which is little for a chunk (docs/decisions/0044).
const FASTEST: [CParameter; 4] =
    [CParameter::ChecksumFlag(true), CParameter::WindowLog(21), CParameter::HashLog(15), CParameter::MinMatch(6)];
const CHECKED: [CParameter; 1] = [CParameter::ChecksumFlag(true)];

fn compress(plain: &[u8], level: u32) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(have, _)| *have != level) {
            let parameters: &[CParameter] = if level == 1 { &FASTEST } else { &CHECKED };
            *slot = Some((level, Forgetful::new(level.cast_signed(), parameters)?));
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

    fn open(chunk: &Chunk, stored: &[u8], plain: &mut [u8]) -> Result<(), FrameError> {
        Codec::decode(chunk, stored, plain)?;
        check(std::iter::once((chunk, &*plain))).map_err(|(_, error)| error)
    }

    fn codecs() -> impl Strategy<Value = Codec> {
        let compression =
            prop_oneof![Just(Compression::None), (1_u32..4).prop_map(|level| Compression::Zstd { level })];
        compression.prop_map(|compression| Codec { compression })
    }

    proptest! {
        #[test]
        fn round_trip(plain in proptest::collection::vec(any::<u8>(), 1..10_000), codec in codecs()) {
            let (encoding, stored) = codec.encode(plain.clone()).unwrap();
            prop_assert!(stored.len() <= max_stored(u32::try_from(plain.len()).unwrap()) as usize);
            let mut out = vec![0; plain.len()];
            open(&chunk(&plain, encoding, stored.len()), &stored, &mut out).unwrap();
            prop_assert_eq!(&out, &plain);
        }

        #[test]
        fn any_change_is_refused(plain in proptest::collection::vec(any::<u8>(), 1..2000), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut stored = compress(&plain, 1).unwrap();
            let described = chunk(&plain, Encoding::Zstd, stored.len());
            let at = at.index(stored.len());
            stored[at] ^= 1 << bit;
            let mut out = vec![0; plain.len()];
            let opened = open(&described, &stored, &mut out);
            // Flipping a bit that zstd does not use leaves the bytes right.
            prop_assert!(opened.is_err() || out == plain);
        }

        #[test]
        fn names_do_not_depend_on_what_is_hashed_beside_them(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1000), 0..7),
        ) {
            let one_by_one: Vec<ChunkId> = chunks.iter().map(|chunk| digest(chunk)).collect();
            prop_assert_eq!(digests(chunks.iter().map(Vec::as_slice)), one_by_one);
        }
    }

    #[test]
    fn the_first_wrong_chunk_is_named() {
        let plain = [vec![1; 5000], vec![2; 70], vec![3; 900], vec![4; 5000]];
        let chunks: Vec<Chunk> = plain.iter().map(|plain| chunk(plain, Encoding::Raw, plain.len())).collect();
        let whole = chunks.iter().zip(plain.iter().map(Vec::as_slice));
        assert_eq!(check(whole.clone()), Ok(()));
        for (wrong, expected) in chunks.iter().enumerate() {
            // All later ones are wrong too.
            let given = whole.clone().enumerate();
            let given = given.map(|(at, (chunk, plain))| (chunk, if at < wrong { plain } else { &plain[1..] }));
            let given: Vec<_> = given.collect();
            let found = check(given.iter().copied()).unwrap_err();
            assert_eq!(found, (wrong, FrameError::Digest { expected: expected.id, found: digest(given[wrong].1) }));
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
