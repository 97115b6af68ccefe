//! An S3 that keeps versions and locks, on a real socket: the store in memory, whose rules the conformance suite holds it to, behind S3's
//! requests and documents. Signatures are not checked. Its clock is what a test sets, and its replies are dated by it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use penstock::checksum::{Algorithm, Checksum};
use penstock::config::LockMode;
use penstock::format::key::ObjectKey;
use penstock::store::memory::MemoryStore;
use penstock::store::{
    Error, Hold, Lock, Overwrite, PartNumber, Payload, Store as _, UploadHandle, UploadId, UploadedPart, VersionId,
    VersionKind, Versions as _,
};

use crate::servers::{Answer, Scheme, Seen, Servers, see};

pub(crate) const BUCKET: &str = "backups";

type Reply = Response<Full<Bytes>>;
type Refusal = Box<dyn Fn(&Seen) -> Option<Answer> + Send>;

/// Stores that take a lock and do not keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ignores {
    Nothing,
    /// As moto does: the lock of a multipart upload.
    LocksOfUploads,
    /// As an old gateway does: every lock.
    Locks,
}

pub(crate) struct LockingS3 {
    pub(crate) url: String,
    /// What the bucket holds, for a test to look at and to change.
    pub(crate) memory: Arc<MemoryStore>,
    log: Arc<Mutex<Vec<Seen>>>,
    refusal: Arc<Mutex<Refusal>>,
    ignores: Arc<Mutex<Ignores>>,
}

impl LockingS3 {
    pub(crate) fn start(servers: &Servers) -> Self {
        Self::over(servers, Arc::new(MemoryStore::new()))
    }

    pub(crate) fn over(servers: &Servers, memory: Arc<MemoryStore>) -> Self {
        let log: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let refusal: Arc<Mutex<Refusal>> = Arc::new(Mutex::new(Box::new(|_| None)));
        let ignores = Arc::new(Mutex::new(Ignores::Nothing));
        let (store, seen, refuse, quirk) =
            (Arc::clone(&memory), Arc::clone(&log), Arc::clone(&refusal), Arc::clone(&ignores));
        let service = service_fn(move |request: Request<Incoming>| {
            let (store, seen, refuse, quirk) =
                (Arc::clone(&store), Arc::clone(&seen), Arc::clone(&refuse), Arc::clone(&quirk));
            async move {
                let head = see(&request, String::new());
                seen.lock().unwrap().push(head.clone());
                let body = request.into_body().collect().await?.to_bytes();
                let refused = refuse.lock().unwrap()(&head);
                let ignores = *quirk.lock().unwrap();
                let mut reply = match refused {
                    Some((status, body)) => plain(status, body),
                    None => Asked { store: &store, seen: &head, body, ignores }.answer().await,
                };
                let date = store.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                reply.headers_mut().insert("date", date.parse().unwrap());
                Ok::<_, hyper::Error>(reply)
            }
        });
        Self { url: servers.serve(Scheme::Http, service), memory, log, refusal, ignores }
    }

    /// Answers as `refusal` says, where it says something, from here on.
    pub(crate) fn refuse(&self, refusal: impl Fn(&Seen) -> Option<Answer> + Send + 'static) {
        *self.refusal.lock().unwrap() = Box::new(refusal);
    }

    /// Denies these requests, by S3's names of what they do ([`operation`]), from here on.
    pub(crate) fn deny(&self, operations: &[&'static str]) {
        let operations = operations.to_vec();
        let body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        self.refuse(move |seen| operations.contains(&operation(seen)).then(|| (403, body.to_owned())));
    }

    pub(crate) fn ignore(&self, what: Ignores) {
        *self.ignores.lock().unwrap() = what;
    }

    /// How many requests of this kind came.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|seen| operation(seen) == name).count()
    }
}

/// The permission that S3 asks for this request.
pub(crate) fn operation(seen: &Seen) -> &'static str {
    let (path, query) = seen.uri.split_once('?').unwrap_or((&seen.uri, ""));
    let in_bucket = path.trim_matches('/').contains('/');
    let has = |name: &str| parameter(query, name).is_some();
    match (seen.method.as_str(), in_bucket) {
        ("GET", false) if has("versions") => "ListBucketVersions",
        (_, false) => "ListBucket",
        ("PUT", _) if has("retention") => "PutObjectRetention",
        ("PUT", _) if has("legal-hold") => "PutObjectLegalHold",
        ("GET", _) if has("retention") => "GetObjectRetention",
        ("GET", _) if has("legal-hold") => "GetObjectLegalHold",
        ("GET", _) if has("uploadId") => "ListMultipartUploadParts",
        ("GET" | "HEAD", _) if has("versionId") => "GetObjectVersion",
        ("GET" | "HEAD", _) => "GetObject",
        ("DELETE", _) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", _) if has("versionId") => "DeleteObjectVersion",
        ("DELETE", _) => "DeleteObject",
        ("PUT" | "POST", _) if seen.header("x-amz-object-lock-mode").is_some() => "PutObject with a lock",
        _ => "PutObject",
    }
}

fn plain(status: u16, body: String) -> Reply {
    Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}

/// Percent-decodes, a path or a query.
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let decoded = std::iter::from_fn(|| {
        let byte = bytes.next()?;
        let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap();
        Some(if byte == b'%' { u8::try_from(digit() * 16 + digit()).unwrap() } else { byte })
    });
    String::from_utf8(decoded.collect()).unwrap()
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decoded(value))
    })
}

fn encoded(key: &ObjectKey) -> String {
    key.as_str().bytes().fold(String::new(), |mut text, byte| {
        let _ = if byte.is_ascii_alphanumeric() {
            write!(text, "{}", char::from(byte))
        } else {
            write!(text, "%{byte:02X}")
        };
        text
    })
}

fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    rest.split('<').next()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// One request.
struct Asked<'a> {
    store: &'a MemoryStore,
    seen: &'a Seen,
    body: Bytes,
    ignores: Ignores,
}

impl Asked<'_> {
    async fn answer(&self) -> Reply {
        let result = self.route().await;
        result.unwrap_or_else(|error| {
            let (code, message) = (error.code.clone().unwrap_or_default(), escaped(&error.message));
            let head = self.seen.method == "HEAD";
            let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            let mut reply = plain(error.status.unwrap_or(500), if head { String::new() } else { body });
            if let Some(marker) = self.marker().filter(|_| head) {
                reply.headers_mut().insert("x-amz-delete-marker", "true".parse().unwrap());
                reply.headers_mut().insert("x-amz-version-id", marker.as_str().parse().unwrap());
            }
            reply
        })
    }

    fn query(&self) -> &str {
        self.seen.uri.split_once('?').map_or("", |(_, query)| query)
    }

    fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.query(), name)
    }

    fn key(&self) -> Option<ObjectKey> {
        let path = self.seen.uri.split('?').next().unwrap_or_default().trim_start_matches('/');
        let (_, key) = path.split_once('/')?;
        (!key.is_empty()).then(|| ObjectKey::new(decoded(key)))
    }

    fn version(&self) -> Option<VersionId> {
        self.parameter("versionId").map(|version| VersionId::new(version).unwrap())
    }

    /// The marker that hides the key.
    fn marker(&self) -> Option<VersionId> {
        let key = self.key()?;
        let newest = self.store.all_versions().into_iter().find(|entry| entry.key == key)?;
        (newest.kind == VersionKind::Marker).then_some(newest.version)
    }

    /// The lock that the headers ask for.
    fn lock(&self) -> Option<Lock> {
        let until = self.seen.header("x-amz-object-lock-retain-until-date")?.parse().unwrap();
        let mode = mode(self.seen.header("x-amz-object-lock-mode")?);
        (self.ignores != Ignores::Locks).then_some(Lock { mode, until })
    }

    fn payload(&self) -> Payload {
        let header = self.seen.header("x-amz-checksum-crc64nvme");
        let checksum = header.and_then(|header| Checksum::from_header(Algorithm::Crc64nvme, header));
        Payload { pieces: Arc::new([self.body.clone()]), checksum }
    }

    fn upload(&self, key: ObjectKey) -> Option<UploadHandle> {
        self.parameter("uploadId").map(|id| UploadHandle { key, id: UploadId(id) })
    }

    async fn route(&self) -> Result<Reply, Error> {
        let Some(key) = self.key() else { return self.of_the_bucket().await };
        let (method, version) = (self.seen.method.as_str(), self.version());
        let has = |name: &str| self.parameter(name).is_some();
        match method {
            "GET" | "PUT" if has("retention") => self.retention(&key, version.as_ref()).await,
            "GET" | "PUT" if has("legal-hold") => self.legal_hold(&key, version.as_ref()).await,
            "POST" if has("uploads") => {
                let lock = self.lock().filter(|_| self.ignores == Ignores::Nothing);
                let UploadId(id) = self.store.create_locked(&key, lock).await?;
                let body =
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                Ok(plain(200, body))
            }
            _ if has("uploadId") => self.of_an_upload(&self.upload(key).unwrap()).await,
            "GET" | "HEAD" => self.read(&key, version.as_ref()).await,
            "PUT" if self.seen.header("x-amz-copy-source").is_some() => self.copy(&key).await,
            "PUT" => {
                let free = self.seen.header("if-none-match").is_some();
                let overwrite = if free { Overwrite::Refuse } else { Overwrite::Allow };
                let version = self.store.put_locked(&key, self.payload(), overwrite, self.lock()).await?;
                Ok(written(plain(200, String::new()), version.as_ref()))
            }
            "DELETE" => {
                if let Some(version) = &version {
                    self.store.delete_version(&key, version).await?;
                    return Ok(plain(204, String::new()));
                }
                let deleted = self.store.delete(&key).await?;
                let mut reply = plain(204, String::new());
                if deleted == penstock::store::Deleted::Hidden {
                    reply.headers_mut().insert("x-amz-delete-marker", "true".parse().unwrap());
                }
                Ok(reply)
            }
            other => panic!("{other} {}", self.seen.uri),
        }
    }

    async fn of_the_bucket(&self) -> Result<Reply, Error> {
        let prefix = self.parameter("prefix").unwrap_or_default();
        let has = |name: &str| self.parameter(name).is_some();
        if self.seen.method == "HEAD" {
            return Ok(plain(200, String::new()));
        }
        if has("uploads") {
            let mut body = String::from("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
            for listed in self.store.list_uploads(&prefix).await? {
                let UploadHandle { key, id } = listed.upload;
                let initiated = listed.initiated.unwrap();
                let _ = write!(
                    body,
                    "<Upload><Key>{key}</Key><UploadId>{}</UploadId><Initiated>{initiated}</Initiated></Upload>",
                    id.0
                );
            }
            return Ok(plain(200, body + "</ListMultipartUploadsResult>"));
        }
        if has("versions") { self.list_versions(&prefix).await } else { self.list(&prefix).await }
    }

    async fn list(&self, prefix: &str) -> Result<Reply, Error> {
        let page = self.store.list(prefix, self.parameter("continuation-token").as_deref()).await?;
        let mut body = String::from("<ListBucketResult><EncodingType>url</EncodingType>");
        for object in page.objects {
            let (key, size, modified) = (encoded(&object.key), object.size, object.modified);
            let _ = write!(
                body,
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><Size>{size}</Size></Contents>"
            );
        }
        if let Some(next) = &page.next {
            let _ = write!(body, "<NextContinuationToken>{}</NextContinuationToken>", escaped(next));
        }
        let _ = write!(body, "<IsTruncated>{}</IsTruncated>", page.next.is_some());
        Ok(plain(200, body + "</ListBucketResult>"))
    }

    async fn list_versions(&self, prefix: &str) -> Result<Reply, Error> {
        let page = self.store.list_versions(prefix, self.parameter("version-id-marker").as_deref()).await?;
        let mut body = String::from("<ListVersionsResult><EncodingType>url</EncodingType>");
        for entry in &page.entries {
            // Dates have whole seconds, as at AWS.
            let modified = jiff::Timestamp::from_second(entry.modified.as_second()).unwrap();
            let (key, version) = (encoded(&entry.key), &entry.version);
            let of_it =
                format!("<Key>{key}</Key><VersionId>{version}</VersionId><LastModified>{modified}</LastModified>");
            let _ = match entry.kind {
                VersionKind::Object { size } => write!(body, "<Version>{of_it}<Size>{size}</Size></Version>"),
                VersionKind::Marker => write!(body, "<DeleteMarker>{of_it}</DeleteMarker>"),
            };
        }
        if let (Some(next), Some(last)) = (&page.next, page.entries.last()) {
            let key = encoded(&last.key);
            let _ =
                write!(body, "<NextKeyMarker>{key}</NextKeyMarker><NextVersionIdMarker>{next}</NextVersionIdMarker>");
        }
        let _ = write!(body, "<IsTruncated>{}</IsTruncated>", page.next.is_some());
        Ok(plain(200, body + "</ListVersionsResult>"))
    }

    async fn read(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Reply, Error> {
        let info = match version {
            Some(version) => self.store.head_version(key, version).await?,
            None => self.store.head(key).await?,
        };
        let mut reply = Response::builder().header("etag", "\"e\"");
        if let Some(checksum) = info.checksum {
            reply = reply
                .header("x-amz-checksum-crc64nvme", checksum.to_header())
                .header("x-amz-checksum-type", "FULL_OBJECT");
        }
        if let Some(version) = &info.version {
            reply = reply.header("x-amz-version-id", version.as_str());
        }
        if self.seen.method == "HEAD" {
            return Ok(reply.header("content-length", info.size).body(Full::default()).unwrap());
        }
        let range = self.seen.header("range").map(|range| {
            let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            from.parse::<u64>().unwrap()..(to.parse::<u64>().unwrap() + 1).min(info.size)
        });
        let download = match version {
            Some(version) => self.store.get_version(key, version, range.clone()).await?,
            None => self.store.get(key, range.clone()).await?,
        };
        let body = download.body.try_collect::<Vec<_>>().await?.concat();
        if let Some(range) = range {
            let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, info.size);
            reply = reply.status(206).header("content-range", shown);
        }
        Ok(reply.body(Full::new(body.into())).unwrap())
    }

    async fn copy(&self, key: &ObjectKey) -> Result<Reply, Error> {
        let source = self.seen.header("x-amz-copy-source").unwrap();
        let (path, version) = source.split_once("?versionId=").unwrap();
        let from = decoded(path.split_once('/').unwrap().1);
        assert_eq!(from, key.as_str(), "only an object's own versions are copied over it");
        let version = VersionId::new(decoded(version)).unwrap();
        let copied = self.store.copy_version(key, &version, 0, self.lock()).await?;
        let body = "<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>";
        Ok(written(plain(200, body.to_owned()), copied.as_ref()))
    }

    async fn retention(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Reply, Error> {
        if self.seen.method == "PUT" {
            let document = String::from_utf8_lossy(&self.body).into_owned();
            let until = element(&document, "RetainUntilDate").unwrap().parse().unwrap();
            let mode = mode(element(&document, "Mode").unwrap());
            if self.ignores != Ignores::Locks {
                self.store.set_lock(key, version, Lock { mode, until }).await?;
            }
            return Ok(plain(200, String::new()));
        }
        Ok(match self.store.lock(key, version).await? {
            Some(Lock { mode, until }) => {
                let mode = mode.as_str().to_uppercase();
                plain(200, format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"))
            }
            None => plain(404, "<Error><Code>NoSuchObjectLockConfiguration</Code><Message>The specified object does not have a ObjectLock configuration</Message></Error>".to_owned()),
        })
    }

    async fn legal_hold(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<Reply, Error> {
        if self.seen.method == "PUT" {
            let on = String::from_utf8_lossy(&self.body).contains("<Status>ON</Status>");
            self.store.set_hold(key, version, if on { Hold::On } else { Hold::Off }).await?;
            return Ok(plain(200, String::new()));
        }
        let status = if self.store.hold(key, version).await? == Hold::On { "ON" } else { "OFF" };
        Ok(plain(200, format!("<LegalHold><Status>{status}</Status></LegalHold>")))
    }

    async fn of_an_upload(&self, upload: &UploadHandle) -> Result<Reply, Error> {
        match self.seen.method.as_str() {
            "PUT" => {
                let number = self.parameter("partNumber").unwrap().parse().unwrap();
                let part = self.store.upload_part(upload, PartNumber::new(number).unwrap(), self.payload()).await?;
                let mut reply = plain(200, String::new());
                reply.headers_mut().insert("etag", part.etag.parse().unwrap());
                Ok(reply)
            }
            "GET" => {
                let Some(parts) = self.store.list_parts(upload).await? else {
                    let body = "<Error><Code>NoSuchUpload</Code><Message>The specified upload does not exist.</Message></Error>";
                    return Ok(plain(404, body.to_owned()));
                };
                let mut body = String::from("<ListPartsResult><IsTruncated>false</IsTruncated>");
                for UploadedPart { number, size, etag, checksum } in parts {
                    let sum = checksum.map_or_else(String::new, |sum| {
                        format!("<ChecksumCRC64NVME>{}</ChecksumCRC64NVME>", sum.to_header())
                    });
                    let _ = write!(
                        body,
                        "<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>{}</ETag>{sum}</Part>",
                        escaped(&etag)
                    );
                }
                Ok(plain(200, body + "</ListPartsResult>"))
            }
            "DELETE" => {
                self.store.abort_upload(upload).await?;
                Ok(plain(204, String::new()))
            }
            _ => self.complete(upload).await,
        }
    }

    async fn complete(&self, upload: &UploadHandle) -> Result<Reply, Error> {
        let document = String::from_utf8_lossy(&self.body).into_owned();
        let held = self.store.list_parts(upload).await?.unwrap_or_default();
        let part = |text: &str| {
            let number = PartNumber::new(element(text, "PartNumber").unwrap().parse().unwrap()).unwrap();
            let size = held.iter().find(|part| part.number == number).map_or(0, |part| part.size);
            let etag = element(text, "ETag").unwrap_or_default().replace("&quot;", "\"");
            let checksum = element(text, "ChecksumCRC64NVME");
            let checksum = checksum.and_then(|sum| Checksum::from_header(Algorithm::Crc64nvme, sum));
            UploadedPart { number, size, etag, checksum }
        };
        let parts: Vec<_> = document.split("<Part>").skip(1).map(part).collect();
        let announced = self.seen.header("x-amz-mp-object-size").map(|size| size.parse().unwrap());
        let size = announced.unwrap_or_else(|| parts.iter().map(|part| part.size).sum());
        let checksum = self.seen.header("x-amz-checksum-crc64nvme");
        let checksum = checksum.and_then(|sum| Checksum::from_header(Algorithm::Crc64nvme, sum));
        let version = self.store.complete_upload(upload, &parts, size, checksum).await?;
        let body = "<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>";
        Ok(written(plain(200, body.to_owned()), version.as_ref()))
    }
}

fn mode(text: &str) -> LockMode {
    match text {
        "GOVERNANCE" => LockMode::Governance,
        "COMPLIANCE" => LockMode::Compliance,
        other => panic!("{other}"),
    }
}

fn written(mut reply: Reply, version: Option<&VersionId>) -> Reply {
    reply.headers_mut().insert("etag", "\"e\"".parse().unwrap());
    if let Some(version) = version {
        reply.headers_mut().insert("x-amz-version-id", version.as_str().parse().unwrap());
    }
    reply
}
