//! Restores a backup's files.
//!
//! # What it promises
//! Restores only bytes that were checked ([`crate::download`]), and only within the target ([`extract`]). One item goes
//! straight into the target, several into a folder each, named like the item. A tree is unpacked; any other item becomes one
//! file, which appears whole or not at all. A volume of a claim is filled ([`fill`]): what is in it already is never overwritten.
//!
//! # What it costs
//! [`crate::download::plain`]'s memory, one item at a time. With `--include`, only the selected bytes are requested, and
//! each run of selected members has one range in memory.
//!
//! # What happens on failure
//! A failure of one member leaves out that member or attribute, is counted and listed ([`refusal`]), and the rest is
//! restored. So does damage in the store ([`salvage`]): a file whose bytes are missing or differ is left out, or has zeros
//! for them, or comes from another backup ([`Options::heal`]). A failure that would hit every later file ends the restore:
//! files that were unpacked before stay, an incomplete file is removed. An item that failed in the backup gives a warning,
//! unless it was asked for by name.

pub mod elsewhere;
pub mod extract;
mod failure;
mod file;
mod fill;
mod job;
mod near;
pub mod preview;
mod refusal;
mod salvage;
mod select;
mod summary;
#[cfg(test)]
mod tests;
mod writeback;

use std::path::Path;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use self::failure::local;
pub use self::failure::{Error, written};
use self::job::{Job, Wanted};
use self::refusal::Failure;
pub use self::salvage::Damaged;
pub use self::summary::{DamagedFile, Outcome, Summary, Warning, Warnings};
use crate::download::input::Input;
use crate::download::plain;
use crate::download::{self, Progress, Selection, index};
use crate::error::Class;
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, Stream};
use crate::location::Location;

/// What the target may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Onto {
    /// Nothing.
    #[default]
    Empty,
    /// Anything: an existing file of the same type is replaced.
    Overwrite,
    /// It is a volume, or a block device, that is empty, or that an interrupted restore of this backup has begun to fill.
    Fill,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Empty: all items.
    pub items: Vec<Name>,
    /// Paths and globs of members; empty: all.
    pub include: Vec<String>,
    /// Of what is included, what is left out.
    pub exclude: Vec<String>,
    pub onto: Onto,
    pub damaged: Damaged,
    /// Whether what was written is read back and compared.
    pub read_back: bool,
    /// A backup whose files take the place of damaged ones.
    pub heal: Option<Box<Manifest>>,
}

impl Options {
    fn selects(&self) -> bool {
        !self.include.is_empty() || !self.exclude.is_empty()
    }
}

/// Restores a backup, or the part that `options` selects, into `target`.
///
/// # Errors
/// When the target has what [`Onto`] does not allow, the selection matches nothing, or the store or the target fails in a
/// way that would hit every later file. Damage is no error: [`Summary::failure`] tells it.
pub async fn restore(
    location: &Location,
    manifest: &Manifest,
    target: &Path,
    options: &Options,
    cancel: &CancellationToken,
    progress: &Progress,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let items = choose(manifest, &options.items, &mut summary)?;
    let name = format!("{}/{}@{}", manifest.job, manifest.node, manifest.id);
    let volume = (options.onto == Onto::Fill).then(|| target.to_owned());
    if let Some(path) = &volume
        && fill::is_device(path)
    {
        return onto_device(location, &items, path, name, (cancel, progress), summary).await;
    }
    let (root, volume) = if let Some(path) = volume {
        let (volume, root) = blocking(move || fill::Volume::begin(&path, &name)).await?;
        (Some(root), Some(volume))
    } else {
        let (dir, onto) = (target.to_owned(), options.onto);
        blocking(move || check(&dir, onto)).await?;
        (None, None)
    };
    // Ends the threads behind this future when it is dropped.
    let cancel = cancel.child_token();
    let _guard = cancel.clone().drop_guard();
    let mut job = Job { location, target, root, options, cancel: &cancel, progress, summary };
    for (item, stream) in &items {
        let base = if items.len() == 1 { target.to_owned() } else { target.join(item.name.as_str()) };
        match job.item(item, stream, base.clone()).await {
            Ok(Wanted::Yes) => job.summary.items.push(item.name.clone()),
            Ok(Wanted::No) => {}
            Err(Failure::LeftOut(refusal)) => {
                job.summary.left_out(&item.name, refusal);
                job.summary.items.push(item.name.clone());
            }
            Err(Failure::Ends(error)) => return Err(error),
        }
        if let Some(from) = &options.heal {
            job.heal(item, from, base).await?;
        }
    }
    if job.summary.items.is_empty() && options.selects() {
        return Err(Error::NotFound(format!(
            "nothing in the backup {} matches --include and --exclude; expected paths as `penstock show --files` prints them, or globs",
            manifest.id
        )));
    }
    // With files missing it stays a volume that is not whole.
    if let Some(volume) = volume.filter(|_| !job.summary.lacks_damaged()) {
        blocking(move || volume.end()).await?;
    }
    Ok(job.summary)
}

/// Writes the backup's one item, which is a device's content, onto a device.
async fn onto_device(
    location: &Location,
    items: &[(&Item, &Stream)],
    path: &Path,
    backup: String,
    (cancel, progress): (&CancellationToken, &Progress),
    mut summary: Summary,
) -> Result<Summary, Error> {
    let [(item, stream)] = items else {
        return Err(Error::Usage(format!("{} is a device: name the item to write onto it", path.display())));
    };
    if item.source.is_tree() {
        let message = format!("{} is a device, and the item {} is a folder", path.display(), item.name);
        return Err(Error::Usage(message));
    }
    let index = fetch_index(location, stream, cancel).await?;
    let reader = plain::read(location, stream, index, Selection::Whole, cancel.clone());
    let mut input = Input::new(reader, Progress::clone(progress));
    let (path, length) = (path.to_owned(), stream.plain_bytes);
    let bytes = blocking(move || {
        let written = fill::device(&mut input, &path, length, &backup);
        input.failure.map_or(written, |error| Err(error.into()))
    });
    summary.add_file(bytes.await?, false);
    summary.items.push(item.name.clone());
    Ok(summary)
}

/// Writes the plain bytes of one item to `out`: a tree's tar stream, or a file's content. Returns how many.
///
/// # Errors
/// When `item` is `None` and the backup has several, when it has none of that name, or when reading or writing fails.
pub async fn cat(
    location: &Location,
    manifest: &Manifest,
    item: Option<&Name>,
    mut out: impl AsyncWrite + Unpin,
    cancel: &CancellationToken,
) -> Result<u64, Error> {
    let names: Vec<Name> = item.into_iter().cloned().collect();
    let items = choose(manifest, &names, &mut Summary::default())?;
    let [(_, stream)] = items[..] else {
        let message = format!("the backup {} has several items; name one of {}", manifest.id, names_of(manifest));
        return Err(Error::Usage(message));
    };
    let index = fetch_index(location, stream, cancel).await?;
    let mut reader = plain::read(location, stream, index, Selection::Whole, cancel.clone());
    let mut total = 0;
    while let Some(bytes) = reader.next().await? {
        total += bytes.len() as u64;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(download::Error::Cancelled.into()),
            written = out.write_all(&bytes) => written.map_err(failure::written)?,
        }
    }
    out.flush().await.map_err(failure::written)?;
    Ok(total)
}

fn names_of(manifest: &Manifest) -> String {
    manifest.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The requested items that can be restored.
fn choose<'a>(
    manifest: &'a Manifest,
    names: &[Name],
    summary: &mut Summary,
) -> Result<Vec<(&'a Item, &'a Stream)>, Error> {
    if let Some(unknown) = names.iter().find(|name| !manifest.items.iter().any(|item| item.name == **name)) {
        let there = names_of(manifest);
        return Err(Error::NotFound(format!(
            "the backup {} has no item {unknown}; expected one of {there}",
            manifest.id
        )));
    }
    let mut chosen = Vec::new();
    for item in manifest.items.iter().filter(|item| names.is_empty() || names.contains(&item.name)) {
        let stream = match &item.content {
            Content::Stream { stream } => stream.as_ref(),
            Content::EbsSnapshot { .. } if names.is_empty() => {
                tracing::info!(item = %item.name, "skipped an EBS snapshot: use `penstock snapshot restore` to make a volume of it");
                continue;
            }
            Content::EbsSnapshot { .. } => {
                return Err(Error::Usage(format!(
                    "{} is an EBS snapshot: use `penstock snapshot restore` to make a volume of it",
                    item.name
                )));
            }
        };
        if let Some(stream) = stream {
            chosen.push((item, stream));
            continue;
        }
        let why = item.error.as_ref().map_or("no reason is recorded", |error| error.message.as_str());
        let message = format!("the item {} failed in the backup {}: {why}", item.name, manifest.id);
        if !names.is_empty() {
            return Err(Error::NotFound(message));
        }
        summary.warn(&item.name, String::new(), Class::Source, message);
    }
    if chosen.is_empty() {
        let only = if manifest.snapshots().next().is_some() {
            "; use `penstock snapshot restore` for its EBS snapshots"
        } else {
            ""
        };
        return Err(Error::NotFound(format!("the backup {} holds no files that can be restored{only}", manifest.id)));
    }
    Ok(chosen)
}

/// Checks that the target is empty, if it has to be. It is created when the first file is restored.
fn check(target: &Path, onto: Onto) -> Result<(), Error> {
    match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
        Ok(empty) if empty || onto != Onto::Empty => Ok(()),
        Ok(_) => Err(Error::NotEmpty { target: target.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(local("read the target", target)(error)),
    }
}

async fn fetch_index(
    location: &Location,
    stream: &Stream,
    cancel: &CancellationToken,
) -> Result<index::IndexFile, Error> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(download::Error::Cancelled.into()),
        index = index::fetch(location, stream) => Ok(index?),
    }
}

async fn blocking<T, E>(f: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    tokio::task::spawn_blocking(f).await.map_err(|_| E::from(download::Error::Stopped.into()))?
}
