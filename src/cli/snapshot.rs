//! `penstock snapshot restore`.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::SnapshotRestore;
use super::output::Done;
use super::session::Session;
use super::{Failure, read};
use crate::config::Config;
use crate::disks::Encryption;
use crate::snapshot::persistent_volume::{self, Options};
use crate::snapshot::restore::{self, Made, Wanted};
use crate::snapshot::{Owner, claim};

pub(super) async fn restore(
    config: &Config,
    args: &SnapshotRestore,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    // Needs no key: EC2 shows all that is said of snapshots.
    let mut session = Session::reading(config, &args.place, cancel);
    let catalog = session.catalog_of(args.place.location.as_deref(), args.backup.job())?;
    let manifest = read::find(&catalog, &args.backup).await?;
    let (item, original) = restore::find(&manifest, &args.volume)?;
    let wanted = wanted(args);
    let (volume, made) = restore::volume(&catalog.location, &Owner::of(&manifest), original, &wanted, cancel).await?;
    let options = Options { fs_type: &args.fs_type, storage_class: &args.storage_class };
    let claimed = persistent_volume::manifest(&volume, &item.labels, options);
    let json = json!({
        "volume_id": volume.id,
        "made": match made { Made::Now => "now", Made::Earlier => "earlier" },
        "backup": manifest.id,
        "item": item.name,
        "source_volume_id": original.volume_id,
        "snapshot_id": original.snapshot_id,
        "availability_zone": volume.availability_zone,
        "volume_type": volume.volume_type,
        "size_gib": volume.size_gib,
        "iops": volume.iops,
        "throughput": volume.throughput,
        "encrypted": volume.encrypted,
        "manifest": args.manifest.then_some(&claimed),
    });
    if args.manifest {
        tracing::info!(volume = %volume.id, zone = volume.availability_zone, "the volume is available: its PersistentVolume follows");
        return Ok(Done::new(persistent_volume::yaml(&claimed), json));
    }
    let made = match made {
        Made::Now => "is available",
        Made::Earlier => "is available: an earlier run of this command made it (--copy WORD makes another)",
    };
    let of = claim(&item.labels).map_or_else(String::new, |claim| format!(", the claim {claim}"));
    let text = format!(
        "{} {made}\n  of {} ({}{of}), {} GiB {} in {}\nnext: attach it to an instance in {}; or, for Kubernetes, the same command with \
         --manifest prints a PersistentVolume\n",
        volume.id,
        original.snapshot_id,
        original.volume_id,
        volume.size_gib,
        volume.volume_type,
        volume.availability_zone,
        volume.availability_zone,
    );
    Ok(Done::new(text, json))
}

fn wanted(args: &SnapshotRestore) -> Wanted {
    let encryption = match (&args.kms_key_id, args.encrypted) {
        (Some(key), _) => Encryption::Key(key.clone()),
        (None, true) => Encryption::DefaultKey,
        (None, false) => Encryption::Inherit,
    };
    Wanted {
        availability_zone: args.availability_zone.clone(),
        volume_type: args.volume_type.clone(),
        size_gib: args.size,
        iops: args.iops,
        throughput: args.throughput,
        encryption,
        tags: args.tag.iter().cloned().collect(),
        copy: args.copy.clone(),
        timeout: args.timeout,
    }
}
