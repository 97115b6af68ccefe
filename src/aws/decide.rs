//! What an attempt that was answered came to: decided once, when its reply is whole, and left in the reply for everybody who asks:
//! the metrics, the SDK's retries, and the error that is reported.
//!
//! It comes from what is on the wire (status and error document), since an interceptor sees the SDK's typed error only as a black box.

use aws_sdk_s3::config::http::HttpResponse;
use aws_smithy_runtime_api::client::interceptors::context::Error as Erased;
use aws_smithy_runtime_api::client::orchestrator::OrchestratorError;

use super::classify::{Context, Reply, Service, Verdict, classify};
use super::reply::{self, Odd};
use super::transport;
use crate::error::{Class, NOT_THE_SERVICE};

/// EC2's way to say that a dry run would have succeeded.
pub(super) const DRY_RUN: &str = "DryRunOperation";

/// The credentials a request was signed with were obtained moments ago.
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

/// `None` where the failure is not the reply's: nothing came, or the connection broke.
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
    // As the SDK has it: a store says so without a document in its answer to HEAD.
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

/// The document is the one that was asked for, and something in it is not what the SDK can read. The parser's own words are for whoever
/// debugs this: they name no cause that an operator knows.
fn unreadable(service: Service, operation: &str, error: &OrchestratorError<Erased>) -> (Verdict, String) {
    tracing::debug!(operation, error = transport::tell(error), "an answer could not be read");
    let writer = service.as_str().to_uppercase();
    let message = format!("the answer to {operation} cannot be read: an element in it is not as {writer} writes it");
    let remedy = "the store, or a proxy before it, is not compatible here (docs/stores.md); the log at level debug has the parser's words";
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

/// What the reply's headers, and the watch over the request, add to what is known.
fn context_of(response: &HttpResponse, known: &Context) -> Context {
    let region = response.headers().get("x-amz-bucket-region").map(str::to_owned);
    let credentials_fresh = known.credentials_fresh || response.extension::<FreshCredentials>().is_some();
    Context { bucket_region: region, credentials_fresh, ..known.clone() }
}
