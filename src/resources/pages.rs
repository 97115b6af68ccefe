//! Reads one list, page by page, and gives each of its objects once.
//!
//! - **Sized by bytes**: a page begins with [`FIRST`] objects; a large one halves the next, small ones let it grow back. The server builds
//!   a page in its memory; here it is a stream.
//! - **A connection that ends in mid-page** is asked again from the last continue token; what was yielded already is not yielded twice.
//! - **A token that expires** (410) is replaced by the one that the server offers: the list continues at the next key in the state of
//!   today, which [`ListReport::versions`] shows. Where it offers none the list starts again, and what comes before the last key is not
//!   yielded again, as long as the server sorts its lists.

use std::collections::{BTreeSet, HashSet};

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::item::Kind;
use super::list::{Entry, Fault, ListMetadata, ListReader};
use super::outlet::Closed;
use super::patience::Patience;
use crate::cluster::classify::SERVICE;
use crate::cluster::{Cluster, Failure, List, Resource};
use crate::error::{Class, Delivery, ServiceError};

/// Objects on the first page, and at most.
pub(super) const FIRST: u32 = 500;

/// A page of more bytes halves the next.
const LARGE: u64 = 16 << 20;

/// A page of fewer lets it grow.
const SMALL: u64 = 4 << 20;

/// A server whose tokens expire as fast as they are used would never end.
const MOST_EXPIRED: u64 = 1000;

/// Also a bound on what a server can make us do by never ending a list: 500 million objects.
const MOST_PAGES: u64 = 1_000_000;

/// Which list.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub resource: &'a Resource,
    pub namespace: Option<&'a str>,
    pub selector: &'a str,
}

/// How a list went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListReport {
    pub versions: BTreeSet<String>,
    pub pages: u64,
    pub expired: u64,
}

/// Why a list ended early.
#[derive(Debug)]
pub enum ListError {
    Failed(Failure),
    /// The one who takes the entries has gone.
    Closed,
}

/// Takes the entries of a list.
#[async_trait::async_trait]
pub trait Sink: Send {
    async fn accept(&mut self, entry: Entry) -> Result<(), Closed>;
}

/// Half of the SHA-256 of namespace and name: a server that pays no heed to `limit` sends any number of them on one page.
type Key = [u8; 16];

fn key(namespace: &str, name: &str) -> Key {
    let whole: [u8; 32] = Sha256::digest(format!("{namespace}/{name}").as_bytes()).into();
    let [key, _] = whole.as_chunks().0 else { unreachable!("32 bytes are two halves") };
    *key
}

/// What was yielded of a list, as far as it must be known so that nothing is yielded twice.
#[derive(Debug, Default)]
struct Yielded {
    /// What may come again: of the page that is being read, and what an attempt that broke off gave beyond the pages read since.
    page: HashSet<Key>,
    /// What came in this attempt.
    attempt: HashSet<Key>,
    last: Option<(String, String)>,
    unsorted: bool,
    /// The list started again: what is not after this key was yielded before.
    until: Option<(String, String)>,
}

impl Yielded {
    /// Whether the entry is a new one.
    fn is_new(&mut self, entry: &Entry) -> bool {
        let (namespace, name) = match entry {
            Entry::Object(item) => (&item.metadata.namespace, &item.metadata.name),
            Entry::TooLarge { namespace, name, .. } => (namespace, name),
        };
        // Nothing is known of a large object whose metadata stands at its end; it is only counted.
        if name.is_empty() {
            return true;
        }
        let (key, names) = (key(namespace, name), (namespace.clone(), name.clone()));
        self.attempt.insert(key);
        if self.until.as_ref().is_some_and(|until| !is_after(&names, until)) || self.page.contains(&key) {
            return false;
        }
        self.unsorted |= self.last.as_ref().is_some_and(|last| !is_after(&names, last));
        self.last = Some(names);
        self.page.insert(key);
        true
    }

    /// A page was read to its end: what was in it does not come again.
    fn page_ended(&mut self) {
        // A page that was asked for again may have been a shorter one.
        let attempt = std::mem::take(&mut self.attempt);
        self.page.retain(|key| !attempt.contains(key));
    }

    /// `false`: there is no telling what was yielded.
    fn start_again(&mut self) -> bool {
        self.page.clear();
        self.until.clone_from(&self.last);
        !self.unsorted
    }
}

/// In the order of etcd's keys, `NAMESPACE/NAME`.
fn is_after(key: &(String, String), other: &(String, String)) -> bool {
    let bytes = |(namespace, name): &(String, String)| format!("{namespace}/{name}");
    bytes(key) > bytes(other)
}

/// Objects on the next page.
#[must_use]
pub(super) fn next_limit(limit: u32, bytes: u64) -> u32 {
    match bytes {
        LARGE.. => (limit / 2).max(1),
        0..SMALL => limit.saturating_mul(2).min(FIRST),
        _ => limit,
    }
}

/// Gives every entry of the list to `sink`. `report` is valid however it ends.
///
/// # Errors
/// When the list cannot be read to its end, or nobody takes the entries.
pub async fn list(
    cluster: &dyn Cluster,
    patience: Patience,
    wanted: Wanted<'_>,
    report: &mut ListReport,
    sink: &mut dyn Sink,
) -> Result<(), ListError> {
    let (mut from, mut limit, mut yielded) = (None::<String>, FIRST, Yielded::default());
    let mut failures = patience.failures();
    loop {
        let Wanted { resource, namespace, selector } = wanted;
        let page = List { resource, namespace, selector, limit, from: from.as_deref() };
        let failure = match read_page(cluster, &page, &mut yielded, sink).await {
            Ok((metadata, bytes)) => {
                report.pages += 1;
                report.versions.extend(Some(metadata.resource_version).filter(|version| !version.is_empty()));
                if metadata.next.is_empty() {
                    return Ok(());
                }
                if report.pages >= MOST_PAGES || from.as_ref() == Some(&metadata.next) {
                    return Err(ListError::Failed(endless(wanted)));
                }
                (from, limit) = (Some(metadata.next), next_limit(limit, bytes));
                yielded.page_ended();
                failures = patience.failures();
                continue;
            }
            Err(ListError::Failed(failure)) => failure,
            Err(closed) => return Err(closed),
        };
        match &failure.expired {
            Some(expired) if report.expired < MOST_EXPIRED && (expired.token.is_some() || from.is_some()) => {
                report.expired += 1;
                from.clone_from(&expired.token);
                if from.is_none() && !yielded.start_again() {
                    return Err(ListError::Failed(failure));
                }
                tracing::info!(
                    resource = resource.name(),
                    "a list's continue token has expired; the list continues in a later state"
                );
                continue;
            }
            _ => {}
        }
        if !failures.wait(&failure).await {
            return Err(ListError::Failed(failure));
        }
        if was_begun(&failure) {
            // A page that the server did not bring to its end may be too much for it.
            limit = (limit / 2).max(1);
        }
        tracing::warn!(resource = resource.name(), class = %failure.error.class, error = %failure, limit, "listing again");
    }
}

/// Whether the server had the request and may have worked at it: not where it is down, busy with others, or does not know who asks.
fn was_begun(failure: &Failure) -> bool {
    failure.error.delivery == Delivery::Sent && !matches!(failure.error.status, Some(401 | 429))
}

async fn read_page(
    cluster: &dyn Cluster,
    page: &List<'_>,
    yielded: &mut Yielded,
    sink: &mut dyn Sink,
) -> Result<(ListMetadata, u64), ListError> {
    let mut body = cluster.list(page).await.map_err(ListError::Failed)?;
    let mut reader =
        ListReader::new(Kind { api_version: page.resource.api_version(), kind: page.resource.kind.clone() });
    let fault = |fault: &Fault| ListError::Failed(of_fault(page, fault));
    let mut bytes = 0;
    yielded.attempt.clear();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(ListError::Failed)?;
        bytes += piece.len() as u64;
        reader.feed(piece);
        while let Some(entry) = reader.next().map_err(|error| fault(&error))? {
            if yielded.is_new(&entry) {
                sink.accept(entry).await.map_err(|Closed| ListError::Closed)?;
            }
        }
    }
    let metadata = reader.finish().map_err(|error| fault(&error))?;
    Ok((metadata, bytes))
}

fn failed(path: String, class: Class, message: String) -> Failure {
    ServiceError {
        operation: "list",
        resource: path,
        service: SERVICE,
        class,
        status: None,
        code: None,
        message,
        request_id: None,
        remedy: None,
        delivery: Delivery::Sent,
    }
    .into()
}

fn of_fault(page: &List<'_>, fault: &Fault) -> Failure {
    let class = match fault {
        Fault::Cut => Class::Transient,
        Fault::NotAList(_) => Class::Compat,
        _ => Class::Integrity,
    };
    failed(page.resource.path(page.namespace), class, fault.to_string())
}

fn endless(wanted: Wanted<'_>) -> Failure {
    let path = wanted.resource.path(wanted.namespace);
    failed(path, Class::Compat, "the server's continue tokens do not lead to an end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_sized_by_bytes() {
        assert_eq!(next_limit(500, LARGE), 250);
        assert_eq!(next_limit(1, 4 << 30), 1);
        assert_eq!(next_limit(250, SMALL - 1), 500);
        assert_eq!(next_limit(500, 0), FIRST);
        assert_eq!(next_limit(250, SMALL), 250);
        // Objects of 1.5 MiB: soon a page holds no more than a handful.
        let mut limit = FIRST;
        for _ in 0..20 {
            limit = next_limit(limit, u64::from(limit) * (3 << 19));
        }
        assert!(u64::from(limit) * (3 << 19) <= 2 * LARGE, "{limit}");
    }

    #[test]
    fn only_a_page_that_was_begun_halves_the_next() {
        let cut = failed("/x".to_owned(), Class::Transient, "cut".to_owned());
        let answered =
            |status| Failure { error: ServiceError { status: Some(status), ..cut.error.clone() }, ..cut.clone() };
        let unconnected =
            Failure { error: ServiceError { delivery: Delivery::Never, ..cut.error.clone() }, ..cut.clone() };
        assert!(was_begun(&cut) && was_begun(&answered(500)) && was_begun(&answered(504)));
        for failure in [unconnected, answered(401), answered(429)] {
            assert!(!was_begun(&failure), "{failure}");
        }
    }

    fn entry(namespace: &str, name: &str) -> Entry {
        Entry::TooLarge { size: 1, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn nothing_is_given_twice() {
        let mut yielded = Yielded::default();
        assert!(yielded.is_new(&entry("a", "x")) && yielded.is_new(&entry("a", "y")));
        // The page again, from its beginning.
        assert!(
            !yielded.is_new(&entry("a", "x")) && !yielded.is_new(&entry("a", "y")) && yielded.is_new(&entry("b", "x"))
        );
        yielded.page_ended();
        assert!(yielded.page.is_empty() && yielded.start_again());
        for (namespace, name, new) in [("a", "w", false), ("b", "x", false), ("b", "y", true), ("c", "a", true)] {
            assert_eq!(yielded.is_new(&entry(namespace, name)), new, "{namespace}/{name}");
        }
        // A page that broke off, and then shorter ones.
        let mut yielded = Yielded::default();
        assert!(["a", "b", "c"].iter().all(|name| yielded.is_new(&entry("n", name))));
        yielded.attempt.clear();
        assert!(["a", "b"].iter().all(|name| !yielded.is_new(&entry("n", name))));
        yielded.page_ended();
        assert!(!yielded.is_new(&entry("n", "c")) && yielded.is_new(&entry("n", "d")));
        yielded.page_ended();
        assert!(yielded.page.is_empty());
        // etcd's order is that of the whole key: `-` comes before `/`.
        let mut yielded = Yielded::default();
        assert!(yielded.is_new(&entry("a-b", "x")) && yielded.is_new(&entry("a", "x")));
        assert!(yielded.start_again());
        let mut unsorted = Yielded::default();
        assert!(unsorted.is_new(&entry("b", "x")) && unsorted.is_new(&entry("a", "x")));
        assert!(!unsorted.start_again(), "what was yielded is not known");
    }
}
