//! `tree`: each folder that the glob matches is an item.

use std::path::{Path, PathBuf};

use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::job::plan::Plan;
use crate::job::unlisted::Unlisted;
use crate::source::glob::{self, Match, State};
use crate::source::tree::{Options, TreeSource};

pub(super) fn resolve(source: &Name, pattern: &str, options: &Options, plan: &mut Plan<'_>) {
    let described = |path: &Path| SourceDescription::Tree { path: path.to_string_lossy().into_owned() };
    let matches = match glob::expand(source, pattern) {
        Ok(matches) => matches,
        Err(error) => return plan.fail(source.clone(), described(Path::new(pattern)), error),
    };
    if matches.is_empty() {
        tracing::warn!(%source, path = %pattern, "no directory matches");
    }
    for Match { name, path, state } in matches {
        let description = described(&path);
        match state {
            State::Directory => {
                let options = options.clone();
                plan.stream(name, description, move |stop, parent| {
                    Ok(TreeSource::new(&path, &options, parent)?.stopped_by(stop))
                });
            }
            State::Unknown(error) => plan.fail(name, description, error),
            State::Unlisted(error) => {
                plan.unlisted.push(unlisted(source.clone(), path, error.to_string()));
                plan.fail(name, description, error);
            }
        }
    }
}

/// Items of `source` may be below `directory`.
pub(in crate::job) fn unlisted(source: Name, directory: PathBuf, why: String) -> Unlisted {
    let of = source.clone();
    Unlisted::new(source, why, move |item| match &item.source {
        SourceDescription::Tree { path } => {
            // The manifest has paths as they are shown.
            let directory = directory.to_string_lossy().into_owned();
            glob::may_be_of(&of, &item.name) && Path::new(path).starts_with(directory)
        }
        _ => false,
    })
}
