//! A source's bytes become chunks, chunks become frames, and back.
//!
//! [`encode`] reads a source on a thread of its own, cuts its bytes by content ([`cut`]), hashes and compresses the chunks on as many
//! threads as configured ([`frame`]), and hands the frames over in stream order. [`frame::open`] is the way back.

pub mod cut;
pub mod encode;
pub mod frame;

pub use encode::{Encoder, Event, Options};
