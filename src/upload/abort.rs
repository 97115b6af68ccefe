//! Ending an upload so that nothing of it is stored any more.

use std::time::Duration;

use crate::error::Class;
use crate::store::{self, Store, UploadHandle};

/// How long an abort may take before the upload is reported as left behind.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// An abort is repeated until ListParts says that the upload is gone: parts in flight may land after the first one.
const ROUNDS: u32 = 10;

/// Aborts until the store says that the upload is gone. Some stores cannot say so: twice no part, or no part and then a refusal to
/// abort again, is as much; and where parts cannot be listed at all, two aborts that went well are. OpenStack Swift lists the parts
/// of an upload that was completed: where the object is there, it was.
///
/// # Errors
/// When it may still exist. Takes [`DEADLINE`] at most.
pub(super) async fn abort_until_gone(store: &dyn Store, upload: &UploadHandle) -> Result<(), store::Error> {
    let rounds = async {
        let (mut empty, mut unlistable) = (false, false);
        for _ in 0..ROUNDS {
            match store.abort_upload(upload).await {
                Ok(()) if unlistable => return Ok(()),
                Ok(()) => {}
                Err(_) if empty => return Ok(()),
                Err(error) => return Err(error),
            }
            match store.list_parts(upload).await {
                Ok(None) => return Ok(()),
                Ok(Some(parts)) if parts.is_empty() && empty => return Ok(()),
                Ok(Some(parts)) => empty = parts.is_empty(),
                Err(error) if error.is_incapable() => unlistable = true,
                Err(error) => return Err(error),
            }
        }
        if store.head(&upload.key).await.is_ok() {
            return Ok(());
        }
        let message = format!("the upload still has parts after {ROUNDS} aborts");
        let remedy =
            "the store does not end what it is told to abort: only its operator, or a lifecycle rule of its own, can";
        let error = store::Error::local("AbortMultipartUpload", &upload.key, Class::Compat, message);
        Err(store::Error { remedy: Some(remedy.to_owned()), ..error })
    };
    let late = |_| {
        let message = format!("not answered within {} s", DEADLINE.as_secs());
        store::Error::local("AbortMultipartUpload", &upload.key, Class::Timeout, message)
    };
    tokio::time::timeout(DEADLINE, rounds).await.map_err(late)?
}
