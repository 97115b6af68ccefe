//! Lists a cluster: every selected kind, object by object, into an [`Outlet`], with a [`Record`] of the result.
//!
//! - **Order**: namespaced kinds by name, then cluster-scoped ones by name; within a kind the server's order, by namespace and name. The
//!   same cluster gives the same members in the same order.
//! - **A kind that fails** is recorded, and the others continue; the run fails only if the server itself is gone.
//! - **Namespaces**: if the configuration names them all (no `*`), each kind is listed in each of them, so that nothing else is read and
//!   a Role is enough. Otherwise each kind is listed for the whole cluster and filtered; if that is forbidden, it is listed in each
//!   chosen namespace.
//! - **The label selector** is for namespaced objects, and for cluster-scoped ones with `cluster_resources = "always"`; a
//!   Namespace is saved when it is chosen, whatever its labels.

mod saver;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use self::saver::Saver;
use super::discover::discover;
use super::discovery::{Served, is_label};
use super::item::Item;
use super::list::Entry;
use super::outlet::{Closed, Outlet};
use super::pages::{self, ListError, ListReport, Sink, Wanted, list};
use super::patience::{Patience, is_silent};
use super::refer::References;
use super::select::{ClusterResources, Listed, Plan, Selection, plan};
use super::skip::Folder;
use crate::cluster::{Cluster, Failure, Object, Resource, Scope};
use crate::error::{Class, Classify as _, Report};
use crate::format::cluster::{Failed, MOST_NAMES, Record, ResourceRecord, Unknown};
use crate::nearest::nearest;

/// Velero's version of the archive's layout.
const ARCHIVE: (&str, &str) = ("metadata/version", "1.1.0\n");

/// The progress of a run, for display.
#[derive(Debug, Default)]
pub struct Progress {
    pub objects: AtomicU64,
    pub bytes: AtomicU64,
    current: Mutex<Option<String>>,
}

impl Progress {
    /// The kind that is being listed; `None` before and after.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(&self, name: &str) {
        self.set(Some(name.to_owned()));
    }

    fn set(&self, current: Option<String>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// Why a run ended without a record.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("the archive's writer has ended")]
    Closed,
}

impl From<Closed> for Stopped {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

pub struct Lister<'a> {
    pub cluster: &'a dyn Cluster,
    pub selection: &'a Selection,
    pub patience: Patience,
    pub progress: &'a Progress,
}

/// The namespaces that are known.
#[derive(Debug, Default)]
struct Namespaces {
    chosen: BTreeSet<String>,
    deleting: BTreeSet<String>,
    all: BTreeSet<String>,
    /// Why they could not be listed: then `chosen` are those that the configuration names.
    unseen: Option<Failure>,
}

impl Lister<'_> {
    /// Passes every selected object to `outlet`.
    ///
    /// # Errors
    /// When the server is gone or refuses discovery, or the outlet is closed.
    pub async fn run(&self, outlet: &Outlet) -> Result<Record, Stopped> {
        self.progress.begin("discovery");
        let version = self.patience.retried("version", || self.cluster.version()).await?;
        let served = discover(self.cluster, self.patience).await?;
        let namespaces = self.namespaces().await?;
        let plan = plan(&served, self.selection);
        let mut record = begin(&served, &plan);
        record.server_version = version.git_version;
        record.cluster_uid = self.cluster_uid().await;
        record.selector.clone_from(&self.selection.selector);
        self.note_namespaces(&namespaces, &mut record);
        let refers = self.selection.cluster_resources == ClusterResources::Auto && !self.is_everything();
        let named = if self.selection.selector.is_empty() { namespaces.chosen.clone() } else { BTreeSet::new() };
        let references = refers.then(|| References::new(named));
        let mut run = Run { lister: self, outlet, namespaces, references, saved: BTreeSet::new() };
        outlet.put(ARCHIVE.0.to_owned(), Bytes::from_static(ARCHIVE.1.as_bytes())).await?;
        for listed in &plan.listed {
            run.kind(listed, &mut record).await?;
        }
        record.namespaces = run.saved;
        self.progress.set(None);
        Ok(record)
    }

    /// Whether no object is left out because of its namespace or its labels.
    fn is_everything(&self) -> bool {
        self.selection.namespaces.is_everything() && self.selection.selector.is_empty()
    }

    async fn cluster_uid(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Namespace {
            metadata: super::item::Metadata,
        }
        let resource = Resource::namespaces();
        let object = Object { resource: &resource, namespace: None, name: "kube-system" };
        match self.patience.retried("cluster", || self.cluster.get(&object)).await {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(|namespace: Namespace| namespace.metadata.uid).unwrap_or_default()
            }
            Err(failure) => {
                tracing::info!(error = %failure, "could not read the UID of kube-system: the backup does not record its cluster");
                String::new()
            }
        }
    }

    async fn namespaces(&self) -> Result<Namespaces, Stopped> {
        #[derive(Default)]
        struct Names(Namespaces);
        #[async_trait::async_trait]
        impl Sink for Names {
            async fn accept(&mut self, entry: Entry) -> Result<(), Closed> {
                let Entry::Object(Item { metadata, .. }) = entry else { return Ok(()) };
                // It becomes part of request paths.
                if is_label(&metadata.name) {
                    if metadata.deletion_timestamp.is_some() {
                        self.0.deleting.insert(metadata.name.clone());
                    }
                    self.0.all.insert(metadata.name);
                }
                Ok(())
            }
        }
        let (resource, mut names) = (Resource::namespaces(), Names::default());
        let wanted = Wanted { resource: &resource, namespace: None, selector: "", fields: "" };
        let patterns = &self.selection.namespaces;
        match list(self.cluster, self.patience, wanted, &mut ListReport::default(), &mut names).await {
            Ok(()) => {}
            Err(ListError::Failed(failure)) if is_forbidden(&failure) => {
                let literal =
                    patterns.include.iter().filter(|pattern| pattern.is_literal()).map(|p| p.text().to_owned());
                names.0.all = literal.filter(|name| is_label(name)).collect();
                names.0.unseen = Some(failure);
            }
            Err(ListError::Failed(failure)) => return Err(Stopped::Failed(failure)),
            Err(ListError::Closed) => return Err(Stopped::Closed),
        }
        let mut namespaces = names.0;
        let chosen = namespaces.all.iter().filter(|name| patterns.fit(name) && !namespaces.deleting.contains(*name));
        namespaces.chosen = chosen.cloned().collect();
        Ok(namespaces)
    }

    fn note_namespaces(&self, namespaces: &Namespaces, record: &mut Record) {
        let include = &self.selection.namespaces.include;
        let fits_none = |pattern: &&super::select::Pattern| !namespaces.all.iter().any(|name| pattern.fits(name));
        record.unknown.extend(include.iter().filter(fits_none).map(|pattern| Unknown {
            key: "namespaces".to_owned(),
            pattern: pattern.text().to_owned(),
            nearest: nearest(pattern.text(), namespaces.all.iter().cloned()),
        }));
        for name in namespaces.deleting.iter().filter(|name| self.selection.namespaces.fit(name)).take(MOST_NAMES) {
            record.notes.push(format!("the namespace {name} is being deleted: nothing in it is saved"));
        }
        let literal = include.iter().all(super::select::Pattern::is_literal);
        if let Some(failure) = namespaces.unseen.as_ref().filter(|_| !literal) {
            record.notes.push(format!("only the namespaces that the configuration names are saved: {failure}"));
        }
    }

    /// After a failure without an answer: whether the server answers at all.
    async fn is_there(&self) -> bool {
        self.cluster.version().await.is_ok()
    }
}

/// RBAC's refusal concerns one kind in one place; a 401 concerns everything.
fn is_forbidden(failure: &Failure) -> bool {
    failure.error.status == Some(403) && failure.error.class == Class::AccessDenied
}

fn is_namespaces(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

fn begin(served: &Served, plan: &Plan) -> Record {
    let mut record = Record::default();
    record.groups.served.clone_from(&served.groups);
    record.groups.stale.clone_from(&served.stale);
    record.groups.missing.clone_from(&served.missing);
    record.notes.clone_from(&served.odd);
    for (resource, why) in &plan.unlisted {
        record.unlisted.entry(why.as_str().to_owned()).or_default().insert(format!(
            "{}/{}",
            resource.name(),
            resource.version
        ));
    }
    for (pattern, nearest) in &plan.unknown {
        record.unknown.push(Unknown {
            key: "resources".to_owned(),
            pattern: pattern.clone(),
            nearest: nearest.clone(),
        });
    }
    record
}

struct Run<'a> {
    lister: &'a Lister<'a>,
    outlet: &'a Outlet,
    namespaces: Namespaces,
    /// Set if cluster-scoped objects are saved only when something refers to them.
    references: Option<References>,
    /// Namespaces with a saved object.
    saved: BTreeSet<String>,
}

impl Run<'_> {
    async fn kind(&mut self, listed: &Listed, record: &mut Record) -> Result<(), Stopped> {
        let resource = &listed.resource;
        let name = match listed.folder {
            Folder::Plain => resource.name(),
            Folder::Versioned => format!("{}/{}", resource.name(), resource.version),
        };
        if resource.scope == Scope::Cluster
            && let Some(references) = &self.references
            && !references.may_want(resource)
        {
            let full = format!("{}/{}", resource.name(), resource.version);
            record.unlisted.entry("not-referred".to_owned()).or_default().insert(full);
            return Ok(());
        }
        self.lister.progress.begin(&name);
        record.listed.insert(format!("{}/{}", resource.name(), resource.version));
        let mut tally = ResourceRecord { version: resource.version.clone(), ..ResourceRecord::default() };
        let result = self.lists(listed, &mut tally).await;
        record.resources.insert(name, tally);
        result
    }

    /// Makes the lists of the kind.
    async fn lists(&mut self, listed: &Listed, tally: &mut ResourceRecord) -> Result<(), Stopped> {
        let selection = self.lister.selection;
        if listed.resource.scope == Scope::Cluster {
            let selector =
                if is_namespaces(&listed.resource) || self.references.is_some() { "" } else { &selection.selector };
            return match self.one(listed, None, selector, tally).await? {
                Some(failure) if is_namespaces(&listed.resource) && is_forbidden(&failure) => {
                    self.each_namespace(listed, tally).await
                }
                Some(failure) => self.failed(failure, tally).await,
                None => Ok(()),
            };
        }
        let named = selection.namespaces.include.iter().all(super::select::Pattern::is_literal);
        if !named {
            match self.one(listed, None, &selection.selector, tally).await? {
                None => return Ok(()),
                Some(failure) if is_forbidden(&failure) && !self.namespaces.chosen.is_empty() => {}
                Some(failure) => return self.failed(failure, tally).await,
            }
        }
        for namespace in self.namespaces.chosen.clone() {
            if let Some(failure) = self.one(listed, Some(&namespace), &selection.selector, tally).await? {
                self.failed(failure, tally).await?;
            }
        }
        Ok(())
    }

    /// One list; returns its failure, if it failed.
    async fn one(
        &mut self,
        listed: &Listed,
        namespace: Option<&str>,
        selector: &str,
        tally: &mut ResourceRecord,
    ) -> Result<Option<Failure>, Stopped> {
        let (cluster, patience) = (self.lister.cluster, self.lister.patience);
        let wanted = Wanted { resource: &listed.resource, namespace, selector, fields: "" };
        let mut report = pages::ListReport::default();
        let mut saver = Saver { run: self, listed, namespace, tally };
        let ended = list(cluster, patience, wanted, &mut report, &mut saver).await;
        tally.list_versions.extend(report.versions);
        tally.pages += report.pages;
        tally.expired += report.expired;
        match ended {
            Ok(()) => Ok(None),
            Err(ListError::Failed(failure)) => Ok(Some(failure)),
            Err(ListError::Closed) => Err(Stopped::Closed),
        }
    }

    /// Records why a kind is incomplete; fails if the server is gone, or if the credentials were refused before any object was read.
    async fn failed(&self, failure: Failure, tally: &mut ResourceRecord) -> Result<(), Stopped> {
        let is_first = self.lister.progress.objects.load(Ordering::Relaxed) == 0;
        if (is_first && failure.error.status == Some(401)) || (is_silent(&failure) && !self.lister.is_there().await) {
            return Err(Stopped::Failed(failure));
        }
        tracing::warn!(class = %failure.error.class, error = %failure, "a kind is not saved, or only in part");
        if tally.failures.len() < MOST_NAMES {
            tally.failures.push(recorded(failure.report()));
        }
        Ok(())
    }

    /// Reads the chosen namespaces one by one, for an identity that may not list them.
    async fn each_namespace(&mut self, listed: &Listed, tally: &mut ResourceRecord) -> Result<(), Stopped> {
        let (cluster, patience) = (self.lister.cluster, self.lister.patience);
        for name in self.namespaces.chosen.clone() {
            let object = Object { resource: &listed.resource, namespace: None, name: &name };
            let kind = super::item::Kind { api_version: "v1".to_owned(), kind: "Namespace".to_owned() };
            match patience.retried("namespace", || cluster.get(&object)).await {
                Ok(bytes) => match super::item::read(&bytes, &kind) {
                    Ok(item) => Saver { run: self, listed, namespace: None, tally }.accept(Entry::Object(item)).await?,
                    Err(fault) => {
                        tally.failures.push(recorded(Report::new(Class::Integrity, fault.to_string())));
                    }
                },
                Err(failure) => self.failed(failure, tally).await?,
            }
        }
        Ok(())
    }

    fn is_chosen(&self, namespace: &str) -> bool {
        self.lister.selection.namespaces.fit(namespace) && !self.namespaces.deleting.contains(namespace)
    }
}

fn recorded(report: Report) -> Failed {
    Failed { class: report.class, message: report.message, code: report.code, remedy: report.remedy }
}
