//! A cluster through the real adapter: one conformance suite for the fake server and a real one.

mod connecting;
mod faults;
mod reality;
mod writes;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use penstock::cluster::{Access, Cluster as _, Effect, List, Object, Resource, Scope, Write};
use penstock::error::Class;
use penstock::format::cluster::Record;
use penstock::kube::{Client, Environment, Settings};
use penstock::resources::lister::{Lister, Progress, Stopped};
use penstock::resources::outlet::channel;
use penstock::resources::patience::Patience;
use penstock::resources::select::{ClusterResources, Patterns, Selection};
use penstock::resources::skip::Skipped;
use serde_json::{Value, json};

use crate::fake_kubernetes::{ADMIN, FakeKubernetes};
use crate::servers::Servers;

/// ConfigMaps of the conformance suite: two pages and a piece of a third.
const MANY: usize = 1100;

fn settings(kubeconfig: &Path) -> Settings {
    Settings { kubeconfig: Some(kubeconfig.to_owned()), context: None, environment: Environment::default() }
}

async fn client(kubeconfig: &Path) -> Client {
    Client::new(settings(kubeconfig)).await.unwrap()
}

fn selection(namespaces: &[&str], resources: &[&str]) -> Selection {
    Selection {
        namespaces: Patterns::new(namespaces, &[]).unwrap(),
        resources: Patterns::new(resources, &["events"]).unwrap(),
        cluster_resources: ClusterResources::Never,
        ..Selection::everything()
    }
}

/// What a test waits for is a failure, not a server that comes back.
const IMPATIENT: Patience = Patience { answered: Duration::from_millis(500), silent: Duration::from_secs(2) };

type Members = Vec<(String, Bytes)>;

async fn run(client: &Client, selection: &Selection) -> Result<(Members, Record), Stopped> {
    let (outlet, mut members) = channel(1 << 20);
    let progress = Progress::default();
    let lister = Lister { cluster: client, selection, patience: IMPATIENT, progress: &progress };
    let listing = async move { lister.run(&outlet).await };
    let taking = async {
        let mut taken = Vec::new();
        while let Some(member) = members.next().await {
            taken.push((member.path, member.bytes));
        }
        taken
    };
    let (record, taken) = tokio::join!(listing, taking);
    let record = record?;
    assert_eq!(progress.objects.load(Ordering::Relaxed), record.objects());
    assert_eq!(taken[0], ("metadata/version".to_owned(), Bytes::from_static(b"1.1.0\n")));
    let paths: BTreeSet<&String> = taken.iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), taken.len(), "a member came twice");
    assert_eq!(record.objects(), taken.len() as u64 - 1);
    Ok((taken, record))
}

async fn saved(client: &Client, selection: &Selection) -> (Members, Record) {
    run(client, selection).await.unwrap()
}

fn under<'a>(members: &'a Members, start: &str) -> Vec<&'a str> {
    members.iter().map(|(path, _)| path.as_str()).filter(|path| path.starts_with(start)).collect()
}

/// Asks past the adapter: for what the port has no words for, and to see what is really there.
struct Admin(kube::Client);

impl Admin {
    async fn new(path: &Path) -> Self {
        let kubeconfig = kube::config::Kubeconfig::read_from(path).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
        Self(kube::Client::try_from(config.unwrap()).unwrap())
    }

    async fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = hyper::Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.0.request(request.body(body).unwrap()).await
    }

    async fn make(&self, path: &str, object: Value) -> Value {
        self.request("POST", path, &object).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What was just defined is served a moment later.
    async fn wait_for(&self, path: &str, is_there: impl Fn(&Result<Value, kube::Error>) -> bool) {
        for _ in 0..200 {
            if is_there(&self.request("GET", path, &Value::Null).await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} did not come");
    }
}

fn map(name: &str, number: usize) -> Value {
    let half = if number.is_multiple_of(2) { "even" } else { "odd" };
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "half": half } }, "data": { "text": "x".repeat(200), "odd": "é\"\\\n" } })
}

/// What the suite makes; every name begins with `p`.
async fn furnish(admin: &Admin, p: &str) {
    for name in ["a", "a-b", "b"] {
        admin
            .make(
                "/api/v1/namespaces",
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("{p}-{name}") } }),
            )
            .await;
    }
    let many = futures_util::stream::iter(0..MANY).for_each_concurrent(16, |number| async move {
        admin.make(&format!("/api/v1/namespaces/{p}-a/configmaps"), map(&format!("m-{number:04}"), number)).await;
    });
    many.await;
    admin.make(&format!("/api/v1/namespaces/{p}-a-b/configmaps"), map("first", 0)).await;
    let kept = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "going", "finalizers": ["penstock.test/x"] } });
    admin.make(&format!("/api/v1/namespaces/{p}-b/configmaps"), kept).await;
    admin.request("DELETE", &format!("/api/v1/namespaces/{p}-b/configmaps/going"), &Value::Null).await.unwrap();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": { "name": "s" }, "data": { "password": "aHVudGVyMg==" } });
    admin.make(&format!("/api/v1/namespaces/{p}-a/secrets"), secret).await;
    admin
        .make(
            &format!("/api/v1/namespaces/{p}-a/serviceaccounts"),
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "agent" } }),
        )
        .await;
    rbac(admin, p).await;
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("widgets.{p}.test") },
        "spec": { "group": format!("{p}.test"), "scope": "Namespaced", "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }] }
    });
    admin.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let widgets = format!("/apis/{p}.test/v1/namespaces/{p}-a/widgets");
    admin.wait_for(&widgets, Result::is_ok).await;
    let widget = json!({ "apiVersion": format!("{p}.test/v1"), "kind": "Widget", "metadata": { "name": "w" },
        "spec": { "ratio": 1.5, "big": 9_007_199_254_740_993_i64, "type": ["a", { "b": null }] } });
    admin.make(&widgets, widget).await;
}

async fn rbac(admin: &Admin, p: &str) {
    let api = "rbac.authorization.k8s.io";
    let rules = json!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"] }]);
    let subjects = json!([{ "kind": "ServiceAccount", "name": "agent", "namespace": format!("{p}-a") }]);
    let version = format!("{api}/v1");
    let role = json!({ "apiVersion": version, "kind": "Role", "metadata": { "name": "reader" }, "rules": rules });
    admin.make(&format!("/apis/{api}/v1/namespaces/{p}-a/roles"), role).await;
    let binding = json!({ "apiVersion": version, "kind": "RoleBinding", "metadata": { "name": "reader" }, "subjects": subjects,
        "roleRef": { "apiGroup": api, "kind": "Role", "name": "reader" } });
    admin.make(&format!("/apis/{api}/v1/namespaces/{p}-a/rolebindings"), binding).await;
    for name in ["used", "unused"] {
        let role = json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": { "name": format!("{p}-{name}") }, "rules": [] });
        admin.make(&format!("/apis/{api}/v1/clusterroles"), role).await;
    }
    let binding = json!({ "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": { "name": format!("{p}-used") }, "subjects": subjects,
        "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": format!("{p}-used") } });
    admin.make(&format!("/apis/{api}/v1/clusterrolebindings"), binding).await;
}

/// What holds on every server. `p` is a prefix that nothing else on it has.
async fn conforms(kubeconfig: &Path, folder: &Path, p: &str) {
    let admin = Admin::new(kubeconfig).await;
    furnish(&admin, p).await;
    let client = client(kubeconfig).await;
    assert!(client.version().await.unwrap().git_version.starts_with('v'));
    everything_is_saved_byte_for_byte(&client, &admin, p).await;
    a_selector_selects(&client, p).await;
    a_field_selector_selects(&client, p).await;
    cluster_resources_follow_references(&client, p).await;
    an_identity_of_one_namespace(&admin, kubeconfig, folder, p).await;
    refusals_have_their_class(&client, p).await;
    writes::conform(&client, &admin, p).await;
    a_dead_group_is_a_fact(&client, &admin, p).await;
}

async fn everything_is_saved_byte_for_byte(client: &Client, admin: &Admin, p: &str) {
    let (all, widgets) = (format!("{p}-*"), format!("*.{p}.test"));
    let selection = selection(&[&all], &["configmaps", "secrets", &widgets, "configmap"]);
    let (members, record) = saved(client, &selection).await;
    let maps = under(&members, "resources/configmaps/namespaces/");
    assert_eq!(maps[0], format!("resources/configmaps/namespaces/{p}-a-b/first.json"), "etcd's order");
    assert_eq!(maps[1], format!("resources/configmaps/namespaces/{p}-a/m-0000.json"));
    assert_eq!(maps.len(), MANY + 1);
    assert_eq!(under(&members, "resources/").len(), MANY + 3);
    for (path, at) in [
        ("configmaps/namespaces", format!("/api/v1/namespaces/{p}-a/configmaps/m-0777")),
        ("secrets/namespaces", format!("/api/v1/namespaces/{p}-a/secrets/s")),
        (&format!("widgets.{p}.test/namespaces"), format!("/apis/{p}.test/v1/namespaces/{p}-a/widgets/w")),
    ] {
        let name = at.rsplit('/').next().unwrap();
        let member = members.iter().find(|(member, _)| *member == format!("resources/{path}/{p}-a/{name}.json"));
        let value: Value = serde_json::from_slice(&member.unwrap().1).unwrap();
        assert_eq!(value, admin.request("GET", &at, &Value::Null).await.unwrap(), "{at}");
    }
    let tally = &record.resources["configmaps"];
    assert_eq!((tally.objects, tally.list_versions.len()), (MANY as u64 + 1, 1), "{tally:?}");
    // What others have on this server comes on more pages.
    assert!(tally.pages >= 3, "{tally:?}");
    assert_eq!(tally.skipped[Skipped::BeingDeleted.as_str()], 1);
    assert_eq!(record.losses(), Vec::<String>::new());
    assert_eq!(record.namespaces, [format!("{p}-a"), format!("{p}-a-b")].into());
    assert!(!record.cluster_uid.is_empty() && record.server_version.starts_with('v'));
    assert_eq!(
        (record.unknown[0].pattern.as_str(), record.unknown[0].nearest.as_deref()),
        ("configmap", Some("configmaps"))
    );
    assert_eq!(saved(client, &selection).await, (members, record), "an unchanged cluster");
}

async fn a_selector_selects(client: &Client, p: &str) {
    let all = format!("{p}-*");
    let even = Selection { selector: "half=even".into(), ..selection(&[&all, "nothing-*"], &["configmaps"]) };
    let (members, record) = saved(client, &even).await;
    assert_eq!(members.len() - 1, MANY / 2 + 1);
    assert_eq!(record.unknown.iter().map(|unknown| unknown.pattern.as_str()).collect::<Vec<_>>(), ["nothing-*"]);
}

/// What every server knows of every kind; of pods also the node.
async fn a_field_selector_selects(client: &Client, p: &str) {
    let list = |resource, namespace, fields| List { resource, namespace, selector: "", fields, limit: 9, from: None };
    let (maps, pods) = (resource("", "configmaps", "ConfigMap"), resource("", "pods", "Pod"));
    let namespace = format!("{p}-a");
    let count = async |list: List<'_>| {
        let mut body = client.list(&list).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = body.next().await {
            text.extend_from_slice(&piece.unwrap());
        }
        let list: Value = serde_json::from_slice(&text).unwrap();
        list["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count(list(&maps, Some(&namespace), "metadata.name=m-0777")).await, 1);
    assert_eq!(count(list(&pods, None, "spec.nodeName=no-such-node")).await, 0);
    let refused = client.list(&list(&maps, None, "data.x=y")).await.err().unwrap();
    assert_eq!(refused.error.status, Some(400), "{refused}");
}

async fn cluster_resources_follow_references(client: &Client, p: &str) {
    let a = format!("{p}-a");
    let auto = Selection { cluster_resources: ClusterResources::Auto, ..selection(&[&a], &["*"]) };
    let (members, record) = saved(client, &auto).await;
    let cluster: Vec<&str> =
        members.iter().map(|(path, _)| path.as_str()).filter(|path| path.contains("/cluster/")).collect();
    let expected = [
        format!("resources/clusterrolebindings.rbac.authorization.k8s.io/cluster/{p}-used.json"),
        format!("resources/clusterroles.rbac.authorization.k8s.io/cluster/{p}-used.json"),
        format!("resources/customresourcedefinitions.apiextensions.k8s.io/cluster/widgets.{p}.test.json"),
        format!("resources/namespaces/cluster/{a}.json"),
    ];
    assert_eq!(cluster, expected);
    assert!(record.resources["clusterroles.rbac.authorization.k8s.io"].skipped[Skipped::NotReferred.as_str()] >= 1);
    assert_eq!(record.losses(), Vec::<String>::new());
    for path in
        ["roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io", "serviceaccounts", "secrets"]
    {
        assert!(!under(&members, &format!("resources/{path}/namespaces/{a}/")).is_empty(), "{path}");
    }
    let outside = |path: &&str| !path.contains("/cluster/") && !path.contains(&format!("/namespaces/{a}/"));
    assert_eq!(under(&members, "resources/").into_iter().find(outside), None);
    // Everything: what nothing refers to as well.
    let always =
        Selection { cluster_resources: ClusterResources::Always, ..selection(&[&a], &["clusterroles", "namespaces"]) };
    let (members, _) = saved(client, &always).await;
    let unused = format!("resources/clusterroles.rbac.authorization.k8s.io/cluster/{p}-unused.json");
    assert_eq!(under(&members, &unused), [unused.as_str()]);
    assert_eq!(
        under(&members, "resources/namespaces/"),
        [format!("resources/namespaces/cluster/{a}.json")],
        "chosen ones only"
    );
}

/// A service account that may read the ConfigMaps of one namespace.
async fn an_identity_of_one_namespace(admin: &Admin, admins: &Path, folder: &Path, p: &str) {
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 3600 } });
    let answer = admin.make(&format!("/api/v1/namespaces/{p}-a/serviceaccounts/agent/token"), request).await;
    let token = answer["status"]["token"].as_str().unwrap();
    let config = kube::config::Kubeconfig::read_from(admins).unwrap();
    let path = folder.join("one-namespace.kubeconfig");
    // JSON is YAML.
    std::fs::write(&path, of_token(&config, token).to_string()).unwrap();
    let client = client(&path).await;
    let (a, b) = (format!("{p}-a"), format!("{p}-b"));
    let may = |verb, resource, namespace| {
        let client = &client;
        async move { client.access(&Access { verb, group: "", resource, namespace }).await.unwrap().allowed }
    };
    assert!(may("list", "configmaps", Some(&*a)).await);
    assert!(!may("list", "configmaps", None).await && !may("list", "secrets", Some(&*a)).await);
    let rules = client.rules(&a).await.unwrap();
    let who = client.who().await.unwrap();
    assert!(who.is_none_or(|who| who == format!("system:serviceaccount:{a}:agent")));
    let maps = resource("", "configmaps", "ConfigMap");
    assert!(rules.allow("list", &maps) && !rules.allow("create", &maps));

    let (members, record) = saved(&client, &selection(&[&a], &["configmaps"])).await;
    assert_eq!(under(&members, "resources/configmaps/").len(), MANY);
    assert_eq!(record.losses(), Vec::<String>::new());
    assert_eq!(record.notes, Vec::<String>::new(), "the configuration names the namespaces, so none is unseen");

    let (members, record) = saved(&client, &selection(&[&a, &b], &["configmaps", "secrets"])).await;
    assert_eq!(under(&members, "resources/configmaps/").len(), MANY);
    let failure = &record.resources["configmaps"].failures[0];
    assert_eq!((failure.class, failure.code.as_deref()), (Class::AccessDenied, Some("Forbidden")));
    let remedy = failure.remedy.as_deref().unwrap();
    assert!(remedy.contains(&format!("grant system:serviceaccount:{a}:agent in the namespace {b}")), "{remedy}");
    assert!(remedy.ends_with(r#"{apiGroups: [""], resources: ["configmaps"], verbs: ["get", "list"]}"#), "{remedy}");
    assert_eq!(record.resources["secrets"].failures.len(), 2);
    assert_eq!(record.losses().len(), 3, "{:?}", record.losses());

    let object = Object { resource: &maps, namespace: Some(&a), name: "new" };
    let write = Write::Create(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"new"}}"#);
    let refused = client.write(&object, &write, Effect::DryRun).await.unwrap_err().error;
    assert_eq!(refused.class, Class::AccessDenied);
    assert!(refused.remedy.unwrap().ends_with(r#"resources: ["configmaps"], verbs: ["create"]}"#));
}

/// The kubeconfig with a token in place of its user's credentials.
fn of_token(config: &kube::config::Kubeconfig, token: &str) -> Value {
    let mut value = serde_json::to_value(config).unwrap();
    value["users"][0]["user"] = json!({ "token": token });
    value
}

fn resource(group: &str, plural: &str, kind: &str) -> Resource {
    let version = "v1".to_owned();
    Resource { group: group.into(), version, plural: plural.into(), kind: kind.into(), scope: Scope::Namespaced }
}

async fn refusals_have_their_class(client: &Client, p: &str) {
    let maps = resource("", "configmaps", "ConfigMap");
    let namespace = format!("{p}-a");
    let missing =
        client.get(&Object { resource: &maps, namespace: Some(&namespace), name: "nothing" }).await.unwrap_err();
    assert_eq!((missing.error.class, missing.error.code.as_deref()), (Class::NotFound, Some("NotFound")));
    let list = async |resource: &Resource, selector: &str| {
        let list = List { resource, namespace: None, selector, fields: "", limit: 1, from: None };
        client.list(&list).await.map(|_| ()).unwrap_err().error.class
    };
    assert_eq!(list(&maps, "=x").await, Class::Config);
    assert_eq!(list(&resource("nothing.test", "things", "Thing"), "").await, Class::NotFound);
    let object = client.get(&Object { resource: &maps, namespace: Some(&namespace), name: "m-0001" }).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&object).unwrap()["kind"], "ConfigMap");
}

async fn a_dead_group_is_a_fact(client: &Client, admin: &Admin, p: &str) {
    let group = format!("dead.{p}.test");
    let service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": format!("v1.{group}") },
        "spec": { "group": group, "version": "v1", "groupPriorityMinimum": 10, "versionPriority": 10, "insecureSkipTLSVerify": true,
            "service": { "namespace": format!("{p}-a"), "name": "nowhere" } }
    });
    admin.make("/apis/apiregistration.k8s.io/v1/apiservices", service).await;
    admin.wait_for("/apis", |answer| answer.as_ref().is_ok_and(|answer| answer.to_string().contains(&group))).await;
    let a = format!("{p}-a");
    let (members, record) = saved(client, &selection(&[&a], &["secrets"])).await;
    assert_eq!(under(&members, "resources/secrets/").len(), 1, "the others are saved");
    assert_eq!(record.groups.missing, [format!("{group}/v1")].into());
    assert!(!record.groups.served.contains(&group) && record.groups.served.contains("apps"));
    assert_eq!(record.losses().len(), 1, "{:?}", record.losses());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_conforms_with_aggregated_discovery() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    conforms(&fake.kubeconfig(&servers, "admin", ADMIN), servers.folder(), "t1").await;
    let asked = fake.seen().iter().filter(|seen| seen.uri.starts_with("/apis/apps/v1")).count();
    assert!(asked > 0 && !fake.seen().iter().any(|seen| seen.uri == "/apis/apps/v1"), "two documents say everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_conforms_with_discovery_of_old() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    fake.state().aggregated = false;
    conforms(&fake.kubeconfig(&servers, "admin", ADMIN), servers.folder(), "t1").await;
    assert!(fake.seen().iter().any(|seen| seen.uri == "/apis/apps/v1"));
}

fn of_environment() -> PathBuf {
    std::env::var_os("PENSTOCK_KUBECONFIG").expect("PENSTOCK_KUBECONFIG is an administrator's kubeconfig").into()
}

/// `make kubernetes` starts the server and runs this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: make kubernetes"]
async fn real() {
    let kubeconfig = of_environment();
    let folder = tempfile::tempdir().unwrap();
    let p = format!("t{}", std::process::id());
    reality::a_real_server_alone(&kubeconfig, &p).await;
    conforms(&kubeconfig, folder.path(), &p).await;
}
