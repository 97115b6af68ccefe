//! The arithmetic of rolling locks (docs/decisions/0090). No I/O.
//!
//! An object is locked for the period and [`ALLOWANCE`] when it is created, and again whenever less than half the period and a part of
//! the allowance is left, while a backup needs it. Where extension is tried at least once in [`TRIED_EVERY`], however many of the tries
//! within [`READ_EVERY`] after one that succeeded are left out:
//! - what a backup needs is never locked for less than half the period (one failure of a day leaves half the period less a day);
//! - an object is extended at most once in half a period;
//! - nothing is locked for longer than the period and the allowance after the last time it was known to be needed.
//!
//! Objects of one backup come due at different times, spread over [`SPREAD`] by their names.
//!
//! Every time here is by the store's clock: with this machine's own, a wrong clock would lock objects for years or not at all.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Location;
use crate::config::{LockMode, ObjectLock};
use crate::format::key::cluster_prefix;
use crate::store::{self, Lock};

/// Added to each lock: an upload may take a day until its backup is committed, and extension may be a day late.
pub const ALLOWANCE: Duration = Duration::from_hours(48);

/// How often extension is tried at least: by each run and prune of a job, and each hour by a daemon.
pub const TRIED_EVERY: Duration = Duration::from_hours(24);

/// A chain is not read again sooner than this because something is due, since that reads all its manifests (docs/decisions/0094).
pub const READ_EVERY: Duration = Duration::from_hours(6);

/// With this much left above half of the period an object is due at the latest: one try may be left out, and the next one come a day later.
const LATEST: Duration = Duration::from_hours(24 + 6);

/// With [`LATEST`] it is [`ALLOWANCE`], so that no object is extended twice within half a period.
const SPREAD: Duration = Duration::from_hours(48 - 24 - 6);

/// A share of [`SPREAD`], in 65,536ths, by which one object is due earlier than the latest.
pub type Share = u16;

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

impl ObjectLock {
    /// The lock that an object gets now.
    #[must_use]
    pub fn grant(self, now: Timestamp) -> Lock {
        let time = signed(self.period).saturating_add(signed(ALLOWANCE));
        Lock { mode: self.mode, until: now.checked_add(time).unwrap_or(Timestamp::MAX) }
    }

    /// Whether an object that is needed, and locked until `until`, is to be extended now.
    #[must_use]
    pub fn is_due(self, until: Timestamp, now: Timestamp, share: Share) -> bool {
        let early = SPREAD.mul_f64(f64::from(share) / f64::from(Share::MAX));
        let least = self.period / 2 + LATEST + early;
        until.duration_since(now) < signed(least)
    }
}

impl LockMode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

impl Location {
    /// The time by the store's clock. Asks the store if it has not answered anything yet.
    ///
    /// # Errors
    /// When it has not, and does not answer now.
    pub async fn store_time(&self) -> Result<Timestamp, store::Error> {
        if let Some(now) = self.remote.now() {
            return Ok(now);
        }
        let nothing = cluster_prefix(self.prefix(), &self.cluster) + ".time/";
        self.store.list(&nothing, None).await?;
        Ok(self.remote.now().unwrap_or_else(Timestamp::now))
    }

    /// The lock of an object that is created now; `None` if the location locks none.
    ///
    /// # Errors
    /// As [`Location::store_time`].
    pub async fn new_lock(&self) -> Result<Option<Lock>, store::Error> {
        let Some(object_lock) = self.config.object_lock else { return Ok(None) };
        Ok(Some(object_lock.grant(self.store_time().await?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3600;

    fn lock(days: u64) -> ObjectLock {
        ObjectLock { mode: LockMode::Governance, period: Duration::from_hours(24 * days) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    proptest! {
        /// An object that is needed from its creation to a random end, with tries at random times, some of which fail, and of which those
        /// soon after one that worked are left out.
        #[test]
        fn locks_roll(
            days in 1_u64..60,
            share in any::<Share>(),
            upload in 0_i64..24 * HOUR,
            tries in prop::collection::vec(
                (prop_oneof![1_i64..=24 * HOUR, 1_i64..=HOUR], prop::bool::weighted(0.9)), 1..300),
        ) {
            let lock = lock(days);
            let half = i64::try_from(lock.period.as_secs()).unwrap() / 2;
            let longest = i64::try_from((lock.period + ALLOWANCE).as_secs()).unwrap();
            let is_past = |read: Option<i64>, now: i64, time: Duration| {
                read.is_none_or(|read| u64::try_from(now - read).unwrap() >= time.as_secs())
            };
            let mut until = lock.grant(at(0)).until;
            let mut now = upload;
            let (mut failing, mut extended, mut read) = (0, None, None);
            for (pause, works) in tries {
                // What is left just before this try, however long the tries before it failed.
                let left = until.duration_since(at(now)).as_secs();
                prop_assert!(left >= half - failing, "{left} s left of {half} s, after failures for {failing} s");
                prop_assert!(left <= longest, "longer than it may be after nothing needs it");
                if lock.is_due(until, at(now), share) && is_past(read, now, READ_EVERY) {
                    if works {
                        read = Some(now);
                        if let Some(last) = extended.replace(now) {
                            prop_assert!(now - last >= half, "extended again after {} s", now - last);
                        }
                        until = lock.grant(at(now)).until;
                    }
                    failing = if works { 0 } else { failing + pause };
                } else if works && is_past(read, now, TRIED_EVERY) {
                    // Nothing is due: the daily reading.
                    read = Some(now);
                }
                now += pause;
            }
        }
    }

    #[test]
    fn the_objects_of_one_backup_are_due_over_most_of_a_day() {
        let lock = lock(14);
        let until = lock.grant(at(0)).until;
        let due = |share: Share, hours: i64| lock.is_due(until, at(hours * HOUR), share);
        let hours_until_due = |share| (0..24 * 30).find(|hours| due(share, *hours)).unwrap();
        // 16 days are granted; the first is due when 9 are left, the last 18 hours later.
        assert_eq!((hours_until_due(Share::MAX), hours_until_due(0)), (7 * 24 + 1, 7 * 24 + 18 + 1));
        assert_eq!(hours_until_due(Share::MAX / 2), 7 * 24 + 9 + 1);
    }

    #[test]
    fn a_lock_that_is_over_is_due_and_absurd_periods_end_somewhere() {
        assert!(lock(14).is_due(at(-1), at(0), 0));
        let ever = ObjectLock { mode: LockMode::Compliance, period: Duration::MAX / 4 };
        assert_eq!(ever.grant(at(0)).until, Timestamp::MAX);
    }
}
