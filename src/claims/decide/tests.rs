use proptest::prelude::*;

use super::super::testing::{Builder, bound, name, pod};
use super::*;

fn policy(change: impl FnOnce(&mut Claims)) -> Policy {
    let mut claims = Claims::default();
    change(&mut claims);
    Policy::of(&claims).unwrap()
}

fn everything() -> Policy {
    policy(|_| {})
}

fn facts(claims: Vec<(Claim, Volume)>) -> Facts {
    let mut facts = Facts::default();
    for (claim, volume) in claims {
        let name = ClaimName::new(&claim.metadata.namespace, &claim.metadata.name).unwrap();
        facts.claims.insert(name, Answer::Found(claim));
        facts.volumes.insert(volume.metadata.name.clone(), Answer::Found(volume));
    }
    facts
}

fn data() -> (Claim, Volume) {
    bound("shop/data", "ReadWriteOnce", Backing::Csi)
}

fn decided(policy: &Policy, pods: Vec<Builder>, facts: &Facts) -> Decision {
    let pods: Vec<Pod> = pods.into_iter().map(|pod| pod.0).collect();
    decide(policy, "n1", &pods, facts)
}

/// The chains that are saved, and of what is not `POD:VOLUME REASON`.
fn summary(decision: &Decision) -> (Vec<String>, Vec<String>) {
    let chains = decision.targets.iter().map(|target| target.chain.to_string()).collect();
    let unsaved =
        |it: &Unsaved| format!("{}:{} {}{}", it.pod, it.volume, it.reason, if it.is_loss() { "!" } else { "" });
    (chains, decision.unsaved.iter().map(unsaved).collect())
}

#[track_caller]
fn check(policy: &Policy, pods: Vec<Builder>, facts: &Facts, saved: &[&str], unsaved: &[&str]) {
    let decision = decided(policy, pods, facts);
    assert_eq!(summary(&decision), (owned(saved), owned(unsaved)));
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn db() -> Builder {
    pod("shop", "db", "n1").claim("data", "data")
}

#[test]
fn a_bound_claim_of_a_running_pod_is_saved() {
    let decision = decided(&everything(), vec![db()], &facts(vec![data()]));
    let [target] = &decision.targets[..] else { panic!("{decision:?}") };
    assert_eq!((target.chain.as_str(), target.persistent_volume.as_str()), ("claim.shop.data", "pv-data"));
    assert_eq!((target.pods[0].uid.as_str(), target.place.form()), ("uid-db", Form::Folder));
    let device = decided(&everything(), vec![pod("shop", "db", "n1").device("data", "data")], &facts(vec![data()]));
    assert_eq!(device.targets[0].place.form(), Form::Device);
}

#[test]
fn what_no_backup_needs_is_only_counted_unless_somebody_asks_for_it() {
    let never = || {
        pod("shop", "db", "n1")
            .volume("h", Origin::HostPath)
            .volume("s", Origin::Secret)
            .volume("t", Origin::Secret)
            .volume("c", Origin::ConfigMap)
            .volume("p", Origin::Projected)
            .volume("d", Origin::DownwardApi)
    };
    let decision = decided(&everything(), vec![never().annotated("backup.penstock/volumes", "*")], &Facts::default());
    assert_eq!(summary(&decision), (vec![], vec![]));
    assert_eq!((decision.never.len(), decision.never[&Reason::Secret]), (5, 2));
    check(
        &everything(),
        vec![never().annotated("backup.penstock/volumes", "s")],
        &Facts::default(),
        &[],
        &["db:s secret!"],
    );
}

#[test]
fn volumes_without_a_claim_are_saved_by_policy() {
    let cache = || {
        pod("shop", "web", "n1")
            .empty_dir("cache")
            .volume("shm", Origin::EmptyDir { in_memory: true })
            .volume("csi", Origin::InlineCsi)
            .volume("new", Origin::Unknown("hologram".into()))
    };
    let none = Facts::default();
    let [never, always] =
        [WithoutClaim::Never, WithoutClaim::Always].map(|it| policy(|claims| claims.without_claim = it));
    let left = ["web:cache without-claim", "web:csi without-claim", "web:new without-claim", "web:shm without-claim"];
    check(&everything(), vec![cache()], &none, &[], &left);
    let named = || cache().annotated("backup.velero.io/backup-volumes", "cache,shm");
    let both = ["pod.shop.web.cache", "pod.shop.web.shm"];
    check(&everything(), vec![named()], &none, &both, &["web:csi without-claim", "web:new without-claim"]);
    check(&never, vec![named()], &none, &[], &left);
    let most = ["pod.shop.web.cache", "pod.shop.web.csi"];
    // What is in memory is counted; what is not understood, and would be saved, is a loss.
    check(&always, vec![cache()], &none, &most, &["web:new unknown-kind!"]);
}

#[test]
fn annotations_choose_in_both_ways_of_selection() {
    let opt_in = policy(|claims| claims.select = Select::OptIn);
    let facts = facts(vec![data()]);
    let annotated = |key: &str, value: &str| vec![db().annotated(key, value)];
    let (ours, ours_not) = ("backup.penstock/volumes", "backup.penstock/exclude");
    check(&opt_in, vec![db()], &facts, &[], &["db:data not-named"]);
    check(&opt_in, annotated(ours, "data"), &facts, &["claim.shop.data"], &[]);
    check(&opt_in, annotated("backup.velero.io/backup-volumes", "data"), &facts, &["claim.shop.data"], &[]);
    check(&opt_in, vec![db().annotated(ours, "data").annotated(ours_not, "data")], &facts, &[], &["db:data excluded!"]);
    check(&everything(), annotated(ours_not, "*"), &facts, &[], &["db:data excluded"]);
    check(
        &everything(),
        annotated("backup.velero.io/backup-volumes-excludes", "data"),
        &facts,
        &[],
        &["db:data excluded"],
    );
    check(&everything(), annotated(ours, "other"), &facts, &["claim.shop.data"], &[]);
    let notes = decided(&everything(), annotated(ours, "other"), &facts).notes;
    assert_eq!(notes, ["shop/db: backup.penstock/volumes names \"other\", which is no volume of the pod"]);
    let (mut claim, volume) = data();
    claim.metadata.annotations.insert(ours_not.into(), "true".into());
    check(&everything(), vec![db()], &super::tests::facts(vec![(claim, volume)]), &[], &["db:data excluded"]);
}

#[test]
fn a_pod_that_does_not_run_or_mount_is_a_reason_until_another_one_does() {
    let facts = facts(vec![data()]);
    for phase in ["Pending", "Succeeded", "Failed", "Unknown", ""] {
        check(&everything(), vec![db().phase(phase)], &facts, &[], &["db:data pod-not-running"]);
    }
    check(&everything(), vec![db().ending()], &facts, &[], &["db:data pod-ending"]);
    let unmounted = pod("shop", "db", "n1").unmounted("data", Origin::Claim("data".into()));
    check(&everything(), vec![unmounted], &facts, &[], &["db:data not-mounted"]);
    let mirror = db().annotated("kubernetes.io/config.mirror", "x").annotated("backup.penstock/volumes", "data");
    check(&everything(), vec![mirror], &facts, &[], &["db:data mirror-pod!"]);
    // Of the finished pod beside the running one nothing is said.
    let job = || pod("shop", "a-job", "n1").claim("x", "data").phase("Succeeded");
    let decision = decided(&everything(), vec![job(), db(), pod("shop", "web", "n1").claim("y", "data")], &facts);
    assert_eq!(summary(&decision), (owned(&["claim.shop.data"]), vec![]));
    let pods: Vec<&str> = decision.targets[0].pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(pods, ["db", "web"]);
}

#[test]
fn what_is_wrong_with_a_claim_is_a_loss_by_name() {
    let broken = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts(vec![data()]);
        change(&mut facts);
        summary(&decided(&everything(), vec![db()], &facts)).1
    };
    let claim = |change: fn(&mut Claim)| {
        move |facts: &mut Facts| {
            let Some(Answer::Found(claim)) = facts.claims.get_mut(&name("shop/data")) else { panic!() };
            change(claim);
        }
    };
    let volume = |change: fn(&mut Volume)| {
        move |facts: &mut Facts| {
            let Some(Answer::Found(volume)) = facts.volumes.get_mut("pv-data") else { panic!() };
            change(volume);
        }
    };
    let failed = || "403".to_owned();
    assert_eq!(broken(&|facts| facts.claims.clear()), ["db:data claim-missing!"]);
    assert_eq!(
        broken(&|facts| facts.claims.values_mut().for_each(|it| *it = Answer::Failed(failed()))),
        ["db:data claim-unread!"]
    );
    assert_eq!(broken(&claim(|claim| "Lost".clone_into(&mut claim.status.phase))), ["db:data claim-not-bound!"]);
    assert_eq!(broken(&claim(|claim| claim.spec.volume_name.clear())), ["db:data claim-not-bound!"]);
    assert_eq!(broken(&|facts| facts.volumes.clear()), ["db:data volume-missing!"]);
    assert_eq!(
        broken(&|facts| facts.volumes.values_mut().for_each(|it| *it = Answer::Failed(failed()))),
        ["db:data volume-unread!"]
    );
    assert_eq!(
        broken(&volume(|volume| "other".clone_into(&mut volume.spec.claim.uid))),
        ["db:data volume-of-another!"]
    );
    assert_eq!(broken(&volume(|volume| volume.spec.claim.namespace.clear())), ["db:data volume-of-another!"]);
    let host = |volume: &mut Volume| volume.spec.backing = Backing::HostPath("/srv/x".into());
    assert_eq!(broken(&volume(host)), ["db:data host-path-volume!"]);
    assert_eq!(broken(&volume(|volume| volume.spec.backing = Backing::Flex("../x".into()))), ["db:data bad-name!"]);
    let hostile = pod("shop", "db", "n1").claim("data", "../../etc");
    check(&everything(), vec![hostile], &Facts::default(), &[], &["db:data bad-name!"]);
    let allowed = policy(|claims| claims.host_paths = vec!["/srv".into()]);
    let mut facts = facts(vec![data()]);
    volume(host)(&mut facts);
    check(&allowed, vec![db()], &facts, &["claim.shop.data"], &[]);
}

#[test]
fn a_claim_that_a_controller_made_for_a_pod_must_be_the_pods() {
    let (mut claim, volume) = bound("shop/db-tmp", "ReadWriteOnce", Backing::Csi);
    let db = || pod("shop", "db", "n1").volume("tmp", Origin::Ephemeral).annotated("backup.penstock/volumes", "tmp");
    check(&everything(), vec![db()], &facts(vec![(claim.clone(), volume.clone())]), &[], &["db:tmp claim-not-bound!"]);
    claim.metadata.owner_references.push(super::super::objects::Owner { uid: "uid-db".into(), controller: Some(true) });
    check(&everything(), vec![db()], &facts(vec![(claim, volume)]), &["claim.shop.db-tmp"], &[]);
}

#[test]
fn other_namespaces_and_nodes_are_not_looked_at() {
    let selected = policy(|claims| {
        claims.namespaces = vec!["shop".into(), "team-*".into()];
        claims.exclude_namespaces = vec!["team-x".into()];
    });
    let of = |namespace: &str, node: &str| pod(namespace, "p", node).claim("data", "data");
    let pods: Vec<Pod> =
        [of("shop", "n1"), of("team-a", "n1"), of("team-x", "n1"), of("kube-system", "n1"), of("shop", "n2")]
            .map(|pod| pod.0)
            .into();
    let wanted: Vec<String> = claims_wanted(&selected, "n1", &pods).iter().map(ToString::to_string).collect();
    assert_eq!(wanted, ["shop/data", "team-a/data"]);
    assert_eq!(decide(&selected, "n1", &pods, &Facts::default()).unsaved.len(), 2);
}

/// A shared claim, and its pods on `nodes`.
fn shared(nodes: &[&str], access: &str, backing: Backing) -> (Vec<Pod>, Facts) {
    let pods: Vec<Pod> =
        nodes.iter().enumerate().map(|(i, node)| pod("shop", &format!("p{i}"), node).claim("data", "data").0).collect();
    let mut facts = facts(vec![bound("shop/data", access, backing)]);
    for namespace in namespaces_wanted(&facts) {
        facts.neighbours.insert(namespace, Answer::Found(pods.clone()));
    }
    (pods, facts)
}

#[test]
fn a_shared_claim_is_saved_by_one_node_among_those_that_may() {
    let nfs = || Backing::InTree(*super::super::plugins::in_tree("nfs").unwrap());
    for (access, backing, savers) in [
        ("ReadWriteMany", Backing::Csi, 1),
        ("ReadOnlyMany", Backing::Csi, 1),
        ("ReadWriteOnce", nfs(), 1),
        ("ReadWriteOnce", Backing::Csi, 3),
    ] {
        let (pods, facts) = shared(&["n1", "n2", "n3"], access, backing);
        let saves = |node: &&&str| !decide(&everything(), node, &pods, &facts).targets.is_empty();
        assert_eq!(["n1", "n2", "n3"].iter().filter(saves).count(), savers, "{access}");
    }
    let (pods, mut facts) = shared(&["n1", "n2", "n3"], "ReadWriteMany", Backing::Csi);
    let loser =
        ["n1", "n2", "n3"].into_iter().find(|node| decide(&everything(), node, &pods, &facts).targets.is_empty());
    let decision = decide(&everything(), loser.unwrap(), &pods, &facts);
    assert!(decision.unsaved[0].reason == Reason::OtherNode && !decision.unsaved[0].is_loss());
    // Who cannot see the others saves it.
    facts.neighbours.insert("shop".into(), Answer::Failed("403".into()));
    assert_eq!(decide(&everything(), loser.unwrap(), &pods, &facts).targets.len(), 1);
}

proptest! {
    /// Pods of any state on any node: as long as one could save the claim, exactly one node does.
    #[test]
    fn of_nodes_that_agree_exactly_one_saves_a_shared_claim(
        states in prop::collection::vec((0..5_usize, 0..6_usize), 0..12),
    ) {
        let nodes = ["n0", "n1", "n2", "n3", "n4"];
        let (_, mut facts) = shared(&[], "ReadWriteMany", Backing::Csi);
        let one = |(i, (node, state)): (usize, &(usize, usize))| {
            let pod = pod("shop", &format!("p{i}"), nodes[*node]);
            match state {
                0 => pod.claim("data", "data").phase("Pending"),
                1 => pod.claim("data", "data").ending(),
                2 => pod.claim("data", "data").annotated("backup.penstock/exclude", "data"),
                3 => pod.unmounted("data", Origin::Claim("data".into())),
                _ => pod.claim("data", "data"),
            }.0
        };
        let pods: Vec<Pod> = states.iter().enumerate().map(one).collect();
        facts.neighbours.insert("shop".into(), Answer::Found(pods.clone()));
        let savers: usize = nodes.iter().map(|node| decide(&everything(), node, &pods, &facts).targets.len()).sum();
        let possible = states.iter().any(|(_, state)| *state > 3);
        prop_assert_eq!(savers, usize::from(possible));
    }

    /// Every volume is saved, counted, or named with a reason; a claim is in one place only.
    #[test]
    fn no_volume_is_forgotten(
        kinds in prop::collection::vec((0..7_usize, 0..3_usize, any::<bool>()), 1..10),
    ) {
        let mut pods: Vec<Builder> = (0..3).map(|i| pod("shop", &format!("p{i}"), "n1")).collect();
        let mut claims = BTreeSet::new();
        for (at, (kind, on, mounted)) in kinds.iter().enumerate() {
            let origin = match kind {
                0 => Origin::Secret,
                1 => Origin::EmptyDir { in_memory: false },
                2 => Origin::Unknown("x".into()),
                3 => Origin::Claim("../x".into()),
                4 => Origin::Claim("data".into()),
                _ => Origin::Claim("gone".into()),
            };
            if let Origin::Claim(claim) = &origin { claims.insert(claim.clone()); }
            let pod = pods.remove(*on);
            let volume = format!("v{at}");
            pods.insert(*on, if *mounted { pod.volume(&volume, origin) } else { pod.unmounted(&volume, origin) });
        }
        let decision = decided(&everything(), pods, &facts(vec![data()]));
        for claim in claims {
            let saved = decision.targets.iter().any(|target| target.claim.as_ref().is_some_and(|name| name.name() == claim));
            let named = decision.unsaved.iter().any(|unsaved| unsaved.claim.as_ref() == Some(&claim));
            prop_assert!(saved != named, "{}", claim);
        }
        let others = kinds.iter().filter(|(kind, _, _)| *kind < 3).count() as u64;
        let without = decision.unsaved.iter().filter(|unsaved| unsaved.claim.is_none()).count() as u64;
        prop_assert_eq!(others, without + decision.never.values().sum::<u64>());
    }
}
