//! How far a restored file opens: decisions, without I/O.
//!
//! Restored access is what was saved, and no more. A mode's group bits are the ACL's mask where the backup has an ACL, so
//! without the ACL they would give the owning group what only named users had. A group that cannot be restored leaves the
//! file to another group, which gets no more than everybody has; set-user-ID and set-group-ID are for the saved owners only.

/// Which of its saved owners a file has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) user: bool,
    pub(super) group: bool,
}

impl Owned {
    pub(super) const BOTH: Self = Self { user: true, group: true };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The mode that is safe as long as there is no ACL.
    pub(super) mode: u32,
    /// The access ACL, and the mode that it leaves.
    pub(super) acl: Option<(Vec<u8>, u32)>,
    /// What is less than was saved, and why.
    pub(super) cut: Vec<&'static str>,
}

const USER: u16 = 0x01;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The permissions of the first entry of a binary ACL with this tag.
fn permissions(acl: &[u8], tag: u16) -> Option<u32> {
    let entry = acl.get(4..)?.chunks_exact(8).find(|entry| entry[..2] == tag.to_le_bytes())?;
    Some(u32::from(u16::from_le_bytes([entry[2], entry[3]]) & 7))
}

fn set_permissions(acl: &mut [u8], tag: u16, value: u32) {
    for entry in acl.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        if entry[..2] == tag.to_le_bytes() {
            // Three bits.
            entry[2] = value.to_le_bytes()[0];
        }
    }
}

/// What a member of this mode may have; `acl` is its access ACL, or why that was not understood.
pub(super) fn plan(mode: u32, acl: Option<&Result<Vec<u8>, String>>, owned: Owned) -> Plan {
    let mut cut = Vec::new();
    let mut special = mode & 0o7000;
    if !owned.user {
        special &= !0o4000;
    }
    if !owned.group {
        special &= !0o2000;
    }
    if special != mode & 0o7000 {
        cut.push("its set-user-ID or set-group-ID bit is left off: it has another owner");
    }
    let (others, bits) = (mode & 7, (mode >> 3) & 7);
    let mut group = match acl {
        None => bits,
        Some(Err(_)) => bits & others,
        Some(Ok(acl)) => permissions(acl, GROUP).unwrap_or(0) & permissions(acl, MASK).unwrap_or(7),
    };
    let mut acl = acl.and_then(|acl| acl.as_ref().ok()).cloned();
    if !owned.group {
        if group & !others != 0 {
            cut.push("its group may do no more than others: it has another group");
        }
        group &= others;
        if let Some(acl) = &mut acl {
            let narrower = permissions(acl, GROUP).unwrap_or(0) & others;
            set_permissions(acl, GROUP, narrower);
        }
    }
    let acl = acl.map(|acl| {
        let of = |tag| permissions(&acl, tag);
        let masked = of(MASK).or(of(GROUP)).unwrap_or(0);
        let left = special | (of(USER).unwrap_or(0) << 6) | (masked << 3) | of(OTHER).unwrap_or(0);
        (acl, left)
    });
    Plan { mode: special | (mode & 0o707) | (group << 3), acl, cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::acl::{to_binary, to_text};

    #[test]
    fn nobody_gets_more_than_was_saved() {
        let lost = Owned { user: false, group: false };
        let user = Owned { user: false, group: true };
        let acl = "user::rwx,user:7:rw-,group::r--,mask::rw-,other::---";
        let open = "user::rwx,user:7:rw-,group::rwx,mask::rw-,other::r--";
        // Mode, ACL, owners, the mode without the ACL, the ACL that is set and the mode it leaves, cuts.
        for (mode, text, owned, plain, set, cuts) in [
            (0o640, None, Owned::BOTH, 0o640, None, 0),
            (0o6755, None, Owned::BOTH, 0o6755, None, 0),
            (0o6755, None, user, 0o2755, None, 1),
            (0o6755, None, lost, 0o755, None, 1),
            (0o1777, None, lost, 0o1777, None, 0),
            (0o644, None, lost, 0o644, None, 0),
            (0o660, None, lost, 0o600, None, 1),
            (0o664, None, lost, 0o644, None, 1),
            (0o760, Some(acl), Owned::BOTH, 0o740, Some((acl, 0o760)), 0),
            (0o760, Some(acl), lost, 0o700, Some(("user::rwx,user:7:rw-,group::---,mask::rw-,other::---", 0o760)), 1),
            (0o764, Some(open), Owned::BOTH, 0o764, Some((open, 0o764)), 0),
            (0o664, Some("none"), Owned::BOTH, 0o644, None, 0),
            (0o660, Some("none"), Owned::BOTH, 0o600, None, 0),
        ] {
            let plan = plan(mode, text.map(|text| to_binary(text.as_bytes())).as_ref(), owned);
            let acl = plan.acl.map(|(acl, mode)| (to_text(&acl).unwrap(), mode));
            let set = set.map(|(text, mode)| (text.to_owned(), mode));
            assert_eq!((plan.mode, acl, plan.cut.len()), (plain, set, cuts), "{mode:o} {text:?} {owned:?}");
        }
        // Malformed: nobody is let in, and the kernel refuses the ACL.
        assert_eq!(plan(0o770, Some(&Ok(vec![2, 0, 0])), Owned::BOTH).mode, 0o700);
    }
}
