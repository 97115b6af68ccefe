//! What the state directory remembers of a run with snapshots: which backup, and how far it came.
//!
//! `STATE_DIR/snapshots/ID.json`, replaced whole (written beside, fsynced, renamed, the folder fsynced). The job's lock
//! beside it is held for as long as a run or a recovery works on it: a record whose lock is free belongs to a process that died.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Owner};
use crate::format::key::{BackupId, BackupPrefix, Chain, Name, cluster_prefix};
use crate::format::manifest::Manifest;
use crate::state::unlock;

const VERSION: u32 = 1;

#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

/// One run of a job's snapshots at a time, over all processes that share a state directory.
#[derive(Debug)]
pub struct Lock {
    job: Name,
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        unlock(&self.file);
    }
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
    cluster: Name,
    job: Name,
    node: Name,
    id: BackupId,
    pub(super) written: jiff::Timestamp,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// Snapshots may exist; nothing will name them unless this run goes on.
    Creating,
    /// All is captured. What is missing are snapshots to complete and the manifest to be written, or to be written again.
    Captured(Box<Manifest>),
}

impl Saved {
    pub(super) fn owner(&self) -> Owner {
        let chain = Chain { cluster: self.cluster.clone(), job: self.job.clone(), node: self.node.clone() };
        Owner { chain, id: self.id.clone() }
    }

    pub(super) fn backup(&self) -> BackupPrefix {
        let Owner { chain, id } = self.owner();
        BackupPrefix::new(&self.prefix, &chain, &id)
    }

    pub(super) fn cluster_prefix(&self) -> String {
        cluster_prefix(&self.prefix, &self.cluster)
    }
}

/// A record that this process may change.
#[derive(Debug)]
pub(super) struct Record<'a> {
    records: Records,
    pub(super) saved: Saved,
    _lock: &'a Lock,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Record { action, path: path.to_owned(), error }
}

impl Records {
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("snapshots") }
    }

    /// # Errors
    /// When another process, or another run in this one, has it, or the state directory cannot be written to.
    pub fn lock(&self, job: &Name) -> Result<Lock, Error> {
        fs::create_dir_all(&self.folder).map_err(failed("creating", &self.folder))?;
        let path = self.folder.join(format!("{job}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed("opening", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { job: job.clone(), file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Running { job: job.clone(), path }),
            Err(fs::TryLockError::Error(error)) => Err(failed("locking", &path)(error)),
        }
    }

    /// Writes down that snapshots of this backup are about to be created.
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
            cluster: chain.cluster,
            job: chain.job,
            node: chain.node,
            id,
            written: jiff::Timestamp::now(),
            phase: Phase::Creating,
        };
        self.write(&saved)?;
        Ok(Record { records: self.clone(), saved, _lock: lock })
    }

    /// The records at `location` of the job that `lock` is for.
    pub(super) fn of<'a>(&self, lock: &'a Lock, location: &str) -> Result<Vec<Record<'a>>, Error> {
        let saved = self.all()?.into_iter().filter(|saved| saved.location == location && saved.job == lock.job);
        Ok(saved.map(|saved| Record { records: self.clone(), saved, _lock: lock }).collect())
    }

    /// Every job that has one at `location`.
    pub(super) fn jobs(&self, location: &str) -> Result<BTreeSet<Name>, Error> {
        let saved = self.all()?.into_iter().filter(|saved| saved.location == location);
        Ok(saved.map(|saved| saved.job).collect())
    }

    /// The backups that are being made, or whose snapshots are still pending.
    #[cfg(test)]
    pub(crate) fn backups(&self) -> Result<BTreeSet<BackupId>, Error> {
        Ok(self.all()?.into_iter().map(|saved| saved.id).collect())
    }

    fn all(&self) -> Result<Vec<Saved>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("reading", &self.folder)(error)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed("reading", &self.folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = match fs::read(&path) {
                Ok(text) => text,
                // Another process finished it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("reading", &path)(error)),
            };
            match serde_json::from_slice::<Saved>(&text) {
                Ok(saved) if saved.version == VERSION => all.push(saved),
                // Left where it is, for the version that wrote it.
                Ok(saved) => {
                    tracing::error!(path = %path.display(), version = saved.version, "a record of another version of Penstock");
                }
                Err(error) => tracing::error!(path = %path.display(), %error, "a record that cannot be read"),
            }
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    fn write(&self, saved: &Saved) -> Result<(), Error> {
        let path = self.path(&saved.id);
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".record-").tempfile_in(&self.folder)?;
            serde_json::to_writer_pretty(&mut file, saved)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(failed("writing", &path))
    }

    fn path(&self, id: &BackupId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

impl Record<'_> {
    /// Everything is captured: from here on `manifest` is committed, now or by the next start.
    pub(super) fn captured(&mut self, manifest: &Manifest) -> Result<(), Error> {
        self.change(Phase::Captured(Box::new(manifest.clone())))
    }

    /// What was captured is given up.
    pub(super) fn creating(&mut self) -> Result<(), Error> {
        self.change(Phase::Creating)
    }

    fn change(&mut self, phase: Phase) -> Result<(), Error> {
        self.saved.phase = phase;
        self.saved.written = jiff::Timestamp::now();
        self.records.write(&self.saved)
    }

    /// Nothing is left to do for it.
    pub(super) fn remove(self) -> Result<(), Error> {
        let path = self.records.path(&self.saved.id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("removing", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::name;

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
}
