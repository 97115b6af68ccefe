//! A location in memory, for tests of everything above.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Location, Remote};
use crate::checksum::Algorithm;
use crate::config::{self, CertificateMode, Concurrency, Credentials, Encryption, EncryptionMode, SignPayload, Upload};
use crate::disks::Disks;
use crate::disks::memory::MemoryDisks;
use crate::error::ServiceError;
use crate::format::key::Name;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::store::Store;
use crate::store::memory::MemoryStore;

/// The services that a test opens a location over.
#[derive(Clone)]
pub struct Memory {
    store: Arc<dyn Store>,
    disks: Arc<dyn Disks>,
    /// Whose clock is the store's; `None` for the system's.
    clock: Option<Arc<MemoryStore>>,
    /// The state directory; it is removed with the last clone of the location.
    folder: Arc<tempfile::TempDir>,
}

#[async_trait]
impl Remote for Memory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    fn disks(&self) -> Arc<dyn Disks> {
        Arc::clone(&self.disks)
    }

    fn now(&self) -> Option<Timestamp> {
        Some(self.clock.as_ref().map_or_else(Timestamp::now, |clock| clock.now()))
    }

    async fn credentials(&self) -> Result<Option<SystemTime>, ServiceError> {
        Ok(None)
    }

    fn certificate_expiry(&self) -> Option<Timestamp> {
        None
    }
}

impl Memory {
    /// A location without volumes.
    ///
    /// # Panics
    /// When there is no folder for temporary files.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        Self { store, disks: Arc::new(MemoryDisks::new([])), clock: None, folder }
    }

    /// The same, on the clock of this store.
    #[must_use]
    pub fn with_clock(self, clock: Arc<MemoryStore>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    #[must_use]
    pub fn with_disks(self, disks: Arc<dyn Disks>) -> Self {
        Self { disks, ..self }
    }

    /// Opens the location as node `n` of cluster `c`, with two threads and `memory` bytes.
    ///
    /// # Panics
    /// Never: the names are valid.
    #[must_use]
    pub fn open(self, config: &config::Location, memory: u64) -> Location {
        let name = |name| Name::new(name).expect("a valid name");
        let process = Process::new(memory, 2, self.folder.path(), Metrics::new());
        Location::new(Arc::new(self), config, (&name("c"), &name("n")), &process)
    }
}

/// Opens a location over a store, without volumes.
#[must_use]
pub fn open(store: Arc<dyn Store>, prefix: &str, memory: u64) -> Location {
    Memory::new(store).open(&config(prefix), memory)
}

/// The location `test`, with small parts.
#[must_use]
pub fn config(prefix: &str) -> config::Location {
    config::Location {
        name: "test".to_owned(),
        bucket: "bucket".to_owned(),
        region: "eu-west-1".to_owned(),
        prefix: prefix.to_owned(),
        s3_url: None,
        sts_url: None,
        ec2_url: None,
        force_path_style: false,
        certificate: None,
        certificate_mode: CertificateMode::Add,
        checksum: Algorithm::default(),
        storage_class: None,
        tags: BTreeMap::new(),
        credentials: Credentials::Default,
        assume_role: Vec::new(),
        client_encryption: None,
        object_lock: None,
        encryption: Encryption { mode: EncryptionMode::BucketDefault, kms_key_id: None, bucket_key: true },
        upload: Upload {
            part_size: 5 << 20,
            concurrency: Concurrency::AtMost(4),
            object_size: 1 << 30,
            sign_payload: SignPayload::Auto,
        },
    }
}
