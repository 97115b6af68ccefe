//! A source's bytes become chunks, and chunks become frames.
//!
//! [`encode`] reads a source on a thread of its own, cuts its bytes by content ([`cut`]), names and encodes the chunks
//! ([`crate::format::codec`]) on as many threads as configured, and hands the frames over in stream order.

pub mod cut;
pub mod encode;

pub use encode::{Encoder, Event, Options};
