//! What the store makes of `If-None-Match: *`, with which a manifest is written.

use super::{Failed, Outcome, Writing, content, good};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::ObjectKey;
use crate::store::Overwrite;
use crate::validate::Found;

impl Writing<'_> {
    /// Writes a free key and a taken one; and, where the condition is refused, as a commit does it then.
    pub(super) async fn condition(&self) -> Outcome {
        let key = self.made.object("condition");
        for taken in [Key::Free, Key::Taken] {
            let result = match self.site.put_if_absent(&key, content(self.made)).await {
                // The answer to our own write was lost, and its repetition found the key taken.
                Err(error)
                    if taken == Key::Free && error.class == Class::Conflict && self.holds_content(&key).await =>
                {
                    Ok(())
                }
                result => result,
            };
            let refused = result.is_err();
            if let Some(found) = judge_condition(taken, result)? {
                if refused {
                    self.put_without_the_condition().await.map_err(|error| error.report())?;
                }
                return Ok(found);
            }
        }
        Ok(good("honoured: a free key is written, a taken one is refused"))
    }

    async fn holds_content(&self, key: &ObjectKey) -> bool {
        self.store.head(key).await.is_ok_and(|found| found.size == content(self.made).len() as u64)
    }

    /// As a manifest is written where the store refuses the condition.
    async fn put_without_the_condition(&self) -> Result<(), Failed> {
        let (key, payload) = (self.made.object("unconditional"), self.payload(content(self.made)));
        self.store.put(&key, payload, Overwrite::Refuse).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Free,
    Taken,
}

/// `None` where the store does what S3 does.
fn judge_condition(key: Key, result: Result<(), Failed>) -> Result<Option<Found>, Report> {
    let odd = |message: String| Ok(Some(Found::Odd(message)));
    match (key, result) {
        (Key::Free, Ok(())) => Ok(None),
        (Key::Taken, Err(error)) if error.class == Class::Conflict => Ok(None),
        (Key::Taken, Ok(())) => {
            odd("ignored: a taken key was written again. A backup's name is random, so no run overwrites another's \
             manifest"
                .to_owned())
        }
        (_, Err(error)) if error.class == Class::Compat && error.is_refusal() => {
            let status = error.status.map_or_else(String::new, |status| format!(" (HTTP {status})"));
            odd(format!("refused{status}: a manifest's key is looked up, and then written without the condition"))
        }
        (Key::Free, Err(error)) if error.class == Class::Conflict => {
            let message = format!("{error}: a free key is refused as a taken one, so no backup could be committed");
            Err(Report { class: Class::Compat, message, ..error.report() })
        }
        (_, Err(error)) => Err(error.report()),
    }
}
