use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};

use super::*;

fn legible_text(document: &[u8]) -> String {
    String::from_utf8(legible(document.to_vec()).to_vec()).unwrap()
}

#[test]
fn what_is_around_and_in_a_document_is_made_legible() {
    let rows: [(&[u8], &str); 12] = [
        (b"<A>b</A>", "<A>b</A>"),
        (b" \r\n\t<?xml version=\"1.0\"?>\n<A/>", "<A/>"),
        (b"\xef\xbb\xbf<?xml version=\"1.0\"?><A/>", "<A/>"),
        (b"<?xml version=\"1.0\"?>\n  \n<?xml version=\"1.0\"?> <A/>", "<A/>"),
        (b"", ""),
        (b" \n ", ""),
        (b"<K>c1/\x01junk</K>", "<K>c1/\u{fffd}junk</K>"),
        (b"<K>\xff\xfe</K>", "<K>\u{fffd}\u{fffd}</K>"),
        ("<K>\u{ffff}é\u{1f600}</K>".as_bytes(), "<K>\u{fffd}é\u{1f600}</K>"),
        (b"<K>a&amp;b&#1;&#x1F;&lt;</K>", "<K>a&amp;b&#1;&#x1F;&lt;</K>"),
        (
            b"<K>a&b&nbsp;&#xD83D;&#9999999;&</K>",
            "<K>a\u{fffd}b\u{fffd}nbsp;\u{fffd}#xD83D;\u{fffd}#9999999;\u{fffd}</K>",
        ),
        (b"<K>tab\tnew\nline</K>", "<K>tab\tnew\nline</K>"),
    ];
    for (document, expected) in rows {
        assert_eq!(legible_text(document), expected, "{:?}", String::from_utf8_lossy(document));
    }
}

#[test]
fn roots_and_pages() {
    let rows = [
        ("<A b='c'>", Some("A"), false),
        ("<?xml?><!-- <B> --><!DOCTYPE x><ns:A/>", Some("A"), false),
        ("text", None, false),
        ("", None, false),
        ("<", None, false),
        ("<html><body/></html>", Some("html"), true),
        ("<!DOCTYPE HTML PUBLIC \"-//W3C\"><HTML>", Some("HTML"), true),
        ("<!doctype html>no element", None, true),
    ];
    for (document, name, is_page) in rows {
        assert_eq!((root(document), page(document).is_some()), (name, is_page), "{document}");
    }
    let titled = page("<html><head><title> Sign in </title></head></html>").unwrap();
    assert_eq!(titled, " titled \"Sign in\"");
    assert!(page(&format!("<html><title>{}", "é".repeat(500))).unwrap().chars().count() < 100);
}

fn response(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> HttpResponse {
    let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
    for (name, value) in headers {
        response.headers_mut().insert(*name, *value);
    }
    response
}

#[test]
fn a_document_ends_where_its_root_does() {
    let rows = [
        ("<A><B/></A>", true),
        ("<A><B/></A >\n", true),
        ("<ns:A></ns:A>", true),
        ("<?xml version='1.0'?><!-- A --><A b='c' />", true),
        ("<A/>", true),
        ("<A></A><!-- served by x -->", true),
        ("<A></A>\n<?trace id='</B>'?> <!-- </B> -->\n", true),
        ("<A><B/>", false),
        ("<A><B></B>", false),
        ("<A>", false),
        ("<ns:A>", false),
        ("<A>text", false),
        ("<A><!-- a comment -->", false),
        ("<A></A", false),
        ("<A></A><!-- cut", false),
        ("<A></BA>", false),
    ];
    for (document, whole) in rows {
        let expected = if whole { Ok(()) } else { Err(Odd::Cut("A".to_owned())) };
        assert_eq!(rooted(document, "A"), expected, "{document}");
    }
}

#[test]
fn a_success_is_the_services_own() {
    const ETAG: (&str, &str) = ("etag", "\"1\"");
    const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");
    let page = "<html>OK</html>";
    let s3 = |operation, response: HttpResponse| check(Service::S3, operation, &response).map_err(|odd| odd.class());
    // Servers built on common frameworks label an empty answer as HTML: the type says something of objects alone.
    for good in ["PutObject", "UploadPart"] {
        assert_eq!(s3(good, response(200, &[ETAG, HTML], "")), Ok(()));
        assert_eq!(s3(good, response(200, &[HTML], "")), Err(Class::Compat));
        assert_eq!(s3(good, response(204, &[], "")), Err(Class::Compat));
        assert_eq!(s3(good, response(200, &[("etag", "\"\"")], "")), Err(Class::Compat));
        assert_eq!(s3(good, response(200, &[ETAG], page)), Err(Class::Compat));
        assert_eq!(s3(good, response(200, &[ETAG], "OK")), Err(Class::Compat));
        assert_eq!(s3(good, response(403, &[], page)), Ok(()), "a failure is classed elsewhere");
    }
    for done in ["DeleteObject", "AbortMultipartUpload"] {
        assert_eq!(s3(done, response(204, &[HTML], "")), Ok(()));
        assert_eq!(s3(done, response(200, &[], "\n<Done/>")), Ok(()));
        assert_eq!(s3(done, response(200, &[], page)), Err(Class::Compat));
        assert_eq!(s3(done, response(200, &[], "{\"ok\":true}")), Err(Class::Compat));
    }
    for read in ["GetObject", "HeadObject"] {
        assert_eq!(s3(read, response(200, &[("content-type", "application/octet-stream")], "")), Ok(()));
        assert_eq!(s3(read, response(200, &[HTML], "")), Err(Class::Compat));
        assert_eq!(s3(read, response(204, &[], "")), Err(Class::Compat));
        assert_eq!(s3(read, response(200, &[HTML, ("x-amz-request-id", "1")], "")), Ok(()));
    }
    assert_eq!(s3("HeadBucket", response(200, &[HTML], "")), Ok(()));
}

#[test]
fn a_document_is_the_operations_and_whole() {
    let rows = [
        ("<ListBucketResult><A/></ListBucketResult>\n", Ok(())),
        ("<ListBucketResult/>", Ok(())),
        ("<s:ListBucketResult><A/></s:ListBucketResult >", Ok(())),
        ("<Error><Code>SlowDown</Code></Error>", Ok(())),
        ("<ErrorResponse><Error/></ErrorResponse>", Err(Class::Compat)),
        ("<ListBucketResult><Contents><Key>a</Key></Contents>", Err(Class::Transient)),
        ("<ListBucketResult><Contents><Ke", Err(Class::Transient)),
        ("<ListBucketResult>", Err(Class::Transient)),
        ("<ListAllMyBucketsResult/>", Err(Class::Compat)),
        ("<html><body/></html>", Err(Class::Compat)),
        ("", Err(Class::Compat)),
        ("OK", Err(Class::Compat)),
    ];
    for (document, expected) in rows {
        let found = check(Service::S3, "ListObjectsV2", &response(200, &[], document)).map_err(|odd| odd.class());
        assert_eq!(found, expected, "{document}");
    }
    for (service, operation) in [(Service::Ec2, "DeleteSnapshot"), (Service::Sts, "AssumeRole")] {
        let found = |document| check(service, operation, &response(200, &[], document)).is_ok();
        assert!(!found("") && !found("<html/>") && !found("<CreateSnapshotResponse/>"));
    }
    let deleted = "<DeleteSnapshotResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><return>true</return></DeleteSnapshotResponse>";
    assert_eq!(check(Service::Ec2, "DeleteSnapshot", &response(200, &[], deleted)), Ok(()));
}

#[tokio::test]
async fn a_document_is_bounded_and_white_space_before_it_is_not_kept() {
    async fn read(pieces: Vec<Bytes>) -> Result<Bytes, String> {
        let frames = pieces.into_iter().map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
        let body = SdkBody::from_body_1_x(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())));
        let document = Document { body, read: Vec::new(), done: false };
        document.collect().await.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
    }
    let blank = Bytes::from(vec![b' '; MOST]);
    let pieces = [blank.clone(), blank.clone(), Bytes::from_static(b"\n<A"), Bytes::from_static(b"/>")];
    assert_eq!(read(pieces.into()).await.unwrap(), "<A/>");
    assert!(read(vec![Bytes::from_static(b"<"), blank]).await.unwrap_err().contains("longer than"));
}

#[test]
fn a_failure_may_be_somebody_elses() {
    const TO: (&str, &str) = ("location", "https://login.example/in?token=secret");
    let of = |response| elsewhere(Service::S3, &response).map(|odd| odd.to_string());
    let told = of(response(302, &[TO], "")).unwrap();
    assert!(told.contains("https://login.example/in") && !told.contains("secret"), "{told}");
    assert_eq!(of(response(301, &[TO, ("x-amz-bucket-region", "eu-west-1")], "")), None);
    assert!(of(response(404, &[], "<html><title>404 Not Found</title></html>")).unwrap().contains("404 Not Found"));
    assert_eq!(of(response(404, &[], "")), None);
    assert_eq!(of(response(503, &[], "<html/>")), None);
}
