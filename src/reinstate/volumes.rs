//! Whether an existing persistent volume is the one that a claim had. Pure.

use serde_json::{Value, json};

use super::fields::{at, text};

/// The relation of a live volume to a claim that is about to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It will bind to the claim: it is reserved for this name, or for none.
    Fits,
    /// It is the claim's, but still has the UID of a deleted claim, so that no claim binds to it. [`release`] is the merge patch that
    /// removes that UID: without it the claim stays Pending.
    Released,
    /// Bound to the live claim of this name.
    Bound,
    /// It belongs to another claim, is being deleted, or has another storage class: the claim gets a new volume.
    Foreign,
}

/// The relation of the live persistent volume `volume` to `claim` (mapped). `live_claim`: the UID of the live claim of the same name, if
/// there is one.
#[must_use]
pub fn standing(volume: &Value, claim: &Value, live_claim: Option<&str>) -> Standing {
    let of = |key: &str| text(volume, &["spec", "claimRef", key]);
    let own = |key: &str| text(claim, &["metadata", key]);
    if !text(volume, &["metadata", "deletionTimestamp"]).is_empty() || class(volume) != class(claim) {
        return Standing::Foreign;
    }
    if at(volume, &["spec", "claimRef"]).is_none_or(Value::is_null) {
        return Standing::Fits;
    }
    if (of("namespace"), of("name")) != (own("namespace"), own("name")) {
        return Standing::Foreign;
    }
    match (of("uid"), live_claim) {
        ("", _) => Standing::Fits,
        (uid, Some(live)) if uid == live => Standing::Bound,
        // Its driver will delete it.
        _ if text(volume, &["spec", "persistentVolumeReclaimPolicy"]) == "Delete" => Standing::Foreign,
        _ => Standing::Released,
    }
}

/// The annotation takes precedence over the field, as in the binder.
fn class(object: &Value) -> &str {
    match text(object, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => text(object, &["spec", "storageClassName"]),
        class => class,
    }
}

/// The JSON merge patch that prepares the [`Standing::Released`] volume `volume` for a new claim of the same name. It carries the live
/// resourceVersion.
#[must_use]
pub fn release(volume: &Value) -> Value {
    let version = at(volume, &["metadata", "resourceVersion"]).cloned().unwrap_or_default();
    json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_the_claims_by_name_class_and_uid() {
        let claim = json!({"metadata": {"namespace": "shop", "name": "data"}, "spec": {"storageClassName": "gp3"}});
        let volume = |policy: &str, reference: Value| {
            json!({"metadata": {"name": "pv"},
            "spec": {"storageClassName": "gp3", "persistentVolumeReclaimPolicy": policy, "claimRef": reference}})
        };
        let reference = |namespace: &str, uid: &str| json!({"namespace": namespace, "name": "data", "uid": uid});
        for (volume, live_claim, expected) in [
            (volume("Retain", json!(null)), None, Standing::Fits),
            (volume("Retain", json!({"namespace": "shop", "name": "data"})), None, Standing::Fits),
            (volume("Retain", reference("shop", "old")), None, Standing::Released),
            (volume("Retain", reference("shop", "old")), Some("new"), Standing::Released),
            (volume("Delete", reference("shop", "old")), None, Standing::Foreign),
            (volume("Delete", reference("shop", "old")), Some("old"), Standing::Bound),
            (volume("Retain", reference("other", "old")), None, Standing::Foreign),
            (volume("Retain", reference("other", "")), None, Standing::Foreign),
        ] {
            assert_eq!(standing(&volume, &claim, live_claim), expected, "{volume} {live_claim:?}");
        }
        let mut other = volume("Retain", json!(null));
        other["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-class": "gp2"});
        assert_eq!(standing(&other, &claim, None), Standing::Foreign);
        let mut going = volume("Retain", json!(null));
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(standing(&going, &claim, None), Standing::Foreign);
        assert_eq!(standing(&json!(null), &json!([]), None), Standing::Fits);
    }

    #[test]
    fn a_released_volume_keeps_the_claims_name() {
        let patch = release(&json!({"metadata": {"resourceVersion": "7"}}));
        let expected =
            json!({"metadata": {"resourceVersion": "7"}, "spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
        assert_eq!(patch, expected);
    }
}
