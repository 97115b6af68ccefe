//! Which volumes are read between whose hooks.
//!
//! A pod's commands run once, around all of its volumes; and a volume that several pods with commands have is read while all of them wait.
//! So volumes and pods that hang together make one group: all `pre` commands, all volumes, all `post` commands. A pod without commands
//! ties nothing together. Small groups mean short freezes, and a fault in one leaves the others alone.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{PodRef, Target};

/// Volumes that are read between the commands of these pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Those that have commands.
    pub pods: BTreeSet<PodRef>,
    /// Positions in the list of targets.
    pub targets: Vec<usize>,
}

/// Divides `targets` into groups, in the order of their first targets.
#[must_use]
pub fn groups(targets: &[Target], has_hooks: impl Fn(&PodRef) -> bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // The group of each pod. A group that was merged into another is empty.
    let mut of_pod: BTreeMap<&PodRef, usize> = BTreeMap::new();
    for (position, target) in targets.iter().enumerate() {
        let hooked: BTreeSet<&PodRef> = target.pods.iter().filter(|pod| has_hooks(pod)).collect();
        let mut met: BTreeSet<usize> = hooked.iter().filter_map(|pod| of_pod.get(pod).copied()).collect();
        let into = met.pop_first().unwrap_or_else(|| {
            groups.push(Group::default());
            groups.len() - 1
        });
        for other in met {
            let Group { pods, targets } = std::mem::take(&mut groups[other]);
            of_pod.values_mut().filter(|group| **group == other).for_each(|group| *group = into);
            groups[into].pods.extend(pods);
            groups[into].targets.extend(targets);
        }
        groups[into].targets.push(position);
        groups[into].pods.extend(hooked.iter().map(|pod| (*pod).clone()));
        of_pod.extend(hooked.into_iter().map(|pod| (pod, into)));
    }
    groups.retain(|group| !group.targets.is_empty());
    for group in &mut groups {
        group.targets.sort_unstable();
    }
    groups.sort_by_key(|group| group.targets.first().copied());
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::place::{Form, Place};
    use super::*;
    use crate::format::key::Name;

    fn pod(number: usize) -> PodRef {
        PodRef { namespace: "shop".into(), name: format!("p{number}"), uid: format!("u{number}") }
    }

    fn target(pods: &[usize]) -> Target {
        Target {
            chain: Name::new("claim.shop.x").unwrap(),
            claim: None,
            volume: "x".into(),
            persistent_volume: String::new(),
            place: Place::Kubelet { pod_uid: "u".into(), name: "x".into(), form: Form::Folder, candidates: Vec::new() },
            pods: pods.iter().map(|number| pod(*number)).collect(),
        }
    }

    #[test]
    fn what_hangs_together_is_one_group() {
        let targets: Vec<Target> = [&[0][..], &[1], &[9], &[2, 1], &[9], &[2, 0], &[3]].map(target).into();
        let groups = groups(&targets, |pod| pod.name != "p9");
        let members: Vec<&[usize]> = groups.iter().map(|group| &group.targets[..]).collect();
        assert_eq!(members, [&[0, 1, 3, 5][..], &[2], &[4], &[6]]);
        assert_eq!(groups[0].pods, [0, 1, 2].map(pod).into());
        assert!(groups[1].pods.is_empty());
    }

    proptest! {
        #[test]
        fn each_volume_is_in_one_group_and_each_pod_too(
            mounts in prop::collection::vec(prop::collection::vec(0..6_usize, 1..4), 0..10),
        ) {
            let targets: Vec<Target> = mounts.iter().map(|pods| target(pods)).collect();
            let has_hooks = |pod: &PodRef| pod.name != "p0";
            let groups = groups(&targets, has_hooks);
            let mut all: Vec<usize> = groups.iter().flat_map(|group| group.targets.clone()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..targets.len()).collect::<Vec<_>>());
            let pods: Vec<&PodRef> = groups.iter().flat_map(|group| &group.pods).collect();
            prop_assert_eq!(pods.len(), pods.iter().collect::<BTreeSet<_>>().len());
            for group in &groups {
                for position in &group.targets {
                    let hooked = targets[*position].pods.iter().filter(|pod| has_hooks(pod));
                    prop_assert!(hooked.into_iter().all(|pod| group.pods.contains(pod)));
                }
            }
        }
    }
}
