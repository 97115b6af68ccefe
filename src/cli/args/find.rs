//! The arguments of the commands that look for backups and for what is in them: `list`, `ls`, `find`, `diff`.

use std::num::NonZeroUsize;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{Key, Place, help, versions};
use crate::catalog::Selector;
use crate::format::claim::ClaimName;
use crate::format::key::Name;

/// List committed backups, newest first.
///
/// NEW is the size of the objects that a backup added to the bucket, STORED that of all it refers to, its own and earlier backups'.
#[derive(Debug, Args)]
#[command(after_help = help::LIST)]
pub(in crate::cli) struct List {
    /// Only this job's.
    #[arg(value_name = "JOB", id = "positional_job", conflicts_with = "job")]
    pub(in crate::cli) named: Option<Name>,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) whose: Whose,
    /// Only backups that have this item, also where it failed.
    #[arg(long, value_name = "ITEM")]
    pub(in crate::cli) item: Option<Name>,
    #[command(flatten)]
    pub(in crate::cli) newest: Newest,
}

/// Whose backups to look at.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Whose {
    /// Only this job's.
    #[arg(long)]
    pub(in crate::cli) job: Option<Name>,
    /// Only this node's.
    #[arg(long)]
    pub(in crate::cli) node: Option<Name>,
    /// Only this claim's: the volume of a pod that has backups of its own.
    #[arg(long, value_name = "NAMESPACE/CLAIM", conflicts_with = "node")]
    pub(in crate::cli) claim: Option<ClaimName>,
}

impl Whose {
    /// In the place of the node's name: of a claim, or of a node.
    pub(in crate::cli) fn node(&self) -> Option<Name> {
        self.claim.as_ref().map(ClaimName::chain).or_else(|| self.node.clone())
    }
}

/// How far back to look.
#[derive(Debug, Clone, Copy, Args)]
pub(in crate::cli) struct Newest {
    /// Only backups taken since then: a time, or how long ago (`7d`).
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(in crate::cli) since: Option<Timestamp>,
    /// At most this many lines, the newest.
    #[arg(long, value_name = "N")]
    pub(in crate::cli) limit: Option<NonZeroUsize>,
}

impl Newest {
    pub(in crate::cli) fn most(&self) -> usize {
        self.limit.map_or(usize::MAX, NonZeroUsize::get)
    }

    /// Whether a backup taken at this time counts.
    pub(in crate::cli) fn holds(&self, taken: Timestamp) -> bool {
        self.since.is_none_or(|since| taken >= since)
    }
}

fn since(text: &str) -> Result<Timestamp, String> {
    let Ok(ago) = humantime::parse_duration(text) else {
        return versions::time(text).map_err(|error| format!("{error}; or how long ago, such as 12h or 7d"));
    };
    let ago = SignedDuration::try_from(ago).map_err(|error| error.to_string())?;
    Timestamp::now().checked_sub(ago).map_err(|_| "that is before all time".to_owned())
}

/// List a folder of a backup's trees.
///
/// Shows type and mode, owner, size, time of change (UTC) and ITEM/PATH. Without PATH it lists the root of the tree, or the items where the
/// backup has several. Reads the backup's indexes, no content.
#[derive(Debug, Args)]
#[command(after_help = help::LS)]
pub(in crate::cli) struct Ls {
    /// An ID or the beginning of one, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    /// A path in the tree, ITEM/PATH as it is printed, or the path on the node. With wildcards a pattern: whatever matches is listed.
    #[arg(value_name = "PATH")]
    pub(in crate::cli) path: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    /// Only this item.
    #[arg(long, value_name = "ITEM")]
    pub(in crate::cli) item: Option<Name>,
    /// Everything below the folder too.
    #[arg(short, long)]
    pub(in crate::cli) recursive: bool,
}

/// Find the backups that have a file: a line for each version of it, newest first.
///
/// Looks through the indexes of all backups, of every node, for files and folders whose path matches. Consecutive backups of a job and node that have a
/// file with the same size and time of change make one line: its newest backup, and how many have it.
#[derive(Debug, Args)]
#[command(after_help = help::FIND)]
pub(in crate::cli) struct Find {
    /// A path or a pattern: `*` stays within a folder, `**` is any folders, and a pattern without a slash matches in any folder.
    #[arg(value_name = "GLOB")]
    pub(in crate::cli) glob: String,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    #[command(flatten)]
    pub(in crate::cli) whose: Whose,
    /// Only this item.
    #[arg(long, value_name = "ITEM")]
    pub(in crate::cli) item: Option<Name>,
    #[command(flatten)]
    pub(in crate::cli) newest: Newest,
}

/// Show the files in which two backups differ: added, removed and changed, and how many bytes.
///
/// Compares what the indexes say: type, size, time of change, link, mode and owner; of folders type, mode and owner. A file whose content
/// changed and whose size and time did not is not noticed. Both may be of one job and node, or of different ones; items are compared by name.
#[derive(Debug, Args)]
#[command(after_help = help::DIFF)]
pub(in crate::cli) struct Diff {
    /// The older one: an ID or the beginning of one, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) before: Selector,
    /// The newer one.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) after: Selector,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    /// Only this item.
    #[arg(long, value_name = "ITEM")]
    pub(in crate::cli) item: Option<Name>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2026-11-23"), Ok("2026-11-23T00:00:00Z".parse().unwrap()));
        let ago = Timestamp::now().duration_since(since("7d").unwrap());
        assert!((ago - SignedDuration::from_hours(7 * 24)).abs() < SignedDuration::from_mins(1), "{ago}");
        for bad in ["yesterday", "", "99999999999y"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
