//! From `[kubernetes]`, the environment and the files they name to a connection's settings.
//!
//! Reads everything each time a client is made: kubeconfig, certificates, key, token. Keeps the paths of the files that it read, so that
//! [`super::Client`] notices when one of them changes.

use std::path::{Path, PathBuf};

use kube::config::{Cluster, ExecAuthCluster, Kubeconfig, KubeconfigError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::config;
use crate::error::{Class, Classify, Report};
use crate::nearest::nearest;
use crate::network::Proxy;

/// Where Kubernetes mounts a pod's identity.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What is needed to find the cluster: the configuration and the environment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `None`: the pod's service account, else `$KUBECONFIG`, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// `None`: the kubeconfig's current context.
    pub context: Option<String>,
    pub environment: Environment,
}

impl Settings {
    /// From `[kubernetes]`, and the environment as `lookup` has it.
    ///
    /// # Errors
    /// When the proxy's URL is malformed.
    pub fn new(config: &config::Kubernetes, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, LoadError> {
        let environment = Environment::read(lookup)?;
        Ok(Self { kubeconfig: config.kubeconfig.clone(), context: config.context.clone(), environment })
    }
}

/// The environment variables that are used, as they were when the process started.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which every pod has.
    pub service: Option<(String, String)>,
    /// `KUBECONFIG`: files with `:` between them.
    pub kubeconfig: Option<String>,
    pub home: Option<PathBuf>,
    pub proxy: Option<Proxy>,
    /// [`SERVICE_ACCOUNT`], except in tests.
    pub service_account: PathBuf,
}

impl Environment {
    /// # Errors
    /// When the proxy's URL is malformed.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, LoadError> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let proxy = Proxy::from_environment(&lookup).map_err(LoadError::Proxy)?;
        Ok(Self {
            service: set("KUBERNETES_SERVICE_HOST").zip(set("KUBERNETES_SERVICE_PORT")),
            kubeconfig: set("KUBECONFIG"),
            home: set("HOME").map(PathBuf::from),
            proxy,
            service_account: SERVICE_ACCOUNT.into(),
        })
    }
}

/// Why the cluster's address and credentials could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Proxy(String),
    #[error("found no cluster: expected a pod's service account, $KUBECONFIG or ~/.kube/config")]
    Nowhere,
    #[error("the kubeconfig {file}: {fault}", file = .file.display())]
    Kubeconfig { file: PathBuf, fault: String, expected: &'static str },
    #[error("the kubeconfig {file} has no context {context:?}; it has {known}", file = .file.display())]
    NoContext { file: PathBuf, context: String, known: String, nearest: Option<String> },
    #[error("the file {file}: {fault}", file = .file.display())]
    File { file: PathBuf, fault: String },
    #[error("credentials: {message}")]
    Credentials { message: String, remedy: String },
    #[error("could not create the cluster's client: {0}")]
    Client(String),
}

impl Classify for LoadError {
    fn report(&self) -> Report {
        let class = match self {
            Self::Credentials { .. } => Class::CredentialsUnavailable,
            Self::File { .. } => Class::Tls,
            _ => Class::Config,
        };
        let report = Report::new(class, self.to_string());
        match self {
            Self::Proxy(_) | Self::Client(_) => report,
            Self::Nowhere => {
                report.remedy("set `kubeconfig` in [kubernetes], or run in a pod with a service account and automountServiceAccountToken")
            }
            Self::Kubeconfig { expected, .. } => report.remedy(*expected),
            Self::NoContext { nearest: Some(nearest), .. } => report.remedy(format!("did you mean {nearest:?}?")),
            Self::NoContext { nearest: None, .. } => {
                report.remedy("set `context` in [kubernetes] to one of them; kubectl config get-contexts lists them")
            }
            Self::File { .. } => report.remedy("expected a PEM file that the user Penstock runs as can read"),
            Self::Credentials { remedy, .. } => report.remedy(remedy.clone()),
        }
    }
}

/// What a client needs to connect to the cluster.
pub(super) struct Loaded {
    pub(super) config: kube::Config,
    /// The files that were read.
    pub(super) files: Vec<PathBuf>,
    /// Which certificates are trusted, for messages.
    pub(super) trust: String,
}

pub(super) fn load(settings: &Settings) -> Result<Loaded, LoadError> {
    let environment = &settings.environment;
    let in_pod = settings.kubeconfig.is_none() && settings.context.is_none();
    if let Some((host, port)) = environment.service.as_ref().filter(|_| in_pod)
        && environment.service_account.join("token").exists()
    {
        return of_pod(environment, host, port);
    }
    of_kubeconfig(settings, &kubeconfigs(settings)?)
}

/// The service account's token and CA.
fn of_pod(environment: &Environment, host: &str, port: &str) -> Result<Loaded, LoadError> {
    let (token, ca) = (environment.service_account.join("token"), environment.service_account.join("ca.crt"));
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let url = format!("https://{host}:{port}");
    let uri = url
        .parse()
        .map_err(|_| LoadError::Client(format!("KUBERNETES_SERVICE_HOST and _PORT do not form a URL: {url}")))?;
    let mut config = kube::Config::new(uri);
    config.root_cert = Some(certificates(&ca)?);
    config.auth_info.token_file = Some(token.display().to_string());
    config.proxy_url = proxy(environment, &config)?;
    let trust = format!("the service account's {}", ca.display());
    Ok(Loaded { config, files: vec![token, ca], trust })
}

fn kubeconfigs(settings: &Settings) -> Result<Vec<PathBuf>, LoadError> {
    if let Some(file) = &settings.kubeconfig {
        return Ok(vec![file.clone()]);
    }
    if let Some(list) = &settings.environment.kubeconfig {
        let files: Vec<PathBuf> = std::env::split_paths(list).filter(|file| !file.as_os_str().is_empty()).collect();
        if !files.is_empty() {
            return Ok(files);
        }
    }
    let home = settings.environment.home.as_ref().map(|home| home.join(".kube/config"));
    home.filter(|file| file.exists()).map(|file| vec![file]).ok_or(LoadError::Nowhere)
}

fn of_kubeconfig(settings: &Settings, files: &[PathBuf]) -> Result<Loaded, LoadError> {
    let mut merged = Kubeconfig::default();
    for file in files {
        let next = Kubeconfig::read_from(file).map_err(|error| unreadable(file, &error))?;
        merged = merged.merge(next).map_err(|error| unreadable(file, &error))?;
    }
    let file = &files[0];
    let fault = |fault: String, expected| LoadError::Kubeconfig { file: file.clone(), fault, expected };
    let Some(name) = settings.context.as_ref().or(merged.current_context.as_ref()).filter(|name| !name.is_empty())
    else {
        return Err(fault(
            "it has no current-context".to_owned(),
            "set `context` in [kubernetes], or: kubectl config use-context NAME",
        ));
    };
    let context = merged.contexts.iter().find(|context| context.name == *name).and_then(|named| named.context.as_ref());
    let Some(context) = context else {
        let names: Vec<String> = merged.contexts.iter().map(|context| context.name.clone()).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let nearest = nearest(name, names);
        return Err(LoadError::NoContext { file: file.clone(), context: name.clone(), known, nearest });
    };
    let cluster = merged.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let Some(cluster) = cluster.and_then(|named| named.cluster.as_ref()) else {
        let expected = "the context's `cluster` must be one of `clusters`";
        return Err(fault(
            format!("its context {name} names the cluster {:?}, which is not in it", context.cluster),
            expected,
        ));
    };
    let user = context.user.as_deref().unwrap_or_default();
    let auth = merged.auth_infos.iter().find(|auth| auth.name == user).and_then(|named| named.auth_info.clone());
    if auth.is_none() && !user.is_empty() {
        let expected = "the context's `user` must be one of `users`";
        return Err(fault(format!("its context {name} names the user {user:?}, who is not in it"), expected));
    }
    let server = cluster.server.as_deref().unwrap_or_default();
    let uri = server
        .parse::<hyper::Uri>()
        .ok()
        .filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
    let Some(uri) = uri else {
        let expected = "`server` must be a URL such as https://host:6443";
        return Err(fault(format!("the server of its cluster {:?} is {server:?}", context.cluster), expected));
    };
    let mut config = kube::Config::new(uri);
    config.auth_info = auth.unwrap_or_default();
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        let info = ExecAuthCluster::try_from(cluster).map_err(|error| unreadable(file, &error))?;
        exec.cluster = Some(info);
    }
    let (roots, trust) = roots(file, cluster)?;
    config.root_cert = roots;
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    config.proxy_url = match cluster.proxy_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => {
            Some(url.parse().map_err(|_| fault("its proxy-url is not a URL".to_owned(), "expected http://HOST:PORT"))?)
        }
        None => proxy(&settings.environment, &config)?,
    };
    Ok(Loaded { files: read_files(files, cluster, &config), config, trust })
}

/// The environment's proxy, if requests to the cluster go through it.
fn proxy(environment: &Environment, config: &kube::Config) -> Result<Option<hyper::Uri>, LoadError> {
    let (Some(proxy), Some("https"), Some(host)) =
        (&environment.proxy, config.cluster_url.scheme_str(), config.cluster_url.host())
    else {
        return Ok(None);
    };
    let port = config.cluster_url.port_u16().unwrap_or(443);
    if proxy.on_the_way_to(host.trim_matches(['[', ']']), port).is_none() {
        return Ok(None);
    }
    proxy.url().parse().map(Some).map_err(|_| LoadError::Proxy("HTTPS_PROXY is not a URL".to_owned()))
}

/// Certificates in the form that kube expects.
type Ders = Vec<Vec<u8>>;

/// The cluster's CA certificates, and a description of them for messages.
fn roots(file: &Path, cluster: &Cluster) -> Result<(Option<Ders>, String), LoadError> {
    use base64::Engine as _;
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Ok((None, "any certificate, since the kubeconfig sets insecure-skip-tls-verify".to_owned()));
    }
    if let Some(data) = &cluster.certificate_authority_data {
        let fault = |fault: &str| LoadError::Kubeconfig {
            file: file.to_owned(),
            fault: format!("its certificate-authority-data {fault}"),
            expected: "expected PEM certificates in base64, on one line",
        };
        let pem = base64::engine::general_purpose::STANDARD.decode(data.trim()).map_err(|_| fault("is not base64"))?;
        let roots = parse(&pem).map_err(|why| fault(&why))?;
        return Ok((Some(roots), format!("the CA in the kubeconfig {}", file.display())));
    }
    match &cluster.certificate_authority {
        Some(path) => Ok((Some(certificates(Path::new(path))?), format!("the CA bundle {path}"))),
        None => Ok((None, "the system's root certificates".to_owned())),
    }
}

fn certificates(file: &Path) -> Result<Ders, LoadError> {
    let fault = |fault: String| LoadError::File { file: file.to_owned(), fault };
    parse(&std::fs::read(file).map_err(|error| fault(error.to_string()))?).map_err(fault)
}

fn parse(pem: &[u8]) -> Result<Ders, String> {
    let mut roots = rustls::RootCertStore::empty();
    let mut ders = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let der = certificate.map_err(|error| format!("is not valid PEM: {error}"))?;
        roots.add(der.clone()).map_err(|error| format!("contains a certificate that cannot be used: {error}"))?;
        ders.push(der.to_vec());
    }
    if ders.is_empty() { Err("contains no PEM certificate".to_owned()) } else { Ok(ders) }
}

fn read_files(kubeconfigs: &[PathBuf], cluster: &Cluster, config: &kube::Config) -> Vec<PathBuf> {
    let auth = &config.auth_info;
    let named = [&cluster.certificate_authority, &auth.client_certificate, &auth.client_key, &auth.token_file];
    kubeconfigs.iter().cloned().chain(named.into_iter().flatten().map(PathBuf::from)).collect()
}

/// The parser's text may quote the file, which contains keys and tokens.
fn unreadable(file: &Path, error: &KubeconfigError) -> LoadError {
    let (fault, expected) = match error {
        KubeconfigError::ReadConfig(error, _) => {
            (error.to_string(), "set `kubeconfig` in [kubernetes] to a file that the user Penstock runs as can read")
        }
        KubeconfigError::Parse(error) => {
            let at = error.location().map(|at| format!(" from line {}, column {}", at.line(), at.column()));
            (
                format!("it is not a kubeconfig{}", at.unwrap_or_default()),
                "kubectl config view --kubeconfig FILE must be able to read it",
            )
        }
        KubeconfigError::KindMismatch | KubeconfigError::ApiVersionMismatch => {
            ("it cannot be merged with the files before it".to_owned(), "$KUBECONFIG must list files of one kind")
        }
        _ => ("it cannot be used".to_owned(), "kubectl config view --kubeconfig FILE must be able to read it"),
    };
    LoadError::Kubeconfig { file: file.to_owned(), fault, expected }
}

#[cfg(test)]
mod tests;
