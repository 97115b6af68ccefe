//! Asks the API server for what [`super::decide`] needs, with few requests.
//!
//! - The node's pods: one list, with a field selector.
//! - The claims that these pods want saved: each by its name, or the namespace's list where it has more than [`GETS`] of them.
//! - Their persistent volumes: each by its name, or the list where there are more than [`VOLUME_GETS`]. Nobody else's volumes are read
//!   otherwise: a list of all volumes, by every node, is what a server of a large cluster feels.
//! - For shared claims the namespace's pods, once for each namespace.
//!
//! So there is at most one request for each claim and one for each volume, and with hundreds of them a few. An object that cannot be read fails its
//! claim; only without the node's pods there is nothing to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use async_trait::async_trait;
use serde::de::DeserializeOwned;

use super::decide::{Answer, Facts, Policy, claims_wanted, namespaces_wanted, volumes_wanted};
use super::objects::{Claim, Pod, Volume};
use super::record::Whereabouts;
use crate::format::claim::ClaimName;

/// Claims of one namespace that are asked for one by one.
const GETS: usize = 16;

/// Persistent volumes that are asked for one by one.
const VOLUME_GETS: usize = 128;

/// Which objects to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// `fieldSelector=spec.nodeName=…`, all namespaces.
    PodsOn(&'a str),
    /// Of a namespace.
    Pods(&'a str),
    /// The one of this name.
    Pod {
        namespace: &'a str,
        name: &'a str,
    },
    Claims(&'a str),
    Volumes,
}

/// One object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum One<'a> {
    Claim(&'a ClaimName),
    Volume(&'a str),
}

/// Takes an object's JSON, and keeps little of it.
pub type Each<'a> = dyn FnMut(&[u8]) + Send + 'a;

/// The two requests. The implementation retries, and reads lists page by page.
#[async_trait]
pub trait Api: Send + Sync {
    type Failure: Display + Send;

    /// Gives each object to `each`.
    async fn list(&self, wanted: Wanted<'_>, each: &mut Each<'_>) -> Result<(), Self::Failure>;

    /// `None`: there is no such object.
    async fn get(&self, one: One<'_>) -> Result<Option<Vec<u8>>, Self::Failure>;
}

/// What the server said.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Of this node.
    pub pods: Vec<Pod>,
    pub facts: Facts,
    /// What could not be understood.
    pub notes: Vec<String>,
}

/// Reads everything about this node's volumes.
///
/// # Errors
/// When the node's pods cannot be listed.
pub async fn read<A: Api>(api: &A, policy: &Policy, node: &str) -> Result<Known, A::Failure> {
    let mut known = Known::default();
    known.pods = list(api, Wanted::PodsOn(node), &mut known.notes).await?;
    known.facts.claims = claims(api, &claims_wanted(policy, node, &known.pods), &mut known.notes).await;
    known.facts.volumes = volumes(api, &volumes_wanted(&known.facts.claims), &mut known.notes).await;
    let namespaces = namespaces_wanted(&known.facts);
    known.facts.neighbours = neighbours(api, &namespaces, &mut known.notes).await;
    Ok(known)
}

/// Finds out where claims are that this node saved before ([`super::record::to_look_for`]).
pub async fn look_for<A: Api>(
    api: &A,
    policy: &Policy,
    wanted: &BTreeSet<ClaimName>,
) -> BTreeMap<ClaimName, Whereabouts> {
    let mut notes = Vec::new();
    let found = claims(api, wanted, &mut notes).await;
    let is_there = |(_, answer): &(&ClaimName, &Answer<Claim>)| matches!(answer, Answer::Found(_));
    let namespaces = found.iter().filter(is_there).map(|(name, _)| name.namespace().to_owned()).collect();
    let pods = neighbours(api, &namespaces, &mut notes).await;
    let at = |(name, claim): (&ClaimName, &Answer<Claim>)| {
        let pods = pods.get(name.namespace()).unwrap_or(&Answer::Missing);
        (name.clone(), Whereabouts::of(policy, name, claim, pods))
    };
    found.iter().map(at).collect()
}

async fn neighbours<A: Api>(
    api: &A,
    namespaces: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> BTreeMap<String, Answer<Vec<Pod>>> {
    let mut all = BTreeMap::new();
    for namespace in namespaces {
        let answer = match list(api, Wanted::Pods(namespace), notes).await {
            Ok(pods) => Answer::Found(pods),
            Err(failure) => Answer::Failed(failure.to_string()),
        };
        all.insert(namespace.clone(), answer);
    }
    all
}

async fn claims<A: Api>(
    api: &A,
    wanted: &BTreeSet<ClaimName>,
    notes: &mut Vec<String>,
) -> BTreeMap<ClaimName, Answer<Claim>> {
    let mut by_namespace: BTreeMap<&str, Vec<&ClaimName>> = BTreeMap::new();
    for claim in wanted {
        by_namespace.entry(claim.namespace()).or_default().push(claim);
    }
    let mut answers = BTreeMap::new();
    for (namespace, names) in by_namespace {
        if names.len() <= GETS {
            for name in names {
                answers.insert(name.clone(), get(api, One::Claim(name)).await);
            }
            continue;
        }
        let listed = list(api, Wanted::Claims(namespace), notes).await;
        let key = |claim: &Claim| claim.metadata.name.clone();
        answers.extend(pick(listed, key, names.into_iter().map(|name| (name.clone(), name.name()))));
    }
    answers
}

async fn volumes<A: Api>(
    api: &A,
    wanted: &BTreeSet<String>,
    notes: &mut Vec<String>,
) -> BTreeMap<String, Answer<Volume>> {
    if wanted.len() > VOLUME_GETS {
        let listed = list(api, Wanted::Volumes, notes).await;
        let key = |volume: &Volume| volume.metadata.name.clone();
        return pick(listed, key, wanted.iter().map(|name| (name.clone(), name.as_str()))).collect();
    }
    let mut answers = BTreeMap::new();
    for name in wanted {
        answers.insert(name.clone(), get(api, One::Volume(name)).await);
    }
    answers
}

/// An answer for each wanted object, from a list of all.
fn pick<'a, T, F: Display, K>(
    listed: Result<Vec<T>, F>,
    key: impl Fn(&T) -> String,
    wanted: impl Iterator<Item = (K, &'a str)>,
) -> impl Iterator<Item = (K, Answer<T>)> {
    let mut listed = match listed {
        Ok(all) => Ok(all.into_iter().map(|one| (key(&one), one)).collect::<BTreeMap<_, _>>()),
        Err(failure) => Err(failure.to_string()),
    };
    wanted.map(move |(own, name)| {
        let answer = match &mut listed {
            Ok(all) => all.remove(name).map_or(Answer::Missing, Answer::Found),
            Err(failure) => Answer::Failed(failure.clone()),
        };
        (own, answer)
    })
}

async fn get<A: Api, T: DeserializeOwned>(api: &A, one: One<'_>) -> Answer<T> {
    match api.get(one).await {
        Ok(None) => Answer::Missing,
        Ok(Some(bytes)) => parse(&bytes).map_or_else(Answer::Failed, Answer::Found),
        Err(failure) => Answer::Failed(failure.to_string()),
    }
}

async fn list<A: Api, T: DeserializeOwned + Send>(
    api: &A,
    wanted: Wanted<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<T>, A::Failure> {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    let mut each = |bytes: &[u8]| match parse(bytes) {
        Ok(object) => all.push(object),
        Err(error) => wrong.push(error),
    };
    api.list(wanted, &mut each).await?;
    // One line says enough, with the first as an example.
    notes.extend(wrong.first().map(|error| {
        format!("{} of {} are left out, because they could not be read: {error}", wrong.len(), in_words(wanted))
    }));
    Ok(all)
}

/// The error does not quote the object.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        format!("it is not as Kubernetes writes it, at line {} column {}", error.line(), error.column())
    })
}

fn in_words(wanted: Wanted<'_>) -> String {
    match wanted {
        Wanted::PodsOn(node) => format!("the pods on {node}"),
        Wanted::Pods(namespace) => format!("the pods of {namespace}"),
        Wanted::Pod { namespace, name } => format!("the pod {namespace}/{name}"),
        Wanted::Claims(namespace) => format!("the claims of {namespace}"),
        Wanted::Volumes => "the persistent volumes".to_owned(),
    }
}

#[cfg(test)]
mod tests;
