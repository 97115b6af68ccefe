use std::sync::Arc;

use super::*;
use crate::checksum::Algorithm;
use crate::config;
use crate::error::NOT_THE_SERVICE;
use crate::location::memory;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Error, PartNumber, Payload};
use crate::upload::journal::Journal;

/// The operations that fail, and how. With a `!`, a proxy answers in the store's place.
type Refuses = &'static [(&'static str, Class)];

struct House {
    state: tempfile::TempDir,
    store: Arc<MemoryStore>,
    metrics: Metrics,
}

const DENIED: (&str, Class) = ("ListMultipartUploads", Class::AccessDenied);

impl House {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap(), store: Arc::new(MemoryStore::new()), metrics: Metrics::new() }
    }

    fn key(node: &str, item: &str) -> ObjectKey {
        ObjectKey::new(format!("p/c/job/{node}/20261123T221300Z-4f9a2c/{item}.0001.tar.zst"))
    }

    /// An upload whose process dies after `steps`: 1 the intent, 2 the upload, 3 its ID, 4 a part.
    async fn crash(&self, item: &str, steps: u32) {
        self.crash_of("n", item, steps).await;
    }

    async fn crash_of(&self, node: &str, item: &str, steps: u32) {
        let key = Self::key(node, item);
        let entry = Journal::open(self.state.path(), "primary", "b").unwrap().begin(&key, 16, None).await.unwrap();
        if steps >= 2 {
            let id = self.store.create_upload(&key).await.unwrap();
            if steps >= 3 {
                entry.created(&id).await.unwrap();
            }
            if steps >= 4 {
                let payload = Payload::new("x", Algorithm::None);
                self.store.upload_part(&UploadHandle { key, id }, PartNumber::FIRST, payload).await.unwrap();
            }
        }
    }

    fn location(&self, refuses: Refuses) -> Location {
        self.store.script(move |operation, _, _| {
            let of = |which: &str| which.trim_start_matches('!') == operation;
            let (which, class) = refuses.iter().find(|(which, _)| of(which))?;
            let code = which.starts_with('!').then(|| NOT_THE_SERVICE.to_owned());
            Some(Fault::Refuse(Error { code, ..Error::local(operation, "k", *class, "refused") }))
        });
        let (name, bucket) = ("primary".to_owned(), "b".to_owned());
        let config = config::Location { name, bucket, ..memory::config("p") };
        let process = Process::new(1 << 20, 1, self.state.path(), self.metrics.clone());
        let (cluster, node) = (Name::new("c").unwrap(), Name::new("n").unwrap());
        let store = Arc::clone(&self.store) as _;
        Location::new(Arc::new(memory::Memory::new(store)), &config, (&cluster, &node), &process)
    }

    async fn sweep(&self, refuses: Refuses, mode: Mode) -> Vec<&'static str> {
        let locations = [self.location(refuses)];
        let sweep = sweep(self.state.path(), &locations, &BTreeSet::new(), mode, Reach::Bucket).await.unwrap();
        sweep.uploads.iter().map(|one| one.fate.as_str()).collect()
    }

    async fn strays(&self, refuses: &'static [(&'static str, Class)], now: Timestamp) -> Vec<Swept> {
        let location = self.location(refuses);
        let place = Place { location: &location, spared: &BTreeSet::new() };
        strays(self.state.path(), place, Mode::Abort, now).await.unwrap()
    }

    fn entries(&self) -> usize {
        journal::keys(self.state.path()).unwrap().len()
    }

    fn interrupted(&self) -> f64 {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == "penstock_interrupted_uploads").unwrap();
        family.get_metric()[0].get_gauge().get_value()
    }
}

#[tokio::test]
async fn whatever_a_crash_leaves_is_ended() {
    for (steps, fate) in [(1, "nothing-there"), (2, "aborted"), (3, "aborted"), (4, "aborted")] {
        let house = House::new();
        house.crash("item", steps).await;
        let left = house.store.uploads_in_progress();
        if steps > 1 {
            assert_eq!(house.sweep(&[], Mode::DryRun).await, ["would-abort"]);
        }
        assert_eq!((house.store.uploads_in_progress(), house.entries()), (left, 1), "a dry run changes nothing");
        assert_eq!(house.sweep(&[], Mode::Abort).await, [fate]);
        assert_eq!((house.store.uploads_in_progress(), house.entries()), (Vec::new(), 0), "after step {steps}");
        assert!(house.interrupted().abs() < 0.1);
        assert_eq!(house.sweep(&[], Mode::Abort).await, Vec::<&str>::new());
    }
}

#[tokio::test]
async fn without_permission_to_list_only_a_lost_id_stays_and_is_counted() {
    let house = House::new();
    house.crash("a", 4).await;
    house.crash("b", 2).await;
    let mut fates = house.sweep(&[DENIED], Mode::Abort).await;
    fates.sort_unstable();
    assert_eq!(fates, ["aborted", "unknown"]);
    assert_eq!((house.store.uploads_in_progress().len(), house.entries()), (1, 1));
    assert!((house.interrupted() - 1.0).abs() < 0.1);
    // Once it is permitted, what is known is enough to find it.
    assert_eq!(house.sweep(&[], Mode::Abort).await, ["aborted"]);
    assert_eq!(house.entries(), 0);
}

#[tokio::test]
async fn an_upload_that_cannot_be_aborted_stays_for_the_next_sweep() {
    let house = House::new();
    house.crash("a", 4).await;
    let refuses = &[("AbortMultipartUpload", Class::AccessDenied)];
    assert_eq!(house.sweep(refuses, Mode::Abort).await, ["failed"]);
    assert_eq!((house.store.uploads_in_progress().len(), house.entries()), (1, 1));
    assert_eq!(house.sweep(&[], Mode::Abort).await, ["aborted"]);
    assert_eq!((house.store.uploads_in_progress().len(), house.entries()), (0, 0));
}

/// As s3rver: 405 for both.
const NO_ABORT: Refuses = &[("AbortMultipartUpload", Class::Compat), ("ListParts", Class::Compat), DENIED];

#[tokio::test]
async fn an_upload_that_its_store_cannot_abort_is_given_up_on_request() {
    for (steps, before) in [(4, "failed"), (2, "unknown")] {
        let house = House::new();
        house.crash("a", steps).await;
        assert_eq!(house.sweep(NO_ABORT, Mode::Abort).await, [before]);
        assert_eq!(house.entries(), 1);
        assert_eq!(house.sweep(NO_ABORT, Mode::GiveUp).await, ["given-up"]);
        assert_eq!(house.entries(), 0);
        assert!(house.interrupted().abs() < 0.1);
        assert_eq!(house.sweep(NO_ABORT, Mode::Abort).await, Vec::<&str>::new());
    }
}

#[tokio::test]
async fn giving_up_aborts_what_can_be_and_waits_for_what_may_come_back() {
    let house = House::new();
    house.crash("a", 4).await;
    assert_eq!(house.sweep(&[("AbortMultipartUpload", Class::Tls)], Mode::GiveUp).await, ["failed"]);
    assert_eq!(house.entries(), 1);
    assert_eq!(house.sweep(&[], Mode::GiveUp).await, ["aborted"]);
    assert_eq!((house.store.uploads_in_progress().len(), house.entries()), (0, 0));
}

#[test]
fn after_a_week_only_what_its_store_cannot_do_is_given_up() {
    let (key, week) = (House::key("n", "a"), REPORTED_FOR + Duration::from_secs(1));
    let failed = |class| Fate::Failed(Report::new(class, "no"));
    let page = Report { code: Some(NOT_THE_SERVICE.to_owned()), ..Report::new(Class::Compat, "a page") };
    let rows = [
        (failed(Class::Compat), Mode::Abort, week, true),
        (Fate::Failed(page), Mode::Abort, week, false),
        (failed(Class::Compat), Mode::Abort, REPORTED_FOR, false),
        (failed(Class::Compat), Mode::DryRun, week, false),
        (failed(Class::AccessDenied), Mode::Abort, week, false),
        (failed(Class::AccessDenied), Mode::GiveUp, Duration::ZERO, true),
        (failed(Class::Transient), Mode::GiveUp, week, false),
        (failed(Class::Timeout), Mode::GiveUp, week, false),
        (Fate::Unknown, Mode::Abort, week, true),
        (Fate::Unknown, Mode::Abort, Duration::ZERO, false),
        (Fate::Aborted, Mode::GiveUp, week, false),
        (Fate::Spared, Mode::GiveUp, week, false),
    ];
    for (fate, mode, age, given_up) in rows {
        assert_eq!(fate.given_up(&key, mode, age).is_some(), given_up, "{fate:?} {mode:?} {age:?}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_list_parts_is_aborted_twice() {
    let house = House::new();
    house.crash("a", 4).await;
    assert_eq!(house.sweep(&[("ListParts", Class::Compat)], Mode::Abort).await, ["aborted"]);
    assert_eq!((house.store.uploads_in_progress().len(), house.entries()), (0, 0));
}

/// A proxy's page says nothing about the store's upload, however often it comes.
#[tokio::test]
async fn a_proxys_answer_ends_no_upload_and_no_record() {
    for refuses in [&[("!ListParts", Class::Compat)][..], &[("!AbortMultipartUpload", Class::Compat)]] {
        let house = House::new();
        house.crash("a", 4).await;
        assert_eq!(house.sweep(refuses, Mode::Abort).await, ["failed"], "{refuses:?}");
        assert_eq!(house.entries(), 1);
    }
    let house = House::new();
    house.crash("a", 2).await;
    assert_eq!(house.sweep(&[("!ListMultipartUploads", Class::Compat)], Mode::Abort).await, ["failed"]);
}

#[tokio::test]
async fn a_stray_that_its_store_cannot_abort_is_named_and_fails_nothing() {
    let house = House::new();
    house.store.create_upload(&House::key("n", "old")).await.unwrap();
    let later = Timestamp::now() + SAFE_AGE + Duration::from_secs(60);
    let swept = house.strays(&NO_ABORT[..2], later).await;
    assert!(matches!(swept.as_slice(), [Swept { fate: Fate::GivenUp(_), .. }]), "{swept:?}");
}

#[tokio::test]
async fn another_locations_entry_is_not_aborted_here() {
    let house = House::new();
    house.crash("a", 4).await;
    let mut elsewhere = house.location(&[]);
    Arc::make_mut(&mut elsewhere.config).bucket = "other".to_owned();
    let none = BTreeSet::new();
    let swept = sweep(house.state.path(), &[elsewhere], &none, Mode::Abort, Reach::Journal).await.unwrap().uploads;
    let Fate::Failed(report) = &swept[0].fate else { panic!("{swept:?}") };
    assert_eq!(report.class, Class::Config);
    assert!(report.message.contains("primary") && report.message.contains("bucket b"), "{}", report.message);
    assert_eq!((house.store.uploads_in_progress().len(), house.entries()), (1, 1));
}

/// Any node may write a volume's chain, so what this journal has of one is of this node.
#[tokio::test]
async fn a_job_that_is_about_to_run_keeps_the_uploads_of_its_volumes_too() {
    let house = House::new();
    for node in ["n", "n2", "claim.shop.data", "pod.shop.web.cache"] {
        house.crash_of(node, "volume", 4).await;
    }
    let spared = BTreeSet::from([Name::new("job").unwrap()]);
    let locations = [house.location(&[])];
    let swept = sweep(house.state.path(), &locations, &spared, Mode::Abort, Reach::Bucket).await.unwrap().uploads;
    let is_spared = |one: &&Swept| matches!(one.fate, Fate::Spared);
    let of: BTreeSet<&str> =
        swept.iter().filter(is_spared).map(|one| one.key.as_str().split('/').nth(3).unwrap()).collect();
    assert_eq!(of, ["claim.shop.data", "n", "pod.shop.web.cache"].into());
    assert_eq!(house.sweep(&[], Mode::Abort).await.len(), 3, "another sweep ends them");
}

#[tokio::test]
async fn strangers_and_the_young_are_left_alone() {
    let house = House::new();
    let now = Timestamp::now();
    let old = now - SAFE_AGE - Duration::from_secs(60);
    house.crash("known", 3).await;
    for key in [
        House::key("n", "old"),
        House::key("n2", "other-node"),
        House::key("claim.shop.data", "any-nodes"),
        ObjectKey::new("p/c/job/n/not-a-backup/x"),
        ObjectKey::new("p/c2/job/n/20261123T221300Z-4f9a2c/x"),
    ] {
        house.store.create_upload(&key).await.unwrap();
    }
    assert!(house.strays(&[], now).await.is_empty(), "all are young");
    assert!(house.strays(&[], old).await.is_empty(), "the clock was set back");
    let later = now + SAFE_AGE + Duration::from_secs(60);
    let swept = house.strays(&[], later).await;
    assert_eq!(swept.iter().map(|one| one.key.clone()).collect::<Vec<_>>(), [House::key("n", "old")]);
    assert_eq!(house.store.uploads_in_progress().len(), 5);
    assert!(house.strays(&[DENIED], later).await.is_empty());
}
