//! Backups of claims, made as an agent makes them.

use std::path::Path;

use crate::binary::Penstock;
use crate::servers::{S3Server, STATIC_KEYS};

/// Saves a folder as the volume of a claim, `NAMESPACE/NAME`.
pub(crate) fn save(s3: &S3Server, home: &Path, claim: &str, volume: &Path) {
    let folder = home.join("agent");
    std::fs::create_dir_all(&folder).unwrap();
    let head = s3.toml(&format!("claim.{}", claim.replace('/', ".")), &folder.join("state"), &s3.url);
    let config = format!(
        "{head}\n{STATIC_KEYS}\n[jobs.volumes]\nlocation = \"primary\"\n[[jobs.volumes.sources]]\ntype = \"tree\"\nname = \"volume\"\npath = {volume:?}\n"
    );
    Penstock::new(&folder, &config).good(&["backup", "volumes"]);
}
