//! The block service that is EC2.
//!
//! A method makes one request. The SDK repeats it (up to three attempts) where that is safe; CreateSnapshot is sent once, since
//! EC2 has no client token for it and a reply may be lost. A reply that the credentials have expired drops them, so that the
//! caller's next try has new ones; RequestExpired with new ones means the clock.

mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use aws_config::imds;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{ResourceType, VolumeType};

use super::classify::{Context, Service};
use super::credentials::{Generation, Provider};
use super::failure::{Call, tell};
use crate::disks::{
    Disks, Encryption, Error, NewSnapshot, NewVolume, Page, Snapshot, SnapshotFilter, Volume, VolumeFilter,
};
use crate::error::Class;
use crate::format::ebs::{InstanceId, SnapshotId, VolumeId};

/// The most that DescribeVolumes and DescribeSnapshots give at a time.
const PAGE: i32 = 1000;

const INSTANCE_ID: &str = "/latest/meta-data/instance-id";

pub struct Ec2Disks {
    client: Client,
    imds: imds::Client,
    region: String,
    credentials: Provider,
    context: Arc<Context>,
    trust: String,
    /// One more than the generation of credentials that a RequestExpired last dropped; 0 for none.
    expired: AtomicU64,
}

/// One request: what it is for the error, and which credentials it was begun with.
struct Request<'a> {
    disks: &'a Ec2Disks,
    call: Call<'a>,
    generation: Generation,
}

impl Request<'_> {
    fn failed<E>(&self, error: &SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let first = self.call.sdk(error);
        if first.class != Class::CredentialsExpired {
            return first;
        }
        self.disks.credentials.invalidate(self.generation);
        if first.code.as_deref() != Some("RequestExpired") {
            return first;
        }
        // EC2 says RequestExpired of an expired session and of a clock that is off. With credentials newer than those it
        // refused last time, it is the clock.
        let number = self.generation.number() + 1;
        let before = self.disks.expired.swap(number, Ordering::Relaxed);
        if before == 0 || before == number {
            return first;
        }
        let context = Context { credentials_fresh: true, ..Context::clone(self.call.context) };
        Call { context: &context, ..self.call.clone() }.sdk(error)
    }

    fn odd(&self, message: impl Into<String>) -> Error {
        self.call.error(Class::Compat, message)
    }

    fn succeeded(&self) {
        self.disks.expired.store(0, Ordering::Relaxed);
    }
}

impl Ec2Disks {
    pub(super) fn new(
        sdk: &SdkConfig,
        providers: &ProviderConfig,
        credentials: Provider,
        context: Arc<Context>,
        trust: String,
    ) -> Self {
        Self {
            client: Client::new(sdk),
            imds: imds::Client::builder().configure(providers).build(),
            region: context.region.clone(),
            credentials,
            context,
            trust,
            expired: AtomicU64::new(0),
        }
    }

    async fn request(&self, operation: &'static str, resource: impl Into<String>) -> Request<'_> {
        self.request_in(operation, resource, &self.context).await
    }

    async fn request_in<'a>(
        &'a self,
        operation: &'static str,
        resource: impl Into<String>,
        context: &'a Context,
    ) -> Request<'a> {
        let resource = resource.into();
        let call = Call { service: Service::Ec2, operation, resource, context, trust: &self.trust };
        Request { disks: self, call, generation: self.credentials.ready().await }
    }
}

impl fmt::Debug for Ec2Disks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ec2Disks").field("region", &self.region).finish_non_exhaustive()
    }
}

#[async_trait]
impl Disks for Ec2Disks {
    async fn volumes(&self, filter: &VolumeFilter, from: Option<&str>) -> Result<Page<Volume>, Error> {
        let request = self.request("DescribeVolumes", format!("volumes of {}", self.region)).await;
        let describe = self.client.describe_volumes().set_filters(wire::volume_filters(filter));
        let describe = describe.max_results(PAGE).set_next_token(from.map(str::to_owned));
        let output = describe.send().await.map_err(|error| request.failed(&error))?;
        request.succeeded();
        let items = output.volumes().iter().map(wire::volume).collect::<Result<_, _>>();
        let items = items.map_err(|why| request.odd(why))?;
        Ok(Page { items, next: output.next_token.filter(|token| !token.is_empty()) })
    }

    async fn new_volume(&self, id: &VolumeId) -> Result<Volume, Error> {
        let context = Context { just_created: true, ..Context::clone(&self.context) };
        let request = self.request_in("DescribeVolumes", id.as_str(), &context).await;
        let describe = self.client.describe_volumes().volume_ids(id.as_str());
        let output = describe.send().await.map_err(|error| request.failed(&error))?;
        request.succeeded();
        let volume = output.volumes().first().ok_or_else(|| request.odd("the reply holds no volume"))?;
        wire::volume(volume).map_err(|why| request.odd(why))
    }

    async fn snapshots(&self, filter: &SnapshotFilter, from: Option<&str>) -> Result<Page<Snapshot>, Error> {
        let request = self.request("DescribeSnapshots", format!("snapshots of {}", self.region)).await;
        let describe = self.client.describe_snapshots().owner_ids("self").set_filters(wire::snapshot_filters(filter));
        let describe = describe.max_results(PAGE).set_next_token(from.map(str::to_owned));
        let output = describe.send().await.map_err(|error| request.failed(&error))?;
        request.succeeded();
        let read = |snapshot| wire::snapshot(snapshot, &request.call);
        let items = output.snapshots().iter().map(read).collect::<Result<_, _>>();
        let items = items.map_err(|why| request.odd(why))?;
        Ok(Page { items, next: output.next_token.filter(|token| !token.is_empty()) })
    }

    async fn create_snapshot(&self, new: &NewSnapshot) -> Result<Snapshot, Error> {
        let request = self.request("CreateSnapshot", new.volume.as_str()).await;
        let create = self.client.create_snapshot().volume_id(new.volume.as_str()).description(&new.description);
        let once = aws_sdk_ec2::config::Config::builder().retry_config(RetryConfig::disabled());
        let output = create
            .tag_specifications(wire::tag_specification(ResourceType::Snapshot, &new.tags))
            .customize()
            .config_override(once)
            .send()
            .await
            .map_err(|error| request.failed(&error))?;
        request.succeeded();
        wire::created(output, &request.call).map_err(|why| request.odd(why))
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        let request = self.request("DeleteSnapshot", id.as_str()).await;
        let delete = self.client.delete_snapshot().snapshot_id(id.as_str());
        match delete.send().await.map_err(|error| request.failed(&error)) {
            Ok(_) => {}
            Err(error) if error.code.as_deref() == Some("InvalidSnapshot.NotFound") => {}
            Err(error) => return Err(error),
        }
        request.succeeded();
        Ok(())
    }

    async fn create_volume(&self, new: &NewVolume) -> Result<Volume, Error> {
        let resource = format!("a volume of {} in {}", new.snapshot, new.availability_zone);
        let request = self.request("CreateVolume", resource).await;
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
            .map_err(|error| request.failed(&error))?;
        request.succeeded();
        wire::created_volume(output).map_err(|why| request.odd(why))
    }

    async fn this_instance(&self) -> Result<InstanceId, Error> {
        let request = self.request("GetMetadata", "the instance metadata service").await;
        let unknown = |message: String| Error {
            remedy: Some(
                "write attached_to = \"i-…\"; or, in a pod, let it reach the metadata service: \
                 HttpPutResponseHopLimit = 2, or hostNetwork"
                    .to_owned(),
            ),
            ..request.call.error(Class::Config, message)
        };
        let answer = self.imds.get(INSTANCE_ID).await;
        let answer = answer.map_err(|error| unknown(format!("which instance is this? {}", tell(&error))))?;
        answer.as_ref().trim().parse().map_err(|error| unknown(format!("its answer {error}")))
    }
}
