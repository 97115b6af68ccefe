//! What one folder of a backup's trees has, or what a pattern matches there.

use crate::format::index::{FileEntry, FileKind};
use crate::nearest::nearest;
use crate::pattern::{Malformed, Pattern, is_wild, plain};

/// How far a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    One,
    All,
}

/// What of an entry is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    File,
    /// A folder that has no entry of its own.
    Folder(Vec<u8>),
}

#[derive(Debug)]
enum Wanted {
    /// Empty for the root.
    Path(Vec<u8>),
    Pattern {
        pattern: Pattern,
        /// As text, it may be the name of a file.
        literal: Vec<u8>,
    },
}

/// Chooses the entries of one item, in the order of its index.
#[derive(Debug)]
pub struct Folder {
    wanted: Wanted,
    depth: Depth,
    found: bool,
    /// The last child folder, or the last folder that matched.
    last: Option<Vec<u8>>,
    near: Near,
}

/// The entry most like a path that is not there.
#[derive(Debug, Default)]
struct Near {
    depth: usize,
    best: Option<String>,
}

impl Folder {
    /// `path` as people write it: with wildcards it is a pattern.
    ///
    /// # Errors
    /// When the pattern is malformed.
    pub fn new(path: &str, depth: Depth) -> Result<Self, Malformed> {
        let literal = plain(path).trim_start_matches("./").as_bytes();
        let literal = if literal == b"." { Vec::new() } else { literal.to_vec() };
        let wanted = if is_wild(path) {
            Wanted::Pattern { pattern: Pattern::new(path)?, literal }
        } else {
            Wanted::Path(literal)
        };
        Ok(Self { wanted, depth, found: false, last: None, near: Near::default() })
    }

    #[must_use]
    pub const fn found(&self) -> bool {
        self.found
    }

    /// Whether and how an entry is shown.
    pub fn shows(&mut self, file: &FileEntry) -> Option<Shown> {
        let path = if file.path == b"." { b"" } else { &*file.path };
        match &self.wanted {
            Wanted::Pattern { pattern, literal } => {
                let below =
                    self.depth == Depth::All && self.last.as_ref().is_some_and(|last| is_below(path, last).is_some());
                let fits = !path.is_empty() && (pattern.matches(path) || path == &**literal);
                if fits && !below {
                    self.last = Some(path.to_vec());
                }
                self.found |= fits;
                (fits || below).then_some(Shown::File)
            }
            Wanted::Path(wanted) if path == &**wanted => {
                self.found = true;
                (file.kind != FileKind::Directory).then_some(Shown::File)
            }
            Wanted::Path(wanted) => {
                let Some(rest) = is_below(path, wanted) else {
                    if !self.found {
                        self.near.consider(wanted, path);
                    }
                    return None;
                };
                self.found = true;
                let child = rest.iter().position(|byte| *byte == b'/');
                if self.depth == Depth::All {
                    return Some(Shown::File);
                }
                let child = &path[..path.len() - rest.len() + child.unwrap_or(rest.len())];
                if child.len() == path.len() {
                    self.last = (file.kind == FileKind::Directory).then(|| child.to_vec());
                    return Some(Shown::File);
                }
                if self.last.as_deref() == Some(child) {
                    return None;
                }
                self.last = Some(child.to_vec());
                Some(Shown::Folder(child.to_vec()))
            }
        }
    }

    /// The path that was probably meant.
    #[must_use]
    pub fn nearest(&self) -> Option<String> {
        let Wanted::Path(wanted) = &self.wanted else { return None };
        let best = self.near.best.as_ref()?;
        let above = wanted.split(|byte| *byte == b'/').take(self.near.depth);
        let above: Vec<_> = above.map(String::from_utf8_lossy).collect();
        Some(above.into_iter().chain([best.as_str().into()]).collect::<Vec<_>>().join("/"))
    }
}

/// What comes after `folder` and its slash.
fn is_below<'a>(path: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    if folder.is_empty() {
        return (!path.is_empty()).then_some(path);
    }
    path.strip_prefix(folder)?.strip_prefix(b"/")
}

impl Near {
    fn consider(&mut self, wanted: &[u8], path: &[u8]) {
        let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        let common = wanted.split(|byte| *byte == b'/').zip(path.split(|byte| *byte == b'/'));
        let depth = common.take_while(|(a, b)| a == b).count();
        let (wanted, path) = (parts(wanted), parts(path));
        if depth > self.depth {
            *self = Self { depth, best: None };
        }
        let (Some(missing), Some(candidate)) = (wanted.get(depth), path.get(depth)) else { return };
        if depth < self.depth {
            return;
        }
        let candidate = String::from_utf8_lossy(candidate).into_owned();
        if self.best.as_ref() != Some(&candidate) {
            self.best = nearest(&String::from_utf8_lossy(missing), self.best.take().into_iter().chain([candidate]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::changes::tests::file;

    const TREE: [&str; 9] = [
        "./",
        "etc/",
        "etc/hosts",
        "etc/nginx/",
        "etc/nginx/a.conf",
        "etc/nginx/b.conf",
        "home/",
        "loose/x/y",
        "z.conf",
    ];

    fn listed(path: &str, depth: Depth) -> (Vec<String>, bool, Option<String>) {
        let mut folder = Folder::new(path, depth).unwrap();
        let mut shown = Vec::new();
        for name in TREE {
            let kind = if name.ends_with('/') { FileKind::Directory } else { FileKind::Regular };
            let file = file(name.trim_end_matches('/'), kind, 1);
            shown.extend(folder.shows(&file).map(|how| match how {
                Shown::File => String::from_utf8(file.path.clone()).unwrap(),
                Shown::Folder(path) => String::from_utf8(path).unwrap() + "/",
            }));
        }
        (shown, folder.found(), folder.nearest())
    }

    #[test]
    fn a_folder_has_its_children_or_all_below_it() {
        for (path, depth, expected) in [
            ("", Depth::One, vec!["etc", "home", "loose/", "z.conf"]),
            (".", Depth::One, vec!["etc", "home", "loose/", "z.conf"]),
            ("/etc/", Depth::One, vec!["etc/hosts", "etc/nginx"]),
            ("etc", Depth::All, vec!["etc/hosts", "etc/nginx", "etc/nginx/a.conf", "etc/nginx/b.conf"]),
            ("etc/hosts", Depth::One, vec!["etc/hosts"]),
            ("home", Depth::One, vec![]),
            ("loose", Depth::One, vec!["loose/x/"]),
            ("*.conf", Depth::One, vec!["etc/nginx/a.conf", "etc/nginx/b.conf", "z.conf"]),
            ("etc/*", Depth::One, vec!["etc/hosts", "etc/nginx"]),
            ("etc/n*", Depth::All, vec!["etc/nginx", "etc/nginx/a.conf", "etc/nginx/b.conf"]),
        ] {
            let (shown, found, _) = listed(path, depth);
            assert_eq!((shown, found), (expected.into_iter().map(str::to_owned).collect(), true), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_has_a_nearest() {
        for (path, nearest) in [
            ("etcc", Some("etc")),
            ("etc/host", Some("etc/hosts")),
            ("etc/nginx/c.conf", Some("etc/nginx/a.conf")),
            ("etc/hosts/x", None),
            ("qqqq", None),
            ("*.none", None),
        ] {
            let (shown, found, near) = listed(path, Depth::One);
            assert!(shown.is_empty() && !found, "{path}");
            match nearest {
                Some("etc/nginx/a.conf") => assert!(near.is_some_and(|near| near.starts_with("etc/nginx/")), "{path}"),
                nearest => assert_eq!(near.as_deref(), nearest, "{path}"),
            }
        }
    }
}
