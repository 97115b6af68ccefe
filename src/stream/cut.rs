//! Decides where chunks end: content-defined borders by a gear hash, as in FastCDC (Xia et al. 2016 and 2020).
//!
//! A border lies behind a byte where the hash of the last [`WINDOW`] bytes is below [`THRESHOLD`], at least [`MIN`] and at
//! most [`MAX`] bytes after the previous border. So borders depend on the content alone, not on how it arrived, and are
//! the same again soon after an edit. They are not part of the format: a reader accepts any. But a change here makes every
//! chunk new to its parent, once.
//!
//! Cost: a gear hash is a chain of one shift and one addition for each byte, each waiting for the one before. [`LANES`]
//! stretches are hashed at the same time, which a processor overlaps: 2.5 times as fast as the crate `fastcdc`
//! (docs/decisions/0007). Bytes before [`MIN`] are not hashed.

/// The least length of a chunk, except the last.
pub const MIN: usize = 768 << 10;
/// The average length between [`MIN`] and a border in random bytes; a chunk is 1.25 MiB then.
const EXPECTED: u64 = 512 << 10;
pub const MAX: usize = crate::format::index::MAX_CHUNK as usize;

/// A border's hash is below this, as one in [`EXPECTED`] is. Every byte of the window affects the hash's highest bits.
const THRESHOLD: u64 = u64::MAX / EXPECTED;

/// After this many shifts by one bit, a byte has left the hash.
const WINDOW: usize = u64::BITS as usize;

/// Stretches hashed at the same time; more do not fit into the registers.
const LANES: usize = 4;
/// Bytes of a lane: long, because each lane first hashes [`WINDOW`] bytes of the one before; short, because a step with a border in it
/// is hashed twice.
const STRIDE: usize = 4096;
const STEP: usize = LANES * STRIDE;

static GEAR: [u64; 256] = gear();

/// 256 pseudo-random numbers: SplitMix64 from 0.
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state: u64 = 0;
    let mut index = 0;
    while index < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = mixed ^ (mixed >> 31);
        index += 1;
    }
    table
}

/// Whether more bytes may follow the given ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    Maybe,
    No,
}

/// The length of the first chunk of `data`; `None` if it depends on bytes that have not arrived.
#[must_use]
pub fn first_chunk(data: &[u8], more: More) -> Option<usize> {
    first_chunk_beyond(data, 0, more)
}

/// The same for `data` whose first `known` bytes have been looked at: no chunk ends within them.
#[must_use]
pub fn first_chunk_beyond(data: &[u8], known: usize, more: More) -> Option<usize> {
    let (start, end) = (known.max(MIN), data.len().min(MAX));
    if end > start
        && let Some(length) = border(&data[start - WINDOW..end])
    {
        return Some(start + length);
    }
    let decided = end == MAX || (more == More::No && end > 0);
    decided.then_some(end)
}

/// Bytes from the end of the first window to the first border.
fn border(data: &[u8]) -> Option<usize> {
    let mut at = WINDOW;
    while data.len() - at >= STEP && !has_border(&data[at - WINDOW..at + STEP]) {
        at += STEP;
    }
    let mut hash = hash_of(&data[at - WINDOW..at]);
    let found = data[at..].iter().position(|byte| {
        hash = roll(hash, *byte);
        hash < THRESHOLD
    });
    found.map(|index| at - WINDOW + index + 1)
}

/// Whether there is a border in the [`STEP`] bytes after the first window.
#[expect(clippy::needless_range_loop, reason = "one index into all lanes is what keeps them in step")]
fn has_border(data: &[u8]) -> bool {
    let lanes: [&[u8; STRIDE]; LANES] = std::array::from_fn(|lane| {
        data[WINDOW + lane * STRIDE..].first_chunk().expect("the data is a window and a step")
    });
    let mut hashes: [u64; LANES] = std::array::from_fn(|lane| hash_of(&data[lane * STRIDE..][..WINDOW]));
    let mut least = [u64::MAX; LANES];
    for index in 0..STRIDE {
        for lane in 0..LANES {
            hashes[lane] = roll(hashes[lane], lanes[lane][index]);
            least[lane] = least[lane].min(hashes[lane]);
        }
    }
    least.iter().any(|least| *least < THRESHOLD)
}

const fn roll(hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(GEAR[byte as usize])
}

fn hash_of(window: &[u8]) -> u64 {
    window.iter().fold(0, |hash, byte| roll(hash, *byte))
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

    const GOLDEN: [usize; 6] = [983_715, 2_611_681, 4_029_983, 5_100_480, 7_056_181, 8_388_608];

    /// The definition, a byte at a time.
    fn slowly(data: &[u8]) -> usize {
        let is_border = |end: usize| hash_of(&data[end - WINDOW..end]) < THRESHOLD;
        let end = data.len().min(MAX);
        (MIN + 1..=end).find(|end| is_border(*end)).unwrap_or(end)
    }

    #[test]
    fn lanes_find_what_the_definition_says() {
        for seed in 1..24 {
            // Lengths around whole steps: the remainder is hashed without lanes.
            let data = noise(MIN + 40 * STEP + usize::try_from(seed).unwrap() * 1111, seed);
            assert_eq!(first_chunk(&data, More::No), Some(slowly(&data)), "seed {seed}");
        }
    }

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
        assert!((1_150_000..1_450_000).contains(&average), "{average}");
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

        #[test]
        fn a_border_does_not_depend_on_where_the_search_goes_on(seed in 1_u64.., steps in proptest::collection::vec(1_usize..2 << 20, 1..9)) {
            let data = noise(5 << 20, seed);
            let (mut known, mut seen) = (0, 0);
            for step in steps {
                seen = (seen + step).min(data.len());
                let found = first_chunk_beyond(&data[..seen], known, More::Maybe);
                prop_assert_eq!(found, first_chunk(&data[..seen], More::Maybe));
                if found.is_some() {
                    break;
                }
                known = seen;
            }
        }
    }
}
