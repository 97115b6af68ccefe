//! Records in the state directory the backup and the phase of a run with snapshots.
//!
//! `STATE_DIR/snapshots/ID.json`, replaced whole ([`state::replace`]). A run or a recovery that works on it holds the job's lock beside
//! it: a record whose lock is free belongs to a process that died.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Owner};
use crate::format::key::{BackupId, BackupPrefix, Chain, Name, cluster_prefix};
use crate::format::manifest::Manifest;
use crate::state;

const VERSION: u32 = 1;

#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// The lock that allows one run of a job's snapshots at a time, over all processes that share a state directory.
#[derive(Debug)]
pub struct Lock {
    job: Name,
    _file: state::Lock,
}

impl Lock {
    pub(super) fn job(&self) -> &Name {
        &self.job
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    version: u32,
    pub(super) location: String,
    prefix: String,
    #[serde(flatten)]
    chain: Chain,
    id: BackupId,
    pub(super) written: jiff::Timestamp,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// Snapshots may exist. Unless this run continues, no manifest will name them.
    Creating,
    /// Everything is captured. Snapshots must complete, and the manifest must be written, or written again.
    Captured(Box<Manifest>),
}

impl Saved {
    pub(super) fn owner(&self) -> Owner {
        Owner { chain: self.chain.clone(), id: self.id.clone() }
    }

    pub(super) fn backup(&self) -> BackupPrefix {
        BackupPrefix::new(&self.prefix, &self.chain, &self.id)
    }

    pub(super) fn cluster_prefix(&self) -> String {
        cluster_prefix(&self.prefix, &self.chain.cluster)
    }
}

/// A record that this process may change.
#[derive(Debug)]
pub(super) struct Record<'a> {
    records: Records,
    pub(super) saved: Saved,
    _lock: &'a Lock,
}

impl Records {
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("snapshots") }
    }

    /// # Errors
    /// When another process, or another run in this one, has locked it, or the state directory cannot be written to.
    pub fn lock(&self, job: &Name) -> Result<Lock, Error> {
        state::make_folder(&self.folder)?;
        let path = self.folder.join(format!("{job}.lock"));
        match state::Lock::at(&path).map_err(state::Error::io("lock", &path))? {
            Some(file) => Ok(Lock { job: job.clone(), _file: file }),
            None => Err(Error::Running { job: job.clone(), path }),
        }
    }

    /// Records that snapshots of this backup are about to be created.
    pub(super) fn begin<'a>(
        &self,
        lock: &'a Lock,
        location: &str,
        prefix: &str,
        owner: &Owner,
    ) -> Result<Record<'a>, Error> {
        let Owner { chain, id } = owner.clone();
        let saved = Saved {
            version: VERSION,
            location: location.to_owned(),
            prefix: prefix.to_owned(),
            chain,
            id,
            written: jiff::Timestamp::now(),
            phase: Phase::Creating,
        };
        self.write(&saved)?;
        Ok(Record { records: self.clone(), saved, _lock: lock })
    }

    /// The records at `location` of the job that `lock` is for.
    pub(super) fn of<'a>(&self, lock: &'a Lock, location: &str) -> Result<Vec<Record<'a>>, Error> {
        let saved = self.all()?.into_iter().filter(|saved| saved.location == location && saved.chain.job == lock.job);
        Ok(saved.map(|saved| Record { records: self.clone(), saved, _lock: lock }).collect())
    }

    /// Every job that has a record at `location`.
    pub(super) fn jobs(&self, location: &str) -> Result<BTreeSet<Name>, Error> {
        let saved = self.all()?.into_iter().filter(|saved| saved.location == location);
        Ok(saved.map(|saved| saved.chain.job).collect())
    }

    /// The backups of all records: being made, or with pending snapshots.
    #[cfg(test)]
    pub(crate) fn backups(&self) -> Result<BTreeSet<BackupId>, Error> {
        Ok(self.all()?.into_iter().map(|saved| saved.id).collect())
    }

    fn all(&self) -> Result<Vec<Saved>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(state::Error::io("read", &self.folder)(error).into()),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(state::Error::io("read", &self.folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = match fs::read(&path) {
                Ok(text) => text,
                // Another process removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(state::Error::io("read", &path)(error).into()),
            };
            match serde_json::from_slice::<Saved>(&text) {
                Ok(saved) if saved.version == VERSION => all.push(saved),
                // Left where it is, for the version that wrote it.
                Ok(saved) => {
                    tracing::error!(path = %path.display(), version = saved.version, "snapshot record left as it is: another version of Penstock wrote it");
                }
                Err(error) => tracing::error!(path = %path.display(), %error, "could not read a snapshot record"),
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    fn write(&self, saved: &Saved) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(saved).expect("a record has only string keys");
        Ok(state::replace(&self.path(&saved.id), &bytes)?)
    }

    fn path(&self, id: &BackupId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

impl Record<'_> {
    /// Records that everything is captured: this run or the next start commits `manifest`.
    pub(super) fn captured(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.change(Phase::Captured(Box::new(manifest.redacted())))
    }

    /// Records that the captured backup will not be committed.
    pub(super) fn creating(&mut self) -> Result<(), Error> {
        self.change(Phase::Creating)
    }

    fn change(&mut self, phase: Phase) -> Result<(), Error> {
        self.saved.phase = phase;
        self.saved.written = jiff::Timestamp::now();
        self.records.write(&self.saved)
    }

    /// Removes the record: its backup needs nothing more.
    pub(super) fn remove(self) -> Result<(), Error> {
        let path = self.records.path(&self.saved.id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(state::Error::io("remove", &path)(error).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::name;

    #[test]
    fn a_job_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path());
        let lock = records.lock(&name("disks")).unwrap();
        assert!(matches!(records.lock(&name("disks")), Err(Error::Running { .. })));
        assert!(records.lock(&name("other")).is_ok());
        drop(lock);
        assert!(records.lock(&name("disks")).is_ok());
    }

    #[test]
    fn records_stay_until_they_are_removed_and_strangers_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path());
        assert!(records.backups().unwrap().is_empty());
        let lock = records.lock(&name("disks")).unwrap();
        let chain = Chain { cluster: name("c"), job: name("disks"), node: name("n") };
        let owner = Owner { chain, id: "20261123T221300Z-4f9a2c".parse().unwrap() };
        let record = records.begin(&lock, "primary", "fleet", &owner).unwrap();
        for (file, text) in [("x.json", "{"), ("y.json", "{}"), ("z.txt", "{")] {
            fs::write(folder.path().join("snapshots").join(file), text).unwrap();
        }
        let read = records.of(&lock, "primary").unwrap();
        assert_eq!(read.iter().map(|read| &read.saved).collect::<Vec<_>>(), [&record.saved]);
        assert_eq!(read[0].saved.owner(), owner);
        assert_eq!(read[0].saved.backup().manifest().as_str(), "fleet/c/disks/n/20261123T221300Z-4f9a2c/manifest.json");
        assert!(records.of(&lock, "secondary").unwrap().is_empty());
        assert_eq!(records.jobs("primary").unwrap().into_iter().collect::<Vec<_>>(), [name("disks")]);
        record.remove().unwrap();
        assert!(records.backups().unwrap().is_empty());
        assert!(folder.path().join("snapshots/x.json").exists());
    }

    #[test]
    fn a_record_has_the_fields_of_earlier_versions() {
        let json = r#"{"version":1,"location":"l","prefix":"p","cluster":"c","job":"j","node":"n","id":"20261123T221300Z-4f9a2c","written":"1970-01-01T00:00:00Z","phase":"creating"}"#;
        let saved: Saved = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&saved).unwrap(), json);
    }
}
