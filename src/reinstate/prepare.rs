//! Makes of a backup's object what the server gets: cleaned, mapped, with its owners' new UIDs.

use serde_json::{Value, json};

use super::clean::Taken;
use super::contents::Kind;
use super::data::UNFILLED;
use super::needs::Need;
use super::owners::Unlinked;
use super::step::Step;
use super::target::Served as _;
use super::volumes::Standing;
use super::{clean, left_out, mapping, needs, owners, volumes};
use crate::cluster::classify::{Asked, Freshness};
use crate::cluster::{Effect, Failure, Object, Resource, Scope};
use crate::error::Class;
use crate::resources::place::Filed;

/// What is put into the cluster, and what else the operator should read of it.
pub(super) struct Prepared {
    pub(super) object: Value,
    pub(super) taken: Taken,
    pub(super) policy: left_out::Existing,
    /// The mapping renamed something in it.
    pub(super) renamed: bool,
    /// The volume of a claim that is bound to it once this patch lets go of the deleted claim.
    pub(super) release: Option<(String, Value)>,
    pub(super) uid: Option<String>,
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) notes: Vec<String>,
    /// Of a claim that is filled later: the backup from which, in an annotation of the new claim.
    pub(super) mark: Option<String>,
}

impl Prepared {
    pub(super) fn at(&self) -> Object<'_> {
        Object { resource: &self.resource, namespace: self.namespace.as_deref(), name: &self.name }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let Some(mark) = &self.mark else { return self.object.to_string().into_bytes() };
        let mut marked = self.object.clone();
        if !marked["metadata"]["annotations"].is_object() {
            marked["metadata"]["annotations"] = json!({});
        }
        marked["metadata"]["annotations"][UNFILLED] = json!(mark);
        marked.to_string().into_bytes()
    }

    pub(super) fn sole_manager(&self) -> Option<&str> {
        let [manager] = self.taken.managed_fields.as_ref()?.as_array()?.as_slice() else { return None };
        let is_update = manager["operation"] == "Update" && manager.get("subresource").is_none();
        manager["manager"].as_str().filter(|name| is_update && !name.is_empty())
    }
}

impl Step<'_> {
    /// Makes of the backup's object what the server gets. `is_restored` says whether an object of that kind and name is restored too.
    pub(super) async fn prepare(
        &self,
        kind: &Kind,
        mut object: Value,
        is_restored: impl Fn(&str, &str) -> bool,
    ) -> Result<Prepared, Failure> {
        let resource = self.target.resource(kind).ok_or_else(|| self.unserved(kind))?;
        let filed: &Filed = &kind.filed;
        let mut notes = Vec::new();
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
        let policy = left_out::existing(&filed.resource, &object);
        let renamed = self.options.mapping.apply(&filed.resource, &mut object);
        let mentions = mapping::mentions(&object, &self.options.mapping.old_namespaces());
        if !mentions.is_empty() {
            notes.push(format!("still names the old namespace in {}", mentions.join(", ")));
        }
        let volume = self.volume(&filed.resource, &object, is_restored).await?;
        let context = clean::Context { status: self.options.status, has_volume: &|_| volume.is_some() };
        let taken = clean::clean(&filed.resource, &mut object, &context);
        owners::leave_to_adopters(&filed.resource, &mut object);
        self.target.find_owners(&object).await?;
        for Unlinked { kind, name, controller, .. } in owners::relink(&mut object, |saved| self.target.uid(saved)) {
            let role = if controller { "controller" } else { "owner" };
            notes.push(format!("its {role}, {kind} {name}, is not in the cluster: restored without it"));
        }
        object["apiVersion"] = json!(resource.api_version());
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let namespace = text("/metadata/namespace").filter(|_| resource.scope == Scope::Namespaced);
        let name = text("/metadata/name").unwrap_or_default();
        if kind.api_version != resource.api_version() {
            let (old, new) = (&kind.api_version, resource.api_version());
            notes.push(format!(
                "saved as {old}, restored as {new}: the server drops fields that this version does not have"
            ));
        }
        let release = volume.flatten();
        Ok(Prepared { object, taken, policy, renamed, release, uid, resource, namespace, name, notes, mark: None })
    }

    /// The volume that is, or will be, there for a claim, with the patch that it needs for it; `None`: the claim gets a new one.
    async fn volume(
        &self,
        resource: &str,
        object: &Value,
        is_restored: impl Fn(&str, &str) -> bool,
    ) -> Result<Option<Option<(String, Value)>>, Failure> {
        const VOLUMES: &str = "persistentvolumes";
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let (Some(name), "persistentvolumeclaims") = (text("/spec/volumeName"), resource) else { return Ok(None) };
        let Some(kind) = self.target.served().find(VOLUMES).cloned() else { return Ok(None) };
        let Some(volume) = self.target.get(&Object { resource: &kind, namespace: None, name }).await? else {
            return Ok((self.effect == Effect::DryRun && is_restored(VOLUMES, name)).then_some(None));
        };
        let claim = match (self.target.served().find(resource), text("/metadata/namespace"), text("/metadata/name")) {
            (Some(kind), Some(namespace), Some(name)) => {
                self.target.get(&Object { resource: kind, namespace: Some(namespace), name }).await?
            }
            _ => None,
        };
        let claim_uid = claim.as_ref().and_then(|claim| claim.pointer("/metadata/uid")?.as_str());
        Ok(match volumes::standing(&volume, object, claim_uid) {
            Standing::Fits | Standing::Bound => Some(None),
            Standing::Foreign => None,
            Standing::Released => Some(Some((name.to_owned(), volumes::release(&volume)))),
        })
    }

    fn unserved(&self, kind: &Kind) -> Failure {
        let asked = Asked {
            verb: "create",
            path: &kind.filed.resource,
            group: kind.filed.group(),
            resource: kind.filed.plural(),
            namespace: None,
            fresh: Freshness::Kept,
        };
        let (class, message, remedy) = if self.target.is_silent(kind) {
            let message = format!("the API group of {} does not answer", kind.api_version);
            (Class::Transient, message, "see `kubectl get apiservices`, and restore again when its server runs")
        } else {
            let message = format!("the cluster serves no {} of {}", kind.name, kind.api_version);
            (
                Class::Compat,
                message,
                "install what defines this kind, or restore its definition first if the backup has it (--resource customresourcedefinitions), or leave the kind out with --exclude-resource",
            )
        };
        let mut error = asked.error(class, message);
        error.remedy = Some(remedy.to_owned());
        error.into()
    }

    /// What the object needs and neither the cluster nor the backup has.
    pub(super) async fn missing(
        &self,
        prepared: &Prepared,
        is_restored: impl Fn(&str, &str) -> bool,
    ) -> Result<Vec<String>, Failure> {
        let mut missing = Vec::new();
        for need in needs::needs(&prepared.resource.name(), &prepared.object) {
            let Need { resource, namespace, name, field } = need;
            let key = namespace.as_ref().map_or_else(|| name.clone(), |namespace| format!("{namespace}/{name}"));
            if !is_restored(resource, &key) && !self.target.has(resource, namespace.as_deref(), &name).await? {
                missing.push(format!("{field} names {resource} {key}, which neither the cluster nor the backup has"));
            }
        }
        Ok(missing)
    }
}
