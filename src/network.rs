//! Parts that the AWS and Kubernetes clients share: the proxy that the environment names, and the text for a chain of causes.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use hyper_util::client::proxy::matcher::Matcher;

/// This host, instance metadata, and the two container credential endpoints: never behind a proxy.
const NEVER_PROXIED: &str =
    "localhost,127.0.0.0/8,::1,169.254.169.254,169.254.170.2,169.254.170.23,fd00:ec2::254,fd00:ec2::23";

/// A chain of causes has about five links; the limit keeps a library's bug, a cycle, from hanging this process.
const MAX_CAUSES: usize = 32;

/// The text of hyper's client for a failure to connect, TLS included; the SDK hides the type.
pub const CONNECT: &str = "client error (Connect)";

/// The proxy for HTTPS. Plain HTTP uses none: it is for instance metadata, container credentials, or a store on this network.
#[derive(Clone)]
pub struct Proxy {
    url: String,
    direct: String,
}

/// The proxy of a connection, and the authorization for it.
pub struct Way {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub authorization: Option<String>,
}

impl Proxy {
    /// Reads `HTTPS_PROXY` (else `ALL_PROXY`) and `NO_PROXY` through `lookup`, in upper or lower case.
    ///
    /// # Errors
    /// When the proxy's URL is malformed; the text never has the URL, which may contain a password.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let either =
            |name: &str| lookup(name).or_else(|| lookup(&name.to_lowercase())).filter(|value| !value.trim().is_empty());
        let Some((name, url)) = ["HTTPS_PROXY", "ALL_PROXY"].into_iter().find_map(|name| Some((name, either(name)?)))
        else {
            return Ok(None);
        };
        // As curl and the AWS CLI do, a bare host:port is an HTTP proxy.
        let url = if url.contains("://") { url.trim().to_owned() } else { format!("http://{}", url.trim()) };
        if !is_proxy(&url) {
            return Err(format!(
                "{name} is not a proxy URL; expected http://HOST:PORT or https://HOST:PORT, perhaps with USER:PASSWORD@"
            ));
        }
        let direct =
            either("NO_PROXY").map_or_else(|| NEVER_PROXIED.to_owned(), |more| format!("{more},{NEVER_PROXIED}"));
        Ok(Some(Self { url, direct }))
    }

    /// May contain a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The hosts that are reached without the proxy, in the form of `NO_PROXY`.
    #[must_use]
    pub fn direct(&self) -> &str {
        &self.direct
    }

    /// `None` for a host that is reached without the proxy.
    #[must_use]
    pub fn on_the_way_to(&self, host: &str, port: u16) -> Option<Way> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let target = format!("https://{host}:{port}").parse().ok()?;
        // The matcher of the SDK's own connector.
        let matcher = Matcher::builder().https(self.url.as_str()).no(self.direct.as_str()).build();
        let way = matcher.intercept(&target)?;
        let tls = way.uri().scheme_str() == Some("https");
        Some(Way {
            host: way.uri().host()?.trim_matches(['[', ']']).to_owned(),
            port: way.uri().port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
            authorization: way.basic_auth().and_then(|value| value.to_str().ok()).map(str::to_owned),
        })
    }
}

fn is_proxy(url: &str) -> bool {
    let uri = url.parse::<hyper::Uri>();
    uri.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("direct", &self.direct).finish_non_exhaustive()
    }
}

pub type Cause<'a> = &'a (dyn StdError + 'static);

/// `error` and its causes. `io::Error::source` skips its payload, which is where rustls's errors are.
#[must_use]
pub fn causes(error: Cause<'_>) -> Vec<Cause<'_>> {
    let mut all = Vec::new();
    let mut current = Some(error);
    while let Some(error) = current.filter(|_| all.len() < MAX_CAUSES) {
        all.push(error);
        current = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    all
}

/// The texts of the chain, without names of layers and without repetitions.
#[must_use]
pub fn reason(error: Cause<'_>) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        let layer = ["dispatch failure", "io error", "other", "service error", "unhandled error", CONNECT];
        let known = texts.iter().any(|earlier| earlier.contains(&text));
        if !text.is_empty() && !known && !layer.contains(&text.as_str()) {
            // A cause whose text contains an earlier one replaces it.
            texts.retain(|earlier| !text.contains(earlier.as_str()));
            texts.push(text);
        }
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn proxies_are_read_in_either_case() {
        let proxy = |pairs: &[(&str, &str)]| {
            let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            Proxy::from_environment(move |name| map.get(name).cloned())
        };
        assert!(proxy(&[]).unwrap().is_none());
        assert!(proxy(&[("HTTPS_PROXY", " ")]).unwrap().is_none());
        assert!(proxy(&[("HTTP_PROXY", "http://proxy:3128")]).unwrap().is_none());
        let found = proxy(&[("https_proxy", "user:secret@proxy:3128"), ("NO_PROXY", ".corp")]).unwrap().unwrap();
        let way = found.on_the_way_to("s3.eu-west-1.amazonaws.com", 443).unwrap();
        assert_eq!((way.host.as_str(), way.port, way.tls), ("proxy", 3128, false));
        assert_eq!(way.authorization.as_deref(), Some("Basic dXNlcjpzZWNyZXQ="));
        for direct in ["s3.corp", "127.0.0.1", "::1", "169.254.169.254", "localhost"] {
            assert!(found.on_the_way_to(direct, 443).is_none(), "{direct}");
        }
        assert!(!format!("{found:?}").contains("secret"), "{found:?}");
        let error = proxy(&[("ALL_PROXY", "socks5://user:secret@proxy")]).unwrap_err();
        assert!(error.contains("ALL_PROXY") && !error.contains("secret"), "{error}");
    }
}
