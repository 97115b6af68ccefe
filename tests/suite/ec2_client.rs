//! The EC2 adapter on a real socket: what each refusal means, and how often it is asked again.

use std::sync::Arc;

use penstock::aws::AwsLocation;
use penstock::disks::{Disks, Encryption, NewSnapshot, NewVolume, SnapshotFilter, SnapshotState, Tags, VolumeFilter};
use penstock::error::{Class, Classify as _};
use penstock::metrics::Metrics;
use penstock::site::{Ec2Action, Permission, Site as _};

use crate::fake_ec2::{FakeEc2, FakeSnapshot, State, When, refusal};
use crate::servers::{Answer, Scheme, Servers};

struct Site {
    _servers: Servers,
    ec2: FakeEc2,
    disks: Arc<dyn Disks>,
}

fn site() -> Site {
    let servers = Servers::start();
    let ec2 = FakeEc2::start(&servers, Scheme::Https);
    let mut location = servers.s3(Scheme::Https).location();
    location.ec2_url = Some(ec2.server.url.clone());
    let disks = AwsLocation::connect(&location, Metrics::new().location("test")).unwrap().disks();
    ec2.volume("vol-0123456789abcdef0", &[("role", "data"), ("odd", "a*b")]);
    Site { _servers: servers, ec2, disks }
}

fn new_snapshot() -> NewSnapshot {
    NewSnapshot {
        volume: "vol-0123456789abcdef0".parse().unwrap(),
        description: "a test's".to_owned(),
        tags: [("penstock:job".to_owned(), "disks".to_owned())].into(),
    }
}

/// Code, status, message, class, a word of the remedy or "".
type Row = (&'static str, u16, &'static str, Class, &'static str);

const ROWS: [Row; 13] = [
    (
        "SnapshotCreationPerVolumeRateExceeded",
        400,
        "The maximum per volume CreateSnapshot request rate has been exceeded.",
        Class::Busy,
        "",
    ),
    (
        "ConcurrentSnapshotLimitExceeded",
        400,
        "Maximum allowed in-progress snapshots for a single volume exceeded.",
        Class::Busy,
        "",
    ),
    ("PendingSnapshotLimitExceeded", 400, "", Class::Busy, ""),
    ("IncorrectState", 400, "The volume is in the creating state.", Class::Busy, ""),
    ("SnapshotLimitExceeded", 400, "You have reached your quota.", Class::Quota, "quota"),
    ("RequestLimitExceeded", 503, "Request limit exceeded.", Class::Throttled, ""),
    (
        "UnauthorizedOperation",
        403,
        "You are not authorized to perform this operation. Encoded authorization failure message: abc",
        Class::AccessDenied,
        "ec2:CreateSnapshot",
    ),
    (
        "UnauthorizedOperation",
        403,
        "User: arn:aws:sts::1:assumed-role/W/s is not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:x because no identity-based policy allows it",
        Class::AccessDenied,
        "ec2:CreateTags",
    ),
    // With credentials that were just read it is the clock.
    ("RequestExpired", 400, "Request has expired.", Class::ClockSkew, "NTP"),
    (
        "InvalidKMSKey.InvalidState",
        400,
        "The KMS key provided is in an incorrect state.",
        Class::KmsKeyState,
        "enable it",
    ),
    ("InvalidVolume.NotFound", 400, "The volume 'vol-0123456789abcdef0' does not exist.", Class::NotFound, ""),
    ("InternalError", 500, "An internal error has occurred.", Class::Transient, ""),
    ("InvalidParameterValue", 400, "Value (x) for parameter is invalid.", Class::Config, ""),
];

#[tokio::test]
async fn every_refusal_of_create_snapshot_is_classed_and_never_repeated() {
    for (code, status, message, class, remedy) in ROWS {
        let site = site();
        site.ec2.script(move |_, when, _, _| (when == When::Before).then(|| refusal(status, code, message)));
        let error = site.disks.create_snapshot(&new_snapshot()).await.unwrap_err();
        assert_eq!(error.class, class, "{code}: {error:?}");
        assert_eq!((error.code.as_deref(), error.status), (Some(code), Some(status)));
        assert!(error.report().request_id.is_some(), "{error:?}");
        assert!(error.remedy.clone().unwrap_or_default().contains(remedy), "{code}: {:?}", error.remedy);
        assert_eq!(site.ec2.state().actions, ["CreateSnapshot"], "{code}: whoever repeats it may double it");
    }
}

#[tokio::test]
async fn describing_is_repeated_where_it_may_help() {
    let site = site();
    site.ec2.script(|_, when, _, number| {
        (when == When::Before && number < 2).then(|| refusal(503, "RequestLimitExceeded", "Request limit exceeded."))
    });
    let page = site.disks.volumes(&VolumeFilter::default(), None).await.unwrap();
    assert_eq!((page.items.len(), site.ec2.state().actions.len()), (1, 3));
}

#[tokio::test]
async fn filters_say_what_is_meant() {
    let site = site();
    let tags = |key: &str, value: &str| -> Tags { [(key.to_owned(), value.to_owned())].into() };
    let found = async |filter: VolumeFilter| site.disks.volumes(&filter, None).await.unwrap().items.len();
    assert_eq!(found(VolumeFilter { tags: tags("role", "data"), ..VolumeFilter::default() }).await, 1);
    assert_eq!(found(VolumeFilter { tags: tags("role", "other"), ..VolumeFilter::default() }).await, 0);
    let ids = vec!["vol-0123456789abcdef0".parse().unwrap(), "vol-0123456789abcdeff".parse().unwrap()];
    assert_eq!(found(VolumeFilter { ids, ..VolumeFilter::default() }).await, 1);
    let body = || site.ec2.server.seen().last().unwrap().body.clone();
    // A star in a tag's value is a star, not anything.
    assert_eq!(found(VolumeFilter { tags: tags("odd", "a*b"), ..VolumeFilter::default() }).await, 0);
    assert!(body().contains("a%5C%2Ab"), "{}", body());
    site.disks.snapshots(&SnapshotFilter::default(), None).await.unwrap();
    assert!(body().contains("Owner.1=self") && body().contains("MaxResults=1000"), "{}", body());
}

#[tokio::test]
async fn a_snapshots_states_are_told_apart() {
    let site = site();
    let created = site.disks.create_snapshot(&new_snapshot()).await.unwrap();
    assert!(matches!(created.state, SnapshotState::Pending(_)) && created.tags["penstock:job"] == "disks");
    let look = async |state: &'static str, message: &'static str| {
        {
            let mut inner = site.ec2.state();
            inner.snapshots[0].state = state;
            inner.snapshots[0].message = message;
            inner.snapshots[0].looks = 9;
        }
        site.disks.snapshots(&SnapshotFilter::default(), None).await.unwrap().items.remove(0).state
    };
    assert!(matches!(look("pending", "").await, SnapshotState::Pending(Some(42))));
    assert!(matches!(look("recovering", "").await, SnapshotState::Pending(_)));
    assert!(matches!(look("recoverable", "").await, SnapshotState::InRecycleBin));
    assert!(matches!(look("completed", "").await, SnapshotState::Completed));
    for (message, class) in
        [("Given key ID is not accessible", Class::KmsDenied), ("An internal error occurred", Class::Transient)]
    {
        let SnapshotState::Failed(error) = look("error", message).await else { panic!("{message}") };
        assert_eq!(error.class, class, "{error}");
        assert!(error.to_string().contains(message) && error.resource == created.id.as_str(), "{error}");
    }
}

#[tokio::test]
async fn deleting_what_is_gone_succeeds_and_what_is_in_use_says_so() {
    let site = site();
    let id = "snap-0123456789abcdef0".parse().unwrap();
    for (code, gone) in [("InvalidSnapshot.NotFound", true), ("InvalidSnapshot.InUse", false)] {
        site.ec2.script(move |_, when, _, _| (when == When::Before).then(|| refusal(400, code, "because")));
        let result = site.disks.delete_snapshot(&id).await;
        assert_eq!(result.is_ok(), gone, "{code}: {result:?}");
        assert!(gone || result.unwrap_err().code.as_deref() == Some("InvalidSnapshot.InUse"));
    }
}

#[tokio::test]
async fn a_volume_that_vanishes_after_its_creation_was_denied_its_key() {
    let site = site();
    let new = NewVolume {
        snapshot: "snap-0123456789abcdef0".parse().unwrap(),
        availability_zone: "eu-west-1b".to_owned(),
        volume_type: "gp3".to_owned(),
        size_gib: 20,
        iops: Some(5000),
        throughput: Some(250),
        encryption: Encryption::Key("alias/restored".to_owned()),
        tags: [("Name".to_owned(), "db".to_owned())].into(),
        client_token: "token".to_owned(),
    };
    let volume = site.disks.create_volume(&new).await.unwrap();
    let asked = site.ec2.state().volumes[1].asked.clone();
    for (key, value) in [
        ("SnapshotId", "snap-0123456789abcdef0"),
        ("Size", "20"),
        ("Iops", "5000"),
        ("Throughput", "250"),
        ("Encrypted", "true"),
        ("KmsKeyId", "alias/restored"),
        ("ClientToken", "token"),
        ("TagSpecification.1.ResourceType", "volume"),
    ] {
        assert_eq!(asked.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(site.disks.new_volume(&volume.id).await.unwrap().iops, Some(5000));
    site.ec2.state().volumes.pop();
    let error = site.disks.new_volume(&volume.id).await.unwrap_err();
    assert_eq!((error.class, error.code.as_deref()), (Class::KmsDenied, Some("InvalidVolume.NotFound")));
    assert!(error.remedy.unwrap().starts_with("inferred"));
}

/// EC2 with the policy that Penstock prints: what is created needs the cluster's tag (or a restore's), what is deleted has it.
fn judged_by_tags(state: &mut State, action: &str) -> Answer {
    let tags: Vec<_> = (1..).map_while(|n| state.asked.get(&format!("TagSpecification.1.Tag.{n}.Key"))).collect();
    let tagged = |wanted: &str| tags.iter().any(|key| *key == wanted);
    let allowed = match action {
        "CreateSnapshot" => tagged("penstock:cluster"),
        "CreateVolume" => tagged("penstock:restore"),
        "DeleteSnapshot" => state.snapshots.iter().any(|snapshot| snapshot.id == state.asked["SnapshotId"]),
        _ => true,
    };
    if allowed {
        refusal(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    } else {
        refusal(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")
    }
}

#[tokio::test]
async fn a_dry_run_carries_the_tags_that_a_policy_asks_for() {
    let servers = Servers::start();
    let ec2 = FakeEc2::start(&servers, Scheme::Https);
    let mut location = servers.s3(Scheme::Https).location();
    location.ec2_url = Some(ec2.server.url.clone());
    let site = AwsLocation::connect(&location, Metrics::new().location("test")).unwrap();
    ec2.script(|state, when, action, _| {
        let dry = state.asked.contains_key("DryRun");
        (when == When::Before && dry).then(|| judged_by_tags(state, action))
    });
    let tags: Tags = [("penstock:cluster", "prod"), ("penstock:restore", "validate")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    for action in Ec2Action::ALL {
        let expected = if action == Ec2Action::DeleteSnapshot { Permission::Unknown } else { Permission::Given };
        assert_eq!(site.dry_run(action, &tags).await.unwrap(), expected, "{action:?} without a snapshot");
    }
    // Another cluster's snapshot says nothing of this one's.
    let snapshot = |id: &str, cluster: &str| FakeSnapshot {
        id: id.to_owned(),
        volume: "vol-0123456789abcdef0".to_owned(),
        tags: [("penstock:cluster".to_owned(), cluster.to_owned())].into(),
        state: "completed",
        message: "",
        looks: 0,
    };
    ec2.state().snapshots.push(snapshot("snap-00000000000000001", "other"));
    assert_eq!(site.dry_run(Ec2Action::DeleteSnapshot, &tags).await.unwrap(), Permission::Unknown);
    ec2.state().snapshots.push(snapshot("snap-00000000000000002", "prod"));
    assert_eq!(site.dry_run(Ec2Action::DeleteSnapshot, &tags).await.unwrap(), Permission::Given);
    assert_eq!(ec2.state().asked["SnapshotId"], "snap-00000000000000002");
    // A volume of a snapshot takes a permission on both.
    assert_eq!(site.dry_run(Ec2Action::CreateVolume, &tags).await.unwrap(), Permission::Given);
    let asked = ec2.state().asked.clone();
    assert_eq!((asked["SnapshotId"].as_str(), asked.get("Size")), ("snap-00000000000000002", None));
    assert_eq!(ec2.state().snapshots.len(), 2, "a dry run deletes nothing");
    // With a snapshot of its own, a refusal is one.
    ec2.script(|state, when, action, _| {
        let deletion = action == "DeleteSnapshot" && state.asked.contains_key("DryRun");
        (when == When::Before && deletion).then(|| refusal(403, "UnauthorizedOperation", "You are not authorized."))
    });
    let refused = site.dry_run(Ec2Action::DeleteSnapshot, &tags).await.unwrap_err();
    assert_eq!(refused.class, Class::AccessDenied);
    assert!(refused.remedy.unwrap().contains("ec2:DeleteSnapshot"));
}

#[tokio::test]
async fn a_deletion_is_done_where_the_snapshot_is_gone_also_if_a_tag_is_asked_for() {
    let site = site();
    let snapshot = site.disks.create_snapshot(&new_snapshot()).await.unwrap().id;
    site.ec2.script(|_, when, action, _| {
        (when == When::Before && action == "DeleteSnapshot").then(|| refusal(403, "UnauthorizedOperation", "No."))
    });
    let refused = site.disks.delete_snapshot(&snapshot).await.unwrap_err();
    assert_eq!(refused.class, Class::AccessDenied, "it is there");
    site.ec2.state().snapshots.clear();
    site.disks.delete_snapshot(&snapshot).await.unwrap();
    assert_eq!(site.ec2.state().actions[3..], ["DeleteSnapshot", "DescribeSnapshots"]);
}
