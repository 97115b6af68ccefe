//! The record of the commands that are still to be run in pods: what thaws what this process has frozen, or may have.
//!
//! One file for each job in `state_dir`, `hooks/JOB.json`, replaced as a whole and durably (`state::replace`) by its one writer.
//!
//! ```text
//! {"version":1,"owed":[{"pod":{"namespace":"shop","name":"db-0","uid":"…"},"container":"db","command":["fsfreeze","-u","/data"],
//!   "timeout_ms":30000,"since":"2026-11-29T02:00:00Z","run":"20261129T020000Z-4f9a2c","tried":1,"last":"exit code 1"}]}
//! ```
//!
//! A debt is written before the pod's `pre` command is run, and taken out after its `post` command has succeeded, or when the pod is gone. So
//! the command may be run twice, and never not at all. It is run once more if `pre` may have ended after it. A command that fails stays owed:
//! it is tried again at each start and before each run, as long as the pod is there, because nothing else thaws it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decide::PodRef;
use super::hooks::{Hook, OnError};

pub const VERSION: u32 = 1;

/// Far above 500 pods with long commands.
pub const MAX_SIZE: u64 = 64 << 20;

/// The most time that one command of an earlier run gets. A pod whose command hangs must not keep the others frozen, nor runs waiting.
const LATE: Duration = Duration::from_secs(30);

/// The longest failure that is kept: the output of a command is somebody's text.
const MAX_LAST: usize = 1024;

/// A command that must be run in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// By all its names: a pod that was made anew under the same name is not frozen.
    pub pod: PodRef,
    pub container: String,
    pub command: Vec<String>,
    pub timeout_ms: u64,
    /// When it was written.
    pub since: jiff::Timestamp,
    /// The run that wrote it.
    pub run: String,
    /// How often it has failed.
    #[serde(default)]
    pub tried: u32,
    /// The last failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last: String,
}

impl Debt {
    #[must_use]
    pub fn new(pod: &PodRef, post: &Hook, since: jiff::Timestamp, run: &str) -> Self {
        let Hook { container, command, timeout, on_error: _ } = post.clone();
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            pod: pod.clone(),
            container,
            command,
            timeout_ms,
            since,
            run: run.to_owned(),
            tried: 0,
            last: String::new(),
        }
    }

    #[must_use]
    pub fn hook(&self) -> Hook {
        Hook {
            container: self.container.clone(),
            command: self.command.clone(),
            timeout: Duration::from_millis(self.timeout_ms.max(1)),
            on_error: OnError::Fail,
        }
    }

    /// As another process than the one that wrote it runs it.
    #[must_use]
    pub fn late_hook(&self) -> Hook {
        let hook = self.hook();
        Hook { timeout: hook.timeout.min(LATE), ..hook }
    }

    /// The same command in the same container of the same pod.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.pod.uid, &self.container, &self.command) == (&other.pod.uid, &other.container, &other.command)
    }
}

/// All that one job owes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    version: u32,
    owed: Vec<Debt>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { version: VERSION, owed: Vec::new() }
    }
}

/// Why a file cannot be used. It is not overwritten: what is owed would be lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("was written by a newer version (format {0}; this one knows up to {VERSION})")]
    Newer(u32),
    #[error("is no record of owed commands")]
    Damaged,
}

/// How an attempt to pay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paid {
    Yes,
    /// The pod is not there any more, or another one has its name.
    Gone,
    /// The command before it was never begun. A debt of an earlier run stays.
    NotDue,
    /// It has succeeded, and must be run once more, for this reason.
    Again(String),
    No(String),
}

impl Ledger {
    /// # Errors
    /// When the bytes are no record of this version or an earlier one.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|_| Unreadable::Damaged)?;
        if head.version > VERSION {
            return Err(Unreadable::Newer(head.version));
        }
        serde_json::from_slice(bytes).map_err(|_| Unreadable::Damaged)
    }

    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("strings, numbers and times");
        bytes.push(b'\n');
        bytes
    }

    #[must_use]
    pub fn owed(&self) -> &[Debt] {
        &self.owed
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Adds debts. One that is there already stays as it is: it is older.
    #[must_use]
    pub fn with(&self, debts: &[Debt]) -> Self {
        let mut ledger = self.clone();
        for debt in debts {
            if !ledger.owed.iter().any(|known| known.is_same(debt)) {
                ledger.owed.push(debt.clone());
            }
        }
        ledger
    }

    /// Takes out what was paid, and notes what was not.
    #[must_use]
    pub fn settled(&self, results: &[(Debt, Paid)]) -> Self {
        let mut ledger = self.clone();
        for (debt, paid) in results {
            match paid {
                Paid::Yes | Paid::Gone => ledger.owed.retain(|known| !known.is_same(debt)),
                Paid::NotDue => ledger.owed.retain(|known| !(known.is_same(debt) && known.run == debt.run)),
                Paid::Again(why) | Paid::No(why) => {
                    for known in ledger.owed.iter_mut().filter(|known| known.is_same(debt)) {
                        known.tried = known.tried.saturating_add(u32::from(matches!(paid, Paid::No(_))));
                        known.last = why.chars().take(MAX_LAST).collect();
                    }
                }
            }
        }
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt(uid: &str, command: &str) -> Debt {
        let pod = PodRef { namespace: "shop".into(), name: "db-0".into(), uid: uid.into() };
        let post = Hook {
            container: "db".into(),
            command: vec![command.into(), "-u".into()],
            timeout: Duration::from_secs(30),
            on_error: OnError::Continue,
        };
        Debt::new(&pod, &post, "2026-11-29T02:00:00Z".parse().unwrap(), "20261129T020000Z-4f9a2c")
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let ledger = Ledger::default().with(&[debt("1", "a"), debt("2", "a")]);
        let ledger = ledger.settled(&[(debt("2", "a"), Paid::No("x".repeat(5000)))]);
        let bytes = ledger.to_bytes();
        assert_eq!(Ledger::read(&bytes), Ok(ledger.clone()));
        assert_eq!((ledger.owed()[1].tried, ledger.owed()[1].last.len()), (1, MAX_LAST));
        let text = String::from_utf8(bytes).unwrap();
        let first = r#"{"version":1,"owed":[{"pod":{"namespace":"shop","name":"db-0","uid":"1"},"container":"db","command":["a","-u"],"timeout_ms":30000,"since":"2026-11-29T02:00:00Z","run":"20261129T020000Z-4f9a2c","tried":0}"#;
        assert!(text.starts_with(first), "{text}");
        assert_eq!(ledger.owed()[0].hook().command, ["a", "-u"]);
        let day = Debt { timeout_ms: 86_400_000, ..debt("1", "a") };
        assert_eq!((day.hook().timeout, day.late_hook().timeout), (Duration::from_hours(24), LATE));
        let second = Debt { timeout_ms: 1000, ..debt("1", "a") };
        assert_eq!(second.late_hook(), second.hook());
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let newer = br#"{"version":2,"owed":{"of":"another form"}}"#;
        assert_eq!(Ledger::read(newer), Err(Unreadable::Newer(2)));
        for damaged in [&b""[..], b"{}", b"{\"version\":1}", b"\xff", b"{\"version\":1,\"owed\":[{}]}"] {
            assert_eq!(Ledger::read(damaged), Err(Unreadable::Damaged));
        }
    }

    #[test]
    fn a_debt_is_there_once_and_a_changed_command_is_another_one() {
        let ledger = Ledger::default().with(&[debt("1", "a")]);
        let failed =
            ledger.settled(&[(debt("1", "a"), Paid::No("busy".into()))]).with(&[debt("1", "a"), debt("1", "b")]);
        assert_eq!(failed.owed().iter().map(|debt| debt.tried).collect::<Vec<_>>(), [1, 0]);
        let gone = failed.settled(&[(debt("1", "b"), Paid::Gone), (debt("3", "a"), Paid::Yes)]);
        assert_eq!(gone.owed().len(), 1);
        assert!(gone.settled(&[(debt("1", "a"), Paid::Yes)]).is_empty());
        let later = Debt { run: "20261130T020000Z-000000".into(), ..debt("1", "a") };
        assert_eq!(
            gone.with(std::slice::from_ref(&later)).settled(&[(later, Paid::NotDue)]),
            gone,
            "the earlier run's stays"
        );
        assert!(gone.settled(&[(debt("1", "a"), Paid::NotDue)]).is_empty());
    }
}
