//! What only a real server tells: refusals by schema and by webhooks, and how fast it is.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use penstock::cluster::Effect;
use penstock::error::Class;
use serde_json::{Value, json};

use super::writes::{Kind, refused};
use super::{Admin, client, of_environment, resource};
use crate::servers::{Scheme, Servers};

/// What the fake does not know: schemas, and webhooks that are asked.
pub(super) async fn a_real_server_alone(kubeconfig: &Path, p: &str) {
    let (admin, client) = (Admin::new(kubeconfig).await, client(kubeconfig).await);
    // Outside the pattern with which the suite chooses its own.
    let namespace = format!("real-{p}");
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    admin.make("/api/v1/namespaces", body).await;
    let of = |resource| Kind { client: &client, resource, namespace: Some(namespace.clone()) };
    let (maps, secrets) = (of(resource("", "configmaps", "ConfigMap")), of(resource("", "secrets", "Secret")));
    for (kind, data) in [(&secrets, json!({ "a": "hunter2!" })), (&maps, json!({ "a": { "b": "hunter2" } }))] {
        let unreadable = refused(kind.create("x", json!({ "data": data }), Effect::Real).await, 400, Class::Config);
        assert!(!unreadable.error.message.contains("hunter2"), "{unreadable}");
    }
    secrets.create("x", json!({ "immutable": true, "data": { "a": "YQ==" } }), Effect::Real).await.unwrap();
    let fixed = refused(secrets.merge("x", json!({ "data": { "a": "Yg==" } })).await, 422, Class::Config);
    assert_eq!(fixed.error.message, "data: forbidden: field is immutable when `immutable` is set");
    a_webhook_refuses(&admin, &maps, p).await;
}

async fn a_webhook_refuses(admin: &Admin, maps: &Kind<'_>, p: &str) {
    let servers = Servers::start();
    let refusing = servers.scripted(Scheme::Https, |request, _| {
        let review: Value = serde_json::from_str(&request.body).unwrap();
        let object = &review["request"]["object"]["metadata"]["name"];
        let response = json!({ "uid": review["request"]["uid"], "allowed": object != "refused", "status": { "message": "no owner" } });
        let answer = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
        (200, answer.to_string())
    });
    let ca = STANDARD.encode(std::fs::read(servers.ca_path()).unwrap());
    let all = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let rules =
        json!([{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"] }]);
    let only = json!({ "matchLabels": { "penstock.test/hook": p } });
    let of = |url: &str| {
        json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": { "name": p },
        "webhooks": [{ "name": "w.penstock.test", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5, "rules": rules,
            "objectSelector": only, "clientConfig": { "url": url, "caBundle": ca } }] })
    };
    admin.make(all, of(&format!("{}/", refusing.url))).await;
    let hooked = json!({ "metadata": { "labels": { "penstock.test/hook": p } } });
    let mut denied = None;
    for _ in 0..100 {
        denied = maps.create("refused", hooked.clone(), Effect::DryRun).await.err();
        if denied.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let denied = denied.unwrap().error;
    assert_eq!((denied.class, denied.status, denied.code), (Class::AccessDenied, Some(400), None));
    assert_eq!(denied.message, "admission webhook \"w.penstock.test\" denied the request: no owner");
    maps.create("allowed", hooked.clone(), Effect::Real).await.unwrap();
    admin.request("DELETE", &format!("{all}/{p}"), &Value::Null).await.unwrap();
    // One that does not answer: the same object may be taken a moment later.
    admin.make(all, of(&servers.refusing().replace("http:", "https:"))).await;
    let mut away = None;
    for number in 0..100 {
        away = maps.create(&format!("away-{number}"), hooked.clone(), Effect::DryRun).await.err();
        if away.as_ref().is_some_and(|away| away.error.status == Some(500)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let away = away.unwrap().error;
    assert_eq!((away.class, away.code.as_deref()), (Class::Transient, Some("InternalError")));
    assert!(away.remedy.unwrap().contains("webhook does not answer"));
    admin.request("DELETE", &format!("{all}/{p}"), &Value::Null).await.unwrap();
}

/// ConfigMaps a second, as a restore makes them: COUNT of 2 KiB, 16 at once, without and with a second request for the managed fields.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement on a Kubernetes API server: PENSTOCK_KUBECONFIG"]
async fn measured_rate_of_writes() {
    const COUNT: u32 = 5000;
    let kubeconfig = of_environment();
    let (admin, client) = (Admin::new(&kubeconfig).await, client(&kubeconfig).await);
    let others = json!([{ "manager": "other", "operation": "Apply", "apiVersion": "v1", "time": "2020-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": { "f:data": { ".": {}, "f:text": {} } } }]);
    let patch = json!({ "metadata": { "managedFields": others } });
    for (way, effect, patched) in
        [("POST", Effect::Real, false), ("POST and PATCH", Effect::Real, true), ("dry POST", Effect::DryRun, false)]
    {
        let namespace = format!("rate-{}-{}", std::process::id(), way.to_lowercase().replace(' ', "-"));
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        admin.make("/api/v1/namespaces", body).await;
        let maps =
            Kind { client: &client, resource: resource("", "configmaps", "ConfigMap"), namespace: Some(namespace) };
        let (maps, patch) = (&maps, &patch);
        let start = Instant::now();
        let all = futures_util::stream::iter(0..COUNT).for_each_concurrent(16, |number| async move {
            let name = format!("m-{number:05}");
            maps.create(&name, json!({ "data": { "text": "x".repeat(2048) } }), effect).await.unwrap();
            if patched {
                maps.merge(&name, patch.clone()).await.unwrap();
            }
        });
        all.await;
        let seconds = start.elapsed().as_secs_f64();
        println!("{COUNT} ConfigMaps by {way}: {seconds:.2} s, {:.0} a second", f64::from(COUNT) / seconds);
    }
}
