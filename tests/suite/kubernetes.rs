//! Listing a cluster through the real adapter: one conformance suite for the fake server and a real one, and faults on the fake.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use penstock::cluster::{Access, Cluster as _, Failure, List, Object, Resource, Scope};
use penstock::error::{Class, Classify as _};
use penstock::format::cluster::Record;
use penstock::kube::{Client, Environment, Settings};
use penstock::resources::lister::{Lister, Progress, Stopped};
use penstock::resources::outlet::channel;
use penstock::resources::patience::Patience;
use penstock::resources::select::{ClusterResources, Patterns, Selection};
use penstock::resources::skip::Skipped;
use serde_json::{Value, json};

use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, State, kubeconfig, refusal};
use crate::servers::{Scheme, Seen, Servers};

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

/// Makes and deletes objects, which the port cannot yet.
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
    cluster_resources_follow_references(&client, p).await;
    an_identity_of_one_namespace(&admin, kubeconfig, folder, p).await;
    refusals_have_their_class(&client, p).await;
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
        let list = List { resource, namespace: None, selector, limit: 1, from: None };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_do_not_answer_are_waited_for_together() {
    let shop = Shop::with(1).await;
    let dead: Vec<String> = (0..5).map(|number| format!("g{number}.example.com/v1")).collect();
    shop.fake.state().aggregated = false;
    shop.fake.state().dead.clone_from(&dead);
    let (maps, record) = shop.maps().await;
    assert_eq!((maps, record.groups.missing), (names(1), dead.iter().cloned().collect()));
    let seen = shop.fake.seen();
    let asked = |group: &String| {
        let places = seen.iter().enumerate().filter(|(_, seen)| seen.uri == format!("/apis/{group}"));
        places.map(|(place, _)| place).collect::<Vec<_>>()
    };
    let (first, last) = (asked(&dead[0]), asked(&dead[4]));
    assert!(last[0] < first[first.len() - 1], "{first:?}, {last:?}");
}

/// `make kubernetes` starts the server and runs this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: make kubernetes"]
async fn real() {
    let kubeconfig = PathBuf::from(
        std::env::var_os("PENSTOCK_KUBECONFIG").expect("PENSTOCK_KUBECONFIG is an administrator's kubeconfig"),
    );
    let folder = tempfile::tempdir().unwrap();
    conforms(&kubeconfig, folder.path(), &format!("t{}", std::process::id())).await;
}

/// A fake with `count` ConfigMaps in the namespace `shop`, and a client of it.
struct Shop {
    fake: FakeKubernetes,
    client: Client,
    /// They end with it.
    _servers: Servers,
}

impl Shop {
    async fn with(count: usize) -> Self {
        let servers = Servers::start();
        let fake = FakeKubernetes::start(&servers);
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } }));
        for number in 0..count {
            fake.make("/api/v1/namespaces/shop/configmaps", &map(&format!("m-{number:04}"), number));
        }
        let client = client(&fake.kubeconfig(&servers, "admin", ADMIN)).await;
        Self { fake, client, _servers: servers }
    }

    /// The ConfigMaps' names in the order in which they came, and the record.
    async fn maps(&self) -> (Vec<String>, Record) {
        let (members, record) = saved(&self.client, &selection(&["*"], &["configmaps"])).await;
        let name = |path: &str| path.rsplit('/').next().unwrap().trim_end_matches(".json").to_owned();
        (under(&members, "resources/configmaps/").into_iter().map(name).collect(), record)
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("m-{number:04}")).collect()
}

fn is_list(seen: &Seen) -> bool {
    seen.method == "GET" && seen.uri.starts_with("/api/v1/configmaps")
}

/// Counts lists of ConfigMaps, and does something before the one of that number.
fn before_list(
    number: usize,
    mut act: impl FnMut(&mut State) -> Option<Fault> + Send + 'static,
) -> impl FnMut(&mut State, &Seen, usize) -> Option<Fault> + Send + 'static {
    let mut lists = 0;
    move |state, seen, _| {
        lists += usize::from(is_list(seen));
        if is_list(seen) && lists == number { act(state) } else { None }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_in_mid_list_is_replaced() {
    for offers in [true, false] {
        let shop = Shop::with(1200).await;
        shop.fake.state().offers_tokens = offers;
        shop.fake.script(before_list(2, |state| {
            // Meanwhile something went, on either side, and something came.
            state.remove("/api/v1/namespaces/shop/configmaps/m-0003");
            state.remove("/api/v1/namespaces/shop/configmaps/m-1199");
            state.make("/api/v1/namespaces/shop/configmaps", &map("m-0005-new", 0));
            state.make("/api/v1/namespaces/shop/configmaps", &map("m-0777-new", 0));
            state.compact();
            None
        }));
        let (maps, record) = shop.maps().await;
        let mut expected = names(1199);
        expected.insert(778, "m-0777-new".to_owned());
        assert_eq!(maps, expected, "offers a token: {offers}");
        let tally = &record.resources["configmaps"];
        assert_eq!((tally.expired, tally.list_versions.len()), (1, 2), "not of one instant: {tally:?}");
        assert_eq!(record.losses(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_of_one_instant_whatever_happens_meanwhile() {
    let shop = Shop::with(1200).await;
    shop.fake.script(before_list(2, |state| {
        state.remove("/api/v1/namespaces/shop/configmaps/m-0999");
        state.make("/api/v1/namespaces/shop/configmaps", &map("m-0777-new", 0));
        None
    }));
    let (maps, record) = shop.maps().await;
    assert_eq!(maps, names(1200));
    assert_eq!(record.resources["configmaps"].list_versions.len(), 1);
}

/// Where a page is cut: in its head, in an object, between two, in its last bytes; and a page more than once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_in_mid_page_is_made_up_for() {
    for after in [0, 1, 40, 5_000, 5_001, 100_000, 199_990] {
        let shop = Shop::with(700).await;
        let mut lists = 0;
        shop.fake.script(move |_, seen, _| {
            lists += usize::from(is_list(seen));
            (is_list(seen) && [1, 2, 4].contains(&lists)).then_some(Fault::Cut(after))
        });
        let (maps, record) = shop.maps().await;
        assert_eq!(maps, names(700), "cut after {after}");
        assert_eq!(record.losses(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_waited_for() {
    let shop = Shop::with(3).await;
    let mut refused = 0;
    shop.fake.script(move |_, seen, _| {
        refused += usize::from(is_list(seen));
        let body = refusal(429, "TooManyRequests", "The apiserver is receiving too many requests").to_string();
        let headers = vec![("retry-after", "0".to_owned()), ("content-type", "application/json".to_owned())];
        (is_list(seen) && refused <= 2).then_some(Fault::Answer { status: 429, headers, body })
    });
    assert_eq!(shop.maps().await.0, names(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_for_good_is_recorded_and_the_others_are_saved() {
    let html = || (vec![("content-type", "text/html".to_owned())], "<html>blocked</html>".to_owned());
    let json = |body: Value| (vec![("content-type", "application/json".to_owned())], body.to_string());
    let webhook = "conversion webhook for shop.test/v1, Kind=Order failed: Post \"https://x\": refused";
    let key = "Internal error occurred: unable to transform key \"/registry/secrets/shop/s\": no matching key";
    let rows = [
        (500, json(refusal(500, "InternalError", webhook)), Class::Transient, "conversion webhook"),
        (500, json(refusal(500, "InternalError", key)), Class::Integrity, "unable to transform key"),
        (403, html(), Class::Compat, "HTML"),
        (200, html(), Class::Compat, "not JSON"),
        (200, json(json!({ "kind": "Status", "items": [] })), Class::Compat, "it is a Status"),
        (200, json(json!({ "kind": "SecretList", "items": [7] })), Class::Integrity, "items"),
        (
            404,
            (vec![("content-type", "text/plain".to_owned())], "404 page not found".to_owned()),
            Class::NotFound,
            "404 page",
        ),
    ];
    for (status, (headers, body), class, words) in rows {
        let shop = Shop::with(2).await;
        shop.fake.script(move |_, seen, _| {
            let (headers, body) = (headers.clone(), body.clone());
            seen.uri.starts_with("/api/v1/secrets").then_some(Fault::Answer { status, headers, body })
        });
        let (members, record) = saved(&shop.client, &selection(&["*"], &["configmaps", "secrets"])).await;
        assert_eq!(under(&members, "resources/").len(), 2);
        let failure = &record.resources["secrets"].failures[0];
        assert_eq!(failure.class, class, "{status}: {failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
        assert_eq!(record.losses().len(), 1);
        assert!(
            record.losses()[0].starts_with("secrets are not saved: list /api/v1/secrets: "),
            "{:?}",
            record.losses()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_ends_the_run() {
    let shop = Shop::with(2).await;
    let mut gone = false;
    shop.fake.script(move |_, seen, _| {
        gone |= is_list(seen);
        gone.then_some(Fault::Cut(0))
    });
    let stopped = run(&shop.client, &selection(&["*"], &["*"])).await.unwrap_err();
    let Stopped::Failed(Failure { error, .. }) = stopped else { panic!("{stopped}") };
    assert_eq!((error.class, error.operation), (Class::Transient, "list"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_serves_nothing_is_no_empty_backup() {
    let shop = Shop::with(1).await;
    let body = json!({ "kind": "APIGroupDiscoveryList", "metadata": {}, "items": [] }).to_string();
    shop.fake.script(move |_, seen, _| {
        let headers = vec![("content-type", "application/json".to_owned())];
        matches!(seen.uri.as_str(), "/api" | "/apis").then(|| Fault::Answer {
            status: 200,
            headers,
            body: body.clone(),
        })
    });
    let Stopped::Failed(failure) = run(&shop.client, &selection(&["*"], &["*"])).await.unwrap_err() else { panic!() };
    assert_eq!(failure.error.class, Class::Compat);
}

/// The token is taken away for good after the first page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_withdrawn_end_the_run() {
    let shop = Shop::with(600).await;
    shop.fake.script(before_list(2, |state| {
        "another".clone_into(&mut state.admin_token);
        None
    }));
    let Stopped::Failed(failure) = run(&shop.client, &selection(&["*"], &["*"])).await.unwrap_err() else { panic!() };
    assert_eq!((failure.error.class, failure.error.status), (Class::AccessDenied, Some(401)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_no_paths_never_become_members() {
    let shop = Shop::with(1).await;
    let item = |name: &str, namespace: &str| json!({ "metadata": { "name": name, "namespace": namespace } });
    let items = [
        item("../../../etc/cron.d/x", "shop"),
        item("x", "../.."),
        item("..", "shop"),
        item("a/b", "shop"),
        item("", "shop"),
        item("x", ""),
    ];
    let body = json!({ "kind": "SecretList", "metadata": {}, "items": items }).to_string();
    shop.fake.script(move |_, seen, _| {
        let headers = vec![("content-type", "application/json".to_owned())];
        seen.uri.starts_with("/api/v1/secrets").then(|| Fault::Answer { status: 200, headers, body: body.clone() })
    });
    let (members, record) = saved(&shop.client, &selection(&["*"], &["secrets"])).await;
    assert_eq!(members.len(), 1);
    assert_eq!(record.resources["secrets"].skipped[Skipped::UnusableName.as_str()], 6);
    assert_eq!(record.losses().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_page_waits_in_the_network_and_halves_the_next() {
    const OBJECT: usize = 1 << 20;
    // 100 MiB, of which at most these wait between the server and the one who takes members.
    const BETWEEN: u64 = 32 << 20;
    let shop = Shop::with(0).await;
    for number in 0..120 {
        let object = json!({ "metadata": { "name": format!("m-{number:04}") }, "data": { "x": "y".repeat(OBJECT) } });
        shop.fake.make("/api/v1/namespaces/shop/configmaps", &object);
    }
    let (outlet, mut members) = channel(1 << 20);
    let (progress, selection) = (Progress::default(), selection(&["*"], &["configmaps"]));
    let lister = Lister { cluster: &shop.client, selection: &selection, patience: IMPATIENT, progress: &progress };
    let listing = async move { lister.run(&outlet).await };
    let taking = async {
        let (mut taken, mut count) = (0, 0);
        while let Some(member) = members.next().await {
            let sent = shop.fake.sent.load(Ordering::Relaxed);
            assert!(sent <= taken + BETWEEN, "{sent} bytes were sent, {taken} taken");
            taken += member.bytes.len() as u64;
            count += 1;
            // The server's threads run on.
            tokio::task::yield_now().await;
        }
        count
    };
    let (record, count) = tokio::join!(listing, taking);
    assert_eq!(count, 121);
    assert_eq!(record.unwrap().resources["configmaps"].pages, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_shrink_where_objects_are_large() {
    let shop = Shop::with(0).await;
    for number in 0..1300 {
        let object = json!({ "metadata": { "name": format!("m-{number:04}") }, "data": { "x": "y".repeat(40 << 10) } });
        shop.fake.make("/api/v1/namespaces/shop/configmaps", &object);
    }
    assert_eq!(shop.maps().await.0, names(1300));
    let limits: Vec<String> =
        shop.fake.seen().iter().filter(|seen| is_list(seen)).map(|seen| limit(&seen.uri)).collect();
    // 500 are 20 MB, 250 are 10.
    assert_eq!(limits, ["500", "250", "250", "250", "250"]);
}

fn limit(uri: &str) -> String {
    uri.split_once("limit=").unwrap().1.split('&').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_replaced_in_its_file_is_taken_up() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let (token, path) = (servers.folder().join("token"), servers.folder().join("kubeconfig"));
    std::fs::write(&token, ADMIN).unwrap();
    std::fs::write(&path, kubeconfig(&fake.url, &fake.ca, "{tokenFile: token}")).unwrap();
    let client = client(&path).await;
    client.version().await.unwrap();
    fake.state().admin_token = "the-next-token".to_owned();
    std::fs::write(&token, "the-next-token").unwrap();
    let refused = client.version().await.unwrap_err();
    assert_eq!(refused.error.class, Class::CredentialsExpired, "one 401, and then the file is read again");
    client.version().await.unwrap();
    // Credentials that were just read and are not accepted: no use in trying again.
    fake.state().admin_token = "another".to_owned();
    assert_eq!(client.version().await.unwrap_err().error.class, Class::CredentialsExpired);
    let refused = client.version().await.unwrap_err();
    assert_eq!(refused.error.class, Class::AccessDenied);
    assert!(refused.report().remedy.unwrap().contains("kubeconfig"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_a_plugin_and_of_a_pod() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let credential = json!({ "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": { "token": ADMIN } });
    let plugin = |command: &str| {
        let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": "/bin/sh", "args": ["-c", command] });
        let path = servers.folder().join("plugin.kubeconfig");
        std::fs::write(&path, kubeconfig(&fake.url, &fake.ca, &json!({ "exec": exec }).to_string())).unwrap();
        path
    };
    client(&plugin(&format!("echo '{credential}'"))).await.version().await.unwrap();
    let failed = Client::new(settings(&plugin("echo secret-token; echo no session >&2; exit 3"))).await.unwrap_err();
    assert_eq!(failed.class(), Class::CredentialsUnavailable);
    assert!(failed.to_string().ends_with("(exit status: 3): no session"), "{failed}");
    assert!(!format!("{failed:?}").contains("secret-token"));

    let account = servers.folder().join("account");
    std::fs::create_dir(&account).unwrap();
    std::fs::copy(&fake.ca, account.join("ca.crt")).unwrap();
    std::fs::write(account.join("token"), ADMIN).unwrap();
    let (host, port) = fake.url.strip_prefix("https://").unwrap().split_once(':').unwrap();
    let service = Some((host.to_owned(), port.to_owned()));
    let environment = Environment { service, service_account: account, ..Environment::default() };
    let in_pod = Client::new(Settings { kubeconfig: None, context: None, environment }).await.unwrap();
    in_pod.version().await.unwrap();
    assert!(in_pod.trust().contains("ca.crt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_trusted_or_not_there() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let (_, other) = crate::servers::authority("another CA");
    let ca = servers.folder().join("other.pem");
    std::fs::write(&ca, other).unwrap();
    let path = servers.folder().join("kubeconfig");
    std::fs::write(&path, kubeconfig(&fake.url, &ca, "{token: x}")).unwrap();
    let untrusted = client(&path).await;
    let error = untrusted.version().await.unwrap_err().error;
    assert_eq!(error.class, Class::Tls);
    assert!(error.remedy.unwrap().contains(&format!("the CA bundle {}", ca.display())));
    // The right CA comes into the file; a handshake is made with it as soon as the file is looked at.
    std::fs::copy(&fake.ca, &ca).unwrap();
    assert_eq!(client(&path).await.version().await.unwrap_err().error.class, Class::CredentialsExpired);

    std::fs::write(&path, kubeconfig(&servers.refusing().replace("http:", "https:"), &fake.ca, "{token: x}")).unwrap();
    let error = client(&path).await.version().await.unwrap_err().error;
    assert_eq!(error.class, Class::Transient);
    assert!(error.remedy.unwrap().contains("nothing listens there"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_of_the_environment_is_used_unless_no_proxy_says_otherwise() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let asked = servers.scripted(Scheme::Http, |_, _| (407, String::new()));
    let through = |no_proxy: &'static str| {
        let url = asked.url.clone();
        Environment::read(move |name| match name {
            "HTTPS_PROXY" => Some(url.clone()),
            "NO_PROXY" => Some(no_proxy.to_owned()),
            _ => None,
        })
        .unwrap()
    };
    let path = servers.folder().join("kubeconfig");
    let client = async |url: &str, no_proxy| {
        std::fs::write(&path, kubeconfig(url, &fake.ca, &format!("{{token: {ADMIN}}}"))).unwrap();
        Client::new(Settings { kubeconfig: Some(path.clone()), context: None, environment: through(no_proxy) })
            .await
            .unwrap()
    };
    let error = client("https://api.invalid:6443", "").await.version().await.unwrap_err().error;
    assert_eq!(error.class, Class::Config, "{error}");
    assert!(error.remedy.unwrap().contains("HTTPS_PROXY"));
    assert_eq!(asked.seen()[0].method, "CONNECT");
    // This host is never behind it.
    client(&fake.url, "").await.version().await.unwrap();
    let direct = client("https://api.invalid:6443", ".invalid").await.version().await.unwrap_err().error;
    assert_eq!(direct.class, Class::Transient, "{direct}");
    assert_eq!(asked.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_may_only_be_listed_in_namespaces_is_listed_there() {
    let shop = Shop::with(3).await;
    shop.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "garden" } }));
    shop.fake.make("/api/v1/namespaces/garden/configmaps", &map("rose", 0));
    shop.fake.make("/api/v1/namespaces/default/configmaps", &map("other", 0));
    shop.fake.script(|_, seen, _| {
        let message = "configmaps is forbidden: User \"u\" cannot list resource \"configmaps\" in API group \"\" at the cluster scope";
        let headers = vec![("content-type", "application/json".to_owned())];
        let body = refusal(403, "Forbidden", message).to_string();
        is_list(seen).then_some(Fault::Answer { status: 403, headers, body })
    });
    let (members, record) = saved(&shop.client, &selection(&["sho?", "gard*"], &["configmaps"])).await;
    assert_eq!(under(&members, "resources/configmaps/namespaces/garden/").len(), 1);
    assert_eq!(under(&members, "resources/configmaps/").len(), 4);
    assert_eq!(record.losses(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_has_its_place_and_the_preferred_one_velero_s() {
    let shop = Shop::with(0).await;
    let mut old = shop.fake.state().kinds.iter().find(|kind| kind.plural == "deployments").unwrap().clone();
    "v1beta1".clone_into(&mut old.version);
    shop.fake.state().kinds.push(old);
    shop.fake.make("/apis/apps/v1/namespaces/shop/deployments", &json!({ "metadata": { "name": "web" } }));
    let one = selection(&["*"], &["deployments"]);
    let (members, _) = saved(&shop.client, &one).await;
    assert_eq!(under(&members, "resources/"), ["resources/deployments.apps/namespaces/shop/web.json"]);
    let all = Selection { versions: penstock::config::Versions::All, ..one };
    let (members, record) = saved(&shop.client, &all).await;
    let paths = [
        "resources/deployments.apps/namespaces/shop/web.json",
        "resources/deployments.apps/v1beta1/namespaces/shop/web.json",
    ];
    assert_eq!(under(&members, "resources/"), paths);
    assert!(members[2].1.starts_with(br#"{"apiVersion":"apps/v1beta1","kind":"Deployment","#));
    assert_eq!(record.resources["deployments.apps/v1beta1"].objects, 1);
    assert!(record.listed.contains("deployments.apps/v1") && record.listed.contains("deployments.apps/v1beta1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_goes_away_is_left_out_and_told() {
    let shop = Shop::with(2).await;
    shop.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "going", "finalizers": ["x"] } }));
    shop.fake.make("/api/v1/namespaces/going/configmaps", &map("lost", 0));
    shop.fake.make("/api/v1/persistentvolumes", &json!({ "metadata": { "name": "pv" } }));
    shop.fake.state().remove("/api/v1/namespaces/going");
    // Every namespace is selected, so every cluster-scoped object is saved.
    let everything = Selection { namespaces: Patterns::new(&["*"], &[]).unwrap(), ..Selection::everything() };
    let (members, record) = saved(&shop.client, &everything).await;
    assert_eq!(under(&members, "resources/configmaps/").len(), 2);
    assert_eq!(under(&members, "resources/persistentvolumes/cluster/").len(), 1);
    let namespaces = ["default", "kube-system", "shop"].map(|name| format!("resources/namespaces/cluster/{name}.json"));
    assert_eq!(under(&members, "resources/namespaces/"), namespaces);
    assert_eq!(record.notes, ["the namespace going is being deleted: nothing in it is saved"]);
    let before = record.clone();
    shop.fake.state().remove("/api/v1/namespaces/shop/configmaps/m-0000");
    shop.fake.state().remove("/api/v1/namespaces/shop/configmaps/m-0001");
    shop.fake.state().kinds.retain(|kind| kind.plural != "persistentvolumes");
    let (_, after) = saved(&shop.client, &everything).await;
    assert_eq!(
        after.gone_since(&before),
        [
            "persistentvolumes are not served any more; the backup before has 1 of them",
            "the namespace shop is in the backup before and not in this one"
        ]
    );
}
