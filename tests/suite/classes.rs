//! Every class that a service can cause, through a real socket: class, exit code, remedy, and the label of the metric.

use penstock::aws::AwsLocation;
use penstock::checksum::Algorithm;
use penstock::config::{Encryption, EncryptionMode, Location};
use penstock::disks::Tags;
use penstock::error::{Class, ServiceError};
use penstock::format::key::ObjectKey;
use penstock::metrics::Metrics;
use penstock::site::{Ec2Action, Site as _};
use penstock::store::{Overwrite, Payload};

use crate::aws_client::{ROLE_B, chained, hop};
use crate::servers::{Scheme, Servers, authority};

#[derive(Debug, Clone, Copy)]
enum At {
    Put,
    Get,
    Create,
    List,
    AssumeRole,
    CreateSnapshot,
    NewVolume,
}

/// Where, HTTP status, code, message; class, exit code, a word of the remedy.
type Row = (At, u16, &'static str, &'static str, Class, u8, &'static str);

const DENIED_KEY: &str = "User: arn:aws:sts::1:assumed-role/W/s is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:222222222222:key/9 because no identity-based policy allows the kms:GenerateDataKey action";
const OTHER_ACCOUNT: &str = "User: u is not authorized to perform: kms:GenerateDataKey on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access";
const CIPHERTEXT: &str = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.";
const ASSUME: &str =
    "User: u is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::222222222222:role/BackupWriter";

#[rustfmt::skip] // One row, one line.
const ROWS: &[Row] = &[
    (At::Put, 403, "AccessDenied", DENIED_KEY, Class::KmsDenied, 77, "kms:Decrypt on arn:aws:kms:eu-west-1:222222222222:key/9"),
    (At::Create, 403, "AccessDenied", OTHER_ACCOUNT, Class::KmsDenied, 77, "key policy too"),
    (At::Get, 403, "AccessDenied", CIPHERTEXT, Class::KmsDenied, 77, "kms:Decrypt"),
    (At::Put, 403, "AccessDenied", "Access Denied", Class::AccessDenied, 77, "does not say which"),
    (At::Put, 400, "KMS.DisabledException", "arn:aws:kms:eu-west-1:2:key/1 is disabled.", Class::KmsKeyState, 77, "enable it"),
    (At::Put, 400, "KMS.KMSInvalidStateException", "arn:aws:kms:eu-west-1:2:key/1 is pending deletion.", Class::KmsKeyState, 77, "enable it"),
    (At::Put, 400, "KMS.NotFoundException", "Invalid keyId 'nope'", Class::KmsConfig, 78, "encryption.kms_key_id"),
    (At::Put, 400, "KMS.InvalidKeyUsageException", "incompatible", Class::KmsConfig, 78, "symmetric"),
    (At::Put, 400, "InvalidArgument", "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms", Class::KmsConfig, 78, "sse-kms"),
    (At::Put, 503, "SlowDown", "Please reduce your request rate for operations involving AWS KMS.", Class::KmsThrottled, 75, "bucket_key"),
    (At::Put, 503, "SlowDown", "Please reduce your request rate.", Class::Throttled, 75, ""),
    (At::Put, 400, "ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.", Class::KmsThrottled, 75, "quota"),
    (At::Get, 400, "ExpiredToken", "The provided token has expired.", Class::CredentialsExpired, 75, ""),
    (At::Get, 400, "InvalidToken", "malformed", Class::CredentialsExpired, 75, ""),
    (At::Get, 400, "TokenRefreshRequired", "refresh", Class::CredentialsExpired, 75, ""),
    (At::Put, 403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.", Class::ClockSkew, 75, "NTP"),
    (At::Put, 403, "SignatureDoesNotMatch", "Signature expired: 20261123T000000Z is now earlier than 20261123T001000Z", Class::ClockSkew, 75, "NTP"),
    (At::Put, 403, "SignatureDoesNotMatch", "The request signature we calculated does not match", Class::AccessDenied, 77, "secret access key"),
    (At::Put, 403, "InvalidAccessKeyId", "does not exist in our records", Class::AccessDenied, 77, "does not know this access key"),
    (At::Put, 400, "RequestTimeout", "Your socket connection to the server was not read from or written to within the timeout period.", Class::Transient, 75, ""),
    (At::Get, 404, "NoSuchKey", "The specified key does not exist.", Class::NotFound, 66, ""),
    (At::List, 404, "NoSuchBucket", "The specified bucket does not exist", Class::Config, 78, "bucket"),
    (At::Put, 400, "BadDigest", "The CRC64NVME you specified did not match", Class::Integrity, 65, ""),
    (At::Put, 400, "XAmzContentSHA256Mismatch", "does not match", Class::Integrity, 65, ""),
    (At::Put, 501, "NotImplemented", "A header you provided implies functionality that is not implemented: x-amz-tagging", Class::Compat, 78, "tags"),
    (At::Put, 400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc64nvme' received for this API call.", Class::Compat, 78, "checksum = \"none\""),
    (At::List, 301, "PermanentRedirect", "must be addressed using the specified endpoint", Class::Config, 78, "region"),
    (At::List, 400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-central-1'", Class::Config, 78, "eu-central-1"),
    (At::Put, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", Class::Conflict, 73, ""),
    (At::Put, 507, "QuotaExceeded", "full", Class::Quota, 69, "quota"),
    (At::AssumeRole, 403, "AccessDenied", ASSUME, Class::TrustDenied, 77, "does not say which"),
    (At::AssumeRole, 400, "ValidationError", "1 validation error detected: Value at 'roleArn' failed", Class::Config, 78, "role_arn"),
    (At::AssumeRole, 400, "IDPCommunicationError", "m", Class::CredentialsUnavailable, 75, "OIDC"),
    (At::AssumeRole, 403, "RegionDisabledException", "STS is not activated in this region", Class::Config, 78, "sts_url"),
    (At::AssumeRole, 400, "PackedPolicyTooLarge", "m", Class::Config, 78, ""),
    (At::AssumeRole, 403, "InvalidClientTokenId", "The security token included in the request is invalid", Class::AccessDenied, 77, "access key"),
    (At::CreateSnapshot, 403, "UnauthorizedOperation", "You are not authorized to perform this operation. Encoded authorization failure message: AbC", Class::AccessDenied, 77, "ec2:CreateSnapshot"),
    (At::CreateSnapshot, 400, "SnapshotCreationPerVolumeRateExceeded", "The maximum per volume CreateSnapshot request rate has been exceeded.", Class::Busy, 75, ""),
    (At::CreateSnapshot, 400, "PendingSnapshotLimitExceeded", "m", Class::Busy, 75, ""),
    (At::CreateSnapshot, 400, "SnapshotLimitExceeded", "m", Class::Quota, 69, "snapshot quota"),
    (At::CreateSnapshot, 503, "RequestLimitExceeded", "Request limit exceeded.", Class::Throttled, 75, ""),
    (At::CreateSnapshot, 400, "InvalidKmsKeyId", "m", Class::KmsConfig, 78, "key"),
    (At::NewVolume, 400, "InvalidVolume.NotFound", "The volume 'vol-01234567' does not exist.", Class::KmsDenied, 77, "inferred"),
    (At::CreateSnapshot, 400, "RequestExpired", "Request has expired.", Class::ClockSkew, 75, "NTP"),
];

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('\'', "&apos;").replace('"', "&quot;")
}

async fn ask(servers: &Servers, row: &Row, metrics: &Metrics) -> ServiceError {
    let (at, status, code, message, ..) = *row;
    let error = format!("<Error><Code>{code}</Code><Message>{}</Message></Error>", escaped(message));
    let body = match at {
        At::AssumeRole => format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"),
        At::CreateSnapshot | At::NewVolume => {
            format!("<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>")
        }
        At::Put | At::Get | At::Create | At::List => error,
    };
    let failing = servers.scripted(Scheme::Https, move |_, _| (status, body.clone()));
    let server = servers.s3(Scheme::Https);
    let kms = Encryption { mode: EncryptionMode::SseKms, kms_key_id: None, bucket_key: true };
    let location = Location { encryption: kms, ec2_url: Some(failing.url.clone()), ..server.location() };
    let location = match at {
        At::AssumeRole => Location {
            encryption: location.encryption.clone(),
            ..chained(&server, &failing, vec![hop(ROLE_B, None, 3600)])
        },
        At::CreateSnapshot | At::NewVolume => location,
        At::Put | At::Get | At::Create | At::List => Location { s3_url: Some(failing.url.clone()), ..location },
    };
    let aws = AwsLocation::connect_with(&location, metrics.location("primary"), |_| None).unwrap();
    let (store, key) = (aws.store(), ObjectKey::new("key"));
    match at {
        At::Put => {
            let payload = Payload::new("data", Algorithm::None);
            store.put(&key, payload, Overwrite::Allow).await.unwrap_err()
        }
        At::Get => store.get(&key, None).await.map(|_| ()).unwrap_err(),
        At::Create => store.create_upload(&key).await.unwrap_err(),
        At::List | At::AssumeRole => store.list("", None).await.unwrap_err(),
        At::CreateSnapshot => aws.dry_run(Ec2Action::CreateSnapshot, &Tags::new()).await.unwrap_err(),
        At::NewVolume => aws.disks().new_volume(&"vol-01234567".parse().unwrap()).await.unwrap_err(),
    }
}

fn labels(metrics: &Metrics, family: &str) -> Vec<(String, String)> {
    let families = metrics.gather();
    let found = families.iter().find(|found| found.name() == family);
    let label = |metric: &prometheus::proto::Metric, name: &str| {
        metric.get_label().iter().find(|pair| pair.name() == name).unwrap().value().to_owned()
    };
    let metrics = found.map(|found| found.get_metric().to_vec()).unwrap_or_default();
    metrics.iter().map(|metric| (label(metric, "service"), label(metric, "class"))).collect()
}

async fn check(servers: &Servers, row: &Row) {
    let metrics = Metrics::new();
    let error = ask(servers, row, &metrics).await;
    let (at, _, code, message, class, exit, remedy) = *row;
    assert_eq!((error.class, error.class.exit_code()), (class, exit), "{at:?} {code} {message}: {error:?}");
    assert!(error.remedy.as_deref().unwrap_or_default().contains(remedy), "{at:?} {code}: {:?}", error.remedy);
    assert!(error.to_string().contains(code) && error.request_id.is_some(), "{error:?}");
    assert!(!error.operation.is_empty() && !error.resource.is_empty(), "{error:?}");
    let service = match at {
        At::AssumeRole => "sts",
        At::CreateSnapshot | At::NewVolume => "ec2",
        At::Put | At::Get | At::Create | At::List => "s3",
    };
    // The label of the metric is the class of the report, and no other is counted for the service.
    let mut counted = labels(&metrics, "penstock_errors_total");
    counted.retain(|(of, _)| of == service);
    assert_eq!(counted, [(service.to_owned(), error.class.as_str().to_owned())], "{at:?} {code}");
}

#[tokio::test]
async fn every_row_of_the_table_through_a_socket() {
    let servers = Servers::start();
    // Together, since the SDK's pauses between its attempts are most of the time.
    futures_util::future::join_all(ROWS.iter().map(|row| check(&servers, row))).await;
}

#[tokio::test]
async fn what_does_not_come_as_far_as_an_answer_is_classed_and_counted_too() {
    let servers = Servers::start();
    let other = servers.folder().join("other.pem");
    std::fs::write(&other, authority("another CA").1).unwrap();
    let server = servers.s3(Scheme::Https);
    let at = |url: String| Location { s3_url: Some(url), ..server.location() };
    let rows = [
        (at(servers.refusing()), Class::Transient, 75, "listens"),
        (at(servers.resetting()), Class::Transient, 75, ""),
        (at("http://nowhere.invalid".to_owned()), Class::Transient, 75, "DNS"),
        (Location { certificate: Some(other), ..server.location() }, Class::Tls, 78, "other.pem"),
    ];
    for (location, class, exit, remedy) in rows {
        let metrics = Metrics::new();
        let aws = AwsLocation::connect_with(&location, metrics.location("primary"), |_| None).unwrap();
        let error = aws.store().list("", None).await.unwrap_err();
        assert_eq!((error.class, error.class.exit_code()), (class, exit), "{error:?}");
        assert!(error.remedy.as_deref().unwrap_or_default().contains(remedy), "{error:?}");
        let label = ("s3".to_owned(), class.as_str().to_owned());
        assert_eq!(labels(&metrics, "penstock_errors_total"), [label], "{error:?}");
    }
}

#[tokio::test]
async fn a_role_that_is_refused_without_a_word_is_a_matter_of_trust() {
    let servers = Servers::start();
    let sts = servers.scripted(Scheme::Https, |_, _| (403, String::new()));
    let location = chained(&servers.s3(Scheme::Https), &sts, vec![hop(ROLE_B, None, 3600)]);
    let aws = AwsLocation::connect_with(&location, Metrics::new().location("primary"), |_| None).unwrap();
    let error = aws.store().list("", None).await.unwrap_err();
    assert_eq!(error.class, Class::TrustDenied, "{error:?}");
    let remedy = error.remedy.unwrap();
    assert!(remedy.contains(ROLE_B) && remedy.contains("hop 1 of 1"), "{remedy}");
}

#[tokio::test]
async fn requests_are_counted_once_and_their_retries_by_class() {
    let servers = Servers::start();
    let s3 = servers.scripted(Scheme::Http, |_, before| match before {
        0 => (503, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>".into()),
        _ => (200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".into()),
    });
    let location = Location { s3_url: Some(s3.url.clone()), ..servers.s3(Scheme::Http).location() };
    let metrics = Metrics::new();
    let aws = AwsLocation::connect_with(&location, metrics.location("primary"), |_| None).unwrap();
    aws.store().list("", None).await.unwrap();
    assert_eq!(labels(&metrics, "penstock_request_retries_total"), [("s3".to_owned(), "throttled".to_owned())]);
    assert!(labels(&metrics, "penstock_errors_total").is_empty());
    let families = metrics.gather();
    let requests = families.iter().find(|family| family.name() == "penstock_requests_total").unwrap().get_metric();
    let values: Vec<_> = requests[0].get_label().iter().map(prometheus::proto::LabelPair::value).collect();
    assert_eq!((requests.len(), values), (1, vec!["primary", "ListObjectsV2", "success", "s3"]));
    assert!((requests[0].get_counter().get_value() - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_request_that_is_given_up_counts_as_cancelled() {
    let servers = Servers::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let location = Location { s3_url: Some(url), ..servers.s3(Scheme::Http).location() };
    let metrics = Metrics::new();
    let aws = AwsLocation::connect_with(&location, metrics.location("primary"), |_| None).unwrap();
    let store = aws.store();
    tokio::select! {
        _ = store.list("", None) => panic!("nobody answers"),
        () = async { let _held = listener.accept().await.unwrap(); } => {}
    }
    let families = metrics.gather();
    let requests = families.iter().find(|family| family.name() == "penstock_requests_total").unwrap().get_metric();
    assert!(requests[0].get_label().iter().any(|pair| pair.value() == "cancelled"), "{requests:?}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_measured_and_requests_are_signed_with_the_servers_time() {
    use http_body_util::Full;
    use hyper::Response;

    let servers = Servers::start();
    let ahead = jiff::SignedDuration::from_mins(20);
    let s3 = servers.scripted_http(Scheme::Http, move |request, _| {
        let there = jiff::Timestamp::now() + ahead;
        let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", request.header("x-amz-date").unwrap()).unwrap();
        let signed = jiff::tz::TimeZone::UTC.to_timestamp(signed).unwrap();
        let off = there.duration_since(signed).abs() > jiff::SignedDuration::from_mins(15);
        let (status, body) = if off {
            (403, "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>")
        } else {
            (200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
        };
        let date = there.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        Response::builder().status(status).header("date", date).body(Full::new(body.into())).unwrap()
    });
    let location = Location { s3_url: Some(s3.url.clone()), ..servers.s3(Scheme::Http).location() };
    let aws = AwsLocation::connect_with(&location, Metrics::new().location("primary"), |_| None).unwrap();
    assert_eq!(aws.skew().milliseconds(), None);
    aws.store().list("", None).await.unwrap();
    assert_eq!(s3.seen().len(), 2, "refused, corrected, accepted");
    aws.store().list("", None).await.unwrap();
    assert_eq!(s3.seen().len(), 3, "and remembered");
    let minutes = aws.skew().milliseconds().unwrap() / 60_000;
    assert!((19..=20).contains(&minutes), "{minutes}");
}
