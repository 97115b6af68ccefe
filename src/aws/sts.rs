//! Obtains credentials: the base, then each AssumeRole hop, signed with the credentials of the step before it.
//!
//! Files, profile, token and external IDs are read again each time, so the next refresh finds a rotated one. STS is called directly:
//! aws-config's AssumeRole provider folds every failure into one text; an error made here names the hop and the role, and has a
//! class.
//!
//! Costs one request for each hop, besides the base. Nothing is kept on failure; the cache above decides whether older
//! credentials stay in use.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::types::Credentials as StsCredentials;

use super::Env;
use super::classify::Service;
use super::credentials::Fetch;
use super::failure::Call;
use super::transport::reason;
use super::watch::{Skew, Watch};
use crate::config::{self, Hop, SecretSource};
use crate::error::Class;
use crate::site::{Identity, Step};
use crate::store;

/// A hop may not request more if its caller is a role, or if the role does not allow it.
const SURE_DURATION: Duration = Duration::from_hours(1);

/// `credential_process` and the metadata services have no deadline for all their attempts together.
const BASE_TIMEOUT: Duration = Duration::from_mins(1);

const PROVIDER: &str = "penstock";

/// Settings of the SDK's providers of credentials and metadata: region, HTTP client, the process's environment.
pub(crate) fn providers(sdk: &SdkConfig) -> ProviderConfig {
    let providers = ProviderConfig::without_region()
        .with_region(sdk.region().cloned())
        .with_behavior_version(sdk.behavior_version());
    match sdk.http_client() {
        Some(client) => providers.with_http_client(client),
        None => providers,
    }
}

/// A location's base credentials and hops.
pub(crate) struct Chain {
    base: config::Credentials,
    hops: Vec<Link>,
    /// Region, HTTP client and timeouts for the providers of the default chain.
    providers: ProviderConfig,
    /// For STS: the endpoint too, but no credentials.
    sts: SdkConfig,
    watch: Watch,
    /// The store is not AWS's, and no STS is configured.
    elsewhere: bool,
    trust: String,
    env: Env,
}

struct Link {
    hop: Hop,
    /// STS refused the configured duration once: it is not requested again, and this is logged once.
    shortened: AtomicBool,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<_> = self.hops.iter().map(|link| &link.hop.role_arn).collect();
        f.debug_struct("Chain").field("roles", &roles).finish_non_exhaustive()
    }
}

#[async_trait]
impl Fetch for Arc<Chain> {
    async fn fetch(&self) -> Result<Credentials, store::Error> {
        let mut credentials = self.base().await?;
        for index in 0..self.hops.len() {
            credentials = self.assume(index, credentials).await?.credentials;
        }
        Ok(credentials)
    }
}

/// The result of a hop.
struct Granted {
    credentials: Credentials,
    /// The session's ARN.
    arn: String,
}

impl Chain {
    /// Obtains credentials as a refresh does, up to the first failing step, and returns the identity after each step.
    pub(super) async fn who(&self) -> Vec<Step> {
        let began = Instant::now();
        let mut steps = Vec::new();
        let mut add = |hop, began: Instant, result| steps.push(Step { hop, took: began.elapsed(), result });
        let base = match self.base().await {
            Ok(base) => base,
            Err(error) => {
                add(0, began, Err(error));
                return steps;
            }
        };
        let identity = self.identity(&base).await;
        let failed = identity.is_err();
        add(0, began, identity);
        if failed {
            return steps;
        }
        let mut caller = base;
        for index in 0..self.hops.len() {
            let began = Instant::now();
            match self.assume(index, caller).await {
                Ok(Granted { credentials, arn }) => {
                    add(index + 1, began, Ok(identity_of(arn, &credentials)));
                    caller = credentials;
                }
                Err(error) => {
                    add(index + 1, began, Err(error));
                    return steps;
                }
            }
        }
        steps
    }

    /// Whether this location uses STS: another store's own keys do not need it.
    pub(super) fn asks_sts(&self) -> bool {
        let own_keys = matches!(self.base, config::Credentials::Static { .. });
        !(own_keys && self.hops.is_empty() && self.elsewhere)
    }

    pub(super) const fn skew(&self) -> &Skew {
        &self.watch.skew
    }

    async fn identity(&self, base: &Credentials) -> Result<Identity, store::Error> {
        if !self.asks_sts() {
            let arn = format!("access key {} (STS is not asked: the store is not AWS's)", base.access_key_id());
            return Ok(Identity { account: None, arn, expiry: None });
        }
        let call = Call {
            service: Service::Sts,
            operation: "GetCallerIdentity",
            resource: "(base credentials)".to_owned(),
            trust: &self.trust,
        };
        let output = self.client(Some(base.clone())).get_caller_identity().send().await;
        let output = output.map_err(|error| call.sdk(&error))?;
        Ok(identity_of(output.arn().unwrap_or("unknown").to_owned(), base))
    }

    /// `sdk` has no credentials; its endpoint is STS's.
    pub(super) fn new(location: &config::Location, sdk: SdkConfig, watch: Watch, trust: String, env: Env) -> Self {
        let providers = providers(&sdk);
        let link = |hop: &Hop| Link { hop: hop.clone(), shortened: AtomicBool::new(false) };
        let hops = location.assume_role.iter().map(link).collect();
        let elsewhere = location.s3_url.is_some() && location.sts_url.is_none();
        Self { base: location.credentials.clone(), hops, providers, sts: sdk, watch, elsewhere, trust, env }
    }

    async fn base(&self) -> Result<Credentials, store::Error> {
        let (name, found) = match &self.base {
            config::Credentials::Default => ("default", tokio::time::timeout(BASE_TIMEOUT, self.default_chain()).await),
            config::Credentials::Profile { profile } => {
                let provider =
                    ProfileFileCredentialsProvider::builder().configure(&self.providers).profile_name(profile).build();
                let found = tokio::time::timeout(BASE_TIMEOUT, provider.provide_credentials()).await;
                let failed = |error| self.unavailable(&format!("profile {profile:?}"), &reason(&error), &error);
                ("profile", found.map(|found| found.map_err(failed)))
            }
            config::Credentials::Static { access_key_id, secret_access_key, session_token } => {
                return self.static_keys(access_key_id, secret_access_key, session_token.as_ref());
            }
            config::Credentials::WebIdentity { token_file, role_arn } => {
                return self.web_identity(token_file, role_arn, PROVIDER).await;
            }
        };
        found.unwrap_or_else(|_| {
            let message = format!("no credentials came within {} s", BASE_TIMEOUT.as_secs());
            Err(self.no_base(name, Class::CredentialsUnavailable, &message))
        })
    }

    fn no_base(&self, source: &str, class: Class, message: &str) -> store::Error {
        let call = Call {
            service: Service::Sts,
            operation: "base credentials",
            resource: format!("({source})"),
            trust: &self.trust,
        };
        call.error(class, message)
    }

    /// A provider's failure, with the class of its cause where that is more precise (TLS, a denial by STS).
    fn unavailable(&self, source: &str, message: &str, error: &CredentialsError) -> store::Error {
        let under = {
            let resource = String::new();
            let call = Call { service: Service::Sts, operation: "", resource, trust: &self.trust };
            call.transport(error)
        };
        let (class, remedy) = match under.class {
            Class::Tls => (Class::Tls, under.remedy),
            _ => (Class::CredentialsUnavailable, None),
        };
        store::Error { remedy, ..self.no_base(source, class, message) }
    }

    fn static_keys(
        &self,
        id: &SecretSource,
        secret: &SecretSource,
        token: Option<&SecretSource>,
    ) -> Result<Credentials, store::Error> {
        let read = |what: &str, source: &SecretSource| {
            let failed = |message: String| store::Error {
                remedy: Some(format!("check the file and that Penstock's user may read it: it should hold the {what}")),
                ..self.no_base("static", Class::CredentialsUnavailable, &message)
            };
            let value = source.read().map_err(|error| failed(format!("could not read the {what}: {error}")))?;
            let value = value.expose().trim().to_owned();
            if value.is_empty() { Err(failed(format!("the {what} is empty"))) } else { Ok(value) }
        };
        let id = read("access key ID", id)?;
        let secret = read("secret access key", secret)?;
        let token = token.map(|source| read("session token", source)).transpose()?;
        Ok(Credentials::new(id, secret, token, None, PROVIDER))
    }

    /// Tries the providers in the SDK's order, but the error says why each had none, and STS is the location's.
    async fn default_chain(&self) -> Result<Credentials, store::Error> {
        let mut tried = Vec::new();
        let mut take = |name: &str, found: Result<Credentials, CredentialsError>| match found {
            Ok(credentials) => Some(Ok(credentials)),
            Err(error @ CredentialsError::CredentialsNotLoaded(_)) => {
                let why = reason(&error);
                let why = why.trim_start_matches("the credential provider was not enabled").trim_start_matches(": ");
                tried.push(if why.is_empty() { format!("{name}: none") } else { format!("{name}: {why}") });
                None
            }
            Err(error) => Some(Err(self.unavailable(name, &reason(&error), &error))),
        };
        let environment = EnvironmentVariableCredentialsProvider::new();
        if let Some(done) = take("environment", environment.provide_credentials().await) {
            return done;
        }
        let profile = ProfileFileCredentialsProvider::builder().configure(&self.providers).build();
        if let Some(done) = take("profile", profile.provide_credentials().await) {
            return done;
        }
        let variables = ((self.env)("AWS_WEB_IDENTITY_TOKEN_FILE"), (self.env)("AWS_ROLE_ARN"));
        if let (Some(file), Some(role)) = variables {
            let session = (self.env)("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| PROVIDER.to_owned());
            return self.web_identity(Path::new(&file), &role, &session).await;
        }
        let unset = CredentialsError::not_loaded("AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN are not both set");
        take("web identity", Err(unset));
        let container = EcsCredentialsProvider::builder().configure(&self.providers).build();
        if let Some(done) = take("container", container.provide_credentials().await) {
            return done;
        }
        let instance = ImdsCredentialsProvider::builder().configure(&self.providers).build();
        if let Some(done) = take("instance metadata", instance.provide_credentials().await) {
            return done;
        }
        let message = format!("no provider had any ({})", tried.join("; "));
        let remedy = "in a pod: a service account with a role (docs/iam.md); on a host: AWS_PROFILE, AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, \
                      an instance role, or `credentials` of the location";
        let error = self.no_base("default", Class::CredentialsUnavailable, &message);
        Err(store::Error { remedy: Some(remedy.to_owned()), ..error })
    }

    async fn web_identity(&self, file: &Path, role: &str, session: &str) -> Result<Credentials, store::Error> {
        let token = SecretSource::File(file.to_owned()).read().map_err(|error| store::Error {
            remedy: Some("check that the service account's token is mounted and readable".to_owned()),
            ..self.no_base("web identity", Class::CredentialsUnavailable, &error.to_string())
        })?;
        let call = Call {
            service: Service::Sts,
            operation: "AssumeRoleWithWebIdentity",
            resource: role.to_owned(),
            trust: &self.trust,
        };
        let client = self.client(None);
        let request = client.assume_role_with_web_identity().role_arn(role).role_session_name(session);
        let output = request.web_identity_token(token.expose()).send().await.map_err(|error| call.sdk(&error))?;
        keep(&call, output.credentials())
    }

    /// An STS client that signs as `caller`, or not at all.
    fn client(&self, caller: Option<Credentials>) -> aws_sdk_sts::Client {
        let config = aws_sdk_sts::config::Builder::from(&self.sts).interceptor(self.watch.clone());
        let config = match caller {
            Some(caller) => config.credentials_provider(caller),
            None => config,
        };
        aws_sdk_sts::Client::from_conf(config.build())
    }

    async fn assume(&self, index: usize, caller: Credentials) -> Result<Granted, store::Error> {
        let Link { hop, shortened } = &self.hops[index];
        let resource = format!("{} (hop {} of {})", hop.role_arn, index + 1, self.hops.len());
        let call = Call { service: Service::Sts, operation: "AssumeRole", resource, trust: &self.trust };
        let external_id = hop.external_id.as_ref().map(SecretSource::read).transpose();
        let external_id = external_id.map_err(|error| store::Error {
            remedy: Some("check external_id_file and that Penstock's user may read it".to_owned()),
            ..call.error(Class::CredentialsUnavailable, format!("could not read the external ID: {error}"))
        })?;
        let client = self.client(Some(caller));
        let ask = |duration: Duration| {
            let seconds = i32::try_from(duration.as_secs()).unwrap_or(i32::MAX);
            let request = client.assume_role().role_arn(&hop.role_arn).role_session_name(&hop.session_name);
            let external_id = external_id.as_ref().map(|id| id.expose().to_owned());
            request.duration_seconds(seconds).set_external_id(external_id).send()
        };
        let short = shortened.load(Ordering::Relaxed);
        let wanted = if short { hop.duration.min(SURE_DURATION) } else { hop.duration };
        let result = match ask(wanted).await.map_err(|error| call.sdk(&error)) {
            Err(error) if wanted > SURE_DURATION && too_long(&error) => {
                if !shortened.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        role = hop.role_arn, error = %error,
                        wanted_seconds = wanted.as_secs(),
                        "STS refuses sessions of the configured duration: Penstock requests 3600 s from now on; set duration = \"1h\""
                    );
                }
                ask(SURE_DURATION).await.map_err(|error| call.sdk(&error))
            }
            result => result,
        };
        let output = result?;
        let arn = output.assumed_role_user().map_or(hop.role_arn.as_str(), |user| user.arn()).to_owned();
        Ok(Granted { credentials: keep(&call, output.credentials())?, arn })
    }
}

fn identity_of(arn: String, credentials: &Credentials) -> Identity {
    let account = arn.split(':').nth(4).filter(|account| !account.is_empty()).map(str::to_owned);
    let expiry = credentials.expiry().and_then(|expiry| jiff::Timestamp::try_from(expiry).ok());
    Identity { account, arn, expiry }
}

fn too_long(error: &store::Error) -> bool {
    let said = |text: &str| error.message.contains(text);
    error.code.as_deref() == Some("ValidationError") && (said("session limit") || said("MaxSessionDuration"))
}

fn keep(call: &Call<'_>, found: Option<&StsCredentials>) -> Result<Credentials, store::Error> {
    let found = found.ok_or_else(|| call.error(Class::Compat, "the reply holds no credentials"))?;
    let expiry = SystemTime::try_from(*found.expiration())
        .map_err(|error| call.error(Class::Compat, format!("could not read the expiry in the reply: {error}")))?;
    let (id, secret, token) = (found.access_key_id(), found.secret_access_key(), found.session_token());
    if id.is_empty() || secret.is_empty() || token.is_empty() {
        return Err(call.error(Class::Compat, "the credentials in the reply are incomplete"));
    }
    Ok(Credentials::new(id, secret, Some(token.to_owned()), Some(expiry), PROVIDER))
}
