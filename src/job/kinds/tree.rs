//! `tree`: each directory that the glob matches is one item.

use std::path::{Path, PathBuf};

use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::job::plan::Plan;
use crate::job::unlisted::Unlisted;
use crate::source::Error;
use crate::source::glob::{self, Match, State};
use crate::source::tree::{Options, TreeSource};

/// A server that is away makes the glob hang: its thread is not waited for when this is dropped.
pub(super) async fn resolve(source: &Name, pattern: &str, options: &Options, plan: &mut Plan<'_>) {
    let described = |path: &Path| SourceDescription::Tree { path: path.to_string_lossy().into_owned() };
    let (of, glob) = (source.clone(), pattern.to_owned());
    let matches = tokio::task::spawn_blocking(move || glob::expand(&of, &glob)).await;
    let matches = match matches.unwrap_or_else(|error| Err(Error::Invalid(format!("listing {pattern}: {error}")))) {
        Ok(matches) => matches,
        Err(error) => return plan.fail(source.clone(), described(Path::new(pattern)), error),
    };
    if matches.is_empty() {
        tracing::warn!(%source, path = %pattern, "no directory matches the source's path: the source has no items in this run");
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

/// Directories below `directory` may be items of `source`.
pub(in crate::job) fn unlisted(source: Name, directory: PathBuf, why: String) -> Unlisted {
    let of = source.clone();
    Unlisted::new(source, why, move |item| match &item.source {
        SourceDescription::Tree { path } => {
            // Paths in the manifest are lossy UTF-8.
            let directory = directory.to_string_lossy().into_owned();
            // The path of an encrypted backup is not known: then the name decides.
            glob::may_be_of(&of, &item.name) && (path.is_empty() || Path::new(path).starts_with(directory))
        }
        _ => false,
    })
}
