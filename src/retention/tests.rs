use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const HOUR: i64 = 3600;

fn backup(seconds: i64, outcome: Outcome) -> Backup {
    let taken = Timestamp::from_second(seconds).unwrap();
    let id = BackupId::new(taken, 1);
    Backup { id, taken, stored: taken, outcome, saved: Arc::default(), failed: Arc::default() }
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// What restic 0.14 kept (`tests/fixtures/retention/from-restic.py`).
#[derive(Deserialize)]
struct History {
    name: String,
    zone: String,
    times: Vec<Timestamp>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    policy: Policy,
    kept: Vec<usize>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Policy {
    last: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    /// Hours.
    within: u64,
}

impl From<Policy> for Retention {
    fn from(policy: Policy) -> Self {
        Self {
            keep_last: Some(policy.last),
            keep_daily: Some(policy.daily),
            keep_weekly: Some(policy.weekly),
            keep_monthly: Some(policy.monthly),
            keep_within: Some(Duration::from_hours(policy.within)),
            ..Self::default()
        }
    }
}

#[test]
fn as_restic_does() {
    let table: Vec<History> = serde_json::from_str(include_str!("../../tests/fixtures/retention/restic.json")).unwrap();
    let mut cases = 0;
    for History { name, zone: zone_name, times, cases: of_history } in &table {
        let backups: Vec<_> = times.iter().map(|time| backup(time.as_second(), Outcome::Success)).collect();
        for Case { policy, kept } in of_history {
            let reasons = decide(Some(&(*policy).into()), &zone(zone_name), &backups);
            // Restic 0.14 does not yet keep the oldest one while a rule has counts left.
            let by_rule = |reasons: &Vec<Reason>| reasons.iter().any(|reason| !matches!(reason, Reason::Oldest(_)));
            let found: Vec<usize> = (0..backups.len()).filter(|at| by_rule(&reasons[*at])).collect();
            assert_eq!(found, *kept, "{name}: {policy:?}");
            cases += 1;
        }
    }
    assert!(cases >= 100, "only {cases} cases were compared");
}

/// A promise, the zone, the policy, and backups with the reasons they stay for.
type Row = (&'static str, &'static str, Policy, &'static [(&'static str, &'static str)]);

const fn policy(last: u32, daily: u32, weekly: u32, monthly: u32, within: u64) -> Policy {
    Policy { last, daily, weekly, monthly, within }
}

/// What restic's documentation promises.
const DOCUMENTED: &[Row] = &[
    (
        "the most recent one of a day",
        "UTC",
        policy(0, 1, 0, 0, 0),
        &[("2026-11-23T23:59:59Z", "daily"), ("2026-11-23T00:00:00Z", ""), ("2026-11-22T23:59:59Z", "")],
    ),
    (
        "days are those of the zone",
        "Pacific/Auckland",
        policy(0, 2, 0, 0, 0),
        &[("2026-11-23T11:30:00Z", "daily"), ("2026-11-23T10:30:00Z", "daily"), ("2026-11-22T12:00:00Z", "")],
    ),
    (
        "days without a backup do not count",
        "UTC",
        policy(0, 2, 0, 0, 0),
        &[("2026-11-23T12:00:00Z", "daily"), ("2026-03-01T12:00:00Z", "daily"), ("2026-02-01T12:00:00Z", "")],
    ),
    (
        "weeks begin on Monday, and go over New Year",
        "UTC",
        policy(0, 0, 2, 0, 0),
        &[
            ("2026-01-05T00:00:00Z", "weekly"),
            ("2026-01-04T23:00:00Z", "weekly"),
            ("2025-12-29T00:00:00Z", ""),
            ("2025-12-28T23:00:00Z", ""),
        ],
    ),
    (
        "a month is another in another year",
        "UTC",
        policy(0, 0, 0, 3, 0),
        &[
            ("2026-11-23T00:00:00Z", "monthly"),
            ("2026-11-01T00:00:00Z", ""),
            ("2025-11-23T00:00:00Z", "monthly"),
            ("2025-10-31T00:00:00Z", "monthly"),
            ("2025-10-01T00:00:00Z", ""),
        ],
    ),
    (
        "the oldest stays while a rule has counts left",
        "UTC",
        policy(0, 3, 0, 0, 0),
        &[
            ("2026-11-23T12:00:00Z", "daily"),
            ("2026-11-22T12:00:00Z", "daily"),
            ("2026-11-22T11:00:00Z", ""),
            ("2026-11-22T10:00:00Z", "oldest daily"),
        ],
    ),
    (
        "the window counts from the newest backup, not from now",
        "UTC",
        policy(0, 0, 0, 0, 24),
        &[
            ("2020-01-02T00:00:00Z", "within 1day"),
            ("2020-01-01T00:00:01Z", "within 1day"),
            ("2020-01-01T00:00:00Z", ""),
        ],
    ),
    (
        "one reason is enough, all are told",
        "UTC",
        policy(1, 2, 0, 1, 0),
        &[
            ("2026-11-23T12:00:00Z", "last, daily, monthly"),
            ("2026-11-22T12:00:00Z", "daily"),
            ("2026-11-21T12:00:00Z", ""),
        ],
    ),
];

#[test]
fn as_restic_documents() {
    for (why, zone_name, policy, backups) in DOCUMENTED {
        let times = backups.iter().map(|(time, _)| time.parse::<Timestamp>().unwrap());
        let list: Vec<_> = times.map(|time| backup(time.as_second(), Outcome::Success)).collect();
        let reasons = decide(Some(&(*policy).into()), &zone(zone_name), &list);
        let said = |reasons: &Vec<Reason>| reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let found: Vec<_> = backups.iter().zip(&reasons).map(|((time, _), reasons)| (*time, said(reasons))).collect();
        let expected: Vec<_> = backups.iter().map(|(time, why)| (*time, (*why).to_owned())).collect();
        assert_eq!(found, expected, "{why}");
    }
}

#[test]
fn without_rules_everything_stays() {
    let backups: Vec<_> = (0..5).map(|n| backup(n * HOUR, Outcome::Partial)).collect();
    let empty = Retention { keep_last: Some(0), ..Retention::default() };
    for retention in [None, Some(&empty)] {
        let reasons = decide(retention, &TimeZone::UTC, &backups);
        assert_eq!(reasons, vec![vec![Reason::NoRetention]; 5]);
    }
    assert_eq!(decide(Some(&empty), &TimeZone::UTC, &[]), Vec::<Vec<Reason>>::new());
}

fn names(list: &str) -> Arc<BTreeSet<Name>> {
    Arc::new(list.split_whitespace().map(name).collect())
}

/// When a backup was taken, what it saved, what failed, and why it stays: "" when it goes.
type Told = (&'static str, &'static str, &'static str, &'static str);

fn check(why: &str, policy: Policy, told: &[Told]) {
    let backups = told.iter().map(|(taken, saved, failed, _)| {
        let taken: Timestamp = taken.parse().unwrap();
        let outcome = if failed.is_empty() { Outcome::Success } else { Outcome::Partial };
        Backup { saved: names(saved), failed: names(failed), ..backup(taken.as_second(), outcome) }
    });
    let reasons = decide(Some(&policy.into()), &TimeZone::UTC, &backups.collect::<Vec<_>>());
    let said = |reasons: &Vec<Reason>| reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found: Vec<_> = told.iter().zip(&reasons).map(|((taken, ..), reasons)| (*taken, said(reasons))).collect();
    let expected: Vec<_> = told.iter().map(|(taken, .., why)| (*taken, (*why).to_owned())).collect();
    assert_eq!(found, expected, "{why}");
}

/// Backups that lack an item push out nothing that has it.
#[test]
fn item_by_item() {
    check(
        "a complete one goes before a later one of its day that is not",
        policy(0, 2, 0, 0, 0),
        &[
            ("2026-11-23T14:00:00Z", "files", "db", "newest"),
            ("2026-11-23T02:00:00Z", "files db", "", "daily"),
            ("2026-11-22T14:00:00Z", "files", "db", ""),
            ("2026-11-22T02:00:00Z", "files db", "", "daily"),
            ("2026-11-21T02:00:00Z", "files db", "", ""),
        ],
    );
    check(
        "the others keep their days while one fails, and it keeps its own",
        policy(0, 2, 0, 0, 0),
        &[
            ("2026-11-23T02:00:00Z", "files", "db", "daily"),
            ("2026-11-22T02:00:00Z", "files", "db", "daily"),
            ("2026-11-21T02:00:00Z", "files", "db", ""),
            ("2026-11-20T02:00:00Z", "files db", "", "daily of db"),
            ("2026-11-19T02:00:00Z", "files db", "", "daily of db"),
            ("2026-11-18T02:00:00Z", "files db", "", ""),
        ],
    );
    check(
        "two that fail in turn",
        policy(0, 1, 0, 0, 0),
        &[
            ("2026-11-23T14:00:00Z", "a", "b", "daily"),
            ("2026-11-23T02:00:00Z", "b", "a", "daily of b"),
            ("2026-11-22T02:00:00Z", "a b", "", "last good"),
        ],
    );
    check(
        "the last so many of each item",
        policy(2, 0, 0, 0, 0),
        &[
            ("2026-11-23T14:00:00Z", "files", "db", "last"),
            ("2026-11-23T13:00:00Z", "files", "db", "last"),
            ("2026-11-23T12:00:00Z", "files", "db", ""),
            ("2026-11-23T11:00:00Z", "files db", "", "last of db"),
            ("2026-11-23T10:00:00Z", "files db", "", "last of db"),
            ("2026-11-23T09:00:00Z", "files db", "", ""),
        ],
    );
    check(
        "a pod that is gone keeps nothing",
        policy(0, 2, 0, 0, 0),
        &[
            ("2026-11-23T02:00:00Z", "pod-c", "", "daily"),
            ("2026-11-22T14:00:00Z", "pod-c", "", "daily"),
            ("2026-11-22T02:00:00Z", "pod-b pod-c", "", ""),
            ("2026-11-21T02:00:00Z", "pod-a pod-b", "", ""),
        ],
    );
    check(
        "an item that was never saved keeps nothing either",
        policy(0, 1, 0, 0, 0),
        &[
            ("2026-11-23T02:00:00Z", "files", "new", "daily"),
            ("2026-11-22T02:00:00Z", "files", "new", ""),
            ("2026-11-21T02:00:00Z", "files", "", "last good"),
            ("2026-11-20T02:00:00Z", "files", "", ""),
        ],
    );
}

/// The clock is behind: the backup looks old, and is the only one of its day that there will ever be.
#[test]
fn what_was_stored_last_stays_whatever_its_clock_said() {
    let mut backups: Vec<_> = (0..10).map(|day| backup(day * 24 * HOUR, Outcome::Success)).collect();
    backups[3].stored = backups[9].stored + SignedDuration::from_hours(1);
    let retention = Retention { keep_daily: Some(2), ..Retention::default() };
    let reasons = decide(Some(&retention), &TimeZone::UTC, &backups);
    let kept: Vec<usize> = (0..10).filter(|at| !reasons[*at].is_empty()).collect();
    assert_eq!(kept, [3, 8, 9]);
    assert_eq!(reasons[3], [Reason::LastStored]);
}

#[test]
fn many_items_are_counted_not_listed() {
    assert_eq!(Reason::Items(Rule::Weekly, (*names("a b")).clone()).to_string(), "weekly of a, b");
    assert_eq!(Reason::Items(Rule::Last, (*names("a b c d e")).clone()).to_string(), "last of a, b, c and 2 more");
}

#[test]
fn the_last_good_one_stays_whatever_failed_since() {
    let mut backups: Vec<_> = (0..40).map(|n| backup(n * 24 * HOUR, Outcome::Partial)).collect();
    backups[3].outcome = Outcome::Success;
    backups[1].outcome = Outcome::Success;
    // The database could not be dumped since the tenth day, and was only once in between.
    for (day, backup) in backups.iter_mut().enumerate() {
        let there = day <= 10 || day == 14;
        backup.saved = names(if there { "database files" } else { "files" });
        backup.failed = names(if there { "" } else { "database" });
    }
    let daily = Retention { keep_daily: Some(7), ..Retention::default() };
    let within = Retention { keep_within: Some(Duration::from_hours(7 * 24)), ..Retention::default() };
    let kept = |reasons: &[Vec<Reason>]| (0..40).filter(|at| !reasons[*at].is_empty()).collect::<Vec<_>>();
    let reasons = decide(Some(&daily), &TimeZone::UTC, &backups);
    assert_eq!(kept(&reasons), [3, 5, 6, 7, 8, 9, 10, 14, 33, 34, 35, 36, 37, 38, 39]);
    assert_eq!(reasons[3], [Reason::LastGood]);
    assert_eq!(reasons[14], [Reason::Items(Rule::Daily, [name("database")].into())]);
    // A rule that does not count keeps the last of it.
    let reasons = decide(Some(&within), &TimeZone::UTC, &backups);
    assert_eq!(kept(&reasons), [3, 14, 33, 34, 35, 36, 37, 38, 39]);
    assert_eq!(reasons[14], [Reason::LastOf(name("database"))]);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Success), Just(Outcome::Partial)]
}

/// Of each of three items, whether it is saved, failed, or not there at all.
fn items() -> impl Strategy<Value = [u8; 3]> {
    [0..4_u8, 0..4_u8, 0..4_u8]
}

prop_compose! {
    /// Backups of some years or days, in any order, some at the same second, some stored as if their clock had been behind.
    fn chain()(span in prop::sample::select(vec![3 * 365 * 24_i64, 200]))(
        list in prop::collection::vec((0..span, 0..2_i64, outcomes(), items(), 0..200_i64), 0..60)
    ) -> Vec<Backup> {
        list.into_iter().enumerate().map(|(n, (hours, half, warned, items, late))| {
            let of = |wanted: &dyn Fn(u8) -> bool| {
                let named = ["a", "b", "c"].into_iter().zip(items).filter(|(_, item)| wanted(*item));
                Arc::new(named.map(|(item, _)| name(item)).collect::<BTreeSet<_>>())
            };
            let (saved, failed) = (of(&|item| item > 1), of(&|item| item == 1));
            let outcome = if failed.is_empty() { warned } else { Outcome::Partial };
            let made = backup(hours * HOUR + half * HOUR / 2, outcome);
            let id = BackupId::new(made.taken, u32::try_from(n).unwrap());
            Backup { id, stored: made.taken + SignedDuration::from_hours(late), saved, failed, ..made }
        }).collect()
    }
}

prop_compose! {
    fn policies()(last in 0..5_u32, daily in 0..9_u32, weekly in 0..6_u32, monthly in 0..14_u32, within in 0..300_u64) -> Policy {
        Policy { last, daily, weekly, monthly, within }
    }
}

fn newest(backups: &[Backup], good: impl Fn(&Backup) -> bool) -> Option<usize> {
    (0..backups.len()).filter(|at| good(&backups[*at])).max_by_key(|at| (backups[*at].taken, &backups[*at].id))
}

proptest! {
    #[test]
    fn what_must_not_go_stays(backups in chain(), policy in policies(), zone_name in prop::sample::select(vec!["UTC", "America/St_Johns", "Asia/Kathmandu"])) {
        let reasons = decide(Some(&policy.into()), &zone(zone_name), &backups);
        prop_assert_eq!(reasons.len(), backups.len());
        let stays = |at: Option<usize>| at.is_none_or(|at| !reasons[at].is_empty());
        prop_assert!(stays(newest(&backups, |backup| backup.outcome == Outcome::Success)));
        prop_assert!(stays(newest(&backups, |_| true)), "the newest one is the parent of the next");
        for item in ["a", "b", "c"].map(name) {
            if newest(&backups, |_| true).is_some_and(|at| backups[at].failed.contains(&item)) {
                prop_assert!(stays(newest(&backups, |backup| backup.saved.contains(&item))));
            }
        }
        let last_stored = backups.iter().map(|backup| backup.stored).max();
        prop_assert!(backups.is_empty() || (0..backups.len()).any(|at| Some(backups[at].stored) == last_stored && stays(Some(at))));
        let kept = reasons.iter().filter(|reasons| reasons.iter().any(|reason| matches!(reason, Reason::Rule(_) | Reason::Oldest(_)))).count();
        let most = policy.last + policy.daily + policy.weekly + policy.monthly;
        prop_assert!(kept <= most as usize);
    }

    /// For every rule, and for every item that the newest backup has or should have: of each of the last so many periods in which the
    /// item was saved a backup stays that has it, a complete one where there was one. The same for backups as such.
    #[test]
    fn each_item_has_its_history(backups in chain(), policy in policies()) {
        let retention = policy.into();
        let reasons = decide(Some(&retention), &TimeZone::UTC, &backups);
        let Some(at) = newest(&backups, |_| true) else { return Ok(()) };
        let current = backups[at].saved.union(&backups[at].failed).cloned().map(Some).chain([None]);
        for (rule, item) in Rule::ALL.into_iter().flat_map(|rule| current.clone().map(move |item| (rule, item))) {
            let has = |backup: &Backup| item.as_ref().is_none_or(|item| backup.saved.contains(item));
            let mut having: Vec<usize> = (0..backups.len()).filter(|at| has(&backups[*at])).collect();
            having.sort_by_key(|at| Reverse((backups[*at].taken, &backups[*at].id)));
            let mut periods: Vec<(Period, Vec<usize>)> = Vec::new();
            for (number, at) in having.into_iter().enumerate() {
                let period = rule.period(&backups[at].taken.to_zoned_datetime(TimeZone::UTC), number);
                match periods.last_mut() {
                    Some((last, of_it)) if *last == period => of_it.push(at),
                    _ => periods.push((period, vec![at])),
                }
            }
            for (period, of_it) in periods.iter().take(rule.count(&retention) as usize) {
                let kept: Vec<usize> = of_it.iter().copied().filter(|at| !reasons[*at].is_empty()).collect();
                prop_assert!(!kept.is_empty(), "{rule} {period:?} of {item:?}");
                let complete = |list: &[usize]| list.iter().any(|at| backups[*at].is_complete());
                prop_assert!(!complete(of_it) || complete(&kept), "{rule} {period:?} of {item:?}: a complete one");
            }
        }
    }

    /// Nothing stays without a reason that holds: one for a rule, or for an item that the newest backup knows and this one has.
    #[test]
    fn every_reason_holds(backups in chain(), policy in policies()) {
        let reasons = decide(Some(&policy.into()), &TimeZone::UTC, &backups);
        let Some(newest) = newest(&backups, |_| true) else { return Ok(()) };
        for (backup, reasons) in backups.iter().zip(&reasons) {
            for reason in reasons {
                if let Reason::Items(_, items) = reason {
                    prop_assert!(!items.is_empty() && items.is_subset(&backup.saved));
                    prop_assert!(items.iter().all(|item| backups[newest].saved.contains(item) || backups[newest].failed.contains(item)));
                }
            }
        }
        let per_rule = policy.last + policy.daily + policy.weekly + policy.monthly;
        let kept = reasons.iter().filter(|reasons| reasons.iter().any(|reason| matches!(reason, Reason::Rule(_) | Reason::Items(..) | Reason::Oldest(_)))).count();
        prop_assert!(kept <= 4 * per_rule as usize, "one for each of the three items and for the whole, at most");
    }

    /// Deciding again on what is left deletes nothing more: a rule that is applied twice keeps what it kept.
    #[test]
    fn deciding_twice_is_deciding_once(backups in chain(), policy in policies()) {
        let decided = |backups: &[Backup]| decide(Some(&policy.into()), &TimeZone::UTC, backups);
        let reasons = decided(&backups);
        let left: Vec<_> = backups.iter().zip(&reasons).filter(|(_, reasons)| !reasons.is_empty()).map(|(backup, _)| backup.clone()).collect();
        prop_assert!(decided(&left).iter().all(|reasons| !reasons.is_empty()));
    }

    /// A larger count never keeps less.
    #[test]
    fn more_keeps_more(backups in chain(), policy in policies(), more in 1..4_u32) {
        let larger = Policy { last: policy.last + more, daily: policy.daily + more, weekly: policy.weekly + more, monthly: policy.monthly + more, within: policy.within + 1 };
        let keeps = |policy: Policy| decide(Some(&policy.into()), &TimeZone::UTC, &backups).into_iter().map(|reasons| reasons.iter().any(|reason| matches!(reason, Reason::Rule(_) | Reason::Items(..) | Reason::Within(_)))).collect::<Vec<_>>();
        for (less, more) in keeps(policy).into_iter().zip(keeps(larger)) {
            prop_assert!(more || !less);
        }
    }

    /// The order in which they are given does not matter.
    #[test]
    fn order_does_not_matter(backups in chain(), policy in policies(), by in 0..60_usize) {
        let reasons = decide(Some(&policy.into()), &TimeZone::UTC, &backups);
        let (mut turned, mut expected) = (backups.clone(), reasons);
        let by = by % backups.len().max(1);
        turned.rotate_left(by);
        expected.rotate_left(by);
        prop_assert_eq!(decide(Some(&policy.into()), &TimeZone::UTC, &turned), expected);
    }
}
