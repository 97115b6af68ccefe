//! Reads the end of a pod's log.

use bytes::Bytes;

use super::Client;
use super::request::{Asking, asked, encoded, get};
use crate::cluster::Failure;
use crate::cluster::classify::Asked;

/// The most bytes of it: the lines of a program that is not ours may have any length.
const MOST: usize = 64 << 10;

impl Client {
    pub(super) async fn tail(&self, namespace: &str, pod: &str, container: &str, lines: u32) -> Result<Bytes, Failure> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}/log", encoded(pod));
        let asked = Asked { resource: "pods/log", namespace: Some(namespace), ..asked(&path) };
        let uri = format!("{path}?container={}&tailLines={lines}&limitBytes={MOST}", encoded(container));
        let request = Asking { accept: "*/*", ..get(&uri) };
        self.send(&asked, request).await?.whole(&asked, 2 * MOST).await
    }
}
