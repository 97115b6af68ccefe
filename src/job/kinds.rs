//! The source kinds: which items a source of each kind has now, and how each is opened or captured.
//!
//! Their configuration is in `config/source.rs`, their restore in `format/source.rs`.

pub(super) mod ebs;
mod kubernetes;
pub(super) mod tree;

use std::sync::Arc;

use super::plan::Plan;
use super::{Error, Spec};
use crate::cluster;
use crate::config::{Claims, SourceKind};
use crate::disks::Disks;
use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::resources::lister::Progress;
use crate::source::command::CommandSource;
use crate::source::file::FileSource;
use crate::source::stdin::StdinSource;
use crate::source::tree::Options;

/// Lists the volumes of every `ebs` source. An item that cannot be begun is a failed item.
pub(super) async fn volumes<'a>(spec: &'a Spec, disks: &dyn Disks, plan: &mut Plan<'a>) {
    for source in &spec.sources {
        if let SourceKind::Ebs(ebs) = &source.kind {
            ebs::resolve(&source.name, ebs, disks, plan).await;
        }
    }
    plan.rename();
}

/// Lists the items of every other source, in the same way.
///
/// # Errors
/// When no source has any item.
pub(super) async fn streams<'a>(
    spec: &'a Spec,
    cluster: &cluster::Shared,
    objects: &Arc<Progress>,
    plan: &mut Plan<'a>,
) -> Result<(), Error> {
    for source in &spec.sources {
        let name = source.name.clone();
        match &source.kind {
            SourceKind::Tree { path, exclude, one_file_system } => {
                let options = Options { exclude: exclude.clone(), one_file_system: *one_file_system };
                tree::resolve(&name, path, &options, plan).await;
            }
            SourceKind::File { path } => {
                let description = SourceDescription::File { path: path.to_string_lossy().into_owned() };
                plan.stream(name, description, move |stop, _| Ok(FileSource::open(path)?.stopped_by(stop)));
            }
            SourceKind::Command { argv, allow_empty } => {
                let (description, empty) = (SourceDescription::Command { argv: argv.clone() }, (*allow_empty).into());
                plan.stream(name, description, move |stop, _| CommandSource::spawn(argv, empty, stop));
            }
            SourceKind::Stdin { allow_empty } => {
                let empty = (*allow_empty).into();
                plan.stream(name, SourceDescription::Stdin, move |stop, _| StdinSource::open(empty, stop));
            }
            SourceKind::Kubernetes(selected) => kubernetes::resolve(&name, selected, cluster, objects, plan).await,
            // A round of its own ([`super::claims`]).
            SourceKind::Ebs(_) | SourceKind::Claims(_) => {}
        }
    }
    let nothing = plan.snapshots.is_empty() && plan.streams.is_empty() && plan.failed.is_empty();
    if nothing && !has_snapshots(spec) {
        let patterns = spec.sources.iter().map(|source| source.name.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Nothing { job: spec.job.clone(), patterns });
    }
    plan.rename();
    Ok(())
}

/// The job's source of claims, which is its only one.
pub(super) fn claims(spec: &Spec) -> Option<(&Name, &Claims)> {
    spec.sources.iter().find_map(|source| match &source.kind {
        SourceKind::Claims(claims) => Some((&source.name, claims)),
        _ => None,
    })
}

/// Whether the job has items that are captured, and complete only after `after`.
pub(super) fn has_snapshots(spec: &Spec) -> bool {
    spec.sources.iter().any(|source| match source.kind {
        SourceKind::Ebs(_) => true,
        SourceKind::Tree { .. }
        | SourceKind::File { .. }
        | SourceKind::Command { .. }
        | SourceKind::Stdin { .. }
        | SourceKind::Kubernetes(_)
        | SourceKind::Claims(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::Source;
    use crate::format::testing::name;

    fn spec(sources: &[(&str, String)]) -> Spec {
        let tree = |path: &String| SourceKind::Tree { path: path.clone(), exclude: Vec::new(), one_file_system: true };
        let sources = sources.iter().map(|(source, path)| Source { name: name(source), kind: tree(path) });
        Spec::new(name("j"), sources.collect())
    }

    async fn plan(spec: &Spec) -> Result<Plan<'_>, Error> {
        let mut plan = Plan::default();
        streams(spec, &cluster::Shared::default(), &Arc::default(), &mut plan).await.map(|()| plan)
    }

    fn names(plan: &Plan<'_>) -> [Vec<String>; 2] {
        let streams = plan.streams.iter().map(|item| item.name.to_string()).collect();
        [streams, plan.failed.iter().map(|item| item.name.to_string()).collect()]
    }

    /// The one thread that may block hangs, as a directory on a server that is away makes it: whoever waits is free all the same.
    #[test]
    fn a_directory_that_does_not_answer_blocks_no_worker() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (release, hung) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || hung.recv());
        let spec = spec(&[("t", "/*".to_owned())]);
        assert!(runtime.block_on(async { plan(&spec).now_or_never().is_none() }));
        drop(release);
        assert!(runtime.block_on(plan(&spec)).is_ok());
    }

    #[tokio::test]
    async fn one_name_is_one_item_and_the_other_one_fails_under_a_name_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let matches = format!("{}/*", dir.path().display());
        let spec = spec(&[("t-b", "/b".to_owned()), ("t", matches), ("t-a", "/elsewhere".to_owned())]);
        let first = plan(&spec).await.unwrap();
        let [items, failed] = names(&first);
        assert_eq!(items, ["t-b", "t-a"]);
        assert!(failed[0].starts_with("t-b-") && failed[1].starts_with("t-a-") && failed.len() == 2, "{failed:?}");
        assert!(first.failed[1].step.to_string().contains("/elsewhere has the item name t-a"));
        assert_eq!(names(&plan(&spec).await.unwrap()), [items, failed], "it is stable");
    }

    #[tokio::test]
    async fn a_source_that_cannot_be_listed_is_an_item_that_failed_and_none_at_all_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        let at = |rest: &str| format!("{}/{rest}", dir.path().display());
        let spec_ = spec(&[("t", at("loop/*")), ("u", at("none/*")), ("v", at("there"))]);
        let plan_ = plan(&spec_).await.unwrap();
        assert_eq!(names(&plan_), [vec!["v".to_owned()], vec!["t".to_owned()]]);
        assert_eq!(plan_.unlisted.len(), 1);
        assert!(matches!(plan(&spec(&[("u", at("none/*"))])).await, Err(Error::Nothing { .. })));
        assert!(plan(&spec(&[("t", at("loop/*"))])).await.is_ok());
    }
}
