//! What may be collected from a listing: a bucket may hold millions of objects, and a store may say so.

use super::Error;

/// Memory for what is kept of listings and manifests; an estimate is taken before each thing is kept.
#[derive(Debug, Clone)]
pub struct Memory {
    left: u64,
    total: u64,
}

impl Memory {
    #[must_use]
    pub const fn new(total: u64) -> Self {
        Self { left: total, total }
    }

    /// # Errors
    /// When there is not so much left.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(Error::Memory { total: self.total })?;
        Ok(())
    }
}
