//! Which members of a tree `--include` brings, and where they lie in the stream. One pass over the index, and a second
//! one when a hard link is wanted without its first name; memory for one range a run of wanted members.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Error;
use crate::download::index::IndexFile;
use crate::format::index::{FileEntry, FileKind, Record};
use crate::format::manifest::Stream;

/// The globs of `--include`; what matches is wanted, a directory with everything below it. `*` stays within a folder.
#[derive(Debug, Clone)]
pub(super) struct Include(GlobSet);

impl Include {
    /// `None` when everything is wanted.
    pub(super) fn new(globs: &[String]) -> Result<Option<Self>, Error> {
        if globs.is_empty() {
            return Ok(None);
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let relative = glob.trim_start_matches("./").trim_matches('/');
            let invalid = |error: globset::Error| Error::Usage(format!("--include {glob:?}: {}", error.kind()));
            set.add(GlobBuilder::new(relative).literal_separator(true).build().map_err(invalid)?);
        }
        let set = set.build().map_err(|error| Error::Usage(format!("--include: {error}")))?;
        Ok(Some(Self(set)))
    }

    /// Whether the path, or a directory it is in, matches. The root itself is not asked for: its attributes are those of
    /// the target.
    pub(super) fn wants(&self, path: &[u8]) -> bool {
        if path == b"." {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| self.0.is_match(Path::new(OsStr::from_bytes(&path[..end]))))
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// Ascending, disjoint, not adjacent.
    pub(super) ranges: Vec<Range<u64>>,
    /// See [`super::extract::Options::link_sources`].
    pub(super) link_sources: HashMap<Vec<u8>, Vec<u8>>,
}

/// On a thread that may block.
pub(super) fn select(index: &IndexFile, stream: &Stream, include: &Include) -> Result<Selected, Error> {
    let mut ranges = Vec::new();
    let mut link_sources = HashMap::new();
    each_file(index, stream, |file| {
        if include.wants(&file.path) {
            add(&mut ranges, file.member());
            if file.kind == FileKind::HardLink && !include.wants(&file.link) {
                link_sources.entry(file.link).or_insert(file.path);
            }
        }
    })?;
    if !link_sources.is_empty() {
        let mut with_sources = Vec::new();
        each_file(index, stream, |file| {
            let source = file.kind != FileKind::HardLink && link_sources.contains_key(&file.path);
            if source || include.wants(&file.path) {
                add(&mut with_sources, file.member());
            }
        })?;
        ranges = with_sources;
    }
    Ok(Selected { ranges, link_sources })
}

fn add(ranges: &mut Vec<Range<u64>>, member: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == member.start => last.end = member.end,
        _ => ranges.push(member),
    }
}

fn each_file(index: &IndexFile, stream: &Stream, mut f: impl FnMut(FileEntry)) -> Result<(), Error> {
    let mut records = index.open(stream)?;
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        if let Record::File(file) = record {
            f(file);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matched_directory_brings_what_is_below_it() {
        let include = |glob: &str| Include::new(&[glob.to_owned()]).unwrap().unwrap();
        for (glob, path, wanted) in [
            ("etc", "etc/a/b", true),
            ("/etc/", "etc", true),
            ("./etc/*.conf", "etc/a.conf", true),
            ("etc/*.conf", "etc/sub/a.conf", false),
            ("**/*.conf", "etc/sub/a.conf", true),
            ("etc", "etcetera", false),
            ("*", ".", false),
            ("?", ".", false),
        ] {
            assert_eq!(include(glob).wants(path.as_bytes()), wanted, "{glob} {path}");
        }
        assert!(Include::new(&[]).unwrap().is_none());
        assert!(Include::new(&["a[".to_owned()]).is_err());
    }
}
