//! The faults of a configuration file, each with its place.
//!
//! A message names what was found, what was expected and what to do, in one sentence or two. It never contains a
//! secret: the reader of secrets has no way to put one here.

use std::path::PathBuf;
use std::{fmt, io};

use serde::Serialize;

use crate::error::{Class, Classify, Report};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// From 1; 0 for a fault of the whole file (it cannot be read).
    pub line: usize,
    /// From 1, in characters; 0 as above.
    pub column: usize,
    /// The dotted path, `locations.primary.upload.part_size`; empty for a fault without a key (a syntax error).
    pub key: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

/// The faults of one file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Faults {
    pub file: PathBuf,
    pub faults: Vec<Fault>,
    #[serde(skip)]
    pub(super) remedy: &'static str,
}

/// What to do about a file with faults.
const CORRECT: &str =
    "correct the configuration file; `penstock config check` reads it again without starting anything";

/// What to do where there is no file: the first thing that a new user meets.
const WRITE_ONE: &str = "write one: `penstock config example` prints a commented one to begin with. For a file in another place: --config FILE, or PENSTOCK_CONFIG";

impl Faults {
    /// A fault of the whole file.
    pub(super) fn of_file(file: impl Into<PathBuf>, message: String) -> Self {
        Self::new(file, vec![Fault { line: 0, column: 0, key: String::new(), message }])
    }

    pub(super) fn new(file: impl Into<PathBuf>, faults: Vec<Fault>) -> Self {
        Self { file: file.into(), faults, remedy: CORRECT }
    }

    pub(super) fn unread(file: impl Into<PathBuf>, error: &io::Error) -> Self {
        let faults = Self::of_file(file, format!("could not read the file: {error}"));
        if error.kind() == io::ErrorKind::NotFound { Self { remedy: WRITE_ONE, ..faults } } else { faults }
    }
}

/// One line for each fault, `FILE:LINE:COLUMN: KEY: MESSAGE`, the form that editors and terminals can open.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let file = self.file.display();
            match fault.line {
                0 => write!(f, "{file}: {fault}")?,
                line => write!(f, "{file}:{line}:{}: {fault}", fault.column)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Classify for Faults {
    fn report(&self) -> Report {
        Report::new(Class::Config, self.to_string()).remedy(self.remedy)
    }
}

/// The place of the byte `offset` in `text`: line and column from 1, the column in characters.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a = 1\nß = \"é\" # x\n";
        let cases = [(0, (1, 1)), (4, (1, 5)), (5, (1, 6)), (6, (2, 1)), (8, (2, 2)), (11, (2, 5)), (9999, (3, 1))];
        for (offset, expected) in cases {
            assert_eq!(position(text, offset), expected, "offset {offset}");
        }
        assert_eq!(position("ß", 1), (1, 1), "inside a character");
    }

    #[test]
    fn every_fault_is_a_line_and_a_json_object() {
        let fault = |line, key: &str| Fault { line, column: 7, key: key.into(), message: "is wrong".into() };
        let faults = Faults::new("/etc/p.toml", vec![fault(3, "node"), fault(4, "")]);
        assert_eq!(faults.to_string(), "/etc/p.toml:3:7: node: is wrong\n/etc/p.toml:4:7: is wrong");
        assert_eq!(faults.class(), Class::Config);
        assert_eq!(faults.report().message, faults.to_string());
        let json = serde_json::to_value(&faults.faults[0]).unwrap();
        assert_eq!(json, serde_json::json!({"line": 3, "column": 7, "key": "node", "message": "is wrong"}));
        assert_eq!(Faults::of_file("p", "cannot be read".into()).to_string(), "p: cannot be read");
    }
}
