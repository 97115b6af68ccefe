//! The arguments of `undelete` and `hold`, and of commands that look into the past.

use clap::Args;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::help;
use crate::catalog::Selector;
use crate::format::key::Name;

/// Bring a backup back that was deleted or overwritten, in a bucket that keeps versions.
///
/// Makes the version of each of its objects current again that the backup wrote: removes delete markers and newer versions, or, where these
/// are locked, copies the right version over them. Without --as-of it looks for the newest version of each object below its delete
/// markers; if somebody has put other objects over the backup's, name a time before that.
#[derive(Debug, Args)]
#[command(after_help = help::UNDELETE)]
pub(in crate::cli) struct Undelete {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    /// The location; without this the job's own, or the only one.
    #[arg(long)]
    pub(in crate::cli) location: Option<String>,
    /// Another cluster's backups.
    #[arg(long)]
    pub(in crate::cli) cluster: Option<Name>,
    /// A time at which the backup was whole.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(in crate::cli) as_of: Option<Timestamp>,
}

/// Hold a backup: nobody can delete it, and retention keeps it, until it is released.
///
/// Puts a legal hold (S3 Object Lock) on all that the backup needs. The bucket must have Object Lock; the role needs
/// s3:PutObjectLegalHold, which the daemon's should not have.
#[derive(Debug, Args)]
#[command(after_help = help::HOLD)]
pub(in crate::cli) struct HoldBackup {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    /// The location; without this the job's own, or the only one.
    #[arg(long)]
    pub(in crate::cli) location: Option<String>,
    /// Another cluster's backups.
    #[arg(long)]
    pub(in crate::cli) cluster: Option<Name>,
    /// End the hold.
    #[arg(long)]
    pub(in crate::cli) release: bool,
}

/// A time: RFC 3339, or a date with or without a time of day, in UTC.
pub(in crate::cli) fn time(text: &str) -> Result<Timestamp, String> {
    let civil = || text.parse::<DateTime>().ok()?.to_zoned_datetime(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let expected =
        || "expected a time such as 2026-11-23T22:00:00Z, 2026-11-23T23:00+01:00 or 2026-11-23, which is UTC";
    text.parse().ok().or_else(civil).ok_or_else(|| expected().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("2026-11-23T22:00:00Z", "2026-11-23T22:00:00Z"),
            ("2026-11-23T23:00+01:00", "2026-11-23T22:00:00Z"),
            ("2026-11-23 22:00", "2026-11-23T22:00:00Z"),
            ("2026-11-23", "2026-11-23T00:00:00Z"),
        ] {
            assert_eq!(time(text), Ok(expected.parse().unwrap()), "{text}");
        }
        assert!(time("yesterday").is_err());
    }
}
