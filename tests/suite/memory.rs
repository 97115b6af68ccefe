//! Eight jobs at once, and a store that has stopped answering: what they hold, by the budget's own gauge and by the kernel's.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use penstock::aws::AwsLocation;
use penstock::config::{self, Concurrency, SignPayload, Source, SourceKind};
use penstock::error::{Class, Classify as _};
use penstock::format::codec::Codec;
use penstock::format::key::Name;
use penstock::job::{self, Hooks, Policy, Reuse, Spec};
use penstock::location::{Location, memory};
use penstock::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use crate::faults::proxy::{Fault, Operation};
use crate::servers::Servers;

const MIB: u64 = 1 << 20;

/// For four of the eight jobs; the others wait for their turn.
const BUDGET: u64 = 128 * MIB;

/// What a process of this binary takes besides: the binary, threads, TLS, zstd's contexts.
const CONSTANT: u64 = 64 * MIB;

fn location(url: &str, s3: config::Location, budget: u64) -> Location {
    let upload = config::Upload {
        part_size: 5 * MIB,
        concurrency: Concurrency::AtMost(8),
        object_size: 64 << 30,
        sign_payload: SignPayload::Never,
    };
    let config = config::Location { upload, s3_url: Some(url.to_owned()), ..s3 };
    let store = AwsLocation::connect_with(&config, Metrics::new().location("test"), |_| None).unwrap().store();
    memory::Memory::new(store).open(&config, budget)
}

fn endless(number: usize, limit: Duration) -> Spec {
    let argv = ["cat", "/dev/urandom"].map(str::to_owned).to_vec();
    Spec {
        job: Name::new(format!("job-{number}")).unwrap(),
        sources: vec![Source {
            name: Name::new("item").unwrap(),
            kind: SourceKind::Command { argv, allow_empty: false },
        }],
        codec: Codec::default(),
        timeout: Some(limit),
        hooks: Hooks::default(),
        parent: Policy { reuse: Reuse::Nothing, ..Policy::default() },
        allow_plain: false,
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// In a process of its own, so that its resident memory is its own too.
#[tokio::test]
#[ignore = "a part of eight_jobs_stay_within_the_budget"]
async fn eight_jobs_in_this_process() {
    let url = std::env::var("PENSTOCK_TEST_STORE").expect("started by the other test");
    // Only for a location to change.
    let servers = Servers::start();
    let s3 = servers.s3(crate::servers::Scheme::Http).location();
    let location = location(&url, s3, BUDGET);
    let budget = location.process.budget.clone();
    let jobs = (0..8).map(|number| {
        let location = location.clone();
        tokio::spawn(async move {
            let spec = endless(number, Duration::from_secs(12));
            job::run(&location, &spec, &Arc::default(), &CancellationToken::new()).await
        })
    });
    let mut all = std::pin::pin!(futures_util::future::join_all(jobs));
    let (mut most_held, mut most_resident) = (0, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let ended = loop {
        tokio::select! {
            ended = &mut all => break ended,
            _ = ticks.tick() => {
                most_held = most_held.max(budget.in_use());
                most_resident = most_resident.max(resident());
            }
        }
    };
    for result in ended {
        let error = result.unwrap().unwrap_err();
        assert_eq!(error.class(), Class::Timeout, "nobody is locked out for ever: {error}");
    }
    println!("held {} MiB of {}, resident {} MiB", most_held / MIB, BUDGET / MIB, most_resident / MIB);
    assert!(most_held <= BUDGET && most_held > BUDGET / 2, "{most_held}");
    assert!(most_resident <= BUDGET + CONSTANT, "{most_resident}");
    crate::faults::returned(&budget, "the jobs").await;
}

#[test]
fn eight_jobs_stay_within_the_budget() {
    let servers = Servers::start();
    let s3 = servers.s3_with_uploads();
    let proxy = servers.proxy(&s3);
    proxy.script(|operation, _| (operation == Operation::UploadPart).then_some(Fault::Stall(0)));
    let test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::eight_jobs_in_this_process", "--ignored", "--nocapture"])
        .env("PENSTOCK_TEST_STORE", &proxy.url)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(test.status.success(), "{test:?}");
    let told = String::from_utf8_lossy(&test.stdout);
    assert!(told.contains("1 passed"), "{told}");
    println!("{}", told.lines().find(|line| line.starts_with("held")).unwrap());
    assert_eq!(s3.uploads_in_progress(), 0);
}

/// Said at once, not found out by waiting.
#[tokio::test]
async fn a_job_that_can_never_have_its_part_is_told_so() {
    let servers = Servers::start();
    let s3 = servers.s3(crate::servers::Scheme::Http);
    let least = penstock::budget::stream::least(5 * MIB);
    let location = location(&s3.url, s3.location(), least - 1);
    let (spec, progress, cancel) = (endless(1, Duration::from_secs(60)), Arc::default(), CancellationToken::new());
    let report = job::run(&location, &spec, &progress, &cancel).await.unwrap_err().report();
    assert_eq!(report.class, Class::Config);
    assert!(
        report.message.contains(&least.to_string()) && report.remedy.unwrap().contains("limits.memory"),
        "{}",
        report.message
    );
    assert!(s3.seen().iter().all(|request| request.method == "GET"), "nothing was stored");
}
