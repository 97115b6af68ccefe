//! Makes the port's errors of the connection's: what went wrong before, or instead of, an answer.

use std::error::Error as StdError;

use kube::client::AuthError;
use rustls::{CertificateError, Error as TlsError};

use crate::cluster::Failure;
use crate::cluster::classify::Asked;
use crate::error::{Class, Delivery, ServiceError};
use crate::network::{CONNECT, Cause, causes, reason};

/// The failure of a request with no answer, or with an incomplete one. `trust` names the trusted certificates.
pub(super) fn transport(asked: &Asked<'_>, error: &(dyn StdError + 'static), trust: &str) -> Failure {
    let causes = causes(error);
    if let Some(auth) = causes.iter().find_map(|cause| cause.downcast_ref::<AuthError>()) {
        let (message, remedy) = credentials(auth);
        return ServiceError {
            delivery: Delivery::Never,
            remedy: Some(remedy),
            ..asked.error(Class::CredentialsUnavailable, message)
        }
        .into();
    }
    let message = words(error);
    let (class, remedy) = meaning(&causes, &message, trust);
    let unconnected = causes.iter().any(|cause| cause.to_string() == CONNECT);
    let delivery = if unconnected { Delivery::Never } else { Delivery::Sent };
    ServiceError { remedy, delivery, ..asked.error(class, message) }.into()
}

/// The error's text without the layer names that kube puts before it.
fn words(error: Cause<'_>) -> String {
    ["ServiceError: ", "HyperError: "].iter().fold(reason(error), |text, layer| text.replace(layer, ""))
}

fn meaning(causes: &[Cause<'_>], message: &str, trust: &str) -> (Class, Option<String>) {
    if let Some(tls) = causes.iter().find_map(|cause| cause.downcast_ref::<TlsError>()) {
        return (Class::Tls, Some(of_tls(tls, trust)));
    }
    let text = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let transient = |remedy: &str| (Class::Transient, Some(remedy.to_owned()));
    if has(&["dns error", "failed to lookup address", "name resolution"]) {
        return transient("the host name cannot be resolved: check the cluster's URL and this host's DNS");
    }
    if has(&["connection refused"]) {
        return transient("nothing listens there: check the cluster's URL, its port, and the network");
    }
    if has(&["proxy authorization", "407 proxy"]) {
        let remedy = "the proxy asks for a user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT";
        return (Class::Config, Some(remedy.to_owned()));
    }
    // Reset, timed out, unreachable, closed half-way: the next attempt may succeed.
    (Class::Transient, None)
}

fn of_tls(error: &TlsError, trust: &str) -> String {
    use CertificateError as Bad;
    match error {
        TlsError::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => format!(
            "none of the trusted certificates signed the server's ({trust}): put its CA into the kubeconfig's certificate-authority"
        ),
        TlsError::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            format!("the server's certificate, or one it is signed by, has expired ({trust}): renew it, or correct this host's clock")
        }
        TlsError::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            format!("the server's certificate is not valid yet ({trust}): correct this host's clock")
        }
        TlsError::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "the server's certificate is for other names: check the cluster's URL, or set tls-server-name in the kubeconfig".to_owned()
        }
        TlsError::InvalidCertificate(_) => format!("the server's certificate is refused; trusted are {trust}"),
        TlsError::InvalidMessage(_) => "the server does not speak TLS there: check the URL's scheme and port".to_owned(),
        TlsError::AlertReceived(_) => {
            "the server ended the handshake: check the kubeconfig's client certificate and key".to_owned()
        }
        _ => format!("the server and Penstock do not agree on TLS; trusted are {trust}"),
    }
}

/// Message and remedy. A plugin's standard output may be a token: only its standard error is shown.
pub(super) fn credentials(error: &AuthError) -> (String, String) {
    const MOST: usize = 400;
    let remedy = |text: &str| text.to_owned();
    match error {
        AuthError::AuthExecRun { cmd, out } => {
            let complaint = String::from_utf8_lossy(&out.stderr);
            let complaint: String =
                complaint.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST).collect();
            let program = cmd.split(' ').next().unwrap_or_default();
            (
                format!("the credential plugin {program} failed ({}): {complaint}", out.status),
                remedy("run the plugin by hand as the user that Penstock runs as"),
            )
        }
        AuthError::AuthExecStart(error) => (
            format!("could not start the kubeconfig's credential plugin: {error}"),
            remedy("install it, and check PATH of the user that Penstock runs as"),
        ),
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed | AuthError::UnrefreshableTokenResponse => (
            "the credential plugin printed no ExecCredential with a token or a certificate".to_owned(),
            remedy("run the plugin by hand; it must print JSON with status.token"),
        ),
        AuthError::ReadTokenFile(error, path) => (
            format!("could not read the token file {}: {error}", path.display()),
            remedy("check that the token is mounted, and that the user Penstock runs as may read it"),
        ),
        AuthError::InvalidBearerToken(_) | AuthError::InvalidBasicAuth(_) => (
            "the token or password contains characters that an HTTP header must not contain".to_owned(),
            remedy("a token is one line; check the kubeconfig and the token file"),
        ),
        // The other errors contain no secret.
        other => (reason(other), remedy("check the user in the kubeconfig")),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::cluster::classify::Freshness;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    }

    fn layer(text: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Layer {
        Layer { text, source: source.into() }
    }

    fn failure(error: &(dyn StdError + 'static)) -> ServiceError {
        let asked = Asked {
            verb: "list",
            path: "/api/v1/pods",
            group: "",
            resource: "pods",
            namespace: None,
            fresh: Freshness::Kept,
        };
        transport(&asked, error, "the CA of the kubeconfig").error
    }

    #[test]
    fn what_lies_under_a_failed_connection_is_told() {
        let tls = |error| layer(CONNECT, io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error)));
        for (bad, word) in [
            (CertificateError::UnknownIssuer, "the CA of the kubeconfig"),
            (CertificateError::Expired, "expired"),
            (CertificateError::NotValidYet, "clock"),
            (CertificateError::NotValidForName, "tls-server-name"),
        ] {
            let error = failure(&tls(TlsError::InvalidCertificate(bad)));
            assert_eq!((error.class, error.delivery), (Class::Tls, Delivery::Never));
            assert!(error.remedy.as_deref().unwrap().contains(word), "{error:?}");
        }
        let refused = failure(&layer(CONNECT, layer("tcp connect error", io::Error::from_raw_os_error(111))));
        assert_eq!((refused.class, refused.delivery), (Class::Transient, Delivery::Never));
        assert!(refused.remedy.unwrap().contains("listens"));
        let reset = failure(&layer("connection error", io::Error::from_raw_os_error(104)));
        assert_eq!((reset.class, reset.delivery, reset.remedy), (Class::Transient, Delivery::Sent, None));
        let proxy = failure(&layer(CONNECT, "proxy authorization required"));
        assert_eq!(proxy.class, Class::Config);
    }

    #[test]
    fn a_plugin_that_fails_is_told_by_its_complaints_alone() {
        let out = std::process::Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: b"token-in-clear".to_vec(),
            stderr: b"aws: no\nsession".to_vec(),
        };
        let error = failure(&AuthError::AuthExecRun { cmd: "aws eks get-token".into(), out: Box::new(out) });
        assert_eq!(error.class, Class::CredentialsUnavailable);
        assert_eq!(error.message, "the credential plugin aws failed (exit status: 1): aws: no session");
        let wrapped = layer("ServiceError: x", AuthError::ExecPluginFailed);
        assert_eq!(failure(&wrapped).class, Class::CredentialsUnavailable);
    }
}
