//! Listings that are long, and listings that never end: what the commands make of them, with the real binary.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

/// What a process of this binary takes without doing anything, a debug build's included: its code alone grows with each command.
const CONSTANT: u64 = 44 << 10;

/// `limits.memory`, in KiB as the kernel counts.
const LIMIT: u64 = 64 << 10;

/// A page of keys of objects of `size` bytes; the token of the next one if there is one.
fn page(keys: impl Iterator<Item = String>, size: usize, next: Option<&str>) -> String {
    let entry = |key| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{size}</Size></Contents>"
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
    let server = store(&servers, move |number| page(keys(number % 3), 1000, Some(&(number + 1).to_string())));
    let location =
        Location { s3_url: Some(server.url.clone()), checksum: Algorithm::None, ..servers.s3(Scheme::Http).location() };
    let catalog = Catalog::new(&memory::Memory::new(connect(&location).store()).open(&location, 1 << 20));
    let errors = [
        catalog.entries(Scope::default()).await.unwrap_err(),
        catalog.newest(Scope::default()).await.unwrap_err(),
        stats::stats(&catalog, Scope::default(), stats::LookAt::Objects).await.unwrap_err(),
        catalog.resolve(&"j@latest".parse().unwrap(), &Name::new("n").unwrap()).await.unwrap_err(),
    ];
    for error in errors {
        let report = error.report();
        assert_eq!(report.class, Class::Compat, "{error}");
        assert!(report.message.contains("does not advance") && report.remedy.is_some(), "{report:?}");
    }
    assert!(server.seen().len() <= 4 * 10, "{} requests", server.seen().len());
}

fn configured(servers: &Servers, s3: &S3Server, url: &str, keep_last: usize) -> PathBuf {
    let path = servers.folder().join("penstock.toml");
    let text = format!(
        r#"{head}
{STATIC_KEYS}
[jobs.j]
location = "primary"
retention = {{ keep_last = {keep_last} }}
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

/// The largest that the command's resident memory has been, in KiB, and its exit code.
fn peak(config: &Path, arguments: &[&str]) -> (u64, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    command.arg("--config").arg(config).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
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
            page((number * PAGE..(number + 1) * PAGE).map(key), 1000, (number + 1 < PAGES).then_some(next.as_str()))
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
        let (peak, found) = peak(&configured(&servers, &s3, &server.url, 1), arguments);
        assert_eq!(found, code, "{arguments:?}");
        assert!(peak < most, "{arguments:?}: {peak} KiB, {most} are enough");
    }
}

/// Of one chain.
const BACKUPS: usize = 3000;

/// Items of each manifest, with names that no other has; objects that it names.
const MANY: usize = 150;

fn id(at: usize) -> String {
    format!("20260101T000000Z-{at:06x}")
}

/// As long as any other.
fn manifest(at: usize) -> String {
    let home = format!("test/j/n/{}", id(at));
    let of = |number: usize| format!("{home}/s.{number:04}.bin");
    let (zeros, mut objects, mut items) = ("0".repeat(64), String::new(), String::new());
    for number in 0..MANY {
        write!(objects, r#"{{"key":"{}","size":1,"crc64nvme":"0000000000000000","live_bytes":0}},"#, of(number))
            .unwrap();
        write!(
            items,
            r#",{{"name":"{at:06}-{number:04}","source":{{"type":"stdin"}},"outcome":"failure","kind":"stream","stream":null}}"#
        )
        .unwrap();
    }
    format!(
        r#"{{"version":1,"id":"{id}","job":"j","cluster":"test","node":"n","agent":"0","started":"2026-01-01T00:00:00Z",
"finished":"2026-01-01T00:00:01Z","parent":null,"outcome":"partial","warnings":{{"count":0,"list":[]}},"items":[
{{"name":"s","source":{{"type":"stdin"}},"outcome":"success","kind":"stream","stream":{{"plain_bytes":0,"stored_bytes":0,
"new_bytes":0,"chunks":0,"files":0,"digest":"{zeros}","index":{{"key":"{home}/s.index.zst","size":1,"sha256":"{zeros}"}},
"objects":[{objects}]}}}}{items}]}}"#,
        id = id(at),
        objects = objects.trim_end_matches(','),
    )
}

/// A chain of so many backups. What is written or deleted is taken for done.
fn chain(servers: &Servers, backups: usize) -> Scripted {
    let size = manifest(0).len();
    servers.scripted_http(Scheme::Http, move |request, _| {
        let answer = Response::builder();
        let answer = match request.method.as_str() {
            "DELETE" => answer.status(204).body(Full::default()),
            "PUT" => answer.header("etag", "\"0\"").body(Full::default()),
            _ if request.uri.contains("list-type=2") => {
                let from = token(request);
                let to = backups.min(from + PAGE);
                let keys = (from..to).map(|at| format!("test/j/n/{}/manifest.json", id(at)));
                answer.body(Full::new(page(keys, size, (to < backups).then(|| to.to_string()).as_deref()).into()))
            }
            _ => {
                let (_, at) = request.uri.split_once("20260101T000000Z-").unwrap();
                let manifest = manifest(usize::from_str_radix(&at[..6], 16).unwrap());
                answer.header("etag", "\"0\"").body(Full::new(manifest.into()))
            }
        };
        answer.unwrap()
    })
}

/// However many backups there are, what they hold and how many of them go: it has `limits.memory`, or says so before it does anything.
#[test]
fn no_chain_takes_more_memory_than_there_is() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    // Almost as many as there is memory for.
    let server = chain(&servers, BACKUPS);
    for (keep_last, arguments, code, deleted) in [
        (100_000, &["prune", "--job", "j"][..], 0, 0),
        (1, &["prune", "--job", "j"], 0, BACKUPS - 1),
        // Of each backup it says all the items that failed, and that does not fit.
        (1, &["--output", "json", "prune", "--job", "j"], 74, 0),
    ] {
        let before = server.seen().len();
        let (peak, found) = peak(&configured(&servers, &s3, &server.url, keep_last), arguments);
        assert_eq!(found, code, "keep_last = {keep_last}, {arguments:?}");
        let most = CONSTANT + LIMIT;
        assert!(peak < most, "keep_last = {keep_last}, {arguments:?}: {peak} KiB, {most} are enough");
        println!("keep_last = {keep_last}, {arguments:?}: {peak} KiB of {most}");
        let deletions = server.seen()[before..].iter().filter(|request| request.method == "DELETE").count();
        assert_eq!(deletions, deleted, "keep_last = {keep_last}, {arguments:?}");
    }
}
