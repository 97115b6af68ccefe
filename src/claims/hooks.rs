//! The commands that a pod wants to be run before and after its volumes are read.
//!
//! | annotation, ours `(pre\|post).hook.backup.penstock/…`, Velero's `(pre\|post).hook.backup.velero.io/…` | |
//! |---|---|
//! | `command` | a JSON array, or one word; no shell |
//! | `container` | without it, the pod's first |
//! | `timeout` | as Go writes it, `1m30s`; without it, 30 s |
//! | `on-error` | `Fail`, the default: the pod's volumes are not saved; or `Continue`: they are, with a warning |
//!
//! A pod that has one of ours is read by ours alone, as in [`super::wishes`]. Velero's oldest form, without `pre.`, counts as `pre`.
//!
//! What cannot be understood is a fault, and the pod's volumes fail by it: a database that was to be frozen must not be read unfrozen,
//! with a backup that calls itself good. (Velero takes a default instead, and logs it.)

use std::collections::BTreeMap;
use std::time::Duration;

use super::objects::Pod;
use crate::format::claim::shown;

/// Velero's default too.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A pod that is frozen for longer has a fault of its own.
const LONGEST: Duration = Duration::from_hours(24);

/// Of a command, in words. An annotation has 256 KiB at most.
const MOST_WORDS: usize = 1024;

/// What follows if the command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    #[default]
    Fail,
    Continue,
}

/// One command in one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub container: String,
    /// At least one word.
    pub command: Vec<String>,
    pub timeout: Duration,
    pub on_error: OnError,
}

/// The commands of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodHooks {
    pub pre: Option<Hook>,
    pub post: Option<Hook>,
}

impl PodHooks {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pre.is_none() && self.post.is_none()
    }
}

/// An annotation that is no hook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the annotation {annotation} {message}")]
pub struct HookFault {
    pub annotation: String,
    pub message: String,
}

const OURS: &str = "hook.backup.penstock/";
const VELEROS: &str = "hook.backup.velero.io/";

/// The hooks of a pod; empty where it has none.
///
/// # Errors
/// When an annotation cannot be understood.
pub fn of(pod: &Pod) -> Result<PodHooks, HookFault> {
    let annotations = &pod.metadata.annotations;
    let domain = if annotations.keys().any(|key| key.contains(OURS)) { OURS } else { VELEROS };
    let mut pre = hook(pod, &format!("pre.{domain}"))?;
    if pre.is_none() && domain == VELEROS {
        pre = hook(pod, VELEROS)?;
    }
    Ok(PodHooks { pre, post: hook(pod, &format!("post.{domain}"))? })
}

fn hook(pod: &Pod, prefix: &str) -> Result<Option<Hook>, HookFault> {
    let found = Annotations { all: &pod.metadata.annotations, prefix };
    let Some(command) = found.parsed("command", command)? else {
        // Velero ignores these; here, somebody has mistyped the one that matters.
        return match ["container", "timeout", "on-error"].into_iter().find(|key| found.text(key).is_some()) {
            Some(key) => Err(found.fault(key, format!("stands alone; expected {prefix}command beside it"))),
            None => Ok(None),
        };
    };
    let containers = || pod.spec.containers.iter().chain(&pod.spec.init_containers).map(|container| &container.name);
    let named = |name: &str| {
        let known = containers().find(|container| *container == name).cloned();
        let list = || containers().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
        known.ok_or_else(|| format!("is {:?}; expected one of the pod's containers: {}", shown(name), list()))
    };
    let first = || containers().next().cloned();
    let container = found.parsed("container", named)?.or_else(first);
    Ok(Some(Hook {
        container: container.ok_or_else(|| found.fault("command", "is of a pod without containers".to_owned()))?,
        command,
        timeout: found.parsed("timeout", timeout)?.unwrap_or(TIMEOUT),
        on_error: found.parsed("on-error", on_error)?.unwrap_or_default(),
    }))
}

struct Annotations<'a> {
    all: &'a BTreeMap<String, String>,
    prefix: &'a str,
}

impl<'a> Annotations<'a> {
    /// An empty one is not set.
    fn text(&self, key: &str) -> Option<&'a str> {
        let text = self.all.get(&format!("{}{key}", self.prefix))?.trim();
        (!text.is_empty()).then_some(text)
    }

    fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, HookFault> {
        self.text(key).map(|text| parse(text).map_err(|message| self.fault(key, message))).transpose()
    }

    fn fault(&self, key: &str, message: String) -> HookFault {
        HookFault { annotation: format!("{}{key}", self.prefix), message }
    }
}

/// The messages do not repeat the command: it may hold a password.
fn command(text: &str) -> Result<Vec<String>, String> {
    let words = if text.starts_with('[') {
        let words: Result<Vec<String>, _> = serde_json::from_str(text);
        words.map_err(|_| {
            "is no JSON array of strings; expected one such as [\"fsfreeze\", \"-f\", \"/data\"]".to_owned()
        })?
    } else if text.contains(char::is_whitespace) {
        return Err(
            "has several words; expected a JSON array such as [\"fsfreeze\", \"-f\", \"/data\"]: no shell splits it"
                .into(),
        );
    } else {
        vec![text.to_owned()]
    };
    match &words[..] {
        [] => Err("is an empty array; expected a program and its arguments".into()),
        [program, ..] if program.is_empty() => Err("names no program".into()),
        words if words.len() > MOST_WORDS => Err(format!("has {} words; expected at most {MOST_WORDS}", words.len())),
        words if words.iter().any(|word| word.contains('\0')) => Err("holds a NUL character".into()),
        _ => Ok(words),
    }
}

fn on_error(text: &str) -> Result<OnError, String> {
    match text {
        _ if text.eq_ignore_ascii_case("fail") => Ok(OnError::Fail),
        _ if text.eq_ignore_ascii_case("continue") => Ok(OnError::Continue),
        _ => Err(format!("is {:?}; expected Fail or Continue", shown(text))),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let fits = |time: &Duration| !time.is_zero() && *time <= LONGEST;
    duration(text).filter(fits).ok_or_else(|| {
        format!("is {:?}; expected a time above 0 up to 24h, with units: 30s, 1m30s, 500ms", shown(text))
    })
}

/// As Go's `time.ParseDuration` reads it, without a sign. To the nanosecond.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1000),
        ("\u{b5}s", 1000),
        ("\u{3bc}s", 1000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60 * 1_000_000_000),
        ("h", 3600 * 1_000_000_000),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, 0_u128);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, after) = rest.split_at(number);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || digits.len() > 18 {
            return None;
        }
        let number = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>() };
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        sum += number(whole).ok()? * unit + number(fraction).ok()? * unit / scale;
        rest = next;
    }
    let nanoseconds = u64::try_from(sum).ok()?;
    (!text.is_empty()).then(|| Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;

    fn hooks(annotations: &[(&str, &str)]) -> Result<PodHooks, String> {
        let mut pod = pod("shop", "db", "n1");
        for (key, value) in annotations {
            pod = pod.annotated(key, value);
        }
        of(&pod.0).map_err(|fault| fault.to_string())
    }

    fn hook(command: &[&str]) -> Hook {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Hook { container: "main".into(), command, timeout: TIMEOUT, on_error: OnError::Fail }
    }

    #[test]
    fn hooks_of_both_names_are_read_with_velero_s_defaults() {
        assert!(hooks(&[]).unwrap().is_empty());
        let velero = hooks(&[
            ("pre.hook.backup.velero.io/command", r#"["/sbin/fsfreeze", "--freeze", "/data"]"#),
            ("post.hook.backup.velero.io/command", "/thaw"),
            ("post.hook.backup.velero.io/timeout", "1m30.5s"),
            ("post.hook.backup.velero.io/on-error", "Continue"),
            ("post.hook.backup.velero.io/container", "main"),
        ])
        .unwrap();
        assert_eq!(velero.pre, Some(hook(&["/sbin/fsfreeze", "--freeze", "/data"])));
        let thaw = Hook { timeout: Duration::from_millis(90_500), on_error: OnError::Continue, ..hook(&["/thaw"]) };
        assert_eq!(velero.post, Some(thaw));
        assert_eq!(hooks(&[("hook.backup.velero.io/command", "old")]).unwrap().pre, Some(hook(&["old"])));
        let both = hooks(&[
            ("pre.hook.backup.velero.io/command", "theirs"),
            ("post.hook.backup.velero.io/command", "theirs"),
            ("pre.hook.backup.penstock/command", "ours"),
        ]);
        assert_eq!(both, Ok(PodHooks { pre: Some(hook(&["ours"])), post: None }));
        let none = hooks(&[("pre.hook.backup.penstock/command", ""), ("pre.hook.backup.velero.io/command", "theirs")]);
        assert!(none.unwrap().is_empty(), "an empty annotation of ours switches Velero's off");
    }

    #[test]
    fn what_cannot_be_understood_is_a_fault_that_does_not_repeat_the_command() {
        for (key, value, expected) in [
            ("command", "[\"a\", ", "is no JSON array of strings"),
            ("command", "[1]", "is no JSON array of strings"),
            ("command", "[]", "is an empty array"),
            ("command", "[\"\", \"x\"]", "names no program"),
            ("command", "[\"a\\u0000\"]", "holds a NUL"),
            ("command", "mysql -psecret", "has several words"),
            ("container", "side", "is \"side\"; expected one of the pod's containers: main"),
            ("timeout", "30", "is \"30\"; expected a time"),
            ("timeout", "-1s", "is \"-1s\"; expected a time"),
            ("timeout", "0", "is \"0\"; expected a time above 0"),
            ("timeout", "25h", "is \"25h\"; expected a time"),
            ("on-error", "Ignore", "is \"Ignore\"; expected Fail or Continue"),
        ] {
            let annotation = format!("pre.hook.backup.penstock/{key}");
            let fault = hooks(&[("pre.hook.backup.penstock/command", "x"), (annotation.as_str(), value)]).unwrap_err();
            assert!(fault.starts_with(&format!("the annotation {annotation} {expected}")), "{value}: {fault}");
            assert!(!fault.contains("secret"));
        }
        let alone = hooks(&[("post.hook.backup.penstock/timeout", "1s")]).unwrap_err();
        assert!(alone.contains("stands alone; expected post.hook.backup.penstock/command"), "{alone}");
    }

    #[test]
    fn times_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("30s", Some(30_000)),
            ("1h15m30.918s", Some(4_530_918)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1000000ns", Some(1)),
            ("1000\u{b5}s", Some(1)),
            (".5s", Some(500)),
            ("1.s", Some(1000)),
            ("0", Some(0)),
            ("", None),
            ("s", None),
            (".s", None),
            ("1", None),
            ("1d", None),
            ("1s ", None),
            ("1..5s", None),
            ("999999999999999999h", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(duration(text), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }
}
