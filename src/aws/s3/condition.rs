//! Writing what must not be there yet, at a store that refuses `If-None-Match`: OpenStack Swift does (docs/decisions/0056).

use super::S3Store;
use crate::error::{Class, Retry};
use crate::format::key::ObjectKey;
use crate::store::{Error, Overwrite, Payload};

impl S3Store {
    /// With the condition; where the store refuses it, without, once the key is known to be free. That costs two more requests.
    pub(super) async fn put_new(&self, key: &ObjectKey, payload: Payload) -> Result<(), Error> {
        let refused = match self.put_object(key, payload.clone(), Overwrite::Refuse).await {
            Err(error) if error.class == Class::Compat && error.is_refusal() => error,
            other => return other,
        };
        match super::Store::head(self, key).await {
            Err(missing) if missing.class == Class::NotFound => {}
            // It is the condition, or may be: what keeps us from writing without it is that the key cannot be looked up.
            Err(unknown)
                if unknown.class == Class::AccessDenied
                    || unknown.class.retry() == Retry::BackOff
                    || names_the_condition(&refused) =>
            {
                return Err(unknown);
            }
            // What was refused may be another header: the first answer says which.
            Err(_) => return Err(refused),
            Ok(_) => return Err(self.request("PutObject", key.as_str()).odd(Class::Conflict, "the key is taken")),
        }
        if self.unconditional.first() {
            tracing::info!(bucket = self.bucket, error = %refused, "this store refuses If-None-Match: a manifest's key is looked up before it is written");
        }
        self.put_object(key, payload, Overwrite::Allow).await
    }
}

/// Whether the store says that it is the condition that it does not know.
fn names_the_condition(error: &Error) -> bool {
    let message = error.message.to_ascii_lowercase();
    ["conditional", "if-none-match"].iter().any(|word| message.contains(word))
}
