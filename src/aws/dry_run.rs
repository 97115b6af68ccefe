//! Whether EC2 would allow an action, asked with `DryRun`: nothing is made, and `DryRunOperation` is the "yes".
//!
//! The volumes and snapshots that are named do not exist. EC2 authorises an action before it looks for them, so that one is
//! not found is a "yes" as well.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification, VolumeType};

use super::decide::DRY_RUN;
use super::failure::Call;
use crate::site::Ec2Action;
use crate::store;

/// A volume and a snapshot of the right form.
const VOLUME: &str = "vol-0123456789abcdef0";
const SNAPSHOT: &str = "snap-0123456789abcdef0";

/// # Errors
/// What stands in the way, classed.
pub(super) async fn ask(client: &Client, action: Ec2Action, region: &str, call: &Call<'_>) -> Result<(), store::Error> {
    let tag = || Tag::builder().key("penstock").value("validate").build();
    let tags = |kind| TagSpecification::builder().resource_type(kind).tags(tag()).build();
    let result = match action {
        Ec2Action::DescribeVolumes => {
            client.describe_volumes().dry_run(true).send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::DescribeSnapshots => {
            let ask = client.describe_snapshots().owner_ids("self").dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::CreateTags => {
            let ask = client.create_tags().resources(SNAPSHOT).tags(tag()).dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::CreateVolume => {
            let zone = format!("{region}a");
            let ask = client.create_volume().size(1).volume_type(VolumeType::Gp3).availability_zone(zone);
            let ask = ask.tag_specifications(tags(ResourceType::Volume)).dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::CreateSnapshot => {
            let ask = client.create_snapshot().volume_id(VOLUME).tag_specifications(tags(ResourceType::Snapshot));
            ask.dry_run(true).send().await.map(drop).map_err(|error| call.sdk(&error))
        }
        Ec2Action::DeleteSnapshot => {
            let ask = client.delete_snapshot().snapshot_id(SNAPSHOT).dry_run(true);
            ask.send().await.map(drop).map_err(|error| call.sdk(&error))
        }
    };
    match result {
        Err(error) if !error.code.as_deref().is_some_and(is_yes) => Err(error),
        _ => Ok(()),
    }
}

fn is_yes(code: &str) -> bool {
    code == DRY_RUN || code.ends_with(".NotFound")
}
