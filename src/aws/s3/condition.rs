//! Writes an object that must not exist yet, also at a store that refuses `If-None-Match`, as OpenStack Swift does (docs/decisions/0056).

use super::S3Store;
use crate::error::{Class, Retry};
use crate::format::key::ObjectKey;
use crate::store::{Error, Lock, Overwrite, Payload, VersionId};

impl S3Store {
    /// Writes with the condition; if the store refuses it, looks the key up and writes without it, which costs two more requests.
    pub(super) async fn put_new(
        &self,
        key: &ObjectKey,
        payload: Payload,
        lock: Option<Lock>,
    ) -> Result<Option<VersionId>, Error> {
        let refused = match self.put_object(key, payload.clone(), Overwrite::Refuse, lock).await {
            Err(error) if error.class == Class::Compat && error.is_refusal() => error,
            other => return other,
        };
        match super::Store::head(self, key).await {
            Err(missing) if missing.class == Class::NotFound => {}
            // The store refuses the condition, or may: but the key cannot be looked up, so writing without it is not safe.
            Err(unknown)
                if unknown.class == Class::AccessDenied
                    || unknown.class.retry() == Retry::BackOff
                    || names_the_condition(&refused) =>
            {
                return Err(unknown);
            }
            // The store may have refused another header: the first error names it.
            Err(_) => return Err(refused),
            Ok(_) => {
                return Err(self.request("PutObject", key.as_str()).error(Class::Conflict, "the key is taken"));
            }
        }
        if self.unconditional.first() {
            tracing::info!(bucket = self.bucket, error = %refused, "the store refuses If-None-Match: Penstock looks a manifest's key up before it writes it");
        }
        self.put_object(key, payload, Overwrite::Allow, lock).await
    }
}

/// Whether the store's message names the condition.
fn names_the_condition(error: &Error) -> bool {
    let message = error.message.to_ascii_lowercase();
    ["conditional", "if-none-match"].iter().any(|word| message.contains(word))
}
