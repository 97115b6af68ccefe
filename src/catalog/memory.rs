//! Limits the data kept of a listing: a bucket may hold millions of objects, or claim to.

use super::Error;

/// The memory left for data of listings and manifests. An estimate is taken before anything is kept.
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

    /// One of so many equal parts of what is left.
    #[must_use]
    pub const fn share(&self, parts: u64) -> Self {
        Self { left: self.left / parts, total: self.total }
    }

    /// # Errors
    /// When less than that is left.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(Error::Memory { total: self.total })?;
        Ok(())
    }
}
