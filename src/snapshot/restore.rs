//! Makes a volume from a snapshot of a backup.
//!
//! The volume is like the original unless the operator asks for something else. EC2 decides whether the snapshot is usable, whatever
//! the manifest says: a manifest that was never completed must not prevent a restore. The client token is a hash of the whole request, and
//! a tag of the volume: the same command again finds the same volume, however much later.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Error, Owner, claim, select, tags, wait};
use crate::backoff::Backoff;
use crate::disks::{self, Encryption, NewVolume, Snapshot, SnapshotState, Tags, Volume, VolumeFilter, VolumeState};
use crate::error::Retry;
use crate::format::ebs::{EbsSnapshot, RESTORE_TAG};
use crate::format::manifest::{Content, Item, Manifest};
use crate::location::Location;

/// A new volume may not be listed for a moment. If it is not listed after this long, EC2 did not keep it.
const LISTED_WITHIN: Duration = Duration::from_secs(30);
/// The pauses between looks at the volume.
const LOOKS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10), (100, 100));

/// The volume to make; for `None` the original's value is used.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub availability_zone: String,
    pub volume_type: Option<String>,
    pub size_gib: Option<u32>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub encryption: Encryption,
    /// Tags besides the original's, which they override.
    pub tags: Tags,
    /// Distinguishes volumes of otherwise equal requests.
    pub copy: String,
    /// How long to wait until the volume is available.
    pub timeout: Duration,
}

/// Whether this command made the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    Now,
    /// The same request made it earlier.
    Earlier,
}

/// Finds the snapshot for `volume` in a backup: a volume's ID, an item's name, a claim as NAMESPACE/NAME, or a snapshot's ID.
///
/// # Errors
/// When there is none, or several.
pub fn find<'a>(manifest: &'a Manifest, volume: &str) -> Result<(&'a Item, &'a EbsSnapshot), Error> {
    let means = |item: &Item, snapshot: &EbsSnapshot| {
        snapshot.volume_id.as_str() == volume
            || snapshot.snapshot_id.as_str() == volume
            || item.name.as_str() == volume
            || claim(&item.labels).is_some_and(|claim| claim == volume)
    };
    let mut found = manifest.snapshots().filter(|(item, snapshot)| means(item, snapshot));
    let there = || {
        let known = manifest.snapshots().map(|(_, snapshot)| snapshot.volume_id.to_string());
        let known: Vec<String> = known.take(20).collect();
        if known.is_empty() { "it has no snapshot".to_owned() } else { format!("it has {}", known.join(", ")) }
    };
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Error::Usage(format!("{volume} matches several volumes of the backup: name one by its ID")))
        }
        (None, _) => {
            let failed = manifest.items.iter().find(|item| {
                item.name.as_str().ends_with(volume) && matches!(item.content, Content::EbsSnapshot { snapshot: None })
            });
            let why = failed.and_then(|item| item.error.as_ref());
            Err(Error::NotFound(match why {
                Some(error) => {
                    format!("the snapshot of {volume} failed in the backup {}: {}", manifest.id, error.message)
                }
                None => format!("the backup {} has no snapshot of {volume}; {}", manifest.id, there()),
            }))
        }
    }
}

/// The request to EC2.
fn request(owner: &Owner, original: &EbsSnapshot, wanted: &Wanted) -> Result<NewVolume, Error> {
    let volume_type = wanted.volume_type.clone().unwrap_or_else(|| original.volume_type.clone());
    let same = volume_type == original.volume_type;
    let provisioned = |name: &str| matches!(name, "io1" | "io2");
    let usage = |message: String| Err(Error::Usage(message));
    let iops = match (wanted.iops, volume_type.as_str()) {
        (iops @ Some(_), "gp3" | "io1" | "io2") => iops,
        (Some(_), _) => {
            return usage(format!("--iops has no meaning for {volume_type}: only gp3, io1 and io2 have it"));
        }
        // For the other types the IOPS follow from the size, and a request may not state them.
        (None, "gp3") => original.iops.filter(|_| same),
        (None, _) if provisioned(&volume_type) => original.iops.filter(|_| provisioned(&original.volume_type)),
        (None, _) => None,
    };
    if provisioned(&volume_type) && iops.is_none() {
        return usage(format!("{volume_type} needs --iops; the original was {}", original.volume_type));
    }
    let throughput = match (wanted.throughput, volume_type.as_str()) {
        (throughput @ Some(_), "gp3") => throughput,
        (Some(_), _) => return usage(format!("--throughput has no meaning for {volume_type}: only gp3 has it")),
        (None, "gp3") => original.throughput.filter(|_| same),
        (None, _) => None,
    };
    let size_gib = wanted.size_gib.unwrap_or(original.size_gib);
    if size_gib < original.size_gib {
        return usage(format!("--size {size_gib} is less than the snapshot's {} GiB", original.size_gib));
    }
    let mut new = NewVolume {
        snapshot: original.snapshot_id.clone(),
        availability_zone: wanted.availability_zone.clone(),
        volume_type,
        size_gib,
        iops,
        throughput,
        encryption: wanted.encryption.clone(),
        tags: wanted.tags.clone(),
        client_token: String::new(),
    };
    new.client_token = client_token(&new, &wanted.copy);
    new.tags = volume_tags(owner, original, &new);
    Ok(new)
}

/// SHA-256 of the request, in 64 hexadecimal digits, the most that EC2 takes (docs/decisions/0067). Field by field as `NAME LENGTH VALUE`
/// and a line feed. A field without a value is left out, so that a field added later changes no token of a command without it. With any
/// other change, a command repeated after an upgrade makes a second volume.
fn client_token(new: &NewVolume, copy: &str) -> String {
    let NewVolume { snapshot, availability_zone, volume_type, size_gib, iops, throughput, encryption, tags, .. } = new;
    let (encryption, key) = match encryption {
        Encryption::Inherit => ("inherit", None),
        Encryption::DefaultKey => ("default-key", None),
        Encryption::Key(key) => ("key", Some(key.clone())),
    };
    let number = |number: &Option<u32>| number.map(|number| number.to_string());
    let mut fields = vec![
        ("version", Some("1".to_owned())),
        ("snapshot", Some(snapshot.to_string())),
        ("availability-zone", Some(availability_zone.clone())),
        ("volume-type", Some(volume_type.clone())),
        ("size-gib", Some(size_gib.to_string())),
        ("iops", number(iops)),
        ("throughput", number(throughput)),
        ("encryption", Some(encryption.to_owned())),
        ("kms-key", key),
        ("copy", Some(copy.to_owned()).filter(|copy| !copy.is_empty())),
    ];
    let tag = |(name, value): (&String, &String)| [("tag", Some(name.clone())), ("tag-value", Some(value.clone()))];
    fields.extend(tags.iter().flat_map(tag));
    let mut hash = Sha256::new();
    for (name, value) in fields {
        hash.update(value.map_or_else(String::new, |value| format!("{name} {} {value}\n", value.len())));
    }
    hex::encode(hash.finalize())
}

fn volume_tags(owner: &Owner, original: &EbsSnapshot, new: &NewVolume) -> Tags {
    let mut own = tags::of_volume(owner, &original.volume_id);
    own.insert(tags::SOURCE_SNAPSHOT.to_owned(), original.snapshot_id.to_string());
    own.insert(RESTORE_TAG.to_owned(), new.client_token.clone());
    let (tags, left_out) = tags::fill(own, &new.tags);
    let (tags, more) = tags::fill(tags, &original.tags);
    if left_out + more > 0 {
        tracing::warn!(left_out = left_out + more, "volume gets 50 tags, EC2's limit: the others are left out");
    }
    tags
}

/// Makes the volume and waits until it is available.
///
/// # Errors
/// When the request is invalid, the snapshot is missing, not complete or another volume's, EC2 refuses, or the volume disappears after its
/// creation or is not available in time.
pub async fn volume(
    location: &Location,
    owner: &Owner,
    original: &EbsSnapshot,
    wanted: &Wanted,
    stop: &CancellationToken,
) -> Result<(Volume, Made), Error> {
    let new = request(owner, original, wanted)?;
    let work = async {
        let seen = wait::look(&*location.disks, std::slice::from_ref(&original.snapshot_id)).await?;
        check(original, seen.get(&original.snapshot_id))?;
        let (volume, made) = make(location, &new).await?;
        tracing::info!(volume = %volume.id, "waiting until the volume is available");
        Ok((available(location, volume, made, wanted.timeout).await?, made))
    };
    tokio::select! {
        () = stop.cancelled() => Err(Error::Cancelled),
        result = work => result,
    }
}

/// Checks that EC2 has the snapshot, complete and of the volume that the manifest names.
pub(super) fn check(original: &EbsSnapshot, seen: Option<&Snapshot>) -> Result<(), Error> {
    let id = &original.snapshot_id;
    let snapshot = seen.ok_or_else(|| Error::Gone(id.clone()))?;
    if snapshot.volume_id.as_ref() != Some(&original.volume_id) {
        let found = snapshot.volume_id.as_ref().map_or_else(|| "another account".to_owned(), ToString::to_string);
        return Err(Error::OtherVolume { id: id.clone(), found, expected: original.volume_id.clone() });
    }
    match &snapshot.state {
        SnapshotState::Completed => Ok(()),
        SnapshotState::Pending(percent) => {
            let progress = percent.map_or_else(String::new, |percent| format!(": {percent} %"));
            Err(Error::NotComplete { id: id.clone(), progress })
        }
        SnapshotState::Failed(error) => Err(error.clone().into()),
        SnapshotState::InRecycleBin => Err(Error::InRecycleBin(id.clone())),
    }
}

async fn make(location: &Location, new: &NewVolume) -> Result<(Volume, Made), Error> {
    let token = (RESTORE_TAG.to_owned(), new.client_token.clone());
    let filter = VolumeFilter { tags: [token].into(), ..VolumeFilter::default() };
    let earlier = select::list(&*location.disks, &filter).await?;
    if let Some(volume) = earlier.into_iter().find(|volume| !matches!(volume.state, VolumeState::Unusable(_))) {
        tracing::info!(volume = %volume.id, "volume found: the same command has made it before");
        return Ok((volume, Made::Earlier));
    }
    let volume = location.disks.create_volume(new).await?;
    Ok((volume, Made::Now))
}

async fn available(location: &Location, volume: Volume, made: Made, timeout: Duration) -> Result<Volume, Error> {
    let start = location.clock.now();
    let elapsed = || location.clock.now().duration_since(start);
    let (mut look, mut shown) = (0, made == Made::Earlier);
    loop {
        match location.disks.new_volume(&volume.id).await {
            Ok(seen) => match seen.state {
                VolumeState::Ready => return Ok(seen),
                VolumeState::Creating => shown = true,
                VolumeState::Unusable(state) => return Err(Error::BadVolume { volume: seen.id, state }),
            },
            Err(error) if not_there(&error) && !shown && elapsed() < LISTED_WITHIN => {}
            Err(error) if error.class.retry() == Retry::No => return Err(error.into()),
            Err(error) => tracing::warn!(class = %error.class, %error, "could not look at the volume: trying again"),
        }
        let pause = LOOKS.pause(look, 0);
        if elapsed() + pause > timeout {
            return Err(Error::Slow { volume: volume.id, seconds: timeout.as_secs() });
        }
        location.clock.sleep(pause).await;
        look += 1;
    }
}

fn not_there(error: &disks::Error) -> bool {
    error.code.as_deref() == Some("InvalidVolume.NotFound")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ebs::State;
    use crate::format::key::{Chain, Name};

    fn original(volume_type: &str, iops: Option<u32>, throughput: Option<u32>) -> EbsSnapshot {
        EbsSnapshot {
            snapshot_id: "snap-0123456789abcdef0".parse().unwrap(),
            volume_id: "vol-0123456789abcdef0".parse().unwrap(),
            size_gib: 100,
            availability_zone: "eu-west-1a".to_owned(),
            volume_type: volume_type.to_owned(),
            iops,
            throughput,
            encrypted: true,
            kms_key_id: None,
            tags: [("Name".to_owned(), "db".to_owned()), ("aws:x".to_owned(), "y".to_owned())].into(),
            state: State::Completed,
            started: jiff::Timestamp::UNIX_EPOCH,
            completed: None,
        }
    }

    fn wanted(volume_type: Option<&str>, iops: Option<u32>, throughput: Option<u32>) -> Wanted {
        Wanted {
            availability_zone: "eu-west-1b".to_owned(),
            volume_type: volume_type.map(str::to_owned),
            size_gib: None,
            iops,
            throughput,
            encryption: Encryption::Inherit,
            tags: Tags::new(),
            copy: String::new(),
            timeout: Duration::from_mins(1),
        }
    }

    fn owner() -> Owner {
        let name = |text: &str| Name::new(text).unwrap();
        let chain = Chain { cluster: name("c"), job: name("j"), node: name("n") };
        Owner { chain, id: "20261123T221300Z-4f9a2c".parse().unwrap() }
    }

    #[test]
    fn the_new_volume_is_like_the_original_where_that_makes_sense() {
        let asked = |original: &EbsSnapshot, wanted: &Wanted| {
            let new = request(&owner(), original, wanted).map_err(|error| error.to_string())?;
            Ok::<_, String>((new.volume_type, new.size_gib, new.iops, new.throughput))
        };
        let gp3 = original("gp3", Some(6000), Some(250));
        let gp2 = original("gp2", Some(300), None);
        let io1 = original("io1", Some(5000), None);
        let is = |name: &str, iops, throughput| Ok((name.to_owned(), 100, iops, throughput));
        assert_eq!(asked(&gp3, &wanted(None, None, None)), is("gp3", Some(6000), Some(250)));
        assert_eq!(asked(&gp3, &wanted(None, Some(9000), None)), is("gp3", Some(9000), Some(250)));
        assert_eq!(asked(&gp2, &wanted(None, None, None)), is("gp2", None, None));
        assert_eq!(asked(&gp2, &wanted(Some("gp3"), None, Some(200))), is("gp3", None, Some(200)));
        assert_eq!(asked(&gp3, &wanted(Some("st1"), None, None)), is("st1", None, None));
        assert_eq!(asked(&io1, &wanted(Some("io2"), None, None)), is("io2", Some(5000), None));
        assert_eq!(asked(&io1, &wanted(Some("gp3"), None, None)), is("gp3", None, None));
        assert!(asked(&gp3, &wanted(Some("io2"), None, None)).unwrap_err().contains("needs --iops"));
        assert!(asked(&gp2, &wanted(None, Some(1), None)).unwrap_err().contains("no meaning for gp2"));
        assert!(asked(&io1, &wanted(None, None, Some(1))).unwrap_err().contains("only gp3"));
        let small = Wanted { size_gib: Some(99), ..wanted(None, None, None) };
        assert!(asked(&gp3, &small).unwrap_err().contains("less than"));
    }

    #[test]
    fn the_same_request_has_the_same_token_and_another_has_another() {
        let gp3 = original("gp3", Some(6000), Some(250));
        let token = |wanted: &Wanted| request(&owner(), &gp3, wanted).unwrap().client_token;
        let plain = wanted(None, None, None);
        assert_eq!((token(&plain), token(&plain).len()), (token(&plain), 64));
        let mut tokens = std::collections::BTreeSet::from([token(&plain)]);
        for other in [
            Wanted { availability_zone: "eu-west-1c".into(), ..plain.clone() },
            Wanted { size_gib: Some(200), ..plain.clone() },
            Wanted { encryption: Encryption::Key("k".into()), ..plain.clone() },
            Wanted { tags: [("a".to_owned(), "b".to_owned())].into(), ..plain.clone() },
            Wanted { copy: "second".into(), ..plain.clone() },
        ] {
            assert!(tokens.insert(token(&other)), "{other:?}");
        }
        let new = request(&owner(), &gp3, &plain).unwrap();
        assert_eq!(new.tags[RESTORE_TAG], new.client_token);
        assert_eq!(new.tags["Name"], "db");
        assert_eq!(new.tags["penstock:source-snapshot"], "snap-0123456789abcdef0");
        assert!(!new.tags.contains_key("aws:x"));
    }

    /// Computed by another program. These do not change: see [`client_token`].
    #[test]
    fn tokens_are_the_same_in_every_version() {
        let gp3 = original("gp3", Some(6000), Some(250));
        let token = |wanted: &Wanted| request(&owner(), &gp3, wanted).unwrap().client_token;
        let plain = wanted(None, None, None);
        assert_eq!(token(&plain), "b10196494dae71b05f23fa07f9bc75a6dc43066c4eab44fb479dd664e43a76d4");
        let tags = [("a b", "c\n1"), ("Grüße", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let all = Wanted {
            size_gib: Some(200),
            encryption: Encryption::Key("alias/backups".into()),
            tags: tags.into(),
            copy: "second".into(),
            timeout: Duration::ZERO,
            ..wanted(Some("io2"), Some(9000), None)
        };
        assert_eq!(token(&all), "70ba9a14c5f3a0acc86580fecded3fff895ba583e4423a5994f21bf2f72de21f");
    }
}
