//! Writes regular files: a long one as it is read, a small one when it is whole, on another thread ([`super::finish`]).

use std::fs::File;

use sha2::{Digest as _, Sha256};

use super::attributes::{Place, apply};
use super::damage::{self, INCOMPLETE};
use super::data::Output;
use super::finish::{Done, Finisher, SMALL};
use super::sink::Wants;
use super::{Error, Extractor, Failure};
use crate::tar::Member;
use crate::tar::xattr::Attributes;

/// The most bytes of the names and attributes of a file that is held.
const NAMES: usize = 4096;

fn names(member: &Member) -> usize {
    let Attributes { xattrs, access_acl, default_acl } = &member.attributes;
    let xattrs: usize = xattrs.iter().map(|(name, value)| name.count_bytes() + value.len()).sum();
    let acls: usize = [access_acl, default_acl].into_iter().flatten().map(Vec::len).sum();
    member.path.len() + member.link.len() + xattrs + acls
}

impl Extractor<'_> {
    pub(super) fn file(&mut self, member: Member) -> Result<(), Failure> {
        let file = File::from(self.target.create_file(&member)?);
        let sparse = member.map.is_some();
        // What is read back or was damaged needs more than its data and attributes.
        let is_plain = !sparse && self.written.is_none() && self.filled.is_none();
        self.holds = is_plain && member.size <= SMALL as u64 && names(&member) <= NAMES && self.has_finisher();
        if let Some(written) = &mut self.written {
            written.digest = Sha256::new();
        }
        let output = self.output.insert(Output::new(file, member));
        if sparse { output.set_length() } else { Ok(()) }
    }

    /// Starts the thread, unless it runs. Without it every file is written as it is read.
    fn has_finisher(&mut self) -> bool {
        if self.finisher.is_none() {
            self.finisher = Finisher::start().ok();
        }
        self.finisher.is_some()
    }

    /// The one that holds the current file.
    fn holder(&mut self) -> Option<&mut Finisher> {
        self.finisher.as_mut().filter(|_| self.holds)
    }

    pub(super) fn file_data(&mut self, offset: u64, bytes: &[u8]) -> Result<Wants, Error> {
        let Some(output) = &mut self.output else { return Ok(Wants::Nothing) };
        let written = match self.finisher.as_mut().filter(|_| self.holds) {
            Some(finisher) => {
                finisher.hold(bytes);
                Ok(())
            }
            None => output.write(bytes, offset),
        };
        if written.is_err() {
            let path = output.member.path.clone();
            self.settle(&path, written)?;
            return Ok(Wants::Nothing);
        }
        self.summary.bytes += bytes.len() as u64;
        if let Some(written) = &mut self.written {
            written.digest.update(bytes);
        }
        Ok(Wants::Data)
    }

    pub(super) fn file_end(&mut self) -> Result<(), Error> {
        let Some(mut output) = self.output.take() else { return Ok(()) };
        let lost = self.filled.as_ref().filter(|(path, _)| *path == output.member.path).map(|(_, lost)| lost.clone());
        let done = match (self.holder(), &lost) {
            (Some(finisher), None) => {
                let done = finisher.end(output);
                return self.settle_files(done);
            }
            // Its damage was found while it was read.
            (Some(finisher), Some(_)) => {
                let done = output.write(finisher.held(), 0);
                finisher.take_back();
                done
            }
            (None, _) => Ok(()),
        };
        let done = done.and_then(|()| output.finish());
        let done = done.and_then(|()| Ok(apply(&Place::Open(&output.file), &output.member, &mut self.ledger)?));
        if let Some(lost) = lost {
            damage::mark(&output.file, &lost);
        }
        let done = done.and_then(|()| match &mut self.written {
            Some(written) => Ok(written.add(&output.member)?),
            None => Ok(()),
        });
        let path = std::mem::take(&mut output.member.path);
        let done = self.removed_unless(done, &path);
        self.count(&path, done)
    }

    /// Removes the file that is being written.
    pub(super) fn remove_output(&mut self) {
        let Some(output) = self.output.take() else { return };
        if let Some(finisher) = self.holder() {
            finisher.take_back();
        }
        if self.target.remove(&output.member.path).is_err() {
            self.ledger.altered(&output.member.path, INCOMPLETE);
        }
    }

    /// Removes an incomplete file. Returns the first error.
    pub(super) fn removed_unless(&mut self, done: Result<(), Failure>, path: &[u8]) -> Result<(), Failure> {
        if done.is_err() && self.target.remove(path).is_err() {
            self.ledger.altered(path, INCOMPLETE);
        }
        done
    }

    /// Counts small files that are done. Returns the first error, and removes every file that has one.
    pub(super) fn settle_files(&mut self, files: Vec<Done>) -> Result<(), Error> {
        let mut first = Ok(());
        for Done { path, differences, result } in files {
            self.ledger.differences(&path, differences);
            let result = self.removed_unless(result, &path);
            first = first.and(self.count(&path, result));
        }
        first
    }

    /// Waits for this file, if it is not done yet.
    pub(super) fn wait_for(&mut self, path: &[u8]) -> Result<(), Error> {
        if self.finisher.as_ref().is_some_and(|finisher| finisher.has(path)) { self.wait() } else { Ok(()) }
    }

    /// Waits for every file that was held.
    pub(super) fn wait(&mut self) -> Result<(), Error> {
        let done = self.finisher.as_mut().map(Finisher::drain);
        self.settle_files(done.unwrap_or_default())
    }
}
