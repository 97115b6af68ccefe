//! Whole runs with hooks, on the store in memory.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use super::super::{Committed, Error, Hooks, Progress, Spec, run};
use crate::config::{Source, SourceKind};
use crate::error::{Class, Classify as _};
use crate::format::manifest::Outcome;
use crate::format::testing::name;
use crate::location::{Location, memory};
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

struct Site {
    store: Arc<MemoryStore>,
    location: Location,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let mut location = memory::open(store.clone(), "", 64 << 20);
        (location.cluster, location.node) = (name("test"), name("node-1"));
        Self { store, location, folder: tempfile::tempdir().unwrap() }
    }

    /// Appends a line with the run's environment to a file.
    fn note(&self, what: &str) -> Vec<String> {
        let file = self.folder.path().join("notes");
        let variables = "$PENSTOCK_JOB $PENSTOCK_NODE $PENSTOCK_CLUSTER $PENSTOCK_OUTCOME $PENSTOCK_CLASS";
        shell(&format!("echo {what} {variables} ${{#PENSTOCK_BACKUP}} >> {}", file.display()))
    }

    fn notes(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("notes")).unwrap_or_default()
    }

    async fn run(&self, source: &str, before: Vec<Vec<String>>, after: Vec<Vec<String>>) -> Result<Committed, Error> {
        self.run_for(source, before, after, Duration::from_secs(20), None, &CancellationToken::new()).await
    }

    async fn run_for(
        &self,
        source: &str,
        before: Vec<Vec<String>>,
        after: Vec<Vec<String>>,
        time_limit: Duration,
        timeout: Option<Duration>,
        cancel: &CancellationToken,
    ) -> Result<Committed, Error> {
        let kind = SourceKind::Command { argv: shell(source), allow_empty: true };
        let hooks = Hooks { before, after, time_limit };
        let spec = Spec { timeout, hooks, ..Spec::new(name("etcd"), vec![Source { name: name("dump"), kind }]) };
        run(&self.location, &spec, &Arc::new(Progress::default()), cancel).await
    }

    async fn objects(&self) -> usize {
        self.store.list("", None).await.unwrap().objects.len()
    }
}

#[tokio::test]
async fn hooks_see_the_run_and_its_outcome() {
    let site = Site::new();
    let committed = site.run("echo x", vec![site.note("before")], vec![site.note("after")]).await.unwrap();
    assert_eq!(committed.verdict(), (Outcome::Success, None));
    assert!(committed.is_good());
    assert_eq!(site.notes(), "before etcd node-1 test 23\nafter etcd node-1 test success none 23\n");
}

#[tokio::test]
async fn a_failing_before_fails_the_run_and_after_still_runs() {
    let site = Site::new();
    let before = vec![shell("echo frozen already >&2; exit 3"), site.note("never")];
    let error = site.run("echo x", before, vec![site.note("after")]).await.unwrap_err();
    assert_eq!(error.class(), Class::Source);
    let message = error.to_string();
    assert!(message.contains("the `before` command") && message.contains("exit status: 3"), "{message}");
    assert!(message.ends_with(": frozen already"), "{message}");
    assert_eq!(site.notes(), "after etcd node-1 test failure source 23\n");
    assert_eq!(site.objects().await, 0);
}

#[tokio::test]
async fn a_failing_after_leaves_the_backup_and_the_other_hooks_run() {
    let site = Site::new();
    let after = vec![shell("exit 1"), vec!["/nonexistent".to_owned()], site.note("after")];
    let committed = site.run("echo x", Vec::new(), after).await.unwrap();
    assert_eq!(committed.manifest.outcome, Outcome::Success);
    assert_eq!(committed.verdict(), (Outcome::Partial, Some(Class::Source)));
    assert_eq!(site.notes().lines().count(), 1);
}

#[tokio::test]
async fn a_late_hook_is_ended_with_all_it_started() {
    let site = Site::new();
    let note = site.folder.path().join("started");
    let mut limit = Duration::from_millis(200);
    let started = loop {
        let late = shell(&format!("sleep 600 & echo $! > {}; sleep 600", note.display()));
        let result = site.run_for("echo x", vec![late], Vec::new(), limit, None, &CancellationToken::new()).await;
        let error = result.unwrap_err();
        assert_eq!(error.class(), Class::Timeout, "{error}");
        // On a busy machine the shell needs more time to start something.
        match std::fs::read_to_string(&note).ok().and_then(|text| text.trim().parse().ok()) {
            Some(started) => break started,
            None => limit *= 4,
        }
    };
    let gone = async {
        while is_running(started) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("what the hook started goes with it");
}

/// One that has ended and that nobody has waited for is not.
fn is_running(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(' ') && !rest.starts_with(" Z"))
}

#[tokio::test]
async fn the_jobs_timeout_and_a_cancellation_end_a_before_hook() {
    let site = Site::new();
    let (limit, timeout) = (Duration::from_secs(60), Some(Duration::from_millis(100)));
    let sleep = || vec![shell("sleep 60")];
    let never = CancellationToken::new();
    let error = site.run_for("echo x", sleep(), Vec::new(), limit, timeout, &never).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let after = vec![site.note("after")];
    let error = site.run_for("echo x", sleep(), after, limit, None, &cancelled).await.unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(site.notes(), "after etcd node-1 test cancelled cancelled 23\n");
}

#[tokio::test]
async fn what_a_hook_prints_is_bounded_and_what_it_leaves_behind_is_not_waited_for() {
    let site = Site::new();
    let note = site.folder.path().join("left");
    let left = format!("sleep 600 & echo $! > {}; exit 1", note.display());
    let chatty = shell(&format!("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; {left}"));
    let error = site.run("echo x", vec![chatty], Vec::new()).await.unwrap_err();
    let left = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    assert!(is_running(left), "it was waited for");
    let _ = kill_process(Pid::from_raw(left).unwrap(), Signal::KILL);
    let message = error.to_string();
    assert!(message.len() < super::TAIL + 500 && message.ends_with("the end"), "{} bytes", message.len());
}
