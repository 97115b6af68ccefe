use super::*;
use crate::error::{Classify as _, Retry};

const ASKED: Asked<'static> = Asked {
    verb: "list",
    path: "/api/v1/configmaps",
    group: "",
    resource: "configmaps",
    namespace: None,
    fresh: Freshness::Kept,
};

fn status(reason: &str, message: &str, more: &str) -> String {
    let message = serde_json::to_string(message).unwrap();
    format!(r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"{reason}","message":{message}{more}}}"#)
}

fn failure(code: u16, body: &str) -> Failure {
    let reply = Reply { status: code, content_type: "application/json", body: body.as_bytes(), ..Reply::default() };
    classify(&ASKED, &reply)
}

#[test]
fn each_reason_has_its_class() {
    // (HTTP status, reason, message) as servers from 1.20 on send them.
    let rows = [
        (401, "Unauthorized", "Unauthorized", Class::CredentialsExpired),
        (
            403,
            "Forbidden",
            "configmaps is forbidden: User \"x\" cannot list resource \"configmaps\"",
            Class::AccessDenied,
        ),
        (403, "Forbidden", "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1", Class::Quota),
        (403, "Forbidden", "admission webhook \"w\" denied the request: no", Class::AccessDenied),
        (404, "NotFound", "the server could not find the requested resource", Class::NotFound),
        (405, "MethodNotAllowed", "the server does not allow this method on the requested resource", Class::Compat),
        (406, "NotAcceptable", "only the following media types are accepted", Class::Compat),
        (409, "AlreadyExists", "configmaps \"a\" already exists", Class::Conflict),
        (409, "Conflict", "Operation cannot be fulfilled", Class::Conflict),
        (410, "Expired", "The provided continue parameter is too old", Class::Conflict),
        (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", Class::Quota),
        (400, "BadRequest", "unable to parse requirement", Class::Config),
        (422, "Invalid", "ConfigMap \"a\" is invalid", Class::Config),
        (429, "TooManyRequests", "The apiserver is receiving too many requests", Class::Throttled),
        (500, "ServerTimeout", "The POST operation against x could not be completed at this time", Class::Transient),
        (504, "Timeout", "Timeout: request did not complete within 60s", Class::Transient),
        (503, "ServiceUnavailable", "the server is currently unable to handle the request", Class::Transient),
        (500, "InternalError", "Internal error occurred: etcdserver: leader changed", Class::Transient),
        (500, "InternalError", "conversion webhook for example.com/v1, Kind=W failed: Post: refused", Class::Transient),
        (
            500,
            "InternalError",
            "Internal error occurred: unable to transform key \"/registry/secrets/a/b\"",
            Class::Integrity,
        ),
        (500, "StorageReadError", "failed to read one or more secrets from the storage", Class::Integrity),
        (500, "", "etcdserver: request is too large", Class::Quota),
        (500, "", "rpc error: code = ResourceExhausted desc = trying to send message larger than max", Class::Quota),
        (500, "", "resourceVersion should not be set on objects to be created", Class::Internal),
        (500, "", "something else", Class::Transient),
        (418, "Teapot", "", Class::Compat),
    ];
    for (code, reason, message, class) in rows {
        let failure = failure(code, &status(reason, message, ""));
        assert_eq!(failure.error.class, class, "{code} {reason} {message}");
        assert_eq!(failure.error.status, Some(code));
        assert_eq!(failure.error.code.as_deref().unwrap_or_default(), reason);
        assert_eq!(failure.error.message, message);
        assert_eq!(failure.error.service, "kubernetes");
    }
}

#[test]
fn a_refusal_of_rbac_names_the_rule_that_is_missing() {
    let message = "deployments.apps is forbidden: User \"system:serviceaccount:penstock:agent\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope";
    let remedy = failure(403, &status("Forbidden", message, "")).report().remedy.unwrap();
    assert_eq!(
        remedy,
        "grant system:serviceaccount:penstock:agent in the whole cluster (a ClusterRoleBinding) a role with this rule: \
         {apiGroups: [\"apps\"], resources: [\"deployments\"], verbs: [\"get\", \"list\"]}"
    );
    // The server's message is empty: the rule for the request is missing.
    let asked = Asked { namespace: Some("shop"), ..ASKED };
    let reply = Reply { status: 403, content_type: "application/json", body: b"{}", ..Reply::default() };
    let remedy = classify(&asked, &reply).error.remedy.unwrap();
    assert!(remedy.contains("namespace shop") && remedy.contains("resources: [\"configmaps\"]"), "{remedy}");
    // Admission is not RBAC.
    assert_eq!(
        failure(403, &status("Forbidden", "admission webhook \"w\" denied the request: no", "")).error.remedy,
        None
    );
}

#[test]
fn a_namespace_that_goes_away_is_no_matter_of_rights() {
    let more = r#","details":{"causes":[{"reason":"NamespaceTerminating","message":"n is being terminated","field":"metadata.namespace"}]}"#;
    let failure = failure(403, &status("Forbidden", "unable to create new content in namespace n", more));
    assert_eq!(failure.error.class, Class::Conflict);
    assert!(failure.is_namespace_terminating());
}

#[test]
fn what_a_change_is_refused_for() {
    let asked = |verb, resource| Asked { verb, resource, ..ASKED };
    let row = |verb, code, reason: &str, message: &str, more: &str| {
        let body = status(reason, message, more);
        let reply = Reply { status: code, content_type: "application/json", body: body.as_bytes(), ..Reply::default() };
        classify(&asked(verb, "pods"), &reply)
    };
    let of = |kind: &str| format!(r#","details":{{"name":"x","kind":"{kind}"}}"#);

    let there = row("create", 409, "AlreadyExists", "pods \"x\" already exists", &of("pods"));
    assert!(there.is_there_already() && there.error.class.retry() == Retry::No);
    let raced = row("update", 409, "Conflict", "Operation cannot be fulfilled on pods \"x\"", &of("pods"));
    assert!(raced.is_outdated() && raced.error.class.retry() == Retry::No);
    // The conflict is about a quota that many pods count in.
    let quota = "Operation cannot be fulfilled on resourcequotas \"q\": the object has been modified";
    let quota = row("create", 409, "Conflict", quota, &of("resourcequotas"));
    assert!(!quota.is_outdated() && quota.error.class == Class::Transient, "{quota:?}");

    let missing = row("create", 404, "NotFound", "namespaces \"shop\" not found", &of("namespaces"));
    assert!(missing.is_namespace_missing() && !missing.is_kind_missing());
    let missing = row("patch", 404, "NotFound", "pods \"x\" not found", &of("pods"));
    assert!(!missing.is_namespace_missing() && !missing.is_kind_missing());
    assert!(row("create", 404, "NotFound", "the server could not find the requested resource", "").is_kind_missing());
    let reply = Reply { status: 404, content_type: "text/plain", body: b"404 page not found\n", ..Reply::default() };
    assert!(classify(&asked("create", "pods"), &reply).is_kind_missing());

    let account = "pods \"x\" is forbidden: error looking up service account shop/a: serviceaccount \"a\" not found";
    assert_eq!(row("create", 403, "Forbidden", account, "").error.class, Class::NotFound);
    let cause = r#","details":{"causes":[{"reason":"FieldValueInvalid","message":"Invalid value: \"hunter2\": field is immutable","field":"data"}]}"#;
    let invalid = row("update", 422, "Invalid", "Secret \"x\" is invalid: data: Invalid value: \"hunter2\"", cause);
    assert_eq!(
        (invalid.error.class, &*invalid.error.message),
        (Class::Config, "data: invalid value: field is immutable")
    );
    let webhook = "failed calling webhook \"w.test\": Post \"https://w.shop.svc:443/\": dial tcp: connection refused";
    let webhook = row("create", 500, "InternalError", webhook, "").error;
    assert!(webhook.class == Class::Transient && webhook.remedy.unwrap().contains("webhook"));
    let full = row("create", 500, "", "etcdserver: mvcc: database space exceeded", "").error;
    assert_eq!(full.class.retry(), Retry::No);
}

#[test]
fn a_401_is_final_once_the_credentials_are_fresh() {
    assert_eq!(failure(401, &status("Unauthorized", "Unauthorized", "")).error.class.retry(), Retry::Once);
    let asked = Asked { fresh: Freshness::JustRead, ..ASKED };
    let body = status("Unauthorized", "Unauthorized", "");
    let failure = classify(&asked, &Reply { status: 401, body: body.as_bytes(), ..Reply::default() });
    assert_eq!(failure.error.class, Class::AccessDenied);
    assert!(failure.error.remedy.unwrap().contains("kubeconfig"));
}

#[test]
fn a_410_carries_the_token_to_continue_with() {
    let body =
        r#"{"kind":"Status","metadata":{"continue":"eyJ2Ijoi"},"reason":"Expired","message":"too old","code":410}"#;
    assert_eq!(failure(410, body).expired, Some(Box::new(Expired { token: Some("eyJ2Ijoi".to_owned()) })));
    assert_eq!(failure(410, &status("Expired", "too old", "")).expired, Some(Box::new(Expired { token: None })));
    assert_eq!(failure(410, "gone").expired, Some(Box::new(Expired { token: None })));
    assert_eq!(failure(404, &status("NotFound", "", "")).expired, None);
}

#[test]
fn the_server_says_how_long_to_wait() {
    let body = status("TooManyRequests", "", "");
    let after = |header, body: &str| {
        classify(&ASKED, &Reply { status: 429, retry_after: header, body: body.as_bytes(), ..Reply::default() })
            .retry_after
    };
    assert_eq!(after(Some("3"), &body), Some(Duration::from_secs(3)));
    assert_eq!(
        after(Some("3"), &status("TooManyRequests", "", r#","details":{"retryAfterSeconds":7}"#)),
        Some(Duration::from_secs(7))
    );
    assert_eq!(after(None, &body), None);
    assert_eq!(after(Some("soon"), "slow down"), None);
    assert_eq!(after(Some("99999999"), &body), Some(MOST_RETRY_AFTER), "a hostile server");
}

#[test]
fn what_is_no_status_is_told_apart() {
    let reply = |code, content_type, body: &'static str| {
        let failure =
            classify(&ASKED, &Reply { status: code, content_type, body: body.as_bytes(), ..Reply::default() });
        (failure.error.class, failure.error.code.as_deref() == Some(NOT_THE_SERVICE), failure.error.message)
    };
    // The server's own plain text: a path it does not serve, an aggregated API with no backend.
    assert_eq!(reply(404, "text/plain", "404 page not found\n"), (Class::NotFound, false, "404 page not found".into()));
    assert_eq!(reply(503, "text/plain", "service unavailable\n").0, Class::Transient);
    assert!(!reply(503, "text/plain", "service unavailable\n").1);
    assert_eq!(reply(429, "text/plain", "Too many requests, please try again later.").0, Class::Throttled);
    // Another server's.
    assert_eq!(reply(502, "text/html", "<html>bad gateway"), (Class::Transient, true, "with a page of HTML".into()));
    assert_eq!(reply(503, "text/html", "<html>").0, Class::Transient);
    assert!(reply(503, "text/html", "<html>").1);
    assert_eq!(reply(403, "text/html", "<h1>Blocked").0, Class::Compat);
    assert_eq!(reply(404, "text/html", "<h1>nginx").0, Class::Compat);
    assert_eq!(
        reply(302, "text/html", ""),
        (Class::Compat, true, "the answer is not a Kubernetes object: with an empty body".into())
    );
    assert_eq!(reply(407, "text/plain", "who are you").0, Class::Config);
    assert_eq!(reply(504, "", "").0, Class::Transient);
    // JSON, but not a Status; and `null`.
    assert_eq!(reply(500, "application/json", "{\"error\":1}").0, Class::Transient);
    assert_eq!(reply(500, "application/json", "null").0, Class::Transient);
}

#[test]
fn a_long_answer_is_cut_and_on_one_line() {
    let body = status("InternalError", &"a\nb".repeat(100_000), "");
    let message = failure(500, &body).error.message;
    assert!(message.chars().count() <= MAX_WORDS && !message.contains('\n'));
}
