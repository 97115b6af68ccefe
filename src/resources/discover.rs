//! Reads a server's discovery documents: two if it has the aggregated form, else one for each version of a group.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::discovery::{Group, RootForm, Served};
use super::patience::Patience;
use crate::cluster::{Cluster, Discovery, Failure, Root};
use crate::error::{Class, ServiceError};

/// A dead group is common (a metrics server that was removed), and its kinds could not be listed anyway.
const ONE_GROUP: Duration = Duration::from_secs(5);

/// Documents that are requested at once, so that the waits for dead groups overlap.
const AT_ONCE: usize = 8;

/// What the server serves, with the groups whose own server is down.
///
/// # Errors
/// When the server itself does not answer, or refuses discovery.
pub async fn discover(cluster: &dyn Cluster, patience: Patience) -> Result<Served, Failure> {
    let mut served = Served::default();
    let for_a_group = Patience { answered: patience.answered.min(ONE_GROUP), ..patience };
    for (root, path) in [(Root::Core, "/api"), (Root::Groups, "/apis")] {
        let document = patience.retried("discover", || cluster.discovery(Discovery::Root(root))).await?;
        let form = served.root(&document).map_err(|fault| not_discovery(path, &fault.to_string()))?;
        let RootForm::Old(groups) = form else { continue };
        let versions: Vec<(String, String)> = groups
            .into_iter()
            .flat_map(|Group { name, versions }| versions.into_iter().map(move |version| (name.clone(), version)))
            .collect();
        let mut answers = stream::iter(versions)
            .map(|(group, version)| async move {
                let document = || cluster.discovery(Discovery::Version(&version));
                let asked = for_a_group.retried("discover", document).await;
                (group, version, asked)
            })
            .buffered(AT_ONCE);
        // In the server's order, in whichever order the answers arrive.
        while let Some((group, version, asked)) = answers.next().await {
            let document = match asked {
                Ok(document) => Some(document),
                Err(failure) if is_fatal(&failure) => return Err(failure),
                Err(failure) => {
                    tracing::warn!(group = version, error = %failure, "an API group does not answer: its kinds are unknown");
                    None
                }
            };
            if let Err(fault) = served.version(&group, &version, document.as_ref()) {
                tracing::warn!(group = version, error = %fault, "could not read an API group's discovery document: its kinds are unknown");
                served.missing.insert(version);
            }
        }
    }
    // A server without the core group is not a Kubernetes server, and a backup of nothing must not be a success.
    if !served.groups.contains("") {
        return Err(not_discovery("/api", "found no core group"));
    }
    Ok(served)
}

/// Whether the failure concerns the connection or the credentials, not only one group.
fn is_fatal(failure: &Failure) -> bool {
    failure.error.status.is_none() || matches!(failure.error.status, Some(401 | 407))
}

fn not_discovery(path: &str, message: &str) -> Failure {
    let mut error = ServiceError::local("get", path, Class::Compat, message);
    error.service = crate::cluster::classify::SERVICE;
    error.into()
}
