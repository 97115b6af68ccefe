//! Reads a TOML file section by section, and collects every fault in it instead of stopping at the first.
//!
//! Each part of the configuration asks its [`Section`] for every key it knows, whatever the values are.
//! These requests *are* the list of known keys: a key that the part has not asked for is a fault. So
//! the list cannot differ from the code, and tests compare the schema and the example with [`Reading::known`].
//!
//! A getter that finds a fault records it and returns `None` or the default; reading goes on, and the caller drops the
//! result if there is a fault at the end. `values` has the typed getters.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::faults::{Fault, position};

/// The result of reading a file.
pub(super) struct Reading<T> {
    /// `None` if the file is not TOML. Valid only if there are no faults.
    pub value: Option<T>,
    /// In the order of the file.
    pub faults: Vec<Fault>,
    /// Every known key, as `locations.*.assume_role[].role_arn`.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare the schema and the example with it"))]
    pub known: BTreeSet<String>,
}

/// Reads `text`; `parse` reads the file's top section.
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

/// One table of the file, empty if the file does not have it.
pub(super) struct Section<'a> {
    file: &'a File<'a>,
    table: Option<&'a DeTable<'a>>,
    /// The place of the table's header, for the fault of a missing key.
    offset: usize,
    /// `locations.primary.upload`.
    path: String,
    /// The path with `*` for names of the operator's: `locations.*.upload`.
    pattern: String,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    /// The value of `key`, which is now a known key.
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

    /// Records a fault of `key`, at its value, or at the section's header if the key is missing.
    pub(super) fn fault(&self, key: &'static str, message: impl Into<String>) {
        let offset = self.table.and_then(|table| table.get(key)).map_or(self.offset, |value| value.span().start);
        self.file.fault(offset, join(&self.path, key), message.into());
    }

    /// Records a fault of the section itself, at its header.
    pub(super) fn fault_here(&self, message: impl Into<String>) {
        self.file.fault(self.offset, self.path.clone(), message.into());
    }

    /// Records a fault inside the value of `key`; `inside` is `[2]` or `.name`.
    pub(super) fn fault_inside(&self, key: &'static str, inside: &str, offset: usize, message: impl Into<String>) {
        self.file.fault(offset, format!("{}{inside}", join(&self.path, key)), message.into());
    }

    /// Whether `key`, or a value inside it, already has a fault.
    pub(super) fn is_faulty(&self, key: &'static str) -> bool {
        let path = join(&self.path, key);
        let inside = |rest: &str| rest.is_empty() || rest.starts_with(['[', '.']);
        self.file.faults.borrow().iter().any(|fault| fault.key.strip_prefix(path.as_str()).is_some_and(inside))
    }

    /// Records a fault if `key` is set although it does not apply; `condition` names the setting that it applies with. An empty
    /// string does not set it, so that one file with variables serves several kinds of credentials.
    pub(super) fn only_with(&self, key: &'static str, applies: bool, condition: &str) {
        if !applies && self.has(key) && !self.is_empty_text(key) {
            self.fault(key, format!("applies only with {condition}; remove it, or change that"));
        }
    }

    /// As [`Section::only_with`] for a key that never applies here: a message about an unknown key does not suggest it.
    pub(super) fn never_with(&self, key: &'static str, condition: &str) {
        self.file.known.borrow_mut().insert(join(&self.pattern, key));
        if self.table.is_some_and(|table| table.contains_key(key)) {
            self.only_with(key, false, condition);
        }
    }

    /// The table `key`. If it is missing, `parse` reads an empty one, so that it alone has the defaults and required keys.
    pub(super) fn table<T>(&self, key: &'static str, parse: impl FnOnce(&Section) -> T) -> T {
        let (table, offset) = match self.value(key) {
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => (Some(table), value.span().start),
                other => {
                    self.fault(key, format!("expected a table, found a value of type {}", other.type_str()));
                    (None, value.span().start)
                }
            },
            None => (None, self.offset),
        };
        self.file.section(table, offset, join(&self.path, key), join(&self.pattern, key)).read(parse)
    }

    /// The table of tables `key`, `[locations.NAME]`; `parse` reads each.
    pub(super) fn named<T>(&self, key: &'static str, mut parse: impl FnMut(&str, &Section) -> T) -> Vec<(String, T)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Table(tables) = value.get_ref() else {
            self.fault(
                key,
                format!("expected a table for each name, `[{key}.NAME]`, found {}", value.get_ref().type_str()),
            );
            return Vec::new();
        };
        let mut result = Vec::new();
        for (name, value) in tables {
            let name: &str = name.get_ref();
            let path = join(&join(&self.path, key), name);
            let DeValue::Table(table) = value.get_ref() else {
                let message =
                    format!("expected a table, `[{key}.NAME]`, found a value of type {}", value.get_ref().type_str());
                self.file.fault(value.span().start, path, message);
                continue;
            };
            let pattern = format!("{}.*", join(&self.pattern, key));
            let section = self.file.section(Some(table), value.span().start, path, pattern);
            result.push((name.to_owned(), section.read(|section| parse(name, section))));
        }
        result
    }

    /// The array of tables `key`, `[[jobs.NAME.sources]]`; `parse` reads each.
    pub(super) fn tables<T>(&self, key: &'static str, mut parse: impl FnMut(&Section) -> T) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let expected = |value: &DeValue| {
            format!("expected tables, each under its own `[[…{key}]]`, found a value of type {}", value.type_str())
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

    /// Reads this section with `parse`, then records a fault for each key that `parse` did not ask for.
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
    // At most half the letters may differ, or every name would be near some key.
    let near = |known: &&&str| distance(known) * 2 <= known.len().min(name.len());
    if let Some(nearest) = known.iter().filter(near).min_by_key(distance) {
        return format!("is not a known key; did you mean `{nearest}`?");
    }
    let mut message = String::from("is not a known key; expected one of");
    for (index, known) in known.iter().enumerate() {
        // Writing to a String does not fail.
        let _ = write!(message, "{} {known}", if index == 0 { "" } else { "," });
    }
    message
}

/// `path.key`, with the key quoted if TOML requires it.
fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let dot = if path.is_empty() { "" } else { "." };
    if !key.is_empty() && key.chars().all(bare) { format!("{path}{dot}{key}") } else { format!("{path}{dot}{key:?}") }
}
