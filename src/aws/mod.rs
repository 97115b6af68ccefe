//! The AWS adapter.
pub mod classify;
pub mod tls;
