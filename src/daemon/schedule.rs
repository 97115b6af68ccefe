//! When a job runs next. Pure: time, node and failure come in, a time goes out.
//!
//! **Clock changes** are Vixie cron's. A schedule of fixed times (`30 2 * * *`) runs once a day: what the clock skips runs
//! at the moment it skips it, what comes twice runs the first time. A schedule of intervals (minute or hour begins with
//! `*`) goes by time as it passes: nothing is made up for, and the hour that comes twice has its runs twice.
//!
//! **Jitter** is a fixed delay out of a hash of node and job: a fleet spreads out, and a node's runs stay as far apart as
//! the schedule has them.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::backoff::Backoff;
use crate::config::Cron;
use crate::error::{Class, Retry};
use crate::format::key::Name;

/// Before a failed run is made again: a minute to half an hour, and up to half as much more, which is the node's own share.
const RETRIES: Backoff = Backoff::new(Duration::from_mins(1), Duration::from_mins(30), (100, 150));

/// Enough to see a week of daily runs with its week-end, and a day of hourly ones with its night.
const LOOK_AHEAD: usize = 50;

/// A nanosecond, the least that a [`Timestamp`] can be after another.
const TICK: SignedDuration = SignedDuration::from_nanos(1);

/// The first time of `cron` after `after`; `None` only at the end of time.
pub(super) fn next(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // From here on the answer may be. Each round looks at the time up to the next change of the clock.
    let mut from = after.checked_add(TICK).ok()?;
    loop {
        let offset = zone.to_offset(from);
        let mut local = offset.to_datetime(from);
        if !cron.follows_clock() {
            local = local.max(already_seen(zone, from));
        }
        let minute = cron.first_from(local)?;
        let found = offset.to_timestamp(minute).ok()?;
        let change = zone.following(from).next().filter(|change| change.timestamp() <= found);
        let Some(change) = change else { return Some(found) };
        let skipped_to = change.offset().to_datetime(change.timestamp());
        if !cron.follows_clock() && minute < skipped_to {
            return Some(change.timestamp());
        }
        from = change.timestamp();
    }
}

/// The local time that the clock had reached when it last changed: fixed times before it have come already.
fn already_seen(zone: &TimeZone, from: Timestamp) -> jiff::civil::DateTime {
    let start = jiff::civil::DateTime::MIN;
    let Some(change) = from.checked_add(TICK).ok().and_then(|after| zone.preceding(after).next()) else { return start };
    let before = change.timestamp().checked_sub(TICK).map(|before| zone.to_offset(before));
    before.map_or(start, |offset| offset.to_datetime(change.timestamp()))
}

/// The first start after `after`, with the node's delay in it.
pub(super) fn next_start(cron: &Cron, zone: &TimeZone, delay: Duration, after: Timestamp) -> Option<Timestamp> {
    next(cron, zone, after.checked_sub(delay).ok()?)?.checked_add(delay).ok()
}

/// The longest time between two of the next [`LOOK_AHEAD`] runs.
pub(super) fn longest_gap(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Duration> {
    let mut longest = Duration::ZERO;
    let mut last = next(cron, zone, after)?;
    for _ in 0..LOOK_AHEAD {
        let run = next(cron, zone, last)?;
        longest = longest.max(run.duration_since(last).unsigned_abs());
        last = run;
    }
    Some(longest)
}

/// A number that only depends on node and job.
fn share(node: &Name, job: &Name) -> u32 {
    let digest = Sha256::digest(format!("{node}/{job}"));
    digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
}

/// What is added to each start, less than `jitter`, in whole milliseconds.
pub(super) fn delay(node: &Name, job: &Name, jitter: Duration) -> Duration {
    let delay = jitter.mul_f64(f64::from(share(node, job)) / (f64::from(u32::MAX) + 1.0));
    Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

/// How long after a failed run it is made again, `retries` retries having failed already; `None`: the schedule's next
/// run is the next. A denial or a wrong setting does not change by asking again.
pub(super) fn retry_pause(class: Class, retries: u32, node: &Name, job: &Name) -> Option<Duration> {
    let again = match class.retry() {
        Retry::No => false,
        Retry::Once => retries == 0,
        Retry::BackOff => true,
    };
    again.then(|| RETRIES.pause(retries, u64::from(share(node, job)) << 32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone) = (Cron::parse(cron).unwrap(), TimeZone::get(zone).unwrap());
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..count {
            at = next(&cron, &zone, at).unwrap();
            found.push(zone.to_datetime(at).strftime("%d %H:%M").to_string() + &format!(" {}", zone.to_offset(at)));
        }
        found
    }

    /// Berlin 2026: forward on 29 March from 02:00 to 03:00, back on 25 October from 03:00 to 02:00.
    #[test]
    fn clocks_that_change() {
        let (spring, autumn) = ("2026-03-28T12:00Z", "2026-10-24T12:00Z");
        for (cron, after, expected) in [
            ("30 2 * * *", spring, vec!["29 03:00 +02", "30 02:30 +02"]),
            ("0 2,3 * * *", spring, vec!["29 03:00 +02", "30 02:00 +02", "30 03:00 +02"]),
            ("15 2,3 * * *", spring, vec!["29 03:00 +02", "29 03:15 +02", "30 02:15 +02"]),
            ("0 1-4 * * *", spring, vec!["29 01:00 +01", "29 03:00 +02", "29 04:00 +02", "30 01:00 +02"]),
            ("30 * * * *", "2026-03-29T00:00Z", vec!["29 01:30 +01", "29 03:30 +02", "29 04:30 +02"]),
            ("*/30 2 * * *", spring, vec!["30 02:00 +02", "30 02:30 +02", "31 02:00 +02"]),
            ("30 2 * * *", autumn, vec!["25 02:30 +02", "26 02:30 +01"]),
            ("30 1,2,3 * * *", "2026-10-25T00:00Z", vec!["25 02:30 +02", "25 03:30 +01", "26 01:30 +01"]),
            // Started while the hour comes for the second time.
            ("30 2 * * *", "2026-10-25T01:10Z", vec!["26 02:30 +01"]),
            ("30 * * * *", "2026-10-24T23:45Z", vec!["25 02:30 +02", "25 02:30 +01", "25 03:30 +01"]),
            (
                "*/30 2 * * *",
                autumn,
                vec!["25 02:00 +02", "25 02:30 +02", "25 02:00 +01", "25 02:30 +01", "26 02:00 +01"],
            ),
        ] {
            assert_eq!(runs(cron, "Europe/Berlin", after, expected.len()), expected, "{cron} after {after}");
        }
        // Lord Howe's clock changes by half an hour, Apia once skipped a whole day.
        assert_eq!(runs("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00Z", 2), ["04 02:30 +11", "05 02:15 +11"]);
        assert_eq!(runs("0 12 30 * *", "Pacific/Apia", "2011-12-01T00:00Z", 2), ["31 00:00 +14", "30 12:00 +14"]);
    }

    /// What cron would do that woke up every minute.
    fn simulated(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let fits = |at: jiff::civil::DateTime| cron.first_from(at) == Some(at);
        let minute = SignedDuration::from_mins(1);
        let mut at = Timestamp::from_second(after.as_second().div_euclid(60) * 60).unwrap();
        // All that the clock has shown so far, were it watched from a day before.
        let mut reached = zone.to_datetime(at.checked_sub(SignedDuration::from_hours(24)).unwrap());
        let mut back = at.checked_sub(SignedDuration::from_hours(24)).unwrap();
        while back <= at {
            reached = reached.max(zone.to_datetime(back));
            back += minute;
        }
        for _ in 0..60 * 24 * 45 {
            at += minute;
            let local = zone.to_datetime(at);
            let mut due = fits(local);
            if !cron.follows_clock() {
                let mut passed = reached.checked_add(minute).unwrap();
                due = due && local > reached;
                while passed < local {
                    due |= fits(passed);
                    passed = passed.checked_add(minute).unwrap();
                }
            }
            reached = reached.max(local);
            if due && at > after {
                return Some(at);
            }
        }
        None
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn it_is_what_cron_would_do_that_woke_up_every_minute(
            minute in "(\\*|\\*/20|0|17|5,50)", hour in "(\\*|\\*/2|1|2|3|0-3|23)",
            days in "(\\* \\* \\*|\\*/2 \\* mon|\\* \\* sun|13 \\* sun|\\*/3 \\* \\*)",
            // Around both changes of 2026, and at any other time.
            start in prop_oneof![-2_000_i64..2_000, 302_000_i64..306_000, 0_i64..525_600],
            zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
        ) {
            let cron = Cron::parse(&format!("{minute} {hour} {days}")).unwrap();
            let zone = TimeZone::get(zone).unwrap();
            let after = "2026-03-29T01:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(start);
            prop_assert_eq!(next(&cron, &zone, after), simulated(&cron, &zone, after));
        }

        #[test]
        fn a_delay_moves_every_start_by_the_same(jitter in 0_u64..86_400, start in 0_i64..600_000) {
            let node = Name::new("node-1").unwrap();
            let delay = delay(&node, &Name::new("etcd").unwrap(), Duration::from_secs(jitter));
            prop_assert!(delay <= Duration::from_secs(jitter));
            let cron = Cron::parse("0 2 * * *").unwrap();
            let after = Timestamp::from_second(1_770_000_000 + start).unwrap();
            let first = next_start(&cron, &TimeZone::UTC, delay, after).unwrap();
            let second = next_start(&cron, &TimeZone::UTC, delay, first).unwrap();
            prop_assert!(first > after);
            prop_assert_eq!(second.duration_since(first), SignedDuration::from_hours(24));
        }
    }

    #[test]
    fn the_longest_gap_is_the_week_end_the_night_or_the_interval() {
        let hours = |cron| {
            let after = "2026-06-01T10:30Z".parse().unwrap();
            longest_gap(&Cron::parse(cron).unwrap(), &TimeZone::UTC, after).unwrap().as_secs_f64() / 3600.0
        };
        for (cron, expected) in [
            ("*/15 * * * *", 0.25),
            ("@hourly", 1.0),
            ("0 8-18 * * *", 14.0),
            ("30 2 * * *", 24.0),
            ("0 2 * * 1-5", 72.0),
            ("@weekly", 168.0),
        ] {
            assert!((hours(cron) - expected).abs() < 1e-9, "{cron}: {}", hours(cron));
        }
    }

    #[test]
    fn a_thousand_nodes_spread_over_the_jitter_and_each_keeps_its_place() {
        let job = Name::new("etcd").unwrap();
        let delays = |jitter: u64| {
            let of = |number| delay(&Name::new(format!("node-{number}")).unwrap(), &job, Duration::from_secs(jitter));
            (0..1000).map(of).collect::<Vec<_>>()
        };
        let mut seconds = [0_u32; 300];
        for delay in delays(300) {
            seconds[usize::try_from(delay.as_secs()).unwrap()] += 1;
        }
        assert!(seconds.iter().all(|nodes| *nodes < 15), "{seconds:?}");
        assert_eq!(delays(300), delays(300));
        assert!(delays(0).iter().all(Duration::is_zero));
    }

    #[test]
    fn a_denial_does_not_hammer_and_what_passes_comes_back() {
        let (node, job) = (Name::new("node-1").unwrap(), Name::new("etcd").unwrap());
        let pauses = |class| (0..7).map_while(|retries| retry_pause(class, retries, &node, &job)).collect::<Vec<_>>();
        for class in [Class::KmsDenied, Class::AccessDenied, Class::TrustDenied, Class::Config, Class::Source] {
            assert!(pauses(class).is_empty(), "{class}");
        }
        assert_eq!(pauses(Class::CredentialsExpired).len(), 1);
        let own = f64::from(share(&node, &job)) / f64::from(u32::MAX) / 2.0 + 1.0;
        let minutes = |pause: &Duration| pause.div_f64(own).as_secs_f64() / 60.0;
        let minutes: Vec<String> =
            pauses(Class::Transient).iter().map(|pause| format!("{:.0}", minutes(pause))).collect();
        assert_eq!(minutes, ["1", "2", "4", "8", "16", "30", "30"]);
    }
}
