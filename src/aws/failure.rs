//! From the SDK's error to [`store::Error`]: the one place where that is done.
//!
//! The SDK's `Display` says "dispatch failure" and keeps the reason in its sources, so the whole chain is walked and
//! told. What a certificate failure means depends on the bundle in use, so its remedy names it.

use std::borrow::Cow;
use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use rustls::{CertificateError, Error as TlsError};

use super::classify::{Context, Reply, Service, Verdict, classify};
use super::reply::{self, Odd};
use super::watch::FreshCredentials;
use crate::error::{Class, Delivery, NOT_THE_SERVICE};
pub(crate) use crate::network::tell;
use crate::network::{CONNECT, Cause, causes};
use crate::store;

/// A whole reply with a status of success that is not what was asked for: another store's, or a portal's page.
pub(super) const UNREADABLE: Class = Class::Compat;

/// What was asked, for the error if it fails.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) service: Service,
    pub(crate) operation: &'static str,
    /// `s3://bucket/key`, a role ARN.
    pub(crate) resource: String,
    pub(crate) context: &'a Context,
    /// Which certificates are trusted, in words.
    pub(crate) trust: &'a str,
}

impl Call<'_> {
    pub(crate) fn error(&self, class: Class, message: impl Into<String>) -> store::Error {
        store::Error {
            operation: self.operation,
            resource: self.resource.clone(),
            service: self.service.as_str(),
            class,
            status: None,
            code: None,
            message: message.into(),
            request_id: None,
            remedy: None,
            delivery: Delivery::Sent,
        }
    }

    pub(crate) fn sdk<E>(&self, error: &SdkError<E, HttpResponse>) -> store::Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        if let (Some(odd), Some(raw)) = (odd(error), error.raw_response()) {
            return self.odd(odd, raw);
        }
        match error {
            SdkError::ServiceError(failure)
                if failure.raw().status().is_success() && failure.err().code().is_none() =>
            {
                if let Err(odd) = reply::check(self.service, self.operation, failure.raw()) {
                    return self.odd(&odd, failure.raw());
                }
                self.unreadable(failure.err())
            }
            SdkError::ServiceError(failure) => self.reply(failure.err().meta(), failure.raw(), ""),
            // Its body could not be received to the end: the connection's doing.
            SdkError::ResponseError(failure) => {
                let meta = aws_smithy_types::error::ErrorMetadata::builder().build();
                self.reply(&meta, failure.raw(), "the answer was cut off")
            }
            _ => self.transport(error),
        }
    }

    /// An answer that is not the service's, unless it carries an error of it.
    fn odd(&self, odd: &Odd, raw: &HttpResponse) -> store::Error {
        if element(&document(raw), "Code").is_some() {
            let meta = aws_smithy_types::error::ErrorMetadata::builder().build();
            return self.reply(&meta, raw, "");
        }
        let remedy = odd.remedy().map(str::to_owned);
        store::Error {
            status: Some(raw.status().as_u16()),
            request_id: request_id(raw),
            remedy,
            code: odd.is_elsewhere().then(|| NOT_THE_SERVICE.to_owned()),
            ..self.error(odd.class(), odd.to_string())
        }
    }

    /// The document is the one that was asked for, and something in it is not what the SDK can read. The parser's own words are for whoever
    /// debugs this: they name no cause that an operator knows.
    fn unreadable(&self, parser: &(dyn StdError + 'static)) -> store::Error {
        tracing::debug!(operation = self.operation, error = tell(parser), "an answer could not be read");
        let service = self.service.as_str().to_uppercase();
        let message =
            format!("the answer to {} cannot be read: an element in it is not as {service} writes it", self.operation);
        let remedy = "the store, or a proxy before it, is not compatible here (docs/stores.md); the log at level debug has the parser's words";
        store::Error { remedy: Some(remedy.to_owned()), ..self.error(UNREADABLE, message) }
    }

    /// The server answered.
    fn reply(
        &self,
        meta: &aws_smithy_types::error::ErrorMetadata,
        raw: &HttpResponse,
        otherwise: &str,
    ) -> store::Error {
        let status = raw.status().as_u16();
        // Other stores' STS sends the document in a frame that the SDK does not look into.
        let document = document(raw);
        let code = meta.code().or_else(|| element(&document, "Code"));
        if code.is_none()
            && let Some(odd) = reply::elsewhere(self.service, raw)
        {
            return self.odd(&odd, raw);
        }
        let message = meta.message().or_else(|| element(&document, "Message")).unwrap_or(otherwise);
        let context = &context_of(raw, self.context);
        let reply = Reply {
            service: self.service,
            operation: self.operation,
            resource: &self.resource,
            status: Some(status),
            code,
            message,
        };
        let Verdict { class, remedy } = classify(&reply, context);
        let in_body = || meta.extra("aws_request_id").or_else(|| meta.extra("request_id")).map(str::to_owned);
        let request_id = request_id(raw).or_else(in_body);
        let code = code.map(str::to_owned);
        let message = if message.is_empty() && code.is_none() {
            format!("the server answered {status} with no error document")
        } else {
            message.to_owned()
        };
        store::Error { status: Some(status), code, request_id, remedy, ..self.error(class, message) }
    }

    /// No reply, or not a whole one.
    pub(crate) fn transport(&self, error: &(dyn StdError + 'static)) -> store::Error {
        let causes = causes(error);
        // Credentials are resolved inside the request: their failure has its own class, code and remedy.
        if let Some(cause) = causes.iter().find_map(|cause| cause.downcast_ref::<store::Error>()) {
            let message = format!("no credentials for it: {cause}");
            return store::Error {
                operation: self.operation,
                resource: self.resource.clone(),
                message,
                status: None,
                code: None,
                delivery: Delivery::Never,
                ..cause.clone()
            };
        }
        let message = tell(error);
        let Verdict { class, remedy } = classify_transport(&causes, &message, self.trust);
        let unconnected = causes.iter().any(|cause| cause.to_string() == CONNECT);
        let delivery = if unconnected { Delivery::Never } else { Delivery::Sent };
        store::Error { remedy, delivery, ..self.error(class, message) }
    }
}

fn request_id(raw: &HttpResponse) -> Option<String> {
    let header = |name: &str| raw.headers().get(name).map(str::to_owned);
    header("x-amz-request-id").or_else(|| header("x-amzn-requestid"))
}

/// What [`reply::check`] found, in the chain of causes.
pub(super) fn odd<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Odd> {
    causes(error).into_iter().find_map(<dyn StdError>::downcast_ref)
}

/// A reply's body as text; empty where it is a stream.
pub(super) fn document(raw: &HttpResponse) -> Cow<'_, str> {
    raw.body().bytes().map(String::from_utf8_lossy).unwrap_or_default()
}

/// The text of the first element of that name: an error document is flat, and short.
pub(super) fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    rest.split_once('<').map(|(text, _)| text)
}

/// What the reply's headers, and the watch over the request, add to what is known.
pub(super) fn context_of(raw: &HttpResponse, known: &Context) -> Context {
    let region = raw.headers().get("x-amz-bucket-region").map(str::to_owned);
    let credentials_fresh = known.credentials_fresh || raw.extension::<FreshCredentials>().is_some();
    Context { bucket_region: region, credentials_fresh, ..known.clone() }
}

/// The class of a failure that is not a reply.
pub(super) fn class_of_transport(error: &(dyn StdError + 'static)) -> Class {
    let causes = causes(error);
    match causes.iter().find_map(|cause| cause.downcast_ref::<store::Error>()) {
        Some(cause) => cause.class,
        None => classify_transport(&causes, &tell(error), "").class,
    }
}

/// A handshake failed, or what came was no TLS.
pub(super) fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    causes(error).iter().any(|cause| cause.is::<TlsError>())
}

fn classify_transport(causes: &[Cause<'_>], message: &str, trust: &str) -> Verdict {
    if let Some(tls) = causes.iter().find_map(|cause| cause.downcast_ref::<TlsError>()) {
        return classify_tls(tls, trust);
    }
    let said = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["dns error", "failed to lookup address", "name resolution"]) {
        return Verdict::new(
            Class::Transient,
            "the host name cannot be resolved: check the endpoint's URL and the node's DNS",
        );
    }
    if has(&["connection refused"]) {
        return Verdict::new(
            Class::Transient,
            "nothing listens there: check the endpoint's URL, its port, and the network",
        );
    }
    if has(&["proxy authorization", "407 proxy"]) {
        return Verdict::new(
            Class::Config,
            "the proxy asks for a user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        );
    }
    if has(&["invalid uri", "invalid endpoint", "custom endpoint"]) {
        return Verdict::new(Class::Config, "check `s3_url`, `sts_url` and `ec2_url`");
    }
    // Reset, timed out, unreachable, closed half-way, stalled: the next attempt may be luckier.
    Verdict::bare(Class::Transient)
}

fn classify_tls(error: &TlsError, trust: &str) -> Verdict {
    use CertificateError as Bad;
    let tls = |text: String| Verdict::new(Class::Tls, text);
    match error {
        TlsError::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => tls(format!(
            "none of the trusted certificates signed the server's ({trust}): put its CA into `certificate`"
        )),
        TlsError::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            tls(format!("the server's certificate, or one it is signed by, has expired ({trust}): renew it, or fix this host's clock"))
        }
        TlsError::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            tls(format!("the server's certificate is not valid yet ({trust}): fix this host's clock"))
        }
        TlsError::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            tls("the server's certificate is for other names: check the endpoint's URL, and force_path_style for a store without wildcard names".to_owned())
        }
        TlsError::InvalidCertificate(_) => tls(format!("the server's certificate is refused; trusted are {trust}")),
        TlsError::InvalidMessage(_) => tls("the server does not speak TLS there: check the URL's scheme and port".to_owned()),
        _ => tls(format!("the server and Penstock do not agree on TLS; trusted are {trust}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_document_is_read() {
        let document = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please</Message></Error>";
        assert_eq!((element(document, "Code"), element(document, "Message")), (Some("SlowDown"), Some("Please")));
        assert_eq!((element("", "Code"), element("<Code>", "Code"), element("<html>", "Code")), (None, None, None));
    }

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
        let context = Context::default();
        let call = Call {
            service: Service::S3,
            operation: "GetObject",
            resource: "s3://b/k".into(),
            context: &context,
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
        let context = Context::default();
        let call = Call {
            service: Service::Sts,
            operation: "AssumeRole",
            resource: "arn:aws:iam::1:role/R".into(),
            context: &context,
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
