//! Turns a source's bytes into chunks, and chunks into frames.
//!
//! [`encode`] has a source read on a thread of its own, cuts its bytes by content ([`cut`]) on another, names and encodes the chunks
//! ([`crate::format::codec`]) on as many threads as configured, and returns the frames in stream order.

pub mod cut;
pub mod encode;
mod read;

pub use encode::{Encoder, Event, Options};
