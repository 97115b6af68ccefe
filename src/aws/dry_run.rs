//! Asks EC2 with `DryRun` whether it would allow an action: nothing is created, and `DryRunOperation` means yes.
//!
//! The named volumes and snapshots do not exist. EC2 authorises an action before it looks for them, so "not found" means
//! yes as well. Only a deletion is asked about for a snapshot that is there, if the cluster has one: the policy that Penstock
//! prints has a condition on its tags, and what does not exist has none. A volume is asked for from that snapshot too.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification, VolumeType};

use super::decide::DRY_RUN;
use super::failure::Call;
use crate::disks::Tags;
use crate::error::Class;
use crate::format::ebs::CLUSTER_TAG;
use crate::site::{Ec2Action, Permission};
use crate::store;

/// A volume ID and a snapshot ID of the right form.
const VOLUME: &str = "vol-0123456789abcdef0";
const SNAPSHOT: &str = "snap-0123456789abcdef0";

/// `tags` are those of the snapshots that are created and may be deleted, and of the volumes that are made of them.
///
/// # Errors
/// The service's refusal, classed.
pub(super) async fn ask(
    client: &Client,
    action: Ec2Action,
    tags: &Tags,
    region: &str,
    call: &Call<'_>,
) -> Result<Permission, store::Error> {
    let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
    let tagged = |kind| {
        let tags = tags.iter().map(tag).collect();
        TagSpecification::builder().resource_type(kind).set_tags(Some(tags)).build()
    };
    let mut made_up = false;
    let result = match action {
        Ec2Action::DescribeVolumes => {
            client.describe_volumes().dry_run(true).send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::DescribeSnapshots => {
            let ask = client.describe_snapshots().owner_ids("self").dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::CreateVolume => {
            let zone = format!("{region}a");
            // From a snapshot, if there is one: that takes a permission on the snapshot too.
            let own = own_snapshot(client, tags).await;
            let size = own.is_none().then_some(1);
            let ask = client.create_volume().set_snapshot_id(own).set_size(size).volume_type(VolumeType::Gp3);
            let ask = ask.availability_zone(zone);
            let ask = ask.tag_specifications(tagged(ResourceType::Volume)).dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::CreateSnapshot => {
            let ask = client.create_snapshot().volume_id(VOLUME).tag_specifications(tagged(ResourceType::Snapshot));
            ask.dry_run(true).send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::DeleteSnapshot => {
            let own = own_snapshot(client, tags).await;
            made_up = own.is_none();
            let ask = client.delete_snapshot().snapshot_id(own.as_deref().unwrap_or(SNAPSHOT)).dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
    };
    match result {
        Err(error) if error.code.as_deref().is_some_and(is_yes) => Ok(Permission::Given),
        Err(error) if made_up && error.class == Class::AccessDenied => Ok(Permission::Unknown),
        Err(error) => Err(error),
        Ok(()) => Ok(Permission::Given),
    }
}

/// A snapshot of the cluster. `None` also where the listing fails: whether it may list is a question of its own.
async fn own_snapshot(client: &Client, tags: &Tags) -> Option<String> {
    let of_cluster = Filter::builder().name(format!("tag:{CLUSTER_TAG}")).values(tags.get(CLUSTER_TAG)?).build();
    let listing = client.describe_snapshots().owner_ids("self").filters(of_cluster).into_paginator();
    // A page may be empty and not be the last one.
    listing.items().send().next().await?.ok()?.snapshot_id
}

fn is_yes(code: &str) -> bool {
    code == DRY_RUN || code.ends_with(".NotFound")
}
