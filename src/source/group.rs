//! Groups neighbouring members of an archive, so that each group has chunks of its own.

use crate::checksum::crc64nvme;

/// A member of this size or more has chunks of its own, which are found again when the file is renamed, gets another
/// owner, or its neighbours change.
pub(super) const LARGE: u64 = 512 << 10;

/// The least size of a group of smaller members, except for the last group and one before a large member.
const LEAST: u64 = 64 << 10;

/// Expected bytes of a group beyond [`LEAST`].
const FURTHER: u64 = 64 << 10;

/// Smaller members that share chunks, 128 KiB on average. A change stores at least its group again, about 160 KiB; half
/// of that would double the chunks in every index, and compress less well.
#[derive(Debug, Default)]
pub(super) struct Group {
    bytes: u64,
}

impl Group {
    /// Adds a member, and returns whether the group ends with it. Above [`LEAST`], its path and length decide, equally
    /// often for each byte, so that soon after an added or removed member the groups have the same borders as before.
    pub(super) fn ends_with(&mut self, path: &[u8], length: u64) -> bool {
        self.bytes += length;
        let ends = self.bytes >= LEAST && u128::from(crc64nvme(path)) * u128::from(FURTHER) < u128::from(length) << 64;
        if ends {
            *self = Self::default();
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(paths: impl Iterator<Item = u32>, length: u64) -> Vec<Vec<u32>> {
        let (mut group, mut groups) = (Group::default(), vec![Vec::new()]);
        for path in paths {
            groups.last_mut().unwrap().push(path);
            if group.ends_with(format!("usr/share/doc/file-{path}").as_bytes(), length) {
                groups.push(Vec::new());
            }
        }
        groups.pop();
        groups
    }

    #[test]
    fn groups_have_the_expected_size_and_a_large_member_ends_one() {
        for length in [1024, 5120, 25_600] {
            let groups = groups(0..100_000, length);
            let bytes = groups.iter().map(|group| group.len() as u64 * length);
            let average = bytes.clone().sum::<u64>() / groups.len() as u64;
            // A CRC spreads consecutive names more evenly than chance would, which makes groups a little smaller.
            assert!((LEAST + FURTHER * 6 / 10..LEAST + FURTHER * 13 / 10).contains(&average), "{length}: {average}");
            assert!(bytes.min().unwrap() >= LEAST);
        }
        assert!(Group::default().ends_with(b"anything", LARGE));
    }

    #[test]
    fn groups_are_the_same_again_soon_after_a_change() {
        let before: std::collections::HashSet<_> = groups(0..20_000, 5120).into_iter().collect();
        for removed in (0..20_000).step_by(500) {
            let after = groups((0..20_000).filter(|path| *path != removed), 5120);
            let new = after.iter().filter(|group| !before.contains(*group)).count();
            assert!(new <= 12, "{removed}: {new}");
        }
    }
}
