//! Reads the wanted objects of a backup once, and keeps what decides the order of their creation: kinds, names, owners.
//!
//! No object's content is kept, so that memory grows by some hundred bytes for each object; [`Allowance`] limits it. Where only some
//! namespaces or labels are restored, the cluster-scoped objects that their objects refer to are wanted too, by the rule of `cluster_resources =
//! "auto"` ([`References`]): an archive has the namespaced kinds first.

use std::collections::HashMap;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::contents::{Contents, Entry, Uid, uid};
use super::data::{CLAIMS, Placement, is_excluded, users};
use super::left_out::left_out;
use super::owners::{is_adopted, owners};
use super::{Error, Options};
use crate::cluster::{Resource, Scope};
use crate::inventory::archive::{Archive, Member, Object};
use crate::inventory::{self, Allowance};
use crate::resources::item::{self, Item};
use crate::resources::place::{Filed, Place};
use crate::resources::refer::References;

/// What an entry takes of memory besides its name, its places in three maps included.
const ENTRY: usize = 220;

/// What an owner reference takes.
const OWNER: usize = 64;

/// Duplicates of two sources that are named; more are only counted.
const NAMED: usize = 10;

/// Reads every object that `options` asks for. Blocks.
///
/// # Errors
/// When an archive cannot be read, has an object twice, or has more names than memory holds.
pub(super) fn scan(
    archives: &[Archive],
    options: &Options,
    memory: u64,
    cancel: &CancellationToken,
) -> Result<Contents, Error> {
    let mut scan = Scan {
        contents: Contents::default(),
        memory: Allowance::of(memory),
        seen: HashMap::new(),
        twice: Vec::new(),
        references: options.is_narrowed().then(References::default),
    };
    for (index, archive) in archives.iter().enumerate() {
        let mut members = Vec::new();
        archive.list(|listed| {
            if options.may_want(&listed.place) {
                scan.memory.take(size_of::<Member>())?;
                members.push(listed.member);
            }
            Ok(())
        })?;
        let mut read = members.iter();
        archive.read(&members, cancel, |object, value| {
            let member = *read.next().ok_or(inventory::Error::Mismatch)?;
            if !options.may_want(&object.place) {
                return Err(inventory::Error::Mismatch);
            }
            if scan.is_wanted(&object, &value, options) {
                if options.volumes {
                    scan.note_claims(&object.place, &value)?;
                }
                scan.add(index, member, object.place, &value, options.dependents)?;
            }
            Ok(())
        })?;
    }
    let Scan { mut contents, twice, .. } = scan;
    if !twice.is_empty() {
        let more = if twice.len() > NAMED { format!(" and {} more", twice.len() - NAMED) } else { String::new() };
        let named = twice.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        contents.notes.push(format!("two items of the backup have {named}{more}: restored from the first"));
    }
    Ok(contents)
}

struct Scan {
    contents: Contents,
    memory: Allowance,
    /// The archive of each object.
    seen: HashMap<Uid, usize>,
    twice: Vec<String>,
    /// What the objects of the chosen namespaces refer to.
    references: Option<References>,
}

impl Scan {
    /// Whether an object that may be wanted is. Notes what it refers to.
    fn is_wanted(&mut self, object: &Object, value: &Value, options: &Options) -> bool {
        let Some(references) = &mut self.references else { return true };
        let is_chosen = options.wants(&object.place) && options.selector.fits(value);
        let Some((resource, item)) = item_of(object, value) else { return is_chosen };
        let is_wanted = is_chosen || (resource.scope == Scope::Cluster && references.wants(&resource, &item));
        if is_wanted {
            references.see(&resource, &item);
        }
        is_wanted
    }

    /// Notes where the pods that the object is, or makes, may run, if they use claims; and a claim that is not saved.
    fn note_claims(&mut self, place: &Place, value: &Value) -> Result<(), inventory::Error> {
        if place.filed.resource == CLAIMS && is_excluded(value) {
            let key = place.key();
            self.memory.take(key.len() + OWNER)?;
            self.contents.excluded.insert(key);
        }
        let Some((spec, claims)) = users(&place.filed.resource, value) else { return Ok(()) };
        let placement = Placement::of(spec);
        for claim in claims {
            let key = format!("{}/{claim}", place.namespace);
            if !self.contents.users.contains_key(&key) {
                self.memory.take(key.len() + placement.size() + OWNER)?;
                self.contents.users.insert(key, placement.clone());
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        archive: usize,
        member: Member,
        place: Place,
        value: &Value,
        dependents: bool,
    ) -> Result<(), inventory::Error> {
        let key = place.key();
        let name = format!("{} {key}", place.filed);
        self.memory.take(key.len() + ENTRY)?;
        match self.seen.insert(uid(&name), archive) {
            Some(same) if same == archive => {
                return Err(inventory::Error::Refused { member: name, reason: "the backup has it twice".to_owned() });
            }
            Some(_) => {
                self.twice.push(name);
                return Ok(());
            }
            None => {}
        }
        let contents = &mut self.contents;
        let index = contents.entries.len();
        let left_out = left_out(&place.filed.resource, value, dependents);
        if left_out.is_none() {
            contents.restored.insert(uid(&name));
            if !place.namespace.is_empty() && !contents.namespaces.contains(&place.namespace) {
                self.memory.take(place.namespace.len() + OWNER)?;
                contents.namespaces.insert(place.namespace.clone());
            }
            if let Some(own) = value.pointer("/metadata/uid").and_then(Value::as_str) {
                contents.by_uid.insert(uid(own), index);
            }
            let owners = awaited(&place.filed, value);
            if !owners.is_empty() {
                self.memory.take(owners.len() * size_of::<Uid>() + OWNER)?;
                contents.owners.insert(index, owners);
            }
        }
        let kind = contents.kind(place.filed, value);
        let unreadable = value.is_null();
        contents.entries.push(Entry { archive, kind, key: key.into(), member, left_out, unreadable });
        Ok(())
    }
}

/// The owners that have to be there before the object. Everything else waits for namespaces and definitions, so that these wait for nobody.
fn awaited(filed: &Filed, value: &Value) -> Vec<Uid> {
    if matches!(filed.resource.as_str(), "namespaces" | "customresourcedefinitions.apiextensions.k8s.io") {
        return Vec::new();
    }
    let owners = owners(value).into_iter().filter(|owner| !is_adopted(&filed.resource, owner));
    owners.map(|owner| uid(&owner.uid)).collect()
}

/// The object as the lister of a cluster has it.
fn item_of(object: &Object, value: &Value) -> Option<(Resource, Item)> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let filed = &object.place.filed;
    let resource = Resource {
        group: filed.group().to_owned(),
        version: text("apiVersion").rsplit('/').next().unwrap_or_default().to_owned(),
        plural: filed.plural().to_owned(),
        kind: text("kind").to_owned(),
        scope: filed.scope,
    };
    let kind = item::Kind { api_version: resource.api_version(), kind: resource.kind.clone() };
    item::read(&object.bytes, &kind).ok().map(|item| (resource, item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::testing::{MIB, house};
    use crate::error::{Class, Classify as _};
    use crate::inventory::Filter;
    use crate::inventory::tests::{Row, VERSION, archives};

    async fn scanned(rows: &[Row<'_>], memory: u64) -> Result<Contents, Error> {
        let house = house(64 * MIB);
        let archives = archives(&house, rows).await;
        let scan = move || scan(&archives, &Options::default(), memory, &CancellationToken::new());
        tokio::task::spawn_blocking(scan).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hostile_backups_are_refused_by_path_before_anything_is_created() {
        let path = "resources/configmaps/namespaces/shop/a.json";
        let object = |namespace: &str, more: &str| {
            format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","namespace":"{namespace}"}}{more}}}"#
            )
        };
        let (good, elsewhere) = (object("shop", ""), object("kube-system", ""));
        let deep = object("shop", &format!(r#","x":{}{}"#, "[".repeat(10_000), "]".repeat(10_000)));
        let long = object("shop", &format!(r#","x":"{}""#, "y".repeat(17 << 20)));
        let path_of = |error: Error| {
            assert_eq!(error.class(), Class::Integrity, "{error}");
            error.to_string().contains("configmaps").then_some(()).ok_or(error)
        };
        for content in [&elsewhere, &long] {
            path_of(scanned(&[VERSION, (path, content, None)], 64 * MIB).await.unwrap_err()).unwrap();
        }
        let unreadable = scanned(&[VERSION, (path, &deep, None)], 64 * MIB).await.unwrap();
        assert!(unreadable.entries[0].unreadable, "nested deeper than it can be read: refused alone");
        let twice = scanned(&[VERSION, (path, &good, None), (path, &good, None)], 64 * MIB).await.unwrap_err();
        assert!(twice.to_string().contains("configmaps shop/a") && twice.to_string().contains("twice"), "{twice}");
        path_of(twice).unwrap();
        assert_eq!(scanned(&[VERSION, (path, &good, None)], 64 * MIB).await.unwrap().entries.len(), 1);
        let little = scanned(&[VERSION, (path, &good, None)], 64).await.unwrap_err();
        assert_eq!(little.class(), Class::Local, "{little}");
    }

    #[test]
    fn namespaces_and_definitions_wait_for_no_owner() {
        let owner =
            serde_json::json!({ "apiVersion": "capsule.clastix.io/v1", "kind": "Tenant", "name": "t", "uid": "1" });
        let object = serde_json::json!({ "metadata": { "ownerReferences": [owner] } });
        let of = |resource: &str| Filed { scope: Scope::Cluster, resource: resource.into(), version: String::new() };
        assert_eq!(awaited(&of("namespaces"), &object), Vec::<Uid>::new());
        assert_eq!(awaited(&of("customresourcedefinitions.apiextensions.k8s.io"), &object), Vec::<Uid>::new());
        assert_eq!(awaited(&of("clusterroles.rbac.authorization.k8s.io"), &object), [uid("1")]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_namespaces_objects_bring_the_cluster_scoped_ones_that_they_refer_to() {
        let object = |kind: &str, name: &str, namespace: &str, more: &str| {
            let namespace = if namespace.is_empty() { String::new() } else { format!(r#","namespace":"{namespace}""#) };
            format!(r#"{{"apiVersion":"v1","kind":"{kind}","metadata":{{"name":"{name}"{namespace}}}{more}}}"#)
        };
        let claim = object("PersistentVolumeClaim", "data", "shop", r#","spec":{"volumeName":"pv-1"}"#);
        let other = object("ConfigMap", "x", "other", "");
        let (volume, stranger) =
            (object("PersistentVolume", "pv-1", "", ""), object("PersistentVolume", "pv-2", "", ""));
        let namespace = object("Namespace", "shop", "", "");
        let rows: [Row<'_>; 6] = [
            VERSION,
            ("resources/configmaps/namespaces/other/x.json", &other, None),
            ("resources/persistentvolumeclaims/namespaces/shop/data.json", &claim, None),
            ("resources/namespaces/cluster/shop.json", &namespace, None),
            ("resources/persistentvolumes/cluster/pv-1.json", &volume, None),
            ("resources/persistentvolumes/cluster/pv-2.json", &stranger, None),
        ];
        let house = house(64 * MIB);
        let archives = archives(&house, &rows).await;
        let filter = Filter::new(&["shop".to_owned()], &[]).unwrap();
        let options = Options { filter, ..Options::default() };
        let scan = move || scan(&archives, &options, 64 * MIB, &CancellationToken::new());
        let contents = tokio::task::spawn_blocking(scan).await.unwrap().unwrap();
        let keys: Vec<&str> = contents.entries.iter().map(|entry| &*entry.key).collect();
        assert_eq!(keys, ["shop/data", "shop", "pv-1"]);
    }
}
