//! Decides which directories belong to the file system of a tree's root.
//!
//! A device number is not enough: each subvolume of btrfs and bcachefs has its own although nothing is mounted on it. But each mount has an
//! id of its own, even if it shows a part of the same file system again (a bind mount).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};

/// Whether a directory belongs to the file system of the tree's root: it is on the root's device or on that of its outer directory (a bind
/// mount may be too), or it is a subvolume: on another device, but on the mount of its outer directory.
pub(super) fn belongs(device: u64, root: u64, outer: u64, is_on_outer_mount: impl FnOnce() -> bool) -> bool {
    device == root || device == outer || is_on_outer_mount()
}

/// Whether two directories are on one mount; false if the kernel does not tell.
pub(super) fn is_one(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    id(a).is_some_and(|a| id(b) == Some(a))
}

fn id(fd: BorrowedFd<'_>) -> Option<u64> {
    by_statx(fd).or_else(|| by_proc(fd))
}

/// Since Linux 5.8.
fn by_statx(fd: BorrowedFd<'_>) -> Option<u64> {
    let found = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id)
}

fn by_proc(fd: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn subvolumes_and_bind_mounts_belong_and_other_mounts_do_not() {
        for (what, device, outer, is_on_outer_mount, expected) in [
            ("a directory", 1, 1, true, true),
            ("a subvolume", 2, 1, true, true),
            ("a subvolume of a subvolume", 3, 2, true, true),
            ("a directory of a subvolume", 2, 2, true, true),
            ("a bind mount of the root's file system", 1, 2, false, true),
            ("a bind mount in a subvolume of itself", 2, 2, false, true),
            ("another file system", 2, 1, false, false),
            ("a subvolume that is mounted", 3, 1, false, false),
        ] {
            assert_eq!(belongs(device, 1, outer, || is_on_outer_mount), expected, "{what}");
        }
    }

    #[test]
    fn the_kernel_tells_mounts_apart_in_either_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        let open = |path: &std::path::Path| File::open(path).unwrap();
        let [dev, pts] = ["/dev", "/dev/pts"].map(|path| open(path.as_ref()));
        let [outer, inner] = [open(dir.path()), open(&dir.path().join("below"))];
        for (a, b, one) in [(&dev, &pts, false), (&dev, &dev, true), (&outer, &inner, true), (&outer, &pts, false)] {
            assert_eq!(is_one(a.as_fd(), b.as_fd()), one);
            assert_eq!(by_proc(a.as_fd()) == by_proc(b.as_fd()), one);
        }
        assert!(by_proc(dev.as_fd()).is_some());
        if let Some(id) = by_statx(dev.as_fd()) {
            assert_eq!(Some(id), by_proc(dev.as_fd()));
        }
    }
}
