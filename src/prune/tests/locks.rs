//! Locks over the life of a chain: backups, retention and extension together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, Scope};
use crate::config::{LockMode, ObjectLock, Retention};
use crate::error::Class;
use crate::format::index::Totals;
use crate::format::key::{BackupId, BackupPrefix, Chain, Name, ObjectKey};
use crate::format::manifest::{DataObject, IndexObject, SourceDescription};
use crate::format::testing::{item, manifest_of, object, stream};
use crate::location::memory::{self, Memory};
use crate::location::{ALLOWANCE, Location};
use crate::object_lock::{Keeper, When, keep};
use crate::prune::{self, Rules};
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{self, Lock, Overwrite, Payload, Store as _, VersionId, VersionKind, Versions as _};

pub(super) const HOUR: i64 = 3600;
const PERIOD: Duration = Duration::from_hours(24 * 10);

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A chain in a location that locks its objects, on a clock of its own.
pub(super) struct World {
    /// Without faults.
    pub(super) store: Arc<MemoryStore>,
    pub(super) client: Arc<MemoryStore>,
    pub(super) location: Location,
    /// Whose chain it is.
    pub(super) node: Name,
    /// Whether extensions are refused.
    refuses: Arc<AtomicBool>,
    /// The objects of the newest backup.
    pub(super) newest: Vec<DataObject>,
}

impl World {
    pub(super) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        store.keep_locks();
        let client = Arc::new(store.client());
        let refuses = Arc::new(AtomicBool::new(false));
        let of_script = Arc::clone(&refuses);
        client.script(move |operation, key, _| {
            (operation == "PutObjectRetention" && of_script.load(Ordering::Relaxed))
                .then(|| Fault::Refuse(store::Error::local(operation, ObjectKey::new(key), Class::AccessDenied, "no")))
        });
        let object_lock = Some(ObjectLock { mode: LockMode::Compliance, period: PERIOD });
        let config = crate::config::Location { object_lock, ..memory::config("") };
        let location = Memory::new(client.clone()).with_clock(Arc::clone(&store)).open(&config, 1 << 20);
        let node = location.node.clone();
        Self { store, client, location, node, refuses, newest: Vec::new() }
    }

    pub(super) fn chain(&self) -> Chain {
        Chain { node: self.node.clone(), ..self.location.chain(&Name::new("j").unwrap()) }
    }

    async fn put(&self, key: &ObjectKey, data: Vec<u8>) -> Option<VersionId> {
        let lock = self.location.new_lock().await.unwrap();
        let payload = Payload::new(data, self.client.algorithm());
        self.client.put_locked(key, payload, Overwrite::Allow, lock).await.unwrap()
    }

    /// A backup as a job makes it: two objects of its own, those of the parent that `refers` has a bit for, locks, then the manifest.
    pub(super) async fn back_up(&mut self, started: Timestamp, number: u32, refers: u8) {
        let (chain, id) = (self.chain(), BackupId::new(started, number));
        let home = BackupPrefix::new("", &chain, &id);
        let parents = self.newest.drain(..).enumerate().filter(|(bit, _)| refers & (1 << (bit % 8)) != 0);
        let mut objects: Vec<DataObject> = parents.map(|(_, object)| object).collect();
        let until = self.location.new_lock().await.unwrap().unwrap().until;
        let mut keeper = Keeper::open(&self.location, &chain).unwrap();
        for part in 1..=2 {
            let key = home.data(&Name::new("i").unwrap(), part, crate::format::codec::Suffix::Bin);
            let version = self.put(&key, vec![7; 10]).await;
            keeper.created(&key, version.as_ref(), until);
            objects.push(DataObject { version, ..object(key, &[7; 10]) });
        }
        let key = home.index(&Name::new("i").unwrap(), crate::format::codec::Suffix::Index);
        let version = self.put(&key, vec![1; 10]).await;
        keeper.created(&key, version.as_ref(), until);
        let index = IndexObject { key, size: 10, sha256: [0; 32], version };
        let totals = Totals { chunks: 1, files: 0, plain_bytes: 5000, digest: [0; 32] };
        self.newest.clone_from(&objects);
        let stream = stream(totals, index, objects);
        let manifest = manifest_of(chain, id, vec![item("i", SourceDescription::Stdin, Some(stream))]);
        let now = self.location.store_time().await.unwrap();
        keeper.extend(&manifest.versions().collect::<Vec<_>>(), now).await;
        let version = self.put(&home.manifest(), manifest.to_json()).await;
        keeper.committed(&home.manifest(), version.as_ref(), until);
        keeper.save();
    }

    pub(super) fn catalog(&self) -> Catalog {
        Catalog::new(&self.location)
    }

    /// What the committed backups need, with the ends of its locks.
    async fn needed(&self) -> BTreeMap<ObjectKey, Timestamp> {
        let (catalog, chain) = (self.catalog(), self.chain());
        let mut needed = BTreeMap::new();
        for entry in catalog.entries(Scope::of(&chain)).await.unwrap() {
            let manifest = catalog.manifest(&entry).await.unwrap();
            for (key, version) in manifest.versions().chain([(&entry.key, None)]) {
                let lock = self.store.lock(key, version).await.unwrap().expect("every object is locked");
                needed.insert(key.clone(), lock.until);
            }
        }
        needed
    }

    fn extensions(&self) -> usize {
        self.requests("PutObjectRetention")
    }

    fn requests(&self, operation: &str) -> usize {
        self.client.requests(operation)
    }
}

/// One run of the job, and what happens until the next.
#[derive(Debug, Clone)]
struct Step {
    pause: i64,
    refers: u8,
    /// By how much the node's clock is wrong.
    skew: i64,
    refuses: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let skew = prop_oneof![8 => Just(0), 1 => -48 * HOUR..48 * HOUR, 1 => -10_000 * HOUR..0];
    let step = (HOUR..=23 * HOUR, any::<u8>(), skew, prop::bool::weighted(0.15));
    prop::collection::vec(step.prop_map(|(pause, refers, skew, refuses)| Step { pause, refers, skew, refuses }), 20..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_backups_need_stays_locked_and_nothing_else_for_long(
        steps in steps(),
        keep_last in 1_u32..6,
        keep_daily in prop::option::of(1_u32..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let retention = Some(Retention { keep_last: Some(keep_last), keep_daily, ..Retention::default() });
        runtime.block_on(a_life(steps, &Rules { retention, zone: TimeZone::UTC }))?;
    }
}

async fn a_life(steps: Vec<Step>, rules: &Rules) -> Result<(), TestCaseError> {
    let (half, longest) = (SignedDuration::try_from(PERIOD / 2).unwrap(), PERIOD + ALLOWANCE);
    let longest = SignedDuration::try_from(longest).unwrap();
    let mut world = World::new();
    let (mut clock, mut failing) = (0, SignedDuration::ZERO);
    // When each object was last needed, and what its lock was before each step.
    let mut last_needed: BTreeMap<ObjectKey, Timestamp> = BTreeMap::new();
    let mut extended: BTreeMap<ObjectKey, Timestamp> = BTreeMap::new();
    for (number, step) in (0..).zip(steps) {
        let now = at(clock);
        world.store.set_now(now);
        for (key, until) in world.needed().await {
            let left = until.duration_since(now);
            prop_assert!(left >= half - failing, "{key}: {left:#} left, after failures for {failing:#}");
            last_needed.insert(key, now);
        }
        let before = world.needed().await;
        world.refuses.store(step.refuses, Ordering::Relaxed);
        let here = at(clock + step.skew);
        world.back_up(here, number, step.refers).await;
        let context = prune::Context { catalog: world.catalog(), grace: Duration::from_hours(24) };
        prune::prune(&context, &world.chain(), rules, here, &CancellationToken::new()).await.unwrap();
        keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap();
        for (key, until) in world.needed().await {
            if before.get(&key).is_some_and(|before| *before != until)
                && let Some(last) = extended.insert(key.clone(), now)
            {
                prop_assert!(now.duration_since(last) >= half, "{key} was extended twice in half a period");
            }
            last_needed.insert(key, now);
        }
        let pause = SignedDuration::from_secs(step.pause);
        failing = if step.refuses { failing + pause } else { SignedDuration::ZERO };
        clock += step.pause;
        for entry in world.store.all_versions() {
            let VersionKind::Object { .. } = entry.kind else { continue };
            let Some(lock) = world.store.lock(&entry.key, Some(&entry.version)).await.unwrap() else { continue };
            let needed = last_needed.get(&entry.key).copied().unwrap_or(entry.modified).max(entry.modified);
            prop_assert!(lock.until.duration_since(needed) <= longest, "{} is locked for too long", entry.key);
        }
    }
    // Once all locks of garbage are over, it goes.
    world.refuses.store(false, Ordering::Relaxed);
    let end = i64::try_from((PERIOD + ALLOWANCE).as_secs()).unwrap() + 72 * HOUR;
    for hours in (0..=end / HOUR).step_by(12) {
        world.store.set_now(at(clock + hours * HOUR));
        keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap();
        let context = prune::Context { catalog: world.catalog(), grace: Duration::from_hours(24) };
        let now = at(clock + hours * HOUR);
        prune::prune(&context, &world.chain(), rules, now, &CancellationToken::new()).await.unwrap();
    }
    let needed: BTreeSet<ObjectKey> = world.needed().await.into_keys().collect();
    prop_assert_eq!(world.store.keys().into_iter().collect::<BTreeSet<_>>(), needed);
    Ok(())
}

/// Over two periods of hourly rounds, each object is extended once in half a period, and not all in one round.
#[tokio::test]
async fn extensions_are_few_and_spread() {
    let mut world = World::new();
    world.store.set_now(at(0));
    let mut objects = 0;
    for number in 0..100 {
        world.back_up(at(0), number, 0).await;
        objects += 4;
    }
    let hours = 2 * i64::try_from(PERIOD.as_secs()).unwrap() / HOUR;
    let (mut rounds, mut busiest) = (0, 0);
    assert_eq!(world.requests("ListObjectsV2"), 0);
    for hour in 0..hours {
        world.store.set_now(at(hour * HOUR));
        let before = world.extensions();
        let kept = keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap().unwrap();
        assert_eq!(kept.failures.count, 0);
        let made = world.extensions() - before;
        rounds += usize::from(made > 0);
        busiest = busiest.max(made);
    }
    // 20 days; the first extension after five to six, and each further one as long after.
    assert!(world.extensions() <= objects * 4 && world.extensions() >= objects * 2, "{}", world.extensions());
    assert!(busiest < objects / 2 && rounds >= 9, "{busiest} in one of {rounds} rounds");
    // Once a day, and at most each six hours while something is due: 18 hours in each pass over the objects.
    let reads = world.requests("ListObjectsV2");
    assert!((20..=20 + 4 * 4).contains(&reads), "{reads}");
    // Without the ledger, one extension of each.
    std::fs::remove_dir_all(world.location.process.state_dir.join("locks")).unwrap();
    let before = world.extensions();
    keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap();
    assert_eq!(world.extensions() - before, objects);
    keep(&world.catalog(), &world.chain(), When::Always).await.unwrap();
    assert_eq!(world.extensions() - before, objects);
}

/// A month of daily backups with an agent that looks each hour: what the last day costs (docs/sizing.md).
#[tokio::test]
async fn a_chain_is_read_four_times_a_day_at_most() {
    const OPERATIONS: [&str; 4] = ["ListObjectsV2", "GetObject", "PutObjectRetention", "HeadObject"];
    let mut world = World::new();
    let mut days = Vec::new();
    for day in 0..30 {
        for hour in 24 * day..24 * (day + 1) {
            world.store.set_now(at(hour * HOUR));
            if hour % 24 == 0 {
                world.back_up(at(hour * HOUR), u32::try_from(day).unwrap(), 0).await;
            }
            let kept = keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap().unwrap();
            assert_eq!(kept.failures.count, 0);
        }
        days.push(OPERATIONS.map(|operation| world.requests(operation)));
    }
    for (day, (before, after)) in days.iter().zip(&days[1..]).enumerate() {
        let [lists, gets, extensions, heads] = std::array::from_fn(|at| after[at] - before[at]);
        // On day `day + 1` there are `day + 2` backups of four objects, and each object is extended after five to six days.
        assert!((1..=4).contains(&lists) && heads == 0, "{lists} on day {day}");
        assert!(gets >= lists * (day + 1) && gets <= lists * (day + 2), "{gets} on day {day}");
        assert!(extensions <= 4 * (day + 2) / 4, "{extensions} on day {day}");
    }
}

#[tokio::test]
async fn a_refusal_names_what_will_be_unlocked_and_when() {
    let mut world = World::new();
    world.store.set_now(at(0));
    for number in 0..100 {
        world.back_up(at(0), number, 0).await;
    }
    let until = world.needed().await.into_values().min().unwrap();
    world.store.set_now(at(8 * 24 * HOUR));
    world.refuses.store(true, Ordering::Relaxed);
    let before = world.extensions();
    let kept = keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap().unwrap();
    assert_eq!((kept.extended, kept.failures.count, kept.failures.list.len()), (0, 400, 20));
    assert_eq!(kept.earliest, Some(until));
    let text = kept.failures.list[0].to_string();
    assert!(text.starts_with(&format!("is locked until {until} only: could not extend its lock: ")), "{text}");
    // A group that is refused as a whole is enough: the rest is not tried.
    assert!(world.extensions() - before <= 10);
    world.refuses.store(false, Ordering::Relaxed);
    let kept = keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap().unwrap();
    assert_eq!((kept.extended, kept.failures.count), (400, 0));
    let again = keep(&world.catalog(), &world.chain(), When::IfDue).await.unwrap().unwrap();
    assert_eq!((again.extended, again.earliest), (0, kept.earliest));
}

/// A lock in the stricter mode, one that is longer already, and an object of a copied bucket.
#[tokio::test]
async fn what_is_locked_otherwise_is_extended_all_the_same() {
    let mut world = World::new();
    world.store.set_now(at(0));
    world.back_up(at(0), 1, 0).await;
    let mut config = (*world.location.config).clone();
    config.object_lock = Some(ObjectLock { mode: LockMode::Governance, period: PERIOD });
    let location = Memory::new(world.client.clone()).with_clock(Arc::clone(&world.store)).open(&config, 1 << 20);
    world.store.set_now(at(24 * HOUR));
    let mut keeper = Keeper::open(&location, &world.chain()).unwrap();
    let [own, other, ..] = world.newest.as_slice() else { panic!() };
    let longer = Lock { mode: LockMode::Compliance, until: at(10_000 * HOUR) };
    world.store.set_lock(&other.key, other.version.as_ref(), longer).await.unwrap();
    let absent = VersionId::new("of-another-bucket").unwrap();
    let needed = [(&own.key, own.version.as_ref()), (&other.key, other.version.as_ref()), (&own.key, Some(&absent))];
    let extended = keeper.extend(&needed, world.store.now()).await;
    assert_eq!((extended.extended, extended.failures.count), (3, 0), "{:?}", extended.failures);
    let lock = world.store.lock(&own.key, own.version.as_ref()).await.unwrap().unwrap();
    assert_eq!(lock, Lock { mode: LockMode::Compliance, until: location.new_lock().await.unwrap().unwrap().until });
    assert_eq!(world.store.lock(&other.key, other.version.as_ref()).await.unwrap(), Some(longer));
}
