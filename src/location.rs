//! One opened location: its configuration, the cluster and node whose backups it has, and the clients of its services.
//!
//! [`Location::open`] makes it through a [`Connect`]; all work at the location takes a `&Location`. Its store and its block
//! service repeat failed requests ([`crate::retry`]), so no caller does. The process's limits are in [`Process`].

pub mod keys;
mod lock;
pub mod memory;
pub mod past;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::age::Identity;
use crate::budget::Budget;
use crate::clock::{self, Clock};
use crate::config;
use crate::disks::Disks;
use crate::error::{Class, Report, ServiceError};
use crate::format::key::{Chain, Name};
use crate::metrics;
use crate::process::Process;
use crate::retry::pace::Pace;
use crate::retry::{Endpoint, PATIENCE, Policy, Retrying};
use crate::store::Store;

pub use self::lock::{ALLOWANCE, READ_EVERY, Share, TRIED_EVERY};

/// Connects locations; `cli` plugs the adapter in.
pub trait Connect: Send + Sync {
    /// Reads files; makes no request.
    ///
    /// # Errors
    /// When the location's configuration cannot be used.
    fn connect(&self, location: &config::Location, metrics: &metrics::Location) -> Result<Arc<dyn Remote>, Report>;
}

/// The services of one location. A method of its store or block service is one request.
#[async_trait]
pub trait Remote: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;

    fn disks(&self) -> Arc<dyn Disks>;

    /// The time by the store's clock, as far as its replies have shown it; `None` before the first reply.
    fn now(&self) -> Option<Timestamp> {
        Some(Timestamp::now())
    }

    /// When the current credentials expire, after obtaining them if needed; `None` if they do not expire.
    async fn credentials(&self) -> Result<Option<SystemTime>, ServiceError>;

    /// When the first certificate of the CA bundle expires.
    fn certificate_expiry(&self) -> Option<Timestamp>;
}

/// Cheap to clone; all clones share connections, credentials, the retry budget and the pace.
#[derive(Clone)]
pub struct Location {
    pub config: Arc<config::Location>,
    pub cluster: Name,
    pub node: Name,
    pub process: Process,
    /// The services without retries, for checking whether the location answers now.
    pub remote: Arc<dyn Remote>,
    /// The state of retries and of the window, shared by all work there.
    pub endpoint: Endpoint,
    pub store: Arc<dyn Store>,
    pub disks: Arc<dyn Disks>,
    /// Spaces the creations of snapshots there.
    pub pace: Arc<Pace>,
    /// The clock for pauses and long waits.
    pub clock: Arc<dyn Clock>,
    /// How long an upload's requests are repeated.
    pub patience: Duration,
    /// What encrypted objects are read with.
    pub identities: Arc<[Identity]>,
    stop: CancellationToken,
}

impl Location {
    /// # Errors
    /// When the location's configuration cannot be used.
    pub fn open(
        connect: &dyn Connect,
        config: &config::Location,
        (cluster, node): (&Name, &Name),
        process: &Process,
    ) -> Result<Self, Report> {
        let remote = connect.connect(config, &process.metrics.location(&config.name))?;
        Ok(Self::new(remote, config, (cluster, node), process))
    }

    /// Opens a location over services that are connected already.
    #[must_use]
    pub fn new(
        remote: Arc<dyn Remote>,
        config: &config::Location,
        (cluster, node): (&Name, &Name),
        process: &Process,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(clock::System);
        let metrics = process.metrics.location(&config.name);
        let endpoint = Endpoint::new(metrics, config.upload.concurrency.into(), Arc::clone(&clock));
        let stop = CancellationToken::new();
        let (store, disks) = counted(&*remote, &endpoint, &stop);
        Self {
            config: Arc::new(config.clone()),
            cluster: cluster.clone(),
            node: node.clone(),
            process: process.clone(),
            remote,
            endpoint,
            store,
            disks,
            pace: Arc::default(),
            clock,
            patience: PATIENCE,
            identities: Arc::default(),
            stop,
        }
    }

    /// Returns the same location; its requests end when `stop` is cancelled.
    #[must_use]
    pub fn until(&self, stop: &CancellationToken) -> Self {
        let (store, disks) = counted(&*self.remote, &self.endpoint, stop);
        Self { store, disks, stop: stop.clone(), ..self.clone() }
    }

    /// Returns the same location, whose encrypted objects are read with these identities.
    #[must_use]
    pub fn with_identities(self, identities: Arc<[Identity]>) -> Self {
        Self { identities, ..self }
    }

    /// Returns the same location, whose work takes its buffers from there.
    #[must_use]
    pub fn with_budget(&self, budget: Budget) -> Self {
        let mut same = self.clone();
        same.process.budget = budget;
        same
    }

    /// Returns the same location, newly opened, with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        let (metrics, window) = (self.endpoint.metrics().clone(), self.config.upload.concurrency.into());
        let endpoint = Endpoint::new(metrics, window, Arc::clone(&clock));
        Self { endpoint, clock, ..self.clone() }.until(&self.stop)
    }

    /// The store for work that nobody waits for: it survives an outage.
    #[must_use]
    pub fn patient(&self) -> Retrying<dyn Store> {
        let policy = Policy::Patience(self.patience);
        Retrying::new(self.remote.store(), self.endpoint.clone(), policy, self.stop.clone())
    }

    /// Waits until the store may be asked once more for what it answered as done, with a failure of `class`, or until the requests end.
    pub async fn once_more(&self, class: Class) {
        self.endpoint.once_more("s3", class, &self.stop).await;
    }

    /// This node's chain of a job's backups.
    #[must_use]
    pub fn chain(&self, job: &Name) -> Chain {
        Chain { cluster: self.cluster.clone(), job: job.clone(), node: self.node.clone() }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }
}

fn counted(remote: &dyn Remote, endpoint: &Endpoint, stop: &CancellationToken) -> (Arc<dyn Store>, Arc<dyn Disks>) {
    let store = Retrying::new(remote.store(), endpoint.clone(), Policy::COUNTED, stop.clone());
    let disks = Retrying::new(remote.disks(), endpoint.clone(), Policy::COUNTED, stop.clone());
    (Arc::new(store), Arc::new(disks))
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Location");
        debug.field("name", &self.config.name).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
