//! What a round leaves behind: which claims this node saved, what it did not save and why, and which claims are missing.
//!
//! A claim that was saved before and is not now has moved, or is gone, or is **missing**: it is there and wanted, and no running pod has it
//! mounted anywhere. Moving and going are everyday; missing is a loss, said in every round until the claim is mounted again or gone. Each node
//! watches over the claims that it was the last to save.
//!
//! The record is the content of the one item of the node's own backup, so that `show` and `cat` have it and retention keeps it.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Answer, Decision, Policy, is_left_out, savers};
use super::objects::{Claim, Pod};
use super::wishes;
use crate::format::claim::ClaimName;
use crate::format::key::Name;
use crate::format::round::{MOST, Missing, Reason, Record, Saved, Unsaved, VERSION};

/// Where a claim is that this node does not save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is not there any more, or not wanted.
    Gone,
    /// Some node's pod has it; that node saves it.
    Mounted,
    Nowhere,
    Unknown(String),
}

impl Whereabouts {
    /// From the claim, and all pods of its namespace.
    #[must_use]
    pub fn of(policy: &Policy, name: &ClaimName, claim: &Answer<Claim>, pods: &Answer<Vec<Pod>>) -> Self {
        match (claim, pods) {
            _ if !policy.selects(name.namespace()) => Self::Gone,
            (Answer::Missing, _) => Self::Gone,
            (Answer::Found(claim), _) if wishes::excludes_itself(claim) => Self::Gone,
            (Answer::Failed(why), _) | (Answer::Found(_), Answer::Failed(why)) => Self::Unknown(why.clone()),
            (Answer::Found(_), Answer::Missing) => Self::Nowhere,
            (Answer::Found(_), Answer::Found(pods)) => match savers(policy, pods, name).next() {
                Some(_) => Self::Mounted,
                None if is_left_out(policy, pods, name) => Self::Gone,
                None => Self::Nowhere,
            },
        }
    }
}

/// The claims of the round before that this one neither saves nor names as somebody's choice or as a loss already.
#[must_use]
pub fn to_look_for(before: &Record, decision: &Decision) -> BTreeSet<ClaimName> {
    let saved = before.saved.values().filter_map(|saved| saved.claim.as_deref());
    let claims = saved.chain(before.missing.iter().map(|missing| missing.claim.as_str()));
    let mut claims: BTreeSet<ClaimName> = claims.filter_map(|claim| claim.parse().ok()).collect();
    for claim in decision.targets.iter().filter_map(|target| target.claim.as_ref()) {
        claims.remove(claim);
    }
    let settled = |unsaved: &&Unsaved| {
        unsaved.is_loss() || matches!(unsaved.reason, Reason::OtherNode | Reason::Excluded | Reason::NotNamed)
    };
    for unsaved in decision.unsaved.iter().filter(settled) {
        let claim = unsaved.claim.as_deref().and_then(|claim| ClaimName::new(&unsaved.namespace, claim).ok());
        if let Some(claim) = claim {
            claims.remove(&claim);
        }
    }
    claims
}

impl Record {
    /// The record of a round, of which `saved` are the results.
    #[must_use]
    pub fn new(
        decision: &Decision,
        saved: BTreeMap<Name, Saved>,
        before: Option<&Self>,
        whereabouts: &BTreeMap<ClaimName, Whereabouts>,
        now: jiff::Timestamp,
    ) -> Self {
        let mut reasons = decision.never.clone();
        for unsaved in &decision.unsaved {
            *reasons.entry(unsaved.reason).or_default() += 1;
        }
        let missing: Vec<Missing> =
            whereabouts.iter().filter_map(|(claim, at)| missing(claim, at, before, now)).collect();
        let lost = decision.unsaved.iter().filter(|unsaved| unsaved.is_loss()).count() + missing.len();
        // Losses first, so that none is cut off for a choice.
        let mut unsaved = decision.unsaved.clone();
        unsaved.sort_by_key(|unsaved| !unsaved.is_loss());
        unsaved.truncate(MOST);
        Self {
            version: VERSION,
            saved,
            unsaved,
            reasons,
            missing,
            notes: decision.notes.iter().take(MOST).cloned().collect(),
            commands: Vec::new(),
            losses: lost as u64,
        }
    }
}

fn missing(claim: &ClaimName, at: &Whereabouts, before: Option<&Record>, now: jiff::Timestamp) -> Option<Missing> {
    let unknown = match at {
        Whereabouts::Gone | Whereabouts::Mounted => return None,
        Whereabouts::Nowhere => String::new(),
        Whereabouts::Unknown(why) => why.clone(),
    };
    let name = claim.to_string();
    let known = before.and_then(|before| before.missing.iter().find(|missing| missing.claim == name));
    let last = before.and_then(|before| before.saved.get(&claim.chain())).and_then(|saved| saved.backup.clone());
    Some(Missing {
        claim: name,
        since: known.map_or(now, |known| known.since),
        last: last.or_else(|| known.and_then(|known| known.last.clone())),
        unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::super::decide::{Facts, decide};
    use super::super::objects::{Backing, Volume};
    use super::super::testing::{Builder, bound, name, pod};
    use super::*;
    use crate::config::Claims;

    const NOW: &str = "2026-11-29T02:00:00Z";
    const ID: &str = "20261128T020000Z-4f9a2c";

    fn policy() -> Policy {
        Policy::of(&Claims::default()).unwrap()
    }

    fn data() -> (Claim, Volume) {
        bound("shop/data", "ReadWriteOnce", Backing::Csi)
    }

    fn decided(pods: Vec<Builder>) -> Decision {
        let (claim, volume) = data();
        let mut facts = Facts::default();
        facts.claims.insert(name("shop/data"), Answer::Found(claim));
        facts.volumes.insert(volume.metadata.name.clone(), Answer::Found(volume));
        decide(&policy(), "n1", &pods.into_iter().map(|pod| pod.0).collect::<Vec<_>>(), &facts)
    }

    fn record(decision: &Decision, before: Option<&Record>, at: &[(&str, Whereabouts)]) -> Record {
        let whereabouts = at.iter().map(|(claim, at)| (name(claim), at.clone())).collect();
        let backup = Some(ID.parse().unwrap());
        let saved = decision.targets.iter().map(|target| {
            let claim = target.claim.as_ref().map(ToString::to_string);
            (target.chain.clone(), Saved { claim, backup: backup.clone() })
        });
        Record::new(decision, saved.collect(), before, &whereabouts, NOW.parse().unwrap())
    }

    fn db() -> Builder {
        pod("shop", "db", "n1").claim("data", "data")
    }

    #[test]
    fn a_claim_that_is_mounted_nowhere_is_a_loss_until_it_is_mounted_or_gone() {
        let first = record(&decided(vec![db()]), None, &[]);
        assert!(first.is_complete() && first.saved.len() == 1);
        let none = decided(vec![]);
        assert_eq!(to_look_for(&first, &none), [name("shop/data")].into());
        let second = record(&none, Some(&first), &[("shop/data", Whereabouts::Nowhere)]);
        assert_eq!((second.losses, second.missing[0].last.as_ref().unwrap().as_str()), (1, ID));
        assert!(
            second.missing[0]
                .to_string()
                .starts_with("claim shop/data: no running pod has it mounted since 2026-11-29")
        );
        assert_eq!(to_look_for(&second, &none), [name("shop/data")].into(), "it is looked for in every round");
        let third = record(&none, Some(&second), &[("shop/data", Whereabouts::Unknown("403".into()))]);
        assert_eq!((&third.missing[0].last, third.losses), (&second.missing[0].last, 1));
        for at in [Whereabouts::Gone, Whereabouts::Mounted] {
            let after = record(&none, Some(&third), &[("shop/data", at)]);
            assert!(after.is_complete() && to_look_for(&after, &none).is_empty());
        }
        assert!(to_look_for(&third, &decided(vec![db()])).is_empty());
    }

    #[test]
    fn what_is_a_choice_or_a_loss_already_is_not_looked_for() {
        let first = record(&decided(vec![db()]), None, &[]);
        let with = |pod: Builder| to_look_for(&first, &decided(vec![pod])).len();
        assert_eq!(with(db().annotated("backup.penstock/exclude", "data")), 0);
        assert_eq!(with(db().phase("Succeeded")), 1, "another node's pod may have it");
        let volume_gone = {
            let mut facts = Facts::default();
            facts.claims.insert(name("shop/data"), Answer::Found(data().0));
            decide(&policy(), "n1", &[db().0], &facts)
        };
        assert_eq!((volume_gone.unsaved.len(), to_look_for(&first, &volume_gone).len()), (1, 0));
    }

    #[test]
    fn whereabouts_follow_from_the_claim_and_the_pods_of_its_namespace() {
        let of = |claim, pods| Whereabouts::of(&policy(), &name("shop/data"), &claim, &pods);
        let (there, failed) = (|| Answer::Found(data().0), |why: &str| Answer::Failed(why.to_owned()));
        let pods = |pod: Builder| Answer::Found(vec![pod.0]);
        assert_eq!(of(Answer::Missing, Answer::Failed("403".into())), Whereabouts::Gone);
        assert_eq!(of(there(), pods(pod("shop", "db", "n2").claim("x", "data"))), Whereabouts::Mounted);
        assert_eq!(of(there(), pods(db().phase("Pending"))), Whereabouts::Nowhere);
        assert_eq!(of(there(), pods(pod("other", "db", "n2").claim("x", "data"))), Whereabouts::Nowhere);
        assert_eq!(of(there(), Answer::Failed("403".into())), Whereabouts::Unknown("403".into()));
        assert_eq!(of(Answer::Failed("500".into()), Answer::Missing), Whereabouts::Unknown("500".into()));
        let leaves_out = pod("shop", "db", "n2").claim("x", "data").annotated("backup.penstock/exclude", "x");
        assert_eq!(of(there(), pods(leaves_out)), Whereabouts::Gone, "by another node's pod, which is a choice too");
        let others = Claims { namespaces: vec!["bank".into()], ..Claims::default() };
        let elsewhere = Policy::of(&others).unwrap();
        for pods in [Answer::Missing, Answer::Failed("403".into())] {
            let at = Whereabouts::of(&elsewhere, &name("shop/data"), &there(), &pods);
            assert_eq!(at, Whereabouts::Gone, "the configuration does not choose its namespace any more");
        }
        let mut excluded = data().0;
        excluded.metadata.has_exclude_label = true;
        assert_eq!(of(Answer::Found(excluded), failed("403")), Whereabouts::Gone);
    }

    #[test]
    fn a_long_list_is_cut_behind_its_losses_and_the_record_is_read_as_it_was_written() {
        let mut decision = decided(vec![]);
        let unsaved = |at: usize, reason| Unsaved {
            namespace: "shop".into(),
            pod: format!("p{at:04}"),
            volume: "v".into(),
            claim: None,
            reason,
            detail: String::new(),
            asked_for: false,
        };
        decision.unsaved = (0..2000).map(|at| unsaved(at, Reason::Excluded)).collect();
        decision.unsaved.push(unsaved(9999, Reason::ClaimUnread));
        decision.never.insert(Reason::Secret, 7);
        let record = record(&decision, None, &[]);
        assert_eq!((record.unsaved.len(), record.unsaved[0].reason, record.losses), (MOST, Reason::ClaimUnread, 1));
        assert_eq!((record.reasons[&Reason::Excluded], record.reasons[&Reason::Secret]), (2000, 7));
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}
