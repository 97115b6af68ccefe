use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, TryStreamExt as _};

use super::*;
use crate::checksum::Algorithm;
use crate::clock::Virtual;
use crate::config::Concurrency;
use crate::format::key::ObjectKey;
use crate::metrics::Metrics;
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Error, Overwrite, PartNumber, Payload, Store, UploadHandle};

#[test]
fn attempts_are_counted() {
    let (mut attempts, now) = (Attempts::new(Policy::COUNTED), Instant::now());
    let tried = (0..10).filter(|_| attempts.after(Class::Transient, now, 1).is_some()).count();
    assert_eq!(tried, 4);
}

#[test]
fn some_failures_are_repeated_once_or_never() {
    let now = Instant::now();
    let mut attempts = Attempts::new(Policy::COUNTED);
    assert_eq!(attempts.after(Class::Integrity, now, 1), Some(Duration::ZERO));
    assert_eq!(attempts.after(Class::Integrity, now, 1), None);
    assert_eq!(Attempts::new(Policy::COUNTED).after(Class::NotFound, now, 1), None);
    assert_eq!(Attempts::new(Policy::COUNTED).after(Class::AccessDenied, now, 1), None);
}

#[test]
fn patience_is_counted_from_the_first_failure() {
    let mut attempts = Attempts::new(Policy::Patience(Duration::from_secs(60)));
    // Only failures count: a part that took an hour has all its patience left.
    let first = Instant::now() + Duration::from_secs(3600);
    assert!(attempts.after(Class::Transient, first, 1).is_some());
    assert!(attempts.after(Class::Throttled, first + Duration::from_secs(59), 1).is_some());
    assert_eq!(attempts.after(Class::Transient, first + Duration::from_secs(60), 1), None);
}

/// Runs 64 requests at one location that is down until `back`. Returns the number of attempts, when the first request failed for
/// good, and how many succeeded. Time is virtual.
fn outage(back: Duration) -> (usize, Option<Duration>, usize) {
    let start = Instant::now();
    let mut budget = RetryBudget::full(start);
    let mut work: Vec<_> = (0..64).map(|_| (start, Attempts::new(Policy::Patience(PATIENCE)))).collect();
    let (mut requests, mut given_up, mut arrived, mut random) = (0, None, 0, 1_u64);
    while let Some(next) = (0..work.len()).min_by_key(|index| work[*index].0) {
        let (now, attempts) = &mut work[next];
        requests += 1;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = if *now >= start + back { None } else { attempts.after(Class::Transient, *now, random >> 20) };
        if let Some(pause) = pause {
            *now += pause.max(budget.spend(*now));
        } else {
            if *now >= start + back {
                arrived += 1;
            } else {
                given_up = given_up.or(Some(*now - start));
            }
            work.swap_remove(next);
        }
    }
    (requests, given_up, arrived)
}

#[test]
fn requests_to_a_store_that_is_down_fail_in_minutes_and_are_limited() {
    let (requests, given_up, arrived) = outage(Duration::from_secs(3600));
    assert_eq!(arrived, 0);
    let given_up = given_up.unwrap();
    assert!(given_up >= PATIENCE && given_up < PATIENCE + Duration::from_secs(60), "{given_up:?}");
    // The first attempts, the burst, and two a second: without the budget it would be some 3,000.
    assert!((64..700).contains(&requests), "{requests}");
}

#[test]
fn no_request_fails_at_a_store_that_is_back_in_time() {
    let (_, given_up, arrived) = outage(PATIENCE.saturating_sub(Duration::from_secs(60)));
    assert_eq!((given_up, arrived), (None, 64));
}

/// A store in memory with scripted failures, four parts in flight, and virtual time.
struct World {
    inner: Arc<MemoryStore>,
    metrics: Metrics,
    clock: Virtual,
    store: Retrying<dyn Store>,
    stop: CancellationToken,
}

impl World {
    fn new(failures: &[(&'static str, Class)]) -> Self {
        let (inner, clock, metrics) = (Arc::new(MemoryStore::with_limits(0, 10)), Virtual::default(), Metrics::new());
        let window = Window::from(Concurrency::AtMost(4));
        let endpoint = Endpoint::new(metrics.location("test"), window, Arc::new(clock.clone()));
        let stop = CancellationToken::new();
        let store = Retrying::<dyn Store>::new(inner.clone(), endpoint, Policy::COUNTED, stop.clone());
        let world = Self { inner, metrics, clock, store, stop };
        world.fail(failures);
        world
    }

    /// Each is of the first request of its operation that there is.
    fn fail(&self, failures: &[(&'static str, Class)]) {
        let mut failures = failures.to_vec();
        self.inner.script(move |operation, key, _| {
            let at = failures.iter().position(|(of, _)| *of == operation)?;
            let (_, class) = failures.remove(at);
            Some(Fault::Refuse(Error::local(operation, key, class, "told to")))
        });
    }

    /// The body of each GetObject breaks off after so many bytes of it, in turn; `usize::MAX` is after the last one.
    fn cut(&self, after: &[usize], class: Class) {
        let mut after: VecDeque<_> = after.iter().copied().collect();
        self.inner.script(move |operation, key, _| {
            let cut = |at| Fault::CutBody(at, Error::local(operation, key, class, "told to"));
            (operation == "GetObject").then(|| after.pop_front()).flatten().map(cut)
        });
    }

    fn retries(&self) -> String {
        let families = self.metrics.gather();
        let family = families.iter().find(|family| family.name() == "penstock_request_retries_total");
        let counters = family.iter().flat_map(|family| family.get_metric());
        counters.map(|one| one.get_counter().get_value()).sum::<f64>().to_string()
    }
}

fn small() -> Payload {
    Payload::new("x", Algorithm::None)
}

#[tokio::test]
async fn only_parts_move_the_window_and_every_retry_is_counted() {
    let world = World::new(&[("PutObject", Class::Throttled), ("UploadPart", Class::Throttled)]);
    let (key, store) = (ObjectKey::new("k"), &world.store);
    world.clock.run(store.put(&key, small(), Overwrite::Allow)).await.unwrap();
    assert_eq!((store.endpoint.window(), world.retries()), (4, "1".to_owned()));
    let (id, _) = store.begin_upload(&key, None).await;
    let upload = UploadHandle { key, id: id.unwrap() };
    let launch = store.endpoint.launch(0);
    world.clock.run(store.send_part(launch, &upload, PartNumber::FIRST, &small())).await.unwrap();
    assert_eq!((store.endpoint.window(), world.retries()), (2, "2".to_owned()));
}

#[tokio::test]
async fn a_create_without_an_answer_is_reported_as_a_possible_upload() {
    for (failures, doubt) in [(&[][..], false), (&[("CreateMultipartUpload", Class::Transient)], true)] {
        let world = World::new(failures);
        let (created, in_doubt) = world.clock.run(world.store.begin_upload(&ObjectKey::new("k"), None)).await;
        assert_eq!((created.is_ok(), in_doubt), (true, doubt));
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_broke() {
    let world = World::new(&[]);
    let (key, data) = (ObjectKey::new("k"), (0..=255).collect::<Vec<u8>>());
    world.store.put(&key, Payload::new(data.clone(), Algorithm::None), Overwrite::Allow).await.unwrap();
    let read = async |range: Option<Range<u64>>| {
        let download = world.store.get(&key, range).await.unwrap();
        let pieces = world.clock.run(download.body.try_collect::<Vec<Bytes>>()).await;
        pieces.map(|pieces| (download.length, pieces.concat()))
    };
    for (range, expected) in [(None, &data[..]), (Some(10..200), &data[10..200])] {
        for broken in [1, 4] {
            world.cut(&vec![40; broken], Class::Transient);
            let (length, found) = read(range.clone()).await.unwrap();
            assert_eq!((length, &found[..]), (expected.len() as u64, expected), "{range:?}, broken {broken} times");
        }
    }
    world.cut(&[40; 5], Class::Transient);
    assert_eq!(read(None).await.unwrap_err().class, Class::Transient, "five attempts, the first included");
    world.cut(&[usize::MAX], Class::Transient);
    let before = world.inner.requests("GetObject");
    assert_eq!(read(None).await.unwrap(), (256, data), "all of it came before the failure");
    assert_eq!(world.inner.requests("GetObject"), before + 1);
    world.cut(&[usize::MAX], Class::Compat);
    assert_eq!(read(None).await.unwrap_err().class, Class::Compat, "more came than was asked for");
}

#[tokio::test]
async fn a_body_and_the_requests_that_resume_it_share_their_attempts() {
    let world = World::new(&[]);
    let key = ObjectKey::new("k");
    world.store.put(&key, small(), Overwrite::Allow).await.unwrap();
    let mut first = true;
    world.inner.script(move |operation, key, _| {
        let error = Error::local(operation, key, Class::Transient, "told to");
        Some(if std::mem::take(&mut first) { Fault::CutBody(0, error) } else { Fault::Refuse(error) })
    });
    let body = world.store.get(&key, None).await.unwrap().body;
    let failed = world.clock.run(body.try_collect::<Vec<Bytes>>()).await.unwrap_err();
    assert_eq!((failed.class, world.inner.requests("GetObject")), (Class::Transient, 5));
}

/// Parts of an upload that is given up must not keep its abort waiting.
#[tokio::test]
async fn a_retry_that_is_not_made_is_given_back() {
    let world = World::new(&[("ListObjectsV2", Class::Throttled); 64]);
    let mut waiting: Vec<_> = (0..64).map(|_| Box::pin(world.store.list("", None))).collect();
    // Time does not pass.
    assert!(waiting.iter_mut().all(|list| list.now_or_never().is_none()));
    assert!(world.store.endpoint.turn(Duration::ZERO).after >= Duration::from_secs(24));
    drop(waiting.split_off(32));
    world.stop.cancel();
    let ended = join_all(waiting).await;
    assert!(ended.into_iter().all(|ended| ended.unwrap_err().class == Class::Cancelled));
    assert_eq!(world.store.endpoint.turn(Duration::ZERO).after, Duration::ZERO);
}

#[tokio::test]
async fn whoever_asks_once_more_does_not_wait_when_stopped() {
    let world = World::new(&[]);
    let endpoint = &world.store.endpoint;
    endpoint.use_up(64);
    let mut waiting = Box::pin(endpoint.once_more("s3", Class::Integrity, &world.stop));
    assert!(waiting.as_mut().now_or_never().is_none());
    world.stop.cancel();
    assert!(waiting.now_or_never().is_some());
}

#[tokio::test]
async fn a_request_and_a_pause_end_when_cancelled() {
    let world = World::new(&[("ListObjectsV2", Class::Transient)]);
    // Time does not pass: without the cancellation this would wait for ever.
    let (cancelled, ()) = tokio::join!(world.store.list("", None), async {
        while world.retries() == "0" {
            tokio::task::yield_now().await;
        }
        world.stop.cancel();
    });
    assert_eq!(cancelled.unwrap_err().class, Class::Cancelled);
    assert_eq!(world.store.head(&ObjectKey::new("k")).await.unwrap_err().class, Class::Cancelled);
}
