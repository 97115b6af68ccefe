//! Where chunks end: FastCDC (Xia et al. 2020), normalisation level 1, by the crate `fastcdc`.
//!
//! The borders depend on the content alone, never on how it arrived. They are no part of the format: a reader takes any.
//! But a change here makes every chunk new to its parent, once.

use fastcdc::v2020::FastCDC;

/// design/format.md: minimum 512 KiB, average 1 MiB, maximum 4 MiB.
pub const MIN: usize = 512 << 10;
pub const AVERAGE: usize = 1 << 20;
pub const MAX: usize = crate::format::index::MAX_CHUNK as usize;

/// Whether bytes may follow what is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    Maybe,
    No,
}

/// The length of the first chunk of `data`; `None` when that depends on bytes that have not arrived.
#[must_use]
pub fn first_chunk(data: &[u8], more: More) -> Option<usize> {
    if data.is_empty() {
        return None;
    }
    let (_, length) = FastCDC::new(data, MIN, AVERAGE, MAX).cut(0, data.len());
    let decided = length < data.len() || length == MAX || more == More::No;
    decided.then_some(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes without a pattern, the same in every run (xorshift64*).
    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            bytes.extend_from_slice(&seed.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn borders(data: &[u8]) -> Vec<usize> {
        let mut position = 0;
        let mut borders = Vec::new();
        while let Some(length) = first_chunk(&data[position..], More::No) {
            position += length;
            borders.push(position);
        }
        borders
    }

    #[test]
    fn borders_never_move() {
        // A golden value: if this fails, every backup after the change stores everything again once. Say so in the changelog.
        assert_eq!(borders(&noise(8 << 20, 42)), GOLDEN);
    }

    const GOLDEN: [usize; 8] = [1_087_539, 2_389_137, 3_064_773, 4_445_043, 5_089_369, 7_115_864, 8_347_190, 8_388_608];

    #[test]
    fn an_insertion_moves_few_borders() {
        let data = noise(32 << 20, 7);
        let mut edited = data.clone();
        edited.splice(5_000_000..5_000_000, *b"inserted");
        let before: std::collections::BTreeSet<_> =
            borders(&data).into_iter().map(|border| data.len() - border).collect();
        let kept = borders(&edited).into_iter().filter(|border| before.contains(&(edited.len() - border))).count();
        assert!(before.len() - kept <= 4, "{} of {} borders moved", before.len() - kept, before.len());
    }

    #[test]
    fn sizes_stay_within_their_limits() {
        let data = noise(64 << 20, 3);
        let borders = borders(&data);
        let mut start = 0;
        for (index, end) in borders.iter().enumerate() {
            let length = end - start;
            assert!(length <= MAX && (length >= MIN || index + 1 == borders.len()), "{length}");
            start = *end;
        }
        assert_eq!(start, data.len());
        let average = data.len() / borders.len();
        assert!((AVERAGE * 3 / 4..AVERAGE * 2).contains(&average), "{average}");
    }

    #[test]
    fn runs_of_one_byte_are_cut_at_the_maximum() {
        assert_eq!(borders(&vec![0; 10 << 20]), [4 << 20, 8 << 20, 10 << 20]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_border_does_not_depend_on_how_much_has_arrived(seed in 1_u64.., seen in 1_usize..6 << 20) {
            let data = noise(6 << 20, seed);
            if let Some(early) = first_chunk(&data[..seen], More::Maybe) {
                prop_assert_eq!(Some(early), first_chunk(&data, More::Maybe));
            }
        }
    }
}
