//! The sweeper: aborts the uploads of dead processes.
//!
//! - **Dead** is an upload whose journal entry no process has locked. A live upload, of this process or another, is never touched.
//! - **Permissions**: AbortMultipartUpload and ListMultipartUploadParts. Where ListMultipartUploads is permitted too, the sweeper also finds
//!   uploads that the journal cannot name: that of an intent whose ID was lost, and uploads of this node that are in no journal (its disk
//!   was lost) and older than [`SAFE_AGE`]. Another node's uploads are never touched.
//! - **Failure**: an entry stays until its upload is gone; the next sweep tries again. One failure does not stop the other aborts.
//! - **Uploads that can never be aborted** do not fail for ever (docs/decisions/0057): an intent without an ID where uploads cannot be
//!   listed, and an upload that its store cannot abort, are reported for [`REPORTED_FOR`]; then the entry is removed, and a last log line
//!   says what to do. [`Mode::GiveUp`] removes it at once, also where somebody could correct the reason for the refusal.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;

use super::abort::abort_until_gone;
use super::journal::{self, Interrupted};
use crate::error::{Class, Classify as _, Report};
use crate::format::claim::Chained;
use crate::format::key::{self, Chain, Name, ObjectKey};
use crate::location::Location;
use crate::metrics::{AbortReason, Outcome};
use crate::store::{self, Store, UploadHandle, UploadId};

/// An upload that is in no journal may be that of an agent with another state directory: it is left alone for longer than any object
/// takes. The default of 64 GiB in seven days is 114 kB/s.
pub const SAFE_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long an intent whose upload cannot be looked up counts as interrupted.
pub const REPORTED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Entries that are swept at a time.
const AT_A_TIME: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Abort,
    /// As [`Mode::Abort`], and removes the entries of uploads that cannot be aborted.
    GiveUp,
    /// Changes nothing.
    DryRun,
}

/// Where a sweep looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In the state directory's journal.
    Journal,
    /// In the bucket too, for uploads that are in no journal: this lists the uploads of all nodes.
    Bucket,
}

/// The result of a sweep.
#[derive(Debug, Default)]
pub struct Sweep {
    pub uploads: Vec<Swept>,
    /// A search of a bucket failed.
    unsearched: bool,
}

impl Sweep {
    /// Whether everything was looked for, and no upload is left for a later sweep.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.unsearched && !self.uploads.iter().any(|one| one.fate.is_left())
    }
}

/// The outcome of one interrupted upload.
#[derive(Debug, Clone)]
pub enum Fate {
    Aborted,
    /// [`Mode::DryRun`].
    WouldAbort,
    /// The process died before it created the upload.
    Nothing,
    /// Its job resumes it.
    Spared,
    /// Its ID is unknown, and uploads cannot be listed: it may exist.
    Unknown,
    /// It could not be aborted, or its entry could not be removed. The next sweep tries again.
    Failed(Report),
    /// It could not be aborted, and its entry is removed: no sweep tries again.
    GivenUp(Report),
}

impl Fate {
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::WouldAbort => "would-abort",
            Self::Nothing => "nothing-there",
            Self::Spared => "spared",
            Self::Unknown => "unknown",
            Self::Failed(_) => "failed",
            Self::GivenUp(_) => "given-up",
        }
    }

    const fn is_left(&self) -> bool {
        matches!(self, Self::Unknown | Self::Failed(_) | Self::WouldAbort | Self::Spared)
    }
}

#[derive(Debug, Clone)]
pub struct Swept {
    pub location: String,
    pub key: ObjectKey,
    pub id: Option<UploadId>,
    pub begun: Option<Timestamp>,
    pub fate: Fate,
}

/// Sweeps the state directory's journal and, if `reach` says so and the policy permits, the locations. The jobs `spared` are about to run, and
/// resume their uploads themselves. Needs no lock on the directory: a daemon, a backup or another sweep may run at the same time.
///
/// # Errors
/// When the journal cannot be read. A failure with one upload is its [`Fate`].
pub async fn sweep(
    state_dir: &Path,
    locations: &[Location],
    spared: &BTreeSet<Name>,
    mode: Mode,
    reach: Reach,
) -> Result<Sweep, journal::Error> {
    let places: Vec<Place<'_>> = locations.iter().map(|location| Place { location, spared }).collect();
    let now = Timestamp::now();
    let dir = state_dir.to_owned();
    let entries = tokio::task::spawn_blocking(move || journal::interrupted(&dir)).await;
    let entries = entries.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let entries = stream::iter(entries).map(|entry| entry_swept(entry, &places, mode, now));
    let uploads = entries.buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await.concat();
    let mut sweep = Sweep { uploads, unsearched: false };
    for place in places {
        if reach == Reach::Bucket {
            match strays(state_dir, place, mode, now).await {
                Some(strays) => sweep.uploads.extend(strays),
                None => sweep.unsearched = true,
            }
        }
        let left =
            sweep.uploads.iter().filter(|one| one.location == place.location.name() && one.fate.is_left()).count();
        place.location.endpoint.metrics().interrupted_uploads(left);
    }
    Ok(sweep)
}

async fn entry_swept(entry: Interrupted, places: &[Place<'_>], mode: Mode, now: Timestamp) -> Vec<Swept> {
    let intent = entry.intent.clone();
    let home =
        |place: &&Place<'_>| place.location.name() == intent.location && place.location.config.bucket == intent.bucket;
    let place = places.iter().find(home);
    let mut fates = match place {
        Some(place) => place.fates(&entry, mode).await,
        None => vec![(entry.id.clone(), Fate::Failed(homeless(&intent)))],
    };
    for (id, fate) in &mut fates {
        if let Some(why) = fate.given_up(&intent.key, mode, age(intent.begun, now)) {
            let id = id.as_ref().map_or("unknown", |id| id.0.as_str());
            tracing::warn!(key = %intent.key, upload_id = id, location = intent.location, class = %why.class, why = why.message,
                "could not abort an interrupted upload, and no sweep tries again: it may still cost storage");
            *fate = Fate::GivenUp(why);
        }
    }
    if mode != Mode::DryRun && !fates.iter().any(|(_, fate)| fate.is_left()) {
        entry.into_entry().close().await;
    }
    let swept = |(id, fate)| Swept {
        location: intent.location.clone(),
        key: intent.key.clone(),
        id,
        begun: Some(intent.begun),
        fate,
    };
    fates.into_iter().map(swept).collect()
}

fn homeless(intent: &journal::Intent) -> Report {
    let journal::Intent { key, location, bucket, .. } = intent;
    let message =
        format!("could not abort {key}: the configuration has no location {location} with the bucket {bucket}");
    Report::new(Class::Config, message)
        .remedy("sweep with the configuration that the upload was begun with, or abort it by hand and `penstock sweep --give-up`")
}

impl Fate {
    /// Why no sweep is to try again; `None` if the upload has ended, or a later sweep may succeed.
    fn given_up(&self, key: &ObjectKey, mode: Mode, age: Duration) -> Option<Report> {
        let due = mode != Mode::DryRun && age > REPORTED_FOR;
        match self {
            Self::Unknown if due || mode == Mode::GiveUp => {
                let message = format!("could not find {key}: its ID was lost, and uploads cannot be listed");
                let remedy = "a lifecycle rule with AbortIncompleteMultipartUpload ends it";
                Some(Report::new(Class::Compat, message).remedy(remedy))
            }
            Self::Failed(why) if due && why.is_incapable() => Some(why.clone()),
            // A store that does not answer now may answer later.
            Self::Failed(why)
                if mode == Mode::GiveUp
                    && matches!(why.class, Class::Compat | Class::Config | Class::AccessDenied | Class::NotFound) =>
            {
                Some(why.clone())
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    location: &'a Location,
    spared: &'a BTreeSet<Name>,
}

impl Place<'_> {
    /// Aborts the uploads of one entry, each by its ID.
    async fn fates(&self, entry: &Interrupted, mode: Mode) -> Vec<(Option<UploadId>, Fate)> {
        let intent = &entry.intent;
        if mode != Mode::DryRun && entry.id.is_some() && self.spares(&intent.key) {
            return vec![(entry.id.clone(), Fate::Spared)];
        }
        let uploads = match &entry.id {
            Some(id) => Ok(Some(vec![UploadHandle { key: intent.key.clone(), id: id.clone() }])),
            None => self.look_up(&intent.key).await,
        };
        let uploads = match uploads {
            Ok(Some(uploads)) => uploads,
            Ok(None) => {
                if mode != Mode::DryRun {
                    tracing::warn!(key = %intent.key, location = intent.location, begun = %intent.begun,
                        "an upload may exist that cannot be found: its ID was lost, and uploads cannot be listed; a lifecycle rule with AbortIncompleteMultipartUpload aborts it");
                }
                return vec![(None, Fate::Unknown)];
            }
            Err(error) => return vec![(None, self.failed(&error))],
        };
        let mut fates = Vec::new();
        for upload in uploads {
            let fate = self.end(&upload, mode).await;
            fates.push((Some(upload.id), fate));
        }
        if fates.is_empty() {
            fates.push((None, Fate::Nothing));
        }
        fates
    }

    /// For a key of this state directory's journal: then a volume's chain, which any node may write, is of this node too.
    fn spares(&self, key: &ObjectKey) -> bool {
        let Location { cluster, node, .. } = self.location;
        let is_ours = |chain: &Chain| chain.node == *node || Chained::of(&chain.node).is_some();
        let chain = key::owner(self.location.prefix(), cluster, key).filter(is_ours);
        chain.is_some_and(|chain| self.spared.contains(&chain.job))
    }

    /// The chain of this node that the key belongs to.
    fn owner(&self, key: &ObjectKey) -> Option<Chain> {
        let Location { cluster, node, .. } = self.location;
        key::owner(self.location.prefix(), cluster, key).filter(|chain| chain.node == *node)
    }

    /// The uploads of exactly this key; `None` if uploads cannot be listed.
    async fn look_up(&self, key: &ObjectKey) -> Result<Option<Vec<UploadHandle>>, store::Error> {
        let listed = self.list(key.as_str()).await?;
        Ok(listed.map(|uploads| {
            uploads.into_iter().map(|listed| listed.upload).filter(|upload| upload.key == *key).collect()
        }))
    }

    async fn list(&self, prefix: &str) -> Result<Option<Vec<store::ListedUpload>>, store::Error> {
        match self.location.patient().list_uploads(prefix).await {
            Ok(uploads) => Ok(Some(uploads)),
            Err(error) if error.class == Class::AccessDenied || error.is_incapable() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn end(&self, upload: &UploadHandle, mode: Mode) -> Fate {
        if mode == Mode::DryRun {
            return Fate::WouldAbort;
        }
        let metrics = self.location.endpoint.metrics();
        match abort_until_gone(&self.location.patient(), upload).await {
            Ok(()) => {
                tracing::info!(key = %upload.key, location = self.location.name(), "interrupted upload aborted");
                metrics.upload_aborted(AbortReason::Interrupted, Outcome::Success);
                metrics.swept(Outcome::Success);
                Fate::Aborted
            }
            Err(error) => {
                metrics.upload_aborted(AbortReason::Interrupted, Outcome::Failure);
                metrics.swept(Outcome::Failure);
                self.failed(&error)
            }
        }
    }

    fn failed(&self, error: &store::Error) -> Fate {
        tracing::error!(location = self.location.name(), class = %error.class, %error, "could not abort an interrupted upload: the next sweep tries again");
        Fate::Failed(error.report())
    }
}

/// Aborts uploads of this node that are in no journal. `None`: they could not be looked for, and the sweep goes on without them. Where
/// uploads may not be listed there are none.
async fn strays(state_dir: &Path, place: Place<'_>, mode: Mode, now: Timestamp) -> Option<Vec<Swept>> {
    let location = place.location.name();
    let prefix = key::cluster_prefix(place.location.prefix(), &place.location.cluster);
    let listed = match place.list(&prefix).await {
        Ok(listed) => listed.unwrap_or_default(),
        Err(error) => {
            tracing::debug!(location, %error, "could not list uploads: uploads that are in no journal are not looked for");
            return None;
        }
    };
    // Read after the listing, which cannot have uploads begun from now on.
    let known: HashSet<ObjectKey> = match journal::keys(state_dir) {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(%error, "could not read the journal: uploads that are in no journal are not looked for");
            return None;
        }
    };
    let mut swept = Vec::new();
    for store::ListedUpload { upload, initiated } in listed {
        let old = initiated.is_some_and(|initiated| age(initiated, now) > SAFE_AGE);
        if old && place.owner(&upload.key).is_some() && !known.contains(&upload.key) {
            let fate = place.end(&upload, mode).await;
            // A store that lists uploads but cannot abort them would fail here in every sweep.
            let fate = match fate {
                Fate::Failed(why) if why.is_incapable() => Fate::GivenUp(why),
                fate => fate,
            };
            let UploadHandle { key, id } = upload;
            swept.push(Swept { location: location.to_owned(), key, id: Some(id), begun: initiated, fate });
        }
    }
    Some(swept)
}

/// Zero for a time in the future: after a clock is set back, nothing counts as old.
fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
