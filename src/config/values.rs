//! The typed getters of a [`Section`].
//!
//! A getter first replaces the variables of a string. **An empty string means "not set"** for every key with a string, so
//! that `"${NAME:-}"` can leave a key out. Only [`Section::secret`] reads secrets, and it never shows them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::interpolate::interpolate;
use super::model::{Secret, SecretSource};
use super::reader::Section;
use super::units;

/// The longest piece of a value that a fault repeats.
const SHOWN: usize = 80;

/// A value as a fault repeats it: quoted, escaped, and cut where it is long.
pub(super) fn shown(value: &str) -> String {
    let cut = value.char_indices().nth(SHOWN).map_or(value.len(), |(index, _)| index);
    if cut == value.len() { format!("{value:?}") } else { format!("{:?}…", &value[..cut]) }
}

impl Section<'_> {
    /// A string, `None` where the key is absent, empty or faulty.
    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        let text = self.string(self.value(key)?).map_err(|message| self.fault(key, message)).ok()?;
        Some(text).filter(|text| !text.is_empty())
    }

    /// Whether `key` is a string that is empty after its variables are replaced.
    pub(super) fn is_empty_text(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| {
            matches!(value.get_ref(), DeValue::String(_)) && self.string(value).is_ok_and(|text| text.is_empty())
        })
    }

    /// A string that `parse` accepts. Its error follows the key: what was found and what was expected.
    pub(super) fn parsed<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        parse(&self.text(key)?).map_err(|message| self.fault(key, message)).ok()
    }

    /// Adds a fault if `value`, read from `key`, is missing and `key` has no fault yet.
    pub(super) fn required<T>(&self, key: &'static str, value: Option<T>, hint: &str) -> Option<T> {
        if value.is_none() && !self.is_faulty(key) {
            let what = if self.has(key) { "is empty" } else { "is missing" };
            self.fault(key, format!("{what}; {hint}"));
        }
        value
    }

    pub(super) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        match self.value(key)?.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => {
                self.fault(key, format!("expected true or false, found a value of type {}", other.type_str()));
                None
            }
        }
    }

    pub(super) fn integer(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let expected = format!("expected a whole number from {} to {}", range.start(), range.end());
        match self.value(key)?.get_ref() {
            DeValue::Integer(value) => {
                let number = whole(value).and_then(|number| u32::try_from(number).ok());
                let fits = number.filter(|number| range.contains(number));
                if fits.is_none() {
                    self.fault(key, format!("is {}; {expected}", shown_number(value)));
                }
                fits
            }
            other => {
                self.fault(key, format!("{expected}, found a value of type {}", other.type_str()));
                None
            }
        }
    }

    /// A size in bytes: `"16MiB"` or an integer.
    pub(super) fn size(&self, key: &'static str) -> Option<u64> {
        if let DeValue::Integer(value) = self.value(key)?.get_ref() {
            let bytes = whole(value);
            if bytes.is_none() {
                self.fault(
                    key,
                    format!("is {}; expected bytes from 0, or a size such as \"16MiB\"", shown_number(value)),
                );
            }
            return bytes;
        }
        self.parsed(key, units::size)
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, units::duration)
    }

    /// A share from 0 to 1, in thousandths.
    pub(super) fn share(&self, key: &'static str) -> Option<u16> {
        let (text, whole) = match self.value(key)?.get_ref() {
            DeValue::Float(value) => (value.to_string(), false),
            DeValue::Integer(value) => (shown_number(value), true),
            other => {
                self.fault(key, format!("expected a number from 0 to 1, found a value of type {}", other.type_str()));
                return None;
            }
        };
        let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share) && (!whole || text.len() == 1));
        if share.is_none() {
            self.fault(key, format!("is {text}; expected a number from 0 to 1, such as 0.3"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        share.map(|share| (share * 1000.0).round() as u16)
    }

    /// One of the words of `choices`.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
                format!("is {}; expected {}", shown(text), words.join(" or "))
            })
        })
    }

    /// An array of strings, each of which `parse` accepts.
    pub(super) fn list<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.fault(
                key,
                format!("expected an array of strings, found a value of type {}", value.get_ref().type_str()),
            );
            return Vec::new();
        };
        let one = |(index, element): (usize, &Spanned<DeValue>)| {
            let parsed = self.string(element).and_then(|text| parse(&text));
            parsed.map_err(|fault| self.fault_inside(key, &format!("[{index}]"), element.span().start, fault)).ok()
        };
        array.iter().enumerate().filter_map(one).collect()
    }

    /// An array of commands, each an array of strings.
    pub(super) fn commands(&self, key: &'static str) -> Vec<Vec<String>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let expected = "expected commands, each an array of strings: [[\"fsfreeze\", \"-f\", \"/data\"]]";
        let DeValue::Array(commands) = value.get_ref() else {
            self.fault(key, format!("{expected}, found a value of type {}", value.get_ref().type_str()));
            return Vec::new();
        };
        let mut result = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            let fault = |message: String| self.fault_inside(key, &format!("[{index}]"), command.span().start, message);
            let DeValue::Array(words) = command.get_ref() else {
                fault(format!("{expected}, found a value of type {}", command.get_ref().type_str()));
                continue;
            };
            match words.iter().map(|word| self.string(word)).collect::<Result<Vec<_>, _>>() {
                Ok(argv) if argv.first().is_none_or(String::is_empty) => fault("names no program".into()),
                Ok(argv) => result.push(argv),
                Err(message) => fault(message),
            }
        }
        result
    }

    /// A table of strings whose keys are the operator's: `{ team = "platform" }`. Each pair passes `check`.
    pub(super) fn pairs(
        &self,
        key: &'static str,
        check: impl Fn(&str, &str) -> Result<(), String>,
    ) -> BTreeMap<String, String> {
        let Some(value) = self.value(key) else { return BTreeMap::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.fault(
                key,
                format!("expected a table of strings, found a value of type {}", value.get_ref().type_str()),
            );
            return BTreeMap::new();
        };
        let mut result = BTreeMap::new();
        for (name, value) in table {
            let name: &str = name.get_ref();
            match self.string(value).and_then(|text| check(name, &text).map(|()| text)) {
                Ok(text) => drop(result.insert(name.to_owned(), text)),
                Err(message) => self.fault_inside(key, &format!(".{}", shown(name)), value.span().start, message),
            }
        }
        result
    }

    /// A secret in `key`, or the file named by `file_key`. `check` sees an inline value; its error must not repeat it.
    pub(super) fn secret(
        &self,
        key: &'static str,
        file_key: &'static str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<SecretSource> {
        let inline = self.text(key).map(Secret::new);
        let file = self.path(file_key);
        match (inline, file) {
            (Some(_), Some(_)) => {
                self.fault(file_key, format!("stands beside {key}; expected one of the two, remove the other"));
                None
            }
            (Some(secret), None) => match check(secret.expose()) {
                Ok(()) => Some(SecretSource::Inline(secret)),
                Err(message) => {
                    self.fault(key, message);
                    None
                }
            },
            (None, file) => file.map(SecretSource::File),
        }
    }

    /// A value that must be a string, with its variables replaced. The error never repeats the value.
    fn string(&self, value: &Spanned<DeValue>) -> Result<String, String> {
        let DeValue::String(text) = value.get_ref() else {
            return Err(format!("expected a string in quotes, found a value of type {}", value.get_ref().type_str()));
        };
        let text = interpolate(text, self.environment()).map_err(|error| error.to_string())?;
        // No path, argument or header can hold a NUL.
        if text.contains('\0') { Err("holds a NUL character; remove it".into()) } else { Ok(text) }
    }
}

/// `None` for a negative number and one beyond 64 bits.
fn whole(value: &DeInteger) -> Option<u64> {
    u64::from_str_radix(value.as_str(), value.radix()).ok()
}

fn shown_number(value: &DeInteger) -> String {
    value.to_string().chars().take(SHOWN).collect()
}
