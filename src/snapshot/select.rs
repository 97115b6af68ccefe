//! Which volumes a source means, and the listings of volumes and snapshots. Of EC2's permissions only DescribeVolumes is needed, and the instance metadata service for `this-instance`.

use std::collections::BTreeMap;

use crate::config::{AttachedTo, Ebs};
use crate::disks::{self, Disks, MAX_FILTER_VALUES, Page, Snapshot, SnapshotFilter, Volume, VolumeFilter, VolumeState};
use crate::error::Class;
use crate::format::ebs::{InstanceId, VolumeId};

/// 1000 volumes each: a service that pages without end is not followed for ever.
const MAX_PAGES: usize = 1000;

/// Of volumes or snapshots in one listing: ten times what an account has of either by default.
const MAX_ITEMS: usize = 100_000;

#[derive(Debug)]
pub struct Selection {
    /// In the order of their ids.
    pub volumes: Vec<Volume>,
    /// Named in the configuration, and not there.
    pub missing: Vec<VolumeId>,
    /// There, in a state in which no snapshot can be taken of them.
    pub unusable: Vec<(VolumeId, String)>,
    /// What the volumes fit, as the log and the manifest tell it.
    pub reason: String,
}

/// The volumes that a source means.
///
/// # Errors
/// When the volumes, or this instance's id, cannot be asked for.
pub async fn select(disks: &dyn Disks, ebs: &Ebs) -> Result<Selection, disks::Error> {
    let attached_to = match &ebs.attached_to {
        None => None,
        Some(AttachedTo::Instance(id)) => Some(id.clone()),
        Some(AttachedTo::ThisInstance) => Some(disks.this_instance().await?),
    };
    let mut found = BTreeMap::new();
    for ids in chunks(&ebs.volumes) {
        let filter = VolumeFilter { ids, tags: ebs.select_tags.clone(), attached_to: attached_to.clone() };
        let volumes = list(disks, &filter).await?;
        found.extend(volumes.into_iter().map(|volume| (volume.id.clone(), volume)));
    }
    let mut unusable = Vec::new();
    found.retain(|id, volume| match &volume.state {
        VolumeState::Creating | VolumeState::Ready => true,
        VolumeState::Unusable(state) => {
            // One that somebody is deleting is as good as gone.
            if matches!(state.as_str(), "deleting" | "deleted") {
                tracing::warn!(volume = %id, state, "no snapshot is taken of a volume that is being deleted");
            } else {
                unusable.push((id.clone(), state.clone()));
            }
            false
        }
    });
    // A volume that is attached elsewhere was not meant; one that was named without such a condition is missed.
    let there = |id: &VolumeId| found.contains_key(id) || unusable.iter().any(|(unusable, _)| unusable == id);
    let missed = |id: &&VolumeId| attached_to.is_none() && !there(id);
    let missing = ebs.volumes.iter().filter(missed).cloned().collect();
    let reason = reason(ebs, attached_to.as_ref());
    Ok(Selection { volumes: found.into_values().collect(), missing, unusable, reason })
}

/// One empty chunk of nothing: a filter without ids asks for any.
fn chunks(ids: &[VolumeId]) -> Vec<Vec<VolumeId>> {
    if ids.is_empty() { vec![Vec::new()] } else { ids.chunks(MAX_FILTER_VALUES).map(<[_]>::to_vec).collect() }
}

pub(super) async fn list(disks: &dyn Disks, filter: &VolumeFilter) -> Result<Vec<Volume>, disks::Error> {
    let mut pages = Pages::new("DescribeVolumes");
    loop {
        let page = disks.volumes(filter, pages.from.as_deref()).await?;
        if pages.add(page)? == More::No {
            return Ok(pages.items);
        }
    }
}

pub(super) async fn snapshots(disks: &dyn Disks, filter: &SnapshotFilter) -> Result<Vec<Snapshot>, disks::Error> {
    let mut pages = Pages::new("DescribeSnapshots");
    loop {
        let from = pages.from.as_deref();
        let page = disks.snapshots(filter, from).await?;
        if pages.add(page)? == More::No {
            return Ok(pages.items);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// What a listing has shown so far. One that does not come to an end is an error: what it would show next is not known.
#[derive(Debug)]
struct Pages<T> {
    operation: &'static str,
    items: Vec<T>,
    from: Option<String>,
    count: usize,
}

impl<T> Pages<T> {
    fn new(operation: &'static str) -> Self {
        Self { operation, items: Vec::new(), from: None, count: 0 }
    }

    fn add(&mut self, page: Page<T>) -> Result<More, disks::Error> {
        self.items.extend(page.items);
        self.count += 1;
        let stuck = page.next.is_some() && page.next == self.from;
        let too_many = self.count == MAX_PAGES || self.items.len() > MAX_ITEMS;
        if stuck || (page.next.is_some() && too_many) {
            let message =
                format!("the listing does not come to an end: after {} pages there is another one", self.count);
            return Err(disks::Error::at("ec2", self.operation, "the account", Class::Compat, message));
        }
        self.from = page.next;
        Ok(if self.from.is_some() { More::Yes } else { More::No })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn page(item: u32, next: Option<&str>) -> Page<u32> {
        Page { items: vec![item], next: next.map(str::to_owned) }
    }

    #[test]
    fn a_listing_ends_or_fails() {
        let mut pages = Pages::new("DescribeVolumes");
        assert_eq!(pages.add(page(1, Some("a"))).unwrap(), More::Yes);
        assert_eq!(pages.add(page(2, None)).unwrap(), More::No);
        assert_eq!(pages.items, [1, 2]);

        let mut stuck = Pages::new("DescribeVolumes");
        stuck.add(page(1, Some("a"))).unwrap();
        let error = stuck.add(page(2, Some("a"))).unwrap_err();
        assert_eq!((error.class, error.service), (Class::Compat, "ec2"));

        let mut endless = Pages::new("DescribeVolumes");
        let results = (0..MAX_PAGES).map(|number| endless.add(page(0, Some(&number.to_string()))).is_ok());
        assert_eq!(results.filter(|good| *good).count(), MAX_PAGES - 1);
    }
}
