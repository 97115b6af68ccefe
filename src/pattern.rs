//! Patterns of paths in a backup's trees, as people write them.
//!
//! `*` stays within a folder, `**` is any number of folders, and a pattern without a slash matches in any folder: `/` or `./` before it binds
//! it to the root. A final `/` says nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

/// A pattern that matches whole paths.
#[derive(Debug, Clone)]
pub struct Pattern(GlobMatcher);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} is malformed: {reason}")]
pub struct Malformed {
    pattern: String,
    reason: String,
}

impl Pattern {
    /// # Errors
    /// When a bracket or a brace is not closed.
    pub fn new(pattern: &str) -> Result<Self, Malformed> {
        let anywhere = if pattern.trim_end_matches('/').contains('/') { "" } else { "**/" };
        let glob = format!("{anywhere}{}", plain(pattern));
        let malformed =
            |error: globset::Error| Malformed { pattern: pattern.to_owned(), reason: error.kind().to_string() };
        Ok(Self(GlobBuilder::new(&glob).literal_separator(true).build().map_err(malformed)?.compile_matcher()))
    }

    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.0.is_match(Path::new(OsStr::from_bytes(path)))
    }
}

/// Without what says nothing: a path as an index has it, or a pattern of one.
#[must_use]
pub fn plain(path: &str) -> &str {
    path.trim_start_matches("./").trim_matches('/')
}

/// The bytes of a file's name for people: whoever named the file decides nothing about the terminal.
#[must_use]
pub fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for c in String::from_utf8_lossy(name).chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Whether it has a character that stands for others.
#[must_use]
pub fn is_wild(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_slash_matches_in_any_folder() {
        for (pattern, path, expected) in [
            ("hosts", "etc/hosts", true),
            ("hosts", "hosts", true),
            ("hosts", "etc/hosts/a", false),
            ("*.conf", "etc/a/b.conf", true),
            ("/hosts", "etc/hosts", false),
            ("hosts/", "etc/hosts", true),
            ("/etc/hosts", "etc/hosts", true),
            ("./etc/hosts", "etc/hosts", true),
            ("etc/*", "etc/a/b", false),
            ("etc/*", "etc/a", true),
            ("etc/**", "etc/a/b", true),
            ("**/b", "etc/a/b", true),
            ("{a,b}.txt", "x/b.txt", true),
            ("[[]a]", "x/[a]", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(path.as_bytes()), expected, "{pattern} {path}");
        }
        let not_text = Pattern::new("a?").unwrap();
        assert!(not_text.matches(b"x/a\xff"));
        let error = Pattern::new("etc/[a").unwrap_err();
        assert!(error.to_string().contains("etc/[a"), "{error}");
    }
}
