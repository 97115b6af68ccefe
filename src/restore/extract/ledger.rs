//! Counts and lists the differences of a restore from its backup; the list is bounded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::error::Class;
use crate::restore::refusal::Refusal;

/// The most entries in the list, not counting the last line for each kind.
const MAX_LISTED: u64 = 1000;

/// The most entries of one kind of alteration; left-out members are listed up to [`MAX_LISTED`].
const MAX_ALIKE: u64 = 10;

/// The most entries of a kind that concerns nearly every member or none, such as owners without being root.
const MAX_OF_MANY: u64 = 3;

/// The most messages that are counted apart; attribute names in them come from the archive.
const MAX_KINDS: usize = 64;

/// One member that was left out or altered, or, without a path, the number of a kind that is not listed whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub path: PathBuf,
    pub class: Class,
    pub message: String,
}

/// What of a restored member is not as it was saved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) message: String,
    pub(super) of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Some,
    /// Nearly every member has it, or none.
    Many,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) left_out: u64,
    pub(super) first_left_out: Option<Warning>,
    pub(super) altered: u64,
    pub(super) count: u64,
    /// Bytes of the paths of damaged members.
    pub(super) damaged_names: usize,
    list: Vec<Warning>,
    listed: u64,
    kinds: BTreeMap<String, Kind>,
    /// The member that was last counted in `altered`.
    last: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    class: Class,
    count: u64,
    listed: u64,
}

impl Ledger {
    pub(super) fn left_out(&mut self, path: &[u8], refusal: &Refusal) {
        self.left_out += 1;
        self.first_left_out.get_or_insert_with(|| Warning {
            path: PathBuf::from(OsStr::from_bytes(path)),
            class: refusal.class,
            message: refusal.message.clone(),
        });
        self.note(path, refusal.class, &refusal.message, MAX_LISTED);
    }

    /// Records that the member is restored with a difference.
    pub(super) fn altered(&mut self, path: &[u8], message: &str) {
        self.alter(path, message, MAX_ALIKE);
    }

    pub(super) fn differences(&mut self, path: &[u8], differences: Vec<Difference>) {
        for Difference { message, of } in differences {
            self.alter(path, &message, if of == Of::Many { MAX_OF_MANY } else { MAX_ALIKE });
        }
    }

    /// Records that the member is restored with a difference, because of damage in the store.
    pub(super) fn damaged(&mut self, path: &[u8], message: &str) {
        self.count_altered(path);
        self.note(path, Class::Integrity, message, MAX_LISTED);
    }

    /// Records that a member is not what was written.
    pub(super) fn differs(&mut self, path: &[u8], message: &str) {
        self.alter(path, message, MAX_LISTED);
    }

    fn alter(&mut self, path: &[u8], message: &str, limit: u64) {
        self.count_altered(path);
        self.note(path, Class::Local, message, limit);
    }

    fn count_altered(&mut self, path: &[u8]) {
        if self.last.as_deref() != Some(path) {
            self.altered += 1;
            self.last = Some(path.to_vec());
        }
    }

    fn note(&mut self, path: &[u8], class: Class, message: &str, limit: u64) {
        self.count += 1;
        let room = self.kinds.len() < MAX_KINDS || self.kinds.contains_key(message);
        let key = if room { message } else { "of other kinds" };
        let kind = self.kinds.entry(key.to_owned()).or_insert(Kind { class, count: 0, listed: 0 });
        kind.count += 1;
        if kind.listed < limit && self.listed < MAX_LISTED {
            kind.listed += 1;
            self.listed += 1;
            let path = PathBuf::from(OsStr::from_bytes(path));
            self.list.push(Warning { path, class, message: message.to_owned() });
        }
    }

    /// The list, followed by one line for each kind that is not listed whole.
    pub(super) fn into_list(mut self) -> Vec<Warning> {
        for (message, kind) in self.kinds {
            if kind.listed < kind.count {
                let message = format!("{message} ({} in all, {} of them listed)", kind.count, kind.listed);
                self.list.push(Warning { path: PathBuf::new(), class: kind.class, message });
            }
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_lists_are_bounded() {
        let mut ledger = Ledger::default();
        let refusal = Refusal::conflict("in the way");
        for number in 0..1200_u32 {
            let path = number.to_string().into_bytes();
            ledger.left_out(&path, &refusal);
            let difference = |message: &str, of| Difference { message: message.to_owned(), of };
            ledger.differences(&path, vec![difference("its mode", Of::Some), difference("its owner", Of::Many)]);
        }
        for number in 0..200 {
            ledger.altered(b"x", &format!("its attribute {number}"));
        }
        assert_eq!((ledger.left_out, ledger.altered, ledger.count), (1200, 1201, 3800));
        let list = ledger.into_list();
        assert!(list.len() <= 1000 + 65, "{}", list.len());
        let said =
            |text: &str| list.iter().find(|line| line.path.as_os_str().is_empty() && line.message.contains(text));
        assert!(said("its owner (1200 in all, ").is_some(), "{list:?}");
        assert!(said("its mode (1200 in all, 10 of them listed)").is_some());
        assert_eq!(said("in the way").unwrap().class, Class::Conflict);
    }
}
