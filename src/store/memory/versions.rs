//! The versions, delete markers, locks and holds of the store in memory, as strict as S3's.
//!
//! A DELETE in a bucket that keeps versions adds a marker, also over a locked object. Deleting a locked or held version is refused. A lock
//! becomes longer; shorter only in governance mode and with the right to bypass it, which nothing above the port has.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::{MemoryStore, Object, State, error, other};
use crate::config::LockMode;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::store::{
    Deleted, Download, Error, Hold, ListedVersion, Lock, ObjectInfo, VersionId, VersionKind, VersionPage, Versions,
};

/// The body of a reply to a GET: its length, its pieces, and the fault that ends it.
type Body = (u64, Vec<Bytes>, Option<Result<Bytes, Error>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Keeps {
    #[default]
    Nothing,
    Versions,
    /// Versions, and locks on them.
    Locks,
}

#[derive(Debug)]
struct Held {
    id: VersionId,
    modified: Timestamp,
    /// `None` for a delete marker.
    object: Option<Object>,
    lock: Option<Lock>,
    hold: Hold,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    keeps: Keeps,
    /// The default lock of new objects.
    default: Option<(LockMode, SignedDuration)>,
    /// Of each key, the newest last.
    versions: BTreeMap<ObjectKey, Vec<Held>>,
    ever: u64,
}

/// Whether the caller may shorten locks in governance mode (`s3:BypassGovernanceRetention`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    Yes,
    No,
}

fn denied(operation: &'static str, key: &ObjectKey) -> Error {
    let message = "Access Denied because object protected by object lock.";
    error(operation, key, Class::AccessDenied, 403, "AccessDenied", message)
}

fn refused(operation: &'static str, key: &ObjectKey, code: &str, message: &str) -> Error {
    error(operation, key, Class::Config, 400, code, message)
}

impl Held {
    /// Whether its deletion is refused.
    fn is_protected(&self, now: Timestamp, bypass: Bypass) -> bool {
        let locked = self
            .lock
            .is_some_and(|lock| lock.until > now && !(bypass == Bypass::Yes && lock.mode == LockMode::Governance));
        locked || self.hold == Hold::On
    }
}

impl Bucket {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.versions.get(key)?.last()?.object.as_ref()
    }

    pub(super) fn current(&self) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        self.current_from(Bound::Unbounded)
    }

    pub(super) fn current_from(&self, start: Bound<ObjectKey>) -> impl Iterator<Item = (&ObjectKey, &Object)> {
        let range = self.versions.range((start, Bound::Unbounded));
        range.filter_map(|(key, versions)| Some((key, versions.last()?.object.as_ref()?)))
    }

    /// Checks the lock that a new object is to have.
    pub(super) fn accepts(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        lock: Option<Lock>,
        has_checksum: bool,
        now: Timestamp,
    ) -> Result<(), Error> {
        if lock.is_some() && self.keeps != Keeps::Locks {
            let message = "Bucket is missing Object Lock Configuration";
            return Err(refused(operation, key, "InvalidRequest", message));
        }
        if (lock.is_some() || self.default.is_some()) && !has_checksum {
            let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
            return Err(refused(operation, key, "InvalidRequest", message));
        }
        if lock.is_some_and(|lock| lock.until <= now) {
            return Err(refused(operation, key, "InvalidArgument", "The retain until date must be in the future!"));
        }
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        key: &ObjectKey,
        object: Object,
        lock: Option<Lock>,
        now: Timestamp,
    ) -> Option<VersionId> {
        let by_default = || {
            let (mode, time) = self.default?;
            Some(Lock { mode, until: now.checked_add(time).unwrap_or(Timestamp::MAX) })
        };
        let lock = lock.or_else(by_default);
        self.add(key, Some(object), lock, now)
    }

    fn add(
        &mut self,
        key: &ObjectKey,
        object: Option<Object>,
        lock: Option<Lock>,
        modified: Timestamp,
    ) -> Option<VersionId> {
        self.ever += 1;
        let keeps = self.keeps != Keeps::Nothing;
        let id = if keeps { format!("v{:08}", self.ever) } else { "null".to_owned() };
        let id = VersionId::new(id).expect("a constant form");
        let versions = self.versions.entry(key.clone()).or_default();
        if !keeps {
            versions.retain(|held| held.id != id);
        }
        versions.push(Held { id: id.clone(), modified, object, lock, hold: Hold::Off });
        keeps.then_some(id)
    }

    pub(super) fn delete(&mut self, key: &ObjectKey, now: Timestamp) -> Deleted {
        if self.keeps == Keeps::Nothing {
            self.versions.remove(key);
            return Deleted::Gone;
        }
        self.add(key, None, None, now);
        Deleted::Hidden
    }

    /// The version, or the current one; not a marker.
    fn find(&self, operation: &'static str, key: &ObjectKey, version: Option<&VersionId>) -> Result<&Held, Error> {
        let versions = self.versions.get(key).map(Vec::as_slice).unwrap_or_default();
        let held = match version {
            None => versions.last(),
            Some(version) => versions.iter().find(|held| held.id == *version),
        };
        held.filter(|held| held.object.is_some()).ok_or_else(|| {
            let code = if version.is_some() { "NoSuchVersion" } else { "NoSuchKey" };
            error(operation, key, Class::NotFound, 404, code, "The specified key does not exist.")
        })
    }

    fn find_mut(
        &mut self,
        operation: &'static str,
        key: &ObjectKey,
        version: Option<&VersionId>,
    ) -> Result<&mut Held, Error> {
        let id = self.find(operation, key, version)?.id.clone();
        let versions = self.versions.get_mut(key).map(Vec::as_mut_slice).unwrap_or_default();
        Ok(versions.iter_mut().find(|held| held.id == id).expect("found just now"))
    }

    pub(super) fn read(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        version: Option<&VersionId>,
        range: Option<Range<u64>>,
    ) -> Result<Body, Error> {
        let object = self.find(operation, key, version)?.object.as_ref().expect("no marker is found");
        let range = range.unwrap_or(0..object.size);
        if range.start > range.end || range.end > object.size {
            let message = "The requested range is not satisfiable";
            return Err(error(operation, key, Class::Integrity, 416, "InvalidRange", message));
        }
        Ok((range.end - range.start, object.slice(&range), None))
    }

    pub(super) fn info(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<ObjectInfo, Error> {
        let missing = |_| Error { status: Some(404), ..Error::local("HeadObject", key, Class::NotFound, "not found") };
        let held = self.find("HeadObject", key, version).map_err(missing)?;
        let object = held.object.as_ref().expect("no marker is found");
        let version = VersionId::lasting(Some(held.id.as_str()));
        Ok(ObjectInfo { size: object.size, checksum: object.checksum, version })
    }

    fn delete_version(
        &mut self,
        key: &ObjectKey,
        version: &VersionId,
        now: Timestamp,
        bypass: Bypass,
    ) -> Result<(), Error> {
        let Some(versions) = self.versions.get_mut(key) else { return Ok(()) };
        if versions.iter().any(|held| held.id == *version && held.is_protected(now, bypass)) {
            return Err(denied("DeleteObjectVersion", key));
        }
        versions.retain(|held| held.id != *version);
        if versions.is_empty() {
            self.versions.remove(key);
        }
        Ok(())
    }

    fn set_lock(
        &mut self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        lock: Lock,
        now: Timestamp,
        bypass: Bypass,
    ) -> Result<(), Error> {
        const PUT: &str = "PutObjectRetention";
        if self.keeps != Keeps::Locks {
            return Err(refused(PUT, key, "InvalidRequest", "Bucket is missing Object Lock Configuration"));
        }
        if lock.until <= now {
            return Err(refused(PUT, key, "InvalidArgument", "The retain until date must be in the future!"));
        }
        let held = self.find_mut(PUT, key, version)?;
        if let Some(old) = held.lock.filter(|old| old.until > now) {
            let weaker = lock.until < old.until || (old.mode == LockMode::Compliance && lock.mode != old.mode);
            let may = bypass == Bypass::Yes && old.mode == LockMode::Governance;
            if weaker && !may {
                return Err(denied(PUT, key));
            }
        }
        held.lock = Some(lock);
        Ok(())
    }

    /// Of each key the newest first.
    fn listed(&self, prefix: &str) -> impl Iterator<Item = ListedVersion> {
        let keys = self.versions.iter().filter(move |(key, _)| key.as_str().starts_with(prefix));
        keys.flat_map(|(key, versions)| {
            versions.iter().rev().map(|held| ListedVersion {
                key: key.clone(),
                version: held.id.clone(),
                modified: held.modified,
                kind: held
                    .object
                    .as_ref()
                    .map_or(VersionKind::Marker, |object| VersionKind::Object { size: object.size }),
            })
        })
    }
}

impl MemoryStore {
    /// From here on the bucket keeps neither versions nor locks.
    pub fn keep_nothing(&self) {
        self.state().bucket.keeps = Keeps::Nothing;
    }

    /// From here on the bucket keeps versions.
    pub fn keep_versions(&self) {
        self.state().bucket.keeps = Keeps::Versions;
    }

    /// From here on the bucket keeps versions, and locks on them.
    pub fn keep_locks(&self) {
        self.state().bucket.keeps = Keeps::Locks;
    }

    /// Locks each new object that comes without a lock, as a bucket's default retention does.
    pub fn lock_by_default(&self, mode: LockMode, time: SignedDuration) {
        self.state().bucket.default = Some((mode, time));
    }

    /// Whether the bucket keeps versions, and whether locks on them.
    #[must_use]
    pub fn keeps(&self) -> (bool, bool) {
        let keeps = self.state().bucket.keeps;
        (keeps != Keeps::Nothing, keeps == Keeps::Locks)
    }

    /// The time by the store's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.state().now()
    }

    /// Deletes a version with the right to bypass governance, which nothing above the port has.
    ///
    /// # Errors
    /// As [`Versions::delete_version`].
    pub fn delete_version_as(&self, key: &ObjectKey, version: &VersionId, bypass: Bypass) -> Result<(), Error> {
        let mut state = self.state();
        let now = state.now();
        state.bucket.delete_version(key, version, now, bypass)
    }

    /// Sets a lock with the right to bypass governance.
    ///
    /// # Errors
    /// As [`Versions::set_lock`].
    pub fn set_lock_as(
        &self,
        key: &ObjectKey,
        version: Option<&VersionId>,
        lock: Lock,
        bypass: Bypass,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let now = state.now();
        state.bucket.set_lock(key, version, lock, now, bypass)
    }

    /// Every version and marker, by key, and of each key the newest first.
    #[must_use]
    pub fn all_versions(&self) -> Vec<ListedVersion> {
        self.state().bucket.listed("").collect()
    }
}

#[async_trait]
impl Versions for MemoryStore {
    async fn get_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        range: Option<Range<u64>>,
    ) -> Result<Download, Error> {
        let get = |state: &mut State| state.bucket.read("GetObjectVersion", key, Some(version), range.clone());
        let download = self.download("GetObjectVersion", key, get).await?;
        Ok(Download { version: VersionId::lasting(Some(version.as_str())), ..download })
    }

    async fn head_version(&self, key: &ObjectKey, version: &VersionId) -> Result<ObjectInfo, Error> {
        let head = |state: &mut State| state.bucket.info(key, Some(version));
        self.request("HeadObjectVersion", key.as_str(), head, other).await
    }

    async fn delete_version(&self, key: &ObjectKey, version: &VersionId) -> Result<(), Error> {
        let delete = |state: &mut State| {
            let now = state.now();
            state.bucket.delete_version(key, version, now, Bypass::No)
        };
        self.request("DeleteObjectVersion", key.as_str(), delete, |(), _| ()).await
    }

    async fn copy_version(
        &self,
        key: &ObjectKey,
        version: &VersionId,
        _size: u64,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        let copy = |state: &mut State| {
            let now = state.now();
            state.bucket.accepts("CopyObject", key, lock, true, now)?;
            let object = state.bucket.find("CopyObject", key, Some(version))?.object.as_ref();
            let object = object.expect("no marker is found");
            let (pieces, size, checksum) = (object.pieces.clone(), object.size, object.checksum);
            Ok(state.bucket.put(key, Object { pieces, size, checksum, modified: now }, lock, now))
        };
        self.request("CopyObject", key.as_str(), copy, |version, _| version).await
    }

    async fn list_versions(&self, prefix: &str, from: Option<&str>) -> Result<VersionPage, Error> {
        let list = |state: &mut State| {
            let mut skip = from.and_then(|from| from.parse().ok()).unwrap_or(0_usize);
            let all: Vec<_> = state.bucket.listed(prefix).skip(skip).take(self.page_size + 1).collect();
            skip += self.page_size;
            let next = (all.len() > self.page_size).then(|| skip.to_string());
            Ok(VersionPage { entries: all.into_iter().take(self.page_size).collect(), next })
        };
        self.request("ListObjectVersions", prefix, list, |page, _| page).await
    }

    async fn lock(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Option<Lock>, Error> {
        let lock = |state: &mut State| Ok(state.bucket.find("GetObjectRetention", key, version)?.lock);
        self.request("GetObjectRetention", key.as_str(), lock, |lock, _| lock).await
    }

    async fn set_lock(&self, key: &ObjectKey, version: Option<&VersionId>, lock: Lock) -> Result<(), Error> {
        let set = |state: &mut State| {
            let now = state.now();
            state.bucket.set_lock(key, version, lock, now, Bypass::No)
        };
        self.request("PutObjectRetention", key.as_str(), set, |(), _| ()).await
    }

    async fn hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Hold, Error> {
        let hold = |state: &mut State| Ok(state.bucket.find("GetObjectLegalHold", key, version)?.hold);
        self.request("GetObjectLegalHold", key.as_str(), hold, |hold, _| hold).await
    }

    async fn set_hold(&self, key: &ObjectKey, version: Option<&VersionId>, hold: Hold) -> Result<(), Error> {
        let set = |state: &mut State| {
            state.bucket.find_mut("PutObjectLegalHold", key, version)?.hold = hold;
            Ok(())
        };
        self.request("PutObjectLegalHold", key.as_str(), set, |(), _| ()).await
    }
}
