//! What every command that speaks to a store needs: the configuration, a location, budgets.

use std::path::Path;
use std::sync::Arc;

use super::output::Done;
use super::{Failure, args};
use crate::aws::AwsLocation;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::{self, Config, Location};
use crate::download;
use crate::error::{Class, Report};
use crate::metrics::Metrics;
use crate::retry::Endpoint;
use crate::snapshot;
use crate::upload::sweep::Place;

pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    Ok(Config::load(path, &config::System)?)
}

pub(super) fn check(path: &Path) -> Result<Done, Failure> {
    let config = load(path)?;
    let text =
        format!("{}: valid; {} location(s), {} job(s)\n", path.display(), config.locations.len(), config.jobs.len());
    Ok(Done::new(text, serde_json::json!({ "ok": true, "file": path })))
}

/// The location of that name, or the only one there is.
pub(super) fn location<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Location, Failure> {
    let names = || config.locations.keys().cloned().collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => config
            .locations
            .get(name)
            .ok_or_else(|| Failure::Usage(format!("there is no location {name:?}; the configuration has {}", names()))),
        None if config.locations.len() == 1 => Ok(config.locations.values().next().expect("there is one")),
        None => Err(Failure::Usage(format!(
            "the configuration has several locations, name one with --location: {}",
            names()
        ))),
    }
}

pub(super) fn connect(location: &Location) -> Result<AwsLocation, Failure> {
    Ok(AwsLocation::connect(location)?)
}

pub(super) fn place(config: &Config, location: &Location, connected: &AwsLocation, metrics: &Metrics) -> Place {
    Place {
        location: location.name.clone(),
        bucket: location.bucket.clone(),
        prefix: location.prefix.clone(),
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        store: connected.store(),
        endpoint: Endpoint::new(metrics.location(&location.name), location.upload.concurrency.into()),
    }
}

pub(super) fn pool(config: &Config) -> Result<Arc<rayon::ThreadPool>, Failure> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(config.limits.compression_threads);
    let pool = builder.thread_name(|index| format!("penstock-pack-{index}")).build();
    pool.map(Arc::new).map_err(|error| Failure::Report(Report::new(Class::Local, format!("starting threads: {error}"))))
}

/// For the commands that read backups.
pub(super) struct Reading {
    pub(super) catalog: Catalog,
    pub(super) download: download::Context,
    pub(super) snapshots: snapshot::Service,
    pub(super) location: String,
}

impl Reading {
    pub(super) fn open(config: &Config, place: &args::Place) -> Result<Self, Failure> {
        let location = location(config, place.location.as_deref())?;
        let connected = connect(location)?;
        let store = connected.store();
        let cluster = place.cluster.clone().unwrap_or_else(|| config.cluster.clone());
        Ok(Self {
            catalog: Catalog { store: Arc::clone(&store), prefix: location.prefix.clone(), cluster },
            download: download::Context {
                store,
                budget: Budget::new(config.limits.memory),
                pool: pool(config)?,
                concurrency: location.upload.concurrency.most().into(),
            },
            snapshots: snapshot::Service::new(connected.disks()),
            location: location.name.clone(),
        })
    }
}
