//! `kubernetes`: the cluster's objects are one item.

use std::sync::Arc;

use crate::cluster;
use crate::config::Objects;
use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::job::plan::Plan;
use crate::resources::lister::Progress;
use crate::resources::patience::Patience;
use crate::resources::select::Selection;
use crate::source::Error;
use crate::source::objects::ObjectSource;

pub(super) async fn resolve(
    source: &Name,
    objects: &Objects,
    cluster: &cluster::Shared,
    progress: &Arc<Progress>,
    plan: &mut Plan<'_>,
) {
    let described = |address| SourceDescription::Kubernetes { address, selection: objects.in_words() };
    let cluster = match cluster.get().await {
        Ok(cluster) => cluster,
        Err(report) => return plan.fail(source.clone(), described(String::new()), Error::Cluster(report)),
    };
    let (description, progress) = (described(cluster.address()), Arc::clone(progress));
    let selection = match Selection::of(objects) {
        Ok(selection) => selection,
        Err(fault) => return plan.fail(source.clone(), description, Error::Invalid(fault)),
    };
    plan.stream(source.clone(), description, move |stop, _| {
        let (cluster, progress) = (Arc::clone(&cluster), Arc::clone(&progress));
        Ok(ObjectSource::start(cluster, selection.clone(), Patience::default(), progress, stop))
    });
}
