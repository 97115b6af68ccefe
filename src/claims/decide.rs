//! Decides for each volume of the node's pods whether it is saved. Pure.
//!
//! The order of the questions is the order of the reasons that people expect: what nobody saves, what somebody chose, what the pod's state
//! forbids, and last what is wrong with the claim. A claim is saved once, whatever number of pods has it: through the first that may, and
//! then nothing is said of the others (a finished Job's pod beside the running one: velero #5451).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::elect;
use super::objects::{Backing, Claim, Origin, Pod, PodVolume, Use, Volume};
use super::place::{Fault, Form, Place};
use super::wishes::{self, Wishes};
use crate::config::{Claims, Select, WithoutClaim};
use crate::format::claim::{ClaimName, NameFault, chain_of_pod, shown};
use crate::format::key::Name;
use crate::format::round::{Reason, Standing, Unsaved};

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct Policy {
    select: Select,
    without_claim: WithoutClaim,
    host_paths: Vec<PathBuf>,
    namespaces: GlobSet,
    exclude_namespaces: GlobSet,
}

impl Policy {
    /// The configuration has checked the globs.
    ///
    /// # Errors
    /// When a pattern is no glob all the same.
    pub fn of(claims: &Claims) -> Result<Self, String> {
        Ok(Self {
            select: claims.select,
            without_claim: claims.without_claim,
            host_paths: claims.host_paths.clone(),
            namespaces: globs(&claims.namespaces)?,
            exclude_namespaces: globs(&claims.exclude_namespaces)?,
        })
    }

    pub(super) fn selects(&self, namespace: &str) -> bool {
        self.namespaces.is_match(namespace) && !self.exclude_namespaces.is_match(namespace)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(true).build();
        set.add(glob.map_err(|error| format!("{pattern:?} is not a glob: {}", error.kind()))?);
    }
    set.build().map_err(|error| error.to_string())
}

/// What the server said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    Found(T),
    Missing,
    /// It did not say; the error's text.
    Failed(String),
}

/// What was asked about the claims of the node's pods.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub claims: BTreeMap<ClaimName, Answer<Claim>>,
    pub volumes: BTreeMap<String, Answer<Volume>>,
    /// All pods of the namespaces that have shared claims.
    pub neighbours: BTreeMap<String, Answer<Vec<Pod>>>,
}

/// A pod, as far as messages and hooks need it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodRef {
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self { namespace: metadata.namespace.clone(), name: metadata.name.clone(), uid: metadata.uid.clone() }
    }
}

/// A volume that this node saves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// In the place of the node's name.
    pub chain: Name,
    /// `None`: a pod's volume without a claim.
    pub claim: Option<ClaimName>,
    /// The pod's own name for it.
    pub volume: String,
    /// The persistent volume; empty without a claim.
    pub persistent_volume: String,
    pub place: Place,
    /// The running pods of this node that have it mounted; it is read through the first.
    pub pods: Vec<PodRef>,
}

/// As people say it: `NAMESPACE/CLAIM`, or `NAMESPACE/POD:VOLUME`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.claim, self.pods.first()) {
            (Some(claim), _) => claim.fmt(f),
            (None, Some(pod)) => write!(f, "{}/{}:{}", pod.namespace, pod.name, self.volume),
            (None, None) => f.write_str(&self.volume),
        }
    }
}

/// What is saved, and what is not.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// By chain.
    pub targets: Vec<Target>,
    /// Everything else that somebody could expect to be saved.
    pub unsaved: Vec<Unsaved>,
    /// The volumes that are never saved: only their number.
    pub never: BTreeMap<Reason, u64>,
    /// What annotations say in vain.
    pub notes: Vec<String>,
}

impl Decision {
    /// Takes out volumes whose pods went away before they could be read, each with what failed by it.
    pub fn went_away(&mut self, gone: &BTreeMap<Name, String>) {
        let is_gone = |target: &mut Target| gone.contains_key(&target.chain);
        for target in self.targets.extract_if(.., is_gone) {
            let pod = target.pods.first();
            self.unsaved.push(Unsaved {
                namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
                pod: pod.map(|pod| pod.name.clone()).unwrap_or_default(),
                volume: target.volume,
                claim: target.claim.map(|claim| claim.name().to_owned()),
                reason: Reason::PodEnding,
                detail: gone[&target.chain].clone(),
                asked_for: false,
            });
        }
    }
}

/// A pod's volume that is to be saved, as far as the pod itself can say.
enum Chosen {
    Claim(ClaimName),
    Own(Name),
}

type Refusal = (Reason, String);

/// Asks the pod alone: all nodes must answer alike.
fn choose(policy: &Policy, pod: &Pod, volume: &PodVolume, wishes: &Wishes) -> Result<Chosen, Refusal> {
    let refused = |reason| Err((reason, String::new()));
    let (name, origin) = (&volume.name, &volume.origin);
    if let Some(reason) = origin.never_saved() {
        return refused(reason);
    }
    if pod.is_mirror() {
        return refused(Reason::MirrorPod);
    }
    let named = wishes.names(name);
    if wishes.exclude(name) {
        return refused(Reason::Excluded);
    }
    let has_claim = matches!(origin, Origin::Claim(_));
    if !has_claim
        && (policy.without_claim == WithoutClaim::Never || (policy.without_claim == WithoutClaim::Named && !named))
    {
        return refused(Reason::WithoutClaim);
    }
    if policy.select == Select::OptIn && !named {
        return refused(Reason::NotNamed);
    }
    if matches!(origin, Origin::EmptyDir { in_memory: true }) && !wishes.ask_for(name) {
        return refused(Reason::InMemory);
    }
    if let Origin::Unknown(field) = origin {
        return Err((Reason::UnknownKind, shown(field)));
    }
    if pod.status.phase != "Running" {
        return Err((Reason::PodNotRunning, shown(&pod.status.phase)));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return refused(Reason::PodEnding);
    }
    if pod.use_of(name) == Use::None {
        return refused(Reason::NotMounted);
    }
    let bad = |fault: NameFault| (Reason::BadName, fault.to_string());
    let Some(claim) = claim_of(pod, volume) else {
        return chain_of_pod(&pod.metadata.namespace, &pod.metadata.name, name).map(Chosen::Own).map_err(bad);
    };
    ClaimName::new(&pod.metadata.namespace, &claim).map(Chosen::Claim).map_err(bad)
}

fn claim_of(pod: &Pod, volume: &PodVolume) -> Option<String> {
    match &volume.origin {
        Origin::Claim(claim) => Some(claim.clone()),
        Origin::Ephemeral => Some(format!("{}-{}", pod.metadata.name, volume.name)),
        _ => None,
    }
}

/// The pods of `node` in namespaces that are selected.
fn ours<'a>(policy: &'a Policy, node: &'a str, pods: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
    pods.iter().filter(move |pod| pod.spec.node_name == node && policy.selects(&pod.metadata.namespace))
}

/// The claims that must be known before anything is decided.
#[must_use]
pub fn claims_wanted(policy: &Policy, node: &str, pods: &[Pod]) -> BTreeSet<ClaimName> {
    let mut wanted = BTreeSet::new();
    for pod in ours(policy, node, pods) {
        let wishes = Wishes::of(pod);
        for volume in &pod.spec.volumes {
            if let Ok(Chosen::Claim(claim)) = choose(policy, pod, volume, &wishes) {
                wanted.insert(claim);
            }
        }
    }
    wanted
}

/// The persistent volumes of these claims.
#[must_use]
pub fn volumes_wanted(claims: &BTreeMap<ClaimName, Answer<Claim>>) -> BTreeSet<String> {
    let name = |answer: &Answer<Claim>| match answer {
        Answer::Found(claim) if !claim.spec.volume_name.is_empty() => Some(claim.spec.volume_name.clone()),
        Answer::Found(_) | Answer::Missing | Answer::Failed(_) => None,
    };
    claims.values().filter_map(name).collect()
}

/// The namespaces whose pods on other nodes may have one of these claims too.
#[must_use]
pub fn namespaces_wanted(facts: &Facts) -> BTreeSet<String> {
    let shared = |(name, answer): (&ClaimName, &Answer<Claim>)| {
        let Answer::Found(claim) = answer else { return None };
        let Some(Answer::Found(volume)) = facts.volumes.get(&claim.spec.volume_name) else { return None };
        may_be_shared(claim, volume).then(|| name.namespace().to_owned())
    };
    facts.claims.iter().filter_map(shared).collect()
}

/// Access modes are not enforced for file servers, so that these count as shared whatever they say.
fn may_be_shared(claim: &Claim, volume: &Volume) -> bool {
    let many = |modes: &[String]| modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
    let network = matches!(&volume.spec.backing, Backing::InTree(plugin) if plugin.network);
    many(&claim.spec.access_modes) || many(&volume.spec.access_modes) || network
}

/// Decides, with everything known.
#[must_use]
pub fn decide(policy: &Policy, node: &str, pods: &[Pod], facts: &Facts) -> Decision {
    let mut sorted: Vec<&Pod> = ours(policy, node, pods).collect();
    sorted.sort_by_key(|pod| PodRef::of(pod));
    let mut round =
        Round { policy, node, facts, claims: BTreeMap::new(), refused: Vec::new(), decision: Decision::default() };
    for pod in sorted {
        let wishes = Wishes::of(pod);
        let metadata = &pod.metadata;
        round.decision.notes.extend(wishes.unknown.iter().map(|(key, name)| {
            format!("{}/{}: {key} names {name:?}, which is no volume of the pod", metadata.namespace, metadata.name)
        }));
        for volume in &pod.spec.volumes {
            round.volume(pod, volume, &wishes);
        }
    }
    round.end()
}

/// A claim's mounts, in the order of the pods.
type Mounts<'a> = Vec<(&'a Pod, &'a PodVolume, bool)>;

struct Round<'a> {
    policy: &'a Policy,
    node: &'a str,
    facts: &'a Facts,
    claims: BTreeMap<ClaimName, Mounts<'a>>,
    /// With the claim, where there is one.
    refused: Vec<(Option<ClaimName>, Unsaved)>,
    decision: Decision,
}

impl<'a> Round<'a> {
    fn volume(&mut self, pod: &'a Pod, volume: &'a PodVolume, wishes: &Wishes) {
        // What the configuration rules out is nothing that a pod could count on.
        let is_ruled_out =
            self.policy.without_claim == WithoutClaim::Never && !matches!(volume.origin, Origin::Claim(_));
        let asked_for = wishes.ask_for(&volume.name) && !is_ruled_out;
        match choose(self.policy, pod, volume, wishes) {
            Ok(Chosen::Claim(claim)) => self.claims.entry(claim).or_default().push((pod, volume, asked_for)),
            Ok(Chosen::Own(chain)) => match Place::of_pod(&pod.metadata.uid, &volume.name, &volume.origin) {
                Ok(place) => self.decision.targets.push(Target {
                    chain,
                    claim: None,
                    volume: volume.name.clone(),
                    persistent_volume: String::new(),
                    place,
                    pods: vec![PodRef::of(pod)],
                }),
                Err(fault) => self.refuse(pod, volume, asked_for, (Reason::BadName, fault.to_string())),
            },
            Err((reason, _)) if reason.standing() == Standing::Never && !asked_for => {
                *self.decision.never.entry(reason).or_default() += 1;
            }
            Err(refusal) => self.refuse(pod, volume, asked_for, refusal),
        }
    }

    fn refuse(&mut self, pod: &Pod, volume: &PodVolume, asked_for: bool, (reason, detail): Refusal) {
        let claim = claim_of(pod, volume);
        let name = claim.as_ref().and_then(|claim| ClaimName::new(&pod.metadata.namespace, claim).ok());
        let unsaved = Unsaved {
            namespace: pod.metadata.namespace.clone(),
            pod: pod.metadata.name.clone(),
            volume: volume.name.clone(),
            claim,
            reason,
            detail,
            asked_for,
        };
        self.refused.push((name, unsaved));
    }

    fn end(mut self) -> Decision {
        for (claim, mounts) in std::mem::take(&mut self.claims) {
            // What is said of other pods that have the claim is of no interest where it is saved, or why it is not is known.
            self.refused.retain(|(other, _)| other.as_ref() != Some(&claim));
            match self.claim(&claim, &mounts) {
                Ok(target) => self.decision.targets.push(target),
                Err(refusal) => {
                    let asked_for = mounts.iter().any(|(_, _, asked_for)| *asked_for);
                    let (pod, volume, _) = mounts[0];
                    self.refuse(pod, volume, asked_for, refusal);
                }
            }
        }
        self.decision.targets.sort_by(|a, b| a.chain.cmp(&b.chain));
        self.decision.unsaved = self.refused.into_iter().map(|(_, unsaved)| unsaved).collect();
        self.decision.unsaved.sort();
        self.decision
    }

    fn claim(&self, name: &ClaimName, mounts: &Mounts<'a>) -> Result<Target, Refusal> {
        let (pod, pod_volume, _) = mounts[0];
        let (claim, volume) = self.known(name, pod, pod_volume)?;
        let form = match pod.use_of(&pod_volume.name) {
            Use::Device => Form::Device,
            Use::Folder | Use::None => Form::Folder,
        };
        let place = Place::of_volume(&pod.metadata.uid, volume, form, &self.policy.host_paths);
        let place = place.map_err(|fault| match fault {
            Fault::Host { .. } => (Reason::HostPathVolume, fault.to_string()),
            _ => (Reason::BadName, fault.to_string()),
        })?;
        if may_be_shared(claim, volume)
            && let Some(winner) = self.winner(name, claim)
            && winner != self.node
        {
            return Err((Reason::OtherNode, winner));
        }
        let mut pods: Vec<PodRef> = mounts.iter().map(|(pod, _, _)| PodRef::of(pod)).collect();
        pods.dedup();
        Ok(Target {
            chain: name.chain(),
            claim: Some(name.clone()),
            volume: pod_volume.name.clone(),
            persistent_volume: volume.metadata.name.clone(),
            place,
            pods,
        })
    }

    /// The claim and its volume, if each says that it is the other's.
    fn known(&self, name: &ClaimName, pod: &Pod, pod_volume: &PodVolume) -> Result<(&'a Claim, &'a Volume), Refusal> {
        let claim = match self.facts.claims.get(name) {
            Some(Answer::Found(claim)) => claim,
            Some(Answer::Failed(error)) => return Err((Reason::ClaimUnread, error.clone())),
            Some(Answer::Missing) | None => return Err((Reason::ClaimMissing, String::new())),
        };
        if wishes::excludes_itself(claim) {
            return Err((Reason::Excluded, "the claim says so itself".to_owned()));
        }
        if claim.status.phase != "Bound" || claim.spec.volume_name.is_empty() {
            return Err((Reason::ClaimNotBound, shown(&claim.status.phase)));
        }
        let is_owner = |uid: &str| claim.metadata.owner_references.iter().any(|owner| owner.uid == uid);
        if pod_volume.origin == Origin::Ephemeral && !is_owner(&pod.metadata.uid) {
            return Err((Reason::ClaimNotBound, "it does not belong to the pod".to_owned()));
        }
        let volume = match self.facts.volumes.get(&claim.spec.volume_name) {
            Some(Answer::Found(volume)) => volume,
            Some(Answer::Failed(error)) => return Err((Reason::VolumeUnread, error.clone())),
            Some(Answer::Missing) | None => {
                return Err((Reason::VolumeMissing, shown(&claim.spec.volume_name)));
            }
        };
        let of = &volume.spec.claim;
        if (of.namespace.as_str(), of.name.as_str()) != (name.namespace(), name.name()) || of.uid != claim.metadata.uid
        {
            let other = shown(&format!("{}/{}", of.namespace, of.name));
            return Err((Reason::VolumeOfAnother, other));
        }
        Ok((claim, volume))
    }

    /// The node that saves the claim. `None` if the other nodes are not known: rather twice than not at all.
    fn winner(&self, name: &ClaimName, claim: &Claim) -> Option<String> {
        let Some(Answer::Found(pods)) = self.facts.neighbours.get(name.namespace()) else { return None };
        let nodes = savers(self.policy, pods, name);
        elect::winner(&claim.metadata.uid, nodes.chain([self.node])).map(str::to_owned)
    }
}

/// The nodes of the pods through which the claim may be saved.
pub(super) fn savers<'a>(policy: &'a Policy, pods: &'a [Pod], name: &'a ClaimName) -> impl Iterator<Item = &'a str> {
    let has = move |pod: &&Pod| {
        let is_it = |chosen| matches!(chosen, Ok(Chosen::Claim(claim)) if claim == *name);
        let wishes = Wishes::of(pod);
        pod.metadata.namespace == name.namespace()
            && pod.spec.volumes.iter().any(|volume| is_it(choose(policy, pod, volume, &wishes)))
    };
    pods.iter().filter(has).map(|pod| pod.spec.node_name.as_str()).filter(|node| !node.is_empty())
}

/// Whether a pod has the claim, and its annotations leave it out.
pub(super) fn is_left_out(policy: &Policy, pods: &[Pod], name: &ClaimName) -> bool {
    let refuses = |pod: &Pod, volume: &PodVolume| {
        claim_of(pod, volume).is_some_and(|claim| claim == name.name())
            && matches!(choose(policy, pod, volume, &Wishes::of(pod)), Err((Reason::Excluded | Reason::NotNamed, _)))
    };
    let own = |pod: &&Pod| pod.metadata.namespace == name.namespace();
    pods.iter().filter(own).any(|pod| pod.spec.volumes.iter().any(|volume| refuses(pod, volume)))
}

#[cfg(test)]
mod tests;
