//! `penstock-cat.py`, which reads backups without Penstock, put beside them.

use crate::format::key::{ObjectKey, cluster_prefix};
use crate::location::Location;
use crate::store::{Error, Overwrite, Payload};

const SCRIPT: &[u8] = include_bytes!("../../config/rescue/penstock-cat.py");

/// Stores the script as `{prefix}/{cluster}/penstock-cat.py`, over one that is there: the newest reads the most. In a location that locks
/// its objects it is locked as a manifest is. What makes each lock longer is the next call.
///
/// # Errors
/// When it cannot be stored.
pub async fn put(location: &Location) -> Result<ObjectKey, Error> {
    let key = ObjectKey::new(format!("{}penstock-cat.py", cluster_prefix(location.prefix(), &location.cluster)));
    let (payload, lock) = (Payload::new(SCRIPT, location.store.algorithm()), location.new_lock().await?);
    location.store.put_locked(&key, payload, Overwrite::Allow, lock).await?;
    Ok(key)
}
