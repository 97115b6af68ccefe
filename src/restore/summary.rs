//! The result of a restore, and its differences from the backup.

use std::collections::HashSet;
use std::ops::Range;

use serde::Serialize;

use super::extract::{self, damage};
use super::refusal::Refusal;
use super::salvage::MOST_CHUNKS;
use crate::download::Lost;
use crate::error::{Class, Report};
use crate::format::damage::Places;
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{MAX_WARNINGS, Stream};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub items: Vec<Name>,
    /// Members of trees, including directories, and one for each other item.
    pub files: u64,
    /// Members, and items that are not trees, that were not restored.
    pub left_out: u64,
    /// Members that were restored with differences.
    pub altered: u64,
    pub bytes: u64,
    /// Files that were read back, and were as they were written.
    pub read_back: u64,
    pub warnings: Warnings,
    /// Members that are damaged in the store, and items that are not trees; of `left_out` and `altered`, and those that were healed.
    pub damaged: u64,
    /// The first [`damage::MOST`].
    pub damage: Vec<DamagedFile>,
    /// The damaged chunks' places; the first [`MOST_CHUNKS`] of each item.
    pub lost: Places,
    /// Those of `files` that are not the target itself.
    below: u64,
    first_left_out: Option<Warning>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Warnings {
    /// All of them; `list` holds some [`MAX_WARNINGS`], and one without a path for each kind that it does not list whole.
    pub count: u64,
    pub list: Vec<Warning>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub item: Name,
    /// Lossy UTF-8 of the path; empty if the warning concerns several members, or the item.
    pub path: String,
    pub class: Class,
    pub message: String,
}

/// A file that is damaged in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    pub item: Name,
    /// In the item's tree; empty: the item itself.
    pub path: Vec<u8>,
    pub outcome: Outcome,
}

/// What became of a damaged file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    LeftOut,
    /// It has zeros in these ranges.
    Filled(Vec<Range<u64>>),
    /// It was restored as it is in that backup.
    Healed(BackupId),
}

impl Summary {
    /// Whether something is not there because it is damaged.
    #[must_use]
    pub fn lacks_damaged(&self) -> bool {
        self.damaged > self.damage.len() as u64 || self.damage.iter().any(|file| file.outcome == Outcome::LeftOut)
    }

    fn damage(&mut self, item: &Name, path: Vec<u8>, outcome: Outcome) {
        self.damaged += 1;
        if self.damage.len() < damage::MOST {
            self.damage.push(DamagedFile { item: item.clone(), path, outcome });
        }
    }

    /// The whole of an item that is one file was restored, with zeros for these chunks.
    pub(super) fn filled(&mut self, item: &Name, stream: &Stream, lost: &[Lost]) {
        let ranges: Vec<_> = lost.iter().map(|lost| lost.positions.clone()).collect();
        self.altered += 1;
        let message = format!("damaged in the store: it has zeros in its bytes {}", damage::words(&ranges));
        self.warn(item, String::new(), Class::Integrity, message);
        self.damage(item, Vec::new(), Outcome::Filled(ranges));
        self.lost(stream, lost);
    }

    /// Remembers the places of lost chunks.
    pub(super) fn lost(&mut self, stream: &Stream, lost: &[Lost]) {
        for lost in lost.iter().take(MOST_CHUNKS) {
            if let Some(object) = stream.objects.get(lost.object as usize) {
                self.lost.entry(object.key.clone()).or_default().insert(lost.offset);
            }
        }
    }

    /// The files of an item that another backup may have.
    pub(super) fn to_heal(&self, item: &Name) -> HashSet<Vec<u8>> {
        let lacks =
            |file: &&DamagedFile| file.item == *item && !file.path.is_empty() && file.outcome == Outcome::LeftOut;
        self.damage.iter().filter(lacks).map(|file| file.path.clone()).collect()
    }

    /// The files that were found in `from` were restored from there, but for those that were added to `damage` meanwhile.
    pub(super) fn healed(&mut self, item: &Name, from: &BackupId, found: &HashSet<Vec<u8>>, before: usize) {
        let (old, new) = self.damage.split_at_mut(before);
        for file in old.iter_mut().filter(|file| file.item == *item && found.contains(&file.path)) {
            if file.outcome == Outcome::LeftOut && !new.iter().any(|new| new.path == file.path) {
                file.outcome = Outcome::Healed(from.clone());
                self.left_out = self.left_out.saturating_sub(1);
            }
        }
        // Counted once.
        self.damaged -= new.len() as u64;
        self.damage.truncate(before);
    }

    pub(super) fn warn(&mut self, item: &Name, path: String, class: Class, message: String) {
        self.warnings.count += 1;
        self.list(item, path, class, message);
    }

    fn list(&mut self, item: &Name, path: String, class: Class, message: String) {
        if path.is_empty() || self.warnings.list.len() < MAX_WARNINGS {
            self.warnings.list.push(Warning { item: item.clone(), path, class, message });
        }
    }

    /// Adds an item that was left out whole.
    pub(super) fn left_out(&mut self, item: &Name, refusal: Refusal) {
        self.left_out += 1;
        if refusal.class == Class::Integrity {
            self.damage(item, Vec::new(), Outcome::LeftOut);
        }
        let Refusal { class, message } = &refusal;
        self.first_left_out.get_or_insert_with(|| Warning {
            item: item.clone(),
            path: String::new(),
            class: *class,
            message: message.clone(),
        });
        self.warn(item, String::new(), refusal.class, refusal.message);
    }

    pub(super) fn add_file(&mut self, bytes: u64, read_back: bool) {
        self.read_back += u64::from(read_back);
        self.files += 1;
        self.below += 1;
        self.bytes += bytes;
    }

    pub(super) fn add(&mut self, item: &Name, unpacked: extract::Summary) {
        self.files += unpacked.files;
        self.below += unpacked.below;
        self.left_out += unpacked.left_out;
        self.altered += unpacked.altered;
        self.bytes += unpacked.bytes;
        self.read_back += unpacked.read_back;
        self.warnings.count += unpacked.warning_count;
        self.damaged += unpacked.damaged - unpacked.damage.len() as u64;
        for extract::Damage { path, filled } in unpacked.damage {
            self.damage(item, path, filled.map_or(Outcome::LeftOut, Outcome::Filled));
        }
        if let (None, Some(first)) = (&self.first_left_out, unpacked.first_left_out) {
            let path = first.path.to_string_lossy().into_owned();
            self.first_left_out =
                Some(Warning { item: item.clone(), path, class: first.class, message: first.message });
        }
        for warning in unpacked.warnings {
            self.list(item, warning.path.to_string_lossy().into_owned(), warning.class, warning.message);
        }
    }

    /// The failure of a restore that left everything out, or of a damaged backup.
    #[must_use]
    pub fn failure(&self) -> Option<Report> {
        if let Some(report) = self.damage_report() {
            return Some(report);
        }
        let first = self.first_left_out.as_ref().filter(|_| self.below == 0)?;
        let path = if first.path.is_empty() { first.item.as_str() } else { &first.path };
        let message = format!("nothing was restored: {path:?} is {}", first.message);
        let remedy = match first.class {
            Class::Conflict => {
                "the backup is not at fault: move away the existing files, or restore into another directory"
            }
            _ => {
                "the backup is not at fault: restore as a user with the permission, into a file system that supports it"
            }
        };
        Some(Report::new(first.class, message).remedy(remedy))
    }

    /// That files are damaged in the store, unless all of them were healed.
    fn damage_report(&self) -> Option<Report> {
        let healed = self.damage.iter().filter(|file| matches!(file.outcome, Outcome::Healed(_))).count() as u64;
        let filled = self.damage.iter().filter(|file| matches!(file.outcome, Outcome::Filled(_))).count() as u64;
        if self.damaged == healed {
            return None;
        }
        let words = |count: u64, what: &str| if count == 0 { String::new() } else { format!(", {count} {what}") };
        let message = format!(
            "the backup is damaged in the store: {} left out{}{}; everything else was restored",
            self.damaged - healed - filled,
            words(filled, "with zeros for what is lost"),
            words(healed, "restored from another backup"),
        );
        let remedy = "take the damaged files from another backup with --heal-from BACKUP, or restore them with zeros for what is lost with --damaged zero-fill; \
                      then run `penstock verify --data` on this backup where the job runs, so that the next backup stores the lost data again";
        Some(Report::new(Class::Integrity, message).remedy(remedy))
    }
}
