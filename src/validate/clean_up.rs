//! Removes what validation wrote: each object, and in a versioned bucket each of its versions and delete markers.

use std::time::{Duration, Instant};

use super::objects::Made;
use super::{Found, Proof};
use crate::error::{Class, Classify as _, Report, ServiceError};
use crate::format::key::ObjectKey;
use crate::site::Site;
use crate::store::{Deleted, Store};

/// The time limit of the whole clean-up, also after a cancellation.
const TIME: Duration = Duration::from_secs(30);

/// A key is written twice at most, and deleted once.
const VERSIONS: usize = 4;

/// What could not be removed.
#[derive(Default)]
struct Remains {
    failed: Vec<(String, ServiceError)>,
    /// Objects whose versions were removed with them.
    versioned: usize,
    /// Objects whose versions stay, and why.
    hidden: Vec<Option<ServiceError>>,
}

/// Aborts and deletes what is left. Where anything was written, this is the DeleteObject check.
pub(super) async fn clean_up(proof: &mut Proof, store: &dyn Store, site: &dyn Site, made: &Made) {
    let left = std::mem::take(&mut *made.left());
    if left.objects.is_empty() {
        return;
    }
    let began = Instant::now();
    let removing = async {
        let mut remains = Remains::default();
        for upload in &left.uploads {
            if let Err(error) = store.abort_upload(upload).await {
                remains.failed.push((format!("the upload of {}", upload.key), error));
            }
        }
        for key in &left.objects {
            remove(store, site, key, &mut remains).await;
        }
        remains
    };
    let outcome = match tokio::time::timeout(TIME, removing).await {
        Err(_) => {
            let message = format!("could not delete all in {} s; left behind under {}", TIME.as_secs(), made.folder);
            Err(Report::new(Class::Timeout, message))
        }
        Ok(remains) => remains.outcome(left.objects.len()),
    };
    proof.add("s3:DeleteObject", began.elapsed(), outcome);
}

async fn remove(store: &dyn Store, site: &dyn Site, key: &ObjectKey, remains: &mut Remains) {
    let mut why = None;
    let mut versions = 0;
    while versions < VERSIONS {
        match site.version_of(key).await {
            Ok(Some(version)) => {
                if let Err(error) = store.delete_version(key, &version).await {
                    why = Some(error);
                    break;
                }
                versions += 1;
            }
            // Deleting a missing object would leave a delete marker.
            Err(error) if error.class == Class::NotFound => {
                remains.versioned += usize::from(versions > 0);
                return;
            }
            Ok(None) | Err(_) => break,
        }
    }
    match store.delete(key).await {
        Ok(Deleted::Gone) => {}
        Ok(Deleted::Hidden) => remains.hidden.push(why),
        Err(error) => remains.failed.push((key.to_string(), error)),
    }
}

impl Remains {
    fn outcome(&self, all: usize) -> Result<Found, Report> {
        if let Some((_, error)) = self.failed.first() {
            let names: Vec<_> = self.failed.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!("{error}; left behind: {}", names.join(", "));
            return Err(Report { message, ..error.report() });
        }
        let keeps = "the bucket keeps versions, so what Penstock deletes stays stored until a lifecycle rule \
                     (NoncurrentVersionExpiration) removes it";
        Ok(match (self.hidden.first(), self.versioned) {
            (None, 0) => Found::Good(format!("{all} objects removed")),
            (None, _) => Found::Good(format!("{all} objects removed with their versions; {keeps}")),
            (Some(why), _) => {
                let why = why.as_ref().map_or_else(String::new, |error| {
                    format!("; the versions could not be removed ({}), which is not needed otherwise", error.class)
                });
                Found::Odd(format!("{} of {all} objects are hidden, not removed: {keeps}{why}", self.hidden.len()))
            }
        })
    }
}
