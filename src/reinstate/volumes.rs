//! Whether a persistent volume that is there is the one that a claim had. Pure.

use serde_json::Value;

/// How a live volume stands to a claim that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It will bind to the claim: it is reserved for this name, or for nobody.
    Fits,
    /// It is the claim's, but still carries the UID of the deleted one, and no claim binds to it (phase Released). [`release`] is the
    /// merge patch that lets go of it.
    Released,
    /// Bound to a claim of this name that is there: its UID is `claimRef.uid`.
    Bound,
    /// Another claim's, or of another storage class: the claim gets a new volume.
    Foreign,
}

/// How the live persistent volume `volume` stands to `claim` (mapped). `live_claim`: the UID of the live claim of the same name,
/// where there is one.
#[must_use]
pub fn standing(volume: &Value, claim: &Value, live_claim: Option<&str>) -> Standing {
    let _ = (volume, claim, live_claim);
    Standing::Foreign
}

/// The JSON merge patch with which a [`Standing::Released`] volume takes a new claim of the same name.
#[must_use]
pub fn release() -> Value {
    serde_json::json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
}
