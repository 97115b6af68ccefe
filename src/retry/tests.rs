use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::Concurrency;
use crate::metrics::Metrics;

#[test]
fn pauses_grow_and_end() {
    for (doublings, bound) in [(0, 200), (1, 400), (5, 6400), (6, 10_000), (60, 10_000)] {
        let bound = Duration::from_millis(bound);
        assert!((0..10_000_u64).map(|n| jitter(doublings, n * 7919)).all(|pause| pause <= bound));
        let most = u64::try_from(bound.as_micros()).unwrap();
        assert_eq!(jitter(doublings, most), bound);
    }
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    let tried = (0..10).filter(|_| attempts.after(Class::Transient, now, 1).is_some()).count();
    assert_eq!(tried, 4);
}

#[test]
fn some_failures_are_tried_once_more_or_never() {
    let now = Instant::now();
    let mut attempts = Attempts::default();
    assert_eq!(attempts.after(Class::Integrity, now, 1), Some(Duration::ZERO));
    assert_eq!(attempts.after(Class::Integrity, now, 1), None);
    assert_eq!(Attempts::default().after(Class::NotFound, now, 1), None);
    assert_eq!(Attempts::default().after(Class::AccessDenied, now, 1), None);
}

#[test]
fn patience_is_counted_from_the_first_failure() {
    let mut attempts = Attempts::with(Limit::Time(Duration::from_secs(60)));
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
    let mut work: Vec<_> = (0..64).map(|_| (start, Attempts::with(Limit::Time(PATIENCE)))).collect();
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

#[tokio::test]
async fn only_parts_move_the_window_and_every_retry_is_counted() {
    let metrics = Metrics::new();
    let endpoint = Endpoint::new(metrics.location("test"), Window::from(Concurrency::AtMost(8)));
    let asked = AtomicU32::new(0);
    let flaky = || async {
        let error = store::Error::local("UploadPart", "k", Class::Integrity, "torn");
        if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { Err(error) } else { Ok(()) }
    };
    endpoint.retrying("PutObject", &"k", flaky).await.unwrap();
    let slow = || async {
        let error = store::Error::local("UploadPart", "k", Class::Throttled, "slow down");
        if asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { Err(error) } else { Ok(()) }
    };
    endpoint.retrying("PutObject", &"k", slow).await.unwrap();
    assert_eq!(endpoint.window(), 8);
    endpoint.retrying_part("UploadPart", &"k", endpoint.launch(0), slow).await.unwrap();
    assert_eq!(endpoint.window(), 4);
    let retried =
        metrics.gather().into_iter().find(|family| family.name() == "penstock_request_retries_total").unwrap();
    assert_eq!(retried.get_metric().iter().map(|one| one.get_counter().get_value()).sum::<f64>().to_string(), "3");
}
