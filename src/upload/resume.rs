//! An upload whose process died, to be gone on with.
//!
//! The next run of the job reads its source again, and cuts and compresses it to the same bytes, as far as nothing has changed. So its
//! parts are the same; one that the store holds already is not sent again. What counts as held is what the journal and ListParts agree
//! on, and what the new part's size, checksum and chunks agree with: anything else is sent, in the place of what was there. So the object is
//! what an upload from the start would have made it, whatever the source has become.
//!
//! - **Cost**: one ListParts. Reading and compressing are not saved, sending is.
//! - **Failure**: an upload that is gone, or cannot be looked at, is not gone on with; the sweeper has the last word on it.

use std::collections::HashMap;

use super::journal::{Entry, Part};
use super::{Error, Uploader};
use crate::format::key::ObjectKey;
use crate::store::{PartNumber, Store as _, UploadHandle, UploadedPart};

/// See [`find`].
#[derive(Debug)]
pub struct Resumable {
    pub(super) upload: UploadHandle,
    pub(super) entry: Entry,
    pub(super) in_doubt: bool,
    pub(super) held: HashMap<PartNumber, Part>,
}

impl Resumable {
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.upload.key
    }
}

/// The interrupted upload that can take the place of `key`'s: of the same object in an earlier run of the same chain.
///
/// # Errors
/// When the journal cannot be read.
pub async fn find(uploader: &Uploader, key: &ObjectKey) -> Result<Option<Resumable>, Error> {
    let adopted = uploader.journal.adopt(key, uploader.part_size() as u64).await?;
    let Some((interrupted, recorded)) = adopted else { return Ok(None) };
    let Some(id) = interrupted.id.clone() else { return Ok(None) };
    let upload = UploadHandle { key: interrupted.intent.key.clone(), id };
    let listed = match uploader.store.list_parts(&upload).await {
        Ok(Some(listed)) => listed,
        // The sweeper closes its entry.
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::warn!(key = %upload.key, class = %error.class, %error, "an interrupted upload cannot be gone on with");
            return Ok(None);
        }
    };
    let held = held(recorded, &listed);
    tracing::info!(key = %upload.key, parts = held.len(), begun = %interrupted.intent.begun, "going on with an interrupted upload");
    let in_doubt = interrupted.in_doubt;
    Ok(Some(Resumable { upload, entry: interrupted.into_entry(), in_doubt, held }))
}

/// The recorded parts that the store has as they were recorded. Of one that was sent twice the last record counts.
fn held(recorded: Vec<Part>, listed: &[UploadedPart]) -> HashMap<PartNumber, Part> {
    let listed: HashMap<PartNumber, &UploadedPart> = listed.iter().map(|part| (part.number, part)).collect();
    let mut held: HashMap<PartNumber, Part> = recorded.into_iter().map(|part| (part.uploaded.number, part)).collect();
    held.retain(|number, part| listed.get(number).is_some_and(|listed| agree(&part.uploaded, listed)));
    held
}

fn agree(recorded: &UploadedPart, listed: &UploadedPart) -> bool {
    let same_checksum = match (recorded.checksum, listed.checksum) {
        (Some(recorded), Some(listed)) => recorded == listed,
        // Not every store lists them.
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
    fn only_what_journal_and_store_agree_on_is_held() {
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
            assert_eq!(held(vec![part(recorded.clone())], &listed).len(), expected, "{listed:?}");
        }
    }

    #[test]
    fn of_a_part_that_was_sent_again_the_last_record_counts() {
        let records = vec![part(uploaded(1, 5, "old", None)), part(uploaded(1, 5, "new", None))];
        assert_eq!(held(records.clone(), &[uploaded(1, 5, "new", None)]).len(), 1);
        assert_eq!(held(records, &[uploaded(1, 5, "old", None)]).len(), 0);
    }
}
