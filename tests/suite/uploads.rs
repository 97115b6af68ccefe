//! What s3s-fs does not do of multipart uploads, done as S3 does it: NoSuchUpload for one that has ended, and
//! ListMultipartUploads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use http_body_util::BodyExt as _;
use hyper::Response;

pub(crate) struct Uploads {
    /// Where s3s-fs keeps `.upload-ID.json`.
    root: PathBuf,
    /// The key of each upload that was ever created, by ID.
    keys: Mutex<BTreeMap<String, String>>,
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

fn answer(status: u16, body: String) -> Response<s3s::Body> {
    Response::builder().status(status).header("content-type", "application/xml").body(s3s::Body::from(body)).unwrap()
}

impl Uploads {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, keys: Mutex::default() }
    }

    fn exists(&self, id: &str) -> bool {
        self.root.join(format!(".upload-{id}.json")).exists()
    }

    /// The answer to what s3s-fs should not be asked.
    pub(crate) fn instead(&self, method: &str, query: &str) -> Option<Response<s3s::Body>> {
        if let Some(id) = parameter(query, "uploadId") {
            let body =
                "<Error><Code>NoSuchUpload</Code><Message>The specified upload does not exist.</Message></Error>";
            return (!self.exists(id)).then(|| answer(404, body.to_owned()));
        }
        (method == "GET" && parameter(query, "uploads").is_some()).then(|| {
            let prefix = parameter(query, "prefix").unwrap_or_default().replace("%2F", "/");
            let mut list = String::from("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
            for (id, key) in self.keys.lock().unwrap().iter().filter(|(id, key)| key.starts_with(&prefix) && self.exists(id)) {
                let _ = write!(list, "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2026-11-24T00:00:00.000Z</Initiated></Upload>");
            }
            answer(200, list + "</ListMultipartUploadsResult>")
        })
    }

    /// Remembers the ID that a CreateMultipartUpload of `path` was answered with.
    pub(crate) async fn created(&self, path: &str, response: Response<s3s::Body>) -> Response<s3s::Body> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        if let Some((_, rest)) = text.split_once("<UploadId>") {
            let id = rest.split('<').next().unwrap().to_owned();
            let key = path.trim_start_matches('/').split_once('/').unwrap().1.to_owned();
            self.keys.lock().unwrap().insert(id, key);
        }
        Response::from_parts(head, s3s::Body::from(body))
    }
}
