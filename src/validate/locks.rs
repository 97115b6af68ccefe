//! The checks of a location that locks its objects (`object_lock`): that the bucket keeps versions and locks, that nobody with this role
//! can end a lock, and each permission that goes with it.
//!
//! The lock of a check lasts for [`LOCK`], so that the clean-up can delete the object when it is over; without
//! `s3:DeleteObjectVersion`, which is optional, it stays hidden, as every object of the location will.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::objects::{Writing, content, good, not_tried, timed};
use super::{Found, Outcome, Proof};
use crate::config::ObjectLock;
use crate::error::{Class, Classify as _, Report};
use crate::format::key::ObjectKey;
use crate::store::{Error, Lock, Overwrite, PartNumber, VersionId, VersionKind};

/// Longer than the checks take that need it.
const LOCK: SignedDuration = SignedDuration::from_secs(15);

const OPTIONAL: &str = "s3:DeleteObjectVersion";

/// The rest of the checks, for when the first one fails.
const LOCKED: [&str; 7] = [
    "s3:GetObjectRetention",
    "s3:PutObjectRetention",
    "lock of an upload",
    "s3:GetObjectVersion",
    "s3:ListBucketVersions",
    "s3:GetObjectLegalHold",
    OPTIONAL,
];

const NO_LOCKS: &str = "enable versioning and Object Lock on the bucket (docs/security.md), or remove object_lock";

/// A version that was written.
struct Version {
    key: ObjectKey,
    id: VersionId,
}

/// `now` is by the store's clock.
pub(super) async fn prove(proof: &mut Proof, writing: &Writing<'_>, wanted: ObjectLock, now: Timestamp) {
    let until = Timestamp::from_second(now.as_second()).unwrap_or(now) + LOCK;
    let lock = Lock { mode: wanted.mode, until };
    let (mut locked, mut free) = (None, None);
    timed(proof, "object lock", async {
        let written = writing.write_version("locked", Some(lock)).await.map_err(refused)?;
        locked = Some(written.ok_or_else(no_versions)?);
        writing.made.locked_until(until);
        Ok(good(format!("written with a lock in {} mode", wanted.mode.as_str())))
    })
    .await;
    let Some(locked) = locked else {
        for name in LOCKED {
            proof.add(name, Duration::ZERO, Ok(not_tried("no object could be locked")));
        }
        return;
    };
    timed(proof, LOCKED[0], writing.read_back(&locked, lock)).await;
    timed(proof, LOCKED[1], writing.longer(&locked, lock)).await;
    timed(proof, LOCKED[2], writing.of_an_upload(lock)).await;
    timed(proof, LOCKED[3], writing.read_version(&locked)).await;
    timed(proof, LOCKED[4], writing.list_versions(&locked)).await;
    timed(proof, LOCKED[5], writing.read_hold(&locked)).await;
    timed(proof, "default retention", async {
        let written = writing.write_version("free", None).await.map_err(|error| error.report())?;
        let version = written.ok_or_else(no_versions)?;
        let found = writing.default_lock(&version, now).await;
        free = Some(version);
        found
    })
    .await;
    let may_delete = match &free {
        Some(free) => writing.store.delete_version(&free.key, &free.id).await,
        None => Err(Error::local("DeleteObjectVersion", &locked.key, Class::Internal, "nothing was written to delete")),
    };
    let deletes = may_delete.is_ok();
    timed(proof, "locked versions stay", writing.stays(&locked, deletes)).await;
    timed(proof, OPTIONAL, async { judge_optional(may_delete) }).await;
    if !deletes {
        // Nothing is gained by waiting for the end of the lock.
        writing.made.locked_until(Timestamp::MIN);
    }
}

/// A PUT without a lock has succeeded before.
fn refused(error: Error) -> Report {
    let report = error.report();
    if report.class != Class::AccessDenied {
        // Ceph says no more than "InvalidRequest" of a bucket without locks.
        let remedy = report.remedy.clone().unwrap_or_else(|| NO_LOCKS.to_owned());
        return report.remedy(remedy);
    }
    report.remedy("the same PUT without a lock succeeded: grant s3:PutObjectRetention on the bucket's objects (`penstock policy`)")
}

fn no_versions() -> Report {
    Report::new(Class::Config, "the bucket keeps no versions, so nothing in it can be locked").remedy(NO_LOCKS)
}

fn judge_optional(result: Result<(), Error>) -> Outcome {
    match result {
        Ok(()) => Ok(good("granted: prune frees what is no longer locked")),
        Err(error) if error.class == Class::AccessDenied => Ok(good(
            "not granted, which is as it may be: prune hides objects, and a lifecycle rule (NoncurrentVersionExpiration) must free them",
        )),
        Err(error) => Err(error.report()),
    }
}

impl Writing<'_> {
    async fn write_version(&self, name: &str, lock: Option<Lock>) -> Result<Option<Version>, Error> {
        let (key, payload) = (self.made.object(name), self.payload(content(self.made)));
        let id = self.store.put_locked(&key, payload, Overwrite::Allow, lock).await?;
        Ok(id.map(|id| Version { key, id }))
    }

    async fn read_back(&self, version: &Version, wanted: Lock) -> Outcome {
        match self.store.lock(&version.key, Some(&version.id)).await.map_err(|error| error.report())? {
            Some(lock) if lock == wanted => Ok(good(format!("locked until {}", lock.until))),
            Some(lock) => Ok(Found::Odd(format!(
                "locked in {} mode until {}; expected {} until {}",
                lock.mode.as_str(),
                lock.until,
                wanted.mode.as_str(),
                wanted.until
            ))),
            None => Err(Report::new(Class::Compat, "the store took the lock and ignored it: the object is not locked")
                .remedy(
                    "the store does not implement Object Lock: remove object_lock; docs/stores.md lists those that do",
                )),
        }
    }

    async fn longer(&self, version: &Version, lock: Lock) -> Outcome {
        let longer = Lock { until: lock.until + SignedDuration::from_secs(1), ..lock };
        let (key, id) = (&version.key, Some(&version.id));
        self.store.set_lock(key, id, longer).await.map_err(|error| error.report())?;
        self.made.locked_until(longer.until);
        match self.store.lock(key, id).await {
            Ok(Some(found)) if found.until >= longer.until => Ok(good("a lock was made longer")),
            Ok(_) => Err(Report::new(Class::Compat, "the store took a longer lock and ignored it").remedy(
                "the store cannot keep backups locked: remove object_lock; docs/stores.md lists those that can",
            )),
            // The check of GetObjectRetention has said so.
            Err(_) => Ok(good("a lock was made longer, as far as the store says")),
        }
    }

    /// A store may lock what is written at once, and ignore the lock of an upload.
    async fn of_an_upload(&self, lock: Lock) -> Outcome {
        let failed = |error: Error| error.report();
        let handle = self.begin_locked("locked-upload", Some(lock)).await.map_err(failed)?;
        let data = content(self.made);
        let (size, checksum) = (data.len() as u64, self.store.algorithm().compute(&data));
        let part = self.part(&handle, PartNumber::FIRST, self.payload(data)).await.map_err(failed)?;
        let completed = self.store.complete_upload(&handle, &[part], size, checksum).await;
        let found = self.store.head(&handle.key).await;
        completed.map(drop).or_else(|error| found.map(drop).map_err(|_| error)).map_err(failed)?;
        self.made.upload_is_gone(&handle);
        match self.store.lock(&handle.key, None).await.map_err(failed)? {
            Some(found) if found.until >= lock.until => Ok(good("an object of parts is locked too")),
            Some(_) | None => Ok(Found::Odd(
                "the store ignores the lock of multipart uploads: each run sets it afterwards, with a request for each object"
                    .to_owned(),
            )),
        }
    }

    async fn read_version(&self, version: &Version) -> Outcome {
        let found = self.store.head_version(&version.key, &version.id).await.map_err(|error| error.report())?;
        Ok(good(format!("a version was read, {} bytes", found.size)))
    }

    async fn list_versions(&self, version: &Version) -> Outcome {
        let page = self.store.list_versions(version.key.as_str(), None).await.map_err(|error| error.report())?;
        let listed = page.entries.iter().any(|entry| entry.version == version.id && entry.kind != VersionKind::Marker);
        if listed {
            return Ok(good("allowed"));
        }
        Err(Report::new(Class::Compat, "the version just written is not in the list of versions")
            .remedy("--as-of and undelete will not work with this store"))
    }

    async fn read_hold(&self, version: &Version) -> Outcome {
        match self.store.hold(&version.key, Some(&version.id)).await {
            Ok(_) => Ok(good("allowed")),
            Err(error) if error.class == Class::Compat => {
                Ok(Found::Odd("the store has no legal holds: `penstock hold` will not work".to_owned()))
            }
            Err(error) => Err(error.report()),
        }
    }

    async fn default_lock(&self, version: &Version, now: Timestamp) -> Outcome {
        match self.store.lock(&version.key, Some(&version.id)).await.map_err(|error| error.report())? {
            None => Ok(good("none: the bucket locks only what Penstock locks")),
            Some(lock) => {
                let days = lock.until.duration_since(now).as_hours().saturating_add(12) / 24;
                Ok(Found::Odd(format!(
                    "the bucket locks each new object in {} mode for {days} days, also what no backup needs (and what this check wrote): \
                     object_lock needs no default retention",
                    lock.mode.as_str()
                )))
            }
        }
    }

    /// Tries what somebody who wants the backups gone would try.
    async fn stays(&self, version: &Version, may_delete: bool) -> Outcome {
        match self.store.delete_version(&version.key, &version.id).await {
            Err(error) if error.class == Class::AccessDenied && may_delete => {
                Ok(good("this role may delete versions, and could not delete a locked one"))
            }
            Err(error) if error.class == Class::AccessDenied => {
                Ok(good("this role could not delete a locked version, nor any other"))
            }
            Err(error) => Err(error.report()),
            Ok(()) => Err(Report::new(Class::Compat, "a locked version was deleted").remedy(
                "either the store does not enforce locks, or this role bypasses them: take s3:BypassGovernanceRetention from it",
            )),
        }
    }
}
