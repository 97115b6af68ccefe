//! Decides which backups of a chain stay, and why. No I/O, no clock.
//!
//! - The rules are restic's: of each of the last N days, weeks (from Monday), months and years *that have a backup*, in the job's time zone, one
//!   backup stays; and every backup that is no older than `keep_within`, counted from the newest backup, not from now. While a rule has
//!   counts left, the oldest backup stays too. One reason is enough.
//! - **Of each period** the newest *complete* backup stays: one in which no item failed (warnings do not count). If there is none, the
//!   newest.
//! - **Item by item**: each item that the newest backup has, or should have, is also counted alone, in the periods in which it was saved: of
//!   each of the last N, the newest complete backup with the item stays, or else the newest with it. While every item is saved, these are
//!   the same backups. If one item fails for a month, it and the others keep their history. An item that the newest backup does not
//!   name (a pod that is gone) is not counted, and ages out with the periods.
//! - Guards keep backups that no rule may delete: the newest, the last good one, the last good copy of each item that the newest
//!   backup lacks, and the one stored last, which a clock that is behind dates into the past.
//! - Only whole backups are decided on. A kept backup needs no other manifest, only the objects that it names, which stay as long as it
//!   does ([`crate::prune`]).
//!
//! No choice depends on another: deciding again on the backups that stay deletes nothing more, and a larger count keeps no fewer.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

use crate::config::Retention;
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{Content, Item, Manifest, Outcome};

/// A committed backup, as far as retention needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub id: BackupId,
    /// See [`crate::catalog::date`].
    pub taken: Timestamp,
    /// When the store received its manifest.
    pub stored: Timestamp,
    pub outcome: Outcome,
    /// Items that can be restored from it. Shared, since most backups of a chain have the same ones.
    pub saved: Arc<BTreeSet<Name>>,
    /// Items that it should have but lacks.
    pub failed: Arc<BTreeSet<Name>>,
}

impl Backup {
    #[must_use]
    pub fn new(manifest: &Manifest, taken: Timestamp, stored: Timestamp) -> Self {
        let is_saved = |item: &&Item| {
            let there = match &item.content {
                Content::Stream { stream } => stream.is_some(),
                Content::EbsSnapshot { snapshot } => snapshot.is_some(),
            };
            there && matches!(item.outcome, Outcome::Success | Outcome::Partial)
        };
        let (saved, failed): (Vec<_>, Vec<_>) = manifest.items.iter().partition(is_saved);
        let names = |items: Vec<&Item>| Arc::new(items.into_iter().map(|item| item.name.clone()).collect());
        let (saved, failed) = (names(saved), names(failed));
        Self { id: manifest.id.clone(), taken, stored, outcome: manifest.outcome, saved, failed }
    }

    /// Whether it has every item that it should have.
    fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}

/// A counting rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Last,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

/// A year, and a day, week or month in it, if the rule counts these.
type Period = (i16, usize);

impl Rule {
    const ALL: [Self; 5] = [Self::Last, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    fn count(self, retention: &Retention) -> u32 {
        let count = match self {
            Self::Last => retention.keep_last,
            Self::Daily => retention.keep_daily,
            Self::Weekly => retention.keep_weekly,
            Self::Monthly => retention.keep_monthly,
            Self::Yearly => retention.keep_yearly,
        };
        count.unwrap_or(0)
    }

    /// The period of a backup. The rule keeps one backup of each.
    fn period(self, taken: &ZonedDateTime, number: usize) -> Period {
        match self {
            Self::Last => (0, number),
            Self::Daily => (taken.year(), taken.day_of_year().unsigned_abs().into()),
            Self::Weekly => {
                let week = taken.date().iso_week_date();
                (week.year(), week.week().unsigned_abs().into())
            }
            Self::Monthly => (taken.year(), taken.month().unsigned_abs().into()),
            Self::Yearly => (taken.year(), 0),
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
            Self::Yearly => "yearly",
        })
    }
}

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Rule(Rule),
    /// The rule keeps it for these items alone.
    Items(Rule, BTreeSet<Name>),
    /// The rule has counts left, and no backup is older.
    Oldest(Rule),
    Within(Duration),
    /// The job has no retention, or one without a rule.
    NoRetention,
    /// The next backup is incremental to it.
    Newest,
    /// It is the newest without failures.
    LastGood,
    /// The store received none later.
    LastStored,
    /// The newest backup lacks this item, and this is the last backup that has it.
    LastOf(Name),
    /// An operator holds it (`penstock hold`).
    Held,
    /// Nobody knows whether it is held.
    PerhapsHeld,
    /// Rules are not applied: only named backups are deleted.
    NotNamed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::Items(rule, items) => write!(f, "{rule} of {}", some_of(items)),
            Self::Oldest(rule) => write!(f, "oldest {rule}"),
            Self::Within(duration) => write!(f, "within {}", humantime::format_duration(*duration)),
            Self::NoRetention => f.write_str("no retention"),
            Self::Newest => f.write_str("newest"),
            Self::LastGood => f.write_str("last good"),
            Self::LastStored => f.write_str("stored last"),
            Self::LastOf(item) => write!(f, "last with {item}"),
            Self::Held => f.write_str("held"),
            Self::PerhapsHeld => f.write_str("perhaps held"),
            Self::NotNamed => f.write_str("not named"),
        }
    }
}

/// The first names, and how many more there are.
#[must_use]
pub fn some_of(items: &BTreeSet<Name>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<&str> = items.iter().take(SHOWN).map(Name::as_str).collect();
    let more = items.len().saturating_sub(SHOWN);
    names.join(", ") + &if more == 0 { String::new() } else { format!(" and {more} more") }
}

/// Returns why each of `backups` stays, in order. A backup without a reason is to be deleted.
#[must_use]
pub fn decide(retention: Option<&Retention>, zone: &TimeZone, backups: &[Backup]) -> Vec<Vec<Reason>> {
    let retention = retention.filter(|retention| !is_empty(retention));
    let Some(retention) = retention else { return vec![vec![Reason::NoRetention]; backups.len()] };
    let mut newest_first: Vec<usize> = (0..backups.len()).collect();
    newest_first.sort_by_key(|at| Reverse((backups[*at].taken, &backups[*at].id)));
    let mut reasons = vec![Vec::new(); backups.len()];
    for rule in Rule::ALL {
        counted(rule, rule.count(retention), zone, backups, &newest_first, &mut reasons);
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
    reasons: &mut [Vec<Reason>],
) {
    let (Some(newest), 1..) = (newest_first.first(), count) else { return };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let period = |number, at: usize| rule.period(&backups[at].taken.to_zoned_datetime(zone.clone()), number);
    let dated = newest_first.iter().enumerate().map(|(number, at)| (period(number, *at), *at));
    let dated: Vec<(Period, usize)> = dated.collect();
    let chosen = one_of_each(count, dated.iter().copied(), backups);
    for at in &chosen {
        reasons[*at].push(Reason::Rule(rule));
    }
    if let Some(oldest) = newest_first.last()
        && chosen.len() < count
        && !chosen.contains(oldest)
    {
        reasons[*oldest].push(Reason::Oldest(rule));
    }
    let chosen: HashSet<usize> = chosen.into_iter().collect();
    let mut of_items: BTreeMap<usize, BTreeSet<Name>> = BTreeMap::new();
    let Backup { saved, failed, .. } = &backups[*newest];
    for item in saved.union(failed) {
        let having = dated.iter().copied().filter(|(_, at)| backups[*at].saved.contains(item));
        // A backup that the rule keeps anyway needs no second reason.
        for at in one_of_each(count, having, backups).into_iter().filter(|at| !chosen.contains(at)) {
            of_items.entry(at).or_default().insert(item.clone());
        }
    }
    for (at, items) in of_items {
        reasons[at].push(Reason::Items(rule, items));
    }
}

/// Chooses from each of the first `count` periods of `dated` (newest first) the first complete backup, or else the first.
fn one_of_each(count: usize, dated: impl Iterator<Item = (Period, usize)>, backups: &[Backup]) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut last = None;
    for (period, at) in dated {
        if last == Some(period) {
            if let Some(best) = chosen.last_mut()
                && !backups[*best].is_complete()
                && backups[at].is_complete()
            {
                *best = at;
            }
        } else if chosen.len() == count {
            break;
        } else {
            chosen.push(at);
            last = Some(period);
        }
    }
    chosen
}

fn within(window: Duration, backups: &[Backup], reasons: &mut [Vec<Reason>]) {
    let latest = backups.iter().map(|backup| backup.taken).max();
    let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
    if window.is_zero() {
        return;
    }
    for (backup, reasons) in backups.iter().zip(reasons) {
        if latest.is_some_and(|latest| latest.duration_since(backup.taken) < window) {
            reasons.push(Reason::Within(window.unsigned_abs()));
        }
    }
}

/// Adds reasons only where no rule keeps the backup.
fn guard(backups: &[Backup], newest_first: &[usize], reasons: &mut [Vec<Reason>]) {
    let Some(newest) = newest_first.first().copied() else { return };
    let first = |good: &dyn Fn(&Backup) -> bool| newest_first.iter().copied().find(|at| good(&backups[*at]));
    let last_good = first(&|backup| backup.outcome == Outcome::Success).map(|at| (at, Reason::LastGood));
    let last_of = backups[newest].failed.iter().filter_map(|item| {
        let at = first(&|backup| backup.saved.contains(item))?;
        Some((at, Reason::LastOf(item.clone())))
    });
    let last_stored = newest_first.iter().copied().rev().max_by_key(|at| backups[*at].stored);
    let last_stored = last_stored.map(|at| (at, Reason::LastStored));
    for (at, reason) in std::iter::once((newest, Reason::Newest)).chain(last_good).chain(last_of).chain(last_stored) {
        if reasons[at].is_empty() {
            reasons[at].push(reason);
        }
    }
}
