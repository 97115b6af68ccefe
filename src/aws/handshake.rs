//! Makes a TLS handshake to see which certificate the server shows and whether it is trusted.
//!
//! The SDK reports a failed handshake without the server's certificate. So after a failure, and for `validate`, this module makes one
//! with the same trust and through the same proxy, and sends no data over it. It costs one connection and at most [`DEADLINE`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::tls::describe;
use crate::network::Proxy;
use crate::site::Certificate;

const DEADLINE: Duration = Duration::from_secs(10);

/// A proxy's reply to CONNECT is a few lines; a longer one is an error.
const MAX_REPLY: usize = 8 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The certificate and protocol that the server showed.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    pub certificate: Option<Certificate>,
    /// `TLSv1.3`; `None` when the handshake did not get that far.
    pub protocol: Option<&'static str>,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(certificate) = &self.certificate else { return f.write_str("the server showed no certificate") };
        let Certificate { subject, issuer, not_before, not_after } = certificate;
        let subject = if subject.is_empty() { "no subject" } else { subject };
        write!(
            f,
            "the server showed a certificate of {subject}, issued by {issuer}, valid from {not_before} to {not_after}"
        )
    }
}

/// Makes a handshake with `host` and closes the connection.
pub(super) async fn shake(
    host: &str,
    port: u16,
    roots: RootCertStore,
    proxy: Option<&Proxy>,
) -> (Shown, Result<(), BoxError>) {
    let seen = Arc::new(Mutex::new(None));
    let result = tokio::time::timeout(DEADLINE, attempt(host, port, roots, proxy, seen.clone())).await;
    let certificate = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let certificate = certificate.and_then(|der| describe(&der).ok());
    match result {
        Ok(Ok(protocol)) => (Shown { certificate, protocol }, Ok(())),
        Ok(Err(error)) => (Shown { certificate, protocol: None }, Err(error)),
        Err(_) => (Shown { certificate, protocol: None }, Err("the handshake timed out".into())),
    }
}

async fn attempt(
    host: &str,
    port: u16,
    roots: RootCertStore,
    proxy: Option<&Proxy>,
    seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
) -> Result<Option<&'static str>, BoxError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    // A proxy that is reached over TLS is verified with the same roots as the servers.
    let plain = Arc::new(config()?.with_root_certificates(roots.clone()).with_no_client_auth());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let verifier = Arc::new(Witness { inner, seen });
    let noted = config()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    let stream = match proxy.and_then(|proxy| proxy.on_the_way_to(host, port)) {
        None => Box::new(TcpStream::connect((host, port)).await?) as Box<dyn Stream>,
        Some(way) => {
            let stream = TcpStream::connect((way.host.as_str(), way.port)).await?;
            let stream: Box<dyn Stream> = if way.tls {
                let name = ServerName::try_from(way.host.clone())?;
                Box::new(tokio_rustls::TlsConnector::from(plain).connect(name, stream).await?)
            } else {
                Box::new(stream)
            };
            tunnel(stream, host, port, way.authorization.as_deref()).await?
        }
    };
    let name = ServerName::try_from(host.to_owned())?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(noted)).connect(name, stream).await?;
    Ok(stream.get_ref().1.protocol_version().map(|version| match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "TLSv1.3",
    }))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Sends CONNECT and reads the reply up to its empty line.
async fn tunnel(
    mut stream: Box<dyn Stream>,
    host: &str,
    port: u16,
    authorization: Option<&str>,
) -> Result<Box<dyn Stream>, BoxError> {
    let authorization = authorization.map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\n") {
        if reply.len() >= MAX_REPLY {
            return Err("the proxy's reply is too long".into());
        }
        reply.push(stream.read_u8().await?);
    }
    let status = String::from_utf8_lossy(&reply).lines().next().unwrap_or_default().to_owned();
    match status.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => Err(format!("the proxy answered {status:?}").into()),
    }
}

/// Verifies as rustls does, and remembers the certificate.
#[derive(Debug)]
struct Witness {
    inner: Arc<WebPkiServerVerifier>,
    seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
