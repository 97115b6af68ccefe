//! A cluster's API objects: what is served, what of it is saved, and each object as the bytes that the server sent.
//!
//! - [`discovery`] reads what a server serves, [`discover`] asks for it; [`select`] decides which kinds are listed, [`skip`] which
//!   objects are not saved, [`refer`] which cluster-scoped ones are.
//! - [`list`] reads a list from a stream and gives each object's bytes; [`pages`] does so over a whole list, whatever happens to its
//!   connection or its continue token.
//! - [`lister`] does it for a cluster, puts each object into an [`outlet`], and ends with a record (`format::cluster`) of what was saved and what was not.
//! - [`place`] reads a member's path back.
//!
//! Memory is bounded whatever the cluster holds: one object while it is read, the members in the outlet, one page's names.

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
