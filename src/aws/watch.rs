//! What happens to every request, on its way through the SDK: no call of a client can escape it.
//!
//! - It is counted and timed, its failed attempts too, by class ([`metrics`]). A request whose future is dropped counts as
//!   cancelled.
//! - Credentials that the service calls expired are dropped, and the attempt is made again with new ones: whoever made the
//!   request does not see it.
//! - The server's clock is read off its replies ([`Skew`]) and a difference that matters is reported. The SDK corrects for
//!   it: it signs with the server's time.
//! - Its answer is made legible, and believed only as far as it is the service's ([`reply`]).
//! - What it came to is decided ([`decide`]), once for the metrics, the retries and the error that is reported.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
    BeforeDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextMut, FinalizerInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{Error as Erased, InterceptorContext};
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use aws_smithy_types::date_time::{DateTime, Format};

use super::classify::{Context, Service};
use super::credentials::Provider;
use super::decide::{DRY_RUN, Decided, FreshCredentials, decide};
use super::{reply, transport};
use crate::error::Class;
use crate::metrics::{self, Outcome};

/// A difference below this is a network's delay and NTP at work; STS refuses from five minutes on.
const SKEW_THAT_MATTERS: Duration = Duration::from_mins(1);

/// How far the server's clock is ahead of this host's, as its last reply said.
#[derive(Clone, Default)]
pub struct Skew {
    milliseconds: Arc<AtomicI64>,
    measured: Arc<AtomicBool>,
    matters: Arc<AtomicBool>,
}

impl Skew {
    /// Milliseconds the server is ahead; negative when it is behind, `None` when no reply has come yet.
    #[must_use]
    pub fn milliseconds(&self) -> Option<i64> {
        self.measured.load(Ordering::Relaxed).then(|| self.milliseconds.load(Ordering::Relaxed))
    }

    /// The server's time, as well as it is known. Small differences are left out: the reply's date has whole seconds.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        if !self.matters.load(Ordering::Relaxed) {
            return now;
        }
        let ahead = self.milliseconds.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        if ahead >= 0 { now.checked_add(by) } else { now.checked_sub(by) }.unwrap_or(now)
    }

    /// Takes a new measurement; the sentence to log when a difference begins or ceases to matter.
    fn measure(&self, server: SystemTime, here: SystemTime) -> Option<String> {
        let millis = |by: Duration| i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let ahead = match server.duration_since(here) {
            Ok(by) => millis(by),
            Err(error) => -millis(error.duration()),
        };
        self.milliseconds.store(ahead, Ordering::Relaxed);
        self.measured.store(true, Ordering::Relaxed);
        let matters = ahead.unsigned_abs() >= millis(SKEW_THAT_MATTERS).unsigned_abs();
        if self.matters.swap(matters, Ordering::Relaxed) == matters {
            return None;
        }
        if !matters {
            return Some("this host's clock agrees with the server's again".to_owned());
        }
        let direction = if ahead > 0 { "behind" } else { "ahead of" };
        let seconds = ahead.unsigned_abs() / 1000;
        Some(format!(
            "this host's clock is {seconds} s {direction} the server's; requests are signed with the server's time: fix NTP"
        ))
    }
}

impl fmt::Debug for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Skew({:?})", self.milliseconds())
    }
}

/// The watch over one service of a location.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) service: Service,
    pub(super) context: Arc<Context>,
    pub(super) metrics: metrics::Location,
    /// Those the requests are signed with; STS is asked with credentials of the moment, which nobody keeps.
    pub(super) credentials: Option<Provider>,
    pub(super) skew: Skew,
}

/// One request, from its first attempt to its end.
#[derive(Debug)]
struct Running {
    service: &'static str,
    /// Known from the first attempt on: the operation's own settings come after the request has begun.
    operation: OnceLock<String>,
    metrics: metrics::Location,
    began: Instant,
    ended: AtomicBool,
    attempt: Mutex<Attempt>,
}

#[derive(Debug, Default)]
struct Attempt {
    sent: Option<SystemTime>,
    access_key_id: Option<String>,
    failed: Option<Class>,
}

impl Storable for Running {
    type Storer = StoreReplace<Self>;
}

impl Running {
    fn attempt(&self) -> std::sync::MutexGuard<'_, Attempt> {
        // Nothing that can panic runs under it.
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operation(&self) -> &str {
        self.operation.get().map_or("unknown", String::as_str)
    }

    fn end(&self, outcome: Outcome) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.metrics.request(self.service, self.operation(), outcome, self.began.elapsed());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

/// The class of a failed attempt: of its reply, where that explains it.
fn class_of(error: &OrchestratorError<Erased>, response: Option<&HttpResponse>) -> Class {
    match response.and_then(|response| response.extension::<Decided>()) {
        Some(decided) => decided.verdict.class,
        None => transport::read(error, "").0.class,
    }
}

/// `AWS4-HMAC-SHA256 Credential=AKIA…/20261124/…`
fn signed_with(authorization: &str) -> Option<&str> {
    authorization.split_once("Credential=")?.1.split('/').next()
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let running = Running {
            service: self.service.as_str(),
            operation: OnceLock::new(),
            metrics: self.metrics.clone(),
            began: Instant::now(),
            ended: AtomicBool::new(false),
            attempt: Mutex::default(),
        };
        config.interceptor_state().store_put(running);
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(running) = config.load::<Running>() else { return Ok(()) };
        if let Some(metadata) = config.load::<Metadata>() {
            running.operation.get_or_init(|| metadata.name().to_owned());
        }
        let before = std::mem::take(&mut *running.attempt());
        if let Some(class) = before.failed {
            self.metrics.retried(self.service.as_str(), class);
            tracing::debug!(service = self.service.as_str(), operation = running.operation(), %class, "trying again");
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(running) = config.load::<Running>() else { return Ok(()) };
        let key = context.request().headers().get("authorization").and_then(signed_with).map(str::to_owned);
        *running.attempt() = Attempt { sent: Some(SystemTime::now()), access_key_id: key, failed: None };
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        let date = headers.get("date").and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        let server = date.and_then(|date| SystemTime::try_from(date).ok());
        let sent = config.load::<Running>().and_then(|running| running.attempt().sent);
        // A reply out of a cache has the date it was put there.
        if let (Some(server), Some(sent), None) = (server, sent, headers.get("age")) {
            let half = SystemTime::now().duration_since(sent).unwrap_or_default() / 2;
            if let Some(changed) = self.skew.measure(server, sent + half) {
                tracing::warn!(service = self.service.as_str(), "{changed}");
            }
        }
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        reply::tidy(config.load::<Metadata>().map_or("", Metadata::name), context.response_mut());
        if self.credentials.as_ref().is_some_and(Provider::is_fresh) {
            context.response_mut().add_extension(FreshCredentials);
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // What the SDK could not read has failed already; why that is, is found by whoever reads the error.
        if context.output_or_error().is_err() {
            return Ok(());
        }
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        reply::check(self.service, operation, context.response()).map_err(Into::into)
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        let failed = context.output_or_error().and_then(Result::err).zip(context.response());
        let decided = failed.and_then(|(error, raw)| decide((self.service, operation), error, raw, &self.context));
        if let (Some(decided), Some(response)) = (decided, context.response_mut()) {
            response.add_extension(decided);
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(running) = config.load::<Running>() else { return Ok(()) };
        let error = context.output_or_error().and_then(Result::err);
        let failed = error.map(|error| class_of(error, context.response()));
        let allowed = context.response().is_some_and(is_yes);
        let mut attempt = running.attempt();
        attempt.failed = failed.filter(|_| !allowed);
        if let (Some(Class::CredentialsExpired), Some(provider), Some(key)) =
            (failed, &self.credentials, &attempt.access_key_id)
        {
            provider.refused(key);
        }
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(running) = config.load::<Running>() else { return Ok(()) };
        match context.output_or_error().and_then(Result::err) {
            Some(error) if !context.response().is_some_and(is_yes) => {
                running.end(Outcome::Failure);
                self.metrics.failed(self.service.as_str(), class_of(error, context.response()));
            }
            _ => running.end(Outcome::Success),
        }
        Ok(())
    }
}

/// Whether it says that a dry run would have succeeded.
fn is_yes(response: &HttpResponse) -> bool {
    response.extension::<Decided>().is_some_and(|decided| decided.code.as_deref() == Some(DRY_RUN))
}

impl ClassifyRetry for Watch {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.output_or_error().and_then(Result::err) {
            // The attempt's credentials were just dropped: the next one has others.
            Some(error)
                if self.credentials.is_some() && class_of(error, context.response()) == Class::CredentialsExpired =>
            {
                RetryAction::transient_error()
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Watch"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_key_is_in_the_signature() {
        let header =
            "AWS4-HMAC-SHA256 Credential=ASIA1/20261124/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        assert_eq!(signed_with(header), Some("ASIA1"));
        assert_eq!(signed_with("Basic dXNlcg=="), None);
    }

    #[test]
    fn a_skew_is_told_when_it_begins_and_when_it_ends() {
        let (skew, here) = (Skew::default(), SystemTime::now());
        assert_eq!(skew.milliseconds(), None);
        let minutes = |n| Duration::from_mins(n);
        assert_eq!(skew.measure(here + Duration::from_secs(59), here), None);
        assert_eq!(skew.milliseconds(), Some(59_000));
        let told = skew.measure(here + minutes(10), here).unwrap();
        assert!(told.contains("600 s behind"), "{told}");
        assert!(skew.now() > here + minutes(9));
        assert_eq!(skew.measure(here + minutes(10), here), None, "said once");
        assert!(skew.measure(here, here).unwrap().contains("agrees"));
        assert!(skew.measure(here, here + minutes(10)).unwrap().contains("600 s ahead of"));
        assert!(skew.now() < here);
    }
}
