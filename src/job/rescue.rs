//! `penstock-cat.py`, which reads backups without Penstock, put beside them.

use crate::format::key::{ObjectKey, cluster_prefix};
use crate::location::Location;
use crate::store::{Error, Overwrite, Payload};

const SCRIPT: &[u8] = include_bytes!("../../config/rescue/penstock-cat.py");

/// Stores the script as `{prefix}/{cluster}/penstock-cat.py`, over one that is there: the newest reads the most.
///
/// # Errors
/// When it cannot be stored.
pub async fn put(location: &Location) -> Result<ObjectKey, Error> {
    let key = ObjectKey::new(format!("{}penstock-cat.py", cluster_prefix(location.prefix(), &location.cluster)));
    location.store.put(&key, Payload::new(SCRIPT, location.store.algorithm()), Overwrite::Allow).await?;
    Ok(key)
}
