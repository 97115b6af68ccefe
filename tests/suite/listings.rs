//! Listings that are long, and listings that never end: what the commands make of them, with the real binary.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use penstock::catalog::{Catalog, Scope};
use penstock::checksum::Algorithm;
use penstock::config::Location;
use penstock::error::{Class, Classify as _};
use penstock::format::key::Name;
use penstock::location::memory;
use penstock::stats;

use crate::aws_client::connect;
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Scripted, Seen, Servers};

/// Objects a page.
const PAGE: usize = 1000;

/// What a process of this binary takes without doing anything, a debug build's included.
const CONSTANT: u64 = 40 << 10;

/// `limits.memory`, in KiB as the kernel counts.
const LIMIT: u64 = 64 << 10;

/// A page of keys; the token of the next one if there is one.
fn page(keys: impl Iterator<Item = String>, next: Option<&str>) -> String {
    let entry = |key| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1000</Size></Contents>"
        )
    };
    let entries: String = keys.map(entry).collect();
    let more = next.map_or_else(
        || "<IsTruncated>false</IsTruncated>".to_owned(),
        |token| format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"),
    );
    format!("<ListBucketResult>{more}{entries}</ListBucketResult>")
}

/// The number that the request's token is, 0 without one.
fn token(request: &Seen) -> usize {
    let token = request.uri.split('&').find_map(|part| part.split_once("continuation-token=")).map(|(_, token)| token);
    token.map_or(0, |token| token.parse().unwrap())
}

/// A store of nothing but this listing. What else it is asked for is not there.
fn store(servers: &Servers, list: impl Fn(usize) -> String + Send + Sync + 'static) -> Scripted {
    servers.scripted_http(Scheme::Http, move |request, _| {
        if request.uri.contains("list-type=2") {
            return Response::new(Full::new(list(token(request)).into()));
        }
        let missing = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
        Response::builder().status(404).body(Full::new(missing.into())).unwrap()
    })
}

/// Three pages that come again and again, each time with a token that was never there before.
#[tokio::test]
async fn a_listing_that_goes_round_ends() {
    let servers = Servers::start();
    let keys =
        |number: usize| (0..2).map(move |n| format!("c/j/n/20260101T000000Z-000000/{}.0001.bin", number * 2 + n));
    let server = store(&servers, move |number| page(keys(number % 3), Some(&(number + 1).to_string())));
    let location =
        Location { s3_url: Some(server.url.clone()), checksum: Algorithm::None, ..servers.s3(Scheme::Http).location() };
    let catalog = Catalog::new(&memory::Memory::new(connect(&location).store()).open(&location, 1 << 20));
    let errors = [
        catalog.entries(Scope::default()).await.unwrap_err(),
        catalog.newest(Scope::default()).await.unwrap_err(),
        stats::stats(&catalog, Scope::default()).await.unwrap_err(),
        catalog.resolve(&"j@latest".parse().unwrap(), &Name::new("n").unwrap()).await.unwrap_err(),
    ];
    for error in errors {
        let report = error.report();
        assert_eq!(report.class, Class::Compat, "{error}");
        assert!(report.message.contains("does not advance") && report.remedy.is_some(), "{report:?}");
    }
    assert!(server.seen().len() <= 4 * 10, "{} requests", server.seen().len());
}

fn configured(servers: &Servers, s3: &S3Server, url: &str) -> std::path::PathBuf {
    let path = servers.folder().join("penstock.toml");
    let text = format!(
        r#"{head}
{STATIC_KEYS}
[jobs.j]
location = "primary"
retention = {{ keep_last = 1 }}
[[jobs.j.sources]]
type = "file"
name = "f"
path = "/etc/hostname"
"#,
        head = s3.toml("n", &servers.folder().join("state"), url),
    );
    fs::write(&path, text).unwrap();
    path
}

/// The largest that its resident memory has been, in KiB, and its exit code.
fn peak(mut child: Child) -> (u64, i32) {
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(status) = child.try_wait().unwrap() {
            return (peak, status.code().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// However many objects there are: what is only listed is not kept, and what must be kept ends as an error that names the limit.
#[test]
fn no_listing_takes_more_memory_than_there_is() {
    const PAGES: usize = 200;
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    let of_one = |at| format!("test/j/n/20260101T000000Z-000000/f.{at:07}.bin");
    let of_many = |at| format!("test/j/n/20260101T000000Z-{at:06x}/manifest.json");
    let pages = |key: fn(usize) -> String| {
        store(&servers, move |number| {
            let next = (number + 1).to_string();
            page((number * PAGE..(number + 1) * PAGE).map(key), (number + 1 < PAGES).then_some(next.as_str()))
        })
    };
    let (objects, manifests) = (pages(of_one), pages(of_many));
    for (server, arguments, code, most) in [
        (&objects, &["list"][..], 0, CONSTANT),
        (&objects, &["prune", "--job", "j", "--dry-run"], 0, CONSTANT),
        (&objects, &["stats"], 0, CONSTANT),
        (&manifests, &["list"], 74, CONSTANT + LIMIT),
        (&manifests, &["prune", "--job", "j", "--dry-run"], 74, CONSTANT + LIMIT),
        (&manifests, &["stats"], 74, CONSTANT + LIMIT),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.arg("--config").arg(configured(&servers, &s3, &server.url)).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (peak, found) = peak(child);
        assert_eq!(found, code, "{arguments:?}");
        assert!(peak < most, "{arguments:?}: {peak} KiB, {most} are enough");
    }
}
