//! Restores the objects of a backup, one batch after another and within a batch in parallel, or plans it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::contents::{Batch, Contents, Entry, Kind};
use super::data::{CLAIMS, Data, Filling};
use super::pace;
use super::prepare::Prepared;
use super::rank::{OTHERS, rank};
use super::scan::scan;
use super::step::{Step, Verdict};
use super::target::{Served as _, Target};
use super::{Error, Existing, Options, Output, Row, Summary, preflight};
use crate::cluster::{Cluster, Effect, Failure, Object, Resource, Write};
use crate::error::{Class, Classify as _, Report};
use crate::format::cluster::Record;
use crate::inventory::archive::{Archive, Member};
use crate::resources::patience::Patience;

/// Bytes of memory for each value, field and element of a parsed object: a map's node has places for 11 fields.
const PARSED: usize = 200;

pub(super) const LOOK: Duration = Duration::from_millis(100);

/// How long a namespace that is being deleted may take to go.
const GONE: Duration = Duration::from_secs(60);

pub(super) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// How far a restore is; read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub objects: AtomicU64,
    pub total: AtomicU64,
    current: Mutex<String>,
}

impl Progress {
    /// The kinds that are restored now.
    #[must_use]
    pub fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, current: impl Into<String>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current.into();
    }
}

/// A restore into a cluster, or the plan of one.
pub struct Restore<'a> {
    pub cluster: &'a dyn Cluster,
    pub options: &'a Options,
    /// The data of the claims, if that is restored too.
    pub data: Option<&'a Data<'a>>,
    /// [`Effect::DryRun`] plans.
    pub effect: Effect,
    pub patience: Patience,
    /// `limits.memory`.
    pub memory: u64,
    pub progress: &'a Progress,
    pub cancel: &'a CancellationToken,
}

/// Everything that the passes share.
pub(super) struct Work<'a> {
    pub(super) restore: &'a Restore<'a>,
    pub(super) archives: &'a [Archive],
    pub(super) contents: Contents,
    pub(super) target: Target<'a>,
    filling: Option<Filling<'a>>,
}

/// An object on its way to the server.
type Sent = (usize, Value, Option<OwnedSemaphorePermit>);

impl Restore<'_> {
    /// Restores all of `archives`, and reports each object to `output`.
    ///
    /// # Errors
    /// When the backup cannot be read, or is of another cluster than may be changed, or the server is gone, or `output` fails. What
    /// befalls one object is a row.
    pub async fn run(&self, archives: &[Archive], output: &mut dyn Output) -> Result<Summary, Error> {
        // An object whose request is in flight is found by the next restore, whatever becomes of it.
        let restored = self.cancel.run_until_cancelled(self.restored(archives, output)).await;
        if let Some(data) = self.data {
            data.clean_up(self.cluster, self.patience).await;
        }
        restored.ok_or(Error::Cancelled)?
    }

    async fn restored(&self, archives: &[Archive], output: &mut dyn Output) -> Result<Summary, Error> {
        let mut summary = Summary { notes: Archive::unknown(archives, &self.options.filter), ..Summary::default() };
        let losses = archives.iter().flat_map(|archive| archive.record.losses());
        summary.notes.extend(losses.map(|loss| format!("the backup is partial: {loss}")));
        self.check_identity(archives.iter().map(|archive| &archive.record)).await?;
        self.progress.set("reading the backup");
        let mut contents = self.scanned(archives).await?;
        summary.notes.append(&mut contents.notes);
        self.options.mapping.check(&contents.namespaces)?;
        let planned = if self.effect == Effect::DryRun { contents.restored_owners() } else { HashSet::new() };
        let target = Target::new(self.cluster, self.patience, contents.owner_uids(), planned).await?;
        let total = contents.entries.iter().filter(|entry| entry.left_out.is_none()).count();
        self.progress.total.store(total as u64, Ordering::Relaxed);
        let mut work = Work { restore: self, archives, contents, target, filling: None };
        if let Some(data) = self.data {
            work.filling = Some(Filling::begin(data, &work).await?);
        }
        for index in 0..work.contents.entries.len() {
            if let Some(reason) = work.contents.entries[index].left_out {
                work.report(index, Verdict::LeftOut(reason), Vec::new(), output, &mut summary)?;
            }
        }
        let batches = work.contents.batches();
        let state = work.survey(&mut summary).await?;
        for batch in &batches {
            if batch.rank > rank(CLAIMS) {
                work.fill(output, &mut summary).await?;
            }
            work.batch(batch, &state, output, &mut summary).await?;
        }
        work.fill(output, &mut summary).await?;
        if self.effect == Effect::DryRun {
            preflight::quotas(&work, &mut summary).await?;
        }
        if self.effect == Effect::Real
            && let Some(wait) = self.options.wait
        {
            super::hold::held(&mut work, &batches, wait, output, &mut summary).await?;
        }
        Ok(summary)
    }

    /// A backup of another cluster must not change what is there, unless the operator names that cluster.
    async fn check_identity(&self, records: impl Iterator<Item = &Record>) -> Result<(), Error> {
        if self.options.existing == Existing::Keep {
            return Ok(());
        }
        let resource = Resource::namespaces();
        let object = Object { resource: &resource, namespace: None, name: "kube-system" };
        let live = self.patience.retried("cluster", || self.cluster.get(&object)).await?;
        let live: Value = serde_json::from_slice(&live).unwrap_or_default();
        let live = live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("unknown");
        for record in records {
            let named = self.options.from_cluster.as_ref().is_some_and(|named| *named == record.cluster_uid);
            if record.cluster_uid != live && !named {
                return Err(Error::OtherCluster { saved: record.cluster_uid.clone(), live: live.to_owned() });
            }
        }
        Ok(())
    }

    async fn scanned(&self, archives: &[Archive]) -> Result<Contents, Error> {
        let (archives, options, memory) = (archives.to_vec(), self.options.clone(), self.memory);
        let cancel = self.cancel.clone();
        let scanning = tokio::task::spawn_blocking(move || scan(&archives, &options, memory, &cancel));
        scanning.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}

/// What is in the cluster before the first change.
pub(super) struct Before {
    /// Namespaces of the backup's objects that the cluster has, as they are called there.
    namespaces: BTreeSet<String>,
    deleting: BTreeSet<String>,
}

impl Work<'_> {
    /// Fills the claims that are there now.
    async fn fill(&self, output: &mut dyn Output, summary: &mut Summary) -> Result<(), Error> {
        match &self.filling {
            Some(filling) => filling.fill(self, output, summary).await,
            None => Ok(()),
        }
    }

    async fn survey(&self, summary: &mut Summary) -> Result<Before, Error> {
        let names = self.contents.namespaces.iter().map(|name| self.restore.options.mapping.namespace(name).to_owned());
        let names: BTreeSet<String> = names.collect();
        let (mut namespaces, mut deleting) = self.target.namespaces(&names).await?;
        let until = tokio::time::Instant::now() + GONE;
        while self.restore.effect == Effect::Real && !deleting.is_empty() && tokio::time::Instant::now() < until {
            self.restore.progress.set("waiting for namespaces that are being deleted");
            tokio::time::sleep(LOOK).await;
            (namespaces, deleting) = self.target.namespaces(&names).await?;
        }
        preflight::notes(self, &deleting, summary).await?;
        for name in names {
            if !namespaces.contains(&name) && self.restore.effect == Effect::Real && !self.restores_namespace(&name) {
                let note = match self.add_namespace(&name).await {
                    Ok(()) => {
                        format!("created the namespace {name} without its labels: the restore does not include it")
                    }
                    Err(failure) => format!("could not create the namespace {name}: {failure}"),
                };
                summary.notes.push(note);
                namespaces.insert(name);
            }
        }
        Ok(Before { namespaces, deleting })
    }

    fn restores_namespace(&self, name: &str) -> bool {
        let of = |entry: &Entry| self.restore.options.mapping.namespace(&entry.key) == name;
        self.contents.entries.iter().any(|entry| {
            self.contents.kind_of(entry).filed.resource == "namespaces" && entry.left_out.is_none() && of(entry)
        })
    }

    async fn add_namespace(&self, name: &str) -> Result<(), Failure> {
        let (resource, body) = (Resource::namespaces(), json!({ "metadata": { "name": name } }).to_string());
        let object = Object { resource: &resource, namespace: None, name };
        match self.target.write(&object, &Write::Create(body.as_bytes()), Effect::Real).await {
            Err(failure) if !failure.is_there_already() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Creates the objects of one batch, and what the next ones need of it.
    async fn batch(
        &self,
        batch: &Batch,
        before: &Before,
        output: &mut dyn Output,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let mut defined = Vec::new();
        self.each(
            &batch.entries,
            async |index, value| {
                let entry = &self.contents.entries[index];
                self.restore.progress.set(self.contents.kind_of(entry).filed.to_string());
                let done = self.one(entry, value, before).await;
                self.restore.progress.objects.fetch_add(1, Ordering::Relaxed);
                (index, done)
            },
            |(index, (verdict, notes))| {
                let entry = &self.contents.entries[index];
                let is_absent = matches!(verdict, Verdict::Refused(_) | Verdict::CreateUnchecked);
                if !is_absent && self.contents.kind_of(entry).filed.resource == DEFINITIONS && !self.serves(&entry.key)
                {
                    defined.push(entry.key.clone());
                }
                if let Some(filling) = &self.filling
                    && self.contents.kind_of(entry).filed.resource == CLAIMS
                {
                    filling.add(&entry.key, matches!(verdict, Verdict::Create | Verdict::CreateUnchecked));
                }
                self.report(index, verdict, notes, output, summary)
            },
        )
        .await?;
        if self.restore.effect == Effect::Real && !defined.is_empty() {
            self.established(&defined, summary).await?;
        }
        Ok(())
    }

    /// Reads the objects of `entries`, in their order, and runs `work` on some at a time; `take` gets the results one after another.
    pub(super) async fn each<T>(
        &self,
        entries: &[usize],
        work: impl AsyncFn(usize, Value) -> T,
        mut take: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let cancel = self.restore.cancel;
        for (index, archive) in self.archives.iter().enumerate() {
            let of_archive = entries.iter().copied().filter(|entry| self.contents.entries[*entry].archive == index);
            let of_archive: Vec<usize> = of_archive.collect();
            if of_archive.is_empty() {
                continue;
            }
            let members: Vec<Member> = of_archive.iter().map(|entry| self.contents.entries[*entry].member).collect();
            let expected: Vec<(usize, String)> = of_archive
                .iter()
                .map(|entry| {
                    let of = &self.contents.entries[*entry];
                    (*entry, format!("{} {}", self.contents.kind_of(of).filed, of.key))
                })
                .collect();
            let (sender, receiver) = mpsc::channel::<Sent>(pace::MOST);
            let reading = read(archive.clone(), members, expected, self.restore.memory, cancel.clone(), sender);
            let reading = tokio::spawn(reading);
            let objects = futures_util::stream::unfold(receiver, async |mut receiver| {
                receiver.recv().await.map(|sent| (sent, receiver))
            });
            let results = objects
                .map(|(index, value, permit)| {
                    let done = work(index, value);
                    async move {
                        let result = done.await;
                        drop(permit);
                        result
                    }
                })
                .buffer_unordered(pace::MOST);
            tokio::pin!(results);
            while let Some(result) = results.next().await {
                take(result)?;
            }
            reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        Ok(())
    }

    async fn one(&self, entry: &Entry, value: Value, before: &Before) -> (Verdict, Vec<String>) {
        let kind = self.contents.kind_of(entry);
        if entry.unreadable {
            let message = "the object is nested deeper than 128 levels, or damaged, and cannot be parsed";
            let remedy = "`penstock cat` and `penstock kubernetes objects --output json --yaml` give its bytes";
            return (Verdict::Refused(Report::new(Class::Integrity, message).remedy(remedy)), Vec::new());
        }
        let step = Step { target: &self.target, options: self.restore.options, effect: self.restore.effect };
        if self.restore.effect == Effect::DryRun && self.target.resource(kind).is_none() && self.defines(kind) {
            return (Verdict::CreateUnchecked, Vec::new());
        }
        let mut prepared = match step.prepare(kind, value, |resource, name| self.contents.has(resource, name)).await {
            Ok(prepared) => prepared,
            Err(failure) => return (Verdict::Refused(failure.report()), Vec::new()),
        };
        let missing = step.missing(&prepared, |resource, name| self.contents.has(resource, name)).await;
        let mut notes = std::mem::take(&mut prepared.notes);
        match missing {
            Ok(missing) => notes.extend(missing),
            Err(failure) => return (Verdict::Refused(failure.report()), notes),
        }
        let is_namespace = kind.filed.resource == "namespaces";
        if let Some(namespace) = prepared.namespace.as_ref().or(is_namespace.then_some(&prepared.name)) {
            if before.deleting.contains(namespace) {
                let message = format!("the namespace {namespace} is being deleted");
                let remedy = "wait until it is gone; if it does not go, its status names the API group or the finalizer that keeps it";
                return (Verdict::Refused(Report::new(Class::Transient, message).remedy(remedy)), notes);
            }
            if kind.rank >= OTHERS && self.filling.as_ref().is_some_and(|filling| filling.holds(namespace)) {
                return (Verdict::Refused(held(namespace)), notes);
            }
            let is_to_come = !is_namespace && !before.namespaces.contains(namespace);
            if self.restore.effect == Effect::DryRun && is_to_come {
                return (Verdict::CreateUnchecked, notes);
            }
        }
        if let (Some(filling), CLAIMS) = (&self.filling, kind.filed.resource.as_str()) {
            prepared.mark = filling.mark(&entry.key).map(str::to_owned);
        }
        let verdict = step.put(&mut prepared).await;
        notes.append(&mut prepared.notes);
        (verdict, notes)
    }

    /// Whether the backup has the definition of the kind.
    fn defines(&self, kind: &Kind) -> bool {
        self.contents.has(DEFINITIONS, &kind.filed.resource)
    }

    /// Whether the cluster serves the kind `plural.group`.
    pub(super) fn serves(&self, kind: &str) -> bool {
        self.target.served().find(kind).is_some()
    }

    pub(super) fn report(
        &self,
        index: usize,
        verdict: Verdict,
        notes: Vec<String>,
        output: &mut dyn Output,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let entry = &self.contents.entries[index];
        let kind = self.contents.kind_of(entry);
        summary.count((index, kind.rank), &kind.filed, &verdict, &notes);
        if let (Verdict::Create | Verdict::CreateUnchecked, Some((namespace, _))) =
            (&verdict, entry.key.split_once('/'))
        {
            let namespace = self.restore.options.mapping.namespace(namespace).to_owned();
            *summary.creates.entry((namespace, kind.filed.resource.clone())).or_default() += 1;
        }
        let item = self.archives[entry.archive].item.as_str();
        output
            .row(Row { item, filed: &kind.filed, key: &entry.key, verdict: &verdict, notes: &notes })
            .map_err(Error::Output)
    }

    pub(super) fn step(&self) -> Step<'_> {
        Step { target: &self.target, options: self.restore.options, effect: self.restore.effect }
    }

    pub(super) async fn prepared(&self, index: usize, value: Value) -> Result<Prepared, Failure> {
        let kind = self.contents.kind_of(&self.contents.entries[index]);
        self.step().prepare(kind, value, |resource, name| self.contents.has(resource, name)).await
    }
}

/// Its pods would find an empty volume, and some programs then begin anew.
fn held(namespace: &str) -> Report {
    let message = format!("held back: a claim of the namespace {namespace} does not have its data");
    let remedy = "remove the cause, which is listed with the claim, and run the same command again; or run it without --with-volumes, to start without the data";
    Report::new(Class::Conflict, message).remedy(remedy)
}

/// What a parsed object takes of memory, with its text on the way to the server and a live one to compare it with.
fn weight(bytes: &[u8]) -> usize {
    let values = bytes.iter().filter(|byte| matches!(byte, b'{' | b'[' | b',')).count();
    2 * (values * PARSED + bytes.len()) + bytes.len()
}

/// Reads members on a thread that may block, and sends each object when memory allows it.
async fn read(
    archive: Archive,
    members: Vec<Member>,
    expected: Vec<(usize, String)>,
    memory: u64,
    cancel: CancellationToken,
    sender: mpsc::Sender<Sent>,
) -> Result<(), Error> {
    let whole = u32::try_from(memory / 4).unwrap_or(u32::MAX).max(1);
    let budget = Arc::new(Semaphore::new(whole as usize));
    let runtime = tokio::runtime::Handle::current();
    let reading = tokio::task::spawn_blocking(move || {
        let mut expected = expected.into_iter();
        archive.read(&members, &cancel, |object, value| {
            let found = format!("{} {}", object.place.filed, object.place.key());
            let (index, _) =
                expected.next().filter(|(_, expected)| *expected == found).ok_or(crate::inventory::Error::Mismatch)?;
            let needed = u32::try_from(weight(&object.bytes)).unwrap_or(u32::MAX).min(whole);
            // The semaphore is never closed. A receiver that is gone ended for another reason, which it reports.
            let permit = runtime.block_on(Arc::clone(&budget).acquire_many_owned(needed)).ok();
            sender.blocking_send((index, value, permit)).map_err(|_| crate::download::Error::Stopped.into())
        })
    });
    Ok(reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
}
