//! Reads a TOML file section by section, and collects every fault of it instead of stopping at the first.
//!
//! A part of the configuration asks its [`Section`] for each key it knows, always all of them, whatever the values are.
//! What was asked for *is* the list of known keys: when that part is read, a key that nobody asked for is a fault. So
//! the list cannot drift from the code, and [`Reading::known`] lets tests hold the schema and the example to it.
//!
//! A getter that finds a fault records it and answers `None` or the default; reading goes on, and the caller throws the
//! result away if there is any fault at the end. The typed getters are in `values`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::faults::{Fault, position};

/// What came out of a file.
pub(super) struct Reading<T> {
    /// Absent where the file is not TOML. To be used only where there are no faults.
    pub value: Option<T>,
    /// In the order of the file.
    pub faults: Vec<Fault>,
    /// Every key that was asked for, as `locations.*.assume_role[].role_arn`.
    #[cfg_attr(not(test), allow(dead_code, reason = "what the schema and the example are tested against"))]
    pub known: BTreeSet<String>,
}

/// Reads `text` with `parse`, which gets the file's top section.
pub(super) fn read<T>(text: &str, environment: &dyn Environment, parse: impl FnOnce(&Section) -> T) -> Reading<T> {
    let file = File { text, environment, faults: RefCell::default(), known: RefCell::default() };
    let value = match DeTable::parse(text) {
        Ok(table) => Some(file.section(Some(table.get_ref()), 0, String::new(), String::new()).read(parse)),
        Err(error) => {
            // Its Display shows the line itself, which may hold a secret; the message alone does not.
            let message = format!("is not TOML: {}", error.message().replace('\n', ", "));
            file.fault(error.span().map_or(0, |span| span.start), String::new(), message);
            None
        }
    };
    let mut faults = file.faults.into_inner();
    faults.sort_by_key(|fault| (fault.line, fault.column));
    Reading { value, faults, known: file.known.into_inner() }
}

struct File<'a> {
    text: &'a str,
    environment: &'a dyn Environment,
    faults: RefCell<Vec<Fault>>,
    known: RefCell<BTreeSet<String>>,
}

impl File<'_> {
    fn fault(&self, offset: usize, key: String, message: String) {
        let (line, column) = position(self.text, offset);
        self.faults.borrow_mut().push(Fault { line, column, key, message });
    }

    fn section<'a>(
        &'a self,
        table: Option<&'a DeTable<'a>>,
        offset: usize,
        path: String,
        pattern: String,
    ) -> Section<'a> {
        Section { file: self, table, offset, path, pattern, asked: RefCell::default() }
    }
}

/// One table of the file, or the empty one that stands for a table that is not there.
pub(super) struct Section<'a> {
    file: &'a File<'a>,
    table: Option<&'a DeTable<'a>>,
    /// Where a missing key is reported: the table's header.
    offset: usize,
    /// `locations.primary.upload`.
    path: String,
    /// The same without what the operator named: `locations.*.upload`.
    pattern: String,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// The value of `key`, which is a known key from here on.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().insert(key);
        self.file.known.borrow_mut().insert(join(&self.pattern, key));
        self.table?.get(key)
    }

    pub(super) fn environment(&self) -> &'a dyn Environment {
        self.file.environment
    }

    /// Whether the file has `key` here, even if empty or wrong.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// A fault of `key`: at its value, or at the section's header where the key is not there.
    pub(super) fn fault(&self, key: &'static str, message: impl Into<String>) {
        let offset = self.table.and_then(|table| table.get(key)).map_or(self.offset, |value| value.span().start);
        self.file.fault(offset, join(&self.path, key), message.into());
    }

    /// A fault of the section itself, at its header.
    pub(super) fn fault_here(&self, message: impl Into<String>) {
        self.file.fault(self.offset, self.path.clone(), message.into());
    }

    /// A fault of something inside the value of `key`; `inside` is `[2]` or `.name`.
    pub(super) fn fault_inside(&self, key: &'static str, inside: &str, offset: usize, message: impl Into<String>) {
        self.file.fault(offset, format!("{}{inside}", join(&self.path, key)), message.into());
    }

    /// Whether `key`, or something inside it, has a fault already.
    pub(super) fn is_faulty(&self, key: &'static str) -> bool {
        let path = join(&self.path, key);
        let inside = |rest: &str| rest.is_empty() || rest.starts_with(['[', '.']);
        self.file.faults.borrow().iter().any(|fault| fault.key.strip_prefix(path.as_str()).is_some_and(inside))
    }

    /// A fault where `key` is set although it has no meaning here; `where_it_has` says when it would. An empty string
    /// does not set it, so that one file with variables serves several kinds of credentials.
    pub(super) fn only_with(&self, key: &'static str, applies: bool, where_it_has: &str) {
        if !applies && self.has(key) && !self.is_empty_text(key) {
            self.fault(key, format!("has a meaning only with {where_it_has}; remove it, or change that"));
        }
    }

    /// The table `key`. Where it is not there, `parse` reads an empty one, so that defaults and missing keys have one place.
    pub(super) fn table<T>(&self, key: &'static str, parse: impl FnOnce(&Section) -> T) -> T {
        let (table, offset) = match self.value(key) {
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => (Some(table), value.span().start),
                other => {
                    self.fault(key, format!("expected a table, came a value of type {}", other.type_str()));
                    (None, value.span().start)
                }
            },
            None => (None, self.offset),
        };
        self.file.section(table, offset, join(&self.path, key), join(&self.pattern, key)).read(parse)
    }

    /// The table of tables `key`: `[locations.NAME]`, with what `parse` makes of each.
    pub(super) fn named<T>(&self, key: &'static str, mut parse: impl FnMut(&str, &Section) -> T) -> Vec<(String, T)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Table(tables) = value.get_ref() else {
            self.fault(
                key,
                format!("expected a table for each name, `[{key}.NAME]`, came {}", value.get_ref().type_str()),
            );
            return Vec::new();
        };
        let mut result = Vec::new();
        for (name, value) in tables {
            let name: &str = name.get_ref();
            let path = join(&join(&self.path, key), name);
            let DeValue::Table(table) = value.get_ref() else {
                let message =
                    format!("expected a table, `[{key}.NAME]`, came a value of type {}", value.get_ref().type_str());
                self.file.fault(value.span().start, path, message);
                continue;
            };
            let pattern = format!("{}.*", join(&self.pattern, key));
            let section = self.file.section(Some(table), value.span().start, path, pattern);
            result.push((name.to_owned(), section.read(|section| parse(name, section))));
        }
        result
    }

    /// The array of tables `key`: `[[jobs.NAME.sources]]`.
    pub(super) fn tables<T>(&self, key: &'static str, mut parse: impl FnMut(&Section) -> T) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let expected = |value: &DeValue| {
            format!("expected tables, each under its own `[[…{key}]]`, came a value of type {}", value.type_str())
        };
        let DeValue::Array(array) = value.get_ref() else {
            self.fault(key, expected(value.get_ref()));
            return Vec::new();
        };
        let mut result = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let DeValue::Table(table) = value.get_ref() else {
                self.fault_inside(key, &format!("[{index}]"), value.span().start, expected(value.get_ref()));
                continue;
            };
            let path = format!("{}[{index}]", join(&self.path, key));
            let pattern = format!("{}[]", join(&self.pattern, key));
            result.push(self.file.section(Some(table), value.span().start, path, pattern).read(&mut parse));
        }
        result
    }

    /// Lets `parse` read this section, and then refuses the keys it did not ask for.
    fn read<T>(self, parse: impl FnOnce(&Section) -> T) -> T {
        let result = parse(&self);
        let asked = self.asked.borrow();
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !asked.contains(name) {
                self.file.fault(key.span().start, join(&self.path, name), unknown(name, &asked));
            }
        }
        result
    }
}

fn unknown(name: &str, known: &BTreeSet<&'static str>) -> String {
    let distance = |known: &&&str| strsim::damerau_levenshtein(&name.to_lowercase(), known);
    // Half the letters may differ at most, or everything would be like something.
    let near = |known: &&&str| distance(known) * 2 <= known.len().min(name.len());
    if let Some(nearest) = known.iter().filter(near).min_by_key(distance) {
        return format!("is not a known key; did you mean `{nearest}`?");
    }
    let mut message = String::from("is not a known key; known here are");
    for (index, known) in known.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(message, "{} {known}", if index == 0 { "" } else { "," });
    }
    message
}

/// `path.key`, with the key quoted where TOML would need it.
fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let dot = if path.is_empty() { "" } else { "." };
    if !key.is_empty() && key.chars().all(bare) { format!("{path}{dot}{key}") } else { format!("{path}{dot}{key:?}") }
}
