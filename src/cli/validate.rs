//! `penstock validate` and `penstock policy`.

use std::sync::Arc;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{Policy, Skipped, Validate};
use super::key::identities;
use super::output::Done;
use super::{Failure, session};
use crate::age::Identity;
use crate::aws::{self, AwsLocation};
use crate::config::{Config, Location, SourceKind};
use crate::error::Classify as _;
use crate::location as opened;
use crate::metrics::Metrics;
use crate::policy::{self, Principal, Snapshots, Trusted};
use crate::process::Process;
use crate::validate::cluster::Sources;
use crate::validate::{self, Proof, Skip, prove};

/// Validates the named locations, or all of them, one after the other.
pub(super) async fn validate(config: &Config, args: &Validate, cancel: &CancellationToken) -> Result<Done, Failure> {
    let locations = if args.locations.is_empty() {
        config.locations.values().collect()
    } else {
        args.locations.iter().map(|name| session::location(config, Some(name))).collect::<Result<Vec<_>, _>>()?
    };
    let identities = identities(config, &args.key)?;
    let skip = if args.skip.contains(&Skipped::Ec2) { Skip::Ec2 } else { Skip::Nothing };
    let mut proofs = Vec::new();
    for location in locations {
        if !cancel.is_cancelled() {
            proofs.push(one(config, location, &identities, skip, cancel).await);
        }
    }
    let mut json = json!({ "locations": proofs.iter().map(Proof::to_json).collect::<Vec<_>>() });
    let sources = cluster_sources(config, &args.locations);
    let needs_a_cluster = !sources.objects.is_empty() || !sources.claims.is_empty();
    if needs_a_cluster && !cancel.is_cancelled() {
        let proof = validate::cluster::prove(&session::cluster(config), &sources, &config.node, cancel).await;
        json["kubernetes"] = proof.to_json();
        proofs.push(proof);
    }
    let text: Vec<_> = proofs.iter().map(Proof::to_text).collect();
    let done = Done::new(text.join("\n"), json);
    let first = proofs.iter().find_map(Proof::first_failure);
    Ok(match first {
        Some(report) => done.code(report.class.exit_code()),
        None => done,
    })
}

/// The sources that ask a cluster, and save to the named locations or to any.
fn cluster_sources<'a>(config: &'a Config, locations: &[String]) -> Sources<'a> {
    let jobs = config.jobs.values().filter(|job| locations.is_empty() || locations.contains(&job.location));
    let sources = jobs.flat_map(|job| job.sources.iter().map(move |source| (job, source)));
    let mut found = Sources::default();
    for (job, source) in sources {
        let name = format!("{} {}", job.name, source.name);
        match &source.kind {
            SourceKind::Kubernetes(objects) => found.objects.push((name, objects)),
            SourceKind::Claims(claims) => found.claims.push((name, claims)),
            _ => {}
        }
    }
    found
}

async fn one(
    config: &Config,
    location: &Location,
    identities: &Arc<[Identity]>,
    skip: Skip,
    cancel: &CancellationToken,
) -> Proof {
    let process = Process::of(config, Metrics::new());
    let connected = match AwsLocation::connect(location, process.metrics.location(&location.name)) {
        Ok(connected) => Arc::new(connected),
        Err(error) => {
            let check = match error {
                aws::Error::Bundle { .. } => "certificate",
                aws::Error::Proxy { .. } | aws::Error::Url { .. } => "configuration",
            };
            return Proof::refused(&location.name, check, error.report());
        }
    };
    let whose = (&config.cluster, &config.node);
    let opened = opened::Location::new(connected.clone(), location, whose, &process);
    let opened = opened.with_identities(Arc::clone(identities));
    prove(&opened, &*connected, skip, cancel).await
}

pub(super) fn policy(config: &Config, args: &Policy) -> Result<Done, Failure> {
    let location = session::location(config, args.location.as_deref())?;
    let refused = |error: policy::Error| Failure::Usage(error.to_string());
    if args.caller {
        return policy::callers(location).map(Done::json).map_err(refused);
    }
    if args.trust {
        return policy::trust(location, &trusted(args)).map(Done::json).map_err(refused);
    }
    let configured = location.encryption.kms_key_id.as_deref();
    let key = args.kms_key.as_deref().or(configured.filter(|key| key.starts_with("arn:")));
    if let (Some(id), None) = (configured, key) {
        let message = format!("the location's key is {id:?}, and a policy needs its ARN: give it with --kms-key");
        return Err(Failure::Usage(message));
    }
    let snapshots = if args.skip.contains(&Skipped::Ec2) { Snapshots::No } else { Snapshots::Yes };
    policy::permissions(location, &config.cluster, key, snapshots).map(Done::json).map_err(refused)
}

fn trusted(args: &Policy) -> Vec<Trusted> {
    let who = match (&args.role, &args.user) {
        (Some(role), _) => Principal::Role(role.clone()),
        (None, Some(user)) => Principal::User(user.clone()),
        (None, None) => Principal::Account,
    };
    let first = args.account.iter().map(|account| Trusted {
        account: account.clone(),
        who: who.clone(),
        external_id: args.external_id.clone(),
    });
    let also = args.also.iter().map(|also| match also.split_once('/') {
        None => Trusted { account: also.clone(), who: Principal::Account, external_id: None },
        Some((account, role)) => {
            Trusted { account: account.to_owned(), who: Principal::Role(role.to_owned()), external_id: None }
        }
    });
    first.chain(also).collect()
}
