//! What stores other than AWS answer, as `make stores` saw it (docs/stores.md): Swift, s3rver, fauxqs, moto, Ceph, and proxies in front.

use std::fs;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use penstock::aws::AwsLocation;
use penstock::checksum::Algorithm;
use penstock::config::Location;
use penstock::error::Class;
use penstock::format::key::ObjectKey;
use penstock::metrics::Metrics;
use penstock::store::{Deleted, Overwrite, Payload, UploadHandle, UploadId};
use serde_json::Value;

use crate::binary::Penstock;
use crate::servers::{Answer, S3Server, STATIC_KEYS, Scheme, Seen, Servers};

fn error(status: u16, code: &str, message: &str) -> Answer {
    (status, format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"))
}

fn penstock(servers: &Servers, s3: &S3Server, more: &str) -> Penstock {
    let folder = servers.folder();
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src/file"), vec![7; 6 << 20]).unwrap();
    let config = format!(
        r#"{head}
{more}
{STATIC_KEYS}
[locations.primary.upload]
part_size = "5MiB"
[jobs.j]
location = "primary"
compression = "none"
[[jobs.j.sources]]
type = "tree"
name = "t"
path = "{source}"
"#,
        head = s3.toml("n", &folder.join("state"), &s3.url),
        source = folder.join("src").display(),
    );
    Penstock::new(folder, &config)
}

fn check<'a>(proof: &'a Value, name: &str) -> &'a Value {
    let checks = proof["locations"][0]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {proof:#}"))
}

fn is_put_with_condition(request: &Seen) -> bool {
    request.method == "PUT" && request.header("if-none-match").is_some()
}

/// OpenStack Swift 2.30: 501 to a conditional PUT.
#[test]
fn a_store_that_refuses_the_condition_is_committed_to() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    s3.refuse(|request| {
        let refused = || error(501, "NotImplemented", "Conditional object PUTs are not supported.");
        is_put_with_condition(request).then(refused)
    });
    let penstock = penstock(&servers, &s3, "checksum = \"none\"");
    penstock.good(&["backup", "j"]);
    let before = s3.requests();
    penstock.good(&["backup", "j"]);
    let asked = s3.seen().split_off(before);
    let refused = asked.iter().position(is_put_with_condition).expect("the condition is tried");
    let manifest = asked[refused].uri.split('?').next().unwrap().to_owned();
    let methods = asked[refused..].iter().filter(|seen| seen.uri.starts_with(&manifest)).map(|seen| &*seen.method);
    let methods: Vec<_> = methods.take(3).collect();
    assert_eq!(methods, ["PUT", "HEAD", "PUT"], "looked up before it is written without the condition");
    assert_eq!(penstock.good(&["list"])["backups"].as_array().unwrap().len(), 2);
    let (_, proof) = penstock.json(&["validate", "--skip", "ec2"]);
    let check = check(&proof, "If-None-Match");
    assert_eq!((&check["state"], &check["ok"]), (&"warning".into(), &true.into()));
    assert!(check["message"].as_str().unwrap().contains("refused (HTTP 501)"), "{check}");
}

/// A refusal of everything about the manifest is an answer: nothing stays, and nobody is left in doubt.
#[test]
fn a_501_is_an_answer_and_nothing_stays() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    s3.refuse(|request| {
        let manifest = request.method == "PUT" && request.uri.contains("manifest");
        manifest.then(|| error(501, "NotImplemented", "no"))
    });
    let penstock = penstock(&servers, &s3, "checksum = \"none\"");
    let (code, said) = penstock.json(&["backup", "j"]);
    assert_eq!((code, &said["error"]["class"]), (78, &"compat".into()), "{said:#}");
    assert!(!said.to_string().contains("may or may not be committed"), "{said:#}");
    let put = s3.seen().iter().filter(|seen| seen.method == "DELETE").count();
    assert!(put > 0, "what was uploaded is removed");
}

/// Swift 2.30 again: checksums in the list of parts are not read.
#[test]
fn a_list_of_parts_that_is_not_read_names_the_checksum() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    let malformed = "The XML you provided was not well-formed or did not validate against our published schema";
    s3.refuse(move |request| {
        let complete = request.method == "POST" && request.uri.contains("uploadId=");
        complete.then(|| error(400, "MalformedXML", malformed))
    });
    let penstock = penstock(&servers, &s3, "");
    for arguments in [&["backup", "j"][..], &["validate", "--skip", "ec2"]] {
        let (code, said) = penstock.json(arguments);
        assert_eq!(code, 78, "{said:#}");
        assert!(said.to_string().contains("set checksum = \\\"none\\\""), "{said:#}");
    }
}

/// nginx before a store, with `client_max_body_size 4m`.
#[test]
fn a_limit_on_the_way_is_met_by_validate_and_named() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    s3.refuse(|request| {
        let length: u64 = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        (length > 4 << 20).then(|| (413, "<html><title>413 Request Entity Too Large</title></html>".to_owned()))
    });
    let penstock = penstock(&servers, &s3, "");
    let (code, proof) = penstock.json(&["validate", "--skip", "ec2"]);
    let check = check(&proof, "multipart upload");
    assert_eq!((code, &check["class"]), (78, &"config".into()), "{proof:#}");
    assert!(check["remedy"].as_str().unwrap().contains("client_max_body_size"), "{check}");
    let (code, said) = penstock.json(&["backup", "j"]);
    assert_eq!(code, 78, "{said:#}");
    assert!(said["error"]["remedy"].as_str().unwrap().contains("upload.part_size"), "{said:#}");
}

/// HEAD has no document: any store, any wrong bucket.
#[test]
fn a_bucket_that_is_not_there_is_the_configurations_fault() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    s3.refuse(|request| {
        let document = if request.method == "HEAD" { String::new() } else { error(404, "NoSuchBucket", "no").1 };
        Some((404, document))
    });
    let (code, proof) = penstock(&servers, &s3, "").json(&["validate", "--skip", "ec2"]);
    assert_eq!(code, 78, "{proof:#}");
    for name in ["region", "s3:ListBucket"] {
        let check = check(&proof, name);
        assert_eq!(check["class"], "config", "{check}");
        assert!(check["remedy"].as_str().unwrap().contains("check `bucket`, `region` and `s3_url`"), "{check}");
    }
}

/// s3rver: 405 to ListParts and Abort.
#[test]
fn what_a_store_cannot_do_to_an_upload_is_said_by_request() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    s3.refuse(|request| {
        let asked = matches!(&*request.method, "GET" | "DELETE") && request.uri.contains("uploadId=");
        asked.then(|| error(405, "MethodNotAllowed", "The specified method is not allowed against this resource."))
    });
    let (code, proof) = penstock(&servers, &s3, "").json(&["validate", "--skip", "ec2"]);
    assert_eq!(code, 78, "{proof:#}");
    let remedy = |name: &str| check(&proof, name)["remedy"].as_str().unwrap().to_owned();
    assert!(remedy("s3:ListMultipartUploadParts").contains("not resumed"));
    assert!(remedy("s3:AbortMultipartUpload").contains("--give-up"));
}

fn connect(url: &str, s3: &S3Server) -> AwsLocation {
    let location = Location { s3_url: Some(url.to_owned()), checksum: Algorithm::Crc64nvme, ..s3.location() };
    AwsLocation::connect_with(&location, Metrics::new().location("primary"), |_| None).unwrap()
}

/// moto: ListParts with another root element.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read_is_told_in_words() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    let odd = servers
        .scripted(Scheme::Http, |_, _| (200, "<?xml version=\"1.0\"?>\n<SomethingElse xmlns=\"u\"/>".to_owned()));
    let store = connect(&odd.url, &s3).store();
    let upload = UploadHandle { key: ObjectKey::new("k"), id: UploadId("u".into()) };
    let error = store.list_parts(&upload).await.unwrap_err();
    assert_eq!(error.class, Class::Compat);
    let said = format!("{error} {}", error.remedy.clone().unwrap_or_default());
    for dump in ["bug", "SDK", "XmlDecodeError", "MalformedXml"] {
        assert!(!said.contains(dump), "{dump}: {said}");
    }
    assert!(
        said.contains("is a <SomethingElse> document") && said.contains("interrupted uploads are not resumed"),
        "{said}"
    );
}

/// A bucket with versions: the answer to DELETE says that the object is hidden.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_marker_is_no_removal_and_checksums_are_announced() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    let versioned = servers.scripted_http(Scheme::Http, |request, _| {
        let answer = Response::builder().header("etag", "\"e\"").header("x-amz-version-id", "v2");
        let answer = match &*request.method {
            "DELETE" if request.uri.contains("/kept") => answer.status(204).header("x-amz-delete-marker", "true"),
            "DELETE" => Response::builder().status(204),
            _ => answer.status(200),
        };
        answer.body(Full::new(Bytes::new())).unwrap()
    });
    let store = connect(&versioned.url, &s3).store();
    assert_eq!(store.delete(&ObjectKey::new("kept")).await.unwrap(), Deleted::Hidden);
    assert_eq!(store.delete(&ObjectKey::new("gone")).await.unwrap(), Deleted::Gone);
    let payload = Payload::new("data", Algorithm::Crc64nvme);
    store.put(&ObjectKey::new("k"), payload, Overwrite::Allow).await.unwrap();
    let put = versioned.seen().pop().unwrap();
    assert_eq!(put.header("x-amz-sdk-checksum-algorithm"), Some("CRC64NVME"), "locked buckets ask for it");
    assert!(put.header("x-amz-checksum-crc64nvme").is_some() && put.header("x-amz-trailer").is_none());
}
