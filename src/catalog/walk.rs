//! Reads a listing page by page.
//!
//! Only one page is in memory. A listing that does not advance is an error, whatever its pages and tokens: a page that ends as an earlier
//! one did, or a repeated token, is found after at most three times as many requests as the store takes to repeat itself. (Keys need not
//! come in order: some stores list a folder's content before keys that sort before its slash.)

use super::{Catalog, Error, Found, Scope};
use crate::error::Class;
use crate::format::key::{BackupPrefix, Kind, ObjectKey};
use crate::store::{self, ListedObject, PAGING_REMEDY, Page};

/// Successive pages without an object. A store may skip deleted objects, but not for ever.
const MAX_EMPTY: u32 = 10_000;

/// The objects below a prefix that Penstock wrote.
pub struct Pages<'a> {
    catalog: &'a Catalog,
    scope: Scope<'a>,
    prefix: ObjectKey,
    from: Option<String>,
    ended: bool,
    advance: Advance,
}

impl<'a> Pages<'a> {
    pub(super) fn new(catalog: &'a Catalog, scope: Scope<'a>, prefix: String) -> Self {
        Self { catalog, scope, prefix: ObjectKey::new(prefix), from: None, ended: false, advance: Advance::default() }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// When listing fails, or does not advance.
    pub async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let location = &self.catalog.location;
        let page = location.store.list(self.prefix.as_str(), self.from.as_deref()).await?;
        if !self.advance.page(&page) {
            let message = "the store's listing does not advance: it repeats earlier pages";
            let error = store::Error::local("ListObjectsV2", &self.prefix, Class::Compat, message);
            return Err(store::Error { remedy: Some(PAGING_REMEDY.to_owned()), ..error }.into());
        }
        self.ended = page.next.is_none();
        self.from = page.next;
        let found = |ListedObject { key, size, modified, etag }| {
            let (chain, id, kind) = BackupPrefix::parse_object(location.prefix(), &location.cluster, &key)?;
            self.scope.holds(&chain).then_some(Found {
                key,
                chain,
                id,
                kind,
                size,
                modified,
                etag: etag.filter(|_| kind == Kind::Manifest),
            })
        };
        Ok(Some(page.objects.into_iter().filter_map(found).collect()))
    }

    /// How many pages were read so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.advance.pages
    }
}

/// Brent's cycle detection: every page is compared with one earlier page, the first, second, fourth, eighth and so on.
#[derive(Debug, Default)]
struct Advance {
    pages: u64,
    empty: u32,
    last_key: Option<ObjectKey>,
    token: Option<String>,
}

impl Advance {
    /// Whether the listing advances.
    fn page(&mut self, page: &Page) -> bool {
        let last_key = page.objects.last().map(|object| &object.key);
        self.empty = if last_key.is_none() { self.empty + 1 } else { 0 };
        let again = |one: Option<&str>, other: Option<&str>| one.is_some() && one == other;
        let repeated = again(last_key.map(ObjectKey::as_str), self.last_key.as_ref().map(ObjectKey::as_str))
            || again(page.next.as_deref(), self.token.as_deref());
        self.pages += 1;
        if self.pages.is_power_of_two() {
            (self.last_key, self.token) = (last_key.cloned(), page.next.clone());
        }
        !repeated && (page.next.is_none() || self.empty < MAX_EMPTY)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(key: Option<u64>, token: Option<u64>) -> Page {
        let object = |key| ListedObject {
            key: ObjectKey::new(format!("{key}")),
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
            etag: None,
        };
        Page { objects: key.map(object).into_iter().collect(), next: token.map(|token| token.to_string()) }
    }

    proptest! {
        /// A store that repeats its keys or its tokens, after any beginning, is found out soon.
        #[test]
        fn a_listing_that_repeats_itself_ends(beginning in 0_u64..50, period in 1_u64..50, keys in any::<bool>()) {
            let mut advance = Advance::default();
            let at = |number: u64| if number < beginning { number } else { beginning + (number - beginning) % period };
            let mut goes_on = |number: &u64| {
                let (key, token) = if keys { (Some(at(*number)), *number) } else { (None, at(*number)) };
                advance.page(&page(key, Some(token)))
            };
            let most = 3 * (beginning + period) + 1;
            prop_assert!(!(0..=most).all(|number| goes_on(&number)), "more than {most} pages");
        }

        /// A listing that advances is read to its end.
        #[test]
        fn a_listing_that_advances_goes_on(pages in 1_u64..300, empty in 0_u64..3) {
            let mut advance = Advance::default();
            for number in 0..pages {
                let key = (number % 3 >= empty).then_some(number);
                prop_assert!(advance.page(&page(key, (number + 1 < pages).then_some(number))));
            }
        }
    }

    #[test]
    fn empty_pages_do_not_go_on_for_ever() {
        let mut advance = Advance::default();
        let ends = (1..=u64::from(MAX_EMPTY)).find(|number| !advance.page(&page(None, Some(*number))));
        assert_eq!(ends, Some(MAX_EMPTY.into()));
    }
}
