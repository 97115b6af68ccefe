use super::*;
use crate::error::Class as C;

const KEY: &str = "arn:aws:kms:eu-west-1:222222222222:key/1234";
const ROLE: &str = "arn:aws:iam::222222222222:role/BackupWriter";

fn context() -> Context {
    Context {
        sse_kms: true,
        kms_key: Some(KEY.into()),
        role: Some(ROLE.into()),
        region: "eu-west-1".into(),
        asked: Asked { storage_class: Some("NOPE".into()), encryption: true, ..Asked::default() },
        ..Context::default()
    }
}

fn reply<'a>(
    service: Service,
    operation: &'a str,
    status: u16,
    code: impl Into<Option<&'a str>>,
    message: &'a str,
) -> Reply<'a> {
    Reply { service, operation, status: Some(status), code: code.into(), message }
}

/// `(operation, status, code, message, class, a word of the remedy or "")`.
type Row = (&'static str, u16, &'static str, &'static str, C, &'static str);

fn hold(service: Service, rows: &[Row]) {
    for (operation, status, code, message, class, remedy) in rows {
        let code = (!code.is_empty()).then_some(*code);
        let resource = match service {
            Service::S3 => "s3://bucket/key",
            Service::Ec2 => "vol-0123",
            Service::Sts => ROLE,
        };
        let verdict = classify(&reply(service, operation, *status, code, message), &context()).about(resource);
        let said = verdict.remedy.unwrap_or_default();
        assert_eq!(verdict.class, *class, "{operation} {status} {code:?} {message:?} -> {said}");
        assert!(said.contains(remedy), "{operation} {code:?} {message:?}: {said:?} lacks {remedy:?}");
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn kms_through_s3() {
    hold(
        Service::S3,
        &[
            ("PutObject", 403, "AccessDenied", "User: arn:aws:sts::111111111111:assumed-role/W/s is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:eu-west-1:222222222222:key/9 because no identity-based policy allows the kms:GenerateDataKey action", C::KmsDenied, "on arn:aws:kms:eu-west-1:222222222222:key/9 to arn:aws:sts::111111111111:assumed-role/W/s"),
            ("CreateMultipartUpload", 403, "AccessDenied", "User: arn:aws:sts::1:assumed-role/W/s is not authorized to perform: kms:GenerateDataKey on this resource because the resource does not exist in this Region, no resource-based policies allow access, or a resource-based policy explicitly denies access", C::KmsDenied, "in the key policy too"),
            ("UploadPart", 403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:k because no identity-based policy allows the kms:Decrypt action", C::KmsDenied, "kms:Decrypt on arn:aws:kms:k to x"),
            ("GetObject", 403, "AccessDenied", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.", C::KmsDenied, KEY),
            ("PutObject", 400, "KMS.DisabledException", "arn:aws:kms:eu-west-1:2:key/1 is disabled.", C::KmsKeyState, "arn:aws:kms:eu-west-1:2:key/1 is disabled or pending deletion: enable it"),
            ("PutObject", 400, "KMS.KMSInvalidStateException", "arn:aws:kms:eu-west-1:2:key/1 is pending deletion.", C::KmsKeyState, "enable it"),
            ("PutObject", 400, "KMS.NotFoundException", "Invalid keyId 'nope'", C::KmsConfig, "encryption.kms_key_id"),
            ("PutObject", 400, "KMS.NotFoundException", "Key 'arn:aws:kms:eu-west-1:2:key/1' does not exist", C::KmsConfig, "region"),
            ("PutObject", 400, "KMS.NotFoundException", "Invalid arn us-east-1", C::KmsConfig, "eu-west-1"),
            ("PutObject", 400, "KMS.InvalidKeyUsageException", "The request was rejected because the key usage is incompatible", C::KmsConfig, "symmetric"),
            ("UploadPart", 503, "SlowDown", "Please reduce your request rate for operations involving AWS KMS.", C::KmsThrottled, "bucket_key"),
            ("UploadPart", 503, "SlowDown", "Please reduce your request rate.", C::Throttled, ""),
            ("UploadPart", 400, "ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.", C::KmsThrottled, "quota"),
            ("PutObject", 400, "InvalidArgument", "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms", C::KmsConfig, "sse-kms"),
        ],
    );
}

#[test]
#[rustfmt::skip] // One row, one line.
fn s3_replies() {
    hold(
        Service::S3,
        &[
            ("PutObject", 403, "AccessDenied", "User: u is not authorized to perform: s3:PutObject on resource: \"arn:aws:s3:::bucket/key\" because no identity-based policy allows the s3:PutObject action", C::AccessDenied, "grant s3:PutObject on arn:aws:s3:::bucket/key"),
            ("PutObject", 403, "AccessDenied", "User: u is not authorized to perform: s3:PutObject on resource: \"a\" with an explicit deny in a service control policy", C::AccessDenied, "explicit deny"),
            ("ListParts", 403, "AccessDenied", "Access Denied", C::AccessDenied, "grant s3:ListMultipartUploadParts on s3://bucket/key"),
            ("GetObject", 400, "ExpiredToken", "The provided token has expired.", C::CredentialsExpired, ""),
            ("GetObject", 400, "InvalidToken", "The provided token is malformed or otherwise invalid.", C::CredentialsExpired, ""),
            ("GetObject", 400, "TokenRefreshRequired", "The provided token must be refreshed.", C::CredentialsExpired, ""),
            ("PutObject", 403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.", C::ClockSkew, "NTP"),
            ("UploadPart", 400, "RequestTimeout", "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed.", C::Transient, ""),
            ("UploadPart", 404, "NoSuchUpload", "The specified upload does not exist.", C::NotFound, "starts again"),
            ("PutObject", 400, "BadDigest", "The CRC64NVME you specified did not match the calculated checksum.", C::Integrity, ""),
            ("CompleteMultipartUpload", 400, "InvalidPart", "One or more of the specified parts could not be found.", C::Integrity, ""),
            ("PutObject", 400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.", C::Integrity, ""),
            ("PutObject", 501, "NotImplemented", "A header you provided implies functionality that is not implemented: x-amz-tagging", C::Compat, "tags"),
            ("PutObject", 400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc64nvme' received for this API call.", C::Compat, "checksum = \"none\""),
            ("PutObject", 400, "InvalidArgument", "Unsupported header 'x-amz-server-side-encryption'", C::Compat, "bucket-default"),
            ("PutObject", 501, "NotImplemented", "not implemented: x-amz-storage-class", C::Compat, "storage_class"),
            ("PutObject", 400, "InvalidArgument", "The part number must be positive", C::Config, ""),
            ("ListObjectsV2", 301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint.", C::Config, "another region"),
            ("ListObjectsV2", 400, "AuthorizationHeaderMalformed", "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'", C::Config, "region = \"eu-central-1\""),
            ("PutObject", 400, "IllegalLocationConstraintException", "The eu-west-1 location constraint is incompatible", C::Config, "region"),
            ("PutObject", 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", C::Conflict, ""),
            ("PutObject", 409, "ConditionalRequestConflict", "", C::Transient, ""),
            ("CompleteMultipartUpload", 200, "InternalError", "We encountered an internal error. Please try again.", C::Transient, ""),
            ("CompleteMultipartUpload", 200, "SlowDown", "Please reduce your request rate.", C::Throttled, ""),
            ("GetObject", 404, "NoSuchKey", "The specified key does not exist.", C::NotFound, ""),
            ("GetObject", 404, "NoSuchBucket", "The specified bucket does not exist", C::Config, "bucket"),
            ("PutObject", 403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.", C::AccessDenied, "secret"),
            ("PutObject", 403, "SignatureDoesNotMatch", "Signature expired: 20261123T000000Z is now earlier than 20261123T001000Z", C::ClockSkew, "NTP"),
            ("PutObject", 403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.", C::AccessDenied, ""),
            ("PutObject", 501, "NotImplemented", "Conditional object PUTs are not supported.", C::Compat, "without the condition"),
            ("CompleteMultipartUpload", 400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema", C::Compat, "checksum = \"none\""),
            ("UploadPart", 413, "", "<html>413 Request Entity Too Large</html>", C::Config, "client_max_body_size"),
            ("PutObject", 413, "EntityTooLarge", "", C::Config, "upload.part_size"),
            ("UploadPart", 400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size", C::Config, "upload.part_size"),
            ("CompleteMultipartUpload", 400, "EntityTooLarge", "", C::Config, "upload.object_size"),
            ("PutObject", 400, "InvalidArgument", "", C::Config, "storage_class = \"NOPE\""),
            ("CreateMultipartUpload", 400, "InvalidArgument", "", C::Config, "storage_class = \"NOPE\""),
            ("PutObject", 400, "InvalidArgument", "Server Side Encryption with KMS managed key requires HTTP header x-amz-server-side-encryption-aws-kms-key-id", C::KmsConfig, "set encryption.kms_key_id"),
            ("PutObject", 403, "InvalidAccessKeyId", "Failed to retrieve the actual key, kms-keyid: nope", C::KmsConfig, "check encryption.kms_key_id"),
            ("PutObject", 400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters", C::Config, "`checksum`"),
            ("PutObject", 501, "NotImplemented", "Server-side encryption is not supported.", C::Compat, "bucket-default"),
            ("PutObject", 501, "NotImplemented", "Object tagging is not supported.", C::Compat, "tags"),
            ("ListParts", 405, "MethodNotAllowed", "The specified method is not allowed against this resource.", C::Compat, "not resumed"),
            ("AbortMultipartUpload", 405, "MethodNotAllowed", "The specified method is not allowed against this resource.", C::Compat, "--give-up"),
            ("ListMultipartUploads", 501, "NotImplemented", "A parameter you provided implies functionality that is not implemented", C::Compat, "reported"),
            ("PutObject", 405, "", "<html>405 Not Allowed</html>", C::Compat, "s3_url"),
            ("UploadPart", 404, "NoSuchKey", "", C::NotFound, "starts again"),
            ("CompleteMultipartUpload", 404, "NoSuchKey", "", C::NotFound, "starts again"),
            ("HeadBucket", 404, "NotFound", "", C::Config, "check `bucket`, `region` and `s3_url`"),
            ("HeadBucket", 404, "", "", C::Config, "check `bucket`, `region` and `s3_url`"),
            ("ListObjectsV2", 404, "", "", C::Config, "s3_url"),
            ("PutObject", 404, "", "", C::Config, "bucket"),
            ("CreateMultipartUpload", 404, "NotFound", "", C::Config, "bucket"),
            ("GetObject", 404, "", "", C::NotFound, ""),
            ("HeadObject", 404, "NotFound", "", C::NotFound, ""),
            ("DeleteObject", 404, "", "", C::NotFound, ""),
            ("PutObject", 502, "", "<html>Bad Gateway</html>", C::Transient, ""),
            ("PutObject", 407, "", "", C::Config, "proxy"),
            ("PutObject", 400, "SomethingNew", "whatever", C::Config, ""),
            ("PutObject", 429, "SomethingNew", "whatever", C::Throttled, ""),
        ],
    );
}

#[test]
fn a_bare_denial_under_sse_kms_says_it_is_ambiguous() {
    let bare = reply(Service::S3, "UploadPart", 403, "AccessDenied", "Access Denied");
    let verdict = classify(&bare, &context());
    let said = verdict.remedy.unwrap();
    assert_eq!(verdict.class, C::AccessDenied);
    assert!(
        said.contains("s3:PutObject") && said.contains("kms:Decrypt") && said.contains("does not say which"),
        "{said}"
    );
    let said = classify(&bare, &Context { sse_kms: false, ..context() }).remedy.unwrap();
    assert!(!said.contains("kms"), "{said}");
}

#[test]
fn a_head_has_only_a_status() {
    let head = |status, context: &Context| classify(&reply(Service::S3, "HeadObject", status, None, ""), context).class;
    assert_eq!(head(404, &context()), C::NotFound);
    assert_eq!(head(403, &context()), C::AccessDenied);
    assert_eq!(head(400, &context()), C::CredentialsExpired);
    let put = classify(&reply(Service::S3, "PutObject", 304, None, ""), &context());
    assert!(put.class == C::Compat && put.remedy.is_some_and(|remedy| remedy.contains("cache")));
    let elsewhere = Context { bucket_region: Some("us-east-2".into()), ..context() };
    assert_eq!(head(400, &elsewhere), C::Config);
    let verdict = classify(&reply(Service::S3, "HeadObject", 301, None, ""), &elsewhere);
    assert_eq!(verdict, Verdict::new(C::Config, "set region = \"us-east-2\": the bucket is there"));
}

#[test]
#[rustfmt::skip] // One row, one line.
fn sts_replies() {
    hold(
        Service::Sts,
        &[
            ("AssumeRole", 403, "AccessDenied", "User: arn:aws:sts::1:assumed-role/N/i is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::222222222222:role/BackupWriter", C::TrustDenied, "sts:ExternalId"),
            ("AssumeRole", 403, "", "", C::TrustDenied, "the trust policy of arn:aws:iam::222222222222:role/BackupWriter"),
            ("AssumeRoleWithWebIdentity", 403, "", "", C::TrustDenied, "sts:ExternalId"),
            ("GetCallerIdentity", 403, "", "", C::AccessDenied, ""),
            ("AssumeRole", 403, "NobodyKnowsThis", "", C::AccessDenied, ""),
            ("AssumeRole", 400, "ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.", C::Config, "1h"),
            ("AssumeRole", 400, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", C::Config, "1h"),
            ("AssumeRole", 400, "ValidationError", "1 validation error detected: Value at 'roleArn' failed to satisfy constraint", C::Config, "role_arn"),
            ("AssumeRoleWithWebIdentity", 400, "ExpiredTokenException", "Token expired: current date/time must be before the expiration", C::CredentialsExpired, ""),
            ("AssumeRoleWithWebIdentity", 400, "IDPCommunicationError", "", C::CredentialsUnavailable, "OIDC"),
            ("AssumeRoleWithWebIdentity", 400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account", C::CredentialsUnavailable, "OIDC"),
            ("AssumeRole", 403, "RegionDisabledException", "STS is not activated in this region", C::Config, "sts_url"),
            ("AssumeRole", 400, "PackedPolicyTooLarge", "", C::Config, ""),
            ("AssumeRole", 400, "MalformedPolicyDocument", "", C::Config, ""),
            ("AssumeRole", 403, "InvalidClientTokenId", "The security token included in the request is invalid", C::AccessDenied, ""),
            ("AssumeRole", 403, "SignatureDoesNotMatch", "Signature not yet current: 20261123T001000Z is still later than", C::ClockSkew, ""),
            ("AssumeRole", 403, "InvalidSignatureException", "Signature expired: 20261123T000000Z is now earlier than 20261123T001000Z", C::ClockSkew, "NTP"),
            ("AssumeRole", 403, "InvalidSignatureException", "The request signature we calculated does not match", C::AccessDenied, "secret"),
            ("AssumeRole", 403, "ExpiredToken", "The security token included in the request is expired", C::CredentialsExpired, ""),
        ],
    );
}

#[test]
#[rustfmt::skip] // One row, one line.
fn ec2_replies() {
    hold(
        Service::Ec2,
        &[
            ("CreateSnapshot", 400, "SnapshotCreationPerVolumeRateExceeded", "The maximum per volume CreateSnapshot request rate has been exceeded.", C::Busy, ""),
            ("CreateSnapshot", 400, "ConcurrentSnapshotLimitExceeded", "", C::Busy, ""),
            ("CreateSnapshot", 400, "IncorrectState", "", C::Busy, ""),
            ("CreateSnapshot", 400, "PendingSnapshotLimitExceeded", "", C::Busy, ""),
            ("CreateSnapshot", 400, "SnapshotLimitExceeded", "", C::Quota, "snapshot quota"),
            ("CreateVolume", 400, "VolumeLimitExceeded", "", C::Quota, ""),
            ("CreateSnapshot", 503, "RequestLimitExceeded", "Request limit exceeded.", C::Throttled, ""),
            ("CreateSnapshot", 403, "UnauthorizedOperation", "You are not authorized to perform this operation. Encoded authorization failure message: AbC", C::AccessDenied, "grant ec2:CreateSnapshot to arn:aws:iam::222222222222:role/BackupWriter; `aws sts decode"),
            ("CreateSnapshot", 403, "UnauthorizedOperation", "You are not authorized to perform this operation. User: u is not authorized to perform: ec2:CreateTags on resource: r", C::AccessDenied, "ec2:CreateTags"),
            ("DescribeVolumes", 400, "RequestExpired", "Request has expired.", C::CredentialsExpired, ""),
            ("CreateSnapshot", 400, "InvalidVolume.NotFound", "The volume 'vol-1' does not exist.", C::NotFound, ""),
            ("CreateVolume", 400, "InvalidKMSKey.InvalidState", "The KMS key provided is in an incorrect state", C::KmsKeyState, "enable"),
            ("CreateVolume", 400, "InvalidKmsKeyId", "The key is malformed", C::KmsConfig, "in the volume's region"),
            ("CreateVolume", 400, "KMSKeyNotAccessibleFault", "", C::KmsConfig, ""),
            ("DescribeVolumes", 401, "AuthFailure", "AWS was not able to validate the provided access credentials", C::AccessDenied, ""),
        ],
    );
    let expired = reply(Service::Ec2, "DescribeVolumes", 400, "RequestExpired", "Request has expired.");
    assert_eq!(classify(&expired, &Context { credentials_fresh: true, ..context() }).class, C::ClockSkew);
    let gone =
        reply(Service::Ec2, "DescribeVolumes", 400, "InvalidVolume.NotFound", "The volume 'vol-1' does not exist.");
    let verdict = classify(&gone, &context());
    assert_eq!(verdict.class, C::KmsDenied);
    assert!(verdict.remedy.unwrap().contains("inferred"));
    assert_eq!(classify_snapshot_error("Given key ID is not accessible", &context()).class, C::KmsDenied);
}
