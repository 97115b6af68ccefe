//! Unpacks a tar stream that is not trusted.
//!
//! # What it promises
//! Nothing outside the target is created, changed or opened, whatever the archive holds: a path is walked one component
//! at a time without following links, and a component that is not a directory is refused. What is created is created
//! new; with `overwrite`, what is in the way is removed first where it is of the same type ([`super::refusal`]). A member is
//! restored with owner, mode, time, extended attributes and ACLs, and opens to nobody whom the backup does not let in, at
//! no moment ([`attributes`]); directories get theirs at the end, when nothing is written into them any more. Devices are
//! restored, so a target that others can enter should be mounted `nodev,nosuid`, as with any archive.
//!
//! # What it costs
//! One buffer of [`BUFFER`] bytes, one header, a sparse file's map, a few hundred bytes for each directory, some bytes for
//! each member that is left out, and two paths for each hard link that has to be a copy.
//!
//! # What happens on failure
//! What this user may not do and what the file system cannot hold leaves out that member, or that attribute of it; it is
//! counted and listed ([`ledger`]), and the rest is restored. The first thing in the archive that does not add up, and
//! trouble that would hit every member after it, is an error that names the member and what was expected; the member at
//! hand is removed again, what was restored before it stays.

mod access;
mod attributes;
mod data;
mod known;
mod ledger;
mod links;
mod sink;
mod target;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;

use self::attributes::{Place, apply};
use self::data::Output;
use self::ledger::Ledger;
pub use self::ledger::Warning;
use self::sink::{Sink, Wants};
use self::target::{Found, Target};
use super::refusal;
use crate::error::{Class, Classify, Report};
use crate::format::index::FileKind;
use crate::tar::{self, Member, shown};

type Failure = refusal::Failure<Error>;

/// Bytes on their way into a file.
const BUFFER: usize = 256 << 10;

/// Whether the target was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Root {
    /// Or is not there yet: then it is made.
    #[default]
    There,
    /// By whoever calls, for this restore.
    Made,
}

/// How to unpack.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether what is in the way is replaced, where it is of the member's own type. Otherwise the member is left out.
    pub overwrite: bool,
    pub root: Root,
    /// Directories of the archive (empty: its root) that are not wanted themselves: restored as saved where this makes
    /// them, left as they are where they were there before, not counted.
    pub on_the_way: HashSet<Vec<u8>>,
    /// Paths in the archive, and where they are written to instead. For a hard link whose first name is not wanted: that
    /// member's data becomes the first of the wanted names.
    pub link_sources: HashMap<Vec<u8>, Vec<u8>>,
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members that were restored, directories too.
    pub files: u64,
    /// Those of them that are not the target itself.
    pub below: u64,
    /// Members that were not restored.
    pub left_out: u64,
    pub first_left_out: Option<Warning>,
    /// Members that were restored, but not as they were saved.
    pub altered: u64,
    /// Bytes of data written.
    pub bytes: u64,
    /// Each member that was left out, and each thing of a member that is not as it was saved; `warnings` holds some 1000.
    pub warning_count: u64,
    pub warnings: Vec<Warning>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Archive(#[from] tar::Error),
    #[error("{action} {path:?}: {error}")]
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

/// Unpacks all of `reader`, which is read to its end, below `target`, which is created if need be.
///
/// # Errors
/// When the archive is malformed, would leave the target, or ends early, or when the target is in such trouble that what
/// follows would fail too.
pub fn extract(reader: impl Read, target: &Path, options: &Options) -> Result<Summary, Error> {
    let root = match options.root {
        Root::Made => Root::Made,
        Root::There => make_root(target).map_err(failed("creating the target", target.as_os_str().as_bytes()))?,
    };
    let mut extractor = extractor(target, options, root)?;
    match sink::unpack(reader, &mut extractor).and_then(|()| extractor.finish()) {
        Ok(()) => Ok(extractor.summary()),
        Err(error) => {
            extractor.abandon();
            Err(error)
        }
    }
}

fn extractor<'a>(target: &Path, options: &'a Options, root: Root) -> Result<Extractor<'a>, Error> {
    let opened = Target::open(target, options.overwrite);
    Ok(Extractor {
        target: opened.map_err(failed("opening the target", target.as_os_str().as_bytes()))?,
        options,
        root,
        directories: BTreeMap::new(),
        copies: HashMap::new(),
        summary: Summary::default(),
        ledger: Ledger::default(),
        output: None,
    })
}

/// Makes a directory for its owner alone, with those above it as the umask says.
///
/// # Errors
/// When it is not there and cannot be made.
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

/// Takes away what something new has from its directory's default ACL. One that stays is in force for nobody, as long as
/// the mode gives the group nothing.
pub fn remove_acls(file: &File, kind: FileType) {
    let kind = if kind == FileType::Directory { FileKind::Directory } else { FileKind::Regular };
    let _ = Place::Open(file).remove_acls(kind);
}

/// The directory that an archive is unpacked into.
struct Extractor<'a> {
    target: Target,
    options: &'a Options,
    root: Root,
    directories: BTreeMap<Vec<u8>, Directory>,
    /// Of first names that the file system gave no further name, by their path.
    copies: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    summary: Summary,
    ledger: Ledger,
    /// The file whose data is coming.
    output: Option<Output>,
}

/// What a directory gets at the end.
struct Directory {
    /// Nothing for one that is only on the way and was there before.
    attributes: Option<Box<Member>>,
    /// The mode it had, where it was changed for the time of the restore.
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
        // Its content has come under this name already, or was left out under it.
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
        let Some(output) = &mut self.output else { return Ok(Wants::Nothing) };
        match output.write(bytes, offset) {
            Ok(()) => {
                self.summary.bytes += bytes.len() as u64;
                Ok(Wants::Data)
            }
            failed => {
                let path = std::mem::take(&mut output.member.path);
                self.settle(&path, failed)?;
                Ok(Wants::Nothing)
            }
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(output) = &mut self.output else { return Ok(()) };
        let done = output.finish();
        let done = done.and_then(|()| Ok(apply(&Place::Open(&output.file), &output.member, &mut self.ledger)?));
        let path = std::mem::take(&mut output.member.path);
        self.settle(&path, done)
    }
}

impl Extractor<'_> {
    /// Counts a member that is complete, or notes why it was left out. A file that is not complete does not stay.
    fn settle(&mut self, path: &[u8], done: Result<(), Failure>) -> Result<(), Error> {
        let done = if self.output.take().is_some() { self.removed_unless(done, path) } else { done };
        match done {
            Ok(()) => {
                let wanted = !self.options.on_the_way.contains(path);
                self.summary.files += u64::from(wanted);
                self.summary.below += u64::from(wanted && !path.is_empty());
                Ok(())
            }
            Err(Failure::LeftOut(refusal)) => {
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
                Found::There { mode: self.target.root_mode().map_err(target::verdict("looking at it", &path))? }
            }
        };
        let mut directory = Directory { attributes: Some(Box::new(member)), before: None };
        if let Found::There { mode } = found {
            let saved = directory.attributes.as_ref().map(|member| member.mode);
            if self.options.on_the_way.contains(&path) {
                directory.attributes = None;
            }
            let meanwhile = meanwhile(mode, saved.filter(|_| directory.attributes.is_some()));
            // Where it may not be changed, what follows in it says so.
            if meanwhile != mode && self.target.set_directory_mode(&path, meanwhile).is_ok() {
                directory.before = Some(mode);
            }
        }
        // Of two members for one directory, the later one wins.
        if let Some(earlier) = self.directories.get(&path) {
            directory.before = earlier.before.or(directory.before);
        }
        self.directories.insert(path, directory);
        Ok(())
    }

    fn file(&mut self, member: Member) -> Result<(), Failure> {
        let file = File::from(self.target.create_file(&member.path)?);
        let sparse = member.map.is_some();
        let output = self.output.insert(Output::new(file, member));
        if sparse { output.set_length() } else { Ok(()) }
    }

    /// What is not complete does not stay. The first error is the one to report.
    fn removed_unless(&mut self, done: Result<(), Failure>, path: &[u8]) -> Result<(), Failure> {
        match done {
            Ok(()) => Ok(()),
            Err(failure) => {
                if self.target.remove(path).is_err() {
                    self.ledger.altered(path, "it is not complete, and cannot be removed");
                }
                Err(failure)
            }
        }
    }

    fn special(&mut self, member: &Member) -> Result<(), Failure> {
        self.target.create_special(member)?;
        let (parent, name) = self.target.locate(&member.path)?;
        let done = apply(&Place::Name(&parent, &name), member, &mut self.ledger);
        self.removed_unless(done.map_err(Failure::Ends), &member.path)
    }

    fn finish(&mut self) -> Result<(), Error> {
        // What is below a directory comes before it, so that its mode cannot be in the way.
        while let Some((path, directory)) = self.directories.pop_last() {
            match self.finish_directory(&path, &directory) {
                Ok(()) => {}
                Err(Failure::LeftOut(refusal)) => {
                    let why = refusal.message.trim_start_matches("left out: ");
                    self.ledger.altered(&path, &format!("its owner, mode and time are not restored: {why}"));
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

    /// Removes the file that is not complete, and gives the directories that were there before the modes that they had.
    /// The first error is the one to report, so none of these is.
    fn abandon(&mut self) {
        if let Some(output) = self.output.take() {
            let _ = self.target.remove(&output.member.path);
        }
        while let Some((path, directory)) = self.directories.pop_last() {
            if let Some(mode) = directory.before {
                let _ = self.target.set_directory_mode(&path, mode);
            }
        }
    }

    fn summary(mut self) -> Summary {
        let Ledger { left_out, altered, count, .. } = self.ledger;
        let first_left_out = self.ledger.first_left_out.take();
        let warnings = self.ledger.into_list();
        Summary { left_out, first_left_out, altered, warning_count: count, warnings, ..self.summary }
    }
}

/// The mode of a directory that was there before, while it is written into: open to its owner, and to others no further
/// than before, nor than what is `saved` of it.
fn meanwhile(before: u32, saved: Option<u32>) -> u32 {
    (before & saved.map_or(0o7777, |saved| saved | 0o7000)) | 0o700
}

/// A name or target for a system call.
fn c_string(member: &[u8], bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| refused(member, "a name in it holds a NUL; expected none"))
}

#[cfg(test)]
mod tests;
