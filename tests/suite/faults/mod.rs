//! Jobs through a proxy that breaks things, to a real S3 server. After each: what is committed reads back, and nothing is left.

mod answers;
pub(crate) mod proxy;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock::aws::AwsLocation;
use penstock::budget::Budget;
use penstock::catalog::{Catalog, Scope};
use penstock::config::{self, Concurrency, SignPayload, Source, SourceKind};
use penstock::error::{Class, Classify as _};
use penstock::format::codec::{Codec, Compression};
use penstock::format::key::Name;
use penstock::format::manifest::Manifest;
use penstock::job::{self, Hooks, Policy, Progress, Reuse, Spec};
use penstock::limits::Bandwidth;
use penstock::location::{Location, memory};
use penstock::metrics::Metrics;
use penstock::process::Process;
use penstock::store::Store;
use penstock::upload::sweep::{self, Mode, Reach};
use penstock::{download, verify};
use tokio_util::sync::CancellationToken;

use self::proxy::{Fault, Operation, Proxy};
use crate::servers::{S3Server, Servers};

const MIB: usize = 1 << 20;

/// Three parts and a rest; with objects of 11 MiB, two objects.
const LENGTH: usize = 16 * MIB + 12_345;

struct House {
    s3: S3Server,
    proxy: Proxy,
    metrics: Metrics,
    location: Location,
    source: PathBuf,
    /// Past the proxy.
    direct: Arc<dyn Store>,
    servers: Servers,
}

impl House {
    fn new() -> Self {
        Self::with(Duration::from_secs(60), None)
    }

    fn with(patience: Duration, bandwidth: Option<Bandwidth>) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3_with_uploads();
        let proxy = servers.proxy(&s3);
        let upload = config::Upload {
            part_size: 5 << 20,
            concurrency: Concurrency::AtMost(3),
            object_size: 11 << 20,
            sign_payload: SignPayload::Never,
        };
        let config = config::Location { upload, ..s3.location() };
        let connect = |config: &config::Location| {
            AwsLocation::connect_with(config, Metrics::new().location("test"), |_| None).unwrap()
        };
        let direct = connect(&config).store();
        let config = config::Location { s3_url: Some(proxy.url.clone()), ..config.clone() };
        let aws = connect(&config);
        let store = match bandwidth {
            Some(bandwidth) => aws.limited(bandwidth).store(),
            None => aws.store(),
        };
        let source = servers.folder().join("source");
        std::fs::write(&source, noise(LENGTH, 42)).unwrap();
        let process = Process::new(64 << 20, 2, &servers.folder().join("state"), Metrics::new());
        let remote = Arc::new(memory::Memory::new(store));
        let mut location = Location::new(remote, &config, (&name("c"), &name("n")), &process);
        location.patience = patience;
        Self { s3, proxy, metrics: process.metrics, location, source, direct, servers }
    }

    fn spec(&self, job: &str) -> Spec {
        Spec {
            job: name(job),
            sources: vec![Source { name: name("item"), kind: SourceKind::File { path: self.source.clone() } }],
            codec: Codec { compression: Compression::None },
            timeout: None,
            hooks: Hooks::default(),
            parent: Policy { reuse: Reuse::Nothing, ..Policy::default() },
            allow_plain: false,
        }
    }

    async fn run(&self) -> Result<Manifest, job::Error> {
        let cancel = CancellationToken::new();
        let committed = job::run(&self.location, &self.spec("job"), &Arc::new(Progress::default()), &cancel).await;
        committed.map(|committed| committed.manifest)
    }

    fn past_the_proxy(&self) -> Location {
        let remote = Arc::new(memory::Memory::new(Arc::clone(&self.direct)));
        let Location { config, cluster, node, process, .. } = &self.location;
        let mut process = process.clone();
        process.budget = Budget::new(64 << 20);
        Location::new(remote, config, (cluster, node), &process)
    }

    /// Reads everything back, past the proxy.
    async fn verify(&self, manifest: &Manifest) {
        let direct = self.past_the_proxy();
        let cancel = CancellationToken::new();
        let count: download::Progress = Arc::new(|_| {});
        let findings = verify::verify(&direct, manifest, verify::Depth::Data, &cancel, &count).await.unwrap();
        assert!(findings.list.is_empty(), "{:?}", findings.list);
        assert_eq!(findings.bytes, LENGTH as u64);
    }

    fn entries(&self) -> usize {
        let folder = self.servers.folder().join("state/uploads");
        std::fs::read_dir(folder).unwrap().count()
    }

    async fn sweep(&self) {
        let (state, locations, none) = (self.servers.folder().join("state"), [self.past_the_proxy()], BTreeSet::new());
        let swept = sweep::sweep(&state, &locations, &none, Mode::Abort, Reach::Bucket).await.unwrap().uploads;
        assert!(
            swept.iter().all(|one| !matches!(one.fate, sweep::Fate::Failed(_) | sweep::Fate::Unknown)),
            "{swept:?}"
        );
    }

    async fn nothing_is_left(&self, after: &str) {
        assert_eq!((self.s3.uploads_in_progress(), self.entries()), (0, 0), "uploads, journal entries after {after}");
        returned(&self.location.process.budget, after).await;
    }

    /// The objects in the bucket that no such manifest names.
    async fn orphans(&self, manifests: &[Manifest]) -> Vec<String> {
        let mut named = HashSet::new();
        for manifest in manifests {
            let backup = format!("c/job/n/{}/manifest.json", manifest.id);
            named.insert(backup);
            for (_, stream) in manifest.streams() {
                named.insert(stream.index.key.as_str().to_owned());
                named.extend(stream.objects.iter().map(|object| object.key.as_str().to_owned()));
            }
        }
        let page = self.direct.list("", None).await.unwrap();
        assert!(page.next.is_none());
        page.objects
            .into_iter()
            .map(|object| object.key.as_str().to_owned())
            .filter(|key| !named.contains(key))
            .collect()
    }
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

pub(crate) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next(&mut seed).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// SplitMix64.
pub(crate) fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const WRITES: [Operation; 4] = [Operation::Put, Operation::UploadPart, Operation::Create, Operation::Complete];

fn faults() -> Vec<(&'static str, Fault)> {
    vec![
        ("delay", Fault::Delay(Duration::from_millis(300))),
        ("drop", Fault::Drop),
        ("reset in the body", Fault::ResetInBody(100_000)),
        ("half-close", Fault::HalfClose),
        ("500 without a body", Fault::Answer(500, None)),
        ("500", Fault::Answer(500, Some("InternalError"))),
        ("503 without a body", Fault::Answer(503, None)),
        ("slow down", Fault::Answer(503, Some("SlowDown"))),
        ("429", Fault::Answer(429, None)),
        ("timeout of the server", Fault::Answer(400, Some("RequestTimeout"))),
        ("expired token", Fault::Answer(400, Some("ExpiredToken"))),
        ("bad digest", Fault::Answer(400, Some("BadDigest"))),
        ("answer lost", Fault::LoseAnswer),
        ("answer cut", Fault::TruncateAnswer),
        ("wrong checksum in the answer", Fault::Header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")),
        ("slow line", Fault::Slow(20 * MIB)),
    ]
}

/// Every kind of write meets every fault once, at its first request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_got_over_once() {
    let house = House::new();
    let mut manifests = Vec::new();
    for (fault, how) in faults() {
        let before = house.proxy.injected();
        // The manifest is the second object that is put; the index was put twice.
        house.proxy.script(move |operation, count| {
            let hit = count == 0 || (operation == Operation::Put && count == 2);
            (hit && WRITES.contains(&operation)).then(|| how.clone())
        });
        let manifest = house.run().await.unwrap_or_else(|error| panic!("{fault}: {error}"));
        assert!(house.proxy.injected() >= before + WRITES.len(), "{fault}: was not injected everywhere");
        house.verify(&manifest).await;
        // A Create whose answer was lost has left an upload that only a listing finds.
        house.sweep().await;
        house.nothing_is_left(fault).await;
        manifests.push(manifest);
    }
    assert_eq!(house.orphans(&manifests).await, Vec::<String>::new());
    assert!(retries(&house.metrics) >= 26.0, "{} retries were counted", retries(&house.metrics));
}

fn retries(metrics: &Metrics) -> f64 {
    let families = metrics.gather();
    let family = families.iter().find(|family| family.name() == "penstock_request_retries_total").unwrap();
    family.get_metric().iter().map(|one| one.get_counter().get_value()).sum()
}

/// A Complete that answers 200 with an error inside was not carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_fails_inside_its_200_is_made_again() {
    let house = House::new();
    house.proxy.script(|operation, count| (operation == Operation::Complete && count < 2).then_some(Fault::ErrorIn200));
    let manifest = house.run().await.unwrap();
    house.verify(&manifest).await;
    house.nothing_is_left("the run").await;
    assert_eq!(house.proxy.seen(Operation::Complete), 4, "two objects, two failures");
}

/// What is wrong again after it was sent again ends the job, and says what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_wrong_fails_the_job_and_leaves_nothing() {
    for (how, class) in [
        (Fault::Header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="), Class::Integrity),
        (Fault::Answer(400, Some("BadDigest")), Class::Integrity),
        (Fault::Answer(403, Some("AccessDenied")), Class::AccessDenied),
        (Fault::Answer(404, Some("NoSuchUpload")), Class::NotFound),
        (Fault::Answer(501, Some("NotImplemented")), Class::Compat),
    ] {
        let house = House::new();
        house.proxy.script(move |operation, _| (operation == Operation::UploadPart).then(|| how.clone()));
        let failed = house.run().await.unwrap_err();
        assert_eq!(failed.class(), class, "{failed}");
        house.proxy.behave();
        house.nothing_is_left("the run").await;
        assert_eq!(house.orphans(&[]).await, Vec::<String>::new());
    }
}

/// Nothing can be cleaned up at a store that is not there; the journal remembers, and the next sweep does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stays_down_fails_the_job_in_time_and_is_cleaned_up_later() {
    let house = House::with(Duration::from_secs(2), None);
    house.proxy.script(|operation, count| {
        let up = match operation {
            Operation::Create => true,
            // Of the chain, before anything is stored.
            Operation::Read | Operation::UploadPart => count < 1,
            _ => false,
        };
        (!up).then_some(Fault::Drop)
    });
    let started = Instant::now();
    let failed = house.run().await.unwrap_err();
    assert_eq!(failed.class(), Class::Transient, "{failed}");
    assert!(started.elapsed() < Duration::from_secs(100), "{:?}", started.elapsed());
    assert_eq!((house.s3.uploads_in_progress(), house.entries()), (1, 1));
    house.proxy.behave();
    house.sweep().await;
    house.nothing_is_left("the run").await;
}

/// The manifest arrived, and nobody said so. Where the store can be asked, it is a backup like any other; where it cannot, or says that
/// there is none while the request may still be on its way, the job fails and keeps what it may have made visible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_nobody_answers_is_looked_for_and_never_undone() {
    let denied = Fault::Answer(403, Some("AccessDenied"));
    let wrong = Fault::Header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=");
    for (read, later) in [
        (None, Fault::Drop),
        (None, denied.clone()),
        (Some(Fault::Drop), Fault::Drop),
        (Some(Fault::Drop), denied.clone()),
        (Some(wrong.clone()), Fault::Drop),
        (Some(wrong), denied),
    ] {
        let answerable = read.is_none();
        let house = House::with(Duration::from_secs(2), None);
        let sent = AtomicBool::new(false);
        house.proxy.script(move |operation, count| match operation {
            // The index, and then the manifest.
            Operation::Put if count == 1 => {
                sent.store(true, Ordering::SeqCst);
                Some(Fault::LoseAnswer)
            }
            Operation::Put if count > 1 => Some(later.clone()),
            Operation::Read if sent.load(Ordering::SeqCst) => read.clone(),
            _ => None,
        });
        match house.run().await {
            Ok(_) => assert!(answerable),
            Err(failed) => {
                assert!(matches!(failed, job::Error::Undecided { .. }) && !answerable, "{failed}");
                assert!(failed.report().remedy.is_some_and(|remedy| remedy.contains("penstock list")));
            }
        }
        house.proxy.behave();
        let catalog = Catalog::new(&house.past_the_proxy());
        let entries = catalog.entries(Scope::default()).await.unwrap();
        assert_eq!(entries.len(), 1);
        house.verify(&catalog.manifest(&entries[0]).await.unwrap()).await;
        house.nothing_is_left("the run").await;
    }
}

/// A manifest that is refused for certain takes what it would have named with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_refused_leaves_nothing() {
    let house = House::new();
    let refused = Fault::Answer(403, Some("AccessDenied"));
    house.proxy.script(move |operation, count| (operation == Operation::Put && count >= 1).then(|| refused.clone()));
    let failed = house.run().await.unwrap_err();
    assert_eq!(failed.class(), Class::AccessDenied, "{failed}");
    house.proxy.behave();
    assert_eq!(house.orphans(&[]).await, Vec::<String>::new());
    house.nothing_is_left("the run").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_back_in_time_is_as_if_nothing_had_happened() {
    let house = House::new();
    let down_until = Arc::new(std::sync::OnceLock::new());
    house.proxy.script(move |operation, count| {
        let down = *down_until.get_or_init(|| Instant::now() + Duration::from_secs(3));
        let up = operation == Operation::Create && count == 0;
        (!up && Instant::now() < down).then_some(Fault::Drop)
    });
    let manifest = house.run().await.unwrap();
    assert!(house.proxy.injected() > 3, "{}", house.proxy.injected());
    house.verify(&manifest).await;
    house.sweep().await;
    house.nothing_is_left("the run").await;
}

/// The rule is 30 seconds without progress; the other parts go on meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_hangs_is_cut_and_sent_again() {
    let house = House::new();
    house
        .proxy
        .script(|operation, count| (operation == Operation::UploadPart && count == 1).then_some(Fault::Stall(100_000)));
    let started = Instant::now();
    let manifest = house.run().await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(29), "{:?}", started.elapsed());
    house.verify(&manifest).await;
    house.nothing_is_left("the run").await;
}

/// Two jobs at once share `limits.bandwidth`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bandwidth_is_for_all_jobs_together() {
    let rate = 8 * MIB as u64;
    let house = House::with(Duration::from_secs(60), Some(Bandwidth::new(rate)));
    let (cancel, started) = (CancellationToken::new(), Instant::now());
    let (one, two) = (house.spec("one"), house.spec("two"));
    let (progress, other) = (Arc::default(), Arc::default());
    let (one, two) = tokio::join!(
        job::run(&house.location, &one, &progress, &cancel),
        job::run(&house.location, &two, &other, &cancel)
    );
    let least = Duration::from_secs(2 * LENGTH as u64 / rate);
    assert!(started.elapsed() + Duration::from_millis(100) >= least, "{:?} instead of {least:?}", started.elapsed());
    house.verify(&one.unwrap().manifest).await;
    house.verify(&two.unwrap().manifest).await;
    house.nothing_is_left("the run").await;
}

/// Whatever happens in whatever order: what is committed is whole, and what is not leaves nothing once the store is well again.
async fn storm(seeds: std::ops::Range<u64>) {
    let house = House::with(Duration::from_secs(20), None);
    let (mut manifests, mut failed) = (Vec::new(), 0);
    for seed in seeds {
        let dice = std::sync::Mutex::new(seed);
        house.proxy.script(move |_, _| {
            let mut dice = dice.lock().unwrap();
            let hit = next(&mut dice).is_multiple_of(4);
            let faults = faults();
            hit.then(|| faults[usize::try_from(next(&mut dice)).unwrap() % faults.len()].1.clone())
        });
        match house.run().await {
            Ok(manifest) => {
                house.verify(&manifest).await;
                manifests.push(manifest);
            }
            Err(error) => {
                let class = error.class();
                // Both looks at the manifest met the wrong checksum.
                let doubted = class == Class::Compat && matches!(error, job::Error::Undecided { .. });
                assert!(
                    doubted
                        || matches!(
                            class,
                            Class::Transient | Class::Throttled | Class::Integrity | Class::CredentialsExpired
                        ),
                    "seed {seed}: {error}"
                );
                failed += 1;
            }
        }
        house.proxy.behave();
        house.sweep().await;
        house.nothing_is_left(&format!("seed {seed}")).await;
    }
    println!("{} committed, {failed} failed, {} faults injected", manifests.len(), house.proxy.injected());
    assert!(!manifests.is_empty() && house.proxy.injected() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm() {
    storm(0..4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make soak"]
async fn soak_a_long_storm() {
    storm(100..200).await;
}

/// A request that was given up holds its buffer until its connection's task has noticed.
pub(crate) async fn returned(budget: &Budget, after: &str) {
    let empty = async {
        while budget.in_use() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), empty).await;
    assert!(waited.is_ok(), "{} bytes of buffers are held after {after}", budget.in_use());
}
