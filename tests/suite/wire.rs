//! Answers as they come: of stores, of what lies before them, and of what is no store at all. Each shape was seen of a real server or
//! proxy, or is the sibling of one that was.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use http_body_util::Full;
use hyper::Response;
use penstock::aws::AwsLocation;
use penstock::checksum::Algorithm;
use penstock::config::Location;
use penstock::disks::{SnapshotFilter, VolumeFilter};
use penstock::error::Class;
use penstock::format::key::ObjectKey;
use penstock::store::{Error, Overwrite, PartNumber, Payload, Store, UploadHandle, UploadId, UploadedPart, VersionId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::aws_client::{ROLE_B, chained, connect, hop};
use crate::servers::{Scheme, Scripted, Seen, Servers};

const PAGE: &str = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Welcome</body></html>";
const DECLARED: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

fn location(servers: &Servers, url: &str) -> Location {
    Location { s3_url: Some(url.to_owned()), checksum: Algorithm::None, ..servers.s3(Scheme::Http).location() }
}

/// A store that answers each request so.
fn answering(
    servers: &Servers,
    answer: impl Fn(&Seen, usize) -> Response<Full<bytes::Bytes>> + Send + Sync + 'static,
) -> (Scripted, Arc<dyn Store>) {
    let server = servers.scripted_http(Scheme::Http, answer);
    let store = connect(&location(servers, &server.url)).store();
    (server, store)
}

/// A store whose every answer is this.
fn always(servers: &Servers, status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Arc<dyn Store> {
    let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let body: Vec<u8> = body.into();
    answering(servers, move |_, _| {
        let start = Response::builder().status(status);
        let answer = headers.iter().fold(start, |answer, (name, value)| answer.header(name, value));
        answer.body(Full::new(body.clone().into())).unwrap()
    })
    .1
}

/// A server that answers with these bytes, a piece at a time, and closes.
async fn raw(answer: impl Fn(&str) -> Vec<Vec<u8>> + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let (mut head, mut piece) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    let count = socket.read(&mut piece).await.unwrap();
                    head.extend_from_slice(&piece[..count]);
                }
                for piece in answer(&String::from_utf8_lossy(&head)) {
                    socket.write_all(&piece).await.unwrap();
                    socket.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
                // What is still on its way here would turn the answer into a reset.
                socket.shutdown().await.unwrap();
                while socket.read(&mut piece).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    url
}

fn chunked(head: &str, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let start = format!("HTTP/1.1 {head}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n").into_bytes();
    let chunk = |piece: &&[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let chunks = pieces.iter().map(chunk);
    [start].into_iter().chain(chunks).chain([b"0\r\n\r\n".to_vec()]).collect()
}

fn key() -> ObjectKey {
    ObjectKey::new("c1/j/n1/key")
}

fn upload() -> UploadHandle {
    UploadHandle { key: key(), id: UploadId("id".to_owned()) }
}

fn payload() -> Payload {
    Payload::new("data", Algorithm::None)
}

async fn read(store: &dyn Store, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, Error> {
    let download = store.get(&key(), range).await?;
    let length = download.length;
    let body = download.body.try_collect::<Vec<_>>().await?.concat();
    assert_eq!(body.len() as u64, length);
    Ok(body)
}

async fn complete(store: &dyn Store) -> Result<(), Error> {
    let part = UploadedPart { number: PartNumber::FIRST, size: 4, etag: "\"e\"".to_owned(), checksum: None };
    store.complete_upload(&upload(), &[part], 4, None).await.map(drop)
}

/// Everything that is asked of a store, and what came of it.
async fn everything(store: &dyn Store) -> Vec<(&'static str, Result<(), Error>)> {
    vec![
        ("put", store.put(&key(), payload(), Overwrite::Refuse).await),
        ("get", read(store, None).await.map(drop)),
        ("range", read(store, Some(0..4)).await.map(drop)),
        ("head", store.head(&key()).await.map(drop)),
        ("delete", store.delete(&key()).await.map(drop)),
        ("list", store.list("c1/", None).await.map(drop)),
        ("create", store.create_upload(&key()).await.map(drop)),
        ("part", store.upload_part(&upload(), PartNumber::FIRST, payload()).await.map(drop)),
        ("complete", complete(store).await),
        ("abort", store.abort_upload(&upload()).await),
        ("parts", store.list_parts(&upload()).await.map(drop)),
        ("uploads", store.list_uploads("c1/").await.map(drop)),
    ]
}

#[tokio::test]
async fn a_page_is_no_answer_to_anything() {
    let servers = Servers::start();
    let html = ("content-type", "text/html; charset=utf-8");
    for (status, headers) in [(200, vec![html]), (200, vec![html, ("etag", "\"5e8f-2ab\"")]), (404, vec![html])] {
        let store = always(&servers, status, &headers, PAGE);
        for (asked, answer) in everything(&*store).await {
            // A HEAD has no page: 404 is all that comes of it.
            let class = if (asked, status) == ("head", 404) { Class::NotFound } else { Class::Compat };
            let error = answer.expect_err(asked);
            assert_eq!(error.class, class, "{asked} {status}: {error}");
            if class == Class::Compat {
                assert!(error.to_string().contains("HTML page"), "{asked}: {error}");
                assert!(error.remedy.unwrap().contains("proxy"), "{asked}");
            }
        }
    }
}

#[tokio::test]
async fn a_login_page_elsewhere_is_no_answer_either() {
    let servers = Servers::start();
    for status in [301, 302, 303, 307] {
        let store = always(&servers, status, &[("location", "https://login.example/?from=s3")], "");
        for (asked, answer) in everything(&*store).await {
            let error = answer.expect_err(asked);
            assert_eq!(error.class, Class::Compat, "{asked} {status}: {error}");
            assert!(error.to_string().contains("https://login.example/"), "{error}");
        }
    }
}

#[tokio::test]
async fn nothing_at_all_is_an_answer_to_deletions_alone() {
    let servers = Servers::start();
    for status in [200, 204] {
        let store = always(&servers, status, &[], "");
        for (asked, answer) in everything(&*store).await {
            match asked {
                "delete" | "abort" => answer.expect(asked),
                // The whole of an empty object.
                "get" if status == 200 => answer.expect(asked),
                _ => assert_eq!(answer.expect_err(asked).class, Class::Compat, "{asked} {status}"),
            }
        }
    }
}

#[tokio::test]
async fn an_error_in_a_success_is_that_error() {
    let servers = Servers::start();
    let document = |code| format!(" \n{DECLARED}\n<Error><Code>{code}</Code><Message>m</Message></Error>");
    for (code, class) in [("AccessDenied", Class::AccessDenied), ("NoSuchBucket", Class::Config)] {
        let store = always(&servers, 200, &[], document(code));
        for (asked, answer) in everything(&*store).await {
            if !matches!(asked, "get" | "range" | "head") {
                let error = answer.expect_err(asked);
                assert_eq!((error.class, error.code.as_deref()), (class, Some(code)), "{asked}: {error}");
            }
        }
    }
    let (server, store) = answering(&servers, move |_, before| {
        let done = "<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>";
        let body = if before == 0 { document("InternalError") } else { done.to_owned() };
        Response::new(Full::new(body.into()))
    });
    complete(&*store).await.unwrap();
    assert_eq!(server.seen().len(), 2, "an internal error is tried again");
}

#[tokio::test]
async fn white_space_before_a_document_is_passed_over() {
    let servers = Servers::start();
    let done = format!("{DECLARED}<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>");
    let list = format!("{DECLARED}<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
    let answer = move |head: &str| {
        let document = if head.starts_with("POST") { &done } else { &list };
        chunked("200 OK", &[b" \n", b"\xef\xbb", b"\xbf", b" \r\n\t", DECLARED.as_bytes(), b"  ", document.as_bytes()])
    };
    let store = connect(&location(&servers, &raw(answer).await)).store();
    complete(&*store).await.unwrap();
    assert!(store.list("c1/", None).await.unwrap().objects.is_empty());
    // The same with a Content-Length, which the SDK compares with what came.
    let body = "\u{feff} \n<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
    assert!(always(&servers, 200, &[], body).list("c1/", None).await.unwrap().objects.is_empty());
}

/// A store that works keeps the connection open for minutes with a byte now and then.
#[tokio::test]
#[ignore = "half a minute: make soak"]
async fn soak_a_complete_that_takes_its_time() {
    let servers = Servers::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 8192]).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            tokio::time::sleep(std::time::Duration::from_secs(25)).await;
            socket.write_all(b" ").await.unwrap();
        }
        let done = "<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>";
        socket.write_all(done.as_bytes()).await.unwrap();
    });
    complete(&*connect(&location(&servers, &url)).store()).await.unwrap();
}

fn entry(key: &str) -> String {
    format!("<Contents><Key>{key}</Key><LastModified>2026-11-29T00:00:00.000Z</LastModified><Size>1</Size></Contents>")
}

fn listing(before: &str, entries: &str) -> String {
    format!("{DECLARED}<ListBucketResult>{before}{entries}</ListBucketResult>")
}

async fn keys(store: &dyn Store) -> Vec<String> {
    let page = store.list("c1/", None).await.unwrap();
    page.objects.into_iter().map(|object| object.key.as_str().to_owned()).collect()
}

#[tokio::test]
async fn foreign_keys_do_not_hide_the_others() {
    let servers = Servers::start();
    let ours = entry("c1/ours");
    let (server, store) = answering(&servers, |request, _| {
        assert!(request.uri.contains("encoding-type=url"), "{}", request.uri);
        let entries = [entry("c1%2F%01junk"), entry("c1/a+b%26%FF"), entry("c1/ours")].concat();
        Response::new(Full::new(listing("<EncodingType>url</EncodingType>", &entries).into()))
    });
    assert_eq!(keys(&*store).await, ["c1/\u{1}junk", "c1/a b&\u{fffd}", "c1/ours"]);
    assert_eq!(server.seen().len(), 1);
    // Of a store that does not know of the encoding, as it writes them.
    for foreign in [&b"c1/\x01junk"[..], b"c1/\xff\xfe", b"c1/a&b", b"c1/&#xD83D;&#xDE00;", b"c1/&#1;", b"c1/a%20b+c"] {
        let entries = [entry("c1/KEY").as_bytes(), ours.as_bytes()].concat();
        let whole = [b"<ListBucketResult>", &entries[..], b"</ListBucketResult>"].concat();
        let at = whole.windows(6).position(|six| six == b"c1/KEY").unwrap();
        let body = [&whole[..at], foreign, &whole[at + 6..]].concat();
        let keys = keys(&*always(&servers, 200, &[], body)).await;
        assert_eq!((keys.len(), keys[1].as_str()), (2, "c1/ours"), "{keys:?}");
    }
}

#[tokio::test]
async fn a_listing_that_does_not_move_on_or_is_not_whole_is_an_error() {
    let servers = Servers::start();
    let truncated = "<IsTruncated>true</IsTruncated>";
    let same = listing(&format!("{truncated}<NextContinuationToken>same</NextContinuationToken>"), &entry("c1/a"));
    let store = always(&servers, 200, &[], same);
    let page = store.list("c1/", None).await.unwrap();
    let error = store.list("c1/", page.next.as_deref()).await.unwrap_err();
    assert!(error.class == Class::Compat && error.to_string().contains("does not advance"), "{error}");
    for (body, class) in [
        (listing(truncated, ""), Class::Compat),
        (listing("", &entry("c1/a")).replace("<Size>1</Size>", ""), Class::Compat),
        (listing("", &entry("c1/a")).split("</Key>").next().unwrap().to_owned(), Class::Transient),
        (listing("", &entry("c1/a")).replace("</ListBucketResult>", ""), Class::Transient),
        ("<ListAllMyBucketsResult/>".to_owned(), Class::Compat),
    ] {
        let error = always(&servers, 200, &[], body.clone()).list("c1/", None).await.unwrap_err();
        assert_eq!(error.class, class, "{body}: {error}");
        assert!(!error.to_string().contains("SDK"), "{error}");
    }
    // Without a word on whether it goes on, the token says so.
    let token = listing("<NextContinuationToken>t</NextContinuationToken>", "");
    assert_eq!(always(&servers, 200, &[], token).list("c1/", None).await.unwrap().next.as_deref(), Some("t"));
}

#[tokio::test]
async fn parts_and_uploads_that_do_not_move_on_are_an_error() {
    let servers = Servers::start();
    let part = "<Part><PartNumber>1</PartNumber><Size>1</Size><ETag>e</ETag></Part>";
    let parts = |more: &str| format!("<ListPartsResult><IsTruncated>true</IsTruncated>{more}{part}</ListPartsResult>");
    let marker = |number: &str| parts(&format!("<NextPartNumberMarker>{number}</NextPartNumberMarker>"));
    for body in [marker("1"), marker("0"), marker("10001"), marker("x"), parts("")] {
        let error = always(&servers, 200, &[], body.clone()).list_parts(&upload()).await.unwrap_err();
        assert_eq!(error.class, Class::Compat, "{body}: {error}");
        assert!(error.remedy.is_some());
    }
    let (server, store) = answering(&servers, move |_, before| {
        // Two pages by turns, for ever.
        let marker = if before.is_multiple_of(2) { "c1%2Fa" } else { "c1%2Fb" };
        let body = format!(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>{marker}</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker></ListMultipartUploadsResult>"
        );
        Response::new(Full::new(body.into()))
    });
    let error = store.list_uploads("c1/").await.unwrap_err();
    assert_eq!((error.class, server.seen().len()), (Class::Compat, 3), "{error}");
    assert!(server.seen()[1].uri.contains("key-marker=c1%2Fa&"), "sent back decoded: {}", server.seen()[1].uri);
    let open = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated></ListMultipartUploadsResult>";
    assert_eq!(always(&servers, 200, &[], open).list_uploads("c1/").await.unwrap_err().class, Class::Compat);
    // A store without encoding lists its keys as they are.
    let plain = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>\
                 <Upload><Key>c1/a%20b</Key><UploadId>i</UploadId></Upload></ListMultipartUploadsResult>";
    let listed = always(&servers, 200, &[], plain).list_uploads("c1/").await.unwrap();
    assert_eq!(listed[0].upload.key.as_str(), "c1/a%20b");
}

#[tokio::test]
async fn a_body_without_a_length_is_counted() {
    const RANGE: &str = "content-range: bytes 2-5/10";
    let servers = Servers::start();
    let of = async |answer: fn(&str) -> Vec<Vec<u8>>| connect(&location(&servers, &raw(answer).await)).store();
    let range = of(|_| chunked(&format!("206 Partial Content\r\n{RANGE}"), &[b"cd", b"ef"])).await;
    assert_eq!(read(&*range, Some(2..6)).await.unwrap(), b"cdef");
    let silent = of(|_| chunked("206 Partial Content", &[b"cdef"])).await;
    assert_eq!(read(&*silent, Some(2..6)).await.unwrap(), b"cdef");
    // The whole object's length is what HEAD says.
    let whole = of(|head| {
        if head.starts_with("HEAD") {
            return vec![b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\nconnection: close\r\n\r\n".to_vec()];
        }
        chunked("200 OK", &[b"abcde", b"fghij"])
    })
    .await;
    assert_eq!(read(&*whole, None).await.unwrap(), b"abcdefghij");
    let nowhere = of(|head| {
        if head.starts_with("HEAD") {
            return vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec()];
        }
        chunked("200 OK", &[b"abcdefghij"])
    })
    .await;
    for error in [read(&*nowhere, None).await.unwrap_err(), nowhere.head(&key()).await.unwrap_err()] {
        assert!(error.class == Class::Compat && error.remedy.unwrap().contains("Content-Length"));
    }
    // A range says how long the whole is, too.
    let ranged = of(|head| {
        if head.starts_with("HEAD") {
            return vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec()];
        }
        let first = head.to_lowercase().contains("range: bytes=0-0");
        let range = if first { "206 Partial Content\r\ncontent-range: bytes 0-0/10" } else { "200 OK" };
        chunked(range, &[if first { b"a" } else { b"abcdefghij" }])
    })
    .await;
    assert_eq!(ranged.head(&key()).await.unwrap().size, 10);
    assert_eq!(read(&*ranged, None).await.unwrap(), b"abcdefghij");
    // Of the version that was asked for.
    let versions = of(|head| {
        if head.starts_with("HEAD") {
            return vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec()];
        }
        let size = if head.contains("versionId=v1") { 10 } else { 99 };
        chunked(&format!("206 Partial Content\r\ncontent-range: bytes 0-0/{size}"), &[b"a"])
    })
    .await;
    let version = VersionId::new("v1").unwrap();
    assert_eq!(versions.head_version(&key(), &version).await.unwrap().size, 10);
    assert_eq!(versions.head(&key()).await.unwrap().size, 99);
    // A server that does not know ranges sends all of it.
    let ignored = of(|_| chunked("200 OK", &[b"abcde", b"fghij"])).await;
    let error = read(&*ignored, Some(2..6)).await.unwrap_err();
    assert!(error.class == Class::Compat && error.to_string().contains("longer than announced"), "{error}");
    let short = of(|_| chunked(&format!("206 Partial Content\r\n{RANGE}"), &[b"cd"])).await;
    assert_eq!(read(&*short, Some(2..6)).await.unwrap_err().class, Class::Transient);
}

#[tokio::test]
async fn a_range_is_the_range_that_was_asked_for() {
    let servers = Servers::start();
    for (status, range, body, class) in [
        (206, Some("bytes 2-5/10"), "cdef", None),
        (206, None, "cdef", None),
        (200, None, "abcdefghij", Some(Class::Compat)),
        (206, Some("bytes 0-3/10"), "abcd", Some(Class::Compat)),
        (206, Some("bytes 2-3/10"), "cd", Some(Class::Compat)),
        (206, Some("bytes 2-3/4"), "cd", Some(Class::Integrity)),
        (206, Some("bytes 2-5/10"), "cde", Some(Class::Compat)),
        (206, Some("everything"), "cdef", Some(Class::Compat)),
    ] {
        let headers: Vec<_> = range.map(|range| ("content-range", range)).into_iter().collect();
        let found = read(&*always(&servers, status, &headers, body), Some(2..6)).await;
        assert_eq!(found.as_ref().err().map(|error| error.class), class, "{status} {range:?}: {found:?}");
    }
}

#[tokio::test]
async fn ec2_and_sts_are_believed_by_their_documents() {
    let servers = Servers::start();
    let ec2 = |body: &'static str| {
        let server = servers.scripted(Scheme::Http, move |_, _| (200, body.to_owned()));
        connect(&Location { ec2_url: Some(server.url), ..location(&servers, "http://127.0.0.1:1") }).disks()
    };
    let refused =
        "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>m</Message></Error></Errors></Response>";
    let cut = "<DescribeVolumesResponse><volumeSet><item>";
    for (body, class) in
        [(PAGE, Class::Compat), ("", Class::Compat), ("<Other/>", Class::Compat), (refused, Class::AccessDenied)]
    {
        let disks = ec2(body);
        let volumes = disks.volumes(&VolumeFilter::default(), None).await.map(drop);
        let snapshots = disks.snapshots(&SnapshotFilter::default(), None).await.map(drop);
        let deleted = disks.delete_snapshot(&"snap-0123456789abcdef0".parse().unwrap()).await;
        for answer in [volumes, snapshots, deleted] {
            assert_eq!(answer.unwrap_err().class, class, "{body}");
        }
    }
    assert_eq!(ec2(cut).volumes(&VolumeFilter::default(), None).await.unwrap_err().class, Class::Transient);
    let again = "<DescribeVolumesResponse><volumeSet/><nextToken>t</nextToken></DescribeVolumesResponse>";
    let error = ec2(again).volumes(&VolumeFilter::default(), Some("t")).await.unwrap_err();
    assert!(error.class == Class::Compat && error.to_string().contains("does not advance"), "{error}");

    let bare = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId></AccessKeyId></Credentials></AssumeRoleResult></AssumeRoleResponse>";
    for body in [PAGE, "", bare] {
        let sts = servers.scripted(Scheme::Http, move |_, _| (200, body.to_owned()));
        let aws: AwsLocation = connect(&chained(&servers.s3(Scheme::Http), &sts, vec![hop(ROLE_B, None, 3600)]));
        let error = aws.store().list("", None).await.unwrap_err();
        assert_eq!(error.class, Class::Compat, "{body}: {error}");
    }
}
