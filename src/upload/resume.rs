//! Resumes an upload left by a process that died.
//!
//! The next run of the job reads its source again and, where nothing has changed, cuts and compresses it to the same bytes, so to the same
//! parts. A part that is stored already is not sent again. Stored means: the journal and ListParts agree on the part, and so do the new
//! part's size, checksum and chunks. Any other part is sent and replaces the stored one. So the object is always the one that an upload
//! from the start would make.
//!
//! An encrypted object is sealed again with its own key, and only if every chunk that may have been sent is what it was; otherwise the
//! object is given up ([`Error::Diverged`]).
//!
//! - **Cost**: one ListParts. It saves sending, not reading and compressing.
//! - **Failure**: an upload that is gone or cannot be listed is not resumed; the sweeper deals with it.

use std::collections::HashMap;

use super::journal::{Entry, Part, Sealed};
use super::{Error, Uploader};
use crate::age::{self, Layout, Tags};
use crate::format::key::ObjectKey;
use crate::store::{PartNumber, Store as _, UploadHandle, UploadedPart};

/// See [`find`].
#[derive(Debug)]
pub struct Resumable {
    pub(super) upload: UploadHandle,
    pub(super) entry: Entry,
    pub(super) in_doubt: bool,
    pub(super) stored: HashMap<PartNumber, Part>,
    /// Of an encrypted object.
    pub(super) sealed: Option<age::Interrupted>,
}

impl Resumable {
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.upload.key
    }
}

/// Finds an interrupted upload to resume as `key`: of the same object in an earlier run of the same chain.
///
/// # Errors
/// When the journal cannot be read.
pub async fn find(uploader: &Uploader, key: &ObjectKey) -> Result<Option<Resumable>, Error> {
    let (part_size, recipients) = (uploader.part_size() as u64, uploader.recipients.clone());
    let adopted = uploader.journal.adopt(key, part_size, recipients).await?;
    let Some((interrupted, recorded)) = adopted else { return Ok(None) };
    let Some(id) = interrupted.id.clone() else { return Ok(None) };
    let upload = UploadHandle { key: interrupted.intent.key.clone(), id };
    let listed = match uploader.store.list_parts(&upload).await {
        Ok(Some(listed)) => listed,
        // The sweeper closes its entry.
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::warn!(key = %upload.key, class = %error.class, %error, "could not list the parts of an interrupted upload: it is not resumed; the sweeper aborts it");
            return Ok(None);
        }
    };
    let sealed = match &interrupted.intent.sealed {
        None => None,
        Some(sealed) => match of_sealed(sealed, interrupted.tags()?, &listed, part_size) {
            Ok(sealed) => Some(sealed),
            Err(error) => {
                tracing::warn!(key = %upload.key, %error, "an interrupted upload is not resumed; the sweeper aborts it");
                return Ok(None);
            }
        },
    };
    let stored = stored(recorded, &listed);
    tracing::info!(key = %upload.key, parts = stored.len(), begun = %interrupted.intent.begun, "resuming an interrupted upload");
    let in_doubt = interrupted.in_doubt;
    Ok(Some(Resumable { upload, entry: interrupted.into_entry(), in_doubt, stored, sealed }))
}

/// Checks that the tags are those of all chunks that the store has a byte of.
fn of_sealed(
    sealed: &Sealed,
    tags: Option<Tags>,
    listed: &[UploadedPart],
    part_size: u64,
) -> Result<age::Interrupted, String> {
    let tags = tags.ok_or("its journal entry lacks the tags of some chunks")?;
    let interrupted = sealed.interrupted(tags).map_err(|error| error.to_string())?;
    let layout = Layout::new(interrupted.prefix().len() as u64);
    let known = interrupted.known().saturating_mul(age::CHUNK as u64);
    let end = |part: &UploadedPart| (u64::from(part.number.get()) - 1) * part_size + part.size;
    let stored = listed.iter().map(end).max().unwrap_or(0);
    if layout.readable_at(known).is_some_and(|known| stored <= known) {
        return Ok(interrupted);
    }
    Err(format!("{stored} bytes of it are stored, which is more than the tags in its journal entry are of"))
}

/// The recorded parts that the store lists as recorded. Of a part that was sent twice, the last record counts.
fn stored(recorded: Vec<Part>, listed: &[UploadedPart]) -> HashMap<PartNumber, Part> {
    let listed: HashMap<PartNumber, &UploadedPart> = listed.iter().map(|part| (part.number, part)).collect();
    let mut stored: HashMap<PartNumber, Part> = recorded.into_iter().map(|part| (part.uploaded.number, part)).collect();
    stored.retain(|number, part| listed.get(number).is_some_and(|listed| agree(&part.uploaded, listed)));
    stored
}

fn agree(recorded: &UploadedPart, listed: &UploadedPart) -> bool {
    let same_checksum = match (recorded.checksum, listed.checksum) {
        (Some(recorded), Some(listed)) => recorded == listed,
        // Not every store lists checksums.
        (None | Some(_), None) | (None, Some(_)) => true,
    };
    recorded.size == listed.size && !listed.etag.is_empty() && recorded.etag == listed.etag && same_checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Checksum;

    fn uploaded(number: u16, size: u64, etag: &str, checksum: Option<u64>) -> UploadedPart {
        let number = PartNumber::new(number).unwrap();
        UploadedPart { number, size, etag: etag.to_owned(), checksum: checksum.map(Checksum::Crc64nvme) }
    }

    fn part(uploaded: UploadedPart) -> Part {
        Part { uploaded, crc64nvme: 7, chunks: Vec::new() }
    }

    #[test]
    fn only_parts_that_journal_and_store_agree_on_count_as_stored() {
        let recorded = uploaded(1, 5, "a", Some(7));
        for (listed, expected) in [
            (vec![uploaded(1, 5, "a", Some(7))], 1),
            (vec![uploaded(1, 5, "a", None)], 1),
            (vec![uploaded(1, 5, "a", Some(8))], 0),
            (vec![uploaded(1, 5, "b", Some(7))], 0),
            (vec![uploaded(1, 6, "a", Some(7))], 0),
            (vec![uploaded(1, 5, "", None)], 0),
            (vec![uploaded(2, 5, "a", Some(7))], 0),
            (vec![], 0),
        ] {
            assert_eq!(stored(vec![part(recorded.clone())], &listed).len(), expected, "{listed:?}");
        }
    }

    #[test]
    fn of_a_part_that_was_sent_again_the_last_record_counts() {
        let records = vec![part(uploaded(1, 5, "old", None)), part(uploaded(1, 5, "new", None))];
        assert_eq!(stored(records.clone(), &[uploaded(1, 5, "new", None)]).len(), 1);
        assert_eq!(stored(records, &[uploaded(1, 5, "old", None)]).len(), 0);
    }
}
