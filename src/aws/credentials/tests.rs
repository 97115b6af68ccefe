use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::format::key::ObjectKey;
use crate::metrics::Metrics;

/// Hands out key `AK1`, `AK2`, …, or fails while it is down.
#[derive(Debug)]
struct Sts {
    calls: AtomicUsize,
    down: AtomicBool,
    lifetime: Option<Duration>,
    milliseconds: AtomicU64,
}

impl Sts {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn is_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_000 + self.milliseconds.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Fetch for Arc<Sts> {
    async fn fetch(&self) -> Result<Credentials, store::Error> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::task::yield_now().await;
        if self.down.load(Ordering::SeqCst) {
            let message = format!("down at call {call}");
            return Err(store::Error::local("AssumeRole", ObjectKey::new("r"), Class::Transient, message));
        }
        let expiry = self.lifetime.map(|lifetime| self.now() + lifetime);
        Ok(Credentials::new(format!("AK{call}"), "very-secret", None, expiry, "test"))
    }
}

/// A provider, and the time that its clock and its STS go by.
struct Site {
    provider: Provider,
    sts: Arc<Sts>,
    metrics: Metrics,
}

impl Site {
    fn new(lifetime: Option<u64>) -> Self {
        let sts = Arc::new(Sts {
            calls: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            lifetime: lifetime.map(Duration::from_secs),
            milliseconds: AtomicU64::new(0),
        });
        let (metrics, time) = (Metrics::new(), sts.clone());
        let clock: Clock = Arc::new(move || time.now());
        let provider = Provider::new("primary", Box::new(sts.clone()), clock, metrics.location("primary"));
        Self { provider, sts, metrics }
    }

    async fn key(&self) -> String {
        self.provider.get().await.unwrap().access_key_id().to_owned()
    }

    fn standing(&self) -> Standing {
        self.provider.status().standing
    }

    /// Lets time pass as the background does: to the next refresh, and on.
    async fn pass(&self, seconds: u64) {
        let end = self.sts.milliseconds.load(Ordering::SeqCst) + seconds * 1000;
        loop {
            let due = self.provider.inner.tick().await.min(LOOK);
            let due = u64::try_from(due.as_millis()).unwrap().max(1);
            if self.sts.milliseconds.fetch_add(due, Ordering::SeqCst) + due >= end {
                self.sts.milliseconds.store(end, Ordering::SeqCst);
                return;
            }
        }
    }
}

#[tokio::test]
async fn obtained_once_for_everyone_who_waits() {
    let site = Site::new(Some(3600));
    assert_eq!(site.standing(), Standing::Unasked);
    let all = futures_util::future::join_all((0..20).map(|_| site.key())).await;
    assert!(all.iter().all(|key| key == "AK1"), "{all:?}");
    assert_eq!((site.standing(), site.sts.calls()), (Standing::Valid, 1));
}

#[tokio::test]
async fn refreshed_in_the_background_before_they_expire() {
    let site = Site::new(Some(3600));
    site.key().await;
    // Nobody asks: from 22.5 minutes before expiry to 15.
    site.pass(3600 - 1351).await;
    assert_eq!(site.sts.calls(), 1);
    site.pass(451 + 31).await;
    assert_eq!((site.sts.calls(), site.key().await.as_str()), (2, "AK2"));
    site.pass(24 * 3600).await;
    // A refresh each 37.5 to 45 minutes.
    assert!((34..=42).contains(&site.sts.calls()), "{}", site.sts.calls());
    assert_eq!(site.standing(), Standing::Valid);
}

#[tokio::test]
async fn sessions_of_fifteen_seconds_never_run_out() {
    let site = Site::new(Some(15));
    site.key().await;
    for _ in 0..600 {
        site.pass(1).await;
        assert_eq!(site.standing(), Standing::Valid);
    }
    // Ten minutes: a refresh each 7.5 to 10 seconds.
    assert!((59..=82).contains(&site.sts.calls()), "{}", site.sts.calls());
}

#[tokio::test]
async fn an_outage_shorter_than_what_is_left_is_not_noticed() {
    let site = Site::new(Some(3600));
    site.key().await;
    site.sts.is_down(true);
    for _ in 0..3589 {
        site.pass(1).await;
        assert_eq!(site.key().await, "AK1");
    }
    site.pass(1).await;
    assert_eq!(site.standing(), Standing::Missing, "the last moment has come");
    assert!(site.provider.status().last_error.unwrap().to_string().contains("down"));
    // 15 to 22.5 minutes of pauses that grow to a minute.
    assert!((18..=55).contains(&site.sts.calls()), "{}", site.sts.calls());
}

#[tokio::test]
async fn a_longer_one_fails_requests_and_ends_by_itself() {
    let site = Site::new(Some(3600));
    site.key().await;
    site.sts.is_down(true);
    site.pass(4000).await;
    let calls = site.sts.calls();
    let errors = futures_util::future::join_all((0..50).map(|_| site.provider.get())).await;
    assert!(errors.iter().all(|error| error.as_ref().unwrap_err().class == Class::CredentialsUnavailable));
    assert!(site.sts.calls() <= calls + 1, "the answer of a moment ago is everyone's");
    assert_eq!(site.standing(), Standing::Missing);
    site.sts.is_down(false);
    site.pass(61).await;
    assert_eq!((site.standing(), site.provider.status().last_error.is_none()), (Standing::Valid, true));
}

#[tokio::test]
async fn what_does_not_expire_is_read_again() {
    let site = Site::new(None);
    assert_eq!((site.key().await.as_str(), site.provider.expiry()), ("AK1", None));
    site.sts.is_down(true);
    site.pass(600).await;
    assert_eq!(site.key().await, "AK1");
    site.sts.is_down(false);
    site.pass(91).await;
    assert_ne!(site.key().await, "AK1");
}

#[tokio::test]
async fn only_what_was_refused_is_dropped() {
    let site = Site::new(Some(3600));
    assert_eq!(site.key().await, "AK1");
    site.provider.refused("AK1");
    assert_eq!(site.key().await, "AK2");
    assert!(site.provider.is_fresh());
    site.provider.refused("AK1");
    assert_eq!((site.key().await.as_str(), site.sts.calls()), ("AK2", 2));
    site.pass(121).await;
    assert!(!site.provider.is_fresh());
}

#[tokio::test]
async fn the_background_ends_with_the_provider() {
    let site = Site::new(None);
    site.key().await;
    let inner = Arc::downgrade(&site.provider.inner);
    // It sleeps by now, and holds nothing.
    tokio::task::yield_now().await;
    drop(site.provider);
    assert!(inner.upgrade().is_none());
    keep_fresh(inner).await;
}

#[tokio::test]
async fn credentials_that_come_expired_are_a_failure_of_the_clock() {
    let site = Site::new(Some(0));
    let error = site.provider.get().await.unwrap_err();
    assert_eq!(error.class, Class::ClockSkew, "{error}");
    site.provider.get().await.unwrap_err();
    assert_eq!(site.sts.calls(), 1, "and nobody is asked in a loop");
}

#[tokio::test]
async fn refreshes_are_counted() {
    let site = Site::new(Some(15));
    site.key().await;
    site.sts.is_down(true);
    site.pass(20).await;
    let families = site.metrics.gather();
    let family = |name: &str| families.iter().find(|family| family.name() == name).unwrap().get_metric().to_vec();
    let refreshes = family("penstock_credentials_refresh_total");
    let outcomes: Vec<_> = refreshes.iter().map(|metric| metric.get_label()[1].value()).collect();
    assert_eq!(outcomes, ["failure", "success"]);
    let expiry = family("penstock_credentials_expiry_timestamp_seconds")[0].get_gauge().get_value();
    assert!((expiry - 1_800_000_015.0).abs() < 1.0, "{expiry}");
}

#[test]
fn when_a_refresh_is_due() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let left = |lifetime: u64, random: u64| {
        let expiry = now + Duration::from_secs(lifetime);
        expiry.duration_since(refresh_at(now, Some(expiry), random)).unwrap_or_default()
    };
    for (lifetime, margin) in [(12 * 3600, 900), (3600, 900), (900, 300), (15, 5)] {
        let margin = Duration::from_secs(margin);
        assert_eq!((left(lifetime, 0), left(lifetime, u64::MAX)), (margin, margin * 3 / 2), "{lifetime}");
    }
    // Never in a loop.
    assert_eq!(refresh_at(now, Some(now), 7), now + SHORTEST);
    assert_eq!(refresh_at(now, Some(now - Duration::from_secs(5)), 7), now + SHORTEST);
    assert_eq!(refresh_at(now, None, 7), now + REREAD);
}

#[test]
fn pauses_grow_to_a_minute() {
    for (failures, most) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (u32::MAX, 60)] {
        let most = Duration::from_secs(most);
        for random in (0..1000).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let pause = PAUSES.pause(failures - 1, random);
            assert!(most / 2 <= pause && pause <= most, "{failures}: {pause:?}");
        }
    }
}

#[tokio::test]
async fn debug_holds_no_secret() {
    let site = Site::new(Some(3600));
    let held = site.provider.get().await.unwrap();
    let shown = format!("{:?} {held:?} {:?}", site.provider, site.provider.status());
    assert!(!shown.contains("very-secret"), "{shown}");
}
