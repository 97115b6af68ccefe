//! What a service's reply means: a pure function from the reply to a [`Class`] and one sentence on what to do.
//!
//! One table for every operator-facing failure; `classify/tests.rs` holds a row for each. A code
//! that is not known is classed by its HTTP status, never guessed from its text alone.

mod s3;
#[cfg(test)]
mod tests;

use crate::checksum::Algorithm;
use crate::error::Class;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    S3,
    Ec2,
    Sts,
}

impl Service {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
        }
    }
}

/// An error reply, as the service sent it.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    pub service: Service,
    /// As the service names it, `UploadPart`.
    pub operation: &'a str,
    /// `None` for a failure that is reported inside a reply (a snapshot's state).
    pub status: Option<u16>,
    /// `None` where a reply has no body: HEAD.
    pub code: Option<&'a str>,
    pub message: &'a str,
}

/// What Penstock knows besides the reply.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Objects are encrypted with KMS, as far as the configuration says.
    pub sse_kms: bool,
    /// The key as configured.
    pub kms_key: Option<String>,
    /// The role the credentials are of, as configured.
    pub role: Option<String>,
    /// The region as configured.
    pub region: String,
    /// What the location asks for with each new object.
    pub asked: Asked,
    /// The bucket's region, where the reply says it (`x-amz-bucket-region`).
    pub bucket_region: Option<String>,
    /// The credentials were refreshed after an earlier failure of this kind.
    pub credentials_fresh: bool,
}

/// What a location asks for with each new object, and not every store knows.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub checksum: Algorithm,
    pub storage_class: Option<String>,
    pub tags: bool,
    /// Another mode than `bucket-default`.
    pub encryption: bool,
}

impl Asked {
    /// The settings, as they stand in the configuration.
    fn words(&self) -> Vec<String> {
        let class = self.storage_class.as_ref().map(|class| format!("storage_class = {class:?}"));
        let tags = self.tags.then(|| "`tags`".to_owned());
        class.into_iter().chain(self.encryption.then(|| "`encryption`".to_owned())).chain(tags).collect()
    }

    /// What turns each of them off.
    fn turned_off(&self) -> Vec<&'static str> {
        let checksum = (self.checksum != Algorithm::None).then_some("checksum = \"none\"");
        let tags = self.tags.then_some("no `tags`");
        let class = self.storage_class.is_some().then_some("no `storage_class`");
        let encryption = self.encryption.then_some("encryption.mode = \"bucket-default\"");
        [checksum, tags, class, encryption].into_iter().flatten().collect()
    }
}

/// The class, and what to do where there is more to say than the message does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub class: Class,
    pub remedy: Option<String>,
}

/// Stands in a remedy for what was asked of: only the caller knows it.
const RESOURCE: &str = "{resource}";

impl Verdict {
    /// With the resource in its place.
    #[must_use]
    pub fn about(self, resource: &str) -> Self {
        Self { remedy: self.remedy.map(|remedy| remedy.replace(RESOURCE, resource)), ..self }
    }

    pub(super) fn new(class: Class, remedy: impl Into<String>) -> Self {
        Self { class, remedy: Some(remedy.into()) }
    }

    pub(super) const fn bare(class: Class) -> Self {
        Self { class, remedy: None }
    }
}

#[must_use]
pub fn classify(reply: &Reply<'_>, context: &Context) -> Verdict {
    let Some(code) = reply.code else { return by_status(reply, context) };
    if let Some(verdict) = kms(code, reply, context).or_else(|| common(code, reply, context)) {
        return verdict;
    }
    let found = match reply.service {
        Service::S3 => s3::classify(code, reply, context),
        Service::Sts => sts(code, reply),
        Service::Ec2 => ec2(code, reply, context),
    };
    found.unwrap_or_else(|| by_status(reply, context))
}

/// Failures of the key, whatever service passes them on.
fn kms(code: &str, reply: &Reply<'_>, context: &Context) -> Option<Verdict> {
    let message = reply.message;
    let denied = message.contains("kms:") || message.contains("ciphertext refers to a customer master key");
    let throttled = message.contains("KMS") && (code == "SlowDown" || code.starts_with("Throttling"));
    let header = code == "InvalidArgument" && message.contains("KMS managed key");
    // Ceph has no key of its own, and calls the key that it cannot get an access key.
    let keyless = header && message.contains("kms-key-id");
    let lost = message.contains("kms-keyid");
    Some(match code {
        "UnauthorizedOperation" if denied => Verdict::new(Class::KmsDenied, volume_key_grant(context)),
        "AccessDenied" | "KMS.AccessDeniedException" if denied => kms_denied(reply, context),
        "KMS.DisabledException" | "KMS.KMSInvalidStateException" => key_state(message),
        "KMS.NotFoundException" | "KMS.InvalidKeyUsageException" => key_config(context),
        _ if throttled || code == "KMS.ThrottlingException" => {
            Verdict::new(Class::KmsThrottled, "raise the KMS request quota, or set encryption.bucket_key = true")
        }
        _ if keyless => Verdict::new(Class::KmsConfig, "set encryption.kms_key_id: this store has no default key"),
        _ if lost => key_config(context),
        _ if header => {
            Verdict::new(Class::KmsConfig, "set encryption.mode = \"sse-kms\" wherever encryption.kms_key_id is given")
        }
        _ if reply.service == Service::Ec2 && (code.contains("KMSKey") || code.contains("KmsKey")) => {
            let state = ["State", "Disabled", "Pending"].iter().any(|word| code.contains(word))
                || ["disabled", "pending deletion", "invalid state"].iter().any(|word| message.contains(word));
            if state {
                key_state(message)
            } else {
                Verdict::new(
                    Class::KmsConfig,
                    "check the key: a symmetric one, by its full ARN, in the volume's region",
                )
            }
        }
        _ => return None,
    })
}

fn kms_denied(reply: &Reply<'_>, context: &Context) -> Verdict {
    let arn = word_after(reply.message, "on resource: ");
    let key = arn.or(context.kms_key.as_deref()).unwrap_or("the bucket's key");
    let role = word_after(reply.message, "User: ").or(context.role.as_deref()).unwrap_or("the role in use");
    Verdict::new(
        Class::KmsDenied,
        format!(
            "grant kms:GenerateDataKey and kms:Decrypt on {key} to {role}, in the key policy too if the key is in \
             another account"
        ),
    )
}

fn key_state(message: &str) -> Verdict {
    let key = message.split_whitespace().next().filter(|word| word.starts_with("arn:")).unwrap_or("the KMS key");
    Verdict::new(Class::KmsKeyState, format!("{key} is disabled or pending deletion: enable it"))
}

fn key_config(context: &Context) -> Verdict {
    let key =
        context.kms_key.as_deref().map_or_else(|| "the bucket's default key".to_owned(), |key| format!("{key:?}"));
    Verdict::new(
        Class::KmsConfig,
        format!(
            "check encryption.kms_key_id ({key}): a symmetric key, by its full ARN, in the bucket's region{}",
            if context.region.is_empty() { String::new() } else { format!(" ({})", context.region) }
        ),
    )
}

/// What every service answers alike.
fn common(code: &str, reply: &Reply<'_>, context: &Context) -> Option<Verdict> {
    let skewed = reply.message.contains("Signature expired") || reply.message.contains("not yet current");
    Some(match code {
        "RequestTimeTooSkewed" => clock_skew(),
        "SignatureDoesNotMatch" | "InvalidSignatureException" if skewed => clock_skew(),
        "SignatureDoesNotMatch" | "InvalidSignatureException" => Verdict::new(
            Class::AccessDenied,
            "the secret access key is not the one of this access key ID (or a proxy changes requests on their way)",
        ),
        "InvalidAccessKeyId" | "InvalidClientTokenId" | "AuthFailure" => Verdict::new(
            Class::AccessDenied,
            "the service does not know this access key: was it deleted, or is it another partition's?",
        ),
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            Verdict::bare(Class::CredentialsExpired)
        }
        "RequestExpired" if context.credentials_fresh => clock_skew(),
        "RequestExpired" => Verdict::bare(Class::CredentialsExpired),
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "RequestThrottled"
        | "BandwidthLimitExceeded" => Verdict::bare(Class::Throttled),
        "InternalError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "Unavailable"
        | "RequestTimeout"
        | "RequestTimeoutException" => Verdict::bare(Class::Transient),
        _ => return None,
    })
}

fn clock_skew() -> Verdict {
    Verdict::new(Class::ClockSkew, "this host's clock is off by more than the service takes: fix NTP")
}

fn sts(code: &str, reply: &Reply<'_>) -> Option<Verdict> {
    Some(match code {
        "AccessDenied" | "AccessDeniedException" if reply.operation.starts_with("AssumeRole") => trust_denied(),
        "ValidationError"
            if reply.message.contains("session limit") || reply.message.contains("MaxSessionDuration") =>
        {
            Verdict::new(Class::Config, "set this hop's duration = \"1h\"")
        }
        "ValidationError" => {
            Verdict::new(Class::Config, "check this hop's role_arn, external_id, session_name and duration")
        }
        "IDPCommunicationError" | "InvalidIdentityToken" => Verdict::new(
            Class::CredentialsUnavailable,
            "check the role's OIDC provider and the token's audience; often it passes",
        ),
        "IDPRejectedClaim" => {
            Verdict::new(Class::TrustDenied, "the role's trust policy does not take this token's claims")
        }
        "RegionDisabledException" => Verdict::new(
            Class::Config,
            "enable STS for this region in the account, or set `sts_url` to another region's",
        ),
        "PackedPolicyTooLarge" | "MalformedPolicyDocument" => Verdict::bare(Class::Config),
        _ => return None,
    })
}

fn trust_denied() -> Verdict {
    Verdict::new(
        Class::TrustDenied,
        format!(
            "AWS does not say which of these refused: the trust policy of {RESOURCE} (its Principal must be the caller), its \
             sts:ExternalId condition, or the caller's own policy, which must allow sts:AssumeRole on it"
        ),
    )
}

fn ec2(code: &str, reply: &Reply<'_>, context: &Context) -> Option<Verdict> {
    Some(match code {
        "SnapshotCreationPerVolumeRateExceeded"
        | "ConcurrentSnapshotLimitExceeded"
        | "IncorrectState"
        | "PendingSnapshotLimitExceeded"
        | "InsufficientVolumeCapacity"
        | "IncorrectModificationState" => Verdict::bare(Class::Busy),
        "SnapshotLimitExceeded" => Verdict::new(Class::Quota, "raise the account's EBS snapshot quota in this region"),
        "UnauthorizedOperation" | "AccessDenied" => {
            let action = word_after(reply.message, "perform: ")
                .map_or_else(|| format!("ec2:{}", reply.operation), str::to_owned);
            let role = context.role.as_deref().unwrap_or("the role in use");
            let encoded = if reply.message.contains("Encoded authorization failure message") {
                "; `aws sts decode-authorization-message` shows what refused it"
            } else {
                ""
            };
            Verdict::new(Class::AccessDenied, format!("grant {action} to {role}{encoded}"))
        }
        // Volumes are described by their IDs only where they have just been created, with success; others are looked for by filters.
        "InvalidVolume.NotFound" if reply.operation == "DescribeVolumes" => Verdict::new(
            Class::KmsDenied,
            format!(
                "inferred, EC2 does not say: a new volume that disappears had a KMS key that was not accessible; {}",
                volume_key_grant(context)
            ),
        ),
        _ if code.ends_with(".NotFound") => Verdict::bare(Class::NotFound),
        _ if code.ends_with("LimitExceeded") => {
            Verdict::new(Class::Quota, "raise this quota of the account in this region")
        }
        "Blocked" | "OptInRequired" | "PendingVerification" => Verdict::bare(Class::AccessDenied),
        "InvalidParameterValue"
        | "InvalidParameterCombination"
        | "MissingParameter"
        | "UnknownParameter"
        | "InvalidZone.NotFound" => Verdict::bare(Class::Config),
        _ => return None,
    })
}

/// What EBS needs of a key.
fn volume_key_grant(context: &Context) -> String {
    let key = context.kms_key.as_deref().unwrap_or("the volume's KMS key");
    let role = context.role.as_deref().unwrap_or("the role in use");
    format!("grant kms:CreateGrant, kms:Decrypt and kms:GenerateDataKeyWithoutPlaintext on {key} to {role}")
}

/// A snapshot that ended in the state `error`: EC2 reports it in the snapshot's state message, not as an error.
#[must_use]
pub fn classify_snapshot_error(state_message: &str, context: &Context) -> Verdict {
    if state_message.contains("key ID is not accessible") || state_message.contains("KMS") {
        Verdict::new(Class::KmsDenied, volume_key_grant(context))
    } else {
        Verdict::bare(Class::Transient)
    }
}

fn by_status(reply: &Reply<'_>, context: &Context) -> Verdict {
    match reply.status {
        Some(301 | 302 | 307 | 308) => s3::wrong_region(reply.message, context),
        // Nothing of Penstock's asks whether something has changed.
        Some(304) => Verdict::new(
            Class::Compat,
            "the server says that nothing has changed, which was not asked: is the URL that of S3, STS or EC2, and does no \
             cache answer in its place?",
        ),
        // A HEAD has no body: an expired token, a wrong region and a malformed request are all a bare 400.
        Some(400) if reply.code.is_none() => match &context.bucket_region {
            Some(region) if *region != context.region => s3::wrong_region(reply.message, context),
            _ => Verdict::bare(Class::CredentialsExpired),
        },
        Some(401 | 403) => match reply.service {
            Service::S3 => s3::denied(reply, context),
            // Other stores' STS may refuse without a word. A code that is there, and not known, may be about the key.
            Service::Sts if reply.code.is_none() && reply.operation.starts_with("AssumeRole") => trust_denied(),
            Service::Ec2 | Service::Sts => Verdict::bare(Class::AccessDenied),
        },
        Some(404) if reply.service == Service::S3 => s3::absent(reply),
        Some(404) => Verdict::bare(Class::NotFound),
        Some(405 | 501) => s3::unavailable(reply, context),
        Some(413) => s3::too_large(reply.operation),
        Some(407) => {
            Verdict::new(Class::Config, "the proxy asks for a user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST")
        }
        Some(409 | 412) => Verdict::bare(Class::Conflict),
        Some(416) => Verdict::new(Class::Integrity, "the object is shorter than expected"),
        Some(429) => Verdict::bare(Class::Throttled),
        Some(408 | 500..) => Verdict::bare(Class::Transient),
        Some(400..) => Verdict::bare(Class::Config),
        // A 200 that carried an unknown error, or none that is known: nothing was done, and the next attempt may do.
        Some(_) | None => Verdict::bare(Class::Transient),
    }
}

/// The word that follows `before` in an AWS message, without a sentence's end.
fn word_after<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(before)?;
    let word = rest.split_whitespace().next()?.trim_matches(['"', '\'', '.', ',']);
    (!word.is_empty()).then_some(word)
}
