//! Compares a backup with the live cluster, one kind after another, a page of the cluster's list at a time.
//!
//! Lists only the kinds and the namespaces that the backup has. An object that a backup skips ([`skipped`]) is no difference, nor is one
//! that the job's label selector, or `cluster_resources = "auto"`, may have left out.
//!
//! [`skipped`]: crate::resources::skip::skipped

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::archive::{Archive, Listed, Member};
use super::cleaned::{self, Digest, Fields};
use super::live::Live;
use super::{Allowance, Error, Filter};
use crate::cluster::{Cluster, Failure, Resource, Scope};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::Name;
use crate::resources::discover::discover;
use crate::resources::discovery::Served;
use crate::resources::pages::{ListError, ListReport, Wanted, list};
use crate::resources::patience::{Patience, is_silent};
use crate::resources::place::Filed;
use crate::resources::skip::Skipped;

/// The bytes of differing live objects that wait until the backup's objects are read: one request fetches many.
pub const BATCH: usize = 4 << 20;

/// Up to this many namespaces are listed one by one; for more, the whole cluster is listed.
const FEW: usize = 8;

/// The memory of a place, including its share of a list's overhead.
const PLACE: usize = 24;

/// The memory of a digest besides its object's name.
const SAVED: usize = 96;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    Changed(Fields),
    OnlyInBackup,
    OnlyInCluster,
}

/// One object that differs.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub item: &'a Name,
    pub filed: &'a Filed,
    /// `shop/web`, or the name alone.
    pub key: &'a str,
    pub difference: &'a Difference,
}

/// Receives differences as they are found.
pub trait Output: Send {
    /// # Errors
    /// When it cannot be written.
    fn difference(&mut self, row: Row<'_>) -> io::Result<()>;
}

/// The result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects that both sides have.
    pub compared: u64,
    pub changed: u64,
    pub only_in_backup: u64,
    pub only_in_cluster: u64,
    /// Kinds that could not be compared, or only in part.
    pub failures: Vec<Report>,
    /// Other notes for the operator.
    pub notes: Vec<String>,
}

impl Summary {
    #[must_use]
    pub const fn differences(&self) -> u64 {
        self.changed + self.only_in_backup + self.only_in_cluster
    }
}

pub struct Comparison<'a> {
    pub cluster: &'a dyn Cluster,
    pub filter: &'a Filter,
    pub patience: Patience,
    /// `limits.memory`.
    pub memory: u64,
    pub cancel: &'a CancellationToken,
}

/// What is kept of an object of the backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Saved {
    pub(super) digest: Digest,
    pub(super) member: Member,
}

/// By `NAMESPACE/NAME`.
pub(super) type Objects = BTreeMap<Box<str>, Saved>;

/// The content of an item.
#[derive(Debug, Default)]
struct Contents {
    kinds: BTreeMap<Filed, Vec<Member>>,
    namespaces: BTreeSet<String>,
}

/// The objects of one kind.
struct Kind {
    objects: Objects,
    /// That of the first of them; empty if there is none.
    api_version: String,
}

impl Comparison<'_> {
    /// Compares all of `archives`.
    ///
    /// # Errors
    /// When the backup cannot be read, the cluster does not answer, or `output` fails. A kind that cannot be listed is in the summary.
    pub async fn run(&self, archives: &[Archive], output: &mut dyn Output) -> Result<Summary, Error> {
        let served = discover(self.cluster, self.patience).await?;
        let mut summary = Summary { notes: Archive::unknown(archives, self.filter), ..Summary::default() };
        for archive in archives {
            self.archive(archive, &served, output, &mut summary).await?;
        }
        Ok(summary)
    }

    async fn archive(
        &self,
        archive: &Archive,
        served: &Served,
        output: &mut dyn Output,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let (filter, memory) = (self.filter.clone(), Allowance::of(self.memory));
        let found = archive.blocking(move |archive| contents(archive, &filter, memory)).await?;
        let (Contents { mut kinds, namespaces }, memory) = found;
        let namespaces = Arc::new(namespaces);
        self.add_empty(archive, served, &mut kinds);
        if !archive.record.selector.is_empty() {
            summary.notes.push(format!(
                "the backup's objects were chosen by labels ({}): objects that only the cluster has are not reported",
                archive.record.selector
            ));
        }
        for (filed, members) in kinds {
            let memory = memory.clone();
            let kind = {
                let (filed, namespaces, cancel) = (filed.clone(), Arc::clone(&namespaces), self.cancel.clone());
                archive
                    .blocking(move |archive| objects(archive, (&filed, &namespaces), &members, memory, &cancel))
                    .await?
            };
            self.kind(archive, served, (&filed, kind), &namespaces, output, summary).await?;
        }
        Ok(())
    }

    /// Adds the kinds that the backup listed, but has no objects of.
    fn add_empty(&self, archive: &Archive, served: &Served, kinds: &mut BTreeMap<Filed, Vec<Member>>) {
        let have: BTreeSet<String> = kinds.keys().map(|filed| filed.resource.clone()).collect();
        let failed = |name: &String| archive.record.resources.get(name).is_some_and(|kind| !kind.failures.is_empty());
        for served in served.kinds.iter().filter(|kind| kind.is_preferred) {
            let resource = served.resource.name();
            let was_listed = archive.record.listed.iter().any(|name| name.split('/').next() == Some(&resource));
            let in_reach = served.resource.scope == Scope::Namespaced || self.filter.namespaces.is_empty();
            if was_listed
                && in_reach
                && self.filter.fits_resource(&resource)
                && !have.contains(&resource)
                && !failed(&resource)
            {
                kinds.insert(Filed { scope: served.resource.scope, resource, version: String::new() }, Vec::new());
            }
        }
    }

    async fn kind(
        &self,
        archive: &Archive,
        served: &Served,
        (filed, mut kind): (&Filed, Kind),
        namespaces: &BTreeSet<String>,
        output: &mut dyn Output,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        match resource(served, filed, &kind.api_version) {
            Some(resource) => {
                if !kind.api_version.is_empty() && resource.api_version() != kind.api_version {
                    summary.notes.push(format!(
                        "the cluster does not serve {filed} as {}; they are compared with those of {}",
                        kind.api_version,
                        resource.api_version()
                    ));
                }
                let whole = is_whole(archive, filed);
                let mut live = Live::new(
                    (archive, filed, resource),
                    namespaces,
                    &mut kind.objects,
                    whole,
                    (output, summary),
                    self.cancel,
                );
                let listed = self.list(resource, namespaces, &mut live).await;
                let finished = live.finish().await;
                if let Some(failure) = listed? {
                    summary.failures.push(failure.report());
                    return Ok(());
                }
                finished?;
            }
            None if is_silent_group(served, filed.group()) => {
                let message = format!("{filed} are not compared: the API group {} does not answer", filed.group());
                summary.failures.push(Report::new(Class::Transient, message));
                return Ok(());
            }
            None => summary.notes.push(format!("the cluster does not serve {filed}")),
        }
        for key in kind.objects.keys() {
            summary.only_in_backup += 1;
            output.difference(Row { item: &archive.item, filed, key, difference: &Difference::OnlyInBackup })?;
        }
        Ok(())
    }

    /// Lists the kind where the backup may have objects of it; returns the failure if it concerns this kind alone.
    async fn list(
        &self,
        resource: &Resource,
        namespaces: &BTreeSet<String>,
        live: &mut Live<'_>,
    ) -> Result<Option<Failure>, Error> {
        let literal =
            !self.filter.namespaces.is_empty() && self.filter.namespaces.iter().all(super::Pattern::is_literal);
        let each = resource.scope == Scope::Namespaced && (literal || namespaces.len() <= FEW);
        let mut failed = None;
        if !each {
            match self.one(resource, None, live).await? {
                Some(failure) if resource.scope == Scope::Namespaced && failure.error.status == Some(403) => {}
                ended => return Ok(ended),
            }
        }
        for namespace in namespaces {
            if let Some(failure) = self.one(resource, Some(namespace), live).await? {
                failed = Some(failure);
            }
        }
        Ok(failed)
    }

    async fn one(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        live: &mut Live<'_>,
    ) -> Result<Option<Failure>, Error> {
        let wanted = Wanted { resource, namespace, selector: "", fields: "" };
        match list(self.cluster, self.patience, wanted, &mut ListReport::default(), live).await {
            Ok(()) => Ok(None),
            Err(ListError::Closed) => {
                Err(live.failure.take().unwrap_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe).into()))
            }
            Err(ListError::Failed(failure)) => {
                let gone =
                    failure.error.status == Some(401) || (is_silent(&failure) && self.cluster.version().await.is_err());
                if gone { Err(failure.into()) } else { Ok(Some(failure)) }
            }
        }
    }
}

/// The place of each object that `filter` selects.
fn contents(archive: &Archive, filter: &Filter, mut memory: Allowance) -> Result<(Contents, Allowance), Error> {
    let mut contents = Contents::default();
    contents.namespaces.extend(archive.record.namespaces.iter().filter(|name| filter.fits_namespace(name)).cloned());
    archive.list(|Listed { place, member, .. }| {
        if let Some(namespace) = place.within().filter(|namespace| filter.fits_namespace(namespace))
            && !contents.namespaces.contains(namespace)
        {
            memory.take(namespace.len() + SAVED)?;
            contents.namespaces.insert(namespace.to_owned());
        }
        if filter.fits(&place) {
            memory.take(PLACE)?;
            if let Some(members) = contents.kinds.get_mut(&place.filed) {
                members.push(member);
            } else {
                memory.take(place.filed.resource.len() + SAVED)?;
                contents.kinds.insert(place.filed, vec![member]);
            }
        }
        Ok(())
    })?;
    Ok((contents, memory))
}

/// Computes the digests of one kind.
fn objects(
    archive: &Archive,
    (filed, namespaces): (&Filed, &BTreeSet<String>),
    members: &[Member],
    mut memory: Allowance,
    cancel: &CancellationToken,
) -> Result<Kind, Error> {
    let mut kind = Kind { objects: Objects::new(), api_version: String::new() };
    let mut places = members.iter();
    archive.read(members, cancel, |object, mut value| {
        let member = *places.next().ok_or(Error::Mismatch)?;
        if object.place.filed != *filed || object.place.within().is_some_and(|name| !namespaces.contains(name)) {
            return Err(Error::Mismatch);
        }
        if kind.api_version.is_empty() {
            value["apiVersion"].as_str().unwrap_or_default().clone_into(&mut kind.api_version);
        }
        cleaned::clean(&mut value);
        let key = object.place.key();
        memory.take(key.len() + SAVED)?;
        let saved = Saved { digest: cleaned::digest_of(&value, &object.bytes), member };
        if kind.objects.insert(key.clone().into(), saved).is_some() {
            let reason = "the archive contains it twice".to_owned();
            return Err(Error::Refused { member: format!("{filed} {key}"), reason });
        }
        Ok(())
    })?;
    Ok(kind)
}

/// The cluster's resource for the kind: in the saved version, or else in the preferred one.
fn resource<'a>(served: &'a Served, filed: &Filed, api_version: &str) -> Option<&'a Resource> {
    let kinds = || {
        served.kinds.iter().filter(|kind| {
            let resource = &kind.resource;
            resource.name() == filed.resource && resource.scope == filed.scope && kind.verbs.contains("list")
        })
    };
    let same = kinds().find(|kind| kind.resource.api_version() == api_version);
    same.or_else(|| kinds().find(|kind| kind.is_preferred)).map(|kind| &kind.resource)
}

/// Whether no object of the kind may be missing from the backup because of a choice that cannot be repeated here.
fn is_whole(archive: &Archive, filed: &Filed) -> bool {
    let (record, not_referred) = (&archive.record, Skipped::NotReferred.as_str());
    let chosen = record.resources.get(&filed.to_string()).is_some_and(|kind| kind.skipped.contains_key(not_referred));
    record.selector.is_empty() && !chosen
}

fn is_silent_group(served: &Served, group: &str) -> bool {
    let is_of = |version: &String| version.split_once('/').is_some_and(|(name, _)| name == group);
    served.stale.iter().chain(&served.missing).any(is_of)
}
