//! Makes IAM policies as JSON to paste: the role's permissions, its trust policy, and its caller's permissions.
//!
//! [`kubernetes`] does the same for the API objects of a cluster, [`claims`] for the volumes of its pods.
//!
//! The permission policy lists every action that Penstock uses; `tests/suite/layouts.rs` runs it with exactly these.

pub mod claims;
pub mod kubernetes;

use serde_json::{Value, json};

use crate::config::Location;
use crate::format::ebs::{CLUSTER_TAG, RESTORE_TAG};
use crate::format::key::{Name, cluster_prefix};

/// Actions on a location's objects; `penstock validate` proves each.
const OBJECT_ACTIONS: [&str; 5] =
    ["s3:GetObject", "s3:DeleteObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"];

/// Further actions on the objects of a location that locks them, and on its bucket. `s3:DeleteObjectVersion` is optional and not among
/// them: the fewer may delete, the better.
const LOCK_ACTIONS: [&str; 4] =
    ["s3:PutObjectRetention", "s3:GetObjectRetention", "s3:GetObjectLegalHold", "s3:GetObjectVersion"];
const VERSION_ACTIONS: [&str; 1] = ["s3:ListBucketVersions"];

/// A multipart upload decrypts its data key: PutObject alone would not need Decrypt.
const KEY_ACTIONS: [&str; 2] = ["kms:GenerateDataKey", "kms:Decrypt"];

/// Whether the role takes EBS snapshots too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshots {
    Yes,
    No,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not an account: expected 12 digits")]
    Account(String),
    #[error("{0:?} is not a KMS key's ARN: a policy needs it in full, arn:aws:kms:REGION:ACCOUNT:key/ID")]
    Key(String),
    #[error("the external ID {0}")]
    ExternalId(String),
    #[error("{0}")]
    Principal(String),
    #[error("location {0} assumes no role, so its credentials need no policy to assume one")]
    NoHop(String),
}

/// The region's partition, as in `arn:aws-cn`.
fn partition(region: &str) -> &'static str {
    match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        region if region.starts_with("eusc-") => "aws-eusc",
        _ => "aws",
    }
}

fn document(statements: Vec<Value>) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// The ARN of every object below a key prefix. A policy takes `*`, `?` and `${…}` for more than themselves.
fn below(bucket: &str, prefix: &str) -> String {
    let escaped = prefix.replace('$', "${$}").replace('*', "${*}").replace('?', "${?}");
    format!("{bucket}/{escaped}*")
}

/// The minimal permissions of the location's role in one cluster. `kms_key` is the key of the bucket's or the location's encryption.
///
/// # Errors
/// When `kms_key` is not an ARN: IAM takes neither an ID nor an alias.
pub fn permissions(
    location: &Location,
    cluster: &Name,
    kms_key: Option<&str>,
    snapshots: Snapshots,
) -> Result<Value, Error> {
    let bucket = format!("arn:{}:s3:::{}", partition(&location.region), location.bucket);
    let objects = below(&bucket, &cluster_prefix(&location.prefix, cluster));
    // ListBucket is for the whole bucket: with a condition on s3:prefix, S3 would answer 403 in the place of 404 to GetObject.
    let mut statements = vec![
        json!({ "Sid": "Objects", "Effect": "Allow", "Action": OBJECT_ACTIONS, "Resource": objects }),
        json!({ "Sid": "Bucket", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": bucket }),
    ];
    if location.object_lock.is_some() {
        statements.push(json!({ "Sid": "Locks", "Effect": "Allow", "Action": LOCK_ACTIONS, "Resource": objects }));
        statements.push(json!({ "Sid": "Versions", "Effect": "Allow", "Action": VERSION_ACTIONS, "Resource": bucket }));
    }
    if let Some(key) = kms_key {
        let parts: Vec<_> = key.split(':').collect();
        if parts.len() != 6 || parts[0] != "arn" || parts[2] != "kms" || !parts[5].starts_with("key/") {
            return Err(Error::Key(key.to_owned()));
        }
        statements.push(json!({ "Sid": "Key", "Effect": "Allow", "Action": KEY_ACTIONS, "Resource": key }));
    }
    if snapshots == Snapshots::Yes {
        statements.extend(snapshot_statements(partition(&location.region), cluster));
    }
    Ok(document(statements))
}

/// The role takes snapshots of any volume, deletes and opens those of its cluster alone, and makes volumes only as restores do.
///
/// It tags nothing but what it creates: whoever may tag any snapshot may call it the cluster's, and delete it. EC2 lists everything or
/// nothing.
fn snapshot_statements(partition: &str, cluster: &Name) -> [Value; 7] {
    let every = |kind: &str| format!("arn:{partition}:ec2:*:*:{kind}/*");
    let (volume, snapshot) = (every("volume"), every("snapshot"));
    let with = |key: &str| json!({ "StringEquals": { format!("{key}/{CLUSTER_TAG}"): cluster } });
    let restored = json!({ "Null": { format!("aws:RequestTag/{RESTORE_TAG}"): "false" } });
    let created = json!({ "StringEquals": { "ec2:CreateAction": ["CreateSnapshot", "CreateVolume"] } });
    let describe = ["ec2:DescribeVolumes", "ec2:DescribeSnapshots"];
    [
        json!({ "Sid": "Describe", "Effect": "Allow", "Action": describe, "Resource": "*" }),
        json!({ "Sid": "Read", "Effect": "Allow", "Action": "ec2:CreateSnapshot", "Resource": volume }),
        json!({ "Sid": "Snapshot", "Effect": "Allow", "Action": "ec2:CreateSnapshot", "Resource": snapshot,
                "Condition": with("aws:RequestTag") }),
        json!({ "Sid": "Tag", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": [volume, snapshot],
                "Condition": created }),
        json!({ "Sid": "Prune", "Effect": "Allow", "Action": "ec2:DeleteSnapshot", "Resource": snapshot,
                "Condition": with("ec2:ResourceTag") }),
        json!({ "Sid": "Open", "Effect": "Allow", "Action": "ec2:CreateVolume", "Resource": snapshot,
                "Condition": with("ec2:ResourceTag") }),
        json!({ "Sid": "Restore", "Effect": "Allow", "Action": "ec2:CreateVolume", "Resource": volume,
                "Condition": restored }),
    ]
}

/// Who may assume the role.
#[derive(Debug, Clone)]
pub struct Trusted {
    pub account: String,
    pub who: Principal,
    /// Required of this principal only.
    pub external_id: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Principal {
    /// Every principal that the account's own policies permit.
    Account,
    Role(String),
    User(String),
}

/// The role's trust policy: one statement for each principal, since an external ID is required of some of them only.
///
/// # Errors
/// When an account, a name or an external ID has a form that IAM does not take.
pub fn trust(location: &Location, trusted: &[Trusted]) -> Result<Value, Error> {
    let partition = partition(&location.region);
    let statement = |one: &Trusted| {
        if one.account.len() != 12 || !one.account.chars().all(|c| c.is_ascii_digit()) {
            return Err(Error::Account(one.account.clone()));
        }
        let name = match &one.who {
            Principal::Account => "root".to_owned(),
            Principal::Role(name) => format!("role/{}", plain(name)?),
            Principal::User(name) => format!("user/{}", plain(name)?),
        };
        let principal = format!("arn:{partition}:iam::{}:{name}", one.account);
        let mut statement = json!({ "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": { "AWS": principal } });
        if let Some(id) = &one.external_id {
            crate::config::check_external_id(id).map_err(Error::ExternalId)?;
            statement["Condition"] = json!({ "StringEquals": { "sts:ExternalId": id } });
        }
        Ok(statement)
    };
    Ok(document(trusted.iter().map(statement).collect::<Result<_, _>>()?))
}

/// A role's or user's name, perhaps with its path.
fn plain(name: &str) -> Result<&str, Error> {
    let name = name.trim_start_matches('/');
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-/".contains(c);
    if !name.is_empty() && name.len() <= 576 && name.chars().all(allowed) {
        return Ok(name);
    }
    Err(Error::Principal(format!("{name:?} is not a role's or a user's name: give it without `arn:…`")))
}

/// The permissions that the base credentials need for the first hop, and each hop's role for the next one: one document each,
/// with the identity to attach it to.
///
/// # Errors
/// When the location assumes no role.
pub fn callers(location: &Location) -> Result<Value, Error> {
    if location.assume_role.is_empty() {
        return Err(Error::NoHop(location.name.clone()));
    }
    let before =
        std::iter::once("the base credentials").chain(location.assume_role.iter().map(|hop| hop.role_arn.as_str()));
    let grant = |(caller, hop): (&str, &crate::config::Hop)| {
        let statement = json!({ "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": hop.role_arn });
        json!({ "attach_to": caller, "policy": document(vec![statement]) })
    };
    let grants: Vec<_> = before.zip(&location.assume_role).map(grant).collect();
    Ok(match grants.as_slice() {
        // The usual case is ready to paste.
        [only] => only["policy"].clone(),
        _ => json!(grants),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;

    fn location(extra: &str) -> Location {
        let text = format!(
            "cluster = \"c\"\nnode = \"n\"\n[locations.primary]\nprovider = \"aws\"\nbucket = \"acme-backups\"\n{extra}\n\
             [[locations.primary.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/BackupWriter\"\n"
        );
        Config::parse(&text, &BTreeMap::new()).unwrap().locations.remove("primary").unwrap()
    }

    fn cluster() -> Name {
        Name::new("prod-eu-1").unwrap()
    }

    #[test]
    fn the_role_reaches_only_what_is_below_its_cluster() {
        let of = |prefix: &str| {
            let lock = "object_lock = { mode = \"governance\", period = \"14d\" }";
            let text = format!("region = \"eu-west-1\"\nprefix = \"{prefix}\"\n{lock}");
            let policy = permissions(&location(&text), &cluster(), None, Snapshots::No).unwrap();
            let statements = policy["Statement"].as_array().unwrap().clone();
            let named = |sid: &str| statements.iter().find(|one| one["Sid"] == sid).unwrap()["Resource"].clone();
            assert_eq!(named("Objects"), named("Locks"));
            named("Objects")
        };
        assert_eq!(of("fleet/eu"), "arn:aws:s3:::acme-backups/fleet/eu/prod-eu-1/*");
        assert_eq!(of("a*b?c$d"), "arn:aws:s3:::acme-backups/a${*}b${?}c${$}d/prod-eu-1/*");
    }

    #[test]
    fn the_role_has_exactly_the_listed_permissions() {
        let policy = permissions(&location("region = \"eu-west-1\""), &cluster(), None, Snapshots::Yes).unwrap();
        let expected = json!({ "Version": "2012-10-17", "Statement": [
            { "Sid": "Objects", "Effect": "Allow", "Resource": "arn:aws:s3:::acme-backups/prod-eu-1/*", "Action": [
                "s3:GetObject", "s3:DeleteObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"] },
            { "Sid": "Bucket", "Effect": "Allow", "Resource": "arn:aws:s3:::acme-backups", "Action": "s3:ListBucket" },
            { "Sid": "Describe", "Effect": "Allow", "Action": ["ec2:DescribeVolumes", "ec2:DescribeSnapshots"], "Resource": "*" },
            { "Sid": "Read", "Effect": "Allow", "Action": "ec2:CreateSnapshot", "Resource": "arn:aws:ec2:*:*:volume/*" },
            { "Sid": "Snapshot", "Effect": "Allow", "Action": "ec2:CreateSnapshot", "Resource": "arn:aws:ec2:*:*:snapshot/*",
              "Condition": { "StringEquals": { "aws:RequestTag/penstock:cluster": "prod-eu-1" } } },
            { "Sid": "Tag", "Effect": "Allow", "Action": "ec2:CreateTags",
              "Resource": ["arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:snapshot/*"],
              "Condition": { "StringEquals": { "ec2:CreateAction": ["CreateSnapshot", "CreateVolume"] } } },
            { "Sid": "Prune", "Effect": "Allow", "Action": "ec2:DeleteSnapshot", "Resource": "arn:aws:ec2:*:*:snapshot/*",
              "Condition": { "StringEquals": { "ec2:ResourceTag/penstock:cluster": "prod-eu-1" } } },
            { "Sid": "Open", "Effect": "Allow", "Action": "ec2:CreateVolume", "Resource": "arn:aws:ec2:*:*:snapshot/*",
              "Condition": { "StringEquals": { "ec2:ResourceTag/penstock:cluster": "prod-eu-1" } } },
            { "Sid": "Restore", "Effect": "Allow", "Action": "ec2:CreateVolume", "Resource": "arn:aws:ec2:*:*:volume/*",
              "Condition": { "Null": { "aws:RequestTag/penstock:restore": "false" } } },
        ]});
        assert_eq!(policy, expected);
    }

    #[test]
    fn a_key_adds_the_actions_of_a_multipart_upload() {
        let key = "arn:aws-cn:kms:cn-north-1:222222222222:key/1";
        let policy = permissions(&location("region = \"cn-north-1\""), &cluster(), Some(key), Snapshots::No).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 3);
        assert_eq!(statements[0]["Resource"], "arn:aws-cn:s3:::acme-backups/prod-eu-1/*");
        assert_eq!(statements[2]["Action"], json!(["kms:GenerateDataKey", "kms:Decrypt"]));
        assert_eq!(statements[2]["Resource"], key);
        for bad in ["alias/backups", "1234", "arn:aws:kms:eu-west-1:222222222222:alias/x", "arn:aws:s3:::x"] {
            let error =
                permissions(&location("region = \"eu-west-1\""), &cluster(), Some(bad), Snapshots::No).unwrap_err();
            assert_eq!(error, Error::Key(bad.to_owned()));
        }
    }

    fn one(account: &str, who: Principal, external_id: Option<&str>) -> Trusted {
        Trusted { account: account.into(), who, external_id: external_id.map(str::to_owned) }
    }

    #[test]
    fn an_external_id_is_required_of_its_principal_only() {
        let trusted = [
            one("333333333333", Principal::Account, Some("acme-7f3a")),
            one("111111111111", Principal::Role("nodes/Node".into()), None),
        ];
        let policy = trust(&location("region = \"eu-west-1\""), &trusted).unwrap();
        let expected = json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": { "AWS": "arn:aws:iam::333333333333:root" },
              "Condition": { "StringEquals": { "sts:ExternalId": "acme-7f3a" } } },
            { "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": { "AWS": "arn:aws:iam::111111111111:role/nodes/Node" } },
        ]});
        assert_eq!(policy, expected);
    }

    #[test]
    fn names_that_iam_would_refuse_are_refused() {
        let location = location("region = \"eu-west-1\"");
        let refused = |one: Trusted| trust(&location, &[one]).unwrap_err().to_string();
        assert!(refused(one("12345", Principal::Account, None)).contains("12 digits"));
        assert!(
            refused(one("111111111111", Principal::Role("arn:aws:iam::1:role/x".into()), None)).contains("without")
        );
        let long = "x".repeat(1225);
        for bad in ["a", "has space", long.as_str()] {
            assert!(refused(one("111111111111", Principal::Account, Some(bad))).starts_with("the external ID"));
        }
    }

    #[test]
    fn each_caller_may_assume_the_next_role() {
        let mut location = location("region = \"eu-west-1\"");
        let policy = callers(&location).unwrap();
        assert_eq!(policy["Statement"][0]["Resource"], "arn:aws:iam::222222222222:role/BackupWriter");
        let first = crate::config::Hop {
            role_arn: "arn:aws:iam::111111111111:role/Middle".into(),
            ..location.assume_role[0].clone()
        };
        location.assume_role.insert(0, first);
        let policies = callers(&location).unwrap();
        assert_eq!(policies[0]["attach_to"], "the base credentials");
        assert_eq!(policies[0]["policy"]["Statement"][0]["Resource"], "arn:aws:iam::111111111111:role/Middle");
        assert_eq!(policies[1]["attach_to"], "arn:aws:iam::111111111111:role/Middle");
        location.assume_role.clear();
        assert_eq!(callers(&location).unwrap_err(), Error::NoHop("primary".into()));
    }
}
