//! `penstock stats`: the space that the backups of each job and node use.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::args;
use super::list::must_be_known;
use super::output::{self, Done};
use super::session::Session;
use crate::catalog::Scope;
use crate::config::Config;
use crate::format::key::Chain;
use crate::stats::{self, LookAt, Stats};

pub(super) async fn run(config: &Config, args: &args::Stats, cancel: &CancellationToken) -> Result<Done, Failure> {
    let node = args.whose.node();
    let scope = Scope { job: args.whose.job.as_ref(), node: node.as_ref() };
    let mut all: BTreeMap<(String, Chain), Stats> = BTreeMap::new();
    let catalogs = Session::reading(config, &args.place, cancel).catalogs(args.place.location.as_deref())?;
    for catalog in &catalogs {
        let locks = catalog.location.config.object_lock.is_some();
        let look_at = if args.versions || locks { LookAt::Versions } else { LookAt::Objects };
        let chains = stats::stats(catalog, scope, look_at).await?;
        all.extend(chains.into_iter().map(|(chain, stats)| ((catalog.location.name().to_owned(), chain), stats)));
    }
    if all.is_empty() {
        must_be_known(config, &catalogs, scope, args.place.cluster.as_ref()).await?;
    }
    let total = stats::total(all.values());
    let mut text = line(
        "LOCATION",
        "JOB",
        "NODE",
        ["BACKUPS", "PLAIN", "STORED", "LIVE", "DEAD", "FULL", "HIDDEN"].map(str::to_owned),
    );
    let mut rows: Vec<Value> = Vec::new();
    for ((location, chain), stats) in &all {
        let node = output::chain_name(&chain.node);
        text.push_str(&line(location, chain.job.as_str(), &node, figures(stats)));
        let mut row = json!(stats);
        row["location"] = json!(location);
        row["job"] = json!(chain.job);
        row["node"] = json!(chain.node);
        rows.push(row);
    }
    if all.len() > 1 {
        text.push_str(&line("total", "", "", figures(&total)));
    }
    Ok(Done::new(text, json!({ "stats": rows, "total": total })))
}

fn figures(stats: &Stats) -> [String; 7] {
    let Stats { backups, plain_bytes, stored_bytes, live_bytes, dead_bytes, full_bytes, .. } = stats;
    let [plain, stored, live, dead, full] =
        [plain_bytes, stored_bytes, live_bytes, dead_bytes, full_bytes].map(|bytes| output::size(*bytes));
    let hidden = stats.hidden_bytes.map_or_else(String::new, output::size);
    [backups.to_string(), plain, stored, live, dead, full, hidden]
}

fn line(location: &str, job: &str, node: &str, figures: [String; 7]) -> String {
    let [backups, plain, stored, live, dead, full, hidden] = figures;
    let text = format!(
        "{location:<12} {job:<12} {node:<16} {backups:>7} {plain:>11} {stored:>11} {live:>11} {dead:>11} {full:>11} {hidden:>11}"
    );
    text.trim_end().to_owned() + "\n"
}
