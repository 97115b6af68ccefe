//! Classifies the error codes of S3 and S3-compatible stores. What a bare status means depends on the request.

use super::{Algorithm, Class, Context, RESOURCE, Reply, Verdict, word_after};

pub(super) fn classify(code: &str, reply: &Reply<'_>, context: &Context) -> Option<Verdict> {
    let message = reply.message;
    Some(match code {
        "AccessDenied" | "Forbidden" | "AllAccessDisabled" | "AccountProblem" => denied(reply, context),
        "NoSuchKey" | "NotFound" | "NoSuchVersion" => absent(reply),
        "NoSuchUpload" => dead_upload(),
        "NoSuchBucket" | "InvalidBucketName" => no_bucket(),
        "BadDigest" | "InvalidPart" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
            Verdict::bare(Class::Integrity)
        }
        "IncompleteBody" | "OperationAborted" | "ConditionalRequestConflict" => Verdict::bare(Class::Transient),
        "PreconditionFailed" => Verdict::bare(Class::Conflict),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "MovedPermanently" => wrong_region(message, context),
        "InvalidStorageClass" => Verdict::new(Class::Config, "check `storage_class`"),
        "InvalidObjectState" => {
            Verdict::new(Class::Config, "the object is archived: restore it from its storage class first")
        }
        "EntityTooLarge" | "MaxMessageLengthExceeded" => too_large(reply.operation),
        "EntityTooSmall" | "InvalidPartOrder" | "MissingContentLength" => Verdict::bare(Class::Internal),
        "MalformedXML" if reply.operation == "CompleteMultipartUpload" => unread_list(context),
        "NotImplemented" | "XNotImplemented" | "MethodNotAllowed" => unavailable(reply, context),
        "InvalidArgument" | "InvalidRequest" | "UnsupportedArgument" => return argument(reply, context),
        "QuotaExceeded" | "XMinioStorageFull" | "ServiceQuotaExceededException" => {
            Verdict::new(Class::Quota, "the store is full, or the bucket's quota is used up")
        }
        _ => return None,
    })
}

/// A 404 that does not say what is missing: a reply to HEAD never does, and Ceph says `NoSuchKey` of an upload.
pub(super) fn absent(reply: &Reply<'_>) -> Verdict {
    match reply.operation {
        "HeadBucket"
        | "ListObjectsV2"
        | "ListObjectVersions"
        | "ListMultipartUploads"
        | "PutObject"
        | "CreateMultipartUpload" => no_bucket(),
        "UploadPart" | "CompleteMultipartUpload" | "ListParts" | "AbortMultipartUpload" => dead_upload(),
        _ => Verdict::bare(Class::NotFound),
    }
}

fn no_bucket() -> Verdict {
    Verdict::new(Class::Config, "there is no such bucket: check `bucket`, `region` and `s3_url`")
}

fn dead_upload() -> Verdict {
    Verdict::new(Class::NotFound, "the upload was aborted or completed already; it starts again from its first part")
}

pub(super) fn too_large(operation: &str) -> Verdict {
    let remedy = match operation {
        "CompleteMultipartUpload" => "the object is larger than the store takes: lower upload.object_size",
        _ => {
            "a proxy or the store refuses a request of this size: raise its limit above upload.part_size (nginx: \
             client_max_body_size), or lower upload.part_size, which is 5MiB at least"
        }
    };
    Verdict::new(Class::Config, remedy)
}

fn unread_list(context: &Context) -> Verdict {
    let remedy = match context.asked.checksum {
        Algorithm::None => "the store does not read S3's list of parts: see docs/stores.md for those that do",
        _ => "set checksum = \"none\": the store does not read a list of parts with their checksums",
    };
    Verdict::new(Class::Compat, remedy)
}

/// A 400 that names an argument of the request.
fn argument(reply: &Reply<'_>, context: &Context) -> Option<Verdict> {
    let message = reply.message;
    let creates = matches!(reply.operation, "PutObject" | "CreateMultipartUpload");
    if message.contains("Content-MD5") && message.contains("Object Lock") {
        let remedy =
            "the bucket locks its objects and takes none without a checksum: set `checksum` to another than \"none\"";
        return Some(Verdict::new(Class::Config, remedy));
    }
    if message.to_lowercase().contains("object lock") {
        let remedy = "enable versioning and Object Lock on the bucket (docs/security.md), or remove object_lock";
        return Some(Verdict::new(Class::Config, remedy));
    }
    let compared = reply.operation == "CompleteMultipartUpload" && message.contains("mp-object-size");
    if compared && !message.to_lowercase().contains("support") {
        return Some(Verdict::bare(Class::Integrity));
    }
    if names_a_feature(message) {
        return Some(unavailable(reply, context));
    }
    // Ceph refuses an unknown storage class with no more than this.
    let sent = context.asked.words();
    (creates && message.trim().is_empty() && !sent.is_empty()).then(|| {
        let remedy =
            format!("the store does not say which of the location's settings it refuses: check {}", sent.join(", "));
        Verdict::new(Class::Config, remedy)
    })
}

pub(super) fn denied(reply: &Reply<'_>, context: &Context) -> Verdict {
    // AWS: "because object protected by object lock"; Ceph: "forbidden by object lock".
    if reply.message.to_lowercase().contains("object lock") {
        return Verdict::new(Class::AccessDenied, "the version is locked or held: it can be deleted when that is over");
    }
    let action = word_after(reply.message, "perform: ").unwrap_or_else(|| action(reply.operation));
    let resource = word_after(reply.message, "on resource: ").unwrap_or(RESOURCE);
    let role = context.role.as_deref().map_or(String::new(), |role| format!(" to {role}"));
    let explicit = if reply.message.contains("explicit deny") {
        "; an explicit deny (a bucket policy, an SCP or a boundary) wins over every grant"
    } else {
        ""
    };
    // AWS names the action and the resource; a bare "Access Denied" may come from the key just as well.
    let bare = !reply.message.contains("not authorized to perform");
    let ambiguous = if bare && context.sse_kms {
        let key = context.kms_key.as_deref().unwrap_or("the bucket's key");
        format!(
            "; or, since SSE-KMS is in force and the reply does not say which was refused, kms:GenerateDataKey and \
             kms:Decrypt on {key}: `penstock validate` tells the two apart"
        )
    } else {
        String::new()
    };
    Verdict::new(Class::AccessDenied, format!("grant {action} on {resource}{role}{explicit}{ambiguous}"))
}

/// The IAM action an S3 operation needs.
fn action(operation: &str) -> &'static str {
    match operation {
        "GetObject" => "s3:GetObject",
        // Without s3:ListBucket a missing object is a 403.
        "HeadObject" => "s3:GetObject (and s3:ListBucket, without which a missing object looks forbidden)",
        "DeleteObject" => "s3:DeleteObject",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "GetObjectRetention" => "s3:GetObjectRetention",
        "PutObjectRetention" => "s3:PutObjectRetention",
        "GetObjectLegalHold" => "s3:GetObjectLegalHold",
        "PutObjectLegalHold" => "s3:PutObjectLegalHold",
        "CopyObject" | "UploadPartCopy" => "s3:GetObjectVersion and s3:PutObject",
        "ListObjectsV2" | "HeadBucket" => "s3:ListBucket",
        "AbortMultipartUpload" => "s3:AbortMultipartUpload",
        "ListParts" => "s3:ListMultipartUploadParts",
        _ => "s3:PutObject",
    }
}

pub(super) fn wrong_region(message: &str, context: &Context) -> Verdict {
    let expecting = message.split_once("expecting '").and_then(|(_, rest)| rest.split('\'').next());
    match context.bucket_region.as_deref().or(expecting) {
        Some(region) => Verdict::new(Class::Config, format!("set region = {region:?}: the bucket is there")),
        None => Verdict::new(Class::Config, "the bucket is in another region: set `region` to it"),
    }
}

fn names_a_feature(message: &str) -> bool {
    let message = message.to_lowercase();
    let words = ["unsupported", "not supported", "not implemented", "unknown header", "x-amz-", "if-none-match"];
    words.iter().any(|word| message.contains(word))
}

/// The store does not implement the request, or a feature in it: names the setting that turns the feature off, if one does.
pub(super) fn unavailable(reply: &Reply<'_>, context: &Context) -> Verdict {
    let message = reply.message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let setting = if has(&["conditional", "if-none-match"]) {
        "change no setting: Penstock checks that the key is free, then writes it without the condition"
    } else if has(&["checksum", "mp-object-size"]) {
        "set checksum = \"none\""
    } else if has(&["tagging"]) {
        "remove the location's `tags`"
    } else if has(&["storage-class", "storage class"]) {
        "remove `storage_class`"
    } else if has(&["server-side-encryption", "server side encryption", "server-side encryption", "sse-", "kms"]) {
        "set encryption.mode = \"bucket-default\""
    } else if has(&["content-sha256", "unsigned"]) {
        "set upload.sign_payload = \"always\""
    } else {
        return Verdict::new(Class::Compat, by_operation(reply.operation, context));
    };
    Verdict::new(Class::Compat, format!("the store does not implement what was sent: {setting}"))
}

/// The remedy where the store does not implement the request itself.
fn by_operation(operation: &str, context: &Context) -> String {
    let text = match operation {
        "ListParts" => {
            "the store cannot list an upload's parts: an interrupted upload is not resumed but starts again; change no \
setting"
        }
        "AbortMultipartUpload" => {
            "the store cannot abort uploads: only a lifecycle rule of its own (AbortIncompleteMultipartUpload) or its \
             operator removes the parts; then `penstock sweep --give-up` ends the record of the upload"
        }
        "ListMultipartUploads" => "the store cannot list uploads: one whose ID a crash lost is reported, not aborted",
        "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => {
            let settings = context.asked.turned_off();
            let settings =
                if settings.is_empty() { String::new() } else { format!("try {}; or ", settings.join(", ")) };
            return format!(
                "the store does not implement what was sent: {settings}check that `s3_url` is the store's S3 endpoint"
            );
        }
        _ => {
            "the store does not implement this request, which Penstock needs: check that `s3_url` is the store's S3 \
             endpoint"
        }
    };
    text.to_owned()
}
