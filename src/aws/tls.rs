//! Reads which certificates are trusted.
//!
//! The SDK reads no `AWS_CA_BUNDLE`, takes a file with no certificate for "nothing to add", and panics at the first
//! request over a bad PEM. So a bundle is read and parsed here, when a location is connected, and the SDK gets
//! only certificates that rustls has already accepted as trust anchors. A bundle that cannot be used is an error with
//! the file's name and a remedy; an expired certificate in it is a warning, since the others may suffice.
//!
//! Costs one read of the file. [`super::http`] reads it again when it changes.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{SectionKind, SliceIter};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::CertificateMode;
use crate::error::{Class, Classify, Report};
use crate::site::Certificate;

/// Far above the system bundle of any distribution (about 250 KiB), so that a wrong path is not read into memory.
const MAX_BUNDLE: u64 = 8 << 20;

/// Why a CA bundle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not use the CA bundle {path}: {fault}", path = .path.display())]
pub struct BundleError {
    pub path: PathBuf,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("there is no such file")]
    Missing,
    #[error("it is a folder, not a file")]
    Folder,
    #[error("it is not a regular file")]
    Special,
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it is larger than {MAX_BUNDLE} bytes")]
    TooLarge,
    #[error("it is empty")]
    Empty,
    #[error("it holds no PEM certificate")]
    NoCertificate,
    #[error("it is in DER form, not PEM")]
    Der,
    #[error("it holds a private key")]
    PrivateKey,
    #[error("it is not valid PEM: {0}")]
    Pem(String),
    #[error("certificate {number} in it cannot be used: {reason}")]
    Certificate { number: usize, reason: String },
    #[error("certificate_mode = \"only\" is set, but no certificate")]
    OnlyNothing,
}

impl Classify for BundleError {
    fn report(&self) -> Report {
        let (class, remedy) = match &self.fault {
            Fault::Missing | Fault::Special => {
                (Class::Config, "set `certificate` to the path of a PEM file, and check that it is mounted")
            }
            Fault::Folder => (Class::Config, "name the PEM file itself, for instance …/ca.pem"),
            Fault::Unreadable(_) => (Class::Config, "let the user Penstock runs as read the file"),
            Fault::TooLarge => (Class::Config, "set `certificate` to a PEM file with the CA certificates only"),
            Fault::OnlyNothing => (Class::Config, "set `certificate`, or remove `certificate_mode`"),
            Fault::Empty | Fault::NoCertificate => {
                (Class::Tls, "put the CA's certificate into it, from -----BEGIN CERTIFICATE----- on")
            }
            Fault::Der => (Class::Tls, "convert it: openssl x509 -inform der -in FILE -out ca.pem"),
            Fault::PrivateKey => (
                Class::Tls,
                "keep only the certificates: a CA bundle is copied to every node, and a private key must not be",
            ),
            Fault::Pem(_) | Fault::Certificate { .. } => {
                (Class::Tls, "export the certificate again; `openssl x509 -in FILE -text` must be able to read it")
            }
        };
        Report::new(class, self.to_string()).remedy(remedy)
    }
}

/// The trust anchors of one location. `Display` says which they are, for the remedy of a TLS failure.
#[derive(Clone)]
pub struct Trust {
    path: Option<PathBuf>,
    mode: CertificateMode,
    certificates: Vec<Certificate>,
    ders: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// The system's roots, the bundle at `path`, or both.
    ///
    /// # Errors
    /// When the bundle cannot be used; nothing is partly trusted.
    pub fn load(path: Option<&Path>, mode: CertificateMode) -> Result<Self, BundleError> {
        let Some(path) = path else {
            return match mode {
                CertificateMode::Add => Ok(Self { path: None, mode, certificates: Vec::new(), ders: Vec::new() }),
                CertificateMode::Only => Err(BundleError { path: PathBuf::new(), fault: Fault::OnlyNothing }),
            };
        };
        let refuse = |fault| BundleError { path: path.to_owned(), fault };
        let bytes = read(path).map_err(refuse)?;
        let (certificates, ders) = parse(&bytes).map_err(refuse)?;
        Ok(Self { path: Some(path.to_owned()), mode, certificates, ders })
    }

    /// The bundle's certificates; empty when only the system's roots are used.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// When the first certificate of the bundle expires.
    #[must_use]
    pub fn first_expiry(&self) -> Option<Timestamp> {
        self.certificates.iter().map(|certificate| certificate.not_after).min()
    }

    /// One sentence for each certificate that is not valid at `now`.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let state = |certificate: &Certificate| {
            let (subject, path) = (&certificate.subject, self.path.as_deref().unwrap_or(Path::new("")).display());
            if now > certificate.not_after {
                Some(format!("{path}: the certificate {subject:?} expired at {}", certificate.not_after))
            } else if now < certificate.not_before {
                Some(format!("{path}: the certificate {subject:?} is not valid before {}", certificate.not_before))
            } else {
                None
            }
        };
        self.certificates.iter().filter_map(state).collect()
    }

    pub(super) const fn adds_system_roots(&self) -> bool {
        match self.mode {
            CertificateMode::Add => true,
            CertificateMode::Only => false,
        }
    }

    pub(super) fn ders(&self) -> &[CertificateDer<'static>] {
        &self.ders
    }

    /// All trust anchors, for rustls. System roots that rustls cannot read are left out, as the SDK does.
    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        if self.adds_system_roots() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        roots.add_parsable_certificates(self.ders.iter().cloned());
        roots
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bundle = |path: &Path| format!("the CA bundle {}", path.display());
        match (&self.path, self.mode) {
            (None, _) => f.write_str("the system's root certificates"),
            (Some(path), CertificateMode::Add) => write!(f, "{} and the system's root certificates", bundle(path)),
            (Some(path), CertificateMode::Only) => write!(f, "{} alone", bundle(path)),
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(error.to_string()),
    };
    let meta = std::fs::metadata(path).map_err(fault)?;
    if meta.is_dir() {
        return Err(Fault::Folder);
    }
    if !meta.is_file() {
        return Err(Fault::Special);
    }
    if meta.len() > MAX_BUNDLE {
        return Err(Fault::TooLarge);
    }
    std::fs::read(path).map_err(fault)
}

type Parsed = (Vec<Certificate>, Vec<CertificateDer<'static>>);

fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Fault::Empty);
    }
    // The text is searched, to find kinds of keys too that the PEM reader does not know (ENCRYPTED, OPENSSH).
    if bytes.windows(PRIVATE_KEY.len()).any(|window| window == PRIVATE_KEY) {
        return Err(Fault::PrivateKey);
    }
    let mut ders = Vec::new();
    for section in SliceIter::<(SectionKind, Vec<u8>)>::new(bytes) {
        let (kind, der) = section.map_err(|error| Fault::Pem(error.to_string()))?;
        if kind == SectionKind::Certificate {
            ders.push(CertificateDer::from(der));
        }
    }
    if ders.is_empty() {
        let is_der = X509Certificate::from_der(bytes).is_ok();
        return Err(if is_der { Fault::Der } else { Fault::NoCertificate });
    }
    let certificates = ders.iter().enumerate().map(|(index, der)| check(index + 1, der)).collect::<Result<_, _>>()?;
    Ok((certificates, ders))
}

const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

fn check(number: usize, der: &CertificateDer<'static>) -> Result<Certificate, Fault> {
    let fault = |reason: String| Fault::Certificate { number, reason };
    // The SDK makes the same call, and unwraps the result.
    RootCertStore::empty().add(der.clone()).map_err(|error| fault(error.to_string()))?;
    describe(der).map_err(fault)
}

pub(super) fn describe(der: &CertificateDer<'_>) -> Result<Certificate, String> {
    let (_, x509) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let time =
        |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|error| error.to_string());
    Ok(Certificate {
        subject: x509.subject().to_string(),
        issuer: x509.issuer().to_string(),
        not_before: time(x509.validity().not_before)?,
        not_after: time(x509.validity().not_after)?,
    })
}

pub(super) fn pem(der: &CertificateDer<'_>) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in text.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn ca(year: i32) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(year, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + 1, 1, 1);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA of {year}"));
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn fault(content: &[u8]) -> Fault {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let error = Trust::load(Some(file.path()), CertificateMode::Only).unwrap_err();
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
        assert!(error.report().remedy.is_some(), "{error}");
        error.fault
    }

    #[test]
    fn bad_bundles_are_told_apart() {
        let (pem, key) = ca(2026);
        let (_, x509) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        assert_eq!(fault(b" \n"), Fault::Empty);
        assert_eq!(fault(b"hello"), Fault::NoCertificate);
        assert_eq!(fault(&[0xff, 0xfe, 0, 1, 2]), Fault::NoCertificate);
        assert_eq!(fault(&x509.contents), Fault::Der);
        assert_eq!(fault(format!("{pem}{key}").as_bytes()), Fault::PrivateKey);
        assert_eq!(fault(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"), Fault::PrivateKey);
        assert!(matches!(fault(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"), Fault::Pem(_)));
        assert!(matches!(fault(pem.split_once("-----END").unwrap().0.as_bytes()), Fault::Pem(_)));
        let mut broken = pem.clone().into_bytes();
        broken.extend_from_slice(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(matches!(fault(&broken), Fault::Certificate { number: 2, .. }));
    }

    #[test]
    fn bad_paths_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let load = |path: &Path| Trust::load(Some(path), CertificateMode::Add).unwrap_err();
        assert_eq!(load(&folder.path().join("none.pem")).fault, Fault::Missing);
        assert_eq!(load(folder.path()).fault, Fault::Folder);
        assert_eq!(load(Path::new("/dev/null")).fault, Fault::Special);
        // A regular file whose beginning not even root may read.
        assert!(matches!(load(Path::new("/proc/self/mem")).fault, Fault::Unreadable(_)));
        assert_eq!(load(folder.path()).class(), Class::Config);
        assert_eq!(Trust::load(None, CertificateMode::Only).unwrap_err().fault, Fault::OnlyNothing);
    }

    #[test]
    fn expired_and_future_certificates_are_named() {
        let (old, _) = ca(2001);
        let (new, _) = ca(2101);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("# a comment\n{old}\n{new}")).unwrap();
        let trust = Trust::load(Some(file.path()), CertificateMode::Add).unwrap();
        assert_eq!(trust.certificates().len(), 2);
        let warnings = trust.warnings("2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("CA of 2001") && warnings[0].contains("expired"), "{warnings:?}");
        assert!(warnings[1].contains("CA of 2101") && warnings[1].contains("not valid before"), "{warnings:?}");
    }

    #[test]
    fn the_sdk_can_read_the_parsed_bundle() {
        let (text, _) = ca(2026);
        let (_, ders) = parse(format!("noise before\n{text}\nnoise after").as_bytes()).unwrap();
        let (_, again) = parse(&pem(&ders[0])).unwrap();
        assert_eq!(ders, again);
    }
}
