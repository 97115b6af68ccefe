//! What every command that speaks to a store needs: the configuration, a location, budgets.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::output::Done;
use super::{Failure, args};
use crate::aws::AwsLocation;
use crate::budget::Budget;
use crate::catalog::Catalog;
use crate::config::{self, Config, Location};
use crate::disks::Disks;
use crate::download;
use crate::format::key::Name;
use crate::limits::Bandwidth;
use crate::metrics::Metrics;
use crate::retry::Endpoint;
use crate::snapshot;
use crate::stream;
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

/// The location of that name, or every one.
pub(super) fn locations<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a Location>, Failure> {
    match name {
        Some(_) => Ok(vec![location(config, name)?]),
        None => Ok(config.locations.values().collect()),
    }
}

/// The location of that name, or where `job` is configured to be stored, or the only one there is.
pub(super) fn location_of<'a>(
    config: &'a Config,
    name: Option<&str>,
    job: Option<&Name>,
) -> Result<&'a Location, Failure> {
    let own = job.and_then(|job| config.jobs.get(job)).map(|job| job.location.as_str());
    location(config, name.or(own))
}

/// A location that is connected: what a sweep and a job need of it.
pub(super) struct Open {
    pub(super) place: Place,
    pub(super) disks: Arc<dyn Disks>,
}

pub(super) fn open(
    config: &Config,
    location: &Location,
    bandwidth: Option<&Bandwidth>,
    metrics: &Metrics,
) -> Result<Open, Failure> {
    let mut connected = AwsLocation::connect(location, metrics.location(&location.name))?;
    if let Some(bandwidth) = bandwidth {
        connected = connected.limited(bandwidth.clone());
    }
    let place = Place {
        location: location.name.clone(),
        bucket: location.bucket.clone(),
        prefix: location.prefix.clone(),
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        store: connected.store(),
        endpoint: Endpoint::new(metrics.location(&location.name), location.upload.concurrency.into()),
        spared: BTreeSet::new(),
    };
    Ok(Open { place, disks: connected.disks() })
}

/// For a command that nobody scrapes.
pub(super) fn connect(location: &Location) -> Result<AwsLocation, Failure> {
    Ok(AwsLocation::connect(location, Metrics::new().location(&location.name))?)
}

pub(super) fn pool(config: &Config) -> Result<Arc<rayon::ThreadPool>, Failure> {
    Ok(stream::pool(config.limits.compression_threads)?)
}

/// For the commands that read backups.
pub(super) struct Reading {
    pub(super) catalog: Catalog,
    pub(super) download: download::Context,
    pub(super) snapshots: snapshot::Service,
    pub(super) location: String,
}

impl Reading {
    /// `job` is the one whose backups are meant, where that is known.
    pub(super) fn open(config: &Config, place: &args::Place, job: Option<&Name>) -> Result<Self, Failure> {
        Self::of(config, place, location_of(config, place.location.as_deref(), job)?)
    }

    /// For each location that `place` means: the named one, or all.
    pub(super) fn open_all(config: &Config, place: &args::Place) -> Result<Vec<Self>, Failure> {
        let locations = locations(config, place.location.as_deref())?;
        locations.into_iter().map(|location| Self::of(config, place, location)).collect()
    }

    fn of(config: &Config, place: &args::Place, location: &Location) -> Result<Self, Failure> {
        let connected = connect(location)?;
        let store = connected.store();
        let cluster = place.cluster.clone().unwrap_or_else(|| config.cluster.clone());
        Ok(Self {
            catalog: Catalog {
                store: Arc::clone(&store),
                prefix: location.prefix.clone(),
                cluster,
                memory: config.limits.memory,
            },
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
