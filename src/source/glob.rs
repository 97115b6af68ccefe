//! A tree source's `path`: one directory, or a glob of which every match is an item of its own.
//!
//! `*`, `?`, `[…]` and `{…}` stand for (part of) one component; a leading dot is nothing special. Only directories match. After
//! the first wildcard no link is followed: what lies there may belong to a tenant, who must not choose what the node
//! backs up.
//!
//! An item's name is the source's name and what the wildcards matched: `pods-3f…_pvc-7a…`. It is the same in every run,
//! whatever else matches, because an item's chain of backups goes by it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{Candidate, GlobBuilder, GlobMatcher};
use sha2::{Digest, Sha256};

use super::Error;
use crate::format::key::{MAX_NAME, Name};

/// A directory that matches so far, and what the wildcards on the way matched.
type Match = (PathBuf, Vec<OsString>);

/// The items of a source: a path without wildcards is one, whether it exists or not; a glob is as many as match.
///
/// # Errors
/// When the glob is malformed, a directory on the way cannot be listed, or two matches would have one name.
pub fn expand(name: &Name, pattern: &str) -> Result<Vec<(Name, PathBuf)>, Error> {
    let path = Path::new(pattern);
    if !path.is_absolute() && has_wildcard(pattern) {
        return Err(Error::Invalid(format!("the path {pattern:?} is relative; a glob must be absolute")));
    }
    if !has_wildcard(pattern) {
        return Ok(vec![(name.clone(), path.to_owned())]);
    }
    let mut matches: Vec<Match> = vec![(PathBuf::from("/"), Vec::new())];
    let mut wild = false;
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        if has_wildcard(component) {
            let glob = compile(component, pattern)?;
            let mut next = Vec::new();
            for found in &matches {
                next.append(&mut list(found, &glob)?);
            }
            matches = next;
            wild = true;
        } else {
            for (path, _) in &mut matches {
                path.push(component);
            }
            matches.retain(|(path, _)| if wild { is_real_directory(path) } else { path.is_dir() });
        }
    }
    matches.sort_unstable();
    named(name, matches)
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn compile(component: &str, pattern: &str) -> Result<GlobMatcher, Error> {
    let malformed = |reason: String| Error::Invalid(format!("the glob {pattern:?}, at {component:?}: {reason}"));
    if component.contains("**") {
        return Err(malformed(
            "`**` is not known here: say how deep the directories lie, with one `*` for each".into(),
        ));
    }
    let glob = GlobBuilder::new(component).literal_separator(true).build();
    Ok(glob.map_err(|error| malformed(error.to_string()))?.compile_matcher())
}

fn list((directory, matched): &Match, glob: &GlobMatcher) -> Result<Vec<Match>, Error> {
    let failed = |error| Error::Io { action: "listing", path: directory.clone(), error };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // It was removed after it was found.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if !glob.is_match_candidate(&Candidate::from_bytes(name.as_bytes())) {
            continue;
        }
        let path = directory.join(&name);
        if is_real_directory(&path) {
            let mut matched = matched.clone();
            matched.push(name);
            found.push((path, matched));
        }
    }
    Ok(found)
}

fn is_real_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn named(source: &Name, matches: Vec<Match>) -> Result<Vec<(Name, PathBuf)>, Error> {
    let mut items = Vec::with_capacity(matches.len());
    let mut seen: HashMap<Name, PathBuf> = HashMap::new();
    for (path, matched) in matches {
        let name = item_name(source, &matched, &path);
        let name = Name::new(name).map_err(|error| Error::Invalid(format!("{}: its name {error}", path.display())))?;
        if let Some(other) = seen.insert(name.clone(), path.clone()) {
            let (path, other) = (path.display(), other.display());
            return Err(Error::Invalid(format!(
                "{path} and {other} would both be the item {name:?}",
                name = name.as_str()
            )));
        }
        items.push((name, path));
    }
    Ok(items)
}

/// The source's name, `-`, and the matched components joined with `_`; and eight digits of the path's SHA-256 where
/// another path could otherwise have the same name.
fn item_name(source: &Name, matched: &[OsString], path: &Path) -> String {
    let mut name = format!("{source}-");
    let mut ambiguous = false;
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
    // What looks like a name with digits of its own could be made to collide with one that has them.
    ambiguous |= ends_like_a_digest(matched.last().map(OsString::as_os_str));
    if ambiguous || name.len() > MAX_NAME {
        let digest = hex::encode(Sha256::digest(path.as_os_str().as_bytes()));
        name.truncate(MAX_NAME - 9);
        name.push('-');
        name.push_str(&digest[..8]);
    }
    name
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
        items.iter().map(|(name, path)| (name.to_string(), relative(path))).collect()
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
        assert_eq!(expand(&name("x"), "/nowhere/at/all").unwrap(), [(name("x"), PathBuf::from("/nowhere/at/all"))]);
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
