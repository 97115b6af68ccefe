//! Unpacks a tar stream that is not trusted.
//!
//! # What it promises
//! Creates, changes and opens nothing outside the target, whatever the archive holds: a path is walked one component at a
//! time without following links, and a component that is not a directory is refused. Files are always newly created; with
//! `overwrite`, an existing one of the same type is removed first ([`super::refusal`]). A member is restored with owner,
//! mode, time, extended attributes and ACLs, and is never accessible to anybody whom the backup does not allow
//! ([`attributes`]); directories get theirs at the end, when nothing more is written into them. Devices are restored, so a
//! target that others can enter should be mounted `nodev,nosuid`, as with any archive.
//!
//! # What it costs
//! One header, a sparse file's map, a few hundred bytes for each directory, some bytes for
//! each member that is left out, two paths for each hard link that has to be a copy, and 4 MiB of small files that another thread
//! writes ([`finish`]).
//!
//! # What happens on failure
//! If this user lacks a permission or the file system does not support something, that member or attribute is left out,
//! counted and listed ([`ledger`]), and the rest is restored; so is a member that is damaged in the store
//! ([`super::salvage`]). The first inconsistency in the archive, or a failure that would hit every later member, is an error
//! that names the member and what was expected; the current member is removed again, earlier ones stay.

mod access;
mod attributes;
pub(super) mod damage;
mod data;
mod files;
mod finish;
mod known;
mod ledger;
mod links;
mod read_back;
mod sink;
mod target;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use self::attributes::{Place, apply};
pub use self::damage::Damage;
use self::data::Output;
use self::finish::Finisher;
use self::ledger::Ledger;
pub use self::ledger::Warning;
use self::read_back::Written;
use self::sink::{Sink, Wants};
use self::target::{Found, Target, meanwhile};
use super::refusal;
use super::salvage::{Hurt, Sound, Source};
use crate::error::{Class, Classify, Report};
use crate::format::index::FileKind;
use crate::tar::{self, Member, shown};
use rustix::fs::FileType;

type Failure = refusal::Failure<Error>;

/// Bytes that are read or written at once where nothing else says how many.
const BUFFER: usize = 256 << 10;

/// Who creates the target directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Root {
    /// The target may exist; otherwise it is created.
    #[default]
    There,
    /// The caller created it for this restore.
    Made,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether an existing file of the member's own type is replaced. Otherwise the member is left out.
    pub overwrite: bool,
    pub root: Root,
    /// Directories of the archive (empty: its root) that are not selected themselves: restored as saved if this restore
    /// creates them, left as they are if they existed before, not counted.
    pub on_the_way: HashSet<Vec<u8>>,
    /// Whether what was written is read back and compared.
    pub read_back: bool,
    /// Paths in the archive and the paths to write instead. For a hard link whose first name is not selected: the data
    /// goes to the first of the selected names.
    pub link_sources: HashMap<Vec<u8>, Vec<u8>>,
}

/// The result of unpacking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members that were restored, including directories.
    pub files: u64,
    /// Those of `files` that are not the target itself.
    pub below: u64,
    pub left_out: u64,
    pub first_left_out: Option<Warning>,
    /// Members that were restored with differences.
    pub altered: u64,
    pub bytes: u64,
    /// Files that were read back, and were as they were written.
    pub read_back: u64,
    /// The number of all left-out members and altered attributes; `warnings` lists some 1000.
    pub warning_count: u64,
    pub warnings: Vec<Warning>,
    /// How many members of `left_out` and `altered` are so because of damage, and the first [`damage::MOST`].
    pub damaged: u64,
    pub damage: Vec<Damage>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Archive(#[from] tar::Error),
    #[error("could not {action} {path:?}: {error}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        error: io::Error,
    },
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Archive(tar::Error::Read { .. }) => Report::new(Class::Local, self.to_string()),
            Self::Archive(_) => Report::new(Class::Integrity, self.to_string()),
            Self::Io { error, .. } => refusal::report(self.to_string(), error),
        }
    }
}

fn refused(path: &[u8], reason: impl Into<String>) -> Error {
    tar::Error::refused(path, reason).into()
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &[u8]) -> impl FnOnce(E) -> Error {
    let path = shown(path);
    move |error| Error::Io { action, path, error: error.into() }
}

/// Unpacks all of `reader`, to its end, below `target`, which is created if it does not exist.
///
/// # Errors
/// When the archive is malformed, would leave the target, or ends early, or when the target fails in a way that would
/// hit every later member.
pub fn extract(reader: impl Read, target: &Path, options: &Options) -> Result<Summary, Error> {
    extract_whole(Sound(BufReader::with_capacity(BUFFER, reader)), target, options)
}

/// As [`extract`], of what is whole of a stream.
pub(super) fn extract_whole(source: impl Source, target: &Path, options: &Options) -> Result<Summary, Error> {
    let make = || make_root(target).map_err(failed("create the target", target.as_os_str().as_bytes()));
    let root = if options.root == Root::Made { Root::Made } else { make()? };
    let mut extractor = extractor(target, options, root)?;
    let unpacked = sink::unpack(source, &mut extractor).and_then(|()| extractor.read_back());
    match unpacked.and_then(|()| extractor.finish()) {
        Ok(()) => Ok(extractor.summary()),
        // An earlier member's error comes first.
        Err(error) => Err(extractor.abandon().err().unwrap_or(error)),
    }
}

fn extractor<'a>(target: &Path, options: &'a Options, root: Root) -> Result<Extractor<'a>, Error> {
    let opened = Target::open(target, options.overwrite);
    let written = options.read_back.then(Written::new).transpose();
    Ok(Extractor {
        target: opened.map_err(failed("open the target", target.as_os_str().as_bytes()))?,
        written: written.map_err(failed("make a temporary file for", b"--verify"))?,
        options,
        root,
        directories: BTreeMap::new(),
        copies: HashMap::new(),
        summary: Summary::default(),
        ledger: Ledger::default(),
        output: None,
        finisher: None,
        holds: false,
        filled: None,
    })
}

/// Creates a directory for its owner alone, and its parents as the umask says.
///
/// # Errors
/// When it does not exist and cannot be created.
pub fn make_root(path: &Path) -> io::Result<Root> {
    use std::os::unix::fs::DirBuilderExt as _;
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(Root::Made),
        Err(_) if path.is_dir() => Ok(Root::There),
        Err(error) => Err(error),
    }
}

/// Removes the ACLs that a new file has from its directory's default ACL. One that cannot be removed gives nobody
/// access, as long as the mode gives the group none.
pub fn remove_acls(file: &File, kind: FileType) {
    let kind = if kind == FileType::Directory { FileKind::Directory } else { FileKind::Regular };
    let _ = Place::Open(file).remove_acls(kind);
}

struct Extractor<'a> {
    target: Target,
    options: &'a Options,
    root: Root,
    directories: BTreeMap<Vec<u8>, Directory>,
    /// Copies of first names that the file system gave no further name, by the first name's path.
    copies: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    summary: Summary,
    ledger: Ledger,
    /// What is to be read back.
    written: Option<Written>,
    /// The file that is being written.
    output: Option<Output>,
    /// Writes small files; `None` before the first.
    finisher: Option<Finisher>,
    /// Whether it holds the file that is being written.
    holds: bool,
    /// The path of the current or the next file, if parts of it are lost, and these parts.
    filled: Option<(Vec<u8>, Vec<Range<u64>>)>,
}

/// What to do to a directory at the end.
struct Directory {
    /// `None`: it existed before.
    attributes: Option<Box<Member>>,
    /// Its mode before the restore, if it was changed for the time of the restore.
    before: Option<u32>,
}

impl Sink for Extractor<'_> {
    type Error = Error;

    fn begin(&mut self, mut member: Member) -> Result<Wants, Error> {
        member.path = target::checked(&member.path)?;
        if let Some(instead) = self.options.link_sources.get(&member.path) {
            member.path = target::checked(instead)?;
        }
        if member.path.is_empty() && member.kind != FileKind::Directory {
            return Err(refused(b".", "it is the target itself; expected a directory"));
        }
        let path = member.path.clone();
        if self.options.overwrite {
            // It may be replaced.
            self.wait_for(&path)?;
        }
        // Its content was restored under this name already, or was left out under it.
        if member.kind == FileKind::HardLink
            && target::checked(&member.link)
                .is_ok_and(|first| self.options.link_sources.get(&first).is_some_and(|instead| *instead == path))
        {
            return Ok(Wants::Nothing);
        }
        let done = match member.kind {
            FileKind::Directory => self.directory(member),
            FileKind::Regular => match self.file(member) {
                Ok(()) => return Ok(Wants::Data),
                failed => failed,
            },
            FileKind::HardLink => self.hard_link(&member),
            FileKind::Symlink | FileKind::Fifo | FileKind::CharDevice | FileKind::BlockDevice => self.special(&member),
        };
        self.settle(&path, done)?;
        Ok(Wants::Nothing)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<Wants, Error> {
        self.file_data(offset, bytes)
    }

    fn end(&mut self) -> Result<(), Error> {
        self.file_end()
    }

    fn hurt(&mut self, hurt: Hurt) -> Result<(), Error> {
        self.damaged(hurt)
    }

    fn cut(&mut self) {
        self.remove_output();
    }
}

impl Extractor<'_> {
    /// Counts a complete member that is no file, or removes an incomplete file and records why it was left out.
    fn settle(&mut self, path: &[u8], done: Result<(), Failure>) -> Result<(), Error> {
        self.remove_output();
        self.count(path, done)
    }

    fn count(&mut self, path: &[u8], done: Result<(), Failure>) -> Result<(), Error> {
        match done {
            Ok(()) => {
                let wanted = !self.options.on_the_way.contains(path);
                self.summary.files += u64::from(wanted);
                self.summary.below += u64::from(wanted && !path.is_empty());
                self.note_filled(path);
                Ok(())
            }
            Err(Failure::LeftOut(refusal)) => {
                if refusal.class == Class::Integrity {
                    self.damage(path, None);
                }
                self.target.known.leave_out(path, refusal.class);
                self.ledger.left_out(path, &refusal);
                Ok(())
            }
            Err(Failure::Ends(error)) => Err(error),
        }
    }

    fn directory(&mut self, member: Member) -> Result<(), Failure> {
        let path = member.path.clone();
        let found = match (path.is_empty(), self.root) {
            (false, _) => self.target.create_directory(&path)?,
            (true, Root::Made) => Found::Made,
            (true, Root::There) => {
                Found::There { mode: self.target.root_mode().map_err(target::verdict("inspect", &path))? }
            }
        };
        let mut directory = Directory { attributes: Some(Box::new(member)), before: None };
        if let Found::There { mode } = found {
            let saved = directory.attributes.as_ref().map(|member| member.mode);
            if self.options.on_the_way.contains(&path) {
                directory.attributes = None;
            }
            let meanwhile = meanwhile(mode, saved.filter(|_| directory.attributes.is_some()));
            // If it cannot be changed, the members below it report the error.
            if meanwhile != mode && self.target.set_directory_mode(&path, meanwhile).is_ok() {
                directory.before = Some(mode);
            }
        }
        // Of two members for one directory, the later one applies.
        if let Some(earlier) = self.directories.get(&path) {
            directory.before = earlier.before.or(directory.before);
        }
        self.directories.insert(path, directory);
        Ok(())
    }

    fn special(&mut self, member: &Member) -> Result<(), Failure> {
        self.target.create_special(member)?;
        let (parent, name) = self.target.locate(&member.path)?;
        let done = apply(&Place::Name(&parent, &name), member, &mut self.ledger);
        self.removed_unless(done.map_err(Failure::Ends), &member.path)
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.wait()?;
        // Finishes inner directories first, before an outer one's mode could prevent it.
        while let Some((path, directory)) = self.directories.pop_last() {
            match self.finish_directory(&path, &directory) {
                Ok(()) => {}
                Err(Failure::LeftOut(refusal)) => {
                    let why = refusal.message.trim_start_matches("left out: ");
                    self.ledger.altered(&path, &format!("could not restore its owner, mode and time: {why}"));
                }
                Err(Failure::Ends(error)) => {
                    self.directories.insert(path, directory);
                    return Err(error);
                }
            }
        }
        for path in self.target.known.unexplained() {
            let message = "its owner, mode and time are not known, for the backup's entry for it was not read: \
                           nobody but its owner may enter";
            self.ledger.altered(path.as_deref().unwrap_or_default(), message);
        }
        Ok(())
    }

    fn finish_directory(&mut self, path: &[u8], directory: &Directory) -> Result<(), Failure> {
        let Some(attributes) = &directory.attributes else {
            return directory.before.map_or(Ok(()), |mode| self.target.set_directory_mode(path, mode));
        };
        if let Some(fd) = self.target.open_directory(path)? {
            apply(&Place::Open(&File::from(fd)), attributes, &mut self.ledger)?;
        } else {
            let (parent, name) = self.target.locate(path)?;
            apply(&Place::Name(&parent, &name), attributes, &mut self.ledger)?;
        }
        Ok(())
    }

    /// Removes the incomplete file, completes those before it, and restores the modes of directories that existed before. Returns the error
    /// of a file; the caller reports others.
    fn abandon(&mut self) -> Result<(), Error> {
        self.remove_output();
        let waited = self.wait();
        while let Some((path, directory)) = self.directories.pop_last() {
            if let Some(mode) = directory.before {
                let _ = self.target.set_directory_mode(&path, mode);
            }
        }
        waited
    }

    fn summary(mut self) -> Summary {
        let Ledger { left_out, altered, count, .. } = self.ledger;
        let first_left_out = self.ledger.first_left_out.take();
        let warnings = self.ledger.into_list();
        Summary { left_out, first_left_out, altered, warning_count: count, warnings, ..self.summary }
    }
}

fn c_string(member: &[u8], bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| refused(member, "its name or link holds a NUL byte; expected none"))
}

#[cfg(test)]
mod tests;
