//! Gives every failure that reaches an operator a [`Class`] from one closed list, and a [`Report`].
//!
//! Each module has its own error type, which implements [`Classify`]. The class decides the exit code, the metric label and
//! whether the request is repeated, so it is set once, where the failure is first understood, and then only passed on. The
//! report has one type everywhere: in the manifest, the daemon's state, its status and page, and on the terminal.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The closed list of failure classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    KmsDenied,
    KmsKeyState,
    KmsConfig,
    KmsThrottled,
    AccessDenied,
    TrustDenied,
    CredentialsExpired,
    CredentialsUnavailable,
    ClockSkew,
    Throttled,
    Transient,
    Tls,
    Config,
    Compat,
    NotFound,
    Conflict,
    Integrity,
    /// No identity, or none of the recipients'.
    Identity,
    Busy,
    Quota,
    Source,
    Local,
    Cancelled,
    Timeout,
    Internal,
}

/// Whether a request is repeated after a failure of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Repeating the request would not help.
    No,
    /// Once more, at once: the cause is repaired by the attempt itself (fresh credentials, a re-sent part).
    Once,
    /// Again after a growing pause.
    BackOff,
}

impl Class {
    pub const ALL: [Self; 25] = [
        Self::KmsDenied,
        Self::KmsKeyState,
        Self::KmsConfig,
        Self::KmsThrottled,
        Self::AccessDenied,
        Self::TrustDenied,
        Self::CredentialsExpired,
        Self::CredentialsUnavailable,
        Self::ClockSkew,
        Self::Throttled,
        Self::Transient,
        Self::Tls,
        Self::Config,
        Self::Compat,
        Self::NotFound,
        Self::Conflict,
        Self::Integrity,
        Self::Identity,
        Self::Busy,
        Self::Quota,
        Self::Source,
        Self::Local,
        Self::Cancelled,
        Self::Timeout,
        Self::Internal,
    ];

    /// The name used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KmsDenied => "kms-denied",
            Self::KmsKeyState => "kms-key-state",
            Self::KmsConfig => "kms-config",
            Self::KmsThrottled => "kms-throttled",
            Self::AccessDenied => "access-denied",
            Self::TrustDenied => "trust-denied",
            Self::CredentialsExpired => "credentials-expired",
            Self::CredentialsUnavailable => "credentials-unavailable",
            Self::ClockSkew => "clock-skew",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Tls => "tls",
            Self::Config => "config",
            Self::Compat => "compat",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Integrity => "integrity",
            Self::Identity => "identity",
            Self::Busy => "busy",
            Self::Quota => "quota",
            Self::Source => "source",
            Self::Local => "local",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The class of that name; `None` for a name of another version.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The process's exit code, after sysexits.h.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Integrity => 65,            // EX_DATAERR
            Self::NotFound => 66,             // EX_NOINPUT
            Self::Quota => 69,                // EX_UNAVAILABLE
            Self::Internal => 70,             // EX_SOFTWARE
            Self::Conflict => 73,             // EX_CANTCREAT
            Self::Source | Self::Local => 74, // EX_IOERR
            Self::KmsThrottled
            | Self::CredentialsExpired
            | Self::CredentialsUnavailable
            | Self::ClockSkew
            | Self::Throttled
            | Self::Transient
            | Self::Busy
            | Self::Cancelled
            | Self::Timeout => 75, // EX_TEMPFAIL
            Self::KmsDenied | Self::KmsKeyState | Self::AccessDenied | Self::TrustDenied | Self::Identity => 77, // EX_NOPERM
            Self::KmsConfig | Self::Tls | Self::Config | Self::Compat => 78, // EX_CONFIG
        }
    }

    /// Whether and how [`crate::retry`] repeats a request that failed with this class.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::KmsThrottled | Self::CredentialsUnavailable | Self::Throttled | Self::Transient | Self::Busy => {
                Retry::BackOff
            }
            Self::CredentialsExpired | Self::ClockSkew | Self::Integrity => Retry::Once,
            Self::KmsDenied
            | Self::KmsKeyState
            | Self::KmsConfig
            | Self::AccessDenied
            | Self::TrustDenied
            | Self::Tls
            | Self::Config
            | Self::Compat
            | Self::NotFound
            | Self::Conflict
            | Self::Identity
            | Self::Quota
            | Self::Source
            | Self::Local
            | Self::Cancelled
            | Self::Timeout
            | Self::Internal => Retry::No,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One failure as the operator sees it, in every place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// An unknown class, written by another version, is read as [`Class::Internal`].
    #[serde(deserialize_with = "class_of_any_version")]
    pub class: Class,
    /// The action, its object, and the cause. Never a secret.
    pub message: String,
    /// One sentence on what to do; `None` if the message says enough.
    pub remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Cow<'static, str>>,
    /// The service's own error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

fn class_of_any_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
    let name = String::deserialize(deserializer)?;
    Ok(Class::named(&name).unwrap_or(Class::Internal))
}

impl Report {
    /// See [`ServiceError::is_incapable`].
    #[must_use]
    pub fn is_incapable(&self) -> bool {
        self.class == Class::Compat && self.code.as_deref() != Some(NOT_THE_SERVICE)
    }

    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), remedy: None, service: None, code: None, request_id: None }
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Implemented by every module's error type.
pub trait Classify: std::error::Error {
    fn report(&self) -> Report;

    fn class(&self) -> Class {
        self.report().class
    }
}

/// The code of a failure where something other than the service answered.
pub const NOT_THE_SERVICE: &str = "NotTheService";

/// A failed request: operation, resource, answer, and class.
#[derive(Debug, Clone)]
pub struct ServiceError {
    /// The service's name for it, `UploadPart`.
    pub operation: &'static str,
    /// `s3://bucket/key`, a role ARN, an endpoint: never a secret.
    pub resource: String,
    pub service: &'static str,
    pub class: Class,
    pub status: Option<u16>,
    pub code: Option<String>,
    /// The service's message, or the chain of causes of a failure below HTTP.
    pub message: String,
    pub request_id: Option<String>,
    pub remedy: Option<String>,
    pub delivery: Delivery,
}

/// Whether the service can have seen a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// There was no connection, or there were no credentials to sign with.
    Never,
    /// The request was sent, at least in part. Without an answer it may have been carried out.
    Sent,
}

impl ServiceError {
    /// An error of a store request that Penstock found itself, not the service.
    #[must_use]
    pub fn local(
        operation: &'static str,
        resource: impl fmt::Display,
        class: Class,
        message: impl Into<String>,
    ) -> Self {
        Self::at("s3", operation, resource, class, message)
    }

    /// The same as [`Self::local`], for another service.
    #[must_use]
    pub fn at(
        service: &'static str,
        operation: &'static str,
        resource: impl fmt::Display,
        class: Class,
        message: impl Into<String>,
    ) -> Self {
        Self {
            operation,
            resource: resource.to_string(),
            service,
            class,
            status: None,
            code: None,
            message: message.into(),
            request_id: None,
            remedy: None,
            delivery: Delivery::Sent,
        }
    }

    /// The store itself says that it cannot do this, not a proxy or a login page in its place, which may be gone tomorrow.
    #[must_use]
    pub fn is_incapable(&self) -> bool {
        self.class == Class::Compat && self.code.as_deref() != Some(NOT_THE_SERVICE)
    }

    /// The service answered that it did not carry the request out, or that it does not know such a request.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.delivery == Delivery::Sent && matches!(self.status, Some(400..=499 | 501 | 505))
    }

    /// The request may have been carried out although it failed: no answer came, a server error, or a truncated success.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match (self.delivery, self.status) {
            (Delivery::Never, _) => false,
            (Delivery::Sent, None | Some(200..300)) => true,
            (Delivery::Sent, Some(status)) => status >= 500 && !self.is_refusal() && self.class != Class::Throttled,
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.operation, self.resource)?;
        match (&self.code, self.message.is_empty()) {
            (Some(code), true) => write!(f, "{code}")?,
            (Some(code), false) => write!(f, "{code}: {}", self.message)?,
            (None, _) => write!(f, "{}", self.message)?,
        }
        if let Some(status) = self.status {
            write!(f, " (HTTP {status})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServiceError {}

impl Classify for ServiceError {
    fn report(&self) -> Report {
        Report {
            class: self.class,
            message: self.to_string(),
            remedy: self.remedy.clone(),
            service: Some(self.service.into()),
            code: self.code.clone(),
            request_id: self.request_id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_request_may_have_been_carried_out() {
        let error = |status, class, delivery| {
            ServiceError { status, delivery, ..ServiceError::local("CreateMultipartUpload", "k", class, "") }
                .may_have_happened()
        };
        assert!(error(None, Class::Transient, Delivery::Sent), "no answer");
        assert!(error(Some(500), Class::Transient, Delivery::Sent));
        assert!(error(Some(200), Class::Transient, Delivery::Sent), "a truncated answer");
        assert!(!error(None, Class::Transient, Delivery::Never), "no connection");
        assert!(!error(Some(503), Class::Throttled, Delivery::Sent));
        assert!(!error(Some(403), Class::AccessDenied, Delivery::Sent));
        assert!(!error(Some(501), Class::Compat, Delivery::Sent), "the server does not know such a request");
        assert!(!error(Some(505), Class::Compat, Delivery::Sent));
        assert!(error(Some(502), Class::Transient, Delivery::Sent));
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_an_older_one_too() {
        let denied = ServiceError {
            code: Some("AccessDenied".to_owned()),
            request_id: Some("r-1".to_owned()),
            remedy: Some("grant it".to_owned()),
            ..ServiceError::local("PutObject", "k", Class::AccessDenied, "no")
        };
        let read = |json: &str| serde_json::from_str::<Report>(json).unwrap();
        assert_eq!(read(&serde_json::to_string(&denied.report()).unwrap()), denied.report());
        let old = Report::new(Class::Local, "full");
        assert_eq!(read(r#"{"class": "local", "message": "full"}"#), old);
        assert_eq!(read(r#"{"class": "local", "message": "full", "remedy": null}"#), old);
        assert_eq!(read(r#"{"class": "of-the-future", "message": ""}"#).class, Class::Internal);
    }

    #[test]
    fn serde_name_and_as_str_agree_for_every_class() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
            assert_eq!(Class::named(class.as_str()), Some(class));
        }
    }
}
