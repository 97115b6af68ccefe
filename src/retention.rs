//! Which backups of a chain stay, and why. No I/O, no clock.
//!
//! - The rules are restic's: the most recent backup of each of the last so many days, weeks (from Monday) and months *that have
//!   one*, in the job's time zone; and whatever is no older than `keep_within` counted from the newest backup, not from now.
//!   While a rule has counts left, the oldest backup stays too. One reason is enough to stay.
//! - What no rule may delete, a guard keeps: the last good backup, and the last good copy of each item that the newest backup
//!   lacks. A job that has failed for a month has its last good backup still.
//! - Only whole backups are decided on. A kept backup needs no other's manifest, only the objects that it names, and those stay
//!   as long as it does ([`crate::prune`]).

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

use crate::config::Retention;
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{Manifest, Outcome};

/// What is decided on: a committed backup, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub id: BackupId,
    pub started: Timestamp,
    pub outcome: Outcome,
    /// Items that can be restored from it.
    pub saved: BTreeSet<Name>,
    /// Items that it should have and lacks.
    pub failed: BTreeSet<Name>,
}

impl From<&Manifest> for Backup {
    fn from(manifest: &Manifest) -> Self {
        let names = |failed| {
            let items = manifest.items.iter().filter(move |item| (item.outcome == Outcome::Failure) == failed);
            items.map(|item| item.name.clone()).collect()
        };
        Self {
            id: manifest.id.clone(),
            started: manifest.started,
            outcome: manifest.outcome,
            saved: names(false),
            failed: names(true),
        }
    }
}

/// A rule that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Last,
    Daily,
    Weekly,
    Monthly,
}

impl Rule {
    const ALL: [Self; 4] = [Self::Last, Self::Daily, Self::Weekly, Self::Monthly];

    fn count(self, retention: &Retention) -> u32 {
        let count = match self {
            Self::Last => retention.keep_last,
            Self::Daily => retention.keep_daily,
            Self::Weekly => retention.keep_weekly,
            Self::Monthly => retention.keep_monthly,
        };
        count.unwrap_or(0)
    }

    /// Equal for two backups of which the rule keeps the more recent one only.
    fn period(self, started: &ZonedDateTime, number: usize) -> (i16, usize) {
        match self {
            Self::Last => (0, number),
            Self::Daily => (started.year(), started.day_of_year().unsigned_abs().into()),
            Self::Weekly => {
                let week = started.date().iso_week_date();
                (week.year(), week.week().unsigned_abs().into())
            }
            Self::Monthly => (started.year(), started.month().unsigned_abs().into()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        })
    }
}

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Rule(Rule),
    /// The rule has counts left, and there is nothing older.
    Oldest(Rule),
    Within(Duration),
    /// The job has no retention, or one without a rule.
    NoRetention,
    /// No newer one is without failures.
    LastGood,
    /// The newest backup lacks this item, and none in between has it.
    LastOf(Name),
    /// Not decided by rules: only named backups are deleted.
    NotNamed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::Oldest(rule) => write!(f, "oldest {rule}"),
            Self::Within(duration) => write!(f, "within {}", humantime::format_duration(*duration)),
            Self::NoRetention => f.write_str("no retention"),
            Self::LastGood => f.write_str("last good"),
            Self::LastOf(item) => write!(f, "last with {item}"),
            Self::NotNamed => f.write_str("not named"),
        }
    }
}

/// Why each of `backups` stays, in their order; none is deleted that has a reason.
#[must_use]
pub fn decide(retention: Option<&Retention>, zone: &TimeZone, backups: &[Backup]) -> Vec<Vec<Reason>> {
    let retention = retention.filter(|retention| !is_empty(retention));
    let Some(retention) = retention else { return vec![vec![Reason::NoRetention]; backups.len()] };
    let mut newest_first: Vec<usize> = (0..backups.len()).collect();
    newest_first.sort_by_key(|at| Reverse((backups[*at].started, &backups[*at].id)));
    let mut reasons = vec![Vec::new(); backups.len()];
    for rule in Rule::ALL {
        for (at, reason) in counted(rule, rule.count(retention), zone, backups, &newest_first) {
            reasons[at].push(reason);
        }
    }
    within(retention.keep_within.unwrap_or_default(), backups, &mut reasons);
    guard(backups, &newest_first, &mut reasons);
    reasons
}

fn is_empty(retention: &Retention) -> bool {
    Rule::ALL.iter().all(|rule| rule.count(retention) == 0)
        && retention.keep_within.is_none_or(|within| within.is_zero())
}

fn counted(
    rule: Rule,
    count: u32,
    zone: &TimeZone,
    backups: &[Backup],
    newest_first: &[usize],
) -> Vec<(usize, Reason)> {
    let mut kept = Vec::new();
    let mut left = count;
    let mut last = None;
    for (number, at) in newest_first.iter().copied().enumerate() {
        if left == 0 {
            break;
        }
        let period = rule.period(&backups[at].started.to_zoned_datetime(zone.clone()), number);
        if last != Some(period) {
            kept.push((at, Reason::Rule(rule)));
        } else if number + 1 == newest_first.len() {
            kept.push((at, Reason::Oldest(rule)));
        } else {
            continue;
        }
        last = Some(period);
        left -= 1;
    }
    kept
}

fn within(window: Duration, backups: &[Backup], reasons: &mut [Vec<Reason>]) {
    let latest = backups.iter().map(|backup| backup.started).max();
    let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
    if window.is_zero() {
        return;
    }
    for (backup, reasons) in backups.iter().zip(reasons) {
        if latest.is_some_and(|latest| latest.duration_since(backup.started) < window) {
            reasons.push(Reason::Within(window.unsigned_abs()));
        }
    }
}

/// Says something only where no rule keeps the backup.
fn guard(backups: &[Backup], newest_first: &[usize], reasons: &mut [Vec<Reason>]) {
    let Some(newest) = newest_first.first().copied() else { return };
    let first = |good: &dyn Fn(&Backup) -> bool| newest_first.iter().copied().find(|at| good(&backups[*at]));
    let last_good = first(&|backup| backup.outcome == Outcome::Success).unwrap_or(newest);
    let last_of = backups[newest].failed.iter().filter_map(|item| {
        let at = first(&|backup| backup.saved.contains(item))?;
        Some((at, Reason::LastOf(item.clone())))
    });
    for (at, reason) in std::iter::once((last_good, Reason::LastGood)).chain(last_of) {
        if reasons[at].is_empty() {
            reasons[at].push(reason);
        }
    }
}
