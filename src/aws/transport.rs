//! Classifies a failure below HTTP: no reply, or an incomplete one.
//!
//! The SDK's `Display` says "dispatch failure" and keeps the reason in its sources, so the text is made from the whole
//! chain. The remedy of a certificate failure names the bundle in use.

use std::error::Error as StdError;

use rustls::{CertificateError, Error as TlsError};

use super::classify::Verdict;
use crate::error::{Class, Delivery};
pub(crate) use crate::network::reason;
use crate::network::{CONNECT, Cause, causes};
use crate::store;

/// Returns verdict, error text, and whether the service can have seen the request. If the request had no credentials, class and
/// remedy are those of the failure to obtain them.
pub(super) fn read(error: Cause<'_>, trust: &str) -> (Verdict, String, Delivery) {
    let causes = causes(error);
    if let Some(cause) = causes.iter().find_map(|cause| cause.downcast_ref::<store::Error>()) {
        let verdict = Verdict { class: cause.class, remedy: cause.remedy.clone() };
        return (verdict, format!("could not obtain credentials: {cause}"), Delivery::Never);
    }
    let message = reason(error);
    let verdict = classify(&causes, &message, trust);
    let unconnected = causes.iter().any(|cause| cause.to_string() == CONNECT);
    (verdict, message, if unconnected { Delivery::Never } else { Delivery::Sent })
}

/// The first cause of that type.
pub(super) fn find<T: StdError + 'static>(error: Cause<'_>) -> Option<&T> {
    causes(error).into_iter().find_map(<dyn StdError>::downcast_ref)
}

/// Whether a handshake failed or the server does not speak TLS.
pub(super) fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    causes(error).iter().any(|cause| cause.is::<TlsError>())
}

fn classify(causes: &[Cause<'_>], message: &str, trust: &str) -> Verdict {
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
    // Reset, timed out, unreachable, closed half-way, stalled: the next attempt may succeed.
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
