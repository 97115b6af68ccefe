//! The name that a store gives to one version of an object.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest that is accepted; S3's have 32 characters, and may have up to 1024 bytes.
const MAX: usize = 1024;

/// An object's version in a bucket that keeps versions: opaque, and safe to print and to send.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionId(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a version; expected 1 to {MAX} printable ASCII characters")]
pub struct VersionIdError;

impl VersionId {
    /// # Errors
    /// When it is empty, too long, or has other characters than printable ASCII.
    pub fn new(id: impl Into<String>) -> Result<Self, VersionIdError> {
        let id = id.into();
        let fits = !id.is_empty() && id.len() <= MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(id)) } else { Err(VersionIdError) }
    }

    /// The version that a reply names, if it names one for good: `null` is what the next PUT replaces.
    #[must_use]
    pub fn lasting(id: Option<&str>) -> Option<Self> {
        id.filter(|id| *id != "null").and_then(|id| Self::new(id).ok())
    }

    /// The version of an object that was written while its bucket kept no versions.
    #[must_use]
    pub fn null() -> Self {
        Self("null".to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VersionId {
    type Error = VersionIdError;

    fn try_from(id: String) -> Result<Self, VersionIdError> {
        Self::new(id)
    }
}

impl From<VersionId> for String {
    fn from(id: VersionId) -> Self {
        id.0
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_names_are_versions() {
        assert!(VersionId::new("3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY-MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo").is_ok());
        for bad in ["", "a b", "a\n", "é", &"x".repeat(MAX + 1)] {
            assert_eq!(VersionId::new(bad), Err(VersionIdError), "{bad:?}");
        }
        assert_eq!(VersionId::lasting(Some("null")), None);
        assert_eq!(VersionId::lasting(Some("v1")), VersionId::new("v1").ok());
    }
}
