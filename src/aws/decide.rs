//! Decides what the outcome of an answered attempt is: once, when its reply is complete. The decision is stored in the reply for
//! the metrics, the SDK's retries and the reported error.
//!
//! It is made from status and error document, since an interceptor cannot look into the SDK's typed error.

use aws_sdk_s3::config::http::HttpResponse;
use aws_smithy_runtime_api::client::interceptors::context::Error as Erased;
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;

use super::classify::{Context, Reply, Service, Verdict, classify};
use super::reply::{self, Odd};
use super::transport;
use crate::error::{Class, NOT_THE_SERVICE};

/// EC2's code for a dry run that would have succeeded.
pub(super) const DRY_RUN: &str = "DryRunOperation";

/// Whether the credentials that signed the request were obtained moments ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct FreshCredentials;

#[derive(Debug, Clone)]
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    pub(super) status: u16,
    pub(super) code: Option<String>,
    pub(super) message: String,
    pub(super) request_id: Option<String>,
}

/// `None` where the reply does not explain the failure: none came, or the connection broke.
pub(super) fn decide(
    (service, operation): (Service, &str),
    error: &OrchestratorError<Erased>,
    response: &HttpResponse,
    known: &Context,
) -> Option<Decided> {
    let found = transport::find::<Odd>(error).cloned();
    let (whole, cut) = (error.is_operation_error(), error.is_response_error());
    if found.is_none() && !whole && !cut {
        return None;
    }
    let document = reply::document(response);
    let status = response.status().as_u16();
    // The SDK's own name for it: the answer to HEAD has no document.
    let bare = (service == Service::S3 && status == 404 && document.is_empty()).then(|| "NotFound".to_owned());
    let code = reply::element(&document, "Code").or(bare);
    let request_id = request_id(response, &document);
    if code.is_none() {
        let unasked = || reply::check(service, operation, response).err().filter(|_| whole);
        if let Some(odd) = found.or_else(unasked).or_else(|| reply::elsewhere(service, response)) {
            let code = odd.is_elsewhere().then(|| NOT_THE_SERVICE.to_owned());
            let verdict = Verdict { class: odd.class(), remedy: odd.remedy().map(str::to_owned) };
            return Some(Decided { verdict, status, code, message: odd.to_string(), request_id });
        }
        if whole && response.status().is_success() {
            let (verdict, message) = unreadable(service, operation, error);
            return Some(Decided { verdict, status, code, message, request_id });
        }
    }
    let message = reply::element(&document, "Message").unwrap_or_default();
    let message = if message.is_empty() && cut { "the answer was cut off".to_owned() } else { message };
    let (code_text, status_of) = (code.as_deref(), Some(status));
    let reply = Reply { service, operation, status: status_of, code: code_text, message: &message };
    let verdict = classify(&reply, &context_of(response, known));
    let message = if message.is_empty() && code.is_none() {
        format!("the server answered {status} with no error document")
    } else {
        message
    };
    Some(Decided { verdict, status, code, message, request_id })
}

/// The document is of the expected kind, but the SDK cannot parse an element in it. The parser's message goes to the debug log only:
/// it names no cause that an operator knows.
fn unreadable(service: Service, operation: &str, error: &OrchestratorError<Erased>) -> (Verdict, String) {
    tracing::debug!(operation, error = transport::reason(error), "could not parse the answer: the request fails");
    let writer = service.as_str().to_uppercase();
    let message = format!("could not read the answer to {operation}: an element in it is not as {writer} writes it");
    let remedy = "the store, or a proxy before it, is not compatible here (docs/stores.md); the debug log has the parser's message";
    (Verdict::new(Class::Compat, remedy), message)
}

fn request_id(response: &HttpResponse, document: &str) -> Option<String> {
    let header = |name: &str| response.headers().get(name).map(str::to_owned);
    let element = |name: &str| reply::element(document, name);
    header("x-amz-request-id")
        .or_else(|| header("x-amzn-requestid"))
        .or_else(|| element("RequestId"))
        .or_else(|| element("RequestID"))
}

/// Adds to `known` the facts in the reply's headers and in the watch over the request.
fn context_of(response: &HttpResponse, known: &Context) -> Context {
    let region = response.headers().get("x-amz-bucket-region").map(str::to_owned);
    let credentials_fresh = known.credentials_fresh || response.extension::<FreshCredentials>().is_some();
    Context { bucket_region: region, credentials_fresh, ..known.clone() }
}
