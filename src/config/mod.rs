//! The configuration file.
pub mod model;
pub use model::*;
