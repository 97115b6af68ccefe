//! Reads the API objects in a backup of a cluster: their names, the bytes of each, and how they differ from the live cluster.
//!
//! - [`archive`] reads the names from an item's index, and objects from its archive, each from its own range.
//! - [`cleaned`] removes the fields that the server owns, and finds those in which two objects differ.
//! - [`diff`] compares a backup with a cluster, one kind after another.
//!
//! # What it promises
//! Only [`archive::Object::bytes`] exposes an object's content: errors and differences name objects and fields. The archive is not
//! trusted: a member whose object does not match its path is an error that names it.
//!
//! # What it costs
//! While a backup is compared: a few bytes for each object's place and a digest for each object of one kind, within half of
//! `limits.memory`; the download's own buffers; the current object, and [`diff::BATCH`] of objects that differ.

pub mod archive;
pub mod cleaned;
pub mod diff;
mod live;

use crate::cluster;
use crate::download;
use crate::error::{Class, Classify, Report};
use crate::nearest::nearest;
use crate::resources::place::Place;
use crate::resources::select::Pattern;
use crate::tar;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Download(#[from] download::Error),
    #[error(transparent)]
    Archive(tar::Error),
    #[error("the archive's member {member:?} is refused: {reason}")]
    Refused { member: String, reason: String },
    #[error("the archive does not contain the members that its index names")]
    Mismatch,
    #[error("the names of so many objects do not fit into the {total} bytes of limits.memory")]
    Memory { total: u64 },
    #[error(transparent)]
    Cluster(#[from] cluster::Failure),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("could not write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl Classify for Error {
    fn report(&self) -> Report {
        let class = match self {
            Self::Download(error) => return error.report(),
            Self::Cluster(failure) => return failure.report(),
            Self::Memory { .. } => {
                let remedy = "raise limits.memory, or select fewer objects with --namespace and --resource";
                return Report::new(Class::Local, self.to_string()).remedy(remedy);
            }
            Self::Archive(tar::Error::Read { .. }) | Self::Output(_) => Class::Local,
            Self::Archive(_) | Self::Refused { .. } | Self::Mismatch => Class::Integrity,
            Self::NotFound(_) => Class::NotFound,
            Self::Usage(_) => Class::Config,
        };
        Report::new(class, self.to_string())
    }
}

/// Selects objects.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty: every namespace, and cluster-scoped objects. Otherwise only these namespaces, and what is in them.
    pub namespaces: Vec<Pattern>,
    /// Matches `plural.group` or plural; empty: every kind.
    pub resources: Vec<Pattern>,
}

impl Filter {
    /// # Errors
    /// When a pattern is not a glob.
    pub fn new(namespaces: &[String], resources: &[String]) -> Result<Self, Error> {
        let compile = |option: &str, globs: &[String]| -> Result<Vec<Pattern>, Error> {
            let compile =
                |glob: &String| Pattern::new(glob).map_err(|why| Error::Usage(format!("--{option} {glob:?} {why}")));
            globs.iter().map(compile).collect()
        };
        Ok(Self { namespaces: compile("namespace", namespaces)?, resources: compile("resource", resources)? })
    }

    #[must_use]
    pub fn fits(&self, place: &Place) -> bool {
        let namespace = match place.within() {
            Some(namespace) => self.fits_namespace(namespace),
            None => self.namespaces.is_empty(),
        };
        namespace && self.fits_resource(&place.filed.resource)
    }

    #[must_use]
    pub fn fits_namespace(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|pattern| pattern.fits(namespace))
    }

    #[must_use]
    pub fn fits_resource(&self, resource: &str) -> bool {
        let plural = resource.split('.').next().unwrap_or_default();
        self.resources.is_empty() || self.resources.iter().any(|pattern| pattern.fits(resource) || pattern.fits(plural))
    }

    /// A message for globs that match nothing, with the nearest of the existing names.
    #[must_use]
    pub fn fits_nothing(&self, namespaces: &[String], resources: &[String]) -> Vec<String> {
        let row = |option: &str, pattern: &Pattern, names: &[String]| {
            let nearest = nearest(pattern.text(), names.iter().cloned());
            let meant = nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"));
            format!("nothing in the backup matches --{option} {:?}{meant}", pattern.text())
        };
        let namespaces = self
            .namespaces
            .iter()
            .filter(|pattern| !namespaces.iter().any(|name| pattern.fits(name)))
            .map(|pattern| row("namespace", pattern, namespaces));
        let plural = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
        let names: Vec<String> = resources.iter().flat_map(|name| [name.clone(), plural(name)]).collect();
        let resources = self
            .resources
            .iter()
            .filter(|pattern| !names.iter().any(|name| pattern.fits(name)))
            .map(|pattern| row("resource", pattern, &names));
        namespaces.chain(resources).collect()
    }
}

/// The memory for names, digests and places; an estimate is taken before each is stored.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    left: u64,
    total: u64,
}

impl Allowance {
    /// Half of `limits.memory`: the download has buffers too.
    pub(crate) const fn of(limit: u64) -> Self {
        Self { left: limit / 2, total: limit }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(Error::Memory { total: self.total })?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
