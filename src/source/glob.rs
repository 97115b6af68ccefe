//! Expands a tree source's `path`: one directory, or a glob whose every match is an item of its own.
//!
//! `*`, `?`, `[…]` and `{…}` stand for (part of) one component; a leading dot is not special. `[*]`, and every other special character
//! alone in brackets, is that character itself. Only directories match. After the first wildcard no link is followed: a tenant may own
//! the files there, and must not choose what the node backs up.
//!
//! An item's name is the source's name and what the wildcards matched: `pods-3f…_pvc-7a…`. It is the same in every run, whatever else
//! matches, because the item's chain of backups has this name.
//!
//! # Failure
//! Only ENOENT and ENOTDIR mean that a path does not match. A path that cannot be inspected for another reason may match: it becomes a
//! match with an error under its normal name; a directory that cannot be listed becomes one under its own name ([`State::Unlisted`]).
//! The other matches are found all the same.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{Candidate, GlobBuilder, GlobMatcher};
use sha2::{Digest, Sha256};

use super::Error;
use crate::format::key::{MAX_NAME, Name};

/// An item of a source, or an error in finding one.
#[derive(Debug)]
pub struct Match {
    pub name: Name,
    pub path: PathBuf,
    pub state: State,
}

#[derive(Debug)]
pub enum State {
    Directory,
    /// Whether it exists and is a directory is unknown.
    Unknown(Error),
    /// Which items lie below it is unknown.
    Unlisted(Error),
}

/// A directory that matches so far, and the components that the wildcards matched.
type Found = (PathBuf, Vec<OsString>);

enum Step {
    Literal(String),
    Wild(GlobMatcher),
}

/// The items of a source: a path without wildcards is one item, whether it exists or not; a glob has one for each
/// match.
///
/// # Errors
/// When the glob is malformed.
pub fn expand(name: &Name, pattern: &str) -> Result<Vec<Match>, Error> {
    if let Some(path) = literal(pattern) {
        return Ok(vec![Match { name: name.clone(), path: path.into(), state: State::Directory }]);
    }
    if !pattern.starts_with('/') {
        return Err(Error::Invalid(format!("the path {pattern:?} is relative; a glob must be absolute")));
    }
    let components = pattern.split('/').filter(|component| !component.is_empty());
    let steps = components.map(|component| step(component, pattern)).collect::<Result<Vec<_>, _>>()?;
    let mut walk = Walk { source: name, pattern, links: Links::Followed, rest: &steps, lost: Vec::new() };
    let mut found: Vec<Found> = vec![(PathBuf::from("/"), Vec::new())];
    while let Some((step, rest)) = walk.rest.split_first() {
        let mut next = Vec::new();
        for one in found {
            match step {
                Step::Literal(component) => walk.literal(one, component, rest, &mut next),
                Step::Wild(glob) => walk.list(&one, glob, rest, &mut next),
            }
        }
        if matches!(step, Step::Wild(_)) {
            walk.links = Links::Refused;
        }
        walk.rest = rest;
        found = next;
    }
    let matches = found.into_iter().map(|(path, matched)| {
        let name = item_name(name, &matched, &path, Digits::WhereNeeded);
        Match { name, path, state: State::Directory }
    });
    let mut matches: Vec<Match> = matches.chain(walk.lost).collect();
    matches.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(matches)
}

/// The pattern that matches only `path`.
#[must_use]
pub fn escape(path: &str) -> String {
    let escaped = |c: char| if is_special(c) { format!("[{c}]") } else { c.to_string() };
    path.chars().map(escaped).collect()
}

/// The path that a pattern without wildcards stands for.
fn literal(pattern: &str) -> Option<String> {
    let mut text = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if !is_special(c) {
            text.push(c);
            continue;
        }
        let mut ahead = rest.clone();
        match (c, ahead.next(), ahead.next()) {
            ('[', Some(inner), Some(']')) if is_special(inner) => text.push(inner),
            _ => return None,
        }
        rest = ahead;
    }
    Some(text)
}

const fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\')
}

fn step(component: &str, pattern: &str) -> Result<Step, Error> {
    if let Some(text) = literal(component) {
        return Ok(Step::Literal(text));
    }
    let malformed = |reason: String| Error::Invalid(format!("the glob {pattern:?}, at {component:?}: {reason}"));
    if component.contains("**") {
        return Err(malformed("found `**`; expected one `*` for each level of directories".into()));
    }
    let glob = GlobBuilder::new(component).literal_separator(true).build();
    Ok(Step::Wild(glob.map_err(|error| malformed(error.to_string()))?.compile_matcher()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

struct Walk<'a> {
    source: &'a Name,
    pattern: &'a str,
    links: Links,
    /// The steps from the current one on.
    rest: &'a [Step],
    lost: Vec<Match>,
}

impl Walk<'_> {
    fn literal(&mut self, (directory, matched): Found, component: &str, rest: &[Step], next: &mut Vec<Found>) {
        let path = directory.join(component);
        let metadata = if self.links == Links::Followed { path.metadata() } else { path.symlink_metadata() };
        match metadata.map(|metadata| metadata.is_dir()) {
            Ok(true) => next.push((path, matched)),
            Ok(false) => {}
            Err(error) => self.lose(&matched, path, "inspect", error, rest),
        }
    }

    fn list(&mut self, (directory, matched): &Found, glob: &GlobMatcher, rest: &[Step], next: &mut Vec<Found>) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return self.lose(matched, directory.clone(), "list", error, self.rest),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // The listing ends early; the entries before the error count.
                Err(error) => return self.lose(matched, directory.clone(), "list", error, self.rest),
            };
            let name = entry.file_name();
            if !glob.is_match_candidate(&Candidate::from_bytes(name.as_bytes())) {
                continue;
            }
            let path = directory.join(&name);
            let matched = [matched.as_slice(), &[name]].concat();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => next.push((path, matched)),
                Ok(_) => {}
                Err(error) => self.lose(&matched, path, "inspect", error, rest),
            }
        }
    }

    /// Notes a path that may match or hold matches: `rest` are the steps that would follow.
    fn lose(
        &mut self,
        matched: &[OsString],
        mut path: PathBuf,
        action: &'static str,
        error: std::io::Error,
        rest: &[Step],
    ) {
        // The path does not exist, is no directory, or was removed after it was found.
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
            return;
        }
        let failed = path.clone();
        let mut known = true;
        for step in rest {
            match step {
                Step::Literal(component) if known => path.push(component),
                Step::Literal(_) => {}
                Step::Wild(_) => known = false,
            }
        }
        let source = self.source;
        self.lost.push(if known {
            let name = item_name(source, matched, &path, Digits::WhereNeeded);
            Match { name, path, state: State::Unknown(Error::Io { action, path: failed, error }) }
        } else {
            // The source's own name if no wildcard has matched yet. Otherwise with digits, which no match's name has.
            let name = match matched {
                [] => source.clone(),
                matched => item_name(source, matched, &failed, Digits::Always),
            };
            let unlisted = Error::Unlisted { action, path: failed.clone(), pattern: self.pattern.to_owned(), error };
            Match { name, path: failed, state: State::Unlisted(unlisted) }
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Digits {
    WhereNeeded,
    Always,
}

/// The source's name, `-`, and the matched components joined with `_`; with eight digits of the path's SHA-256 if
/// another path could have the same name.
fn item_name(source: &Name, matched: &[OsString], path: &Path, digits: Digits) -> Name {
    let mut name = format!("{source}-");
    let mut ambiguous = digits == Digits::Always;
    for (position, component) in matched.iter().enumerate() {
        if position > 0 {
            name.push('_');
        }
        for byte in component.as_bytes() {
            let keep = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
            ambiguous |= !keep || (*byte == b'_' && matched.len() > 1);
            let byte = byte.to_ascii_lowercase();
            name.push(if byte.is_ascii_alphanumeric() || keep { char::from(byte) } else { '-' });
        }
    }
    // A name that only looks as if it had digits could collide with one that has them.
    ambiguous |= ends_like_a_digest(matched.last().map(OsString::as_os_str));
    if ambiguous || name.len() > MAX_NAME {
        return with_digits(&name, path.as_os_str().as_bytes());
    }
    Name::new(name).expect("it begins as the source's name, and holds nothing else than a name may")
}

/// A name with eight digits of the SHA-256 of `of`, cut to the longest allowed name.
///
/// # Panics
/// When `name` does not begin like a name or holds other characters.
#[must_use]
pub fn with_digits(name: &str, of: &[u8]) -> Name {
    let mut name = name.to_owned();
    name.truncate(MAX_NAME - 9);
    name.push('-');
    name.push_str(&hex::encode(Sha256::digest(of))[..8]);
    Name::new(name).expect("a name's characters, and eight digits")
}

/// Whether an item of this name may be one of the source's matches.
#[must_use]
pub fn may_be_of(source: &Name, item: &Name) -> bool {
    let mut start = format!("{source}-");
    start.truncate(MAX_NAME - 9);
    item.as_str().starts_with(&start)
}

fn ends_like_a_digest(component: Option<&OsStr>) -> bool {
    let bytes = component.map(OsStr::as_bytes).unwrap_or_default();
    let Some((rest, digits)) = bytes.split_last_chunk::<8>() else { return false };
    rest.last().is_none_or(|byte| *byte == b'-') && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn expanded(root: &Path, pattern: &str) -> Vec<(String, String)> {
        let items = expand(&name("pods"), &format!("{}/{pattern}", root.display())).unwrap();
        let relative = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
        let pair = |Match { name, path, state }: &Match| {
            assert!(matches!(state, State::Directory), "{state:?}");
            (name.to_string(), relative(path))
        };
        items.iter().map(pair).collect()
    }

    /// The only match that cannot be inspected: its name, its path, and the error.
    fn lost(root: &Path, pattern: &str) -> (String, String, State) {
        let mut items = expand(&name("pods"), &format!("{}/{pattern}", root.display())).unwrap();
        items.retain(|item| !matches!(item.state, State::Directory));
        assert_eq!(items.len(), 1, "{items:?}");
        let Match { name, path, state } = items.remove(0);
        (name.to_string(), path.strip_prefix(root).unwrap().display().to_string(), state)
    }

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        dir
    }

    fn pair(name: &str, path: &str) -> (String, String) {
        (name.to_owned(), path.to_owned())
    }

    #[test]
    fn a_path_without_wildcards_is_the_source_itself() {
        for (pattern, path) in [
            ("/nowhere/at/all", "/nowhere/at/all"),
            ("relative", "relative"),
            ("/a[[]b/[{]c,d[}]/e[*][?][\\]", "/a[b/{c,d}/e*?\\"),
        ] {
            let items = expand(&name("x"), pattern).unwrap();
            assert_eq!(items.len(), 1, "{pattern}");
            assert_eq!((items[0].name.as_str(), items[0].path.as_path()), ("x", Path::new(path)));
        }
    }

    proptest::proptest! {
        #[test]
        fn an_escaped_path_is_that_path(path in "/[a-c/*?\\[\\]{}\\\\!,-]*") {
            proptest::prop_assert_eq!(literal(&escape(&path)), Some(path));
        }
    }

    /// ENAMETOOLONG and ELOOP stand for EACCES, ENOTCONN, ESTALE and EIO, which a test that runs as root cannot cause.
    #[test]
    fn an_uninspectable_path_is_a_match_with_an_error_and_the_others_are_found() {
        let dir = tree(&["a/mount", "b/mount"]);
        let long = "n".repeat(300);
        // The match gets its normal name.
        let pattern = format!("a*/{long}/mount");
        let (name, path, state) = lost(dir.path(), &pattern);
        assert_eq!((name.as_str(), path), ("pods-a", format!("a/{long}/mount")));
        assert!(matches!(state, State::Unknown(Error::Io { action: "inspect", .. })), "{state:?}");
        // If the listing fails, the name has digits of the directory.
        let (name, path, state) = lost(dir.path(), &format!("a*/{long}/*"));
        assert!(name.starts_with("pods-a-") && name.len() == "pods-a-".len() + 8, "{name}");
        assert_eq!(path, format!("a/{long}"));
        let State::Unlisted(error) = state else { panic!("{state:?}") };
        assert!(error.to_string().contains("the items of"), "{error}");
        // If no wildcard has matched yet, the name is the source's.
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        for pattern in ["loop/*", "loop/x/*/mount"] {
            let (name, path, state) = lost(dir.path(), pattern);
            assert!(path.starts_with("loop") && matches!(state, State::Unlisted(_)), "{path}");
            assert_eq!(name, "pods");
        }
        let all = expand(&super::tests::name("pods"), &format!("{}/{{a,b}}/{{mount,{long}}}", dir.path().display()));
        assert_eq!(all.unwrap().len(), 2, "a wildcard is only matched against what is there");
    }

    #[test]
    fn an_unlisted_directory_names_the_items_that_may_lie_below_it() {
        for (source, item, expected) in
            [("pods", "pods-a_1", true), ("pods", "pods", false), ("pods", "podsa-1", false), ("p", "pods-a", false)]
        {
            assert_eq!(may_be_of(&name(source), &name(item)), expected, "{source} {item}");
        }
        let long = name(&"s".repeat(MAX_NAME));
        assert!(may_be_of(&long, &with_digits(&format!("{long}-a"), b"/a")));
    }

    #[test]
    fn each_match_is_an_item() {
        let dir = tree(&["b/vol/1/mount", "a/vol/2/mount", "a/vol/3/other", "c"]);
        std::fs::write(dir.path().join("file"), b"").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        assert_eq!(
            expanded(dir.path(), "*/vol/*/mount"),
            [pair("pods-a_2", "a/vol/2/mount"), pair("pods-b_1", "b/vol/1/mount")]
        );
        assert_eq!(expanded(dir.path(), "[ab]"), [pair("pods-a", "a"), pair("pods-b", "b")]);
        assert_eq!(expanded(dir.path(), "{c,file,link}"), [pair("pods-c", "c")]);
        assert_eq!(expanded(dir.path(), "none/*"), []);
        assert_eq!(expanded(dir.path(), "*/none"), []);
    }

    #[test]
    fn a_tenants_link_is_not_followed() {
        let dir = tree(&["pod/real", "secret"]);
        std::os::unix::fs::symlink("/etc", dir.path().join("pod/data")).unwrap();
        assert_eq!(expanded(dir.path(), "*/data"), []);
    }

    #[test]
    fn names_that_could_collide_carry_digits_of_the_path() {
        let dir = tree(&["A", "a", "x y", "x-y", "p_q/r", "p/q_r", "plain", "a-0123abcd"]);
        let mut items = expanded(dir.path(), "*");
        items.append(&mut expanded(dir.path(), "*/*"));
        let mut names: Vec<_> = items.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), items.len(), "{items:?}");
        assert!(items.contains(&pair("pods-a", "a")) && items.contains(&pair("pods-plain", "plain")));
        let upper = &items.iter().find(|(_, path)| path == "A").unwrap().0;
        assert!(upper.starts_with("pods-a-") && upper.len() == "pods-a-".len() + 8, "{upper}");
        let long = "n".repeat(200);
        let dir = tree(&[&long]);
        assert_eq!(expanded(dir.path(), "*")[0].0.len(), MAX_NAME);
    }

    #[test]
    fn a_malformed_glob_is_named() {
        for pattern in ["/a/[b", "/a/**/b", "relative/*"] {
            let error = expand(&name("x"), pattern).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains(pattern), "{error}");
        }
    }
}
