//! From a backup back to files.
//!
//! # What it promises
//! What comes back was checked byte by byte ([`crate::download`]) and stays within the target ([`extract`]). One item goes
//! straight into the target, several into a folder each, by the item's name. A tree is unpacked; any other item becomes
//! one file, which appears whole or not at all.
//!
//! # What it costs
//! [`crate::download::plain`]'s memory, one item at a time. With `--include`, the requests for what is wanted and one range
//! in memory for each run of wanted members.
//!
//! # What happens on failure
//! The first failure ends the restore: what was unpacked before it stays, a file that is not complete is removed. An
//! item that failed in the backup is a warning when it was not asked for by name.

pub mod extract;
mod failure;
mod select;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

pub use self::failure::Error;
use self::failure::{local, read_error};
use self::select::{Include, Selected};
use crate::download::plain::{self, PlainRead, PlainReader};
use crate::download::{self, Context, Progress, Selection, index};
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, SourceDescription, Stream, Warning, Warnings};

/// Bytes on their way into a file.
const BUFFER: usize = 256 << 10;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Empty: all of them.
    pub items: Vec<Name>,
    /// Globs against a member's path; empty: everything.
    pub include: Vec<String>,
    /// Whether what is in the way is replaced.
    pub overwrite: bool,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub items: Vec<Name>,
    /// Members of trees, directories too, and one for each other item.
    pub files: u64,
    /// Bytes of data written.
    pub bytes: u64,
    pub warnings: Warnings,
}

impl Summary {
    fn warn(&mut self, item: &Name, path: String, message: String) {
        self.warnings.push(Warning { item: item.clone(), path, message });
    }

    fn add(&mut self, item: &Name, unpacked: extract::Summary) {
        self.files += unpacked.files;
        self.bytes += unpacked.bytes;
        let unlisted = unpacked.warning_count.saturating_sub(unpacked.warnings.len() as u64);
        for warning in unpacked.warnings {
            self.warn(item, warning.path.to_string_lossy().into_owned(), warning.message);
        }
        self.warnings.count += unlisted;
    }
}

/// Restores a backup, or what `options` says of it, into `target`.
///
/// # Errors
/// When the target holds something already (without `overwrite`), nothing is there by that name, or at the first thing
/// that cannot be read, is not what was stored, or cannot be written.
pub async fn restore(
    ctx: &Context,
    manifest: &Manifest,
    target: &Path,
    options: &Options,
    cancel: &CancellationToken,
    progress: &Progress,
) -> Result<Summary, Error> {
    let include = Include::new(&options.include)?;
    let mut summary = Summary::default();
    let items = choose(manifest, &options.items, &mut summary)?;
    let dir = target.to_owned();
    let overwrite = options.overwrite;
    blocking(move || prepare(&dir, overwrite)).await?;
    // Ends the threads behind this future when it is dropped.
    let cancel = cancel.child_token();
    let _guard = cancel.clone().drop_guard();
    let mut job = Job { ctx, target, include, overwrite, cancel: &cancel, progress, summary };
    for (item, stream) in &items {
        let base = if items.len() == 1 { target.to_owned() } else { target.join(item.name.as_str()) };
        if job.item(item, stream, base).await? {
            job.summary.items.push(item.name.clone());
        }
    }
    if job.summary.items.is_empty() && job.include.is_some() {
        return Err(Error::NotFound(format!("nothing in the backup {} matches --include", manifest.id)));
    }
    Ok(job.summary)
}

/// Writes the plain bytes of one item to `out`: a tree's tar stream, or a file's content. Returns how many.
///
/// # Errors
/// When the backup has several items and none is named, or none of that name, or reading or writing fails.
pub async fn cat(
    ctx: &Context,
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
    let index = fetch_index(ctx, stream, cancel).await?;
    let mut reader = plain::read(ctx, stream, index, Selection::Whole, cancel.clone());
    let failed = |error| local("writing to", "the output")(error);
    let mut total = 0;
    while let Some(bytes) = reader.next().await? {
        total += bytes.len() as u64;
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(download::Error::Cancelled.into()),
            written = out.write_all(&bytes) => written.map_err(failed)?,
        }
    }
    out.flush().await.map_err(failed)?;
    Ok(total)
}

fn names_of(manifest: &Manifest) -> String {
    manifest.items.iter().map(|item| item.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The items asked for that can be restored.
fn choose<'a>(
    manifest: &'a Manifest,
    names: &[Name],
    summary: &mut Summary,
) -> Result<Vec<(&'a Item, &'a Stream)>, Error> {
    if let Some(unknown) = names.iter().find(|name| !manifest.items.iter().any(|item| item.name == **name)) {
        let there = names_of(manifest);
        return Err(Error::NotFound(format!("the backup {} has no item {unknown}; it has {there}", manifest.id)));
    }
    let mut chosen = Vec::new();
    for item in manifest.items.iter().filter(|item| names.is_empty() || names.contains(&item.name)) {
        let stream = match &item.content {
            Content::Stream { stream } => stream.as_ref(),
            Content::EbsSnapshot { .. } if names.is_empty() => {
                tracing::info!(item = %item.name, "is an EBS snapshot: `penstock snapshot restore` makes a volume of it");
                continue;
            }
            Content::EbsSnapshot { .. } => {
                return Err(Error::Usage(format!(
                    "{} is an EBS snapshot: `penstock snapshot restore` makes a volume of it",
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
        summary.warn(&item.name, String::new(), message);
    }
    if chosen.is_empty() {
        let only = if manifest.snapshots().next().is_some() {
            "; its EBS snapshots are restored by `penstock snapshot restore`"
        } else {
            ""
        };
        return Err(Error::NotFound(format!("the backup {} holds no files that can be restored{only}", manifest.id)));
    }
    Ok(chosen)
}

/// Makes sure that there is a directory, and that it is empty unless it may be written over.
fn prepare(target: &Path, overwrite: bool) -> Result<(), Error> {
    std::fs::create_dir_all(target).map_err(local("creating the target", target))?;
    let mut entries = std::fs::read_dir(target).map_err(local("reading the target", target))?;
    if !overwrite && entries.next().is_some() {
        return Err(Error::NotEmpty { target: target.to_owned() });
    }
    Ok(())
}

async fn fetch_index(ctx: &Context, stream: &Stream, cancel: &CancellationToken) -> Result<index::IndexFile, Error> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(download::Error::Cancelled.into()),
        index = index::fetch(ctx, stream) => Ok(index?),
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(f).await.map_err(|_| Error::from(download::Error::Stopped))?
}

struct Job<'a> {
    ctx: &'a Context,
    target: &'a Path,
    include: Option<Include>,
    overwrite: bool,
    cancel: &'a CancellationToken,
    progress: &'a Progress,
    summary: Summary,
}

impl Job<'_> {
    /// Restores one item into `base`; `false` when nothing of it is wanted.
    async fn item(&mut self, item: &Item, stream: &Stream, base: PathBuf) -> Result<bool, Error> {
        let file_name = file_name(item);
        if !item.source.is_tree() && self.include.as_ref().is_some_and(|globs| !globs.wants(file_name.as_bytes())) {
            return Ok(false);
        }
        let index = fetch_index(self.ctx, stream, self.cancel).await?;
        let (dir, target, overwrite) = (base.clone(), self.target.to_owned(), self.overwrite);
        if !item.source.is_tree() {
            blocking(move || real_directory(&dir, &target)).await?;
            let reader = self.read(stream, index, Selection::Whole);
            self.summary.bytes += blocking(move || write_file(reader, &base, &file_name, overwrite)).await?;
            self.summary.files += 1;
            return Ok(true);
        }
        let (selection, link_sources, end) = match &self.include {
            None => (Selection::Whole, std::collections::HashMap::new(), &[][..]),
            Some(include) => {
                let Selected { ranges, link_sources } = self.select(&index, stream, include.clone()).await?;
                if ranges.is_empty() {
                    return Ok(false);
                }
                (Selection::Ranges(ranges), link_sources, &extract::END_OF_ARCHIVE[..])
            }
        };
        blocking(move || real_directory(&dir, &target)).await?;
        let archive = self.read(stream, index, selection).chain(end);
        let options = extract::Options { overwrite, link_sources };
        let name = item.name.clone();
        let unpacked = blocking(move || {
            extract::extract(archive, &base, &options).map_err(|error| Error::Extract { item: name, error })
        });
        let unpacked = unpacked.await?;
        self.summary.add(&item.name, unpacked);
        Ok(true)
    }

    async fn select(&self, index: &index::IndexFile, stream: &Stream, include: Include) -> Result<Selected, Error> {
        let (index, stream) = (index.clone(), stream.clone());
        blocking(move || select::select(&index, &stream, &include)).await
    }

    fn read(&self, stream: &Stream, index: index::IndexFile, selection: Selection) -> Counted {
        let reader: PlainReader = plain::read(self.ctx, stream, index, selection, self.cancel.clone());
        let reader = reader.into_read(tokio::runtime::Handle::current());
        Counted { reader, progress: Progress::clone(self.progress) }
    }
}

struct Counted {
    reader: PlainRead,
    progress: Progress,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        (self.progress)(count as u64);
        Ok(count)
    }
}

/// What a file, command or stdin item is called when it is restored.
fn file_name(item: &Item) -> String {
    match &item.source {
        SourceDescription::File { path } => {
            let base = path.rsplit('/').next().unwrap_or_default();
            let safe = !matches!(base, "" | "." | "..") && base.len() <= 255 && !base.contains(char::is_control);
            if safe { base.to_owned() } else { item.name.to_string() }
        }
        SourceDescription::Tree { .. }
        | SourceDescription::Command { .. }
        | SourceDescription::Stdin
        | SourceDescription::Ebs { .. } => item.name.to_string(),
    }
}

/// Creates an item's directory. The target itself exists already, and may be a link: the operator chose it.
fn real_directory(dir: &Path, target: &Path) -> Result<(), Error> {
    if dir == target {
        return Ok(());
    }
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = dir.symlink_metadata().map_err(local("opening", dir))?;
            if found.is_dir() { Ok(()) } else { Err(Error::InTheWay { path: dir.to_owned() }) }
        }
        Err(error) => Err(local("creating", dir)(error)),
    }
}

/// One file, which takes its name when it is complete.
fn write_file(mut reader: impl Read, dir: &Path, name: &str, overwrite: bool) -> Result<u64, Error> {
    let path = dir.join(name);
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => return Err(Error::Directory { path }),
        Ok(_) if !overwrite => return Err(Error::InTheWay { path }),
        Ok(_) | Err(_) => {}
    }
    // Removed when dropped.
    let temporary = tempfile::Builder::new().prefix(".penstock-").tempfile_in(dir);
    let mut temporary = temporary.map_err(local("creating a file in", dir))?;
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(error)),
        };
        temporary.write_all(&buffer[..count]).map_err(local("writing", &path))?;
        total += count as u64;
    }
    temporary.as_file().sync_all().map_err(local("writing", &path))?;
    let renamed = if overwrite { temporary.persist(&path) } else { temporary.persist_noclobber(&path) };
    renamed.map_err(|error| local("renaming to", &path)(error.error))?;
    Ok(total)
}
