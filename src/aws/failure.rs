//! From the SDK's error to [`store::Error`]: the one place where that is done. What a reply means has been decided by then
//! ([`super::decide`]), what no reply says is read here ([`super::transport`]).

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;

use super::classify::{Service, Verdict};
use super::decide::Decided;
use super::transport;
use crate::error::Class;
use crate::store;

/// What was asked, for the error if it fails.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) service: Service,
    pub(crate) operation: &'static str,
    /// `s3://bucket/key`, a role ARN.
    pub(crate) resource: String,
    /// Which certificates are trusted, in words.
    pub(crate) trust: &'a str,
}

impl Call<'_> {
    pub(crate) fn error(&self, class: Class, message: impl Into<String>) -> store::Error {
        store::Error::at(self.service.as_str(), self.operation, &self.resource, class, message)
    }

    pub(crate) fn sdk<E>(&self, error: &SdkError<E, HttpResponse>) -> store::Error
    where
        E: StdError + 'static,
    {
        let decided = error.raw_response().and_then(|raw| raw.extension::<Decided>());
        let Some(Decided { verdict, status, code, message, request_id }) = decided.cloned() else {
            return self.transport(error);
        };
        let Verdict { class, remedy } = verdict.about(&self.resource);
        store::Error { status: Some(status), code, request_id, remedy, ..self.error(class, message) }
    }

    /// No reply, or not a whole one.
    pub(crate) fn transport(&self, error: &(dyn StdError + 'static)) -> store::Error {
        let (Verdict { class, remedy }, message, delivery) = transport::read(error, self.trust);
        let service = transport::find::<store::Error>(error).map_or(self.service.as_str(), |cause| cause.service);
        let request_id = transport::find::<store::Error>(error).and_then(|cause| cause.request_id.clone());
        store::Error { service, request_id, remedy, delivery, ..self.error(class, message) }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::{CertificateError, Error as TlsError};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    }

    fn layer(text: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Layer {
        Layer { text, source: Some(source.into()) }
    }

    fn class(error: &(dyn StdError + 'static)) -> (Class, String, String) {
        let call = Call {
            service: Service::S3,
            operation: "GetObject",
            resource: "s3://b/k".into(),
            trust: "the CA bundle /ca.pem alone",
        };
        let error = call.transport(error);
        (error.class, error.message, error.remedy.unwrap_or_default())
    }

    fn tls(error: TlsError) -> Layer {
        // As hyper-rustls nests it: two io::Errors deep.
        let inner = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        layer("dispatch failure", layer("client error (Connect)", inner))
    }

    #[test]
    fn certificates_are_told_apart() {
        let rows = [
            (CertificateError::UnknownIssuer, "/ca.pem"),
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidYet, "clock"),
            (CertificateError::NotValidForName, "other names"),
            (CertificateError::Revoked, "refused"),
        ];
        for (error, word) in rows {
            let (class, message, remedy) = class(&tls(TlsError::InvalidCertificate(error)));
            assert_eq!(class, Class::Tls);
            assert!(remedy.contains(word), "{remedy}");
            assert!(!message.contains("dispatch failure"), "{message}");
        }
        assert_eq!(class(&tls(TlsError::HandshakeNotComplete)).0, Class::Tls);
    }

    #[test]
    fn what_lies_under_a_dispatch_failure_is_told() {
        let refused = io::Error::from_raw_os_error(111);
        let (kind, message, remedy) =
            class(&layer("dispatch failure", layer("io error", layer("tcp connect error", refused))));
        assert_eq!(kind, Class::Transient);
        assert_eq!(message, "tcp connect error: Connection refused (os error 111)");
        assert!(remedy.contains("listens"), "{remedy}");

        let dns = io::Error::other("failed to lookup address information: Name or service not known");
        let (kind, message, remedy) = class(&layer("dispatch failure", layer("dns error", dns)));
        assert_eq!(kind, Class::Transient);
        assert!(message.contains("Name or service not known") && remedy.contains("DNS"), "{message} {remedy}");
        for text in [
            "Connection reset by peer (os error 104)",
            "HTTP connect timeout occurred after 10s",
            "end of file before message length reached",
        ] {
            assert_eq!(class(&layer("dispatch failure", text)).0, Class::Transient);
        }
    }

    #[test]
    fn a_failure_of_the_credentials_keeps_its_class_and_remedy() {
        let call = Call {
            service: Service::Sts,
            operation: "AssumeRole",
            resource: "arn:aws:iam::1:role/R".into(),
            trust: "",
        };
        let denied = store::Error {
            code: Some("AccessDenied".into()),
            remedy: Some("look there".into()),
            ..call.error(Class::TrustDenied, "no")
        };
        let (class, message, remedy) = class(&layer("dispatch failure", layer("other", denied)));
        assert_eq!(class, Class::TrustDenied);
        assert_eq!(message, "no credentials for it: AssumeRole arn:aws:iam::1:role/R: AccessDenied: no");
        assert_eq!(remedy, "look there");
    }
}
