//! Implements the port [`crate::disks`] with EC2.
//!
//! A method makes one request. The SDK repeats it (up to three attempts) where that is safe; CreateSnapshot is sent once, since
//! EC2 has no client token for it and a reply may be lost.

mod wire;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::imds;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{ResourceType, VolumeType};

use super::classify::{Context, Service};
use super::failure::Call;
use super::transport::reason;
use crate::disks::{
    Disks, Encryption, Error, NewSnapshot, NewVolume, Page, Snapshot, SnapshotFilter, Volume, VolumeFilter,
};
use crate::error::Class;
use crate::format::ebs::{InstanceId, SnapshotId, VolumeId};

/// The largest page of DescribeVolumes and DescribeSnapshots.
const PAGE: i32 = 1000;

fn invalid(call: &Call<'_>, message: impl Into<String>) -> Error {
    call.error(Class::Compat, message)
}

/// Where the page after the one at `from` starts; an error if that is `from` itself.
fn next_page(call: &Call<'_>, next: Option<String>, from: Option<&str>) -> Result<Option<String>, Error> {
    let next = next.filter(|token| !token.is_empty());
    if next.is_some() && next.as_deref() == from {
        return Err(invalid(call, "the listing does not advance: this page's token leads to the same page"));
    }
    Ok(next)
}

const INSTANCE_ID: &str = "/latest/meta-data/instance-id";

pub struct Ec2Disks {
    client: Client,
    imds: imds::Client,
    context: Arc<Context>,
    trust: String,
}

impl Ec2Disks {
    pub(super) fn new(client: Client, providers: &ProviderConfig, context: Arc<Context>, trust: String) -> Self {
        Self { client, imds: imds::Client::builder().configure(providers).build(), context, trust }
    }

    fn call(&self, operation: &'static str, resource: impl Into<String>) -> Call<'_> {
        let resource = resource.into();
        Call { service: Service::Ec2, operation, resource, trust: &self.trust }
    }
}

impl fmt::Debug for Ec2Disks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2Disks").field("region", &self.context.region).finish_non_exhaustive()
    }
}

#[async_trait]
impl Disks for Ec2Disks {
    async fn volumes(&self, filter: &VolumeFilter, from: Option<&str>) -> Result<Page<Volume>, Error> {
        let call = self.call("DescribeVolumes", format!("volumes of {}", self.context.region));
        let describe = self.client.describe_volumes().set_filters(wire::volume_filters(filter));
        let describe = describe.max_results(PAGE).set_next_token(from.map(str::to_owned));
        let output = describe.send().await.map_err(|error| call.sdk(&error))?;
        let items = output.volumes().iter().map(wire::volume).collect::<Result<_, _>>();
        let items = items.map_err(|why| invalid(&call, why))?;
        Ok(Page { items, next: next_page(&call, output.next_token, from)? })
    }

    async fn new_volume(&self, id: &VolumeId) -> Result<Volume, Error> {
        let call = self.call("DescribeVolumes", id.as_str());
        let describe = self.client.describe_volumes().volume_ids(id.as_str());
        let output = describe.send().await.map_err(|error| call.sdk(&error))?;
        let volume = output.volumes().first().ok_or_else(|| invalid(&call, "the reply holds no volume"))?;
        wire::volume(volume).map_err(|why| invalid(&call, why))
    }

    async fn snapshots(&self, filter: &SnapshotFilter, from: Option<&str>) -> Result<Page<Snapshot>, Error> {
        let call = self.call("DescribeSnapshots", format!("snapshots of {}", self.context.region));
        let describe = self.client.describe_snapshots().owner_ids("self").set_filters(wire::snapshot_filters(filter));
        let describe = describe.max_results(PAGE).set_next_token(from.map(str::to_owned));
        let output = describe.send().await.map_err(|error| call.sdk(&error))?;
        let read = |snapshot| wire::snapshot(snapshot, &call, &self.context);
        let items = output.snapshots().iter().map(read).collect::<Result<_, _>>();
        let items = items.map_err(|why| invalid(&call, why))?;
        Ok(Page { items, next: next_page(&call, output.next_token, from)? })
    }

    async fn create_snapshot(&self, new: &NewSnapshot) -> Result<Snapshot, Error> {
        let call = self.call("CreateSnapshot", new.volume.as_str());
        let create = self.client.create_snapshot().volume_id(new.volume.as_str()).description(&new.description);
        let once = aws_sdk_ec2::config::Config::builder().retry_config(RetryConfig::disabled());
        let output = create
            .tag_specifications(wire::tag_specification(ResourceType::Snapshot, &new.tags))
            .customize()
            .config_override(once)
            .send()
            .await
            .map_err(|error| call.sdk(&error))?;
        wire::created(output, &call, &self.context).map_err(|why| invalid(&call, why))
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        let call = self.call("DeleteSnapshot", id.as_str());
        let delete = self.client.delete_snapshot().snapshot_id(id.as_str());
        match delete.send().await.map_err(|error| call.sdk(&error)) {
            Ok(_) => {}
            Err(error) if error.code.as_deref() == Some("InvalidSnapshot.NotFound") => {}
            // Where the policy asks for a tag, EC2 refuses to delete what is gone: that has none.
            Err(error) if error.class == Class::AccessDenied => {
                let filter = SnapshotFilter { ids: vec![id.clone()], ..SnapshotFilter::default() };
                let is_gone = self.snapshots(&filter, None).await.is_ok_and(|page| page.items.is_empty());
                return if is_gone { Ok(()) } else { Err(error) };
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn create_volume(&self, new: &NewVolume) -> Result<Volume, Error> {
        let resource = format!("a volume of {} in {}", new.snapshot, new.availability_zone);
        let call = self.call("CreateVolume", resource);
        let count = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
        let (encrypted, key) = match &new.encryption {
            Encryption::Inherit => (None, None),
            Encryption::DefaultKey => (Some(true), None),
            Encryption::Key(key) => (Some(true), Some(key.clone())),
        };
        let create = self.client.create_volume().snapshot_id(new.snapshot.as_str());
        let output = create
            .availability_zone(&new.availability_zone)
            .volume_type(VolumeType::from(new.volume_type.as_str()))
            .set_size(count(Some(new.size_gib)))
            .set_iops(count(new.iops))
            .set_throughput(count(new.throughput))
            .set_encrypted(encrypted)
            .set_kms_key_id(key)
            .client_token(&new.client_token)
            .tag_specifications(wire::tag_specification(ResourceType::Volume, &new.tags))
            .send()
            .await
            .map_err(|error| call.sdk(&error))?;
        wire::created_volume(output).map_err(|why| invalid(&call, why))
    }

    async fn this_instance(&self) -> Result<InstanceId, Error> {
        let call = self.call("GetMetadata", "the instance metadata service");
        let unknown = |message: String| Error {
            remedy: Some(
                "write attached_to = \"i-…\"; or, in a pod, let it reach the metadata service: \
                 HttpPutResponseHopLimit = 2, or hostNetwork"
                    .to_owned(),
            ),
            ..call.error(Class::Config, message)
        };
        let answer = self.imds.get(INSTANCE_ID).await;
        let answer =
            answer.map_err(|error| unknown(format!("could not find this instance's ID: {}", reason(&error))))?;
        answer.as_ref().trim().parse().map_err(|error| unknown(format!("its answer {error}")))
    }
}
