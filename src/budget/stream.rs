//! Plans the memory of one stream of a backup: its pipeline, and one part to send.

use crate::format::codec::MAX_STORED;
use crate::format::index::MAX_CHUNK;

/// A block of the reader has room for some chunks of the usual size, so that not every one begins in one block and ends in the next.
pub const BLOCK: usize = MAX_CHUNK as usize;

/// While one block is filled, one is cut, and one is hashed.
pub const BLOCKS: usize = 3;

/// Room for a chunk that begins in one block and ends in the next.
pub const JOINT: usize = MAX_CHUNK as usize;

/// What the reader needs before anything is encoded.
pub const READING: u64 = (BLOCKS * BLOCK + JOINT) as u64;

/// One frame that is being made, and one that is being sent.
const LEAST_WINDOW: usize = 2;

/// What a stream needs besides to encrypt its objects: the frames that are being sealed, plain and sealed, buffers to use again, and
/// tags.
pub const SEALING: u64 = 3 * MAX_STORED as u64 + (1 << 20);

/// The longest queue between the cutter and the uploader: a longer one only costs memory.
const MOST_WINDOW: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Chunks in flight between the cutter and the upload.
    pub window: usize,
    /// The bytes to reserve before reading anything.
    pub bytes: u64,
}

/// The smallest budget for one stream with such parts. A configuration with less is refused.
#[must_use]
pub const fn least(part_size: u64) -> u64 {
    bytes(LEAST_WINDOW, part_size)
}

const fn bytes(window: usize, part_size: u64) -> u64 {
    READING + window as u64 * MAX_STORED as u64 + part_size
}

/// Plans for a budget of `total` bytes and a pool of `threads`. The window is one chunk for each thread and two to queue, or fewer where
/// the pipeline would take more than half of the budget, or leave no room for a part.
#[must_use]
pub fn plan(total: u64, part_size: u64, threads: usize) -> Plan {
    let frames = (total / 2).min(total.saturating_sub(part_size)).saturating_sub(READING) / u64::from(MAX_STORED);
    let affordable = usize::try_from(frames).unwrap_or(MOST_WINDOW);
    let window = (threads + 2).min(affordable).clamp(LEAST_WINDOW, MOST_WINDOW);
    Plan { window, bytes: bytes(window, part_size) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    proptest! {
        /// A run gets its memory in every budget that the configuration accepts.
        #[test]
        fn whatever_is_not_refused_fits(part in 5_u64..1024, spare in 0_u64..4096, threads in 1_usize..1024) {
            let part_size = part * MIB;
            let total = least(part_size) + spare * MIB / 7;
            let plan = plan(total, part_size, threads);
            prop_assert!(plan.bytes <= total, "{plan:?} of {total}");
            prop_assert!((LEAST_WINDOW..=MOST_WINDOW).contains(&plan.window));
        }
    }

    #[test]
    fn the_usual_ones() {
        for (total, part, threads, window) in [
            (256, 16, 2, 4),
            (256, 16, 32, 27),
            (64, 5, 2, 3),
            (1024, 16, 64, 64),
            (least(16 * MIB) / MIB + 1, 16, 8, 2),
        ] {
            assert_eq!(plan(total * MIB, part * MIB, threads).window, window, "{total} MiB, {threads} threads");
        }
        let least = least(5 * MIB);
        assert_eq!(plan(least, 5 * MIB, 8).bytes, least, "the same number");
        assert!(plan(least - 1, 5 * MIB, 8).bytes > least - 1);
    }

    #[test]
    fn the_page_on_sizing_has_the_same_numbers() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/sizing.md")).unwrap();
        let besides = (least(0)).div_ceil(MIB);
        assert!(page.contains(&format!("A stream takes at least one part and {besides} MiB;")), "{besides} MiB");
        let sealing = SEALING.div_ceil(MIB);
        assert!(page.contains(&format!("{sealing} MiB more where it encrypts")), "{sealing} MiB");
        // Two jobs on two cores with the default of 256 MiB: the rest besides their pipelines is for parts.
        let (total, part) = (256 * MIB, 16 * MIB);
        let each = (total / 2 - plan(total, part, 2).bytes) / part + 1;
        assert!(
            page.contains(&format!("two jobs at a time, {each} parts of 16 MiB in flight each (2 cores)")),
            "{each} parts"
        );
        assert!(least(part) <= 64 * MIB && 2 * least(part) > 64 * MIB, "64 MiB: one stream");
        assert!(plan(1024 * MIB, 64 * MIB, 2).bytes <= 512 * MIB, "1 GiB: two streams with 64 MiB parts");
    }
}
