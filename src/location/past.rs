//! Opens locations whose store shows the past ([`crate::store::as_of`]); everything else of them is the present.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Connect, Remote};
use crate::config;
use crate::disks::Disks;
use crate::error::{Report, ServiceError};
use crate::metrics;
use crate::store::Store;
use crate::store::as_of::{AsOf, Moment};

/// Connects as `inner` does, to the bucket as of `moment`.
pub struct Past<'a> {
    pub inner: &'a dyn Connect,
    pub moment: Moment,
}

struct Shown {
    remote: Arc<dyn Remote>,
    store: Arc<dyn Store>,
}

impl Connect for Past<'_> {
    fn connect(&self, location: &config::Location, metrics: &metrics::Location) -> Result<Arc<dyn Remote>, Report> {
        let remote = self.inner.connect(location, metrics)?;
        let store = Arc::new(AsOf::new(remote.store(), self.moment));
        Ok(Arc::new(Shown { remote, store }))
    }
}

#[async_trait]
impl Remote for Shown {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn disks(&self) -> Arc<dyn Disks> {
        self.remote.disks()
    }

    fn now(&self) -> Option<Timestamp> {
        self.remote.now()
    }

    async fn credentials(&self) -> Result<Option<SystemTime>, ServiceError> {
        self.remote.credentials().await
    }

    fn certificate_expiry(&self) -> Option<Timestamp> {
        self.remote.certificate_expiry()
    }
}
