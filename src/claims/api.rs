//! The requests of [`read`](super::read), through the port `cluster`: with retries, and lists page by page.

use std::sync::Arc;

use async_trait::async_trait;

use super::objects::Pod;
use super::read::{Api, Each, One, Wanted};
use crate::cluster::{Cluster, Failure, Object, Resource, Scope};
use crate::error::Class;
use crate::resources::list::Entry;
use crate::resources::outlet::Closed;
use crate::resources::pages::{self, ListError, ListReport, Sink};
use crate::resources::patience::Patience;

/// The API server of the node's cluster.
pub struct Server {
    cluster: Arc<dyn Cluster>,
    patience: Patience,
    pods: Resource,
    claims: Resource,
    volumes: Resource,
}

impl Server {
    #[must_use]
    pub fn new(cluster: Arc<dyn Cluster>, patience: Patience) -> Self {
        Self {
            cluster,
            patience,
            pods: Resource::core("pods", "Pod", Scope::Namespaced),
            claims: Resource::core("persistentvolumeclaims", "PersistentVolumeClaim", Scope::Namespaced),
            volumes: Resource::core("persistentvolumes", "PersistentVolume", Scope::Cluster),
        }
    }

    /// One pod, by a list of one: the agents' role lets them list pods, not get them.
    ///
    /// # Errors
    /// When the server does not say, or its answer is no pod: whoever asks must not take that for a pod that is gone.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        let mut found = Ok(None);
        let mut each = |bytes: &[u8]| match serde_json::from_slice::<Pod>(bytes) {
            Ok(pod) if pod.metadata.name == name => found = Ok(Some(pod)),
            Ok(_) => {}
            Err(_) => found = Err(format!("the pod {namespace}/{name} is not as Kubernetes writes it")),
        };
        self.list(Wanted::Pod { namespace, name }, &mut each).await.map_err(|failure| failure.to_string())?;
        found
    }

    async fn one(&self, object: &Object<'_>) -> Result<Option<Vec<u8>>, Failure> {
        match self.patience.retried("get", || self.cluster.get(object)).await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(failure) if failure.error.class == Class::NotFound && !failure.is_kind_missing() => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Passes the objects of a list on. An object above [`MAX_OBJECT`](crate::resources::list::MAX_OBJECT) is no pod, claim or volume.
struct Sieve<'a, 'e> {
    each: &'a mut Each<'e>,
}

#[async_trait]
impl Sink for Sieve<'_, '_> {
    async fn accept(&mut self, entry: Entry) -> Result<(), Closed> {
        match entry {
            Entry::Object(item) => (self.each)(&item.bytes),
            Entry::TooLarge { .. } => (self.each)(b"an object that is too large"),
        }
        Ok(())
    }
}

#[async_trait]
impl Api for Server {
    type Failure = Failure;

    async fn list(&self, wanted: Wanted<'_>, each: &mut Each<'_>) -> Result<(), Failure> {
        let on = |node: &str| format!("spec.nodeName={node}");
        let (resource, namespace, fields) = match wanted {
            Wanted::PodsOn(node) => (&self.pods, None, on(node)),
            Wanted::Pods(namespace) => (&self.pods, Some(namespace), String::new()),
            Wanted::Pod { namespace, name } => (&self.pods, Some(namespace), format!("metadata.name={name}")),
            Wanted::Claims(namespace) => (&self.claims, Some(namespace), String::new()),
            Wanted::Volumes => (&self.volumes, None, String::new()),
        };
        let wanted = pages::Wanted { resource, namespace, selector: "", fields: &fields };
        let listed =
            pages::list(&*self.cluster, self.patience, wanted, &mut ListReport::default(), &mut Sieve { each }).await;
        match listed {
            Ok(()) | Err(ListError::Closed) => Ok(()),
            Err(ListError::Failed(failure)) => Err(failure),
        }
    }

    async fn get(&self, one: One<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let object = match one {
            One::Claim(claim) => {
                Object { resource: &self.claims, namespace: Some(claim.namespace()), name: claim.name() }
            }
            One::Volume(name) => Object { resource: &self.volumes, namespace: None, name },
        };
        self.one(&object).await
    }
}
