//! How the port's words are said in EC2's, and back. What makes no sense in a reply is an error, never a default.

use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotOutput;
use aws_sdk_ec2::operation::create_volume::CreateVolumeOutput;
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{self as ec2, Filter, ResourceType, Tag, TagSpecification};

use super::super::classify::{Context, Verdict, classify_snapshot_error};
use super::super::failure::Call;
use crate::disks::{Error, Snapshot, SnapshotFilter, SnapshotState, Tags, Volume, VolumeFilter, VolumeState};

fn filter(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

fn tag_filters(tags: &Tags) -> impl Iterator<Item = Filter> {
    tags.iter().map(|(key, value)| filter(format!("tag:{key}"), [literal(value)]))
}

/// In a filter's value `*` and `?` are wildcards, and `\` makes them plain.
fn literal(value: &str) -> String {
    value.chars().fold(String::new(), |mut out, c| {
        if matches!(c, '*' | '?' | '\\') {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

fn some(filters: Vec<Filter>) -> Option<Vec<Filter>> {
    (!filters.is_empty()).then_some(filters)
}

pub(super) fn volume_filters(wanted: &VolumeFilter) -> Option<Vec<Filter>> {
    let mut filters: Vec<Filter> = tag_filters(&wanted.tags).collect();
    if !wanted.ids.is_empty() {
        filters.push(filter("volume-id", wanted.ids.iter().map(ToString::to_string)));
    }
    if let Some(instance) = &wanted.attached_to {
        filters.push(filter("attachment.instance-id", [instance.to_string()]));
    }
    some(filters)
}

pub(super) fn snapshot_filters(wanted: &SnapshotFilter) -> Option<Vec<Filter>> {
    let mut filters: Vec<Filter> = tag_filters(&wanted.tags).collect();
    if !wanted.ids.is_empty() {
        filters.push(filter("snapshot-id", wanted.ids.iter().map(ToString::to_string)));
    }
    some(filters)
}

pub(super) fn tag_specification(kind: ResourceType, tags: &Tags) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.collect())).build()
}

fn tags(tags: &[Tag]) -> Tags {
    let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
    tags.iter().filter_map(pair).collect()
}

fn time(time: Option<&DateTime>) -> Option<jiff::Timestamp> {
    let time = time?;
    jiff::Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

fn count(number: Option<i32>) -> Option<u32> {
    number.and_then(|number| u32::try_from(number).ok())
}

/// Some stores send an empty element for what is not there.
fn text(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(super) fn volume(volume: &ec2::Volume) -> Result<Volume, String> {
    let id = volume.volume_id().ok_or("a volume has no ID")?;
    let missing = |what: &str| format!("the volume {id} has no {what}");
    Ok(Volume {
        id: id.parse().map_err(|error| format!("a volume's ID {error}"))?,
        size_gib: count(volume.size()).ok_or_else(|| missing("size"))?,
        availability_zone: text(volume.availability_zone()).ok_or_else(|| missing("availability zone"))?,
        volume_type: volume.volume_type().ok_or_else(|| missing("type"))?.as_str().to_owned(),
        iops: count(volume.iops()).filter(|iops| *iops > 0),
        throughput: count(volume.throughput()).filter(|throughput| *throughput > 0),
        encrypted: volume.encrypted().unwrap_or(false),
        kms_key_id: text(volume.kms_key_id()),
        tags: tags(volume.tags()),
        state: volume_state(volume.state()),
        attached_to: volume
            .attachments()
            .iter()
            .filter_map(|attachment| attachment.instance_id()?.parse().ok())
            .collect(),
    })
}

fn volume_state(state: Option<&ec2::VolumeState>) -> VolumeState {
    match state {
        Some(ec2::VolumeState::Creating) => VolumeState::Creating,
        Some(ec2::VolumeState::Available | ec2::VolumeState::InUse) => VolumeState::Ready,
        Some(other) => VolumeState::Unusable(other.as_str().to_owned()),
        None => VolumeState::Unusable("of no state".to_owned()),
    }
}

pub(super) fn created_volume(output: CreateVolumeOutput) -> Result<Volume, String> {
    volume(
        &ec2::Volume::builder()
            .set_volume_id(output.volume_id)
            .set_size(output.size)
            .set_availability_zone(output.availability_zone)
            .set_volume_type(output.volume_type)
            .set_iops(output.iops)
            .set_throughput(output.throughput)
            .set_encrypted(output.encrypted)
            .set_kms_key_id(output.kms_key_id)
            .set_tags(output.tags)
            .set_state(output.state)
            .build(),
    )
}

pub(super) fn snapshot(snapshot: &ec2::Snapshot, call: &Call<'_>, context: &Context) -> Result<Snapshot, String> {
    let id = snapshot.snapshot_id().ok_or("a snapshot has no ID")?;
    let message = snapshot.state_message().unwrap_or_default();
    Ok(Snapshot {
        id: id.parse().map_err(|error| format!("a snapshot's ID {error}"))?,
        // A copy's is `vol-ffffffff`, which has the form of an ID and names nothing.
        volume_id: snapshot.volume_id().and_then(|id| id.parse().ok()),
        state: snapshot_state(id, snapshot, message, call, context),
        started: time(snapshot.start_time()),
        completed: time(snapshot.completion_time()),
        encrypted: snapshot.encrypted().unwrap_or(false),
        kms_key_id: text(snapshot.kms_key_id()),
        tags: tags(snapshot.tags()),
    })
}

fn snapshot_state(
    id: &str,
    snapshot: &ec2::Snapshot,
    message: &str,
    call: &Call<'_>,
    context: &Context,
) -> SnapshotState {
    let progress = snapshot.progress();
    let failed = |message: String, verdict: Verdict| {
        let Verdict { class, remedy } = verdict;
        let resource = id.to_owned();
        SnapshotState::Failed(Error { resource, remedy, ..call.error(class, message) })
    };
    match snapshot.state() {
        Some(ec2::SnapshotState::Completed) => SnapshotState::Completed,
        Some(ec2::SnapshotState::Pending | ec2::SnapshotState::Recovering) | None => {
            SnapshotState::Pending(progress.and_then(|percent| percent.trim_end_matches('%').parse().ok()))
        }
        Some(ec2::SnapshotState::Recoverable) => SnapshotState::InRecycleBin,
        Some(ec2::SnapshotState::Error) => {
            failed(format!("the snapshot's state is error: {message}"), classify_snapshot_error(message, context))
        }
        Some(other) => failed(
            format!("the snapshot's state is {}, which this version does not know: {message}", other.as_str()),
            Verdict::bare(crate::error::Class::Compat),
        ),
    }
}

pub(super) fn created(output: CreateSnapshotOutput, call: &Call<'_>, context: &Context) -> Result<Snapshot, String> {
    let read = ec2::Snapshot::builder()
        .set_snapshot_id(output.snapshot_id)
        .set_volume_id(output.volume_id)
        .set_state(output.state)
        .set_state_message(output.state_message)
        .set_start_time(output.start_time)
        .set_completion_time(output.completion_time)
        .set_encrypted(output.encrypted)
        .set_kms_key_id(output.kms_key_id)
        .set_tags(output.tags)
        .build();
    snapshot(&read, call, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filters_value_is_literal() {
        assert_eq!(literal("a*b?c\\d"), "a\\*b\\?c\\\\d");
        assert_eq!(literal("kubernetes.io/owned"), "kubernetes.io/owned");
    }

    #[test]
    fn nothing_asked_for_is_no_filter() {
        assert_eq!(volume_filters(&VolumeFilter::default()), None);
        let wanted = SnapshotFilter { ids: vec!["snap-01234567".parse().unwrap()], tags: Tags::new() };
        let filters = snapshot_filters(&wanted).unwrap();
        assert_eq!((filters[0].name(), filters[0].values()), (Some("snapshot-id"), &["snap-01234567".to_owned()][..]));
    }
}
