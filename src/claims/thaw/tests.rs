use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn pod(number: usize) -> PodRef {
    PodRef { namespace: "shop".into(), name: format!("p{number}"), uid: format!("u{number}") }
}

fn hook(word: &str, on_error: OnError) -> Hook {
    Hook { container: "c".into(), command: vec![word.into()], timeout: Duration::from_secs(1), on_error }
}

fn hooked(number: usize, pre: bool, post: bool, on_error: OnError) -> (PodRef, PodHooks) {
    let hooks = PodHooks { pre: pre.then(|| hook("freeze", on_error)), post: post.then(|| hook("thaw", on_error)) };
    (pod(number), hooks)
}

fn thaw(pods: &[(PodRef, PodHooks)], run: &str) -> Thaw {
    Thaw::around(pods, jiff::Timestamp::UNIX_EPOCH, run)
}

/// The actions of a whole life in words; `fails` says which fail.
fn life(mut thaw: Thaw, fails: impl Fn(&str) -> Outcome) -> (Vec<String>, Thaw) {
    let mut words = Vec::new();
    loop {
        let word = match thaw.action() {
            Action::Owe(debts) => format!("owe {}", debts.len()),
            Action::Pre(pod, _) => format!("pre {}", pod.name),
            Action::Read => "read".to_owned(),
            Action::Post(debt) => format!("post {}", debt.pod.name),
            Action::Settle(results) => {
                let open = results.iter().filter(|(_, paid)| matches!(paid, Paid::No(_) | Paid::Again(_))).count();
                format!("settle {open} open")
            }
            Action::End => return (words, thaw),
        };
        thaw.done(fails(&word));
        words.push(word);
    }
}

fn failing(which: &'static str) -> impl Fn(&str) -> Outcome {
    move |word| if word == which { Outcome::Failed("no".into()) } else { Outcome::Done }
}

#[test]
fn what_is_owed_is_written_first_and_paid_however_it_goes() {
    let pods = [
        hooked(1, true, true, OnError::Fail),
        hooked(2, true, true, OnError::Fail),
        hooked(3, false, true, OnError::Fail),
    ];
    let with = |which| life(thaw(&pods, "r"), failing(which));
    let all = ["owe 3", "pre p1", "pre p2", "read", "post p1", "post p2", "post p3", "settle 0 open"];
    let (words, good) = with("nothing");
    assert!(words == all && good.troubles().is_empty());
    assert_eq!(with("pre p2").0, ["owe 3", "pre p1", "pre p2", "post p1", "post p2", "settle 0 open"]);
    assert_eq!(with("pre p1").0, ["owe 3", "pre p1", "post p1", "settle 0 open"]);
    assert_eq!(with("read").0, all);
    assert_eq!(with("post p2").0.last().unwrap(), "settle 1 open");
    let (words, unwritten) = with("owe 3");
    assert_eq!(words, ["owe 3"]);
    assert!(unwritten.troubles()[0].is_failure && unwritten.troubles()[0].message.contains("nothing was run: no"));
    let (_, failed) = with("pre p2");
    assert_eq!(failed.troubles(), [Trouble { message: "the pre hook of shop/p2 failed: no".into(), is_failure: true }]);
    let (_, stays) = with("post p2");
    assert!(!stays.troubles()[0].is_failure && stays.troubles()[0].message.contains("is run again at the next start"));
}

#[test]
fn a_hook_that_may_fail_and_pods_with_half_of_them() {
    let pods = [hooked(1, true, true, OnError::Continue), hooked(2, true, false, OnError::Fail)];
    let (words, thaw_) = life(thaw(&pods, "r"), failing("pre p1"));
    assert_eq!(words, ["owe 1", "pre p1", "pre p2", "read", "post p1", "settle 0 open"]);
    assert!(!thaw_.troubles()[0].is_failure);
    let none: [(PodRef, PodHooks); 0] = [];
    assert_eq!(life(thaw(&none, "r"), failing("")).0, ["read"]);
    assert_eq!(life(thaw(&[hooked(1, true, false, OnError::Fail)], "r"), failing("")).0, ["pre p1", "read"]);
    let mut stopped = thaw(&pods, "r");
    stopped.done(Outcome::Done);
    assert!(matches!(stopped.action(), Action::Pre(..)));
    stopped.stop();
    assert!(matches!(stopped.action(), Action::Pre(..)), "what is being done is done to its end");
    stopped.done(Outcome::Done);
    assert_eq!(life(stopped, failing("")).0, ["post p1", "settle 0 open"]);
    let mut before = thaw(&pods, "r");
    before.stop();
    assert!(life(before, failing("")).0.is_empty());
    let gone = life(thaw(&pods, "r"), |word| if word == "post p1" { Outcome::Gone } else { Outcome::Done }).1;
    assert!(gone.troubles()[0].message.contains("the pod is gone"));
}

#[test]
fn a_pre_that_may_still_run_leaves_its_post_owed_until_the_next_start() {
    for on_error in [OnError::Fail, OnError::Continue] {
        let pods = [hooked(1, true, true, on_error)];
        let unsure = |word: &str| if word == "pre p1" { Outcome::Unsure("late".into()) } else { Outcome::Done };
        let (words, thaw_) = life(thaw(&pods, "r"), unsure);
        assert_eq!(words[words.len() - 2..], ["post p1", "settle 1 open"]);
        assert_eq!(thaw_.troubles().len(), 1, "post itself has not failed: {:?}", thaw_.troubles());
        assert_eq!(thaw_.troubles()[0].is_failure, on_error == OnError::Fail);
    }
    let Action::Owe(debts) = thaw(&[hooked(1, true, true, OnError::Fail)], "r").action() else { panic!() };
    let ledger = Ledger::default().with(&debts).settled(&[(debts[0].clone(), Paid::Again("late".into()))]);
    assert_eq!((ledger.owed()[0].tried, ledger.owed()[0].last.as_str()), (0, "late"));
    assert_eq!(life(Thaw::of(&ledger), failing("")).0, ["post p1", "settle 0 open"]);
}

#[test]
fn a_pod_that_is_gone_before_its_pre_fails_nothing_and_is_owed_nothing() {
    let pods = [hooked(1, true, true, OnError::Fail), hooked(2, true, true, OnError::Fail)];
    let gone = |word: &str| if word == "pre p1" { Outcome::Gone } else { Outcome::Done };
    let (words, thaw_) = life(thaw(&pods, "r"), gone);
    assert_eq!(words, ["owe 2", "pre p1", "pre p2", "read", "post p2", "settle 0 open"]);
    assert!(thaw_.troubles().is_empty(), "{:?}", thaw_.troubles());
}

#[test]
fn the_next_start_pays_what_is_in_the_record() {
    let pods = [hooked(1, true, true, OnError::Fail), hooked(2, true, true, OnError::Fail)];
    let Action::Owe(debts) = thaw(&pods, "r").action() else { panic!() };
    let ledger = Ledger::default().with(&debts);
    assert_eq!(life(Thaw::of(&ledger), failing("")).0, ["post p1", "post p2", "settle 0 open"]);
    assert!(life(Thaw::of(&Ledger::default()), failing("")).0.is_empty());
}

/// Pods, a disk, and processes that die.
#[derive(Default)]
struct World {
    ledger: Ledger,
    frozen: BTreeSet<String>,
    gone: BTreeSet<String>,
    /// Pods whose `pre` still runs.
    running: BTreeSet<String>,
}

/// How one action goes.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Well,
    Fails,
    /// It has its effect, and fails all the same.
    FailsLate,
    DiesBefore,
    DiesAfter,
    PodGoes,
    /// It has its effect some time after the run has given up.
    Hangs,
    /// The run is stopped meanwhile.
    Stops,
}

impl World {
    /// Does the action; `None` if the process died.
    fn act(&mut self, action: &Action, fate: Fate) -> Option<Outcome> {
        if matches!(fate, Fate::DiesBefore) {
            return None;
        }
        let has_effect = !matches!(fate, Fate::Fails | Fate::Hangs);
        match action {
            Action::Owe(debts) if has_effect => self.ledger = self.ledger.with(debts),
            Action::Settle(results) if has_effect => self.ledger = self.ledger.settled(results),
            Action::Pre(pod, _) if matches!(fate, Fate::PodGoes) || self.gone.contains(&pod.uid) => {
                self.go(&pod.uid);
                return Some(Outcome::Gone);
            }
            Action::Pre(pod, _) if matches!(fate, Fate::Hangs) => drop(self.running.insert(pod.uid.clone())),
            Action::Pre(pod, _) if has_effect => drop(self.frozen.insert(pod.uid.clone())),
            Action::Post(debt) => {
                assert!(self.ledger.owed().iter().any(|owed| owed.is_same(debt)), "nothing is run that is not owed");
                if matches!(fate, Fate::PodGoes) || self.gone.contains(&debt.pod.uid) {
                    self.go(&debt.pod.uid);
                    return Some(Outcome::Gone);
                }
                if has_effect {
                    self.frozen.remove(&debt.pod.uid);
                }
            }
            _ => {}
        }
        match fate {
            Fate::DiesAfter => None,
            Fate::Fails | Fate::FailsLate => Some(Outcome::Failed("no".into())),
            Fate::Hangs => Some(Outcome::Unsure("no".into())),
            Fate::Well | Fate::Stops | Fate::PodGoes | Fate::DiesBefore => Some(Outcome::Done),
        }
    }

    fn go(&mut self, uid: &str) {
        self.gone.insert(uid.to_owned());
        self.frozen.remove(uid);
        self.running.remove(uid);
    }

    /// What hung in the pods takes effect.
    fn wake(&mut self) {
        self.frozen.append(&mut self.running);
        self.check();
    }

    fn check(&self) {
        for uid in &self.frozen {
            assert!(self.ledger.owed().iter().any(|debt| debt.pod.uid == *uid), "{uid} is frozen and nobody knows");
        }
    }

    /// Runs machines in turns, as `turns` say, until all have ended or the process dies.
    fn live(&mut self, mut machines: Vec<Thaw>, turns: &mut impl Iterator<Item = (usize, Fate)>) {
        let mut read_after_failure = false;
        while !machines.is_empty() {
            let (which, fate) = turns.next().unwrap_or((0, Fate::Well));
            let at = which % machines.len();
            let action = machines[at].action();
            read_after_failure |=
                action == Action::Read && machines[at].troubles().iter().any(|trouble| trouble.is_failure);
            if action == Action::End {
                machines.remove(at);
                continue;
            }
            let Some(outcome) = self.act(&action, fate) else { return };
            if matches!(fate, Fate::Stops) {
                machines[at].stop();
            }
            machines[at].done(outcome);
            self.check();
        }
        assert!(!read_after_failure, "a pod that was to be frozen was read unfrozen");
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Well),
        2 => Just(Fate::Fails),
        2 => Just(Fate::FailsLate),
        2 => Just(Fate::Hangs),
        1 => Just(Fate::DiesBefore),
        1 => Just(Fate::DiesAfter),
        1 => Just(Fate::PodGoes),
        1 => Just(Fate::Stops),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Several runs of two groups at a time, each killed anywhere or not, each start paying first.
    #[test]
    fn whatever_dies_no_pod_is_frozen_without_a_record_and_in_the_end_none_is_frozen(
        shapes in prop::collection::vec((any::<bool>(), any::<bool>()), 4),
        turns in prop::collection::vec((0..8_usize, fate()), 0..120),
        runs in 1..5_usize,
    ) {
        let mut world = World::default();
        let mut turns = turns.into_iter();
        for run in 0..runs {
            let start = Thaw::of(&world.ledger);
            world.live(vec![start], &mut turns);
            world.check();
            // Who freezes must thaw: a pre without a post is the pod's own affair.
            let on_error = |tolerant: bool| if tolerant { OnError::Continue } else { OnError::Fail };
            let one = |at: usize| hooked(at, shapes[at].0, true, on_error(shapes[at].1));
            let name = format!("run-{run}");
            let groups = vec![thaw(&[one(0), one(1)], &name), thaw(&[one(2), one(3)], &name)];
            world.live(groups, &mut turns);
            world.check();
            world.wake();
        }
        let last = Thaw::of(&world.ledger);
        world.live(vec![last], &mut std::iter::empty());
        prop_assert!(world.frozen.is_empty() && world.ledger.is_empty());
    }
}
