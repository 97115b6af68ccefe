//! Whole runs with snapshots, on the store and the block service in memory, in virtual time.

mod encrypted;
mod exactly_once;
mod selection;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::super::{Committed, Error, Hooks, Progress, Spec, run};
use crate::age::Recipient;
use crate::catalog::{Catalog, Scope};
use crate::clock::Virtual;
use crate::config::{self, Ebs, OnNoMatch, Source, SourceKind};
use crate::disks::Volume;
use crate::disks::memory::{MemoryDisks, volume};
use crate::format::ebs::VolumeId;
use crate::format::manifest::Manifest;
use crate::format::testing::name;
use crate::location::{Location, memory};
use crate::metrics::Metrics;
use crate::process::Process;
use crate::snapshot::Records;
use crate::store::memory::MemoryStore;

fn volume_id(number: usize) -> VolumeId {
    format!("vol-{number:08x}").parse().unwrap()
}

fn volumes(count: usize) -> Vec<Volume> {
    (0..count).map(|number| volume(&volume_id(number), &[("role", "data")])).collect()
}

/// Every volume tagged `role=data`.
fn by_tag() -> Ebs {
    Ebs {
        volumes: Vec::new(),
        select_tags: [("role".to_owned(), "data".to_owned())].into(),
        attached_to: None,
        on_no_match: OnNoMatch::Error,
        tags: [("team".to_owned(), "platform".to_owned())].into(),
        copy_volume_tags: true,
        concurrency: 8,
        wait: Some(Duration::from_hours(4)),
    }
}

struct World {
    clock: Virtual,
    disks: Arc<MemoryDisks>,
    store: Arc<MemoryStore>,
    metrics: Metrics,
    folder: tempfile::TempDir,
    sources: Vec<Source>,
    recipients: Vec<Recipient>,
    hooks: Hooks,
    memory: u64,
}

impl World {
    fn new(volumes: Vec<Volume>, ebs: Ebs) -> Self {
        let clock = Virtual::default();
        Self {
            disks: Arc::new(MemoryDisks::with_clock(volumes, Arc::new(clock.clone()))),
            clock,
            store: Arc::new(MemoryStore::new()),
            metrics: Metrics::new(),
            folder: tempfile::tempdir().unwrap(),
            sources: vec![Source { name: name("data"), kind: SourceKind::Ebs(ebs) }],
            recipients: Vec::new(),
            hooks: Hooks::default(),
            memory: 64 << 20,
        }
    }

    /// Another process each time: nothing is shared but the disk, the store and the block service.
    fn location(&self) -> Location {
        let remote = memory::Memory::new(self.store.clone()).with_disks(self.disks.clone());
        let mut config = config::Location { name: "primary".to_owned(), ..memory::config("fleet") };
        if !self.recipients.is_empty() {
            let recipients = config::Recipients::Inline(self.recipients.clone());
            config.client_encryption = Some(config::ClientEncryption { recipients, index_identity_file: None });
        }
        let process = Process::new(self.memory, 1, self.folder.path(), self.metrics.clone());
        let location = Location::new(Arc::new(remote), &config, (&name("prod"), &name("n1")), &process);
        location.with_clock(Arc::new(self.clock.clone()))
    }

    fn records(&self) -> Records {
        Records::new(self.folder.path())
    }

    async fn run(&self) -> Result<Committed, Error> {
        self.run_until(&CancellationToken::new()).await
    }

    async fn run_until(&self, cancel: &CancellationToken) -> Result<Committed, Error> {
        let spec = Spec { hooks: self.hooks.clone(), ..Spec::new(name("disks"), self.sources.clone()) };
        let (location, progress) = (self.location(), Arc::new(Progress::default()));
        Box::pin(self.clock.run(run(&location, &spec, &progress, cancel))).await
    }

    /// Every committed manifest, newest first.
    async fn manifests(&self) -> Vec<Manifest> {
        let catalog = Catalog::new(&self.location());
        let entries = catalog.entries(Scope::default()).await.unwrap();
        catalog.manifests(&entries).map(|(_, manifest)| manifest.unwrap()).collect().await
    }

    /// The sum over a family's series.
    fn metric(&self, family: &str) -> u64 {
        let families = self.metrics.gather();
        let of = families
            .iter()
            .filter(|found| found.name() == family)
            .flat_map(prometheus::proto::MetricFamily::get_metric);
        let value = of.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum::<f64>();
        // Counts are whole.
        format!("{value}").parse().unwrap()
    }
}
