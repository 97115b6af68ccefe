//! Waits for custom resource definitions, whose kinds the next objects are of.

use std::time::Duration;

use serde_json::Value;

use super::run::{DEFINITIONS, LOOK, Work};
use super::target::Served as _;
use super::{Error, Summary};
use crate::cluster::Object;

/// How long a definition may take to be established.
const ESTABLISHED: Duration = Duration::from_secs(60);

/// Between two discoveries, which are larger.
const DISCOVER: Duration = Duration::from_secs(1);

impl Work<'_> {
    /// Waits until definitions are established and discovery knows their kinds: servers of one cluster learn of them one after another.
    pub(super) async fn established(&self, names: &[Box<str>], summary: &mut Summary) -> Result<(), Error> {
        self.restore.progress.set("waiting for definitions");
        let served = self.target.served();
        let Some(resource) = served.find(DEFINITIONS) else { return Ok(()) };
        let until = tokio::time::Instant::now() + ESTABLISHED;
        for name in names {
            let object = Object { resource, namespace: None, name };
            loop {
                let live = self.target.get(&object).await?.unwrap_or_default();
                if is_true(&live, "Established") && is_true(&live, "NamesAccepted") {
                    break;
                }
                if tokio::time::Instant::now() >= until {
                    summary
                        .notes
                        .push(format!("the definition {name} is not established after {} s", ESTABLISHED.as_secs()));
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        loop {
            self.target.discover().await?;
            if names.iter().all(|name| self.serves(name)) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                let missing: Vec<&str> = names.iter().map(|name| &**name).filter(|name| !self.serves(name)).collect();
                summary.notes.push(format!(
                    "the server does not serve {} after {} s",
                    missing.join(", "),
                    ESTABLISHED.as_secs()
                ));
                return Ok(());
            }
            tokio::time::sleep(DISCOVER).await;
        }
    }
}

fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|found| found["type"] == condition && found["status"] == "True")
}
