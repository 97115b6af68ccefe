//! Stores a record of each job between starts: `STATE_DIR/jobs/NAME.json`.
//!
//! A save replaces the whole file, so a crash leaves the old or the new one. A file that cannot be read is logged and counts as
//! missing: the job then has no last success, and its next run is the schedule's. A job that leaves the configuration keeps
//! its file and uses it again when it comes back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Class, Report};
use crate::format::key::Name;
use crate::metrics::Outcome;
use crate::state::{self, make_folder, replace};

/// A record has some hundred bytes, and an error's message some thousand at most.
const MAX_RECORD: u64 = 256 << 10;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The schedule that gave `planned`. Under another schedule no missed run is made up for.
    #[serde(default)]
    pub(super) schedule: Option<String>,
    /// When the next run is due. A time in the past, read at a start, is a missed run.
    #[serde(default)]
    pub(super) planned: Option<Timestamp>,
    /// A run began and did not end by itself: the daemon was stopped, or died.
    #[serde(default)]
    pub(super) interrupted: bool,
    #[serde(default)]
    pub(super) last: Option<Ended>,
    /// When the last good backup was committed.
    #[serde(default)]
    pub(super) last_success: Option<Timestamp>,
    /// The last run's backup is encrypted: the message of its failure may name a path, and is not saved.
    #[serde(skip)]
    pub(super) encrypts: bool,
}

/// What is saved in place of the message of a failure.
const NOT_SAVED: &str = "the reason is in the log only: a node that encrypts keeps nothing that may name a path";

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
                tracing::error!(%job, class = %Class::Local, %error, "could not read the job's record: starting without its last run");
                Record::default()
            }
        }
    }

    /// # Errors
    /// When the record could not be written; the old file is still there.
    pub(super) fn save(&self, job: &Name, record: &Record) -> Result<(), state::Error> {
        let mut record = record.clone();
        if let Some(error) = record.last.as_mut().and_then(|last| last.error.as_mut()).filter(|_| record.encrypts) {
            *error = Report::new(error.class, NOT_SAVED);
        }
        replace(&self.path(job), &serde_json::to_vec(&record).expect("a record has only string keys"))
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
    fn a_record_is_read_back_and_a_broken_one_counts_as_missing() {
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
            encrypts: false,
        };
        state.save(&job, &record).unwrap();
        assert_eq!(state.load(&job), record);
        state.save(&job, &Record { encrypts: true, ..record.clone() }).unwrap();
        let saved = state.load(&job).last.unwrap().error.unwrap();
        assert_eq!(saved, Report::new(Class::KmsDenied, NOT_SAVED));
        assert_eq!(fs::read_dir(folder.path().join("jobs")).unwrap().count(), 1, "no temporary file stays");
        for broken in ["", "{", "[]", "{\"last\": 5}"] {
            fs::write(state.path(&job), broken).unwrap();
            assert_eq!(state.load(&job), Record::default(), "{broken}");
        }
        // A record of an older or a newer version.
        fs::write(state.path(&job), "{\"last_success\":\"1970-01-01T00:00:05Z\",\"new\":1}").unwrap();
        assert_eq!(state.load(&job), Record { last_success: Some(at(5)), ..Record::default() });
    }
}
