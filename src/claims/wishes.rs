//! What a pod's annotations wish for its volumes.
//!
//! | meaning | ours | Velero's |
//! |---|---|---|
//! | save these volumes | `backup.penstock/volumes` | `backup.velero.io/backup-volumes` |
//! | do not save these | `backup.penstock/exclude` | `backup.velero.io/backup-volumes-excludes` |
//! | (on a claim) do not save it | `backup.penstock/exclude: "true"` | |
//! | (label, on a pod or claim) do not save it | | `velero.io/exclude-from-backup: "true"` |
//!
//! A value is a list of the pod's own names of volumes, with commas between them; `*` means each of them.
//!
//! | conflict | what holds | because |
//! |---|---|---|
//! | ours and Velero's on one pod | ours alone; Velero's annotations are not read | while both tools run, one may be told something else, and an empty annotation of ours undoes Velero's |
//! | a volume is named and excluded | it is not saved, which is noted and counted as a loss | an exclusion is never an accident of a template's default; and what was asked for in vain is said |
//! | `volumes` where everything is saved anyway | adds what is not saved by itself (`without_claim`); takes nothing away | Velero ignores it there, so that a pod made for it keeps its claims |
//! | `exclude` where only what is named is saved | excludes | Velero ignores it there, which nobody can have meant |
//! | one pod excludes a shared claim, another does not | it is saved, through the other | an annotation speaks of its pod's part; the claim's own annotation speaks for all |
//! | a claim's exclusion and a pod's `volumes` | the claim is not saved; noted, and counted as a loss | as above |
//! | a name that the pod does not have | noted | a typing error would save nothing, day by day |

use std::collections::BTreeSet;

use super::objects::{Claim, Pod};
use crate::format::claim::shown;

const OURS: Vocabulary = Vocabulary { volumes: "backup.penstock/volumes", exclude: "backup.penstock/exclude" };
const VELEROS: Vocabulary =
    Vocabulary { volumes: "backup.velero.io/backup-volumes", exclude: "backup.velero.io/backup-volumes-excludes" };

struct Vocabulary {
    volumes: &'static str,
    exclude: &'static str,
}

/// The wishes of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    volumes: BTreeSet<String>,
    exclude: BTreeSet<String>,
    /// The whole pod is excluded, by label.
    nothing: bool,
    /// Names that the pod does not have, each with the annotation that has it.
    pub unknown: Vec<(&'static str, String)>,
}

const EACH: &str = "*";

impl Wishes {
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let annotations = &pod.metadata.annotations;
        let has =
            |words: &Vocabulary| annotations.contains_key(words.volumes) || annotations.contains_key(words.exclude);
        let words = if has(&OURS) { OURS } else { VELEROS };
        let mut unknown = Vec::new();
        let mut list = |key: &'static str| {
            let text = annotations.get(key).map(String::as_str).unwrap_or_default();
            let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
            let names: BTreeSet<String> = names.map(str::to_owned).collect();
            let is_there = |name: &str| name == EACH || pod.spec.volumes.iter().any(|volume| volume.name == name);
            unknown.extend(names.iter().filter(|name| !is_there(name)).map(|name| (key, shown(name))));
            names
        };
        let (volumes, exclude) = (list(words.volumes), list(words.exclude));
        Self { volumes, exclude, nothing: pod.metadata.has_exclude_label, unknown }
    }

    /// Whether the volume is named as one to save.
    #[must_use]
    pub fn names(&self, volume: &str) -> bool {
        has(&self.volumes, volume)
    }

    /// Whether it is named by its own name, so that somebody counts on it.
    #[must_use]
    pub fn ask_for(&self, volume: &str) -> bool {
        self.volumes.contains(volume)
    }

    #[must_use]
    pub fn exclude(&self, volume: &str) -> bool {
        self.nothing || has(&self.exclude, volume)
    }
}

fn has(list: &BTreeSet<String>, volume: &str) -> bool {
    list.contains(EACH) || list.contains(volume)
}

/// Whether a claim itself says that it is not to be saved.
#[must_use]
pub fn excludes_itself(claim: &Claim) -> bool {
    let annotation = claim.metadata.annotations.get(OURS.exclude).map(|value| value.trim());
    claim.metadata.has_exclude_label || matches!(annotation, Some("true" | EACH))
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;

    /// What is named and what is excluded of the volumes a, b and c.
    fn wishes(annotations: &[(&str, &str)]) -> (String, String, usize) {
        let mut pod = pod("shop", "p", "n1");
        for volume in ["a", "b", "c"] {
            pod = pod.empty_dir(volume);
        }
        for (key, value) in annotations {
            pod = pod.annotated(key, value);
        }
        let wishes = Wishes::of(&pod.0);
        let those = |fits: &dyn Fn(&str) -> bool| ["a", "b", "c"].into_iter().filter(|volume| fits(volume)).collect();
        (those(&|volume| wishes.names(volume)), those(&|volume| wishes.exclude(volume)), wishes.unknown.len())
    }

    #[test]
    fn both_vocabularies_are_understood_and_ours_alone_where_a_pod_has_it() {
        let (ours, ours_not) = ("backup.penstock/volumes", "backup.penstock/exclude");
        let (velero, velero_not) = ("backup.velero.io/backup-volumes", "backup.velero.io/backup-volumes-excludes");
        for (annotations, named, excluded, unknown) in [
            (&[][..], "", "", 0),
            (&[(ours, "a, c")], "ac", "", 0),
            (&[(velero, "a,b"), (velero_not, "c")], "ab", "c", 0),
            (&[(ours, "a"), (velero, "b"), (velero_not, "a")], "a", "", 0),
            (&[(ours_not, ""), (velero_not, "a,b,c"), (velero, "a")], "", "", 0),
            (&[(ours, "a"), (ours_not, "a")], "a", "a", 0),
            (&[(ours, "*"), (ours_not, "c")], "abc", "c", 0),
            (&[(ours, ",a,,x,A"), (ours_not, "b/..")], "a", "", 3),
        ] {
            assert_eq!(wishes(annotations), (named.into(), excluded.into(), unknown), "{annotations:?}");
        }
    }

    #[test]
    fn a_label_of_veleros_excludes_all_of_a_pod_and_a_claim_may_exclude_itself() {
        let mut labelled = pod("shop", "p", "n1").empty_dir("a").0;
        labelled.metadata.has_exclude_label = true;
        assert!(Wishes::of(&labelled).exclude("a"));
        let claim = |value: &str| {
            let mut claim = Claim::default();
            claim.metadata.annotations.insert("backup.penstock/exclude".into(), value.into());
            excludes_itself(&claim)
        };
        assert!(claim("true") && claim(" * ") && !claim("false") && !claim(""));
        assert!(!excludes_itself(&Claim::default()));
    }
}
