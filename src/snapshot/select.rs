//! Which volumes a source means. Only DescribeVolumes is needed, and the instance metadata service for `this-instance`.

use std::collections::BTreeMap;

use crate::config::{AttachedTo, Ebs};
use crate::disks::{self, Disks, MAX_FILTER_VALUES, Volume, VolumeFilter, VolumeState};
use crate::error::Class;
use crate::format::ebs::{InstanceId, VolumeId};
use crate::retry::with_retries;

/// 1000 volumes each: a service that pages without end is not followed for ever.
pub(super) const MAX_PAGES: usize = 1000;

/// Of volumes or snapshots in one listing: ten times what an account has of either by default.
pub(super) const MAX_ITEMS: usize = 100_000;

#[derive(Debug)]
pub(super) struct Selection {
    /// In the order of their ids.
    pub(super) volumes: Vec<Volume>,
    /// Named in the configuration, and not there.
    pub(super) missing: Vec<VolumeId>,
    /// What the volumes fit, as the log and the manifest tell it.
    pub(super) reason: String,
}

/// # Errors
/// When the volumes, or this instance's id, cannot be asked for.
pub(super) async fn select(disks: &dyn Disks, ebs: &Ebs) -> Result<Selection, disks::Error> {
    let attached_to = match &ebs.attached_to {
        None => None,
        Some(AttachedTo::Instance(id)) => Some(id.clone()),
        Some(AttachedTo::ThisInstance) => {
            Some(with_retries("GetMetadata", &"instance-id", || disks.this_instance()).await?)
        }
    };
    let mut found = BTreeMap::new();
    for ids in chunks(&ebs.volumes) {
        let filter = VolumeFilter { ids, tags: ebs.select_tags.clone(), attached_to: attached_to.clone() };
        let volumes = list(disks, &filter).await?;
        found.extend(volumes.into_iter().map(|volume| (volume.id.clone(), volume)));
    }
    let usable = |volume: &Volume| {
        let usable = !matches!(volume.state, VolumeState::Unusable(_));
        if !usable {
            tracing::warn!(volume = %volume.id, state = ?volume.state, "this volume is left out");
        }
        usable
    };
    found.retain(|_, volume| usable(volume));
    // A volume that is attached elsewhere was not meant; one that was named without such a condition is missed.
    let missed = |id: &&VolumeId| attached_to.is_none() && !found.contains_key(id);
    let missing = ebs.volumes.iter().filter(missed).cloned().collect();
    let reason = reason(ebs, attached_to.as_ref());
    Ok(Selection { volumes: found.into_values().collect(), missing, reason })
}

/// One empty chunk of nothing: a filter without ids asks for any.
fn chunks(ids: &[VolumeId]) -> Vec<Vec<VolumeId>> {
    if ids.is_empty() { vec![Vec::new()] } else { ids.chunks(MAX_FILTER_VALUES).map(<[_]>::to_vec).collect() }
}

pub(super) async fn list(disks: &dyn Disks, filter: &VolumeFilter) -> Result<Vec<Volume>, disks::Error> {
    let (mut volumes, mut from) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page = with_retries("DescribeVolumes", &"volumes", || disks.volumes(filter, from.as_deref())).await?;
        volumes.extend(page.items);
        from = page.next;
        if from.is_none() {
            return Ok(volumes);
        }
        if volumes.len() > MAX_ITEMS {
            break;
        }
    }
    Err(endless("DescribeVolumes"))
}

/// A list without an end is no list: what it has shown so far may be anything.
pub(super) fn endless(operation: &'static str) -> disks::Error {
    let message = format!("the listing has not ended after {MAX_PAGES} pages or {MAX_ITEMS} entries");
    disks::Error { service: "ec2", ..disks::Error::local(operation, "(every page)", Class::Compat, message) }
}

fn reason(ebs: &Ebs, attached_to: Option<&InstanceId>) -> String {
    let mut reasons = Vec::new();
    if !ebs.volumes.is_empty() {
        reasons.push("named in the job's volumes".to_owned());
    }
    if !ebs.select_tags.is_empty() {
        let tags: Vec<String> = ebs.select_tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        reasons.push(format!("tagged {}", tags.join(", ")));
    }
    if let Some(instance) = attached_to {
        let this = if ebs.attached_to == Some(AttachedTo::ThisInstance) { " (this instance)" } else { "" };
        reasons.push(format!("attached to {instance}{this}"));
    }
    reasons.join(" and ")
}
