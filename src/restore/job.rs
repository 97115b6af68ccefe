//! Restores one item after another: reads it past its damage, and writes it below the target.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::extract::{self, Root};
use super::failure::{Error, local};
use super::file::{self, file_name};
use super::refusal::{Failure, Refusal};
use super::salvage::{Damaged, Members, Salvage};
use super::select::{self, Choice, Selected};
use super::summary::Summary;
use super::{Onto, Options, blocking, fetch_index};
use crate::download::index::IndexFile;
use crate::download::{Progress, Selection, plain};
use crate::error::{Class, Classify as _};
use crate::format::manifest::{Item, Manifest, Stream};
use crate::location::Location;

pub(super) struct Job<'a> {
    pub(super) location: &'a Location,
    pub(super) target: &'a Path,
    /// `None`: the target is not created yet.
    pub(super) root: Option<Root>,
    pub(super) options: &'a Options,
    pub(super) cancel: &'a CancellationToken,
    pub(super) progress: &'a Progress,
    pub(super) summary: Summary,
}

/// Whether the selection has anything of an item.
pub(super) enum Wanted {
    Yes,
    No,
}

impl Job<'_> {
    /// Restores one item into `base`. Damage of the whole item leaves it out: others may be whole.
    pub(super) async fn item(&mut self, item: &Item, stream: &Stream, base: PathBuf) -> Result<Wanted, Failure<Error>> {
        let choice = Choice::new(&self.options.include, &self.options.exclude, &item.name);
        match self.chosen(item, stream, base, choice).await {
            Err(Failure::Ends(error)) if is_damage(&error) => {
                let message = format!("damaged in the store, so that not all of it was restored: {error}");
                Err(Failure::LeftOut(Refusal { class: Class::Integrity, message }))
            }
            done => done,
        }
    }

    async fn chosen(
        &mut self,
        item: &Item,
        stream: &Stream,
        base: PathBuf,
        choice: Option<Choice>,
    ) -> Result<Wanted, Failure<Error>> {
        if !item.source.is_tree() {
            let file_name = file_name(item);
            if choice.is_some_and(|choice| !choice.wants(file_name.as_bytes())) {
                return Ok(Wanted::No);
            }
            let index = fetch_index(self.location, stream, self.cancel).await?;
            return self.file(item, stream, index, (base, file_name)).await;
        }
        let index = fetch_index(self.location, stream, self.cancel).await?;
        let selected = match choice {
            None => None,
            Some(choice) => {
                let selected = select(&index, stream, choice).await?;
                if selected.ranges.is_empty() {
                    return Ok(Wanted::No);
                }
                Some(selected)
            }
        };
        let root = self.enter(&base).await?;
        self.tree(item, stream, index, (base, root), selected).await?;
        Ok(Wanted::Yes)
    }

    /// Restores an item that is one file.
    async fn file(
        &mut self,
        item: &Item,
        stream: &Stream,
        index: IndexFile,
        (base, file_name): (PathBuf, String),
    ) -> Result<Wanted, Failure<Error>> {
        let _ = self.enter(&base).await?;
        let (overwrite, damaged) = (self.overwrites(), self.options.damaged);
        let read_back = self.options.read_back;
        let members = Members::of_file(&index, stream, &file_name);
        let mut input = self.read(stream, index, members, Selection::Whole);
        let write = move || {
            let written = file::write(&mut input, &base, &file_name, (overwrite, read_back));
            let lost = std::mem::take(&mut input.lost);
            match input.failure {
                Some(error) => Err(Failure::Ends(error.into())),
                None if damaged == Damaged::LeaveOut && !lost.is_empty() => {
                    let message = format!("left out: damaged in the store: {}", lost[0].reason);
                    Err(Failure::LeftOut(Refusal { class: Class::Integrity, message }))
                }
                None => written.map(|bytes| (bytes, lost)),
            }
        };
        let (bytes, lost) = blocking(write).await?;
        self.summary.add_file(bytes, read_back);
        if !lost.is_empty() {
            self.summary.filled(&item.name, stream, &lost);
        }
        Ok(Wanted::Yes)
    }

    /// Unpacks a tree, or what is selected of it.
    async fn tree(
        &mut self,
        item: &Item,
        stream: &Stream,
        index: IndexFile,
        (base, root): (PathBuf, Root),
        selected: Option<Selected>,
    ) -> Result<(), Error> {
        let (selection, link_sources, on_the_way) = match selected {
            None => (Selection::Whole, HashMap::new(), HashSet::new()),
            Some(Selected { ranges, link_sources, on_the_way, .. }) => {
                (Selection::Ranges(ranges), link_sources, on_the_way)
            }
        };
        let members = Members::of_tree(&index, stream);
        let mut input = self.read(stream, index, members, selection);
        let (overwrite, read_back) = (self.overwrites(), self.options.read_back);
        let options = extract::Options { overwrite, root, on_the_way, read_back, link_sources };
        let name = item.name.clone();
        let unpacked = blocking(move || {
            let unpacked = extract::extract_whole(&mut input, &base, &options);
            let download = input.failure.take().map(Box::new);
            let unpacked = unpacked.map_err(|error| Error::Extract { item: name, error, download })?;
            Ok::<_, Error>((unpacked, input.lost))
        });
        let (unpacked, lost) = unpacked.await?;
        self.summary.add(&item.name, unpacked);
        self.summary.lost(stream, &lost);
        Ok(())
    }

    /// Restores the damaged files of an item as they are in another backup. If that one is damaged too, they stay away.
    pub(super) async fn heal(&mut self, item: &Item, from: &Manifest, base: PathBuf) -> Result<(), Error> {
        match self.take_from(item, from, base).await {
            Err(error) if is_damage(&error) => {
                let message = format!("could not take the damaged files from {}: {error}", from.id);
                self.summary.warn(&item.name, String::new(), Class::Integrity, message);
                Ok(())
            }
            done => done,
        }
    }

    async fn take_from(&mut self, item: &Item, from: &Manifest, base: PathBuf) -> Result<(), Error> {
        let wanted = self.summary.to_heal(&item.name);
        let found = from.streams().find(|(other, _)| other.name == item.name && other.source.is_tree());
        let Some((item, stream)) = found.filter(|_| !wanted.is_empty() && item.source.is_tree()) else { return Ok(()) };
        let index = fetch_index(self.location, stream, self.cancel).await?;
        let selected = select(&index, stream, Choice::exactly(wanted)).await?;
        if selected.ranges.is_empty() {
            return Ok(());
        }
        let (found, before) = (selected.found.clone(), self.summary.damage.len());
        self.tree(item, stream, index, (base, Root::There), Some(selected)).await?;
        self.summary.healed(&item.name, &from.id, &found, before);
        Ok(())
    }

    fn overwrites(&self) -> bool {
        self.options.onto != Onto::Empty
    }

    /// Creates the target, and in it an item's directory. The target may exist, and may be a link: the operator chose it.
    async fn enter(&mut self, base: &Path) -> Result<Root, Failure<Error>> {
        let root = if let Some(root) = self.root {
            root
        } else {
            let target = self.target.to_owned();
            blocking(move || extract::make_root(&target).map_err(local("create the target", target))).await?
        };
        self.root = Some(root);
        if base == self.target {
            return Ok(root);
        }
        let base = base.to_owned();
        blocking(move || file::make_folder(&base)).await
    }

    fn read(&self, stream: &Stream, index: IndexFile, members: Members, selection: Selection) -> Salvage {
        let cancel = self.cancel.clone();
        let reader = plain::read_past_damage(self.location, stream, index, selection.clone(), cancel);
        Salvage::new(reader, members, selection, self.options.damaged, Progress::clone(self.progress))
    }
}

/// Whether what was stored is at fault, and not the way to it.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Download(_) | Error::Extract { .. })
        && matches!(error.class(), Class::Integrity | Class::NotFound)
}

async fn select(index: &IndexFile, stream: &Stream, choice: Choice) -> Result<Selected, Error> {
    let (index, stream) = (index.clone(), stream.clone());
    blocking(move || select::select(&index, &stream, &choice)).await
}
