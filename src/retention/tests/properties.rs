//! What holds for every history and every policy.

use proptest::prelude::*;

use super::*;

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
    fn policies()(last in 0..5_u32, daily in 0..9_u32, weekly in 0..6_u32, monthly in 0..14_u32, yearly in 0..4_u32, within in 0..300_u64) -> Policy {
        Policy { last, daily, weekly, monthly, yearly, within }
    }
}

fn newest(backups: &[Backup], good: impl Fn(&Backup) -> bool) -> Option<usize> {
    (0..backups.len()).filter(|at| good(&backups[*at])).max_by_key(|at| (backups[*at].taken, &backups[*at].id))
}

proptest! {
    #[test]
    fn guarded_backups_stay(backups in chain(), policy in policies(), zone_name in prop::sample::select(vec!["UTC", "America/St_Johns", "Asia/Kathmandu"])) {
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
        let most = policy.last + policy.daily + policy.weekly + policy.monthly + policy.yearly;
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
        let per_rule = policy.last + policy.daily + policy.weekly + policy.monthly + policy.yearly;
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
        let larger = Policy { last: policy.last + more, daily: policy.daily + more, weekly: policy.weekly + more, monthly: policy.monthly + more, yearly: policy.yearly + more, within: policy.within + 1 };
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
