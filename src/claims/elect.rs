//! Which of the nodes that have a claim mounted saves it: rendezvous hashing, without a lock and without asking anybody.
//!
//! Each node computes a score for itself and for the others, and the highest wins. Nodes that see the same candidates name the same winner.
//! A node that comes or goes moves only the claims that it wins or won.
//!
//! Views may differ for the moment in which a pod moves. Then two nodes may save the claim, which costs a backup too many and harms nothing
//! (each backup has an id of its own); or none does, which the next round corrects and [`record`](super::record) says.

use sha2::{Digest as _, Sha256};

/// The candidate that saves the claim with this UID; `None` without any. The order and repetitions of the candidates do not matter.
pub fn winner<'a>(claim_uid: &str, nodes: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nodes.into_iter().max_by_key(|node| (score(claim_uid, node), *node))
}

/// 128 bits, so that equal scores, which the nodes' names would decide, do not occur.
fn score(claim_uid: &str, node: &str) -> u128 {
    // The length keeps `ab` + `c` apart from `a` + `bc`.
    let digest = Sha256::new()
        .chain_update((claim_uid.len() as u64).to_be_bytes())
        .chain_update(claim_uid)
        .chain_update(node)
        .finalize();
    digest.iter().take(16).fold(0, |score, byte| (score << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn uids(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("0f0e0d0c-1111-4222-8333-{number:012}")).collect()
    }

    fn nodes(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("ip-10-0-0-{number}.eu-west-1.compute.internal")).collect()
    }

    /// The function is part of the contract between agents of different versions: it must not change.
    #[test]
    fn the_score_is_the_same_in_every_version() {
        assert_eq!(score("uid", "node"), score("uid", "node"));
        assert_ne!(score("ab", "c"), score("a", "bc"));
        assert_eq!(format!("{:032x}", score("claim-1", "node-a")), KNOWN);
        assert_eq!(winner("claim-1", ["node-a", "node-b", "node-c"]), Some(WINNER));
        assert_eq!(winner("claim-1", []), None);
    }

    const KNOWN: &str = "c95e35a8ec93229ee9aa8a476308d5e8";
    const WINNER: &str = "node-a";

    #[test]
    fn claims_are_spread_evenly() {
        let (claims, nodes) = (uids(10_000), nodes(10));
        let mut won = BTreeMap::<&str, usize>::new();
        for claim in &claims {
            *won.entry(winner(claim, nodes.iter().map(String::as_str)).unwrap()).or_default() += 1;
        }
        // 1,000 each, with a standard deviation of 30.
        assert!(won.len() == 10 && won.values().all(|count| (850..=1150).contains(count)), "{won:?}");
    }

    proptest! {
        #[test]
        fn one_wins_in_every_order_and_it_is_a_candidate(
            uid in "[0-9a-f-]{1,36}",
            nodes in prop::collection::btree_set("[a-z0-9.-]{1,20}", 1..12),
            turn in any::<prop::sample::Index>(),
        ) {
            let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let won = winner(&uid, nodes.iter().copied()).unwrap();
            prop_assert!(nodes.contains(&won));
            let mut turned = nodes.clone();
            turned.rotate_left(turn.index(nodes.len()));
            turned.push(nodes[turn.index(nodes.len())]);
            prop_assert_eq!(winner(&uid, turned.iter().rev().copied()), Some(won));
            let winners = nodes.iter().filter(|node| winner(&uid, turned.iter().copied()) == Some(**node));
            prop_assert_eq!(winners.count(), 1);
        }

        #[test]
        fn a_node_that_comes_or_goes_moves_only_its_own_claims(
            claims in prop::collection::vec("[0-9a-f-]{36}", 1..50),
            nodes in prop::collection::btree_set("[a-z0-9.-]{1,20}", 2..12),
            which in any::<prop::sample::Index>(),
        ) {
            let all: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let gone = all[which.index(all.len())];
            for claim in &claims {
                let before = winner(claim, all.iter().copied()).unwrap();
                let after = winner(claim, all.iter().copied().filter(|node| *node != gone)).unwrap();
                prop_assert!(before == gone || before == after);
            }
        }
    }
}
