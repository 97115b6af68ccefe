//! Jobs whose answers come from something that is no store, or in a form that is not S3's.

use penstock::job;

use super::*;

fn answer(head: &str, body: &str) -> Fault {
    let length = body.len();
    Fault::Instead(
        format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes(),
    )
}

const PAGE: &str = "<html><head><title>Welcome</title></head></html>";

/// What something that stores nothing may say to a PUT.
fn lies() -> [(&'static str, Fault); 5] {
    [
        ("a page", answer("200 OK\r\ncontent-type: text/html", PAGE)),
        ("a page with an ETag", answer("200 OK\r\ncontent-type: text/html\r\netag: \"5e8f\"", PAGE)),
        ("nothing", answer("200 OK", "")),
        ("no content", Fault::Instead(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec())),
        ("an empty ETag", answer("200 OK\r\netag: \"\"", "")),
    ]
}

/// `head`, `body` of an answer.
fn split(answer: &[u8]) -> (String, &[u8]) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), &answer[end + 4..])
}

fn without(head: &str, name: &str) -> String {
    head.split("\r\n").filter(|line| !line.to_lowercase().starts_with(name)).collect::<Vec<_>>().join("\r\n")
}

fn chunked(head: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let mut answer = format!(
        "{}\r\ntransfer-encoding: chunked\r\n\r\n",
        without(&without(head, "content-length:"), "transfer-encoding:")
    );
    let mut answer = std::mem::take(&mut answer).into_bytes();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// With another body.
fn with_body(answer: &[u8], body: &str) -> Vec<u8> {
    let head = without(&without(&split(answer).0, "content-length:"), "transfer-encoding:");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_nobody_took_fails_the_job() {
    for (what, lie) in lies() {
        let house = House::new();
        house.proxy.script(move |operation, _| (operation == Operation::Put).then(|| lie.clone()));
        let failed = house.run().await.unwrap_err();
        assert_eq!(failed.class(), Class::Compat, "{what}: {failed}");
        assert!(!matches!(failed, job::Error::Undecided { .. }), "{what}: the index was the first");
        house.proxy.behave();
        assert_eq!(house.orphans(&[]).await, Vec::<String>::new(), "{what}");
        house.nothing_is_left(what).await;
    }
}

/// It may be there all the same, on its way: what it names stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_nobody_took_is_no_backup() {
    let good = ("an ETag of somebody's", answer("200 OK\r\netag: \"5e8f\"", ""));
    for (what, lie) in lies().into_iter().chain([good]) {
        let house = House::new();
        house.proxy.script(move |operation, count| (operation == Operation::Put && count == 1).then(|| lie.clone()));
        let failed = house.run().await.unwrap_err();
        assert_eq!(failed.class(), Class::Compat, "{what}: {failed}");
        assert!(matches!(failed, job::Error::Undecided { .. }), "{what}: {failed}");
        house.proxy.behave();
        let catalog = Catalog::new(&house.past_the_proxy());
        assert_eq!(catalog.entries(Scope::default()).await.unwrap().len(), 0, "{what}");
        house.nothing_is_left(what).await;
    }
}

/// Where every answer is wrong, the commit is in doubt: `a_commit_that_nobody_answers_is_looked_for_and_never_undone`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_answer_to_the_read_back_leaves_the_backup_committed() {
    let house = House::new();
    let (put, lied) = (AtomicBool::new(false), AtomicBool::new(false));
    house.proxy.script(move |operation, count| match operation {
        Operation::Put => {
            put.fetch_or(count == 1, Ordering::SeqCst);
            None
        }
        Operation::Read if put.load(Ordering::SeqCst) && !lied.swap(true, Ordering::SeqCst) => {
            Some(Fault::Header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="))
        }
        _ => None,
    });
    let injected = house.proxy.injected();
    let manifest = house.run().await.unwrap();
    assert_eq!(house.proxy.injected(), injected + 1);
    house.proxy.behave();
    house.verify(&manifest).await;
    house.nothing_is_left("the run").await;
}

/// A store that takes an object may lack the ETag in the answer, for all that a proxy leaves of it: the object decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_was_taken_is_a_backup_whatever_was_said() {
    let house = House::new();
    house.proxy.script(|operation, count| {
        let rewrite = |answer: &[u8]| {
            let (head, body) = split(answer);
            [without(&head, "etag:").as_bytes(), b"\r\n\r\n", body].concat()
        };
        (operation == Operation::Put && count == 1).then_some(Fault::Rewrite(rewrite))
    });
    let manifest = house.run().await.unwrap();
    house.verify(&manifest).await;
    house.nothing_is_left("the run").await;
}

/// A role that may write and not read is told, and not failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_may_not_be_read_back_is_believed_by_its_answer() {
    let house = House::new();
    house
        .proxy
        .script(|operation, _| (operation == Operation::Read).then_some(Fault::Answer(403, Some("AccessDenied"))));
    let manifest = house.run().await.unwrap();
    house.verify(&manifest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_is_taken_for_what_it_did() {
    let spaced: fn(&[u8]) -> Vec<u8> = |answer| {
        let (head, body) = split(answer);
        chunked(&head, &[b" \n", b" \n", body])
    };
    let bare: fn(&[u8]) -> Vec<u8> =
        |answer| with_body(answer, "<CompleteMultipartUploadResult><ETag/></CompleteMultipartUploadResult>");
    let page: fn(&[u8]) -> Vec<u8> = |answer| with_body(answer, PAGE);
    let empty: fn(&[u8]) -> Vec<u8> = |answer| with_body(answer, "");
    let cut: fn(&[u8]) -> Vec<u8> = |answer| with_body(answer, "<CompleteMultipartUploadResult><ETag>");
    // What a Complete that is made again is told while the first is still at work, or has ended.
    let in_the_way: fn(&[u8]) -> Vec<u8> = |_| {
        let error = "<Error><Code>OperationAborted</Code><Message>A conflicting operation</Message></Error>";
        let length = error.len();
        format!("HTTP/1.1 409 Conflict\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\n\r\n{error}")
            .into_bytes()
    };
    for (what, rewrite) in [
        ("white space", spaced),
        ("no ETag", bare),
        ("a page", page),
        ("nothing", empty),
        ("half", cut),
        ("in the way", in_the_way),
    ] {
        // One is made again until patience ends, and then the object is looked for.
        let house = House::with(Duration::from_secs(1), None);
        house.proxy.script(move |operation, _| (operation == Operation::Complete).then_some(Fault::Rewrite(rewrite)));
        let manifest = house.run().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        house.verify(&manifest).await;
        assert_eq!(house.orphans(&[manifest]).await, Vec::<String>::new(), "{what}");
        house.nothing_is_left(what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_nobody_did_fails_the_job() {
    let house = House::new();
    let lie = answer("200 OK\r\ncontent-type: text/html", PAGE);
    house.proxy.script(move |operation, _| (operation == Operation::Complete).then(|| lie.clone()));
    let failed = house.run().await.unwrap_err();
    assert_eq!(failed.class(), Class::Compat, "{failed}");
    house.proxy.behave();
    assert_eq!(house.orphans(&[]).await, Vec::<String>::new());
    house.nothing_is_left("the run").await;
}

/// An error behind white space is that error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_that_fails_behind_white_space_is_made_again() {
    let house = House::new();
    let error =
        answer("200 OK", " \n<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>m</Message></Error>");
    house.proxy.script(move |operation, count| (operation == Operation::Complete && count < 2).then(|| error.clone()));
    let manifest = house.run().await.unwrap();
    house.verify(&manifest).await;
    assert_eq!(house.proxy.seen(Operation::Complete), 4, "two objects, two failures");
}

/// What was stored is read, though no answer says how long it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_in_chunks_are_read() {
    let mut house = House::new();
    let manifest = house.run().await.unwrap();
    house.proxy.script(|operation, _| {
        let rewrite = |answer: &[u8]| {
            let (head, body) = split(answer);
            // HEAD keeps its length.
            if body.is_empty() { answer.to_vec() } else { chunked(&head, &[body]) }
        };
        (operation == Operation::Read).then_some(Fault::Rewrite(rewrite))
    });
    house.direct = Arc::clone(&house.location.store);
    house.verify(&manifest).await;
}
