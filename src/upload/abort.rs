//! Ending an upload so that nothing of it is stored any more.

use std::time::Duration;

use crate::error::Class;
use crate::retry::Endpoint;
use crate::store::{self, Store, UploadHandle};

/// How long an abort may take before the upload is reported as left behind.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// An abort is repeated until ListParts says that the upload is gone: parts in flight may land after the first one.
const ROUNDS: u32 = 10;

/// Aborts until the store says that the upload is gone. Some stores cannot say so: twice no part, or no part and then a refusal to
/// abort again, is as much.
///
/// # Errors
/// When it may still exist. Takes [`DEADLINE`] at most.
pub(super) async fn abort_until_gone(
    store: &dyn Store,
    endpoint: &Endpoint,
    upload: &UploadHandle,
) -> Result<(), store::Error> {
    let rounds = async {
        let mut empty = false;
        for _ in 0..ROUNDS {
            match endpoint.retrying("AbortMultipartUpload", &upload.key, || store.abort_upload(upload)).await {
                Ok(()) => {}
                Err(_) if empty => return Ok(()),
                Err(error) => return Err(error),
            }
            match endpoint.retrying("ListParts", &upload.key, || store.list_parts(upload)).await? {
                None => return Ok(()),
                Some(parts) if parts.is_empty() && empty => return Ok(()),
                Some(parts) => empty = parts.is_empty(),
            }
        }
        let message = format!("the upload still exists after {ROUNDS} aborts");
        Err(store::Error::local("AbortMultipartUpload", &upload.key, Class::Transient, message))
    };
    let late = |_| {
        let message = format!("not answered within {} s", DEADLINE.as_secs());
        store::Error::local("AbortMultipartUpload", &upload.key, Class::Timeout, message)
    };
    tokio::time::timeout(DEADLINE, rounds).await.map_err(late)?
}
