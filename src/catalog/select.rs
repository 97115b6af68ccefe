//! How a user names a backup, and which one that is.
//!
//! An id may be shortened to its first [`FEWEST`] characters or more, if only one backup's id begins so: of the chains that the name leaves
//! open, as [`Catalog::resolve`] looks at them. Two backups with the same beginning are an error that names them, never a choice.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::{Catalog, Entry, Error, Found, Known, Scope};
use crate::format::claim::Chained;
use crate::format::key::{BackupId, BackupIdError, Kind, Name};

/// Of a shortened id: the year.
const FEWEST: usize = 4;

/// How many candidates an error names.
const NAMED: usize = 8;

/// How a user names a backup: `ID`, `JOB@ID`, `JOB@latest` or `JOB/NODE@latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    job: Option<Name>,
    node: Option<Name>,
    which: Which,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Latest,
    Id(BackupId),
    /// The only one whose id begins so.
    Begins(String),
}

impl FromStr for Which {
    type Err = BackupIdError;

    fn from_str(id: &str) -> Result<Self, BackupIdError> {
        match id.parse() {
            Err(_) if id.len() >= FEWEST && BackupId::may_begin(id) => Ok(Self::Begins(id.to_owned())),
            id => Ok(Self::Id(id?)),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shorter = |error: BackupIdError| format!("{error} or its first characters ({FEWEST} or more)");
        let Some((chain, id)) = text.rsplit_once('@') else {
            let which = text.parse().map_err(shorter);
            let which = which.map_err(|error| format!("{error}, JOB@latest, JOB@ID or JOB/NODE@latest"))?;
            return Ok(Self { job: None, node: None, which });
        };
        let name = |what: &str, text: &str| Name::new(text).map_err(|error| format!("the {what} {text:?} {error}"));
        let (job, node) = match chain.split_once('/') {
            None => (name("job", chain)?, None),
            Some((job, node)) => (name("job", job)?, Some(name("node", node)?)),
        };
        let which = if id == "latest" { Which::Latest } else { id.parse().map_err(shorter)? };
        Ok(Self { job: Some(job), node, which })
    }
}

impl Selector {
    /// The newest backup of any job.
    pub const NEWEST: Self = Self { job: None, node: None, which: Which::Latest };

    /// The same of `node`, and of `job` where it names none.
    #[must_use]
    pub fn of_node(self, node: Name, job: Option<&Name>) -> Self {
        Self { job: self.job.or_else(|| job.cloned()), node: Some(node), which: self.which }
    }

    /// The job it names.
    #[must_use]
    pub fn job(&self) -> Option<&Name> {
        self.job.as_ref()
    }

    /// The node it names.
    #[must_use]
    pub fn node(&self) -> Option<&Name> {
        self.node.as_ref()
    }

    /// Whether its id is shortened.
    #[must_use]
    pub const fn is_shortened(&self) -> bool {
        matches!(self.which, Which::Begins(_))
    }

    const fn scope(&self) -> Scope<'_> {
        Scope { job: self.job.as_ref(), node: self.node.as_ref() }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.job, &self.node) {
            (Some(job), Some(node)) => write!(f, "{job}/{node}@")?,
            (Some(job), None) => write!(f, "{job}@")?,
            (None, Some(node)) => match Chained::of(node) {
                Some(volume) => write!(f, "{volume}@")?,
                None => write!(f, "{node}@")?,
            },
            (None, None) => {}
        }
        match &self.which {
            Which::Id(id) => write!(f, "{id}"),
            Which::Begins(id) => f.write_str(id),
            Which::Latest => f.write_str("latest"),
        }
    }
}

impl Catalog {
    /// Finds the backup that `selector` names. If the selector names no node, `latest` means that of `node`; other nodes' backups are
    /// considered only if it has none.
    ///
    /// # Errors
    /// When listing fails, there is no such backup, or a shortened id fits several.
    pub async fn resolve(&self, selector: &Selector, node: &Name) -> Result<Entry, Error> {
        let anywhere = selector.scope();
        let here = Scope { node: Some(selector.node.as_ref().unwrap_or(node)), ..anywhere };
        // The beginning of an id must fit only one backup of all.
        let here_first = selector.node.is_none() && !(selector.job.is_none() && selector.is_shortened());
        let scopes = if here_first { vec![here, anywhere] } else { vec![anywhere] };
        for scope in scopes {
            let mut choice = Choice::new(selector, node);
            self.walk(scope, |found| {
                choice.consider(&found);
                Ok(())
            })
            .await?;
            if let Some(entry) = choice.made()? {
                return Ok(entry);
            }
        }
        let missing = Error::NotFound { what: selector.to_string(), cluster: self.location.cluster.clone() };
        Err(self.unknown(anywhere, &Known::default()).await.unwrap_or(missing))
    }
}

/// The best match for a selector so far: this node's newest, or else the newest of any node.
pub(super) struct Choice<'a> {
    selector: &'a Selector,
    node: &'a Name,
    best: Option<Entry>,
    /// How many backups a shortened id fits, and the newest of them.
    count: usize,
    candidates: BTreeSet<(String, String)>,
}

impl<'a> Choice<'a> {
    pub(super) const fn new(selector: &'a Selector, node: &'a Name) -> Self {
        Self { selector, node, best: None, count: 0, candidates: BTreeSet::new() }
    }

    pub(super) fn consider(&mut self, found: &Found) {
        let fits = match &self.selector.which {
            Which::Latest => true,
            Which::Id(id) => *id == found.id,
            Which::Begins(begin) => found.id.as_str().starts_with(begin),
        };
        if found.kind != Kind::Manifest || !self.selector.scope().holds(&found.chain) || !fits {
            return;
        }
        let entry = found.entry();
        if self.selector.is_shortened() {
            self.count += 1;
            let name = format!("{}/{}@{}", entry.chain.job, entry.chain.node, entry.id);
            self.candidates.insert((entry.id.to_string(), name));
            if self.candidates.len() > NAMED {
                self.candidates.pop_first();
            }
        }
        let rank = |entry: &Entry| {
            let (taken, id, chain) = entry.age();
            (entry.chain.node == *self.node, taken, id.clone(), chain.clone())
        };
        if self.best.as_ref().is_none_or(|best| rank(best) < rank(&entry)) {
            self.best = Some(entry);
        }
    }

    pub(super) fn made(self) -> Result<Option<Entry>, Error> {
        if self.count > 1 {
            let candidates = self.candidates.into_iter().rev().map(|(_, name)| name).collect();
            return Err(Error::Ambiguous { what: self.selector.to_string(), count: self.count, candidates });
        }
        Ok(self.best)
    }
}
