//! Opens what every command that uses a store needs: the configuration, locations, budgets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::key::identities;
use super::output::Done;
use super::{Failure, args};
use crate::age::Identity;
use crate::aws::AwsLocation;
use crate::catalog::Catalog;
use crate::cluster::{self, Cluster};
use crate::config::{self, Config, Environment as _};
use crate::disks::Disks;
use crate::error::{Classify as _, Report, ServiceError};
use crate::format::key::Name;
use crate::kube::{Client, Settings};
use crate::limits::Bandwidth;
use crate::location::keys;
use crate::location::past::Past;
use crate::location::{Connect, Location, Remote};
use crate::metrics::{self, Metrics};
use crate::process::Process;
use crate::store::Store;
use crate::store::as_of::Moment;

pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    Ok(Config::load(path, &config::System)?)
}

pub(super) fn check(path: &Path) -> Result<Done, Failure> {
    let config = load(path)?;
    let mut text =
        format!("{}: valid; {} location(s), {} job(s)\n", path.display(), config.locations.len(), config.jobs.len());
    for client_encryption in config.locations.values().filter_map(|location| location.client_encryption.as_ref()) {
        match keys::Recipients::of(client_encryption) {
            Ok(_) => {}
            // The file may be checked on another machine than those that it is for.
            Err(keys::Error::Read { path, error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                text = format!("{text}not checked: {} is not on this machine\n", path.display());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Done::new(text, serde_json::json!({ "ok": true, "file": path })))
}

/// The location of that name, or the only one in the configuration.
pub(super) fn location<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a config::Location, Failure> {
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
pub(super) fn locations<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a config::Location>, Failure> {
    match name {
        Some(_) => Ok(vec![location(config, name)?]),
        None => Ok(config.locations.values().collect()),
    }
}

/// The location of that name, or the one of `job`, or the only one in the configuration.
pub(super) fn location_of<'a>(
    config: &'a Config,
    name: Option<&str>,
    job: Option<&Name>,
) -> Result<&'a config::Location, Failure> {
    let own = job.and_then(|job| config.jobs.get(job)).map(|job| job.location.as_str());
    location(config, name.or(own))
}

/// Connects locations with the AWS adapter; all of them share the bandwidth.
pub(super) struct Aws {
    bandwidth: Option<Bandwidth>,
}

impl Aws {
    pub(super) fn of(config: &Config) -> Self {
        Self { bandwidth: config.limits.bandwidth.map(Bandwidth::new) }
    }
}

impl Connect for Aws {
    fn connect(&self, location: &config::Location, metrics: &metrics::Location) -> Result<Arc<dyn Remote>, Report> {
        let mut location = AwsLocation::connect(location, metrics.clone()).map_err(|error| error.report())?;
        if let Some(bandwidth) = &self.bandwidth {
            location = location.limited(bandwidth.clone());
        }
        Ok(Arc::new(location))
    }
}

#[async_trait]
impl Remote for AwsLocation {
    fn store(&self) -> Arc<dyn Store> {
        self.store()
    }

    fn disks(&self) -> Arc<dyn Disks> {
        self.disks()
    }

    fn now(&self) -> Option<Timestamp> {
        self.skew().milliseconds().and_then(|_| Timestamp::try_from(self.skew().now()).ok())
    }

    async fn credentials(&self) -> Result<Option<SystemTime>, ServiceError> {
        Ok(self.credentials().get().await?.expiry())
    }

    fn certificate_expiry(&self) -> Option<Timestamp> {
        self.trust().certificates().iter().map(|certificate| certificate.not_after).min()
    }
}

/// The cluster of `[kubernetes]`. The client is made when the first request needs it.
pub(super) fn cluster(config: &Config) -> cluster::Shared {
    struct Kube(config::Kubernetes);
    #[async_trait]
    impl cluster::Connect for Kube {
        async fn connect(&self) -> Result<Arc<dyn Cluster>, Report> {
            Ok(Arc::new(client(&self.0, None).await?))
        }
    }
    cluster::Shared::new(Arc::new(Kube(config.kubernetes.clone())))
}

/// The client of the cluster of `[kubernetes]`; `context` replaces the configured one.
pub(super) async fn client(config: &config::Kubernetes, context: Option<&str>) -> Result<Client, Report> {
    let mut settings = Settings::new(config, |name| config::System.variable(name)).map_err(|error| error.report())?;
    if let Some(context) = context {
        settings.context = Some(context.to_owned());
    }
    let client = Client::new(settings).await.map_err(|error| error.report())?;
    tracing::info!(cluster = client.address(), trust = client.trust(), "made the client of the cluster");
    Ok(client)
}

/// The locations of one command, each opened once.
pub(super) struct Session<'a> {
    pub(super) config: &'a Config,
    pub(super) process: Process,
    /// The cluster of `--cluster`, or of the configuration.
    cluster: &'a Name,
    aws: Aws,
    /// Shows the locations as of then; `None` for the present.
    moment: Option<Moment>,
    cancel: &'a CancellationToken,
    opened: BTreeMap<&'a str, Location>,
    /// What encrypted backups are read with.
    identities: Arc<[Identity]>,
}

impl<'a> Session<'a> {
    pub(super) fn new(config: &'a Config, cancel: &'a CancellationToken) -> Self {
        let process = Process::of(config, Metrics::new()).with_cluster(self::cluster(config)).as_command();
        let (aws, moment, opened) = (Aws::of(config), None, BTreeMap::new());
        Self { config, process, cluster: &config.cluster, aws, moment, cancel, opened, identities: Arc::default() }
    }

    /// A session for the commands that read backups, perhaps another cluster's.
    pub(super) fn reading(config: &'a Config, place: &'a args::Place, cancel: &'a CancellationToken) -> Self {
        let cluster = place.cluster.as_ref().unwrap_or(&config.cluster);
        Self { cluster, moment: place.as_of.map(Moment::At), ..Self::new(config, cancel) }
    }

    /// The same session, which shows its locations as of a moment.
    pub(super) fn at(self, moment: Moment) -> Self {
        Self { moment: Some(moment), ..self }
    }

    /// The same, for the commands that read what is in backups.
    pub(super) fn with_key(self, key: &args::Key) -> Result<Self, Failure> {
        Ok(Self { identities: identities(self.config, key)?, ..self })
    }

    /// Opens a location whose requests outlive the command's cancellation, so that a run can abort its uploads.
    pub(super) fn open(&mut self, location: &'a config::Location) -> Result<Location, Failure> {
        if let Some(location) = self.opened.get(location.name.as_str()) {
            return Ok(location.clone());
        }
        let past = self.moment.map(|moment| Past { inner: &self.aws, moment });
        let connect: &dyn Connect = past.as_ref().map_or(&self.aws as &dyn Connect, |past| past);
        let opened = Location::open(connect, location, (self.cluster, &self.config.node), &self.process)?;
        let opened = opened.with_identities(Arc::clone(&self.identities));
        self.opened.insert(&location.name, opened.clone());
        Ok(opened)
    }

    /// Opens a location whose requests end with the command's cancellation.
    pub(super) fn catalog(&mut self, location: &'a config::Location) -> Result<Catalog, Failure> {
        Ok(Catalog::new(&self.open(location)?.until(self.cancel)).cached())
    }

    /// The location of that name, or the one of `job`.
    pub(super) fn catalog_of(&mut self, name: Option<&str>, job: Option<&Name>) -> Result<Catalog, Failure> {
        self.catalog(location_of(self.config, name, job)?)
    }

    /// The named location, or every one.
    pub(super) fn catalogs(&mut self, name: Option<&str>) -> Result<Vec<Catalog>, Failure> {
        locations(self.config, name)?.into_iter().map(|location| self.catalog(location)).collect()
    }
}
