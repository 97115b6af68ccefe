//! What one run of a job that has nothing new to save asks of the store (docs/sizing.md, "A fleet").

use std::collections::BTreeMap;

use super::super::board::{Cause, Running};
use super::*;
use crate::config::{Config, LockMode, ObjectLock};
use crate::location::memory::{self, Memory};
use crate::store::memory::MemoryStore;

const OPERATIONS: [&str; 8] = [
    "ListObjectsV2",
    "GetObject",
    "HeadObject",
    "PutObject",
    "DeleteObject",
    "PutObjectRetention",
    "GetObjectRetention",
    "GetObjectLegalHold",
];

struct Node {
    store: Arc<MemoryStore>,
    location: Location,
    runner: Runner,
    job: Arc<config::Job>,
    _folder: tempfile::TempDir,
}

impl Node {
    /// A job of one small tree.
    fn new(retention: &str, object_lock: Option<ObjectLock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "content").unwrap();
        let text = format!(
            "cluster = \"c\"\nnode = \"n\"\n[locations.a]\nprovider = \"aws\"\nbucket = \"acme-backups\"\nregion = \"eu-west-1\"\n\
             [jobs.j]\nlocation = \"a\"\n{retention}\nsources = [{{ type = \"tree\", name = \"files\", path = \"{}\" }}]\n",
            folder.path().display()
        );
        let mut config = Config::parse(&text, &BTreeMap::new()).unwrap_or_else(|faults| panic!("{faults}"));
        let store = Arc::new(MemoryStore::new());
        if object_lock.is_some() {
            store.keep_locks();
        }
        let place = config::Location { object_lock, ..memory::config("p") };
        let location = Memory::new(Arc::clone(&store) as _).with_clock(Arc::clone(&store)).open(&place, 64 << 20);
        let (_, job) = config.jobs.pop_first().unwrap();
        let runner = Runner { process: location.process.clone(), history: History::default() };
        Self { store, location, runner, job: Arc::new(job), _folder: folder }
    }

    /// The requests of the next run.
    async fn run(&self) -> BTreeMap<&'static str, usize> {
        let count = || OPERATIONS.map(|operation| self.store.requests(operation));
        let (before, all) = (count(), self.store.all_requests());
        let (progress, cancel) = (Arc::default(), CancellationToken::new());
        let running = Running { since: Timestamp::now(), cause: Cause::Schedule, progress, cancel };
        let verdict = self.runner.run(&self.location, &Start { job: Arc::clone(&self.job), running }).await;
        assert_eq!(verdict.outcome, Outcome::Success, "{verdict:?}");
        let made = OPERATIONS.into_iter().zip(count().into_iter().zip(before).map(|(after, before)| after - before));
        let made: BTreeMap<_, _> = made.filter(|(_, count)| *count > 0).collect();
        assert_eq!(made.values().sum::<usize>(), self.store.all_requests() - all, "an operation is not in the list");
        made
    }

    /// The requests of the last of so many runs.
    async fn last_of(&self, runs: usize) -> BTreeMap<&'static str, usize> {
        for _ in 1..runs {
            self.run().await;
        }
        self.run().await
    }
}

#[tokio::test]
async fn a_run_that_finds_nothing_new_makes_seven_requests() {
    let expected = [("ListObjectsV2", 2), ("GetObject", 2), ("PutObject", 2), ("HeadObject", 1)];
    for runs in [2, 9] {
        assert_eq!(Node::new("", None).last_of(runs).await, expected.into());
    }
}

/// The manifests of a chain are read once, however long it is.
#[tokio::test]
async fn with_retention_a_run_costs_as_much_for_a_long_chain_as_for_a_short_one() {
    let expected =
        [("ListObjectsV2", 3), ("GetObject", 4), ("HeadObject", 1), ("PutObject", 3), ("DeleteObject", 3)].into();
    for kept in [2, 20] {
        let node = Node::new(&format!("retention = {{ keep_last = {kept}, grace = \"0s\" }}"), None);
        assert_eq!(node.last_of(kept + 4).await, expected, "{kept}");
    }
}

#[tokio::test]
async fn locks_cost_a_run_what_they_are_read_back_with() {
    let object_lock = Some(ObjectLock { mode: LockMode::Governance, period: Duration::from_hours(24 * 14) });
    let expected =
        [("ListObjectsV2", 2), ("GetObject", 2), ("HeadObject", 1), ("PutObject", 2), ("GetObjectRetention", 1)];
    assert_eq!(Node::new("", object_lock).last_of(4).await, expected.into());
}
