use std::sync::Mutex;

use super::super::decide::decide;
use super::super::testing::name;
use super::*;
use crate::config::Claims;
use crate::format::round::Reason;

/// A cluster with `claims` claims in each of `namespaces`, all mounted by one pod of each on n1.
#[derive(Default)]
struct Fake {
    pods: Vec<String>,
    claims: Vec<(ClaimName, String)>,
    volumes: Vec<(String, String)>,
    /// Requests that fail.
    denied: Vec<&'static str>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn new(namespaces: usize, claims: usize, access: &str) -> Self {
        let mut fake = Self::default();
        for n in 0..namespaces {
            let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
            for c in 0..claims {
                volumes.push(format!(r#"{{"name":"v{c}","persistentVolumeClaim":{{"claimName":"c{c}"}}}}"#));
                mounts.push(format!(r#"{{"name":"v{c}"}}"#));
                let claim = format!(
                    r#"{{"metadata":{{"namespace":"ns{n}","name":"c{c}","uid":"u{n}-{c}"}},
                        "spec":{{"volumeName":"pv-{n}-{c}","accessModes":["{access}"]}},"status":{{"phase":"Bound"}}}}"#
                );
                fake.claims.push((name(&format!("ns{n}/c{c}")), claim));
                let volume = format!(
                    r#"{{"metadata":{{"name":"pv-{n}-{c}"}},"spec":{{"csi":{{}},"accessModes":["{access}"],
                        "claimRef":{{"namespace":"ns{n}","name":"c{c}","uid":"u{n}-{c}"}}}}}}"#
                );
                fake.volumes.push((format!("pv-{n}-{c}"), volume));
            }
            fake.pods.push(format!(
                r#"{{"metadata":{{"namespace":"ns{n}","name":"p","uid":"uid-{n}"}},"status":{{"phase":"Running"}},
                    "spec":{{"nodeName":"n1","volumes":[{}],"containers":[{{"name":"c","volumeMounts":[{}]}}]}}}}"#,
                volumes.join(","),
                mounts.join(",")
            ));
        }
        fake
    }

    fn note(&self, what: String) -> Result<(), String> {
        let denied = self.denied.iter().any(|denied| what.starts_with(denied));
        self.asked.lock().unwrap().push(what);
        if denied { Err("403".to_owned()) } else { Ok(()) }
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl Api for Fake {
    type Failure = String;

    async fn list(&self, wanted: Wanted<'_>, each: &mut Each<'_>) -> Result<(), String> {
        self.note(format!("list {}", in_words(wanted)))?;
        let of = |namespace: &str| format!(r#""namespace":"{namespace}","#);
        match wanted {
            Wanted::PodsOn(_) => {
                for pod in &self.pods {
                    each(pod.as_bytes());
                }
            }
            Wanted::Pods(namespace) => {
                for pod in self.pods.iter().filter(|pod| pod.contains(&of(namespace))) {
                    each(pod.as_bytes());
                }
            }
            Wanted::Pod { .. } => unreachable!("only commands ask for one pod"),
            Wanted::Claims(namespace) => {
                for (_, claim) in self.claims.iter().filter(|(name, _)| name.namespace() == namespace) {
                    each(claim.as_bytes());
                }
            }
            Wanted::Volumes => {
                for (_, volume) in &self.volumes {
                    each(volume.as_bytes());
                }
            }
        }
        Ok(())
    }

    async fn get(&self, one: One<'_>) -> Result<Option<Vec<u8>>, String> {
        let found = match one {
            One::Claim(name) => {
                self.note(format!("get {name}"))?;
                self.claims.iter().find(|(own, _)| own == name).map(|(_, json)| json)
            }
            One::Volume(name) => {
                self.note(format!("get {name}"))?;
                self.volumes.iter().find(|(own, _)| own == name).map(|(_, json)| json)
            }
        };
        Ok(found.map(|json| json.clone().into_bytes()))
    }
}

fn policy() -> Policy {
    Policy::of(&Claims::default()).unwrap()
}

async fn saved(fake: &Fake) -> (usize, Vec<Reason>) {
    let known = read(fake, &policy(), "n1").await.unwrap();
    let decision = decide(&policy(), "n1", &known.pods, &known.facts);
    (decision.targets.len(), decision.unsaved.iter().map(|unsaved| unsaved.reason).collect())
}

#[tokio::test]
async fn many_claims_cost_few_requests() {
    for (namespaces, claims, access, most) in [
        (1, 500, "ReadWriteOnce", 3),
        (10, 50, "ReadWriteOnce", 12),
        (10, 50, "ReadWriteMany", 22),
        (1, 3, "ReadWriteOnce", 7),
        (100, 5, "ReadWriteOnce", 502),
    ] {
        let fake = Fake::new(namespaces, claims, access);
        assert_eq!(saved(&fake).await, (namespaces * claims, vec![]));
        assert_eq!(fake.requests(), most, "{namespaces} namespaces with {claims} {access}");
    }
}

#[tokio::test]
async fn what_the_server_refuses_fails_its_claims_and_no_others() {
    for (claims, denied, reason, lost) in [
        (3, "get ns0/c1", Reason::ClaimUnread, 1),
        (3, "get pv-0-1", Reason::VolumeUnread, 1),
        (20, "list the claims of ns0", Reason::ClaimUnread, 20),
        (200, "list the persistent volumes", Reason::VolumeUnread, 200),
    ] {
        let fake = Fake { denied: vec![denied], ..Fake::new(1, claims, "ReadWriteOnce") };
        assert_eq!(saved(&fake).await, (claims - lost, vec![reason; lost]), "{denied}");
    }
    let fake = Fake { denied: vec!["list the pods on n1"], ..Fake::new(1, 1, "ReadWriteOnce") };
    assert_eq!(read(&fake, &policy(), "n1").await.unwrap_err(), "403");
    // Who else has a shared claim is not known: it is saved.
    let fake = Fake { denied: vec!["list the pods of ns0"], ..Fake::new(1, 2, "ReadWriteMany") };
    assert_eq!(saved(&fake).await, (2, vec![]));
}

#[tokio::test]
async fn an_object_that_is_not_there_or_no_object_is_said() {
    let mut fake = Fake::new(1, 3, "ReadWriteOnce");
    fake.claims.remove(0);
    fake.volumes[1].1 = r#"{"spec":{"accessModes":"secret"}}"#.to_owned();
    fake.pods.push("7".to_owned());
    let known = read(&fake, &policy(), "n1").await.unwrap();
    let decision = decide(&policy(), "n1", &known.pods, &known.facts);
    let reasons: Vec<Reason> = decision.unsaved.iter().map(|unsaved| unsaved.reason).collect();
    assert_eq!((decision.targets.len(), reasons), (1, vec![Reason::ClaimMissing, Reason::VolumeUnread]));
    assert!(decision.unsaved[1].detail.starts_with("it is not as Kubernetes writes it"));
    assert!(!decision.unsaved[1].detail.contains("secret"));
    assert!(known.notes[0].starts_with("1 of the pods on n1 are left out"), "{:?}", known.notes);
    let mut fake = Fake::new(1, 20, "ReadWriteOnce");
    fake.claims.remove(7);
    assert_eq!(saved(&fake).await, (19, vec![Reason::ClaimMissing]), "from a list too");
}

#[tokio::test]
async fn claims_of_the_round_before_are_looked_for() {
    let fake = Fake { denied: vec!["get ns1/"], ..Fake::new(2, 1, "ReadWriteOnce") };
    let wanted = ["ns0/c0", "ns0/c9", "ns1/c0"].map(name).into();
    let found = look_for(&fake, &policy(), &wanted).await;
    let expected = [Whereabouts::Mounted, Whereabouts::Gone, Whereabouts::Unknown("403".into())];
    assert_eq!(found.into_values().collect::<Vec<_>>(), expected);
    let nobody = Fake { pods: Vec::new(), ..Fake::new(1, 1, "ReadWriteOnce") };
    let found = look_for(&nobody, &policy(), &[name("ns0/c0")].into()).await;
    assert_eq!(found[&name("ns0/c0")], Whereabouts::Nowhere);
}
