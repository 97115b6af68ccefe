//! The result of a restore, and its differences from the backup.

use serde::Serialize;

use super::extract;
use super::refusal::Refusal;
use crate::error::{Class, Report};
use crate::format::key::Name;
use crate::format::manifest::MAX_WARNINGS;

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
    pub warnings: Warnings,
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

impl Summary {
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
        let Refusal { class, message } = &refusal;
        self.first_left_out.get_or_insert_with(|| Warning {
            item: item.clone(),
            path: String::new(),
            class: *class,
            message: message.clone(),
        });
        self.warn(item, String::new(), refusal.class, refusal.message);
    }

    pub(super) fn add_file(&mut self, bytes: u64) {
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
        self.warnings.count += unpacked.warning_count;
        if let (None, Some(first)) = (&self.first_left_out, unpacked.first_left_out) {
            let path = first.path.to_string_lossy().into_owned();
            self.first_left_out =
                Some(Warning { item: item.clone(), path, class: first.class, message: first.message });
        }
        for warning in unpacked.warnings {
            self.list(item, warning.path.to_string_lossy().into_owned(), warning.class, warning.message);
        }
    }

    /// The failure of a restore that left everything out.
    #[must_use]
    pub fn failure(&self) -> Option<Report> {
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
}
