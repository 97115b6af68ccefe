//! A block service in memory: for tests of everything above the port.
//!
//! It keeps EC2's promises and no more: tags are there from the creation on, a snapshot takes time ([`MemoryDisks::completing_in`]),
//! a client token makes one volume. [`MemoryDisks::script`] sees each request first, and may refuse it or lose its reply.
//! Every request is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{
    Disks, Error, MAX_FILTER_VALUES, NewSnapshot, NewVolume, Page, Snapshot, SnapshotFilter, SnapshotState, Tags,
    Volume, VolumeFilter, VolumeState,
};
use crate::clock::{self, Clock};
use crate::error::Class;
use crate::format::ebs::{InstanceId, MAX_TAGS, SnapshotId, VolumeId};

/// What a script does to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is not done, and the caller is told so.
    Refuse(Error),
    /// It is done, and the caller is told this.
    LoseReply(Error),
}

/// Sees the operation, what it is about, and how many of this operation came before.
pub type Script = Box<dyn FnMut(&'static str, &str, usize) -> Option<Fault> + Send>;

pub struct MemoryDisks {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    volumes: BTreeMap<VolumeId, Volume>,
    snapshots: BTreeMap<SnapshotId, Held>,
    tokens: BTreeMap<String, VolumeId>,
    created: u64,
    takes: Duration,
    page_size: usize,
    instance: Option<InstanceId>,
    requests: BTreeMap<&'static str, usize>,
    script: Option<Script>,
}

struct Held {
    snapshot: Snapshot,
    due: Instant,
}

impl std::fmt::Debug for MemoryDisks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDisks").field("requests", &self.state().requests).finish_non_exhaustive()
    }
}

/// A volume of 8 GiB with these tags, as a test wants many of.
#[must_use]
pub fn volume(id: &VolumeId, tags: &[(&str, &str)]) -> Volume {
    Volume {
        id: id.clone(),
        size_gib: 8,
        availability_zone: "eu-west-1a".to_owned(),
        volume_type: "gp3".to_owned(),
        iops: Some(3000),
        throughput: Some(125),
        encrypted: false,
        kms_key_id: None,
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        state: VolumeState::Ready,
        attached_to: Vec::new(),
    }
}

/// An error as the service would send it.
#[must_use]
pub fn error(operation: &'static str, class: Class, status: u16, code: &str) -> Error {
    let local = Error::at("ec2", operation, "memory", class, "as the test wants it");
    Error { status: Some(status), code: Some(code.to_owned()), ..local }
}

impl MemoryDisks {
    #[must_use]
    pub fn new(volumes: impl IntoIterator<Item = Volume>) -> Self {
        Self::with_clock(volumes, Arc::new(clock::System))
    }

    /// The same in the time of another clock.
    #[must_use]
    pub fn with_clock(volumes: impl IntoIterator<Item = Volume>, clock: Arc<dyn Clock>) -> Self {
        let volumes = volumes.into_iter().map(|volume| (volume.id.clone(), volume)).collect();
        Self { clock, state: Mutex::new(State { volumes, page_size: 1000, ..State::default() }) }
    }

    /// How long a snapshot is pending from its creation on.
    pub fn completing_in(&self, time: Duration) {
        self.state().takes = time;
    }

    pub fn page_size(&self, size: usize) {
        self.state().page_size = size.max(1);
    }

    pub fn on_instance(&self, id: InstanceId) {
        self.state().instance = Some(id);
    }

    pub fn script(&self, script: impl FnMut(&'static str, &str, usize) -> Option<Fault> + Send + 'static) {
        self.state().script = Some(Box::new(script));
    }

    /// Requests of this operation so far, refused ones too.
    #[must_use]
    pub fn requests(&self, operation: &str) -> usize {
        self.state().requests.get(operation).copied().unwrap_or_default()
    }

    /// Every snapshot there is, in the order of their creation.
    #[must_use]
    pub fn all_snapshots(&self) -> Vec<Snapshot> {
        let now = self.clock.now();
        self.state().snapshots.values().map(|held| held.at(now)).collect()
    }

    #[must_use]
    pub fn all_volumes(&self) -> Vec<Volume> {
        self.state().volumes.values().cloned().collect()
    }

    pub fn remove_volume(&self, id: &VolumeId) {
        self.state().volumes.remove(id);
    }

    /// Ends a snapshot in this state.
    pub fn end(&self, id: &SnapshotId, state: SnapshotState) {
        if let Some(held) = self.state().snapshots.get_mut(id) {
            held.snapshot.state = state;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request<T>(
        &self,
        operation: &'static str,
        resource: &str,
        work: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut state = self.state();
        let count = state.requests.entry(operation).or_default();
        let before = *count;
        *count += 1;
        let fault = state.script.as_mut().and_then(|script| script(operation, resource, before));
        match fault {
            Some(Fault::Refuse(error)) => Err(error),
            Some(Fault::LoseReply(error)) => work(&mut state).and(Err(error)),
            None => work(&mut state),
        }
    }
}

impl Held {
    fn at(&self, now: Instant) -> Snapshot {
        let mut snapshot = self.snapshot.clone();
        if matches!(snapshot.state, SnapshotState::Pending(_)) && now >= self.due {
            snapshot.state = SnapshotState::Completed;
            snapshot.completed = snapshot.started;
        }
        snapshot
    }
}

fn has_all(have: &Tags, wanted: &Tags) -> bool {
    wanted.iter().all(|(key, value)| have.get(key) == Some(value))
}

/// A page of what is there, with the position as the token.
fn page<T>(all: Vec<T>, from: Option<&str>, size: usize) -> Page<T> {
    let start: usize = from.and_then(|from| from.parse().ok()).unwrap_or(0);
    let end = start.saturating_add(size);
    let next = (end < all.len()).then(|| end.to_string());
    Page { items: all.into_iter().skip(start).take(size).collect(), next }
}

fn too_many(operation: &'static str) -> Error {
    error(operation, Class::Config, 400, "FilterLimitExceeded")
}

impl State {
    fn next_id(&mut self, prefix: &str) -> String {
        self.created += 1;
        format!("{prefix}-{:017x}", self.created)
    }
}

#[async_trait]
impl Disks for MemoryDisks {
    async fn volumes(&self, filter: &VolumeFilter, from: Option<&str>) -> Result<Page<Volume>, Error> {
        self.request("DescribeVolumes", "", |state| {
            if filter.ids.len() > MAX_FILTER_VALUES {
                return Err(too_many("DescribeVolumes"));
            }
            let fits = |volume: &&Volume| {
                (filter.ids.is_empty() || filter.ids.contains(&volume.id))
                    && has_all(&volume.tags, &filter.tags)
                    && filter.attached_to.as_ref().is_none_or(|instance| volume.attached_to.contains(instance))
            };
            let found = state.volumes.values().filter(fits).cloned().collect();
            Ok(page(found, from, state.page_size))
        })
    }

    async fn new_volume(&self, id: &VolumeId) -> Result<Volume, Error> {
        self.request("DescribeVolumes", id.as_str(), |state| {
            let gone = || error("DescribeVolumes", Class::KmsDenied, 400, "InvalidVolume.NotFound");
            let volume = state.volumes.get_mut(id).ok_or_else(gone)?;
            let seen = volume.clone();
            if volume.state == VolumeState::Creating {
                volume.state = VolumeState::Ready;
            }
            Ok(seen)
        })
    }

    async fn snapshots(&self, filter: &SnapshotFilter, from: Option<&str>) -> Result<Page<Snapshot>, Error> {
        let now = self.clock.now();
        self.request("DescribeSnapshots", "", |state| {
            if filter.ids.len() > MAX_FILTER_VALUES {
                return Err(too_many("DescribeSnapshots"));
            }
            let fits = |snapshot: &Snapshot| {
                (filter.ids.is_empty() || filter.ids.contains(&snapshot.id)) && has_all(&snapshot.tags, &filter.tags)
            };
            let found = state.snapshots.values().map(|held| held.at(now)).filter(fits).collect();
            Ok(page(found, from, state.page_size))
        })
    }

    async fn create_snapshot(&self, new: &NewSnapshot) -> Result<Snapshot, Error> {
        let now = self.clock.now();
        self.request("CreateSnapshot", new.volume.as_str(), |state| {
            let refused = |class, code| Err(error("CreateSnapshot", class, 400, code));
            if new.tags.len() > MAX_TAGS {
                return refused(Class::Internal, "TagLimitExceeded");
            }
            if !state.volumes.contains_key(&new.volume) {
                return refused(Class::NotFound, "InvalidVolume.NotFound");
            }
            let id: SnapshotId = state.next_id("snap").parse().expect("17 hexadecimal digits");
            let volume = &state.volumes[&new.volume];
            let snapshot = Snapshot {
                id: id.clone(),
                volume_id: Some(new.volume.clone()),
                state: SnapshotState::Pending(None),
                started: Some(jiff::Timestamp::now()),
                completed: None,
                encrypted: volume.encrypted,
                kms_key_id: volume.kms_key_id.clone(),
                tags: new.tags.clone(),
            };
            let due = now + state.takes;
            state.snapshots.insert(id, Held { snapshot: snapshot.clone(), due });
            Ok(snapshot)
        })
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        self.request("DeleteSnapshot", id.as_str(), |state| {
            state.snapshots.remove(id);
            Ok(())
        })
    }

    async fn create_volume(&self, new: &NewVolume) -> Result<Volume, Error> {
        self.request("CreateVolume", new.snapshot.as_str(), |state| {
            if let Some(volume) = state.tokens.get(&new.client_token).and_then(|id| state.volumes.get(id)) {
                return Ok(volume.clone());
            }
            if !state.snapshots.contains_key(&new.snapshot) {
                return Err(error("CreateVolume", Class::NotFound, 400, "InvalidSnapshot.NotFound"));
            }
            let id: VolumeId = state.next_id("vol").parse().expect("17 hexadecimal digits");
            let volume = Volume {
                id: id.clone(),
                size_gib: new.size_gib,
                availability_zone: new.availability_zone.clone(),
                volume_type: new.volume_type.clone(),
                iops: new.iops,
                throughput: new.throughput,
                encrypted: !matches!(new.encryption, super::Encryption::Inherit),
                kms_key_id: None,
                tags: new.tags.clone(),
                state: VolumeState::Creating,
                attached_to: Vec::new(),
            };
            state.tokens.insert(new.client_token.clone(), id.clone());
            state.volumes.insert(id, volume.clone());
            Ok(volume)
        })
    }

    async fn this_instance(&self) -> Result<InstanceId, Error> {
        self.request("GetMetadata", "", |state| {
            let unknown = || Error::local("GetMetadata", "memory", Class::Config, "not on an instance");
            state.instance.clone().ok_or_else(unknown)
        })
    }
}
