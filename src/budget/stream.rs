//! What one stream of a backup takes of the budget: its pipeline, and one part to send.

use crate::format::codec::MAX_STORED;
use crate::format::index::MAX_CHUNK;

/// A block of the reader holds a whole chunk at least, so that what is left over at its end (copied to the next block) is a small part
/// of it.
pub const BLOCK: usize = 2 * MAX_CHUNK as usize;

/// One is cut and hashed while the other is filled.
pub const BLOCKS: usize = 2;

/// A frame being made, and one being sent.
const LEAST_WINDOW: usize = 2;

/// The longest queue between the cutter and the uploader: more only costs memory.
const MOST_WINDOW: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Chunks in flight between the cutter and the upload.
    pub window: usize,
    /// What to reserve before reading anything.
    pub bytes: u64,
}

/// The smallest budget in which one stream with such parts runs. The configuration is refused below it.
#[must_use]
pub const fn least(part_size: u64) -> u64 {
    bytes(LEAST_WINDOW, part_size)
}

const fn bytes(window: usize, part_size: u64) -> u64 {
    (BLOCKS * BLOCK) as u64 + window as u64 * MAX_STORED as u64 + part_size
}

/// For a budget of `total` bytes and a pool of `threads`. The window is one chunk for each thread and two to queue, or fewer where
/// the pipeline would take more than half of the budget, or leave no room for a part.
#[must_use]
pub fn plan(total: u64, part_size: u64, threads: usize) -> Plan {
    let blocks = (BLOCKS * BLOCK) as u64;
    let frames = (total / 2).min(total.saturating_sub(part_size)).saturating_sub(blocks) / u64::from(MAX_STORED);
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
        /// What the configuration accepts, a run gets.
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
        let page = include_str!("../../docs/sizing.md");
        let besides = (least(0)).div_ceil(MIB);
        assert!(page.contains(&format!("A stream takes at least one part and {besides} MiB;")), "{besides} MiB");
        // Two jobs on two cores with the default of 256 MiB: what their pipelines leave is parts.
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
