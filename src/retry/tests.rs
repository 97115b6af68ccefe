use std::ops::Range;

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::*;
use crate::checksum::{Algorithm, Checksum};
use crate::clock::Virtual;
use crate::config::Concurrency;
use crate::format::key::ObjectKey;
use crate::metrics::Metrics;
use crate::store::memory::MemoryStore;
use crate::store::{
    Deleted, Download, Error, ListedUpload, ObjectInfo, Overwrite, Page, PartNumber, Payload, Store, UploadHandle,
    UploadId, UploadedPart,
};

#[test]
fn attempts_are_counted() {
    let (mut attempts, now) = (Attempts::new(Policy::COUNTED), Instant::now());
    let tried = (0..10).filter(|_| attempts.after(Class::Transient, now, 1).is_some()).count();
    assert_eq!(tried, 4);
}

#[test]
fn some_failures_are_tried_once_more_or_never() {
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
    // Whatever went before: a part that took an hour has all its patience left.
    let first = Instant::now() + Duration::from_secs(3600);
    assert!(attempts.after(Class::Transient, first, 1).is_some());
    assert!(attempts.after(Class::Throttled, first + Duration::from_secs(59), 1).is_some());
    assert_eq!(attempts.after(Class::Transient, first + Duration::from_secs(60), 1), None);
}

/// Sixty-four pieces of work at one location that is down until `back`: how many requests it got, when the first piece was given
/// up, and how many arrived. Time is only counted.
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
fn a_store_that_is_down_is_given_up_in_minutes_and_not_hammered() {
    let (requests, given_up, arrived) = outage(Duration::from_secs(3600));
    assert_eq!(arrived, 0);
    let given_up = given_up.unwrap();
    assert!(given_up >= PATIENCE && given_up < PATIENCE + Duration::from_secs(60), "{given_up:?}");
    // The first attempts, the burst, and two a second: without the budget it would be some 3,000.
    assert!((64..700).contains(&requests), "{requests}");
}

#[test]
fn a_store_that_is_back_in_time_loses_nobody() {
    let (_, given_up, arrived) = outage(PATIENCE.saturating_sub(Duration::from_secs(60)));
    assert_eq!((given_up, arrived), (None, 64));
}

/// A store in memory whose requests fail as they are told to, with four parts in flight, in virtual time.
struct World {
    failing: Arc<Failing>,
    metrics: Metrics,
    clock: Virtual,
    store: Retrying<dyn Store>,
    stop: CancellationToken,
}

impl World {
    fn new(failures: &[(&'static str, Class)]) -> Self {
        let failing = Failing { inner: MemoryStore::with_limits(0, 10), failures: Mutex::new(failures.to_vec()) };
        let (failing, clock, metrics) = (Arc::new(failing), Virtual::default(), Metrics::new());
        let window = Window::from(Concurrency::AtMost(4));
        let endpoint = Endpoint::new(metrics.location("test"), window, Arc::new(clock.clone()));
        let (inner, stop): (Arc<dyn Store>, _) = (failing.clone(), CancellationToken::new());
        let store = Retrying::new(inner, endpoint, Policy::COUNTED, stop.clone());
        Self { failing, metrics, clock, store, stop }
    }

    fn fail(&self, failures: &[(&'static str, Class)]) {
        *self.failing.failures.lock().unwrap() = failures.to_vec();
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
    let (id, _) = store.begin_upload(&key).await;
    let upload = UploadHandle { key, id: id.unwrap() };
    let launch = store.endpoint.launch(0);
    world.clock.run(store.send_part(launch, &upload, PartNumber::FIRST, &small())).await.unwrap();
    assert_eq!((store.endpoint.window(), world.retries()), (2, "2".to_owned()));
}

#[tokio::test]
async fn a_create_without_an_answer_leaves_a_doubt() {
    for (failures, doubt) in [(&[][..], false), (&[("CreateMultipartUpload", Class::Transient)], true)] {
        let world = World::new(failures);
        let (created, in_doubt) = world.clock.run(world.store.begin_upload(&ObjectKey::new("k"))).await;
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
            world.fail(&vec![("body", Class::Transient); broken]);
            let (length, found) = read(range.clone()).await.unwrap();
            assert_eq!((length, &found[..]), (expected.len() as u64, expected), "{range:?}, broken {broken} times");
        }
    }
    world.fail(&[("body", Class::Transient); 5]);
    assert_eq!(read(None).await.unwrap_err().class, Class::Transient, "five attempts, the first included");
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

struct Failing {
    inner: MemoryStore,
    /// Taken by the first request of its operation; a body breaks off in its middle.
    failures: Mutex<Vec<(&'static str, Class)>>,
}

impl Failing {
    fn may(&self, operation: &'static str) -> Result<(), Error> {
        let mut failures = self.failures.lock().unwrap();
        let Some(at) = failures.iter().position(|(of, _)| *of == operation) else { return Ok(()) };
        let (_, class) = failures.remove(at);
        Err(Error::local(operation, "k", class, "told to"))
    }
}

#[async_trait::async_trait]
impl Store for Failing {
    fn algorithm(&self) -> Algorithm {
        self.inner.algorithm()
    }
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), Error> {
        self.may("PutObject")?;
        self.inner.put(key, payload, overwrite).await
    }
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Download, Error> {
        let download = self.inner.get(key, range).await?;
        let Err(error) = self.may("body") else { return Ok(download) };
        let whole = download.body.try_collect::<Vec<Bytes>>().await?.concat();
        let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        Ok(Download { body: Box::pin(futures_util::stream::iter([Ok(half), Err(error)])), ..download })
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo, Error> {
        self.inner.head(key).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<Deleted, Error> {
        self.inner.delete(key).await
    }
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        self.may("ListObjectsV2")?;
        self.inner.list(prefix, from).await
    }
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, Error> {
        self.may("CreateMultipartUpload")?;
        self.inner.create_upload(key).await
    }
    async fn upload_part(&self, to: &UploadHandle, n: PartNumber, payload: Payload) -> Result<UploadedPart, Error> {
        self.may("UploadPart")?;
        self.inner.upload_part(to, n, payload).await
    }
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), Error> {
        self.inner.complete_upload(upload, parts, size, checksum).await
    }
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), Error> {
        self.inner.abort_upload(upload).await
    }
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        self.inner.list_parts(upload).await
    }
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        self.inner.list_uploads(prefix).await
    }
}
