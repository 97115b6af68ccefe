//! From configured sources to the items of one run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::unlisted::{Place, Unlisted};
use super::{Error, Spec};
use crate::config::{self, Ebs, SourceKind};
use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::source::command::CommandSource;
use crate::source::file::FileSource;
use crate::source::glob::{self, Match, State};
use crate::source::stdin::StdinSource;
use crate::source::tree::{self, TreeSource};
use crate::source::{self, Empty, Source};

/// The items of one run, in the order of the configuration; a glob's matches in the order of their paths. No two have one name.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub(super) items: Vec<PlannedItem<'a>>,
    /// Those that cannot be begun.
    pub(super) failed: Vec<FailedItem>,
    /// Where more items may lie.
    pub(super) unlisted: Vec<Unlisted>,
}

#[derive(Debug)]
pub(super) struct PlannedItem<'a> {
    pub(super) name: Name,
    pub(super) description: SourceDescription,
    origin: Origin<'a>,
}

#[derive(Debug)]
pub(super) struct FailedItem {
    pub(super) name: Name,
    pub(super) description: SourceDescription,
    pub(super) error: source::Error,
}

#[derive(Debug)]
enum Origin<'a> {
    Tree { root: PathBuf, exclude: &'a [String], one_file_system: bool },
    File(PathBuf),
    Command(&'a [String], Empty),
    Stdin(Empty),
}

/// Whatever fails is an item that failed. `taken` are the names that the backup has already.
///
/// # Errors
/// When the sources come to nothing at all.
pub(super) fn plan(spec: &Spec, taken: BTreeSet<Name>) -> Result<Plan<'_>, Error> {
    let mut plan = Plan::default();
    for source in &spec.sources {
        plan.expand(source);
    }
    if plan.items.is_empty() && plan.failed.is_empty() && volumes(spec).is_empty() {
        let patterns = spec.sources.iter().map(|source| source.name.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Nothing { job: spec.job.clone(), patterns });
    }
    plan.rename(taken);
    Ok(plan)
}

/// The sources that are EBS volumes: their items are snapshots, not streams.
pub(super) fn volumes(spec: &Spec) -> Vec<(&Name, &Ebs)> {
    let ebs = spec.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Ebs(ebs) => Some((&source.name, ebs)),
        SourceKind::Tree { .. } | SourceKind::File { .. } | SourceKind::Command { .. } | SourceKind::Stdin { .. } => {
            None
        }
    });
    ebs.collect()
}

impl<'a> Plan<'a> {
    fn expand(&mut self, source: &'a config::Source) {
        let name = source.name.clone();
        let (description, origin) = match &source.kind {
            SourceKind::Tree { path, exclude, one_file_system } => {
                return self.tree(&name, path, |root| Origin::Tree {
                    root,
                    exclude,
                    one_file_system: *one_file_system,
                });
            }
            SourceKind::File { path } => {
                (SourceDescription::File { path: path.to_string_lossy().into_owned() }, Origin::File(path.clone()))
            }
            SourceKind::Command { argv, allow_empty } => {
                (SourceDescription::Command { argv: argv.clone() }, Origin::Command(argv, (*allow_empty).into()))
            }
            SourceKind::Stdin { allow_empty } => (SourceDescription::Stdin, Origin::Stdin((*allow_empty).into())),
            SourceKind::Ebs(_) => return,
        };
        self.items.push(PlannedItem { name, description, origin });
    }

    fn tree(&mut self, source: &Name, pattern: &str, origin: impl Fn(PathBuf) -> Origin<'a>) {
        let described = |path: &Path| SourceDescription::Tree { path: path.to_string_lossy().into_owned() };
        let matches = match glob::expand(source, pattern) {
            Ok(matches) => matches,
            Err(error) => {
                let description = described(Path::new(pattern));
                return self.failed.push(FailedItem { name: source.clone(), description, error });
            }
        };
        if matches.is_empty() {
            tracing::warn!(%source, path = %pattern, "no directory matches");
        }
        for Match { name, path, state } in matches {
            let description = described(&path);
            match state {
                State::Directory => self.items.push(PlannedItem { name, description, origin: origin(path) }),
                State::Unknown(error) => self.failed.push(FailedItem { name, description, error }),
                State::Unlisted(error) => {
                    let place = Place::Below(path);
                    self.unlisted.push(Unlisted { source: source.clone(), place, why: error.to_string() });
                    self.failed.push(FailedItem { name, description, error });
                }
            }
        }
    }

    /// Gives what has a name that is taken another one, under which it fails: the manifest has room for one item of a name.
    fn rename(&mut self, mut taken: BTreeSet<Name>) {
        let mut twice = Vec::new();
        for item in std::mem::take(&mut self.items) {
            if taken.insert(item.name.clone()) {
                self.items.push(item);
            } else {
                let PlannedItem { name, description, .. } = item;
                let error = source::Error::Invalid(format!(
                    "{description} would be the item {name}, as another match or source of this job is; give its source another name"
                ));
                twice.push(FailedItem { name, description, error });
            }
        }
        self.failed.append(&mut twice);
        for item in &mut self.failed {
            let mut of = item.description.to_string();
            while !taken.insert(item.name.clone()) {
                item.name = glob::with_digits(item.name.as_str(), of.as_bytes());
                of.push('+');
            }
        }
    }
}

impl PlannedItem<'_> {
    /// Opens the source; `parent` is for a tree. `stop` ends a command's process group, and the waiting for a file.
    pub(super) fn open(
        &self,
        stop: CancellationToken,
        parent: Option<tree::Parent>,
    ) -> Result<Box<dyn Source>, source::Error> {
        Ok(match &self.origin {
            Origin::Tree { root, exclude, one_file_system } => {
                let options = tree::Options { exclude: exclude.to_vec(), one_file_system: *one_file_system };
                Box::new(TreeSource::new(root, &options, parent)?.stopped_by(stop))
            }
            Origin::File(path) => Box::new(FileSource::open(path)?.stopped_by(stop)),
            Origin::Command(argv, empty) => Box::new(CommandSource::spawn(argv, *empty, stop)?),
            Origin::Stdin(empty) => Box::new(StdinSource::new(*empty)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use crate::format::codec::Codec;
    use crate::job::{Hooks, Policy};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn spec(sources: &[(&str, String)]) -> Spec {
        let tree = |path: &String| SourceKind::Tree { path: path.clone(), exclude: Vec::new(), one_file_system: true };
        let sources = sources.iter().map(|(source, path)| Source { name: name(source), kind: tree(path) });
        Spec {
            job: name("j"),
            sources: sources.collect(),
            codec: Codec::default(),
            timeout: None,
            hooks: Hooks::default(),
            parent: Policy::default(),
        }
    }

    fn names(plan: &Plan<'_>) -> [Vec<String>; 2] {
        let items = plan.items.iter().map(|item| item.name.to_string()).collect();
        [items, plan.failed.iter().map(|item| item.name.to_string()).collect()]
    }

    #[test]
    fn one_name_is_one_item_and_the_other_one_fails_under_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let spec = spec(&[("t", format!("{}/*", dir.path().display())), ("t-a", "/elsewhere".to_owned())]);
        let first = plan(&spec, BTreeSet::from([name("t-b")])).unwrap();
        let [items, failed] = names(&first);
        assert_eq!(items, ["t-a"]);
        assert!(failed[0].starts_with("t-b-") && failed[1].starts_with("t-a-") && failed.len() == 2, "{failed:?}");
        assert!(first.failed[1].error.to_string().contains("/elsewhere would be the item t-a"));
        assert_eq!(names(&plan(&spec, BTreeSet::from([name("t-b")])).unwrap()), [items, failed], "it is stable");
    }

    #[test]
    fn a_source_that_cannot_be_listed_is_an_item_that_failed_and_none_at_all_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let at = |rest: &str| format!("{}/{rest}", dir.path().display());
        let spec_ = spec(&[("t", at("loop/*")), ("u", at("none/*")), ("v", at("there"))]);
        let plan_ = plan(&spec_, BTreeSet::new()).unwrap();
        assert_eq!(names(&plan_), [vec!["v".to_owned()], vec!["t".to_owned()]]);
        assert_eq!(plan_.unlisted.len(), 1);
        assert!(matches!(plan(&spec(&[("u", at("none/*"))]), BTreeSet::new()), Err(Error::Nothing { .. })));
        assert!(plan(&spec(&[("t", at("loop/*"))]), BTreeSet::new()).is_ok());
    }
}
