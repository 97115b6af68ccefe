//! Puts one object into the cluster, or asks the server what would happen.

use std::time::Duration;

use serde_json::{Value, json};

use super::clean::Taken;
use super::left_out::LeftOut;
use super::needs::Need;
use super::owners::Unlinked;
use super::scan::Kind;
use super::target::{Served as _, Target};
use super::volumes::Standing;
use super::{Existing, Options, clean, compare, left_out, mapping, merge, needs, owners, update, volumes};
use crate::cluster::{Effect, FIELD_MANAGER, Failure, Object, Resource, Scope, Write};
use crate::error::{Class, Classify as _, Report, ServiceError};
use crate::inventory::cleaned::Fields;
use crate::resources::place::Filed;

/// A definition's kinds answer 404 for a moment after it is established.
const JUST_DEFINED: Duration = Duration::from_secs(10);

/// How long a deleted object may take to go: its finalizers are somebody's work.
const GONE: Duration = Duration::from_secs(60);

/// Between two looks at the same object.
const LOOK: Duration = Duration::from_millis(200);

/// What became of an object, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Create,
    /// To be created where the server cannot judge it yet: its namespace, or its kind's definition, is created first; or a webhook that
    /// judges it cannot do so without effect.
    CreateUnchecked,
    /// It exists and differs in these fields, and is changed to be as in the backup.
    Change(Fields),
    /// It exists and differs in these fields, and is deleted and created.
    Recreate(Fields),
    /// It exists and is as in the backup.
    Same,
    /// It exists, differs in these fields, and stays as it is.
    Keep(Fields),
    LeftOut(LeftOut),
    Refused(Report),
}

impl Verdict {
    /// As reports show it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateUnchecked => "create-unchecked",
            Self::Change(_) => "change",
            Self::Recreate(_) => "recreate",
            Self::Same => "same",
            Self::Keep(_) => "keep",
            Self::LeftOut(_) => "left-out",
            Self::Refused(_) => "refused",
        }
    }
}

/// What is put into the cluster, and what else the operator should read of it.
pub(super) struct Prepared {
    object: Value,
    taken: Taken,
    policy: left_out::Existing,
    /// The mapping renamed something in it.
    renamed: bool,
    uid: Option<String>,
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) notes: Vec<String>,
}

impl Prepared {
    fn at(&self) -> Object<'_> {
        Object { resource: &self.resource, namespace: self.namespace.as_deref(), name: &self.name }
    }

    fn body(&self) -> Vec<u8> {
        self.object.to_string().into_bytes()
    }

    fn sole_manager(&self) -> Option<&str> {
        let [manager] = self.taken.managed_fields.as_ref()?.as_array()?.as_slice() else { return None };
        let is_update = manager["operation"] == "Update" && manager.get("subresource").is_none();
        manager["manager"].as_str().filter(|name| is_update && !name.is_empty())
    }
}

pub(super) struct Step<'a> {
    pub(super) target: &'a Target<'a>,
    pub(super) options: &'a Options,
    pub(super) effect: Effect,
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
        let has_volume = self.has_volume(&filed.resource, &object, is_restored).await?;
        let context = clean::Context { status: self.options.status, has_volume: &|_| has_volume };
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
        Ok(Prepared { object, taken, policy, renamed, uid, resource, namespace, name, notes })
    }

    /// Whether a claim's volume is, or will be, there for it; a volume that still has the deleted claim's UID is released. Only of claims.
    async fn has_volume(
        &self,
        resource: &str,
        object: &Value,
        is_restored: impl Fn(&str, &str) -> bool,
    ) -> Result<bool, Failure> {
        const VOLUMES: &str = "persistentvolumes";
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let (Some(name), "persistentvolumeclaims") = (text("/spec/volumeName"), resource) else { return Ok(false) };
        let Some(kind) = self.target.served().find(VOLUMES).cloned() else { return Ok(false) };
        let at = Object { resource: &kind, namespace: None, name };
        let Some(volume) = self.target.get(&at).await? else {
            return Ok(self.effect == Effect::DryRun && is_restored(VOLUMES, name));
        };
        let claim = match (self.target.served().find(resource), text("/metadata/namespace"), text("/metadata/name")) {
            (Some(kind), Some(namespace), Some(name)) => {
                self.target.get(&Object { resource: kind, namespace: Some(namespace), name }).await?
            }
            _ => None,
        };
        let claim_uid = claim.as_ref().and_then(|claim| claim.pointer("/metadata/uid")?.as_str());
        match volumes::standing(&volume, object, claim_uid) {
            Standing::Fits | Standing::Bound => Ok(true),
            Standing::Foreign => Ok(false),
            Standing::Released => {
                let patch = volumes::release(&volume).to_string();
                self.target.write(&at, &Write::Merge(patch.as_bytes()), self.effect).await?;
                Ok(true)
            }
        }
    }

    fn unserved(&self, kind: &Kind) -> Failure {
        let asked = crate::cluster::classify::Asked {
            verb: "create",
            path: &kind.filed.resource,
            group: kind.filed.group(),
            resource: kind.filed.plural(),
            namespace: None,
            fresh: crate::cluster::classify::Freshness::Kept,
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

    /// Creates the object, or does with an existing one what the options say.
    pub(super) async fn put(&self, prepared: &mut Prepared) -> Verdict {
        match self.try_put(prepared).await {
            Ok(verdict) => verdict,
            Err(failure) => Verdict::Refused(failure.report()),
        }
    }

    async fn try_put(&self, prepared: &mut Prepared) -> Result<Verdict, Failure> {
        // A POST of an object that exists is judged by webhooks, and charged to quotas, before it is refused.
        if self.target.is_filled(&prepared.resource, prepared.namespace.as_deref()).await
            && let Some(live) = self.target.get(&prepared.at()).await?
        {
            if live.pointer("/metadata/deletionTimestamp").is_none() {
                return self.existing(prepared, live).await;
            }
            self.gone(prepared, &live, "was being deleted").await?;
        }
        let created = match self.create(prepared, &prepared.body()).await {
            // The addresses and ports that its author fixed are taken, or of another network.
            Err(failure)
                if is(&failure, "Invalid") && clean::unfix(&prepared.resource.name(), &mut prepared.object) =>
            {
                prepared.notes.push("its fixed addresses or ports are not free here: it gets others".to_owned());
                self.create(prepared, &prepared.body()).await
            }
            created => created,
        };
        match created {
            Ok(live) => {
                if let Err(failure) = self.complete(prepared, &live).await {
                    let note = format!(
                        "created, but its status or field managers are not restored: {failure}; restore it again"
                    );
                    prepared.notes.push(note);
                }
                Ok(Verdict::Create)
            }
            Err(failure) if self.effect == Effect::DryRun && failure.is_dry_run_unsupported() => {
                prepared.notes.push(format!("the server cannot judge it without creating it: {failure}"));
                Ok(Verdict::CreateUnchecked)
            }
            Err(failure) if failure.is_there_already() => {
                // None: it went in between; somebody else works here.
                let live = self.target.get(&prepared.at()).await?.ok_or(failure)?;
                self.existing(prepared, live).await
            }
            Err(failure) => Err(failure),
        }
    }

    async fn create(&self, prepared: &Prepared, body: &[u8]) -> Result<Value, Failure> {
        let write = match self.sole_manager(prepared) {
            Some(manager) => Write::CreateAs { object: body, manager },
            None => Write::Create(body),
        };
        let until = tokio::time::Instant::now() + JUST_DEFINED;
        loop {
            match self.target.write(&prepared.at(), &write, self.effect).await {
                Err(failure) if failure.is_kind_missing() => {
                    if self.effect == Effect::DryRun || tokio::time::Instant::now() >= until {
                        return Err(failure);
                    }
                    tokio::time::sleep(LOOK).await;
                }
                result => return result,
            }
        }
    }

    /// The manager in whose name the object is created, if it had one and needs no second request: half the time.
    fn sole_manager<'p>(&self, prepared: &'p Prepared) -> Option<&'p str> {
        prepared.sole_manager().filter(|_| !self.options.status)
    }

    /// What a created object needs further: its status, if that was asked for, and the managers of its fields.
    async fn complete(&self, prepared: &Prepared, live: &Value) -> Result<(), Failure> {
        if self.effect == Effect::DryRun {
            return Ok(());
        }
        self.target.learn(prepared.uid.as_deref(), live);
        if let (true, Some(status)) = (self.options.status, &prepared.taken.status) {
            let mut whole = live.clone();
            whole["status"] = status.clone();
            let written =
                self.target.write(&prepared.at(), &Write::Status(whole.to_string().as_bytes()), Effect::Real).await;
            match written {
                // The kind has no such subresource: its status was created with the rest, or there is none.
                Err(failure) if failure.error.status == Some(404) => {}
                written => {
                    written?;
                }
            }
        }
        if let Some(fields) =
            prepared.taken.managed_fields.as_ref().filter(|_| !is_managed_as(live, prepared.sole_manager()))
        {
            let patch = json!({ "metadata": { "managedFields": fields } }).to_string();
            self.target.write(&prepared.at(), &Write::Merge(patch.as_bytes()), Effect::Real).await?;
        }
        Ok(())
    }

    async fn existing(&self, prepared: &Prepared, live: Value) -> Result<Verdict, Failure> {
        self.target.learn(prepared.uid.as_deref(), &live);
        let fields = Self::differing(prepared, &live);
        if fields.count == 0 {
            // A run that was killed created it, and did not come to the rest.
            if prepared.taken.managed_fields.is_some() && is_incomplete(&live) {
                self.complete(prepared, &live).await?;
                return Ok(Verdict::Create);
            }
            return Ok(Verdict::Same);
        }
        match prepared.policy {
            // It serves the old namespace too.
            left_out::Existing::AsAsked if prepared.renamed && prepared.namespace.is_none() => {
                return Ok(Verdict::Keep(fields));
            }
            left_out::Existing::AsAsked => {}
            left_out::Existing::Keep => return Ok(Verdict::Same),
            left_out::Existing::Merge => return self.merge(prepared, &live, fields).await,
        }
        match self.options.existing {
            Existing::Keep => Ok(Verdict::Keep(fields)),
            Existing::Update => {
                let patch = update::patch(&prepared.resource.name(), &prepared.object, &live).to_string();
                let live = self.target.write(&prepared.at(), &Write::Merge(patch.as_bytes()), self.effect).await?;
                self.complete(prepared, &live).await?;
                Ok(Verdict::Change(fields))
            }
            Existing::Recreate => {
                self.recreate(prepared, &live).await?;
                Ok(Verdict::Recreate(fields))
            }
        }
    }

    /// Adds what an object lacks that the server has made by itself.
    async fn merge(&self, prepared: &Prepared, live: &Value, fields: Fields) -> Result<Verdict, Failure> {
        let Some(patch) = merge::lacking(&prepared.object, live) else { return Ok(Verdict::Same) };
        self.target.write(&prepared.at(), &Write::Merge(patch.to_string().as_bytes()), self.effect).await?;
        Ok(Verdict::Change(fields))
    }

    async fn recreate(&self, prepared: &Prepared, live: &Value) -> Result<(), Failure> {
        let uid = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        self.target.write(&prepared.at(), &Write::Delete { uid }, self.effect).await?;
        if self.effect == Effect::DryRun {
            return Ok(());
        }
        self.gone(prepared, live, "was deleted for `--existing recreate`").await?;
        let body = prepared.body();
        let live = self.create(prepared, &body).await?;
        self.complete(prepared, &live).await
    }

    /// Waits until an object that is being deleted is gone.
    async fn gone(&self, prepared: &Prepared, live: &Value, why: &str) -> Result<(), Failure> {
        let uid = live.pointer("/metadata/uid");
        let until = tokio::time::Instant::now() + GONE;
        while self.effect == Effect::Real
            && let Some(still) = self.target.get(&prepared.at()).await?
            && still.pointer("/metadata/uid") == uid
        {
            if tokio::time::Instant::now() >= until {
                let message = format!("it {why}, and its finalizers keep it");
                let mut error = ServiceError::local("delete", prepared.at().to_string(), Class::Transient, message);
                error.remedy = Some("see its metadata.finalizers, and restore again when it is gone".to_owned());
                return Err(error.into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The fields in which the live object is not as it would be restored. A Service whose fixed addresses were not free has others.
    fn differing(prepared: &Prepared, live: &Value) -> Fields {
        let resource = prepared.resource.name();
        let fields = compare::differing(&resource, &prepared.object, live);
        let mut without = prepared.object.clone();
        if fields.count > 0 && clean::unfix(&resource, &mut without) {
            let without = compare::differing(&resource, &without, live);
            return if without.count == 0 { without } else { fields };
        }
        fields
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

    /// Whether a restored object is still there, and still as it was restored; `None` if it is.
    pub(super) async fn undone(&self, prepared: &Prepared) -> Result<Option<String>, Failure> {
        let Some(live) = self.target.get(&prepared.at()).await? else {
            return Ok(Some("somebody deleted it".to_owned()));
        };
        if live.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(Some("somebody deletes it".to_owned()));
        }
        let fields = Self::differing(prepared, &live);
        Ok((fields.count > 0).then(|| format!("somebody changed {}", fields.paths.join(", "))))
    }
}

/// The status' reason of a refusal.
pub(super) fn is(failure: &Failure, reason: &str) -> bool {
    failure.error.code.as_deref() == Some(reason)
}

/// Whether all fields of the live object are `manager`'s.
fn is_managed_as(live: &Value, manager: Option<&str>) -> bool {
    let managers = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    manager.is_some() && managers.is_some_and(|all| all.len() == 1 && all[0]["manager"].as_str() == manager)
}

/// Penstock is still the manager of the object's fields: it was created, and not completed.
fn is_incomplete(live: &Value) -> bool {
    let managers = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    managers.into_iter().flatten().any(|entry| entry["manager"] == FIELD_MANAGER)
}
