//! What the daemon remembers of each job between starts: `STATE_DIR/jobs/NAME.json`.
//!
//! A file is replaced whole, so a crash leaves the old or the new one. A file that cannot be read is said and counts as
//! none: the job then has no last success, and its next run is the schedule's. A job that leaves the configuration keeps
//! its file, and finds it when it comes back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Class, Report};
use crate::format::key::Name;
use crate::metrics::Outcome;
use crate::state::{self, make_folder, replace};

/// A record is some hundred bytes, and an error's message some thousand at most.
const MAX_RECORD: u64 = 256 << 10;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The schedule that `planned` is of: another one makes up for nothing.
    #[serde(default)]
    pub(super) schedule: Option<String>,
    /// When the next run was due; in the past after a start, it was missed.
    #[serde(default)]
    pub(super) planned: Option<Timestamp>,
    /// A run has begun and not come to its own end: the process ended it, or ended itself.
    #[serde(default)]
    pub(super) interrupted: bool,
    #[serde(default)]
    pub(super) last: Option<Ended>,
    /// When the last good backup was committed.
    #[serde(default)]
    pub(super) last_success: Option<Timestamp>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
    pub(super) outcome: Outcome,
    /// The committed backup.
    pub(super) backup: Option<String>,
    pub(super) error: Option<Report>,
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub(super) struct State {
    folder: PathBuf,
}

impl State {
    /// # Errors
    /// When the folder cannot be made.
    pub(super) fn open(state_dir: &Path) -> Result<Self, state::Error> {
        let folder = state_dir.join("jobs");
        make_folder(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, job: &Name) -> PathBuf {
        // A name begins with a letter or digit and holds no slash.
        self.folder.join(format!("{job}.json"))
    }

    pub(super) fn load(&self, job: &Name) -> Record {
        match read(&self.path(job)) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => {
                tracing::error!(%job, class = %Class::Local, "what is remembered of the job cannot be read: {error}");
                Record::default()
            }
        }
    }

    /// # Errors
    /// When the record is not on the disk; the old one still is.
    pub(super) fn save(&self, job: &Name, record: &Record) -> Result<(), state::Error> {
        replace(&self.path(job), &serde_json::to_vec(record).expect("a record has only string keys"))
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let file = io::Read::take(fs::File::open(path)?, MAX_RECORD);
    Ok(serde_json::from_reader(io::BufReader::new(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_broken_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (state, job) = (State::open(folder.path()).unwrap(), Name::new("etcd").unwrap());
        assert_eq!(state.load(&job), Record::default());
        let at = |second| Timestamp::from_second(second).unwrap();
        let fault = Report::new(Class::KmsDenied, "refused").remedy("grant it");
        let record = Record {
            schedule: Some("@daily UTC".into()),
            planned: Some(at(90)),
            interrupted: true,
            last: Some(Ended {
                started: at(1),
                finished: at(2),
                outcome: Outcome::Failure,
                backup: None,
                error: Some(fault),
            }),
            last_success: Some(at(5)),
        };
        state.save(&job, &record).unwrap();
        assert_eq!(state.load(&job), record);
        assert_eq!(fs::read_dir(folder.path().join("jobs")).unwrap().count(), 1, "no temporary file stays");
        for broken in ["", "{", "[]", "{\"last\": 5}"] {
            fs::write(state.path(&job), broken).unwrap();
            assert_eq!(state.load(&job), Record::default(), "{broken}");
        }
        // One of a version that knows less, or more.
        fs::write(state.path(&job), "{\"last_success\":\"1970-01-01T00:00:05Z\",\"new\":1}").unwrap();
        assert_eq!(state.load(&job), Record { last_success: Some(at(5)), ..Record::default() });
    }
}
