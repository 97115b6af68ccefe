//! What can go wrong while a cluster is listed, on the fake.

use std::sync::atomic::Ordering;

use penstock::cluster::Failure;
use penstock::error::Class;
use penstock::format::cluster::Record;
use penstock::kube::Client;
use penstock::resources::lister::{Lister, Progress, Stopped};
use penstock::resources::outlet::channel;
use penstock::resources::select::{Patterns, Selection};
use penstock::resources::skip::Skipped;
use serde_json::{Value, json};

use super::{IMPATIENT, client, map, run, saved, selection, under};
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, State, refusal};
use crate::servers::{Seen, Servers};

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

/// The token is taken away for good after the first page: what was listed is saved, and the rest is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_withdrawn_leave_the_rest_unsaved_by_name() {
    let shop = Shop::with(600).await;
    shop.fake.script(before_list(2, |state| {
        "another".clone_into(&mut state.admin_token);
        None
    }));
    let (_, record) = saved(&shop.client, &selection(&["*"], &["*"])).await;
    assert_eq!((record.resources["configmaps"].objects, record.resources["configmaps"].failures.len()), (500, 1));
    let losses = record.losses().join("\n");
    for named in ["configmaps are saved in part", "secrets are not saved", "deployments.apps are not saved"] {
        assert!(losses.contains(named), "{named}: {losses}");
    }
}

/// A token that is accepted for nothing saves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_never_accepted_end_the_run() {
    let shop = Shop::with(1).await;
    shop.fake.script(before_list(1, |state| {
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
            "persistentvolumes are no longer served; the previous backup has 1 of them",
            "the namespace shop is in the previous backup and not in this one"
        ]
    );
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
