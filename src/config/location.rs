//! `[locations.NAME]`: a bucket, and how to reach it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::credentials;
use super::forms;
use super::model::{
    CertificateMode, ClientEncryption, Concurrency, Encryption, EncryptionMode, Location, LockMode, MAX_RECIPIENTS,
    ObjectLock, Recipients, SignPayload, Upload,
};
use super::reader::Section;
use super::units::{GIB, MIB, TIB, show_size};
use crate::age::{KeyError, Recipient};
use crate::checksum::Algorithm;

/// S3 User Guide, "Amazon S3 multipart upload limits": parts from 5 MiB, at most 10,000 of them, objects to 5 TiB.
const MIN_PART: u64 = 5 * MIB;
pub const MAX_PARTS: u16 = 10_000;
const MAX_OBJECT: u64 = 5 * TIB;
/// S3 takes 5 GiB, but a part is one buffer in memory.
const MAX_PART: u64 = GIB;

const DEFAULT_PART: u64 = 16 * MIB;
const DEFAULT_OBJECT: u64 = 64 * GIB;
/// The default.
const DEFAULT_CONCURRENCY: u16 = 8;

/// Locks are extended once a day at least, so a shorter one could end between two extensions.
const MIN_LOCK: Duration = Duration::from_hours(24);
/// S3's own limit of a lock is a hundred years; in compliance mode, nobody could end one.
const MAX_LOCK: Duration = Duration::from_hours(24 * 3650);

/// S3 User Guide, "Categorizing your objects using tags".
const MAX_OBJECT_TAGS: usize = 10;

/// `None` if a fault leaves no location to build.
pub(super) fn read(name: &str, section: &Section) -> Option<Location> {
    if let Err(fault) = forms::name(name) {
        section.fault_here(format!("the location's name {fault}"));
    }
    let provider = section.choice("provider", &[("aws", ())]);
    section.required("provider", provider, "expected \"aws\"");
    let bucket = section.parsed("bucket", forms::bucket);
    let bucket = section.required("bucket", bucket, "name the bucket that holds the backups");
    let s3_url = section.parsed("s3_url", forms::url);
    // Other stores have region names of their own.
    let form = if section.has("s3_url") { forms::any_region } else { forms::aws_region };
    let region = section.parsed("region", form);
    let region = section.required("region", region, "name the bucket's region, such as \"eu-west-1\"");
    let certificate = section.path("certificate");
    let modes = [("add", CertificateMode::Add), ("only", CertificateMode::Only)];
    let certificate_mode = section.choice("certificate_mode", &modes);
    if certificate.is_none() && certificate_mode == Some(CertificateMode::Only) && !section.is_faulty("certificate") {
        section
            .fault("certificate_mode", "is \"only\" without a certificate: nothing would be trusted; set certificate");
    }
    let credentials = section.table("credentials", credentials::read);
    let assume_role = credentials::read_chain(section, credentials.as_ref());
    let location = Location {
        name: name.to_owned(),
        bucket: bucket.unwrap_or_default(),
        region: region.unwrap_or_default(),
        prefix: section.parsed("prefix", forms::prefix).unwrap_or_default(),
        s3_url,
        sts_url: section.parsed("sts_url", forms::url),
        ec2_url: section.parsed("ec2_url", forms::url),
        force_path_style: section.boolean("force_path_style").unwrap_or(false),
        certificate,
        certificate_mode: certificate_mode.unwrap_or_default(),
        checksum: checksum(section),
        storage_class: section.parsed("storage_class", forms::storage_class),
        tags: section.pairs("tags", forms::tag),
        assume_role,
        encryption: section.table("encryption", encryption),
        client_encryption: section.table("client_encryption", client_encryption),
        object_lock: section.table("object_lock", object_lock),
        upload: section.table("upload", upload),
        // Last, when every key has been asked for.
        credentials: credentials?,
    };
    if location.object_lock.is_some() && location.checksum == Algorithm::None {
        section.fault(
            "checksum",
            "is \"none\", and S3 locks no object that comes without a checksum; choose another, or remove object_lock",
        );
    }
    if location.tags.len() > MAX_OBJECT_TAGS {
        let count = location.tags.len();
        section.fault("tags", format!("has {count} tags; S3 keeps at most {MAX_OBJECT_TAGS} on an object"));
    }
    Some(location)
}

fn checksum(section: &Section) -> Algorithm {
    let algorithms = [
        ("crc64nvme", Algorithm::Crc64nvme),
        ("crc32c", Algorithm::Crc32c),
        ("sha256", Algorithm::Sha256),
        ("none", Algorithm::None),
    ];
    section.choice("checksum", &algorithms).unwrap_or_default()
}

fn encryption(section: &Section) -> Encryption {
    let modes = [
        ("bucket-default", EncryptionMode::BucketDefault),
        ("sse-s3", EncryptionMode::SseS3),
        ("sse-kms", EncryptionMode::SseKms),
        ("dsse-kms", EncryptionMode::DsseKms),
    ];
    let mode = section.choice("mode", &modes);
    let kms_key_id = section.parsed("kms_key_id", forms::kms_key_id);
    let bucket_key = section.boolean("bucket_key");
    let kms = matches!(mode, Some(EncryptionMode::SseKms | EncryptionMode::DsseKms));
    // A faulty mode leaves open which other keys apply.
    if !kms && !section.is_faulty("mode") {
        if kms_key_id.is_some() {
            section.only_with("kms_key_id", false, "mode = \"sse-kms\" or \"dsse-kms\"");
        }
        // `true` is the default and harmless; `false` shows that the operator expects a key to be in use.
        if bucket_key == Some(false) {
            section.only_with("bucket_key", false, "mode = \"sse-kms\"");
        }
    }
    Encryption { mode: mode.unwrap_or_default(), kms_key_id, bucket_key: bucket_key.unwrap_or(true) }
}

/// `None` without recipients.
fn client_encryption(section: &Section) -> Option<ClientEncryption> {
    let inline = section.list("recipients", recipient);
    let mut seen = BTreeSet::new();
    if let Some(twice) = inline.iter().find(|recipient| !seen.insert(recipient.fingerprint())) {
        section.fault("recipients", format!("has {twice} twice; remove one"));
    }
    if inline.len() > MAX_RECIPIENTS {
        section.fault("recipients", format!("has {} recipients; expected 1 to {MAX_RECIPIENTS}", inline.len()));
    }
    let file = section.path("recipients_file");
    let index_identity_file = section.path("index_identity_file");
    if file.is_some() && section.has("recipients") {
        section.fault("recipients_file", "stands beside recipients; expected one of the two, remove the other");
    }
    let recipients = match file {
        Some(file) => Recipients::File(file),
        None if !inline.is_empty() => Recipients::Inline(inline),
        None => {
            let meant = section.has("recipients") || index_identity_file.is_some();
            if meant && !section.is_faulty("recipients") && !section.is_faulty("recipients_file") {
                section.fault(
                    "recipients",
                    "names nobody: what is encrypted to nobody is lost; expected recipients (age1…)",
                );
            }
            return None;
        }
    };
    Some(ClientEncryption { recipients, index_identity_file })
}

fn recipient(text: &str) -> Result<Recipient, String> {
    text.parse().map_err(|error| match error {
        KeyError::IdentityForRecipient => format!(
            "{error}. It would lie on every node: replace it with what `penstock key show` prints for it, and make a new one, since this file has held it"
        ),
        error => error.to_string(),
    })
}

fn object_lock(section: &Section) -> Option<ObjectLock> {
    let modes = [("governance", LockMode::Governance), ("compliance", LockMode::Compliance)];
    let mode = section.choice("mode", &modes);
    let period = section.duration("period");
    let Some(mode) = mode else {
        if !section.is_faulty("mode") {
            section.only_with("period", false, "mode = \"governance\" or \"compliance\"");
        }
        return None;
    };
    let period = section.required(
        "period",
        period,
        "say how long an object stays locked after the last backup that needs it, such as \"14d\"",
    )?;
    if !(MIN_LOCK..=MAX_LOCK).contains(&period) {
        let [found, least, most] = [period, MIN_LOCK, MAX_LOCK].map(humantime::format_duration);
        section.fault("period", format!("is {found}; expected {least} to {most}"));
        return None;
    }
    Some(ObjectLock { mode, period })
}

fn upload(section: &Section) -> Upload {
    let given = section.size("part_size");
    let in_range = given.filter(|size| (MIN_PART..=MAX_PART).contains(size));
    if let (Some(size), None) = (given, in_range) {
        section.fault("part_size", format!("is {}; expected 5MiB to 1GiB", show_size(size)));
    }
    // Goes on with the default, so that one wrong size causes no further faults.
    let part_size = in_range.unwrap_or(DEFAULT_PART);
    let most = (part_size * u64::from(MAX_PARTS)).min(MAX_OBJECT);
    let object_size = section.size("object_size");
    if let Some(size) = object_size.filter(|size| !(part_size..=most).contains(size) && !section.is_faulty("part_size"))
    {
        let (size, least, most, part) = (show_size(size), show_size(part_size), show_size(most), show_size(part_size));
        let expected =
            format!("expected {least} to {most}, which is from one part of {part} to {MAX_PARTS}, and never over 5TiB");
        section.fault("object_size", format!("is {size}; {expected}"));
    }
    let concurrency = section.integer("concurrency", 0..=1000).and_then(|count| u16::try_from(count).ok());
    let signing = [("auto", SignPayload::Auto), ("always", SignPayload::Always), ("never", SignPayload::Never)];
    Upload {
        part_size,
        concurrency: match concurrency.unwrap_or(DEFAULT_CONCURRENCY) {
            0 => Concurrency::Auto,
            most => Concurrency::AtMost(most),
        },
        // A small part_size alone must not make the default object_size a fault.
        object_size: object_size.unwrap_or(DEFAULT_OBJECT.min(most)),
        sign_payload: section.choice("sign_payload", &signing).unwrap_or_default(),
    }
}
