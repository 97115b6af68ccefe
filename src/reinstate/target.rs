//! What the engine knows of the cluster that it restores into: the kinds it serves, its namespaces, the UIDs of new objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;

use super::contents::{Kind, Uid, uid};
use super::pace::Pace;
use crate::cluster::{Body, Cluster, Effect, Failure, List, Object, Resource, Scope, Write};
use crate::error::Class;
use crate::resources::discover::discover;
use crate::resources::discovery;
use crate::resources::list::MAX_OBJECT;
use crate::resources::patience::{Patience, is_silent};

pub(super) struct Target<'a> {
    pub(super) cluster: &'a dyn Cluster,
    pub(super) patience: Patience,
    pub(super) pace: Pace,
    served: Mutex<Arc<discovery::Served>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// New UIDs by the backup's.
    uids: HashMap<Uid, String>,
    /// The backup's UIDs that some object names as its owner: only these are kept.
    owners: HashSet<Uid>,
    /// Owners that this restore creates; in a plan they have no new UID, and stand under the backup's.
    planned: HashSet<Uid>,
    /// Owners that are not restored, by the backup's UID: the UID of the live object of that name, if there is one.
    elsewhere: HashMap<Uid, Option<String>>,
    /// Whether there was any object, by kind and namespace.
    filled: BTreeMap<(String, String), bool>,
    /// Kinds whose writes failed until patience ended: a webhook or a server behind them does not answer.
    dead: HashSet<String>,
    /// Whether objects that others need are in the cluster, by kind and name.
    needed: BTreeMap<(String, String), bool>,
}

impl<'a> Target<'a> {
    /// Asks the server what it serves.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn new(
        cluster: &'a dyn Cluster,
        patience: Patience,
        owners: HashSet<Uid>,
        planned: HashSet<Uid>,
    ) -> Result<Self, Failure> {
        let served = Mutex::new(Arc::new(discover(cluster, patience).await?));
        let known = Mutex::new(Known { owners, planned, ..Known::default() });
        Ok(Self { cluster, patience, pace: Pace::new(patience), served, known })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn served(&self) -> Arc<discovery::Served> {
        Arc::clone(&self.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks again what is served, after definitions were created.
    pub(super) async fn discover(&self) -> Result<(), Failure> {
        let served = Arc::new(discover(self.cluster, self.patience).await?);
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
        Ok(())
    }

    /// The kind as the cluster serves it: in the version of the backup, or in the preferred one of the same kind. `None`: not at all.
    pub(super) fn resource(&self, kind: &Kind) -> Option<Resource> {
        let served = self.served();
        let fits = |resource: &Resource| resource.name() == kind.filed.resource && resource.scope == kind.filed.scope;
        let mut found = served.kinds.iter().filter(|kind| kind.verbs.contains("create") && fits(&kind.resource));
        let same = found.clone().find(|found| found.resource.api_version() == kind.api_version);
        same.or_else(|| found.find(|found| found.is_preferred)).map(|found| found.resource.clone())
    }

    /// Whether the kind's group is served by a server that does not answer.
    pub(super) fn is_silent(&self, kind: &Kind) -> bool {
        let served = self.served();
        served.stale.iter().chain(&served.missing).any(|version| version == &kind.api_version)
    }

    pub(super) async fn get(&self, object: &Object<'_>) -> Result<Option<Value>, Failure> {
        match self.pace.request("get", || self.cluster.get(object)).await {
            Ok(bytes) => Ok(Some(parsed(&bytes))),
            Err(failure) if failure.error.status == Some(404) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn write(&self, object: &Object<'_>, write: &Write<'_>, effect: Effect) -> Result<Value, Failure> {
        let kind = object.resource.name();
        let is_dead = self.known().dead.contains(&kind);
        let request = || self.cluster.write(object, write, effect);
        let result: Result<Bytes, Failure> =
            if is_dead { self.pace.once(request).await } else { self.pace.request("write", request).await };
        if let Err(failure) = &result
            && failure.error.class == Class::Transient
            && !is_silent(failure)
        {
            self.known().dead.insert(kind);
        } else if is_dead && result.is_ok() {
            self.known().dead.remove(&kind);
        }
        Ok(parsed(&result?))
    }

    /// Whether the cluster has any object of the kind in that namespace. One that cannot be listed may have.
    pub(super) async fn is_filled(&self, resource: &Resource, namespace: Option<&str>) -> bool {
        let key = (resource.name(), namespace.unwrap_or_default().to_owned());
        if let Some(filled) = self.known().filled.get(&key) {
            return *filled;
        }
        let one = List { resource, namespace, selector: "", fields: "", limit: 1, from: None };
        let filled = self.pace.request("list", || async { is_filled(self.cluster.list(&one).await?).await }).await;
        let filled = filled.unwrap_or(true);
        self.known().filled.insert(key, filled);
        filled
    }

    /// Notes the UID that an object has now.
    pub(super) fn learn(&self, saved: Option<&str>, live: &Value) {
        let new = live.pointer("/metadata/uid").and_then(Value::as_str);
        let (Some(saved), Some(new)) = (saved.map(uid), new) else { return };
        let mut known = self.known();
        if known.owners.contains(&saved) {
            known.uids.insert(saved, new.to_owned());
        }
    }

    /// The present UID of the object that has `saved` in the backup, if it is restored or was found by [`Target::find_owners`].
    pub(super) fn uid(&self, saved: &str) -> Option<String> {
        let key = uid(saved);
        let known = self.known();
        let planned = || known.planned.contains(&key).then(|| saved.to_owned());
        known.uids.get(&key).or_else(|| known.elsewhere.get(&key)?.as_ref()).cloned().or_else(planned)
    }

    /// Looks up the owners of `object` that are not restored, by kind and name: the cluster may have them.
    pub(super) async fn find_owners(&self, object: &Value) -> Result<(), Failure> {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        for owner in owners.into_iter().flatten() {
            let text = |key: &str| owner[key].as_str().unwrap_or_default();
            let key = uid(text("uid"));
            let is_known = {
                let known = self.known();
                known.uids.contains_key(&key) || known.elsewhere.contains_key(&key) || known.planned.contains(&key)
            };
            if is_known || text("name").is_empty() {
                continue;
            }
            let served = self.served();
            let resource = served.kinds.iter().map(|kind| &kind.resource);
            let resource = resource
                .clone()
                .find(|resource| resource.kind == text("kind") && resource.api_version() == text("apiVersion"));
            let found = match resource {
                Some(resource) => {
                    let namespace = namespace.filter(|_| resource.scope == Scope::Namespaced);
                    self.get(&Object { resource, namespace, name: text("name") }).await?
                }
                None => None,
            };
            let live = found.as_ref().and_then(|found| found.pointer("/metadata/uid")?.as_str()).map(str::to_owned);
            self.known().elsewhere.insert(key, live);
        }
        Ok(())
    }

    /// Whether the cluster has the object of that kind (`storageclasses.storage.k8s.io`) and name. A kind that is not served has none.
    pub(super) async fn has(&self, resource: &str, namespace: Option<&str>, name: &str) -> Result<bool, Failure> {
        let key = (resource.to_owned(), format!("{}/{name}", namespace.unwrap_or_default()));
        if let Some(has) = self.known().needed.get(&key) {
            return Ok(*has);
        }
        let has = match self.served().find(resource) {
            Some(resource) => self.get(&Object { resource, namespace, name }).await?.is_some(),
            None => false,
        };
        self.known().needed.insert(key, has);
        Ok(has)
    }

    /// The namespaces of `names` that the cluster has, and of these the ones that are being deleted.
    pub(super) async fn namespaces(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>), Failure> {
        let resource = Resource::namespaces();
        let (mut there, mut deleting) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            let Some(live) = self.get(&Object { resource: &resource, namespace: None, name }).await? else { continue };
            there.insert(name.clone());
            if live.pointer("/metadata/deletionTimestamp").is_some() {
                deleting.insert(name.clone());
            }
        }
        Ok((there, deleting))
    }
}

/// Finds kinds by name.
pub(super) trait Served {
    /// The kind `plural.group` in its preferred version.
    fn find(&self, resource: &str) -> Option<&Resource>;
}

impl Served for discovery::Served {
    fn find(&self, resource: &str) -> Option<&Resource> {
        let mut kinds = self.kinds.iter();
        kinds.find(|kind| kind.is_preferred && kind.resource.name() == resource).map(|kind| &kind.resource)
    }
}

/// Whether a list has an item. A body that is longer than one object has.
async fn is_filled(mut body: Body) -> Result<bool, Failure> {
    #[derive(serde::Deserialize)]
    struct Page {
        #[serde(default)]
        items: Option<Vec<serde::de::IgnoredAny>>,
    }
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > MAX_OBJECT {
            return Ok(true);
        }
    }
    Ok(serde_json::from_slice(&bytes).map_or(true, |page: Page| page.items.is_some_and(|items| !items.is_empty())))
}

/// An answer that is no JSON is an object without fields: what is read of it is checked where it is read.
fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}
