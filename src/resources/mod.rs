//! A cluster's API objects: what is served, what of it is saved, and each object as the bytes that the server sent.
//!
//! - [`discovery`] parses what a server serves, [`discover`] requests it; [`select`] decides which kinds are listed, [`skip`] which
//!   objects are not saved, [`refer`] which cluster-scoped ones are.
//! - [`list`] reads a list from a stream and returns each object's bytes; [`pages`] reads a whole list, despite broken connections and
//!   expired continue tokens.
//! - [`lister`] lists a cluster, passes each object to an [`outlet`], and records (`format::cluster`) what was saved and what was not.
//! - [`place`] parses a member's path.
//!
//! Memory is bounded, whatever the size of the cluster: one object while it is read, the members in the outlet, one page's names.

pub mod discover;
pub mod discovery;
pub mod item;
pub mod list;
pub mod lister;
pub mod outlet;
pub mod pages;
pub mod patience;
pub mod place;
pub mod refer;
mod scan;
pub mod select;
pub mod skip;
