mod encryption;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::checksum::Algorithm;
use crate::config::Config;
use crate::disks::Tags;
use crate::format::key::ObjectKey;
use crate::format::version::VersionId;
use crate::site::Identity;
use crate::store::memory::{Fault, MemoryStore};
use crate::store::{Error, Overwrite, Payload, Store as _};

/// A store and what surrounds it, where the named actions are refused.
struct Refusing {
    memory: MemoryStore,
    /// The same, as the proof's client has it.
    store: Arc<MemoryStore>,
    refused: BTreeSet<&'static str>,
    /// The message of the refusal.
    message: &'static str,
    /// Cancelled when this is asked for.
    cancels: Option<(&'static str, CancellationToken)>,
    skew: i64,
    condition: Condition,
}

/// How the store treats `If-None-Match`.
#[derive(Debug, Clone, Copy)]
enum Condition {
    Honoured,
    Ignored,
    Refused,
}

impl Refusing {
    fn new(refused: &[&'static str]) -> Arc<Self> {
        Arc::new(Self::with(refused, "User: u is not authorized to perform: it"))
    }

    fn with(refused: &[&'static str], message: &'static str) -> Self {
        let refused: BTreeSet<_> = refused.iter().copied().collect();
        let (memory, by_store) = (MemoryStore::new(), refused.clone());
        let store = Arc::new(memory.client());
        store.script(move |operation, key, _| {
            let action = action(operation, key);
            by_store.contains(action).then(|| Fault::Refuse(refusal(action, message)))
        });
        Self { memory, store, refused, message, cancels: None, skew: 300, condition: Condition::Honoured }
    }

    /// A site where `cancel` is cancelled when `at` is asked for.
    fn cancelling(at: &'static str, cancel: &CancellationToken) -> Self {
        let (site, by_store) = (Self::with(&[], ""), cancel.clone());
        site.store.script(move |operation, key, _| {
            (action(operation, key) == at).then(|| {
                by_store.cancel();
                Fault::Hang
            })
        });
        Self { cancels: Some((at, cancel.clone())), ..site }
    }

    async fn ask(&self, action: &'static str) -> Result<(), Error> {
        if let Some((_, cancel)) = self.cancels.as_ref().filter(|(at, _)| *at == action) {
            cancel.cancel();
            std::future::pending::<()>().await;
        }
        if self.refused.contains(action) { Err(refusal(action, self.message)) } else { Ok(()) }
    }
}

/// What the policy calls it.
fn action(operation: &'static str, key: &str) -> &'static str {
    match operation {
        // Read as it was written.
        "GetObject" if key.ends_with("-without-kms") => "GetObject without KMS",
        "PutObject" if key.ends_with("/unconditional") => "PutObject without the condition",
        "CreateMultipartUpload" => "PutObject",
        "ListObjectsV2" => "ListBucket",
        "ListParts" => "ListMultipartUploadParts",
        other => other,
    }
}

fn refusal(action: &'static str, message: &str) -> Error {
    let error = Error::local(action, "it", Class::AccessDenied, message);
    Error { code: Some("AccessDenied".into()), remedy: Some(format!("grant {action}")), ..error }
}

#[async_trait]
impl Site for Refusing {
    fn trusted(&self) -> String {
        "the system's root certificates".into()
    }

    fn certificates(&self) -> Vec<Certificate> {
        Vec::new()
    }

    async fn who(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (hop, operation) in ["GetCallerIdentity", "AssumeRole"].into_iter().enumerate() {
            let identity = Identity { account: Some("111111111111".into()), arn: format!("arn-{hop}"), expiry: None };
            let result = self.ask(operation).await.map(|()| identity);
            let failed = result.is_err();
            steps.push(Step { hop, took: Duration::ZERO, result });
            if failed {
                break;
            }
        }
        steps
    }

    async fn handshake(&self, _: Service) -> Option<Result<Handshake, Error>> {
        Some(Ok(Handshake::Plain { url: "http://127.0.0.1".into() }))
    }

    fn skew(&self) -> Option<i64> {
        Some(self.skew)
    }

    async fn bucket_region(&self) -> Result<Option<String>, Error> {
        Ok(Some("eu-west-1".into()))
    }

    async fn put_without_kms(&self, key: &ObjectKey, data: Bytes) -> Result<(), Error> {
        self.ask("PutObject without KMS").await?;
        self.memory.put(key, Payload::new(data, Algorithm::None), Overwrite::Allow).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, data: Bytes) -> Result<(), Error> {
        let payload = Payload::new(data, Algorithm::None);
        match self.condition {
            Condition::Honoured => self.memory.put(key, payload, Overwrite::Refuse).await,
            Condition::Ignored => self.memory.put(key, payload, Overwrite::Allow).await,
            Condition::Refused => {
                let error = Error::local("PutObject", key, Class::Compat, "Conditional object PUTs are not supported.");
                Err(Error { status: Some(501), code: Some("NotImplemented".into()), ..error })
            }
        }
    }

    async fn version_of(&self, key: &ObjectKey) -> Result<Option<VersionId>, Error> {
        let newest = self.memory.all_versions().into_iter().find(|entry| entry.key == *key);
        match newest {
            Some(entry) if self.memory.keeps().0 => Ok(Some(entry.version)),
            _ => self.memory.head(key).await.map(|_| None),
        }
    }

    async fn dry_run(&self, action: Ec2Action, tags: &Tags) -> Result<Permission, Error> {
        assert_eq!(tags["penstock:cluster"], "c", "a policy asks for it");
        self.ask(action.as_str()).await.map(|()| Permission::Given)
    }
}

fn location() -> Location {
    let text = "cluster = \"c\"\nnode = \"n\"\n[locations.primary]\nprovider = \"aws\"\nbucket = \"backups\"\n\
                region = \"eu-west-1\"\nprefix = \"fleet\"\n[locations.primary.encryption]\nmode = \"sse-kms\"\n\
                [[locations.primary.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/BackupWriter\"\n";
    Config::parse(text, &BTreeMap::new()).unwrap().locations.remove("primary").unwrap()
}

async fn prove_at(site: &Arc<Refusing>, skip: Skip, cancel: &CancellationToken) -> Proof {
    let opened = crate::location::memory::Memory::new(site.store.clone()).open(&location(), 1 << 20);
    prove(&opened, site.as_ref(), skip, cancel).await
}

async fn proof_of(site: &Arc<Refusing>) -> Proof {
    prove_at(site, Skip::Nothing, &CancellationToken::new()).await
}

fn nothing_is_left(site: &Refusing) {
    assert_eq!((site.memory.keys(), site.memory.uploads_in_progress()), (Vec::new(), Vec::new()));
}

fn states(proof: &Proof, state: State) -> Vec<&str> {
    proof.checks.iter().filter(|check| check.state == state).map(|check| check.name.as_str()).collect()
}

const ALL: [&str; 19] = [
    "configuration",
    "certificate",
    "base credentials",
    "AssumeRole 1",
    "TLS s3",
    "TLS sts",
    "TLS ec2",
    "clock",
    "region",
    "s3:ListBucket",
    "s3:PutObject",
    "s3:GetObject",
    "If-None-Match",
    "multipart upload",
    "s3:ListMultipartUploadParts",
    "s3:AbortMultipartUpload",
    "ec2:DescribeVolumes",
    "ec2:DescribeSnapshots",
    "ec2:CreateVolume",
];

#[tokio::test]
async fn a_good_location_passes_every_check_and_is_left_as_it_was() {
    let site = Refusing::new(&[]);
    let proof = proof_of(&site).await;
    assert!(proof.first_failure().is_none(), "{}", proof.to_text());
    let names: Vec<_> = proof.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(&names[..ALL.len()], ALL);
    assert_eq!(&names[ALL.len()..], ["ec2:CreateSnapshot", "ec2:DeleteSnapshot", "s3:DeleteObject"]);
    assert_eq!(states(&proof, State::NotTried), Vec::<&str>::new());
    nothing_is_left(&site);
    let without = prove_at(&site, Skip::Ec2, &CancellationToken::new()).await;
    assert!(!without.checks.iter().any(|check| check.name.contains("ec2")));
    let json = proof.to_json();
    assert_eq!((&json["name"], &json["ok"]), (&json!("primary"), &json!(true)));
    for field in ["name", "ok", "seconds", "class", "code", "message", "remedy"] {
        assert!(json["checks"][0].get(field).is_some(), "{field}");
    }
}

#[tokio::test]
async fn each_missing_permission_is_named_and_nothing_is_left() {
    let rows: [(&'static str, &[&str]); 11] = [
        ("ListBucket", &["s3:ListBucket"]),
        ("PutObject", &["s3:PutObject", "multipart upload"]),
        ("GetObject", &["s3:GetObject"]),
        ("UploadPart", &["multipart upload"]),
        ("ListMultipartUploadParts", &["s3:ListMultipartUploadParts"]),
        ("AbortMultipartUpload", &["s3:AbortMultipartUpload"]),
        ("DeleteObject", &["s3:DeleteObject"]),
        ("CreateSnapshot", &["ec2:CreateSnapshot"]),
        ("DeleteSnapshot", &["ec2:DeleteSnapshot"]),
        ("AssumeRole", &["AssumeRole 1"]),
        ("GetCallerIdentity", &["base credentials"]),
    ];
    for (operation, failing) in rows {
        let site = Refusing::new(&[operation]);
        let proof = proof_of(&site).await;
        assert_eq!(states(&proof, State::Failed), failing, "{operation}: {}", proof.to_text());
        let report = proof.first_failure().unwrap();
        assert_eq!(report.class, Class::AccessDenied);
        assert!(report.remedy.as_ref().unwrap().contains(operation), "{report:?}");
        assert!(proof.to_text().contains("what to do: grant"), "{}", proof.to_text());
        nothing_is_left(&site);
    }
}

#[tokio::test]
async fn without_credentials_nothing_is_asked_of_the_bucket() {
    let site = Refusing::new(&["GetCallerIdentity"]);
    let proof = proof_of(&site).await;
    let untried = states(&proof, State::NotTried);
    assert!(untried.contains(&"AssumeRole 1") && untried.contains(&"s3:PutObject"), "{untried:?}");
    assert!(untried.contains(&"ec2:CreateVolume") && untried.contains(&"region"), "{untried:?}");
    assert!(proof.to_json()["checks"].as_array().unwrap().iter().all(|check| check["name"] != "s3:DeleteObject"));
}

#[tokio::test]
async fn a_bare_denial_under_kms_is_told_apart() {
    let bare = |refused: &[&'static str]| Arc::new(Refusing::with(refused, "Access Denied"));
    let put = proof_of(&bare(&["PutObject"])).await;
    let report = put.first_failure().unwrap();
    assert_eq!(report.class, Class::KmsDenied);
    assert!(report.remedy.as_ref().unwrap().contains("kms:GenerateDataKey"), "{report:?}");
    let get = proof_of(&bare(&["GetObject"])).await;
    let report = get.first_failure().unwrap();
    assert_eq!((report.class, states(&get, State::Failed)), (Class::KmsDenied, vec!["s3:GetObject"]));
    assert!(report.remedy.as_ref().unwrap().contains("grant kms:Decrypt"), "{report:?}");
    let both = bare(&["PutObject", "PutObject without KMS"]);
    let report = proof_of(&both).await.first_failure().unwrap().clone();
    assert_eq!(report.class, Class::AccessDenied);
    assert!(report.remedy.unwrap().contains("refused too"));
    nothing_is_left(&both);
}

#[tokio::test]
async fn cancelled_anywhere_it_leaves_nothing() {
    for operation in ["ListBucket", "PutObject", "GetObject", "UploadPart", "ListMultipartUploadParts", "CreateVolume"]
    {
        let cancel = CancellationToken::new();
        let site = Arc::new(Refusing::cancelling(operation, &cancel));
        let proof = prove_at(&site, Skip::Nothing, &cancel).await;
        assert_eq!(proof.first_failure().unwrap().class, Class::Cancelled, "{operation}");
        nothing_is_left(&site);
    }
}

fn line<'a>(proof: &'a Proof, name: &str) -> &'a Check {
    proof.checks.iter().find(|check| check.name == name).unwrap()
}

#[tokio::test]
async fn the_check_reports_how_the_store_treats_the_condition() {
    for (condition, state, word) in [
        (Condition::Honoured, State::Passed, "honoured"),
        (Condition::Ignored, State::Warning, "ignored"),
        (Condition::Refused, State::Warning, "refused (HTTP 501)"),
    ] {
        let site = Arc::new(Refusing { condition, ..Refusing::with(&[], "") });
        let proof = proof_of(&site).await;
        let check = line(&proof, "If-None-Match");
        assert_eq!(check.state, state, "{}", check.message);
        assert!(check.message.contains(word), "{}", check.message);
        assert!(proof.first_failure().is_none());
        nothing_is_left(&site);
    }
}

/// The way round is walked, too: a store that refuses it is found before the first backup.
#[tokio::test]
async fn where_the_condition_is_refused_the_way_without_it_is_proved() {
    let condition = Condition::Refused;
    let site = Arc::new(Refusing { condition, ..Refusing::with(&["PutObject without the condition"], "no") });
    let proof = proof_of(&site).await;
    assert_eq!(line(&proof, "If-None-Match").state, State::Failed);
    nothing_is_left(&site);
}

#[tokio::test]
async fn versions_are_removed_or_said_to_stay() {
    for (refused, state, word) in [
        (&[][..], State::Passed, "removed with their versions"),
        (&["DeleteObjectVersion"][..], State::Warning, "hidden, not removed"),
    ] {
        let site = Arc::new(Refusing::with(refused, "no"));
        site.memory.keep_versions();
        let proof = proof_of(&site).await;
        let check = line(&proof, "s3:DeleteObject");
        assert_eq!(check.state, state, "{}", check.message);
        assert!(
            check.message.contains(word) && check.message.contains("NoncurrentVersionExpiration"),
            "{}",
            check.message
        );
        assert!(proof.first_failure().is_none());
    }
}

#[tokio::test]
async fn a_part_of_the_configured_size_is_sent() {
    let site = Refusing::new(&[]);
    let proof = proof_of(&site).await;
    let sent = location().upload.part_size;
    let message = &line(&proof, "multipart upload").message;
    let bytes: u64 = message.split(", ").nth(1).and_then(|word| word.split(' ').next()?.parse().ok()).unwrap();
    assert!(bytes > sent && bytes < sent + 4096, "{message}");
}

#[test]
fn clocks_regions_and_certificates_are_judged() {
    let failed = |outcome: Outcome| outcome.err().map(|report| report.class);
    assert!(matches!(clock(Some(-59_000)), Ok(Found::Good(_))));
    assert!(matches!(clock(Some(61_000)), Ok(Found::Odd(text)) if text.contains("61 s behind")));
    assert_eq!(failed(clock(Some(-300_000))), Some(Class::ClockSkew));
    assert!(matches!(clock(None), Ok(Found::NotTried(_))));

    assert!(matches!(judge_region("eu-west-1", Some("eu-west-1"), false), Ok(Found::Good(_))));
    assert!(matches!(judge_region("eu-west-1", None, false), Ok(Found::Good(_))));
    assert!(matches!(judge_region("eu-west-1", Some("garage"), true), Ok(Found::Odd(_))));
    assert_eq!(failed(judge_region("eu-west-1", Some("us-east-1"), false)), Some(Class::Config));

    let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
    let valid = |from: &str, to: &str| Certificate {
        subject: "CN=Acme CA".into(),
        issuer: "CN=Acme CA".into(),
        not_before: from.parse().unwrap(),
        not_after: to.parse().unwrap(),
    };
    let rows = [
        (valid("2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"), false, "expires at 2030"),
        (valid("2020-01-01T00:00:00Z", "2026-12-20T00:00:00Z"), true, "expires at 2026-12-20"),
        (valid("2020-01-01T00:00:00Z", "2025-01-01T00:00:00Z"), true, "EXPIRED"),
        (valid("2027-01-01T00:00:00Z", "2030-01-01T00:00:00Z"), true, "not valid before"),
    ];
    for (one, odd, words) in rows {
        let (message, is_odd) = match certificate(&[one], "the CA bundle /ca.pem alone", now) {
            Found::Odd(message) => (message, true),
            Found::Good(message) => (message, false),
            Found::NotTried(message) => unreachable!("{message}"),
        };
        assert_eq!(is_odd, odd, "{message}");
        assert!(message.contains(words) && message.contains("CN=Acme CA"), "{message}");
    }
}
