//! Runs the Jobs: which claims need one, what each says while it runs, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::agent::{CONTAINER, Kind, Template};
use super::choice::{Chosen, choose, is_own, named_as};
use super::job::{self, Claim};
use super::look::{State, done, look};
use super::mark::unmark;
use super::supplies::{self, delete, kind, listed, supply};
use super::{Data, LOOK, Outcome, START, UNFILLED, Volume, annotation};
use crate::cluster::{Effect, Object, Resource, Write};
use crate::error::{Class, Classify as _, Report};
use crate::format::claim::{ClaimName, shown};
use crate::reinstate::run::Work;
use crate::reinstate::target::Target;
use crate::reinstate::{Error, Output, Summary};

pub(in crate::reinstate) const CLAIMS: &str = "persistentvolumeclaims";

/// Lines of a running pod's log that are read for its progress.
const LINES: u32 = 5;

/// How often a Job that is in the way is looked at.
const ATTEMPTS: usize = 30;

/// The claims of one restore, and how far they are.
pub(in crate::reinstate) struct Filling<'a> {
    data: &'a Data<'a>,
    /// `None`: no claim has a backup.
    template: Option<Template>,
    /// By claim, `shop/data` as in the backup.
    chosen: BTreeMap<String, Chosen>,
    state: Mutex<Progress>,
    bytes: AtomicU64,
}

#[derive(Default)]
struct Progress {
    /// Claims of restored batches, and whether each was created.
    pending: Vec<(String, bool)>,
    /// Namespaces, as in the cluster, with a claim whose data is not there.
    held: BTreeSet<String>,
    /// Namespaces that have what Jobs need.
    supplied: BTreeMap<String, Result<(), Report>>,
    done: usize,
    running: BTreeMap<String, u64>,
}

impl<'a> Filling<'a> {
    /// Chooses the backups, and reads the agent. Changes nothing.
    pub(in crate::reinstate) async fn begin(data: &'a Data<'a>, work: &Work<'_>) -> Result<Self, Error> {
        work.restore.progress.set("looking for the backups of claims");
        let contents = &work.contents;
        let claims = contents
            .entries
            .iter()
            .filter(|entry| entry.left_out.is_none() && contents.kind_of(entry).filed.resource == CLAIMS);
        // A name that no claim can have has no backup.
        let claims = claims.filter_map(|entry| entry.key.parse::<ClaimName>().ok());
        let chosen =
            choose(data.catalog, claims, data.as_of).await.map_err(|error| Error::Data(error.report().into()))?;
        let template = if chosen.is_empty() { None } else { Some(template(data, &work.target).await?) };
        Ok(Self { data, template, chosen, state: Mutex::default(), bytes: AtomicU64::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The annotation that a claim has from its creation until it is filled.
    pub(in crate::reinstate) fn mark(&self, claim: &str) -> Option<&str> {
        self.chosen.get(claim).map(|chosen| chosen.backup.as_str())
    }

    /// A claim is in the cluster, or would be.
    pub(in crate::reinstate) fn add(&self, claim: &str, is_created: bool) {
        self.state().pending.push((claim.to_owned(), is_created));
    }

    /// Whether what runs in this namespace has to wait.
    pub(in crate::reinstate) fn holds(&self, namespace: &str) -> bool {
        self.state().held.contains(namespace)
    }

    /// Fills the claims that were added since the last call, or says what would fill them.
    pub(in crate::reinstate) async fn fill(
        &self,
        work: &Work<'_>,
        output: &mut dyn Output,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.state().pending);
        let mut report = |claim: &str, chosen: Option<&Chosen>, outcome: &Outcome| {
            *summary.volumes.entry(outcome.word()).or_default() += 1;
            summary.losses += u64::from(outcome.is_loss());
            if let (Outcome::Fill | Outcome::Filled { .. }, Some(chosen)) = (outcome, chosen) {
                summary.notes.extend(chosen.notes.iter().cloned());
            }
            output.volume(Volume { claim, chosen, outcome }).map_err(Error::Output)
        };
        let mut wanted = Vec::new();
        for (key, is_created) in pending {
            if work.restore.effect == Effect::Real && self.chosen.contains_key(&key) {
                // Also what a run left that was killed when the claim was filled.
                self.data.made().insert(mapped(work, &key));
            }
            match self.wanted(work, &key, is_created).await {
                Ok((claim, chosen)) => wanted.push((claim, chosen)),
                Err(outcome) => {
                    if let Outcome::Failed(_) = outcome {
                        self.hold(work, &key);
                    }
                    report(&key, self.chosen.get(&key), &outcome)?;
                }
            }
        }
        let total = wanted.len();
        let results = futures_util::stream::iter(wanted)
            .map(|(claim, chosen)| async move {
                let outcome = self.one(work, &claim, &chosen, total).await.unwrap_or_else(Outcome::Failed);
                (claim, chosen, outcome)
            })
            .buffer_unordered(self.data.jobs.at_once.max(1));
        tokio::pin!(results);
        while let Some((claim, chosen, outcome)) = results.next().await {
            if let Outcome::Failed(_) = outcome {
                self.hold(work, &claim.key);
            }
            let mut state = self.state();
            state.done += 1;
            state.running.remove(&claim.key);
            drop(state);
            report(&claim.key, Some(&chosen), &outcome)?;
        }
        Ok(())
    }

    fn hold(&self, work: &Work<'_>, key: &str) {
        self.state().held.insert(mapped(work, key));
    }

    /// The claim in the cluster and its backup, if it is to be filled; else why not.
    async fn wanted(&self, work: &Work<'_>, key: &str, is_created: bool) -> Result<(Claim, Chosen), Outcome> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let namespace = work.restore.options.mapping.namespace(namespace).to_owned();
        let claim =
            Claim { key: key.to_owned(), namespace, name: name.to_owned(), uid: String::new(), is_block: false };
        let chosen = self.chosen.get(key);
        if chosen.is_none() && work.contents.excluded.contains(key) {
            return Err(Outcome::Excluded);
        }
        let resource = kind("", CLAIMS, "PersistentVolumeClaim");
        let at = Object { resource: &resource, namespace: Some(&claim.namespace), name: &claim.name };
        let live = work.target.get(&at).await.map_err(|failure| Outcome::Failed(failure.report()))?;
        let Some(live) = live else {
            return match chosen {
                // It is planned, or was refused, which its own row says.
                Some(chosen) if is_created => Ok((claim, chosen.clone())),
                _ if is_created => Err(Outcome::NoBackup),
                _ => Err(Outcome::Failed(Report::new(Class::NotFound, "the claim is not in the cluster"))),
            };
        };
        let uid = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_block = live.pointer("/spec/volumeMode").is_some_and(|mode| mode == "Block");
        let claim = Claim { uid, is_block, ..claim };
        let marked = match annotation(&live, UNFILLED) {
            None if is_created && chosen.is_none() => return Err(Outcome::NoBackup),
            None => return Err(Outcome::There),
            Some(marked) => marked,
        };
        let chosen = match chosen.filter(|chosen| chosen.backup == marked) {
            Some(chosen) => chosen.clone(),
            None if !is_own(marked, key) => return Err(Outcome::Failed(foreign(key, marked))),
            // An earlier run, which was interrupted, chose another one.
            None => named_as(self.data.catalog, marked).await.map_err(|error| {
                let remedy = "delete the claim and run the same command again: it is filled from another backup";
                Outcome::Failed(error.report().remedy(remedy))
            })?,
        };
        if self.template.is_none() {
            let message = format!("the backup {} was not there when the restore began", chosen.backup);
            return Err(Outcome::Failed(Report::new(Class::Transient, message).remedy("run the same command again")));
        }
        if claim.is_block != chosen.is_device {
            let (is, has) =
                if claim.is_block { ("a block device", "files") } else { ("a file system", "a block device") };
            let message = format!("the claim is {is}, and the backup {} has the content of {has}", chosen.backup);
            return Err(Outcome::Failed(Report::new(Class::Config, message)));
        }
        Ok((claim, chosen))
    }

    fn pod(&self, work: &Work<'_>, claim: &Claim, chosen: &Chosen) -> Value {
        let cluster = self.data.catalog.location.cluster.as_str();
        let placement = work.contents.users.get(&claim.key);
        let template = self.template.as_ref().expect("without a template no claim is filled");
        job::pod(template, &self.data.jobs, cluster, claim, chosen, placement)
    }

    /// Makes what the Jobs of a namespace need, once, and asks the server whether it would take such a pod: a Job that is refused its pods says so
    /// in events only.
    async fn supplied(&self, work: &Work<'_>, claim: &Claim, pod: &Value) -> Result<(), Report> {
        if let Some(supplied) = self.state().supplied.get(&claim.namespace) {
            return supplied.clone();
        }
        let template = self.template.as_ref();
        let result = async {
            if let (Effect::Real, Some(template)) = (work.restore.effect, template) {
                supply(&work.target, &self.data.jobs, &template.needs, &template.account, &claim.namespace).await?;
            }
            trial(work, claim, pod).await
        };
        let result = result.await;
        self.state().supplied.insert(claim.namespace.clone(), result.clone());
        result
    }

    async fn one(&self, work: &Work<'_>, claim: &Claim, chosen: &Chosen, total: usize) -> Result<Outcome, Report> {
        let pod = self.pod(work, claim, chosen);
        self.supplied(work, claim, &pod).await?;
        if work.restore.effect == Effect::DryRun {
            return Ok(Outcome::Fill);
        }
        self.show(work, claim, 0, total);
        let made = self.make(work, claim, chosen, pod).await?;
        let state = self.watch(work, claim, total).await?;
        let (cluster, patience) = (work.restore.cluster, work.restore.patience);
        self.bytes.fetch_add(chosen.bytes, Ordering::Relaxed);
        if let State::Done { .. } = state {
            let unmarked = unmark(cluster, patience, (&claim.namespace, &claim.name), &claim.uid).await;
            unmarked.map_err(|failure| failure.report())?;
        }
        // Its pod's hold on the volume ends with it.
        if let Err(failure) = delete(cluster, patience, &supplies::jobs(), &made).await {
            tracing::warn!(claim = claim.key, error = %failure, "could not delete the Job: it is deleted at the end");
        }
        match state {
            State::Done { warnings } => Ok(Outcome::Filled { warnings }),
            State::Failed(report) => Ok(Outcome::Failed(report)),
            State::Waiting(why) => {
                let why = format!("no pod of its Job ran within {} minutes: {why}", START.as_secs() / 60);
                let remedy = "remove the cause, and run the same command again; --job-node-selector and --job-toleration say where it may run";
                Ok(Outcome::Failed(Report::new(Class::Timeout, why).remedy(remedy)))
            }
            State::Running(_) => Ok(Outcome::Failed(Report::new(Class::Internal, "its Job still runs"))),
        }
    }

    /// Creates the Job, or takes over the one that an interrupted run has made.
    async fn make(&self, work: &Work<'_>, claim: &Claim, chosen: &Chosen, pod: Value) -> Result<Value, Report> {
        let (resource, name) = (supplies::jobs(), claim.job());
        let at = Object { resource: &resource, namespace: Some(&claim.namespace), name: &name };
        let body = job::job(claim, &chosen.backup, pod, self.data.jobs.limit).to_string();
        for _ in 0..ATTEMPTS {
            match work.target.write(&at, &Write::Create(body.as_bytes()), Effect::Real).await {
                Err(failure) if failure.is_there_already() => {}
                result => return result.map_err(|failure| failure.report()),
            }
            let Some(live) = work.target.get(&at).await.map_err(|failure| failure.report())? else { continue };
            supplies::check_own(&at, &live)?;
            if live.pointer("/metadata/deletionTimestamp").is_none() {
                let pods = self.pods(work, claim).await?;
                if job::does(&live, claim, &chosen.backup) && !matches!(look(&live, &pods), State::Failed(_)) {
                    return Ok(live);
                }
                let deleted = delete(work.restore.cluster, work.restore.patience, &resource, &live).await;
                deleted.map_err(|failure| failure.report())?;
            }
            tokio::time::sleep(LOOK).await;
        }
        let message = format!("the Job {name} of an earlier restore is being deleted, and does not go");
        Err(Report::new(Class::Transient, message).remedy("see its finalizers, and run the same command again"))
    }

    async fn pods(&self, work: &Work<'_>, claim: &Claim) -> Result<Vec<Value>, Report> {
        let (resource, selector) = (kind("", "pods", "Pod"), claim.selector());
        let request = || listed(work.restore.cluster, &resource, &claim.namespace, &selector);
        work.restore.patience.retried("list", request).await.map_err(|failure| failure.report())
    }

    /// Waits until the Job has ended, or has not begun in time.
    async fn watch(&self, work: &Work<'_>, claim: &Claim, total: usize) -> Result<State, Report> {
        let (resource, name) = (supplies::jobs(), claim.job());
        let at = Object { resource: &resource, namespace: Some(&claim.namespace), name: &name };
        let mut until = Instant::now() + START;
        loop {
            let Some(job) = work.target.get(&at).await.map_err(|failure| failure.report())? else {
                let message = format!("its Job {name} was deleted by somebody else");
                return Err(Report::new(Class::Conflict, message).remedy("run the same command again"));
            };
            match look(&job, &self.pods(work, claim).await?) {
                State::Waiting(why) if Instant::now() >= until => {
                    let event = event(work, claim, &name).await;
                    return Ok(State::Waiting(event.map_or(why.clone(), |event| format!("{why}: {event}"))));
                }
                State::Waiting(_) => {}
                State::Running(pod) => {
                    until = Instant::now() + START;
                    // Without the right to read logs there is a restore, but no progress of it.
                    if let Ok(log) = work.restore.cluster.log(&claim.namespace, &pod, CONTAINER, LINES).await {
                        self.show(work, claim, done(&String::from_utf8_lossy(&log)).unwrap_or(0), total);
                    }
                }
                ended => return Ok(ended),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn show(&self, work: &Work<'_>, claim: &Claim, bytes: u64, total: usize) {
        let mut state = self.state();
        state.running.insert(claim.key.clone(), bytes);
        let now: Vec<&str> = state.running.keys().map(String::as_str).collect();
        let bytes = self.bytes.load(Ordering::Relaxed) + state.running.values().sum::<u64>();
        let shown = format!("filling claims: {} of {total}, {} MiB; now {}", state.done, bytes >> 20, now.join(", "));
        work.restore.progress.set(shown);
    }
}

/// The namespace of a claim as the cluster has it.
fn mapped(work: &Work<'_>, key: &str) -> String {
    let (namespace, _) = key.split_once('/').unwrap_or((key, ""));
    work.restore.options.mapping.namespace(namespace).to_owned()
}

/// Reads the DaemonSet that Jobs are like.
async fn template(data: &Data<'_>, target: &Target<'_>) -> Result<Template, Error> {
    let refused = |report: Report| Error::Data(report.into());
    let (namespace, name) = &data.jobs.agent;
    let resource: Resource = kind("apps", "daemonsets", "DaemonSet");
    let at = Object { resource: &resource, namespace: Some(namespace), name };
    let Some(agent) = target.get(&at).await? else {
        let message = format!(
            "the cluster has no DaemonSet {namespace}/{name}, which Jobs would be like: they fill claims with its image, configuration and credentials"
        );
        let remedy = "install Penstock in this cluster first (docs/install-kubernetes.md), or name another DaemonSet with --agent NAMESPACE/NAME";
        return Err(refused(Report::new(Class::NotFound, message).remedy(remedy)));
    };
    let template = Template::of(&agent)
        .map_err(|unfit| refused(Report::new(Class::Config, format!("the DaemonSet {namespace}/{name} {unfit}"))))?;
    let secrets: Vec<&str> =
        template.needs.iter().filter(|need| need.kind == Kind::Secret).map(|need| need.name.as_str()).collect();
    if !secrets.is_empty() && !data.jobs.copies_secrets {
        let message = format!(
            "the agent {namespace}/{name} uses the Secrets {}, which Jobs in the claims' namespaces need too",
            secrets.join(", ")
        );
        let remedy = "with --copy-secrets they are copied there until the claims are filled; whoever may read Secrets there can read them meanwhile";
        return Err(refused(Report::new(Class::Config, message).remedy(remedy)));
    }
    Ok(template)
}

/// Asks the server whether it would take the pod. In a plan the namespace may not exist, nor the service account.
async fn trial(work: &Work<'_>, claim: &Claim, pod: &Value) -> Result<(), Report> {
    let mut pod = pod.clone();
    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
    (pod["metadata"]["name"], pod["metadata"]["namespace"]) = (json!(claim.job()), json!(claim.namespace));
    if work.restore.effect == Effect::DryRun {
        pod["spec"]["serviceAccountName"] = json!("default");
    }
    let (resource, name) = (kind("", "pods", "Pod"), claim.job());
    let at = Object { resource: &resource, namespace: Some(&claim.namespace), name: &name };
    match work.target.write(&at, &Write::Create(pod.to_string().as_bytes()), Effect::DryRun).await {
        Err(failure)
            if failure.is_namespace_missing() || failure.is_there_already() || failure.is_dry_run_unsupported() =>
        {
            Ok(())
        }
        Err(failure) => {
            let report = failure.report();
            let message = format!("the server refuses the pod of the Job that would fill it: {}", report.message);
            let remedy = "it needs root and the capabilities of the Pod Security level baseline: allow that in the namespace until the claims are filled, or let the policy except pods with the label backup.penstock/restore";
            Err(Report::new(report.class, message).remedy(remedy))
        }
        Ok(_) => Ok(()),
    }
}

/// An annotation that nothing of Penstock's has written. A claim gets its own data, and no other's.
fn foreign(claim: &str, marked: &str) -> Report {
    let message =
        format!("the claim's annotation {UNFILLED} is {:?}; expected the name of a backup of {claim}", shown(marked));
    Report::new(Class::Conflict, message).remedy(
        "somebody else wrote it: if the claim has its data, remove the annotation; else delete the claim; then run the same command again",
    )
}

/// The newest warning about the Job or its pods: what keeps a volume from being mounted is said there only.
async fn event(work: &Work<'_>, claim: &Claim, job: &str) -> Option<String> {
    let events = listed(work.restore.cluster, &kind("", "events", "Event"), &claim.namespace, "").await.ok()?;
    let text =
        |event: &Value, pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let about = events
        .iter()
        .filter(|event| text(event, "/type") == "Warning" && text(event, "/involvedObject/name").starts_with(job));
    let newest = about.max_by_key(|event| text(event, "/lastTimestamp"))?;
    let message: String = text(newest, "/message").chars().filter(|c| !c.is_control()).take(300).collect();
    Some(format!("{}: {message}", text(newest, "/reason")))
}
