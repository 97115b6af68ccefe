//! The arithmetic of the format: lengths and positions of a payload, plain and encrypted.
//!
//! ```text
//! header │ nonce │ chunk 0 │ tag │ chunk 1 │ tag │ … │ last chunk, 1 to 65,536 bytes │ tag
//! └── prefix ────┘
//! ```
//!
//! An empty payload is one empty chunk. All results are exact; a result that no `u64` holds is `None`.

use std::ops::Range;

/// Plain bytes of a chunk that is not the last.
pub const CHUNK: usize = 64 << 10;

/// Bytes that encryption adds to a chunk.
pub const TAG: usize = 16;

/// Encrypted bytes of a chunk that is not the last.
pub const SEALED_CHUNK: usize = CHUNK + TAG;

const CHUNK_64: u64 = CHUNK as u64;
const TAG_64: u64 = TAG as u64;
const SEALED_64: u64 = SEALED_CHUNK as u64;

/// No age file has this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is {found} bytes long, of which {prefix} are the age header; no payload has the {} bytes that are left", found.saturating_sub(*prefix))]
pub struct SizeError {
    pub prefix: u64,
    pub found: u64,
}

/// The arithmetic of one object, by the length of its header and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    prefix: u64,
}

/// Where to continue so that the output begins with a certain encrypted byte: see [`Layout::restart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// The chunk to begin with.
    pub chunk: u64,
    /// The position of its first byte in the plain payload.
    pub plain: u64,
    /// The bytes to drop from the output.
    pub skip: u64,
}

impl Layout {
    /// `prefix`: bytes of header and nonce.
    #[must_use]
    pub fn new(prefix: u64) -> Self {
        Self { prefix }
    }

    #[must_use]
    pub fn prefix(self) -> u64 {
        self.prefix
    }

    /// The object's length.
    #[must_use]
    pub fn encrypted_len(self, plain_len: u64) -> Option<u64> {
        let tags = chunks(plain_len).checked_mul(TAG_64)?;
        plain_len.checked_add(tags)?.checked_add(self.prefix)
    }

    /// The payload's length.
    ///
    /// # Errors
    /// When no payload makes an object of that length.
    pub fn plain_len(self, encrypted_len: u64) -> Result<u64, SizeError> {
        let wrong = SizeError { prefix: self.prefix, found: encrypted_len };
        let payload = encrypted_len.checked_sub(self.prefix).ok_or(wrong)?;
        let (full, rest) = (payload / SEALED_64, payload % SEALED_64);
        match rest {
            0 if full > 0 => Ok(full * CHUNK_64),
            // Only the chunk of an empty payload is empty.
            TAG_64 if full == 0 => Ok(0),
            0..=TAG_64 => Err(wrong),
            _ => Ok(full * CHUNK_64 + rest - TAG_64),
        }
    }

    /// The encrypted bytes of a chunk of a payload of that length.
    #[must_use]
    pub fn chunk(self, chunk: u64, plain_len: u64) -> Option<Range<u64>> {
        let last = chunks(plain_len) - 1;
        if chunk > last {
            return None;
        }
        let start = chunk.checked_mul(SEALED_64)?.checked_add(self.prefix)?;
        let end = if chunk == last { self.encrypted_len(plain_len)? } else { start.checked_add(SEALED_64)? };
        Some(start..end)
    }

    /// The encrypted bytes that contain the plain bytes `range` of a payload of that length: whole chunks. `None` when the range is empty or
    /// outside the payload.
    #[must_use]
    pub fn fetch(self, range: &Range<u64>, plain_len: u64) -> Option<Range<u64>> {
        if range.is_empty() || range.end > plain_len {
            return None;
        }
        let first = self.chunk(range.start / CHUNK_64, plain_len)?;
        let last = self.chunk((range.end - 1) / CHUNK_64, plain_len)?;
        Some(first.start..last.end)
    }

    /// The most encrypted bytes that [`Layout::fetch`] returns for that many plain bytes, wherever they are.
    #[must_use]
    pub const fn most_fetched(plain_bytes: usize) -> usize {
        (plain_bytes.div_ceil(CHUNK) + 1) * SEALED_CHUNK
    }

    /// How many bytes of the object must be stored until the first `plain` bytes of the payload can be read, if more follow. Where they end
    /// the payload it may be less.
    #[must_use]
    pub fn readable_at(self, plain: u64) -> Option<u64> {
        plain.div_ceil(CHUNK_64).checked_mul(SEALED_64)?.checked_add(self.prefix)
    }

    /// Where to continue encrypting so that the output begins with the object's byte `encrypted`, as at the border of an upload's part.
    /// `None` within header and nonce.
    #[must_use]
    pub fn restart(self, encrypted: u64) -> Option<Restart> {
        let payload = encrypted.checked_sub(self.prefix)?;
        let (chunk, skip) = (payload / SEALED_64, payload % SEALED_64);
        Some(Restart { chunk, plain: chunk * CHUNK_64, skip })
    }
}

/// The chunks of a payload; at least one.
#[must_use]
pub fn chunks(plain_len: u64) -> u64 {
    plain_len.div_ceil(CHUNK_64).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_at_every_border() {
        let layout = Layout::new(200);
        for (plain, encrypted) in [
            (0, 216),
            (1, 217),
            (65_535, 65_751),
            (65_536, 65_752),
            (65_537, 65_769),
            (131_072, 131_304),
            (131_073, 131_321),
            (5 << 30, (5 << 30) + 81_920 * 16 + 200),
        ] {
            assert_eq!(layout.encrypted_len(plain), Some(encrypted));
            assert_eq!(layout.plain_len(encrypted), Ok(plain));
        }
        for impossible in [0, 199, 200, 215, 65_753, 65_768, 131_305, 131_320] {
            let wrong = SizeError { prefix: 200, found: impossible };
            assert_eq!(layout.plain_len(impossible), Err(wrong), "{impossible}");
        }
        assert_eq!(layout.encrypted_len(u64::MAX), None);
        assert_eq!(Layout::new(u64::MAX).plain_len(5), Err(SizeError { prefix: u64::MAX, found: 5 }));
    }

    #[test]
    fn ranges_at_every_border() {
        let (layout, len) = (Layout::new(200), 131_073);
        for (range, fetched) in [
            (0..1, 200..65_752),
            (65_535..65_536, 200..65_752),
            (65_536..65_537, 65_752..131_304),
            (65_535..65_537, 200..131_304),
            (131_072..131_073, 131_304..131_321),
            (0..131_073, 200..131_321),
        ] {
            assert_eq!(layout.fetch(&range, len), Some(fetched), "{range:?}");
        }
        assert_eq!(layout.fetch(&(5..5), len), None);
        assert_eq!(layout.fetch(&(5..131_074), len), None);
        assert_eq!(layout.chunk(3, len), None);
        assert_eq!(layout.chunk(0, 0), Some(200..216));
    }

    proptest! {
        #[test]
        fn lengths_go_both_ways(prefix in 0_u64..100_000, plain in 0_u64..1 << 60) {
            let layout = Layout::new(prefix);
            prop_assert_eq!(layout.plain_len(layout.encrypted_len(plain).unwrap()), Ok(plain));
        }

        #[test]
        fn every_length_is_refused_or_exact(prefix in 0_u64..1000, encrypted: u64) {
            let layout = Layout::new(prefix);
            if let Ok(plain) = layout.plain_len(encrypted) {
                prop_assert_eq!(layout.encrypted_len(plain), Some(encrypted));
            }
        }

        #[test]
        fn a_fetched_range_is_whole_chunks_and_no_more(start in 0_u64..1 << 22, len in 1_u64..1 << 21, more in 0_u64..1 << 20) {
            let (layout, range) = (Layout::new(184), start..start + len);
            let total = range.end + more;
            let fetched = layout.fetch(&range, total).unwrap();
            prop_assert_eq!((fetched.start - 184) % SEALED_64, 0);
            let restart = layout.restart(fetched.start).unwrap();
            prop_assert!(restart.skip == 0 && restart.plain <= range.start && range.start < restart.plain + CHUNK_64);
            let end = layout.encrypted_len(total).unwrap();
            prop_assert!(fetched.end == end || (fetched.end - 184) % SEALED_64 == 0);
            prop_assert!(fetched.end - fetched.start <= Layout::most_fetched(usize::try_from(len).unwrap()) as u64);
            prop_assert!(fetched.end <= layout.readable_at(range.end).unwrap());
        }
    }
}
