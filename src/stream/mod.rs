//! Turns a source's bytes into chunks, and chunks into frames.
//!
//! [`encode`] reads a source on its own thread, cuts its bytes by content ([`cut`]), names and encodes the chunks
//! ([`crate::format::codec`]) on as many threads as configured, and returns the frames in stream order.

pub mod cut;
pub mod encode;

pub use encode::{Encoder, Event, Options};
