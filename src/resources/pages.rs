//! Reads one list, page by page, and yields each of its objects once.
//!
//! - **Sized by bytes**: a page begins with [`FIRST`] objects; a large one halves the next, small ones let it grow back. The server builds
//!   a page in its memory; here it is a stream.
//! - **A connection that ends within a page**: the page is requested again with the last continue token; no object is yielded twice.
//! - **A token that expires** (410) is replaced by the one that the server offers: the list continues at the next key in the current
//!   state, which [`ListReport::versions`] shows. Without such a token the list starts again, and objects up to the last key are not
//!   yielded again, provided that the server sorts its lists.

use std::collections::{BTreeSet, HashSet};

use futures_util::StreamExt as _;

use super::item::Kind;
use super::list::{Entry, Fault, ListMetadata, ListReader};
use super::outlet::Closed;
use super::patience::Patience;
use crate::checksum::fingerprint;
use crate::cluster::classify::SERVICE;
use crate::cluster::{Cluster, Failure, List, Resource};
use crate::error::{Class, Delivery, ServiceError};

/// The number of objects on the first page, and the most on any.
pub(super) const FIRST: u32 = 500;

/// A page of more bytes halves the next one.
const LARGE: u64 = 16 << 20;

/// A page of fewer bytes doubles the next one.
const SMALL: u64 = 4 << 20;

/// Ends a list whose tokens expire as fast as they are used.
const MOST_EXPIRED: u64 = 1000;

/// Also bounds the work that a server can cause by never ending a list: 500 million objects.
const MOST_PAGES: u64 = 1_000_000;

/// Which list.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub resource: &'a Resource,
    pub namespace: Option<&'a str>,
    /// A label selector.
    pub selector: &'a str,
    /// A field selector.
    pub fields: &'a str,
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
    /// The sink has ended.
    Closed,
}

/// Takes the entries of a list.
#[async_trait::async_trait]
pub trait Sink: Send {
    async fn accept(&mut self, entry: Entry) -> Result<(), Closed>;
}

/// Half of the SHA-256 of namespace and name: a server that ignores `limit` sends any number of objects on one page.
type Key = [u8; 16];

fn key(namespace: &str, name: &str) -> Key {
    fingerprint(format!("{namespace}/{name}").as_bytes())
}

/// The yielded objects of a list that may come again.
#[derive(Debug, Default)]
struct Yielded {
    /// Objects of the page that is being read, and those that an interrupted attempt yielded beyond the pages read since.
    page: HashSet<Key>,
    /// Objects of this attempt.
    attempt: HashSet<Key>,
    last: Option<(String, String)>,
    unsorted: bool,
    /// The list started again: objects up to this key were yielded before.
    until: Option<(String, String)>,
}

impl Yielded {
    /// Whether the entry has not been yielded before.
    fn is_new(&mut self, entry: &Entry) -> bool {
        let (namespace, name) = match entry {
            Entry::Object(item) => (&item.metadata.namespace, &item.metadata.name),
            Entry::TooLarge { namespace, name, .. } => (namespace, name),
        };
        // A large object whose metadata is at its end has no known name; it is only counted.
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

    /// Notes that a page was read to its end: its objects do not come again.
    fn page_ended(&mut self) {
        // A page that is requested again may be shorter than before.
        let attempt = std::mem::take(&mut self.attempt);
        self.page.retain(|key| !attempt.contains(key));
    }

    /// Returns `false` if it is unknown what was yielded.
    fn start_again(&mut self) -> bool {
        self.page.clear();
        self.until.clone_from(&self.last);
        !self.unsorted
    }
}

/// By etcd's keys, `NAMESPACE/NAME`.
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

/// Passes every entry of the list to `sink`. `report` is valid however the list ends.
///
/// # Errors
/// When the list cannot be read to its end, or the sink has ended.
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
        let Wanted { resource, namespace, selector, fields } = wanted;
        let page = List { resource, namespace, selector, fields, limit, from: from.as_deref() };
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
                    "a list's continue token has expired; the list continues in a later state of the cluster"
                );
                continue;
            }
            _ => {}
        }
        if !failures.wait(&failure).await {
            return Err(ListError::Failed(failure));
        }
        if was_begun(&failure) {
            // The server may be unable to complete a page of this size.
            limit = (limit / 2).max(1);
        }
        tracing::warn!(resource = resource.name(), class = %failure.error.class, error = %failure, limit, "a page failed: listing again");
    }
}

/// Whether the server may have worked on the request: not if it is down or busy, or does not accept the credentials.
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
    failed(path, Class::Compat, "the list did not end within the limit of pages and expired continue tokens".to_owned())
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
        // Objects of 1.5 MiB: after a few pages, a page has no more than a handful.
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
        // A page that was interrupted, and then shorter ones.
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
