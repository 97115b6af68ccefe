//! What a restore of claims may believe of the cluster, and may change in it.

use std::fs;

use serde_json::{Value, json};

use super::{CLAIM, DEPLOYMENT, Site, UNFILLED, claim, of};
use crate::fake_kubernetes::{Fault, refusal};

const CACHE: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/cache";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";

fn annotate(site: &Site, name: &str, backup: &str) {
    site.fake.state().touch("persistentvolumeclaims", |claim| {
        if claim["metadata"]["name"] == name {
            claim["metadata"]["annotations"] = json!({ "backup.penstock/unfilled": backup });
        }
    });
}

fn forbidden(message: &str) -> Fault {
    let headers = vec![("content-type", "application/json".to_owned())];
    Fault::Answer { status: 403, headers, body: refusal(403, "Forbidden", message).to_string() }
}

#[test]
fn an_annotation_that_names_another_chains_backup_gives_its_data_to_nobody() {
    let site = Site::new();
    let secret = site.folder.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("ledger"), "of somebody else").unwrap();
    let saved = site.penstock.good(&["backup", "--name", "secret", secret.to_str().unwrap()]);
    let (node, id) = (saved["backups"][0]["node"].as_str().unwrap(), saved["backups"][0]["id"].as_str().unwrap());
    let foreign = format!("adhoc/{node}@{id}");
    site.penstock.good(&["show", &foreign]);
    site.empty();
    site.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } }));
    // Whoever may change claims wrote this, once for a claim with backups and once for one without.
    for name in ["data", "cache"] {
        site.fake.make(CLAIMS, &claim(name));
        annotate(&site, name, &foreign);
    }
    let (code, restored) = site.restore(&[]);
    assert_eq!(code, 1, "{restored:#}");
    for name in ["data", "cache"] {
        let row = of(&restored, name);
        assert_eq!((&row["verdict"], &row["error"]["class"]), (&json!("failed"), &json!("conflict")), "{row:#}");
        let said = row["error"]["message"].as_str().unwrap();
        assert!(said.contains("backup.penstock/unfilled") && said.contains(&foreign), "{said}");
        assert!(!site.node.file(&format!("shop.{name}")).exists(), "nothing was mounted");
    }
    assert_eq!(site.object(DEPLOYMENT), Value::Null, "the namespace is held");
    site.assert_clean();
}

#[test]
fn a_claim_that_was_saved_before_it_was_filled_is_restored_without_the_annotation() {
    let site = Site::new();
    annotate(&site, "cache", "volumes/claim.shop.cache@20261123T221300Z-4f9a2c");
    site.penstock.good(&["backup", "cluster"]);
    site.empty();
    let (_, restored) = site.restore(&[]);
    assert_eq!(of(&restored, "cache")["verdict"], "no-backup", "{restored:#}");
    assert!(!site.object(CACHE).is_null() && site.object(CACHE).pointer(UNFILLED).is_none());
}

#[test]
fn a_volume_that_was_filled_is_not_filled_again_by_the_next_run() {
    let site = Site::new();
    site.empty();
    site.fake.script(|_, request, _| {
        let is_last = request.method == "PATCH" && request.uri.starts_with(CLAIM);
        is_last.then(|| forbidden("persistentvolumeclaims \"data\" is forbidden: User \"x\" cannot patch"))
    });
    let (code, restored) = site.restore(&[]);
    assert_eq!((code, &of(&restored, "data")["verdict"]), (1, &json!("failed")), "{restored:#}");
    assert!(site.node.file("shop.data/sub/file").exists() && site.object(CLAIM).pointer(UNFILLED).is_some());
    assert_eq!(site.fake.state().keys("jobs.batch").len(), 1, "it says that the claim has its data");
    // Somebody works with the volume meanwhile.
    fs::remove_dir_all(site.node.file("shop.data/sub")).unwrap();
    site.fake.script(|_, _, _| None);
    let (_, again) = site.restore(&[]);
    assert_eq!(of(&again, "data")["verdict"], "filled", "{again:#}");
    assert!(!site.node.file("shop.data/sub").exists(), "it was filled once");
    assert!(site.object(CLAIM).pointer(UNFILLED).is_none() && !site.object(DEPLOYMENT).is_null());
    site.assert_clean();
}

#[test]
fn a_claim_that_was_made_anew_is_filled_whatever_a_job_says_of_the_old_one() {
    let site = Site::new();
    site.empty();
    site.fake.script(|_, request, _| {
        let is_last = request.method == "PATCH" && request.uri.starts_with(CLAIM);
        is_last.then(|| forbidden("persistentvolumeclaims \"data\" is forbidden: User \"x\" cannot patch"))
    });
    site.restore(&[]);
    site.fake.state().remove(CLAIM);
    fs::remove_dir_all(site.node.file("shop.data")).unwrap();
    // The garbage collector, when the Job is deleted.
    site.fake.script(|state, request, _| {
        if request.method == "DELETE" && request.uri.starts_with("/apis/batch/v1/namespaces/shop/jobs") {
            for key in state.keys("pods") {
                let (namespace, name) = key.split_once('/').unwrap();
                state.remove(&format!("/api/v1/namespaces/{namespace}/pods/{name}"));
            }
        }
        None
    });
    let (_, again) = site.restore(&[]);
    assert_eq!(of(&again, "data")["verdict"], "filled", "{again:#}");
    assert_eq!(fs::read_to_string(site.node.file("shop.data/sub/file")).unwrap(), "first");
}

#[test]
fn an_object_of_a_needed_name_that_no_restore_has_made_is_neither_changed_nor_deleted() {
    let site = Site::new();
    site.empty();
    site.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } }));
    let account = json!({ "metadata": { "name": "penstock-restore", "annotations": { "eks.amazonaws.com/role-arn": "theirs" } } });
    site.fake.make("/api/v1/namespaces/shop/serviceaccounts", &account);
    let path = "/api/v1/namespaces/shop/serviceaccounts/penstock-restore";
    let before = site.object(path);
    let (code, restored) = site.restore(&[]);
    let error = &of(&restored, "data")["error"];
    assert_eq!((code, &error["class"]), (1, &json!("conflict")), "{restored:#}");
    assert!(error["message"].as_str().unwrap().contains("ServiceAccount shop/penstock-restore is there"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("--job-service-account"), "{error}");
    assert_eq!(site.object(path), before);
    site.fake.state().remove(path);
    site.assert_clean();
}
