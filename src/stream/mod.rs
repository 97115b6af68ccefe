//! A source's bytes become chunks, and chunks become frames.
//!
//! [`encode`] reads a source on a thread of its own, cuts its bytes by content ([`cut`]), names and encodes the chunks
//! ([`crate::format::codec`]) on as many threads as configured, and hands the frames over in stream order.

pub mod cut;
pub mod encode;

use std::sync::Arc;

pub use encode::{Encoder, Event, Options};

use crate::error::{Class, Report};

/// The threads that compress and decompress chunks, for everything that a process does.
///
/// # Errors
/// When they cannot be started.
pub fn pool(threads: usize) -> Result<Arc<rayon::ThreadPool>, Report> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = builder.thread_name(|index| format!("penstock-pack-{index}")).build();
    pool.map(Arc::new).map_err(|error| Report::new(Class::Local, format!("starting threads: {error}")))
}
