//! What a Job and its pods say of how far it is. Pure: whatever the server sends is read without a panic.

use serde::Deserialize;
use serde_json::Value;

use super::agent::CONTAINER;
use super::job::WITH_WARNINGS;
use crate::error::{Class, Report};

/// Of a message, as much as a report needs.
const MOST: usize = 600;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing runs yet, and why.
    Waiting(String),
    /// The pod that runs.
    Running(String),
    Done {
        warnings: Option<String>,
    },
    Failed(Report),
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST).collect()
}

/// The condition of that type, if it is true.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// The state of the container that fills the volume. Whoever admits pods may have added others, and the kubelet sorts by name.
fn container(pod: &Value) -> Option<&Value> {
    let statuses = pod.pointer("/status/containerStatuses")?.as_array()?;
    statuses.iter().find(|status| status["name"] == CONTAINER)?.get("state")
}

/// The end of the container: its exit code, and what it said.
fn end(pod: &Value) -> Option<(i64, &str)> {
    let ended = container(pod)?.get("terminated")?;
    Some((ended["exitCode"].as_i64()?, ended["message"].as_str().unwrap_or_default()))
}

/// The state of a Job with these pods.
pub(super) fn look(job: &Value, pods: &[Value]) -> State {
    let ends = || pods.iter().filter_map(end);
    if let Some((_, said)) = ends().find(|(code, _)| matches!(*code, 0 | WITH_WARNINGS)) {
        let with_warnings = ends().all(|(code, _)| code != 0);
        return State::Done { warnings: with_warnings.then(|| warnings(said)) };
    }
    if condition(job, "Complete").is_some() {
        return State::Done { warnings: None };
    }
    // 75 are failures that pass: the Job tries again.
    let passes = i64::from(Class::Transient.exit_code());
    let failed = pods.iter().filter_map(|pod| Some((pod, end(pod)?)));
    let last = failed.max_by_key(|(pod, _)| text(pod, "/metadata/creationTimestamp").to_owned());
    if let Some((_, (code, said))) = last
        && (code != passes || condition(job, "Failed").is_some())
    {
        return State::Failed(failure(code, said));
    }
    if let Some(failed) = condition(job, "Failed") {
        let (reason, message) = (text(failed, "/reason"), cut(text(failed, "/message")));
        // By the one rule of its policy, for a pod that is gone since.
        if reason == "PodFailurePolicy" {
            return State::Done { warnings: Some(warnings("")) };
        }
        let class = if reason == "DeadlineExceeded" { Class::Timeout } else { Class::Transient };
        return State::Failed(
            Report::new(class, format!("its Job failed: {reason:.60}: {message}")).remedy(
                "run the same command again: it goes on where this one ended; --volumes-timeout gives it longer",
            ),
        );
    }
    let alive = pods.iter().find(|pod| !matches!(text(pod, "/status/phase"), "Failed" | "Succeeded"));
    match alive {
        None if pods.is_empty() => State::Waiting("its Job has no pod".to_owned()),
        None => State::Waiting("its pod ended, and the Job starts another".to_owned()),
        Some(pod) if text(pod, "/status/phase") == "Running" => State::Running(text(pod, "/metadata/name").to_owned()),
        Some(pod) => State::Waiting(waits(pod)),
    }
}

/// Why a pod does not run.
fn waits(pod: &Value) -> String {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let unscheduled = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    if let Some(unscheduled) = unscheduled {
        return format!("its pod cannot be scheduled: {}", cut(text(unscheduled, "/message")));
    }
    let waiting = container(pod).and_then(|state| state.get("waiting")).unwrap_or(&Value::Null);
    let (reason, message) = (cut(text(waiting, "/reason")), cut(text(waiting, "/message")));
    match (reason.as_str(), message.as_str()) {
        ("", _) => "its pod has not started".to_owned(),
        (_, "") => format!("its pod has not started: {reason}"),
        _ => format!("its pod has not started: {reason}: {message}"),
    }
}

/// What the restore in the pod printed at its end.
#[derive(Deserialize)]
struct Printed {
    #[serde(default)]
    error: Option<PrintedError>,
    #[serde(default)]
    warnings: Option<Warnings>,
}

#[derive(Deserialize)]
struct PrintedError {
    class: String,
    message: String,
    #[serde(default)]
    remedy: Option<String>,
}

#[derive(Deserialize)]
struct Warnings {
    count: u64,
    #[serde(default)]
    list: Vec<Warning>,
}

#[derive(Deserialize)]
struct Warning {
    #[serde(default)]
    path: String,
    message: String,
}

/// The last JSON document of a log's end.
fn printed(said: &str) -> Option<Printed> {
    let lines = said.lines().rev().map(str::trim).filter(|line| line.starts_with('{'));
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|printed: &Printed| printed.error.is_some() || printed.warnings.is_some())
}

fn failure(code: i64, said: &str) -> Report {
    if let Some(Printed { error: Some(error), .. }) = printed(said) {
        let class = Class::named(&error.class).unwrap_or(Class::Internal);
        let report = Report::new(class, format!("{} (exit code {code})", cut(&error.message)));
        return match error.remedy {
            Some(remedy) => report.remedy(cut(&remedy)),
            None => report,
        };
    }
    let class = Class::ALL.into_iter().find(|class| i64::from(class.exit_code()) == code).unwrap_or(Class::Internal);
    // Below what a panic says, there is a note on how to see more of it.
    let last = said.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("note: "));
    let last = last.unwrap_or("it said nothing");
    Report::new(class, format!("its pod ended with the exit code {code}: {}", cut(last)))
}

fn warnings(said: &str) -> String {
    match printed(said).and_then(|printed| printed.warnings) {
        Some(Warnings { count, list }) => {
            let first = list.first().map_or_else(String::new, |first| {
                let at = if first.path.is_empty() { String::new() } else { format!("{}: ", cut(&first.path)) };
                format!(": {at}{}", cut(&first.message))
            });
            format!("{count} warnings{first}")
        }
        None => "with warnings, which are in the pod's log".to_owned(),
    }
}

/// Bytes done, of the last line of progress in a log.
pub(super) fn done(log: &str) -> Option<u64> {
    log.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line.get("done").or_else(|| line.pointer("/fields/done"))?.as_u64()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str, state: Value) -> Value {
        json!({ "metadata": { "name": name, "creationTimestamp": name }, "status": {
            "phase": phase,
            "containerStatuses": [{ "name": "a-proxy", "state": { "terminated": { "exitCode": 9 } } }, { "name": CONTAINER, "state": state }],
        } })
    }

    fn ended(name: &str, code: i64, message: &str) -> Value {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        pod(name, phase, json!({ "terminated": { "exitCode": code, "message": message } }))
    }

    fn job(condition: &str, reason: &str) -> Value {
        json!({ "status": { "conditions": [{ "type": condition, "status": "True", "reason": reason, "message": "m" }] } })
    }

    fn failed(state: State) -> Report {
        match state {
            State::Failed(report) => report,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failure_has_the_class_and_the_remedy_that_the_pod_printed() {
        let said = "half of a line\"}\n{\"level\":\"INFO\"}\n{\"error\":{\"class\":\"kms-denied\",\"message\":\"could not get x\",\"remedy\":\"grant it\"}}\n";
        let report = failed(look(&json!({}), &[ended("1", 77, said)]));
        assert_eq!(
            (report.class, report.message.as_str(), report.remedy.as_deref()),
            (Class::KmsDenied, "could not get x (exit code 77)", Some("grant it"))
        );
        let report = failed(look(&json!({}), &[ended("1", 137, "")]));
        assert_eq!(
            (report.class, report.message.as_str()),
            (Class::Internal, "its pod ended with the exit code 137: it said nothing")
        );
    }

    #[test]
    fn what_passes_is_tried_again_until_the_job_gives_up() {
        let passing = [ended("1", 75, "")];
        assert!(matches!(look(&json!({}), &passing), State::Waiting(_)));
        let report = failed(look(&job("Failed", "BackoffLimitExceeded"), &passing));
        assert_eq!(report.class.exit_code(), 75, "{report:?}");
        assert_eq!(failed(look(&job("Failed", "DeadlineExceeded"), &[])).class, Class::Timeout);
        let then = [ended("1", 75, ""), ended("2", 0, "")];
        assert_eq!(look(&json!({}), &then), State::Done { warnings: None });
        // Evicted, or on a node that is gone: the Job makes another pod.
        assert!(matches!(look(&json!({}), &[json!({ "status": { "phase": "Failed" } })]), State::Waiting(_)));
    }

    #[test]
    fn warnings_are_said() {
        let said = r#"{"id":"x","warnings":{"count":2,"list":[{"path":"a","message":"left out: no"}]}}"#;
        assert_eq!(
            look(&json!({}), &[ended("1", 1, said)]),
            State::Done { warnings: Some("2 warnings: a: left out: no".into()) }
        );
        assert_eq!(look(&job("Complete", ""), &[]), State::Done { warnings: None });
        assert!(matches!(look(&job("Failed", "PodFailurePolicy"), &[]), State::Done { warnings: Some(_) }));
    }

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let why = |pod: Value| match look(&json!({}), &[pod]) {
            State::Waiting(why) => why,
            other => panic!("{other:?}"),
        };
        let unscheduled = json!({ "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/3 nodes" }] } });
        assert_eq!(why(unscheduled), "its pod cannot be scheduled: 0/3 nodes");
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } });
        assert_eq!(why(pod("1", "Pending", waiting)), "its pod has not started: ImagePullBackOff: no such image");
        assert_eq!(look(&json!({}), &[pod("p", "Running", json!({}))]), State::Running("p".into()));
        assert!(matches!(look(&json!(null), &[]), State::Waiting(_)));
        assert!(matches!(look(&json!([]), &[json!("x")]), State::Waiting(_)));
    }

    #[test]
    fn progress_is_the_last_line_that_has_any() {
        let log = "{\"fields\":{\"done\":1}}\n{\"done\":2,\"expected\":3}\nnoise";
        assert_eq!((done(log), done("x")), (Some(2), None));
    }
}
