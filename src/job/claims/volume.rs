//! One volume's own backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::super::encryption::Keys;
use super::super::parent::Tables;
use super::super::plan::Open;
use super::super::{Error, Run, failure, limited, new_id};
use super::Volume;
use crate::claims::api::Server;
use crate::claims::decide::Target;
use crate::claims::look::Host;
use crate::claims::place::{Fault, Form, Place};
use crate::config::Claims;
use crate::error::{Class, Classify as _, Report, Retry};
use crate::format::claim::ClaimName;
use crate::format::cluster::Record;
use crate::format::index::FileEntry;
use crate::format::key::{BackupPrefix, Chain, Name};
use crate::format::manifest::{Content, Item, Manifest, Outcome, SourceDescription};
use crate::snapshot::Owner;
use crate::source::file::FileSource;
use crate::source::tree::{Options, TreeSource};
use crate::source::{self, Mark, Source, Warning};

/// The item's name in every volume's backup.
const ITEM: &str = "volume";

/// A file system that does not say within this time what is there is away.
const LOOK: Duration = Duration::from_secs(30);

const AWAY: &str =
    "the file system that is mounted there does not answer: mount it again; the last backup of it is kept until then";

/// Whether the other volumes would fail by it too.
pub(super) fn is_fatal(error: &Error) -> bool {
    match error {
        Error::Cancelled => true,
        Error::Item { .. } | Error::Timeout { .. } | Error::Late { .. } => false,
        other => other.class().retry() == Retry::BackOff,
    }
}

/// The failure with the volume's name.
pub(super) fn reported(target: &Target, error: &Error) -> Report {
    let report = match error {
        Error::Item { error, .. } => failure::of_item(error),
        other => other.report(),
    };
    Report { message: format!("{target}: {}", report.message), ..report }
}

/// Whether no pod that had the volume is there any more: pods come and go while a round runs.
pub(super) async fn has_gone(target: &Target, server: &Server) -> bool {
    for pod in &target.pods {
        match server.pod(&pod.namespace, &pod.name).await {
            Ok(None) => {}
            Ok(Some(found)) if !found.is_alive(&pod.uid) || found.metadata.deletion_timestamp.is_some() => {}
            Ok(Some(_)) | Err(_) => return false,
        }
    }
    !target.pods.is_empty()
}

/// The labels of its item: the names that the cluster has for it.
pub(super) fn labels(target: &Target, node: &str) -> BTreeMap<String, String> {
    let claim = target.claim.as_ref();
    let pod = target.pods.first();
    let namespace = claim.map(ClaimName::namespace).or(pod.map(|pod| pod.namespace.as_str()));
    [
        ("pvc_namespace", namespace.filter(|_| claim.is_some())),
        ("pvc_name", claim.map(ClaimName::name)),
        ("pv_name", Some(target.persistent_volume.as_str()).filter(|name| !name.is_empty())),
        ("pod_namespace", namespace),
        ("pod", pod.map(|pod| pod.name.as_str())),
        ("pod_volume", Some(target.volume.as_str())),
        ("node", Some(node)),
    ]
    .into_iter()
    .filter_map(|(label, value)| Some((label.to_owned(), value?.to_owned())))
    .collect()
}

impl Run<'_> {
    /// Makes a backup of the volume, within its time limit.
    pub(super) async fn save(&mut self, target: &Target, claims: &Claims) -> Result<Volume, Error> {
        let mut run = self.beside(target.chain.clone());
        let span = tracing::info_span!("volume", volume = %target, backup = %run.owner.id);
        let result = tracing::Instrument::instrument(Box::pin(run.volume(target, claims)), span).await;
        let manifest = result?;
        let sum = |bytes: fn(&crate::format::manifest::Stream) -> u64| {
            manifest.streams().map(|(_, stream)| bytes(stream)).sum::<u64>()
        };
        Ok(Volume {
            chain: target.chain.clone(),
            backup: manifest.id.clone(),
            outcome: manifest.outcome,
            plain_bytes: sum(|stream| stream.plain_bytes),
            stored_bytes: sum(|stream| stream.stored_bytes),
            new_bytes: sum(|stream| stream.new_bytes),
        })
    }

    /// Another backup of the same job, in a chain of its own.
    fn beside(&self, node: Name) -> Run<'_> {
        let (started, stop) = (Timestamp::now(), self.stop.child_token());
        let (id, chain) = (new_id(started), Chain { node, ..self.owner.chain.clone() });
        Run {
            location: self.location,
            spec: self.spec,
            progress: self.progress,
            metrics: self.metrics.clone(),
            hooks: self.hooks,
            journal: self.journal.clone(),
            pool: Arc::clone(&self.pool),
            started,
            home: BackupPrefix::new(self.location.prefix(), &chain, &id),
            keys: self.keys.as_ref().map(Keys::again),
            tables: Tables::new(&self.location.process.state_dir, self.location.name(), &chain),
            ancestors: self.ancestors_of(&chain, self.spec.parent, &stop, started),
            owner: Owner { chain, id },
            stop,
            lock: None,
            parent: None,
            written: Vec::new(),
            first_failure: None,
            is_only: false,
            volumes: Vec::new(),
        }
    }

    async fn volume(&mut self, target: &Target, claims: &Claims) -> Result<Manifest, Error> {
        let (limit, stop) = (claims.claim_timeout, self.stop.clone());
        let late = |limit| Error::Late { volume: target.to_string(), limit };
        let result = Box::pin(limited(Some(limit), &stop, late, self.committed(target, claims))).await;
        self.settle(&result).await;
        result
    }

    async fn committed(&mut self, target: &Target, claims: &Claims) -> Result<Manifest, Error> {
        let item = Name::new(ITEM).expect("a constant name");
        let failed = |error| Error::Item { item: item.clone(), error: source::Error::Volume(error).into() };
        let held = self.location.process.reading.begin(&self.owner.chain).ok_or_else(|| failed(still_away()))?;
        let path = self.stop.run_until_cancelled(found(target, claims, &held)).await;
        let path = path.ok_or(Error::Cancelled)?.map_err(failed)?;
        let text = path.to_string_lossy().into_owned();
        let description = match target.place.form() {
            Form::Folder => SourceDescription::Tree { path: text },
            Form::Device => SourceDescription::File { path: text },
        };
        tracing::debug!(path = %path.display(), "volume found");
        self.check_plain().await?;
        self.lock = self.location.new_lock().await?;
        let Owner { chain, id } = self.owner.clone();
        let mut manifest = Manifest { outcome: Outcome::Partial, ..Manifest::new(chain, id, self.started) };
        let (stream, tally) = self.streamed(&item, &description, &open(target, claims, path, held)).await;
        let content = Content::Stream { stream: Some(stream?) };
        let (outcome, labels) = (tally.warnings.outcome(), labels(target, self.location.node.as_str()));
        manifest.items.push(Item { outcome, labels, ..Item::new(item, description, content) });
        manifest.warnings.append(tally.warnings);
        self.name_parent(&mut manifest);
        let stop = self.stop.clone();
        self.conclude(&mut manifest, &stop).await?;
        tracing::info!(outcome = manifest.outcome.as_str(), "volume saved");
        Ok(manifest)
    }
}

fn still_away() -> Report {
    let message =
        "could not look at the volume: an earlier round still waits for its file system, which does not answer";
    Report::new(Class::Source, message).remedy(AWAY)
}

/// Where the volume is. Looks on a thread that nobody waits for, since a mount may keep it for ever.
async fn found(target: &Target, claims: &Claims, held: &Arc<()>) -> Result<PathBuf, Report> {
    let (place, root, held) = (target.place.clone(), claims.kubelet_root.clone(), Arc::clone(held));
    let (sender, receiver) = oneshot::channel();
    let look = move || {
        let found = place.resolve(&root, &Host);
        drop(held);
        // Fails only if nobody waits any more.
        let _ = sender.send(found);
    };
    let thread = std::thread::Builder::new().name("penstock-look".to_owned()).spawn(look);
    thread.map_err(|error| Report::new(Class::Local, format!("could not start a thread: {error}")))?;
    match tokio::time::timeout(LOOK, receiver).await {
        Ok(Ok(Ok(path))) => Ok(path),
        Ok(Ok(Err(fault))) => Err(of_fault(&fault)),
        Ok(Err(_)) => Err(Report::new(Class::Internal, "the thread that looks at the volume ended")),
        Err(_) => {
            let message = format!("could not look at the volume within {LOOK:?}");
            Err(Report::new(Class::Source, message).remedy(AWAY))
        }
    }
}

fn of_fault(fault: &Fault) -> Report {
    let report = Report::new(Class::Source, fault.to_string());
    match fault.remedy() {
        Some(remedy) => report.remedy(remedy),
        None => report,
    }
}

fn open(target: &Target, claims: &Claims, path: PathBuf, held: Arc<()>) -> Open<'static> {
    let (place, root, exclude) = (target.place.clone(), claims.kubelet_root.clone(), claims.exclude.clone());
    Box::new(move |stop, parent| {
        let form = place.form();
        let (of, exclude, held) = (path.clone(), exclude.clone(), Arc::clone(&held));
        let open = move || -> Result<Box<dyn Source>, source::Error> {
            match form {
                Form::Folder => {
                    let options = Options { exclude, one_file_system: true };
                    Ok(Box::new(TreeSource::new(&of, &options, parent)?.stopped_by(stop)))
                }
                Form::Device => Ok(Box::new(FileSource::open(&of)?.stopped_by(stop))),
            }
        };
        let (place, root, path) = (place.clone(), root.clone(), path.clone());
        let check = move || is_still(&place, &root, &path);
        Ok(Box::new(Late {
            open: Some(Box::new(open)),
            check: Box::new(check),
            source: None,
            marks: Vec::new(),
            _held: held,
        }))
    })
}

/// A mount that is lost while it is read leaves errors, or an empty folder, in the place of files: not a backup.
fn is_still(place: &Place, root: &Path, path: &Path) -> Result<(), source::Error> {
    match place.resolve(root, &Host) {
        Ok(now) if now == path => Ok(()),
        Ok(now) => Err(source::Error::Invalid(format!(
            "the volume is at {} now, no longer at {}",
            now.display(),
            path.display()
        ))),
        Err(fault) => {
            let report = of_fault(&fault);
            Err(source::Error::Volume(Report {
                message: format!("the volume went away while it was read: {fault}"),
                ..report
            }))
        }
    }
}

type Opening = Box<dyn FnOnce() -> Result<Box<dyn Source>, source::Error> + Send>;

/// A volume that is opened by the thread that reads it, and looked at once more at its end.
struct Late {
    open: Option<Opening>,
    check: Box<dyn Fn() -> Result<(), source::Error> + Send>,
    source: Option<Box<dyn Source>>,
    marks: Vec<Mark>,
    /// Tells later rounds that the thread is not back.
    _held: Arc<()>,
}

impl Late {
    fn take<T: Default>(&mut self, of: impl FnOnce(&mut dyn Source) -> T) -> T {
        match &mut self.source {
            Some(source) => of(&mut **source),
            None => T::default(),
        }
    }
}

impl Source for Late {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, source::Error> {
        if let Some(open) = self.open.take() {
            self.source = Some(open()?);
        }
        let Some(source) = &mut self.source else { return Ok(0) };
        let count = source.read(buffer)?;
        self.marks = source.take_marks();
        if count == 0 && self.marks.is_empty() {
            (self.check)()?;
        }
        Ok(count)
    }

    fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    fn take_entries(&mut self) -> Vec<FileEntry> {
        self.take(|source| source.take_entries())
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        self.take(|source| source.take_warnings())
    }

    fn take_not_entered(&mut self) -> Vec<PathBuf> {
        self.take(|source| source.take_not_entered())
    }

    fn take_record(&mut self) -> Option<Box<Record>> {
        self.take(|source| source.take_record())
    }
}

/// A text as a stream.
pub(super) struct Text(Bytes);

impl Text {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Source for Text {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, source::Error> {
        let piece = self.0.split_to(self.0.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}
