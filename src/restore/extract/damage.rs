//! What damage in the store does to a member: it is left out, or has zeros for what is lost, and is listed.

use std::fs::File;
use std::ops::Range;

use rustix::fs::XattrFlags;

use super::{Error, Extractor, Failure, target};
use crate::error::Class;
use crate::format::index::FileKind;
use crate::restore::refusal::Refusal;
use crate::restore::salvage::Hurt;

/// A member that was damaged in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub path: Vec<u8>,
    /// The parts that zeros were restored for. `None`: the member, or all that the backup says of a directory, was left out.
    pub filled: Option<Vec<Range<u64>>>,
}

/// The most damaged members that are kept, and the most bytes of their paths.
pub(in crate::restore) const MOST: usize = 100_000;
const MOST_BYTES: usize = 16 << 20;

pub(super) const INCOMPLETE: &str = "it is incomplete, and could not be removed";

/// The extended attribute of a file that has zeros for what is lost; its value has the ranges, as text.
const MARK: &str = "user.penstock.damaged";

/// The ranges as in HTTP: `0-4095, 8192-9000`.
pub(in crate::restore) fn words(lost: &[Range<u64>]) -> String {
    lost.iter().map(|lost| format!("{}-{}", lost.start, lost.end - 1)).collect::<Vec<_>>().join(", ")
}

/// Not every file system can hold the mark; the restore's result names the file too.
pub(in crate::restore) fn mark(file: &File, lost: &[Range<u64>]) {
    let _ = rustix::fs::fsetxattr(file, MARK, words(lost).as_bytes(), XattrFlags::empty());
}

impl Extractor<'_> {
    pub(super) fn damaged(&mut self, hurt: Hurt) -> Result<(), Error> {
        let path = target::checked(&hurt.path)?;
        let path = self.options.link_sources.get(&path).cloned().unwrap_or(path);
        // An earlier member of this name is not what is damaged.
        self.wait_for(&path)?;
        if let Some(lost) = hurt.filled {
            self.filled = Some((path, lost));
        } else if hurt.kind == FileKind::Directory {
            self.damage(&path, None);
            let message = "damaged in the store: its owner, mode and time are lost";
            self.ledger.damaged(&path, message);
        } else {
            let message = "left out: damaged in the store".to_owned();
            self.settle(&path, Err(Failure::LeftOut(Refusal { class: Class::Integrity, message })))?;
        }
        Ok(())
    }

    /// Counts the file that is complete now, if parts of it are zeros.
    pub(super) fn note_filled(&mut self, path: &[u8]) {
        if let Some((_, lost)) = self.filled.take_if(|(filled, _)| filled == path) {
            let message = format!("damaged in the store: it has zeros in its bytes {}", words(&lost));
            self.ledger.damaged(path, &message);
            self.damage(path, Some(lost));
        }
    }

    pub(super) fn damage(&mut self, path: &[u8], filled: Option<Vec<Range<u64>>>) {
        self.summary.damaged += 1;
        self.ledger.damaged_names += path.len();
        if self.summary.damage.len() < MOST && self.ledger.damaged_names <= MOST_BYTES {
            self.summary.damage.push(Damage { path: path.to_vec(), filled });
        }
    }
}
