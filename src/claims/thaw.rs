//! The order in which commands are run in pods, and what is written down when. A state machine without I/O.
//!
//! ```text
//! owe ── pre, pre, … ── read ── post, post, … ── settle ── end
//!  │       └ fails, or is stopped ──┘
//!  └ cannot be written: end
//! ```
//!
//! - What will be owed is durable **before** the first command is run.
//! - `post` is run for each pod whose `pre` was begun, also if that failed: it may have frozen something first.
//! - Where nobody knows whether `pre` has ended (a time limit, a lost connection), it may freeze the pod after `post`: this stays owed, and is run
//!   once more by the next start, round or hour.
//! - A `post` that fails stays owed.
//! - A pod that is gone before its `pre` needs neither: its volumes are looked for without it.
//! - A process that dies anywhere leaves the record; [`Thaw::of`] is what the next start runs.
//!
//! The caller asks for the [`action`](Thaw::action), does it, and says with [`done`](Thaw::done) how it went.

use super::decide::PodRef;
use super::hooks::{Hook, OnError, PodHooks};
use super::owed::{Debt, Ledger, Paid};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Add these to the job's record, durably.
    Owe(Vec<Debt>),
    Pre(PodRef, Hook),
    /// Read the group's volumes.
    Read,
    Post(Debt),
    /// Change the job's record ([`Ledger::settled`]), durably.
    Settle(Vec<(Debt, Paid)>),
    End,
}

/// How an action went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(String),
    /// It was begun, and how it ended is not known: it may still run.
    Unsure(String),
    /// There is no such pod any more.
    Gone,
}

/// A command or a write that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The end of a message that begins with what failed.
    pub message: String,
    /// Whether the volumes are to be treated as failed; else it is a warning.
    pub is_failure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Owing,
    Pre(usize),
    Reading,
    Post(usize),
    Settling,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    debt: Debt,
    begun: bool,
    /// Why `pre` may still run.
    unsure: Option<String>,
    paid: Paid,
}

/// One group's commands.
#[derive(Debug, Clone)]
pub struct Thaw {
    state: State,
    pre: Vec<(PodRef, Hook)>,
    due: Vec<Due>,
    stopped: bool,
    /// The action that was named and is not done yet.
    doing: Option<Action>,
    troubles: Vec<Trouble>,
}

impl Thaw {
    /// The commands of a group's pods, around the reading of its volumes.
    #[must_use]
    pub fn around(pods: &[(PodRef, PodHooks)], since: jiff::Timestamp, run: &str) -> Self {
        let pre = pods.iter().filter_map(|(pod, hooks)| Some((pod.clone(), hooks.pre.clone()?))).collect();
        let due = pods.iter().filter_map(|(pod, hooks)| {
            let debt = Debt::new(pod, hooks.post.as_ref()?, since, run);
            Some(Due { debt, begun: false, unsure: None, paid: Paid::NotDue })
        });
        Self { state: State::Owing, pre, due: due.collect(), stopped: false, doing: None, troubles: Vec::new() }
    }

    /// Pays what an earlier process left.
    #[must_use]
    pub fn of(ledger: &Ledger) -> Self {
        let due = ledger.owed().iter();
        let due = due.map(|debt| Due { debt: debt.clone(), begun: true, unsure: None, paid: Paid::NotDue });
        Self {
            state: State::Post(0),
            pre: Vec::new(),
            due: due.collect(),
            stopped: true,
            doing: None,
            troubles: Vec::new(),
        }
    }

    /// Begins no further `pre` command and no reading. May be called while an action is being done; the caller ends that one.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// What failed, in the order in which it did.
    #[must_use]
    pub fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    /// The action to do now. The same until [`Thaw::done`] is told of it.
    pub fn action(&mut self) -> Action {
        let action = self.doing.take().unwrap_or_else(|| self.compute());
        self.doing = Some(action.clone());
        action
    }

    fn compute(&self) -> Action {
        let mut state = self.state;
        loop {
            state = match state {
                State::Owing if self.stopped => State::Ended,
                State::Owing if self.due.is_empty() => State::Pre(0),
                State::Owing => return Action::Owe(self.due.iter().map(|due| due.debt.clone()).collect()),
                State::Pre(_) | State::Reading if self.stopped => State::Post(0),
                State::Pre(at) => match self.pre.get(at) {
                    Some((pod, hook)) => return Action::Pre(pod.clone(), hook.clone()),
                    None => State::Reading,
                },
                State::Reading => return Action::Read,
                State::Post(at) => match self.due.get(at) {
                    Some(due) if due.begun => return Action::Post(due.debt.clone()),
                    Some(_) => State::Post(at + 1),
                    None => State::Settling,
                },
                State::Settling if self.due.is_empty() => State::Ended,
                State::Settling => {
                    return Action::Settle(self.due.iter().map(|due| (due.debt.clone(), due.paid.clone())).collect());
                }
                State::Ended => return Action::End,
            };
        }
    }

    /// The action that [`Thaw::action`] named has been done.
    pub fn done(&mut self, outcome: Outcome) {
        // Not what would be named now: it may have been stopped since.
        let action = self.action();
        self.doing = None;
        match action {
            Action::Owe(_) => match outcome {
                Outcome::Done => self.state = State::Pre(0),
                Outcome::Failed(why) | Outcome::Unsure(why) => {
                    self.trouble(
                        true,
                        format!("could not write down what must be run afterwards, so that nothing was run: {why}"),
                    );
                    self.state = State::Ended;
                }
                Outcome::Gone => self.state = State::Ended,
            },
            Action::Pre(pod, hook) => self.pre_done(&pod, &hook, outcome),
            Action::Read => {
                self.due.iter_mut().filter(|due| due.paid != Paid::Gone).for_each(|due| due.begun = true);
                self.state = State::Post(0);
            }
            Action::Post(debt) => self.post_done(&debt, outcome),
            Action::Settle(_) => {
                if let Outcome::Failed(why) | Outcome::Unsure(why) = outcome {
                    self.trouble(
                        false,
                        format!("could not write down what has been run, so that it is run again: {why}"),
                    );
                }
                self.state = State::Ended;
            }
            Action::End => {}
        }
    }

    fn pre_done(&mut self, pod: &PodRef, hook: &Hook, outcome: Outcome) {
        let at = self.pre.iter().position(|(other, _)| other == pod).unwrap_or_default();
        let (is_gone, unsure) = match &outcome {
            Outcome::Gone => (true, None),
            Outcome::Unsure(why) => (false, Some(why.clone())),
            Outcome::Done | Outcome::Failed(_) => (false, None),
        };
        for due in self.due.iter_mut().filter(|due| due.debt.pod.uid == pod.uid) {
            due.begun = !is_gone;
            due.unsure.clone_from(&unsure);
            if is_gone {
                due.paid = Paid::Gone;
            }
        }
        self.state = State::Pre(at + 1);
        let (Outcome::Failed(why) | Outcome::Unsure(why)) = outcome else { return };
        let is_failure = hook.on_error == OnError::Fail;
        self.trouble(is_failure, format!("the pre hook of {}/{} failed: {why}", pod.namespace, pod.name));
        self.stopped |= is_failure;
    }

    fn post_done(&mut self, debt: &Debt, outcome: Outcome) {
        let at = self.due.iter().position(|due| due.debt.is_same(debt)).unwrap_or_default();
        self.state = State::Post(at + 1);
        let of = format!("the post hook of {}/{}", debt.pod.namespace, debt.pod.name);
        let unsure = self.due.get(at).and_then(|due| due.unsure.clone());
        let paid = match outcome {
            Outcome::Done => match unsure {
                Some(why) => Paid::Again(format!("pre may still run: {why}")),
                None => Paid::Yes,
            },
            Outcome::Gone => {
                self.trouble(false, format!("{of} was not run: the pod is gone"));
                Paid::Gone
            }
            Outcome::Failed(why) | Outcome::Unsure(why) => {
                self.trouble(false, format!("{of} failed, and is run again at the next start: {why}"));
                Paid::No(why)
            }
        };
        if let Some(due) = self.due.get_mut(at) {
            due.paid = paid;
        }
    }

    fn trouble(&mut self, is_failure: bool, message: String) {
        self.troubles.push(Trouble { message, is_failure });
    }
}

#[cfg(test)]
mod tests;
