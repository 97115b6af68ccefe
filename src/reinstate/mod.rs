//! Puts a backup's API objects back into a cluster.
//!
//! What becomes of one object is decided here without I/O, each decision a table or a function of the object alone:
//!
//! - [`rank`]: which kinds are made before which.
//! - [`left_out`]: which objects are not made, and what is done where the cluster has made one by itself.
//! - [`mapping`]: namespaces and storage classes under other names; what else still names the old one.
//! - [`clean`]: what of an object is not sent, kind by kind.
//! - [`owners`]: owner references with the UIDs of the new owners.
//! - [`needs`]: names of other objects that it cannot do without.
//! - [`volumes`]: whether a volume that is there is the one that a claim had.
//! - [`compare`]: whether a live object is what would be restored; [`merge`]: what a service account that is there lacks.
//!
//! The order for one object: [`left_out::left_out`], then [`mapping::Mapping::apply`], [`clean::clean`], and [`owners::relink`], which
//! must come before the object is sent: `clean` leaves the owner references in place, and the garbage collector deletes within a
//! second what has an owner that is not there.
//!
//! # What it promises
//! Objects are untrusted: whatever shape a field has, nothing here panics, and a field of an unexpected shape stays as it is, for the
//! server to judge. Nothing here hands out a field's value but names that one object has for another; differences are field paths.

pub mod clean;
pub mod compare;
mod fields;
pub mod left_out;
pub mod mapping;
pub mod merge;
pub mod needs;
pub mod owners;
pub mod rank;
pub mod volumes;
