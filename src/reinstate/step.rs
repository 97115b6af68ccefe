//! Puts one object into the cluster, or asks the server what would happen.

use std::time::Duration;

use serde_json::{Value, json};

use super::left_out::LeftOut;
use super::prepare::Prepared;
use super::target::{Served as _, Target};
use super::{Existing, Options, clean, compare, left_out, merge, update};
use crate::cluster::{Effect, FIELD_MANAGER, Failure, Object, Write};
use crate::error::{Class, Classify as _, Report, ServiceError};
use crate::inventory::cleaned::Fields;

/// A definition's kinds answer 404 for a moment after it is established.
const JUST_DEFINED: Duration = Duration::from_secs(10);

/// How long a deleted object may take to go: another program does what its finalizers wait for.
const GONE: Duration = Duration::from_secs(60);

/// How often a change is repeated after another client's change.
const CONFLICTS: usize = 5;

/// The beginning of the name under which the server judges an object that is to be recreated.
const TRIAL: &str = "penstock-trial-";

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
    /// It exists and differs in these fields; it is the server's own, which keeps it in its own shape.
    Leave(Fields),
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
            Self::Leave(_) => "leave",
            Self::LeftOut(_) => "left-out",
            Self::Refused(_) => "refused",
        }
    }
}

pub(super) struct Step<'a> {
    pub(super) target: &'a Target<'a>,
    pub(super) options: &'a Options,
    pub(super) effect: Effect,
}

impl Step<'_> {
    /// Creates the object, or treats an existing one as the options require.
    pub(super) async fn put(&self, prepared: &mut Prepared) -> Verdict {
        match self.try_put(prepared).await {
            Ok(verdict) => verdict,
            Err(failure) if self.effect == Effect::DryRun && failure.is_dry_run_unsupported() => {
                prepared.notes.push(format!("the server cannot judge it without effect: {failure}"));
                Verdict::CreateUnchecked
            }
            Err(failure) => Verdict::Refused(failure.report()),
        }
    }

    async fn try_put(&self, prepared: &mut Prepared) -> Result<Verdict, Failure> {
        // A POST of an object that exists is judged by webhooks, and charged to quotas, before it is refused.
        if self.target.is_filled(&prepared.resource, prepared.namespace.as_deref()).await
            && let Some(live) = self.target.get(&prepared.at()).await?
            && let Some(verdict) = self.existing(prepared, &live).await?
        {
            return Ok(verdict);
        }
        match self.create(prepared).await {
            Ok(live) => {
                self.created(prepared, &live).await;
                Ok(Verdict::Create)
            }
            Err(failure) if failure.is_there_already() => {
                // `None`: another client deleted it in between.
                let live = self.target.get(&prepared.at()).await?.ok_or_else(|| failure.clone())?;
                self.existing(prepared, &live).await?.ok_or(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Completes a new object, and notes the fields that the server or a webhook changed.
    async fn created(&self, prepared: &mut Prepared, live: &Value) {
        let fields = Self::differing(prepared, live);
        if fields.count > 0 {
            prepared.notes.push(format!("the server stored other values in {}", fields.paths.join(", ")));
        }
        if let Err(failure) = self.complete(prepared, live).await {
            let note =
                format!("created, but its status or field managers are not restored: {failure}; restore it again");
            prepared.notes.push(note);
        }
    }

    /// Creates the object. A Service gets other addresses and ports where those that its author fixed are taken, or of another network.
    async fn create(&self, prepared: &mut Prepared) -> Result<Value, Failure> {
        if let Some((name, patch)) = &prepared.release
            && let Some(resource) = self.target.served().find("persistentvolumes")
        {
            let at = Object { resource, namespace: None, name };
            self.target.write(&at, &Write::Merge(patch.to_string().as_bytes()), self.effect).await?;
        }
        let refused = match self.post(prepared, &prepared.body()).await {
            Err(failure) if is(&failure, "Invalid") => failure,
            result => return result,
        };
        let mut without = prepared.object.clone();
        if !clean::unfix(&prepared.resource.name(), &mut without) {
            return Err(refused);
        }
        let live = self.post(prepared, without.to_string().as_bytes()).await.map_err(|_| refused)?;
        prepared.object = without;
        prepared.notes.push("its fixed addresses or ports are in use or out of range: it has others".to_owned());
        Ok(live)
    }

    async fn post(&self, prepared: &Prepared, body: &[u8]) -> Result<Value, Failure> {
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
        if let (true, Some(status), true) = (self.options.status, &prepared.taken.status, live.is_object()) {
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

    /// Treats an existing object as the options require. `None`: it was being deleted, and is gone.
    async fn existing(&self, prepared: &mut Prepared, live: &Value) -> Result<Option<Verdict>, Failure> {
        if live.pointer("/metadata/deletionTimestamp").is_some() {
            if self.effect == Effect::DryRun {
                prepared.notes.push("it is being deleted: a restore waits until it is gone".to_owned());
                return Ok(Some(Verdict::CreateUnchecked));
            }
            self.gone(prepared, live, "was being deleted").await?;
            return Ok(None);
        }
        let mut live = live.clone();
        for _ in 0..CONFLICTS {
            match self.changed(prepared, &live).await {
                // Another client changed it in between.
                Err(failure) if failure.is_outdated() => {}
                result => return result.map(Some),
            }
            live = match self.target.get(&prepared.at()).await? {
                Some(live) => live,
                None => return Ok(None),
            };
        }
        self.changed(prepared, &live).await.map(Some)
    }

    async fn changed(&self, prepared: &mut Prepared, live: &Value) -> Result<Verdict, Failure> {
        self.target.learn(prepared.uid.as_deref(), live);
        let fields = Self::differing(prepared, live);
        if fields.count == 0 {
            // A killed run created it, and did not complete it.
            let is_ours = prepared.policy == left_out::Existing::AsAsked;
            if is_ours && is_incomplete(live, prepared.taken.managed_fields.as_ref()) {
                self.complete(prepared, live).await?;
                return Ok(Verdict::Create);
            }
            return Ok(Verdict::Same);
        }
        match prepared.policy {
            left_out::Existing::Keep => return Ok(Verdict::Leave(fields)),
            left_out::Existing::Merge => return self.merge(prepared, live, fields).await,
            // It serves the old namespace too.
            left_out::Existing::AsAsked if prepared.renamed && prepared.namespace.is_none() => {
                return Ok(Verdict::Keep(fields));
            }
            left_out::Existing::AsAsked => {}
        }
        match self.options.existing {
            Existing::Keep => Ok(Verdict::Keep(fields)),
            Existing::Update => self.update(prepared, live, fields).await,
            Existing::Recreate if left_out::holds_others(&prepared.resource.name()) => {
                prepared.notes.push("not recreated: what it holds would be deleted with it".to_owned());
                Ok(Verdict::Keep(fields))
            }
            Existing::Recreate => self.recreate(prepared, live, fields).await,
        }
    }

    async fn update(&self, prepared: &mut Prepared, live: &Value, fields: Fields) -> Result<Verdict, Failure> {
        let patch = update::patch(&prepared.resource.name(), &prepared.object, live).to_string();
        let live = self.target.write(&prepared.at(), &Write::Merge(patch.as_bytes()), self.effect).await?;
        self.created(prepared, &live).await;
        Ok(Verdict::Change(fields))
    }

    /// Adds what an object lacks that the server has made by itself.
    async fn merge(&self, prepared: &Prepared, live: &Value, fields: Fields) -> Result<Verdict, Failure> {
        let Some(patch) = merge::lacking(&prepared.object, live) else { return Ok(Verdict::Leave(fields)) };
        self.target.write(&prepared.at(), &Write::Merge(patch.to_string().as_bytes()), self.effect).await?;
        Ok(Verdict::Change(fields))
    }

    /// Deletes the object and creates it anew. The server judges the new one first, under another name.
    async fn recreate(&self, prepared: &mut Prepared, live: &Value, fields: Fields) -> Result<Verdict, Failure> {
        let mut trial = prepared.object.clone();
        clean::unfix(&prepared.resource.name(), &mut trial);
        let name = trial_name(&prepared.name);
        trial["metadata"]["name"] = json!(name);
        let at = Object { name: &name, ..prepared.at() };
        match self.target.write(&at, &Write::Create(trial.to_string().as_bytes()), Effect::DryRun).await {
            Err(failure) if !failure.is_dry_run_unsupported() => return Err(failure),
            _ => {}
        }
        let uid = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        match self.target.write(&prepared.at(), &Write::Delete { uid }, self.effect).await {
            // An attempt whose answer was lost has deleted it.
            Err(failure) if failure.error.status == Some(404) => {}
            result => drop(result?),
        }
        if self.effect == Effect::Real {
            self.gone(prepared, live, "was deleted for `--existing recreate`").await?;
            let live = match self.create(prepared).await {
                // An attempt whose answer was lost has created it, or a controller was faster: the next look tells.
                Err(failure) if failure.is_there_already() => self.target.get(&prepared.at()).await?.ok_or(failure)?,
                result => result?,
            };
            self.created(prepared, &live).await;
        }
        Ok(Verdict::Recreate(fields))
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

    /// The fields in which the live object is not as it would be restored.
    fn differing(prepared: &Prepared, live: &Value) -> Fields {
        compare::differing(&prepared.resource.name(), &prepared.object, live)
    }

    /// Whether a restored object is still there, and still as it was restored; `None` if it is.
    pub(super) async fn undone(&self, prepared: &Prepared) -> Result<Option<String>, Failure> {
        let Some(live) = self.target.get(&prepared.at()).await? else {
            return Ok(Some("it was deleted".to_owned()));
        };
        if live.pointer("/metadata/deletionTimestamp").is_some() {
            return Ok(Some("it is being deleted".to_owned()));
        }
        let fields = Self::differing(prepared, &live);
        Ok((fields.count > 0).then(|| format!("it was changed in {}", fields.paths.join(", "))))
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

/// Penstock is still a manager of the object's fields, and is none in the backup: the object was created, and not completed.
fn is_incomplete(live: &Value, saved: Option<&Value>) -> bool {
    let is_manager = |fields: Option<&Value>| {
        let managers = fields.and_then(Value::as_array);
        managers.into_iter().flatten().any(|entry| entry["manager"] == FIELD_MANAGER)
    };
    saved.is_some() && !is_manager(saved) && is_manager(live.pointer("/metadata/managedFields"))
}

/// A name that every kind with free names takes: a CronJob's has at most 52 characters.
fn trial_name(name: &str) -> String {
    let end: String = name.chars().skip(name.chars().count().saturating_sub(30)).collect();
    format!("{TRIAL}{}", end.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trial_names_are_short_and_have_no_empty_part() {
        assert_eq!(trial_name("web"), "penstock-trial-web");
        let long = trial_name(&format!("{}.{}", "a".repeat(60), "b".repeat(29)));
        assert_eq!(long, format!("penstock-trial-{}", "b".repeat(29)));
        assert!(long.len() <= 52);
    }
}
