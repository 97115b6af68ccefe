//! Proves a location: exercises or dry-runs each permission, makes each connection; every failure names what is missing.
//!
//! - A check is one line with its time: [`Check`]. A check that cannot be made because an earlier one failed is not tried: neither a
//!   success nor a failure.
//! - **Nothing is left behind**: everything is written under one key prefix of its own, is recorded before it is sent, and is removed
//!   whatever happens, also after a cancellation. Where the role may not delete, nothing is written.
//! - Where objects are encrypted here, a probe is, as a backup would be: stored, read back, and opened if a private key is at hand.
//! - In a versioned bucket the versions are removed too, if the role may (`s3:DeleteObjectVersion`, which nothing else needs); if
//!   not, the check says that they stay.
//! - Where the location locks objects, so are the checks' own, for seconds (the module `locks`).
//! - After a bare "Access Denied" under SSE-KMS the request is repeated without KMS, which tells whether S3 or the key refuses.
//!
//! Costs about forty requests and one part of upload (`upload.part_size`), of which a MiB is in memory.

mod claims;
mod clean_up;
pub mod cluster;
mod locks;
mod objects;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Location;
use crate::error::{Class, Classify as _, Report};
use crate::format::ebs::{CLUSTER_TAG, RESTORE_TAG};
use crate::location as opened;
use crate::site::{Certificate, Ec2Action, Handshake, Permission, Service, Site, Step};

/// A certificate that expires sooner is a warning.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A clock that is off by this much is a warning; STS refuses a clock that is off by five minutes.
const SKEW_NOTED: u64 = 60_000;
const SKEW_REFUSED: u64 = 300_000;

const NO_SNAPSHOT: &str = "EC2 refuses it for a snapshot that does not exist, and so it does where the policy has a condition on the \
                           snapshot's tags: run validate again when the cluster has its first snapshot";

/// What `--skip` leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    Nothing,
    Ec2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Passed,
    /// It works, but needs attention.
    Warning,
    Failed,
    NotTried,
}

/// One line of a proof.
#[derive(Debug)]
pub struct Check {
    pub name: String,
    state: State,
    took: Duration,
    /// What was found, or the failure's message.
    message: String,
    failure: Option<Report>,
}

/// The result of all checks of one location.
#[derive(Debug)]
pub struct Proof {
    pub location: String,
    pub checks: Vec<Check>,
}

/// The result of a check.
enum Found {
    Good(String),
    Odd(String),
    NotTried(String),
}

type Outcome = Result<Found, Report>;

impl Proof {
    #[must_use]
    pub fn new(location: &str) -> Self {
        Self { location: location.to_owned(), checks: Vec::new() }
    }

    /// The proof of a location that could not be opened.
    #[must_use]
    pub fn refused(location: &str, check: &str, report: Report) -> Self {
        let mut proof = Self::new(location);
        proof.add(check, Duration::ZERO, Err(report));
        proof
    }

    /// The failure that decides the exit code.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Report> {
        self.checks.iter().find_map(|check| check.failure.as_ref())
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let check = |check: &Check| {
            let failure = check.failure.as_ref();
            json!({
                "name": check.name,
                "ok": matches!(check.state, State::Passed | State::Warning),
                "state": check.state.as_str(),
                "seconds": check.took.as_secs_f64(),
                "class": failure.map(|report| report.class),
                "code": failure.and_then(|report| report.code.as_deref()),
                "request_id": failure.and_then(|report| report.request_id.as_deref()),
                "message": check.message,
                "remedy": failure.and_then(|report| report.remedy.as_deref()),
            })
        };
        json!({
            "name": self.location,
            "ok": self.first_failure().is_none(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }

    /// The text for a terminal: a line for each check, and below a failure its remedy.
    #[must_use]
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{}\n", self.location);
        for check in &self.checks {
            let (mark, seconds) = (check.state.mark(), check.took.as_secs_f64());
            let line = format!("  {mark:<7} {:<28} {seconds:>7.2} s  {}", check.name, check.message);
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", line.trim_end());
            let Some(report) = &check.failure else { continue };
            if let Some(remedy) = &report.remedy {
                let _ = writeln!(text, "          what to do: {remedy}");
            }
            let code = report.code.as_ref().map_or_else(String::new, |code| format!(", code {code}"));
            let id = report.request_id.as_ref().map_or_else(String::new, |id| format!(", request {id}"));
            let _ = writeln!(text, "          class: {}{code}{id}", report.class);
        }
        text
    }

    fn add(&mut self, name: impl Into<String>, took: Duration, outcome: Outcome) {
        let (state, message, failure) = match outcome {
            Ok(Found::Good(message)) => (State::Passed, message, None),
            Ok(Found::Odd(message)) => (State::Warning, message, None),
            Ok(Found::NotTried(message)) => (State::NotTried, format!("not tried: {message}"), None),
            Err(report) => (State::Failed, report.message.clone(), Some(report)),
        };
        self.checks.push(Check { name: name.into(), state, took, message, failure });
    }

    fn last_failed(&self) -> bool {
        self.checks.last().is_some_and(|check| check.state == State::Failed)
    }
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::NotTried => "not-tried",
        }
    }

    const fn mark(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::NotTried => "-",
        }
    }
}

/// Makes every check. When cancelled, removes what was written and lists the checks not made.
pub async fn prove(opened: &opened::Location, site: &dyn Site, skip: Skip, cancel: &CancellationToken) -> Proof {
    let (location, store) = (&*opened.config, &*opened.store);
    let mut proof = Proof::new(&location.name);
    proof.add("configuration", Duration::ZERO, Ok(Found::Good(configured(location))));
    proof.add("certificate", Duration::ZERO, Ok(certificate(&site.certificates(), &site.trusted(), Timestamp::now())));
    let made = objects::Made::new(opened);
    let rest = async {
        let known = identities(&mut proof, location, site).await;
        connections(&mut proof, site, skip).await;
        bucket(&mut proof, location, site, known).await;
        if let Some(writing) = objects::prove(&mut proof, opened, site, &made, known).await
            && let Some(wanted) = location.object_lock
        {
            let now = opened.remote.now().unwrap_or_else(Timestamp::now);
            locks::prove(&mut proof, &writing, wanted, now).await;
        }
        if skip == Skip::Nothing {
            ec2(&mut proof, opened, site, known).await;
        }
    };
    let cancelled = tokio::select! {
        () = rest => false,
        () = cancel.cancelled() => true,
    };
    made.wait_for_locks(opened).await;
    clean_up::clean_up(&mut proof, store, site, &made).await;
    if cancelled {
        let report =
            Report::new(Class::Cancelled, "cancelled before every check was made; everything written is removed");
        proof.add("all checks", Duration::ZERO, Err(report));
    }
    proof
}

fn configured(location: &Location) -> String {
    let at = location.s3_url.as_ref().map_or_else(String::new, |url| format!(" at {url}"));
    let prefix = if location.prefix.is_empty() { String::new() } else { format!(" under {}", location.prefix) };
    let hops = match location.assume_role.len() {
        0 => "no role".to_owned(),
        1 => "one role".to_owned(),
        hops => format!("{hops} roles"),
    };
    format!("bucket {} in {}{at}{prefix}, through {hops}", location.bucket, location.region)
}

/// The bundle was read and parsed when the location was opened.
fn certificate(certificates: &[Certificate], trusted: &str, now: Timestamp) -> Found {
    let odd = |one: &Certificate| one.not_before > now || one.not_after.duration_since(now) < SOON;
    let told = |one: &Certificate| {
        let state = if one.not_before > now {
            "is not valid before ".to_owned() + &one.not_before.to_string()
        } else if one.not_after < now {
            format!("EXPIRED at {}", one.not_after)
        } else {
            format!("expires at {}", one.not_after)
        };
        format!("{} {state}", one.subject)
    };
    let all = certificates.iter().map(told).collect::<Vec<_>>().join("; ");
    let message = if all.is_empty() { trusted.to_owned() } else { format!("{trusted}: {all}") };
    if certificates.iter().any(odd) { Found::Odd(message) } else { Found::Good(message) }
}

/// Whether there are credentials for the later checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Yes,
    No,
}

const NO_CREDENTIALS: &str = "there are no credentials";

async fn identities(proof: &mut Proof, location: &Location, site: &dyn Site) -> Known {
    let mut failed = false;
    let steps = site.who().await;
    let reached = steps.len();
    for Step { hop, took, result } in steps {
        failed |= result.is_err();
        let found = result.map(|identity| {
            let account = identity.account.map_or_else(String::new, |account| format!(", account {account}"));
            let expiry = identity.expiry.map_or_else(String::new, |expiry| format!(", until {expiry}"));
            Found::Good(format!("{}{account}{expiry}", identity.arn))
        });
        proof.add(step_name(hop), took, found.map_err(|error| error.report()));
    }
    for hop in reached..=location.assume_role.len() {
        let message = format!("{} failed", step_name(reached.saturating_sub(1)));
        proof.add(step_name(hop), Duration::ZERO, Ok(Found::NotTried(message)));
    }
    if failed { Known::No } else { Known::Yes }
}

fn step_name(hop: usize) -> String {
    if hop == 0 { "base credentials".to_owned() } else { format!("AssumeRole {hop}") }
}

async fn connections(proof: &mut Proof, site: &dyn Site, skip: Skip) {
    let mut services = vec![("TLS s3", Service::S3), ("TLS sts", Service::Sts)];
    if skip == Skip::Nothing {
        services.push(("TLS ec2", Service::Ec2));
    }
    for (name, service) in services {
        let began = Instant::now();
        let Some(result) = site.handshake(service).await else { continue };
        let found = result.map(|handshake| match handshake {
            Handshake::Plain { url } => Found::Odd(format!("{url} is plain HTTP: nothing on the way is encrypted")),
            Handshake::Tls { url, protocol, certificate } => Found::Good(format!(
                "{url}: {protocol}, {} by {}, until {}",
                certificate.subject, certificate.issuer, certificate.not_after
            )),
        });
        proof.add(name, began.elapsed(), found.map_err(|error| error.report()));
    }
}

/// Checks the region, and the clock by the dates of the replies.
async fn bucket(proof: &mut Proof, location: &Location, site: &dyn Site, known: Known) {
    let began = Instant::now();
    let region = match known {
        Known::Yes => Some(site.bucket_region().await),
        Known::No => None,
    };
    let took = began.elapsed();
    proof.add("clock", Duration::ZERO, clock(site.skew()));
    proof.add(
        "region",
        took,
        match region {
            None => Ok(Found::NotTried(NO_CREDENTIALS.to_owned())),
            // A later check names what is missing.
            Some(Err(error)) if error.class == Class::AccessDenied => {
                Ok(Found::NotTried("HeadBucket, which is s3:ListBucket, was refused".to_owned()))
            }
            Some(Err(error)) => Err(error.report()),
            Some(Ok(found)) => judge_region(&location.region, found.as_deref(), location.s3_url.is_some()),
        },
    );
}

fn clock(skew: Option<i64>) -> Outcome {
    let Some(ahead) = skew else { return Ok(Found::NotTried("no server has answered".to_owned())) };
    let seconds = Duration::from_millis(ahead.unsigned_abs()).as_secs();
    let direction = if ahead > 0 { "behind" } else { "ahead of" };
    let message = format!("this host's clock is {seconds} s {direction} the server's");
    match ahead.unsigned_abs() {
        SKEW_REFUSED.. => Err(Report::new(Class::ClockSkew, message).remedy("fix NTP on this host")),
        SKEW_NOTED.. => Ok(Found::Odd(format!("{message}: fix NTP on this host"))),
        _ => Ok(Found::Good(message)),
    }
}

fn judge_region(configured: &str, found: Option<&str>, elsewhere: bool) -> Outcome {
    match found {
        None => Ok(Found::Good(format!("{configured}; the store does not say where the bucket is"))),
        Some(found) if found == configured => Ok(Found::Good(found.to_owned())),
        // Other stores use any name for their region, and accept any.
        Some(found) if elsewhere => {
            Ok(Found::Odd(format!("the bucket is in {found:?}, and `region` is {configured:?}")))
        }
        Some(found) => Err(Report::new(Class::Config, format!("the bucket is in {found:?}, not in {configured:?}"))
            .remedy(format!("set region = {found:?}"))),
    }
}

async fn ec2(proof: &mut Proof, opened: &opened::Location, site: &dyn Site, known: Known) {
    let tags = [(CLUSTER_TAG, opened.cluster.as_str()), (RESTORE_TAG, "validate")];
    let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    for action in Ec2Action::ALL {
        let name = format!("ec2:{}", action.as_str());
        if known == Known::No {
            proof.add(name, Duration::ZERO, Ok(Found::NotTried(NO_CREDENTIALS.to_owned())));
            continue;
        }
        let began = Instant::now();
        let result = site.dry_run(action, &tags).await;
        let found = result.map(|permission| match permission {
            Permission::Given => Found::Good("allowed (dry run)".to_owned()),
            Permission::Unknown => Found::Odd(NO_SNAPSHOT.to_owned()),
        });
        let found = found.map_err(|error| error.report());
        proof.add(name, began.elapsed(), found);
    }
}
