//! Checksums that S3 verifies: computed once over a part, sent as a plain header, combined for the whole object.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The checksum that a location sends (`checksum = "…"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    #[default]
    Crc64nvme,
    Crc32c,
    Sha256,
    None,
}

/// A checksum's value. CRCs combine; SHA-256 does not, so an object that was uploaded in parts has no full-object value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    Crc64nvme(u64),
    Crc32c(u32),
    Sha256([u8; 32]),
}

/// The first half of the SHA-256 of `data`: enough to tell things apart that are too many to be kept.
#[must_use]
pub fn fingerprint(data: &[u8]) -> [u8; 16] {
    let whole: [u8; 32] = Sha256::digest(data).into();
    let [half, _] = whole.as_chunks().0 else { unreachable!("32 bytes are two halves") };
    *half
}

impl Algorithm {
    /// Computes this checksum; `None` for [`Algorithm::None`].
    #[must_use]
    pub fn compute(self, data: &[u8]) -> Option<Checksum> {
        match self {
            Self::Crc64nvme => Some(Checksum::Crc64nvme(crc64nvme(data))),
            Self::Crc32c => Some(Checksum::Crc32c(crc32c([data]))),
            Self::Sha256 => Some(Checksum::Sha256(sha256([data]))),
            Self::None => None,
        }
    }
}

#[must_use]
pub fn crc64nvme(data: &[u8]) -> u64 {
    crc_fast::crc64_nvme(data)
}

#[must_use]
pub fn crc32c(pieces: impl IntoIterator<Item: AsRef<[u8]>>) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    pieces.into_iter().for_each(|piece| digest.update(piece.as_ref()));
    u32::try_from(digest.finalize()).expect("it has 32 bits")
}

#[must_use]
pub fn sha256(pieces: impl IntoIterator<Item: AsRef<[u8]>>) -> [u8; 32] {
    pieces.into_iter().fold(Sha256::new(), Sha256::chain_update).finalize().into()
}

/// Computes a CRC-64/NVME piece by piece.
#[derive(Debug, Clone, Copy)]
pub struct Crc64nvme(crc_fast::Digest);

impl Crc64nvme {
    #[must_use]
    pub fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }

    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    #[must_use]
    pub fn finish(self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64nvme {
    fn default() -> Self {
        Self::new()
    }
}

impl Checksum {
    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::Crc64nvme(_) => Algorithm::Crc64nvme,
            Self::Crc32c(_) => Algorithm::Crc32c,
            Self::Sha256(_) => Algorithm::Sha256,
        }
    }

    /// The checksum of `self`'s bytes followed by the `next_len` bytes of `next`. `None` if the algorithm cannot combine or the two
    /// have different ones.
    #[must_use]
    pub fn combine(self, next: Self, next_len: u64) -> Option<Self> {
        use crc_fast::{CrcAlgorithm, checksum_combine};
        match (self, next) {
            (Self::Crc64nvme(a), Self::Crc64nvme(b)) => {
                Some(Self::Crc64nvme(checksum_combine(CrcAlgorithm::Crc64Nvme, a, b, next_len)))
            }
            (Self::Crc32c(a), Self::Crc32c(b)) => {
                let combined = checksum_combine(CrcAlgorithm::Crc32Iscsi, a.into(), b.into(), next_len);
                u32::try_from(combined).ok().map(Self::Crc32c)
            }
            (Self::Crc64nvme(_) | Self::Crc32c(_) | Self::Sha256(_), _) => None,
        }
    }

    /// The value for S3's `x-amz-checksum-…` headers: base64 of the big-endian bytes.
    #[must_use]
    pub fn to_header(self) -> String {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        match self {
            Self::Crc64nvme(value) => encode(&value.to_be_bytes()),
            Self::Crc32c(value) => encode(&value.to_be_bytes()),
            Self::Sha256(value) => encode(&value),
        }
    }

    /// The inverse of [`Checksum::to_header`]; `None` if malformed (a composite checksum's `-N` too).
    #[must_use]
    pub fn from_header(algorithm: Algorithm, header: &str) -> Option<Self> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(header).ok()?;
        match algorithm {
            Algorithm::Crc64nvme => Some(Self::Crc64nvme(u64::from_be_bytes(bytes.try_into().ok()?))),
            Algorithm::Crc32c => Some(Self::Crc32c(u32::from_be_bytes(bytes.try_into().ok()?))),
            Algorithm::Sha256 => Some(Self::Sha256(bytes.try_into().ok()?)),
            Algorithm::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn combined_equals_whole(a in proptest::collection::vec(any::<u8>(), 0..5000), b in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let whole: Vec<u8> = a.iter().chain(&b).copied().collect();
            for algorithm in [Algorithm::Crc64nvme, Algorithm::Crc32c] {
                let combined = algorithm.compute(&a).unwrap().combine(algorithm.compute(&b).unwrap(), b.len() as u64);
                prop_assert_eq!(combined, algorithm.compute(&whole));
            }
        }

        #[test]
        fn piece_by_piece_equals_whole(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..9)) {
            let mut crc = Crc64nvme::new();
            for piece in &pieces {
                crc.update(piece);
            }
            prop_assert_eq!(crc.finish(), crc64nvme(&pieces.concat()));
        }

        #[test]
        fn headers_round_trip(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            for algorithm in [Algorithm::Crc64nvme, Algorithm::Crc32c, Algorithm::Sha256] {
                let checksum = algorithm.compute(&data).unwrap();
                prop_assert_eq!(Checksum::from_header(algorithm, &checksum.to_header()), Some(checksum));
            }
        }
    }

    #[test]
    fn published_check_values() {
        // The "check" values of the CRC catalogue for "123456789".
        assert_eq!(Algorithm::Crc64nvme.compute(b"123456789"), Some(Checksum::Crc64nvme(0xae8b_1486_0a79_9888)));
        assert_eq!(Algorithm::Crc32c.compute(b"123456789"), Some(Checksum::Crc32c(0xe306_9283)));
    }
}
