use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const HOUR: i64 = 3600;

fn backup(seconds: i64, outcome: Outcome) -> Backup {
    let started = Timestamp::from_second(seconds).unwrap();
    let id = BackupId::new(started, 1);
    Backup { id, started, outcome, saved: BTreeSet::new(), failed: BTreeSet::new() }
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

#[test]
fn the_last_good_one_stays_whatever_failed_since() {
    let mut backups: Vec<_> = (0..40).map(|n| backup(n * 24 * HOUR, Outcome::Partial)).collect();
    backups[3].outcome = Outcome::Success;
    backups[1].outcome = Outcome::Success;
    // The database could not be dumped since the tenth day, and was only once in between.
    for (day, backup) in backups.iter_mut().enumerate() {
        let (failed, saved) = (name("database"), name("files"));
        backup.saved.insert(saved);
        if day <= 10 || day == 14 { &mut backup.saved } else { &mut backup.failed }.insert(failed);
    }
    let retention = Retention { keep_daily: Some(7), ..Retention::default() };
    let reasons = decide(Some(&retention), &TimeZone::UTC, &backups);
    let kept: Vec<usize> = (0..40).filter(|at| !reasons[*at].is_empty()).collect();
    assert_eq!(kept, [3, 14, 33, 34, 35, 36, 37, 38, 39]);
    assert_eq!(reasons[3], [Reason::LastGood]);
    assert_eq!(reasons[14], [Reason::LastOf(name("database"))]);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Success), Just(Outcome::Partial)]
}

prop_compose! {
    /// Backups of some years, in any order, some at the same second.
    fn chain()(list in prop::collection::vec((0..3 * 365 * 24_i64, 0..2_i64, outcomes(), prop::bool::ANY), 0..60)) -> Vec<Backup> {
        list.into_iter().enumerate().map(|(n, (hours, half, outcome, failed))| {
            let mut backup = backup(hours * HOUR + half * HOUR / 2, outcome);
            backup.id = BackupId::new(backup.started, u32::try_from(n).unwrap());
            let items = if failed && outcome == Outcome::Partial { &mut backup.failed } else { &mut backup.saved };
            items.insert(name("item"));
            backup
        }).collect()
    }
}

prop_compose! {
    fn policies()(last in 0..5_u32, daily in 0..9_u32, weekly in 0..6_u32, monthly in 0..14_u32, within in 0..300_u64) -> Policy {
        Policy { last, daily, weekly, monthly, within }
    }
}

fn newest(backups: &[Backup], good: impl Fn(&Backup) -> bool) -> Option<usize> {
    (0..backups.len()).filter(|at| good(&backups[*at])).max_by_key(|at| (backups[*at].started, &backups[*at].id))
}

proptest! {
    #[test]
    fn what_must_not_go_stays(backups in chain(), policy in policies(), zone_name in prop::sample::select(vec!["UTC", "America/St_Johns", "Asia/Kathmandu"])) {
        let reasons = decide(Some(&policy.into()), &zone(zone_name), &backups);
        prop_assert_eq!(reasons.len(), backups.len());
        let stays = |at: Option<usize>| at.is_none_or(|at| !reasons[at].is_empty());
        prop_assert!(stays(newest(&backups, |backup| backup.outcome == Outcome::Success)));
        prop_assert!(stays(newest(&backups, |_| true)), "the newest one is the parent of the next");
        if newest(&backups, |_| true).is_some_and(|at| backups[at].failed.contains(&name("item"))) {
            prop_assert!(stays(newest(&backups, |backup| backup.saved.contains(&name("item")))));
        }
        let kept = reasons.iter().filter(|reasons| reasons.iter().any(|reason| matches!(reason, Reason::Rule(_) | Reason::Oldest(_)))).count();
        let most = policy.last + policy.daily + policy.weekly + policy.monthly;
        prop_assert!(kept <= most as usize);
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
        let keeps = |policy: Policy| decide(Some(&policy.into()), &TimeZone::UTC, &backups).into_iter().map(|reasons| reasons.iter().any(|reason| matches!(reason, Reason::Rule(_) | Reason::Within(_)))).collect::<Vec<_>>();
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
