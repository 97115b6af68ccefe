//! Makes a request of a [`Write`].

use bytes::Bytes;
use hyper::Method;

use super::request::{Asking, asked, encoded};
use super::{Client, JSON};
use crate::cluster::classify::Asked;
use crate::cluster::{Effect, FIELD_MANAGER, Failure, Object, Write};

const MERGE_PATCH: &str = "application/merge-patch+json";

impl Client {
    pub(super) async fn change(
        &self,
        object: &Object<'_>,
        write: &Write<'_>,
        effect: Effect,
    ) -> Result<Bytes, Failure> {
        let Object { resource, namespace, .. } = *object;
        let path = object.to_string();
        let rule = match write {
            Write::Status(_) => format!("{}/status", resource.plural),
            _ => resource.plural.clone(),
        };
        let asked = Asked { verb: write.verb(), group: &resource.group, resource: &rule, namespace, ..asked(&path) };
        self.document(&asked, request(object, write, effect)).await.map(|document| document.bytes)
    }
}

fn request(object: &Object<'_>, write: &Write<'_>, effect: Effect) -> Asking<'static> {
    let within = object.resource.path(object.namespace);
    let itself = format!("{within}/{}", encoded(object.name));
    let (method, path, body) = match *write {
        Write::Create(bytes) | Write::CreateAs { object: bytes, .. } => (Method::POST, within, (JSON, bytes.to_vec())),
        Write::Replace(bytes) => (Method::PUT, itself, (JSON, bytes.to_vec())),
        Write::Status(bytes) => (Method::PUT, format!("{itself}/status"), (JSON, bytes.to_vec())),
        Write::Merge(bytes) => (Method::PATCH, itself, (MERGE_PATCH, bytes.to_vec())),
        Write::Delete { uid } => (Method::DELETE, itself, (JSON, options(uid, effect))),
    };
    let manager = match *write {
        Write::CreateAs { manager, .. } => manager,
        _ => FIELD_MANAGER,
    };
    let mut uri = path;
    // A server that receives the options in the body ignores those in the query.
    if !matches!(write, Write::Delete { .. }) {
        uri.extend(["?fieldManager=", &encoded(manager)]);
        if effect == Effect::DryRun {
            uri.push_str("&dryRun=All");
        }
    }
    Asking { method, uri, accept: JSON, body: Some(body), upgrade: None }
}

/// Without a policy, some versions orphan the pods of jobs and replication controllers.
fn options(uid: &str, effect: Effect) -> Vec<u8> {
    let dry_run: &[&str] = if effect == Effect::DryRun { &["All"] } else { &[] };
    let options = serde_json::json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": { "uid": uid },
        "propagationPolicy": "Background",
        "dryRun": dry_run,
    });
    options.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Resource, Scope};

    #[test]
    fn each_change_has_its_request() {
        let resource = Resource {
            group: "apps".into(),
            version: "v1".into(),
            plural: "deployments".into(),
            kind: "Deployment".into(),
            scope: Scope::Namespaced,
        };
        let object = Object { resource: &resource, namespace: Some("shop"), name: "we/b" };
        let of = |write: Write<'_>, effect| {
            let Asking { method, uri, body, .. } = request(&object, &write, effect);
            let (content_type, bytes) = body.unwrap();
            (format!("{method} {uri} {content_type}"), String::from_utf8(bytes).unwrap())
        };
        let all = "/apis/apps/v1/namespaces/shop/deployments";
        let (json, one) = ("application/json", format!("{all}/we%2Fb"));
        for (write, expected) in [
            (Write::Create(b"{}"), format!("POST {all}?fieldManager=penstock {json}")),
            (Write::Replace(b"{}"), format!("PUT {one}?fieldManager=penstock {json}")),
            (Write::Status(b"{}"), format!("PUT {one}/status?fieldManager=penstock {json}")),
            (Write::Merge(b"{}"), format!("PATCH {one}?fieldManager=penstock application/merge-patch+json")),
        ] {
            assert_eq!(of(write, Effect::Real), (expected.clone(), "{}".to_owned()));
            let dry = expected.replace("=penstock", "=penstock&dryRun=All");
            assert_eq!(of(write, Effect::DryRun), (dry, "{}".to_owned()));
        }
        let other = of(Write::CreateAs { object: b"{}", manager: "a&dryRun=All" }, Effect::Real).0;
        assert_eq!(other, format!("POST {all}?fieldManager=a%26dryRun%3DAll {json}"));
        let (delete, options) = of(Write::Delete { uid: "u-1" }, Effect::DryRun);
        assert_eq!(delete, format!("DELETE {one} {json}"));
        let options: serde_json::Value = serde_json::from_str(&options).unwrap();
        assert_eq!((&options["preconditions"]["uid"], &options["dryRun"][0]), (&"u-1".into(), &"All".into()));
        assert_eq!(format!("{:?}", Write::Create(b"secret")), "create");
    }
}
