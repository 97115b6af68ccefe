//! Checks what a source of claims needs: the rights to find pods, claims and volumes, those to run commands where that is switched on, and
//! that the node has pods under its name.

use std::sync::Arc;
use std::time::Instant;

use super::cluster::PATIENCE;
use super::{Found, Proof};
use crate::claims::api::Server;
use crate::claims::read::{Api as _, Wanted};
use crate::cluster::{Access, Cluster};
use crate::config::Claims;
use crate::error::{Class, Classify as _, Report};
use crate::format::key::Name;

/// Verb and resource of the core group.
const NEEDED: [(&str, &str); 5] = [
    ("list", "pods"),
    ("get", "persistentvolumeclaims"),
    ("list", "persistentvolumeclaims"),
    ("get", "persistentvolumes"),
    ("list", "persistentvolumes"),
];

/// A WebSocket begins with a GET: older servers ask for one of the rights to `pods/exec`, newer ones for both.
const FOR_HOOKS: [(&str, &str); 2] = [("get", "pods/exec"), ("create", "pods/exec")];

pub(super) async fn source(proof: &mut Proof, cluster: &Arc<dyn Cluster>, name: &str, claims: &Claims, node: &Name) {
    let began = Instant::now();
    let hooks = if claims.hooks { &FOR_HOOKS[..] } else { &[] };
    let mut refused = Vec::new();
    for (verb, resource) in NEEDED.iter().chain(hooks) {
        let access = Access { verb, group: "", resource, namespace: None };
        match PATIENCE.retried("access", || cluster.access(&access)).await {
            Ok(verdict) if verdict.allowed => {}
            Ok(_) => refused.push(format!("{verb} {resource}")),
            Err(failure) => return proof.add(format!("{name}: permissions"), began.elapsed(), Err(failure.report())),
        }
    }
    let found = if refused.is_empty() {
        Ok(Found::Good("pods, claims and volumes may be read".to_owned()))
    } else {
        let message = format!("in all namespaces, this identity may not {}", refused.join(", "));
        Err(Report::new(Class::AccessDenied, message)
            .remedy("`penstock policy --kubernetes --service-account NAMESPACE/NAME` prints the role that is needed"))
    };
    proof.add(format!("{name}: permissions"), began.elapsed(), found);
    if refused.is_empty() {
        let began = Instant::now();
        proof.add(format!("{name}: node"), began.elapsed(), pods(cluster, node).await);
    }
}

async fn pods(cluster: &Arc<dyn Cluster>, node: &Name) -> Result<Found, Report> {
    let (server, mut count) = (Server::new(Arc::clone(cluster), PATIENCE), 0_u64);
    let mut each = |_: &[u8]| count += 1;
    server.list(Wanted::PodsOn(node.as_str()), &mut each).await.map_err(|failure| failure.report())?;
    Ok(match count {
        0 => Found::Odd(format!("no pod is on the node {node}: `node` must be the name that Kubernetes has for it")),
        count => Found::Good(format!("pods on the node {node}: {count}")),
    })
}
