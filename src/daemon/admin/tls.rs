//! Loads the admin server's certificate, again at each reload.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Admin;
use crate::error::{Class, Report};

/// Accepts new connections; `None` in it is plain HTTP.
#[derive(Default)]
pub(in crate::daemon) struct Tls {
    current: Mutex<Option<TlsAcceptor>>,
}

impl Tls {
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::daemon) fn replace(&self, acceptor: Option<TlsAcceptor>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = acceptor;
    }

    /// # Errors
    /// When the files do not hold a certificate and its key.
    pub(in crate::daemon) fn load(config: &Admin) -> Result<Option<TlsAcceptor>, Report> {
        let Some(files) = &config.tls else { return Ok(None) };
        let failed = |file: &PathBuf, error: &dyn std::fmt::Display| {
            Report::new(Class::Tls, format!("could not use {} for the admin server: {error}", file.display()))
                .remedy("put a PEM certificate with its chain, and its key, into the two files")
        };
        let chain = CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|error| failed(&files.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| failed(&files.key, &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| failed(&files.certificate, &error))?;
        Ok(Some(TlsAcceptor::from(Arc::new(config))))
    }

    pub(in crate::daemon) fn files(config: &Admin) -> impl Iterator<Item = PathBuf> {
        config.tls.iter().flat_map(|tls| [tls.certificate.clone(), tls.key.clone()])
    }
}
