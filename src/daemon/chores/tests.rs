//! A day of an idle daemon, on a clock of its own: what it asks of the store (docs/sizing.md).

use super::super::history::History;
use super::super::locations::Rhythm;
use super::*;
use crate::clock::{Clock as _, Virtual};
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::location::memory;
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Error, Store as _};

const DAY: Duration = Duration::from_hours(24);

/// A daemon without jobs that are due: its location's two tasks.
struct Idle {
    clock: Virtual,
    store: Arc<MemoryStore>,
    runner: Runner,
    location: Location,
    rhythm: Rhythm,
    place: Place,
    /// When the two tasks go on.
    check: Duration,
    look: Duration,
}

impl Idle {
    fn new() -> Self {
        let (clock, store) = (Virtual::default(), Arc::new(MemoryStore::new()));
        let open = memory::open(Arc::clone(&store) as _, "p", 1 << 20).with_clock(Arc::new(clock.clone()));
        let runner = Runner { process: open.process.clone(), history: History::default() };
        let location = Location::new(open, None);
        let (rhythm, place) = (Rhythm::default(), Place::default());
        Self { clock, store, runner, location, rhythm, place, check: Duration::ZERO, look: Duration::ZERO }
    }

    /// Lets the time pass, in which each task does what is due and waits as long as it says.
    async fn pass(&mut self, time: Duration) {
        let end = self.clock.passed() + time;
        while self.clock.passed() < end {
            let now = self.clock.passed();
            if self.check <= now {
                self.check = now + self.location.check(&self.runner.history, &mut self.rhythm).await;
            }
            if self.look <= now {
                if self.place.is_due(&self.location) {
                    self.place.come_round(&self.runner, &self.location, &BTreeSet::new(), &[]).await;
                }
                self.look = now + LOOK_EVERY;
            }
            let next = self.check.min(self.look).min(end);
            self.clock.run(self.clock.sleep(next.saturating_sub(now))).await;
        }
    }

    fn refuse(&self, operation: &'static str, class: Class) {
        self.store.script(move |asked, key, _| {
            (asked == operation).then(|| Fault::Refuse(Error::local(asked, ObjectKey::new(key), class, "no")))
        });
    }

    /// Checks, searches for uploads, and all others.
    fn requests(&self) -> (usize, usize, usize) {
        let (checks, searches) = (self.store.requests("ListObjectsV2"), self.store.requests("ListMultipartUploads"));
        (checks, searches, self.store.all_requests() - checks - searches)
    }
}

#[tokio::test]
async fn an_idle_day_takes_fewer_than_a_hundred_requests() {
    for days in [1, 7] {
        let mut idle = Idle::new();
        idle.pass(DAY * days).await;
        let (checks, searches, others) = idle.requests();
        let days = usize::try_from(days).unwrap();
        // One each 15 to 20 minutes.
        assert!((72 * days..=96 * days).contains(&checks), "{checks}");
        assert_eq!((searches, others), (days, 0));
    }
}

#[tokio::test]
async fn checks_of_nodes_that_started_together_drift_apart() {
    let mut thirds = [0; 3];
    for _ in 0..30 {
        let mut idle = Idle::new();
        idle.pass(Duration::from_mins(15)).await;
        assert_eq!(idle.requests().0, 1);
        for third in &mut thirds {
            let before = idle.requests().0;
            idle.pass(Duration::from_secs(100)).await;
            *third += idle.requests().0 - before;
        }
        assert_eq!(idle.requests().0, 2, "after 20 minutes at the latest");
    }
    assert!(thirds.iter().all(|checks| *checks < 25), "{thirds:?}");
}

#[tokio::test]
async fn a_location_that_is_down_is_asked_each_minute_and_back_within_one() {
    let mut idle = Idle::new();
    idle.pass(Duration::from_mins(1)).await;
    idle.refuse("ListObjectsV2", Class::AccessDenied);
    idle.pass(Duration::from_mins(20)).await;
    assert!(!idle.location.health().is_up());
    let before = idle.requests();
    idle.pass(DAY).await;
    let checks = idle.requests().0 - before.0;
    assert!((1440..=1920).contains(&checks), "{checks}");
    assert_eq!(idle.requests().1, before.1, "nothing else is asked of it");
    idle.store.script(|_, _, _| None);
    idle.pass(Duration::from_mins(1)).await;
    assert!(idle.location.health().is_up());
}

#[tokio::test]
async fn a_search_for_uploads_that_failed_is_repeated_in_the_next_round() {
    let mut idle = Idle::new();
    idle.refuse("ListMultipartUploads", Class::Tls);
    idle.pass(Duration::from_mins(200)).await;
    assert_eq!(idle.requests().1, 4);
    idle.store.script(|_, _, _| None);
    idle.pass(DAY).await;
    assert_eq!(idle.requests().1, 5);
    // Who may not list uploads is told so once a day.
    idle.refuse("ListMultipartUploads", Class::AccessDenied);
    idle.pass(DAY * 3).await;
    assert_eq!(idle.requests().1, 8);
}

/// The journal's uploads do not wait for the search.
#[tokio::test]
async fn an_upload_of_the_journal_is_aborted_within_an_hour() {
    let mut idle = Idle::new();
    idle.pass(Duration::from_mins(1)).await;
    let (open, key) = (idle.location.open.clone(), ObjectKey::new("p/c/job/n/20261123T221300Z-4f9a2c/i.0001.tar.zst"));
    let journal = crate::upload::journal::Journal::open(&open.process.state_dir, open.name(), &open.config.bucket);
    let entry = journal.unwrap().begin(&key, 16, None).await.unwrap();
    let id = idle.store.create_upload(&key).await.unwrap();
    entry.created(&id).await.unwrap();
    drop(entry);
    idle.pass(Duration::from_hours(1)).await;
    assert_eq!((idle.store.uploads_in_progress(), idle.requests().1), (Vec::new(), 1));
}
