//! The volumes of the pods on this node: which are saved, where they lie, and whose commands run around it.
//!
//! - [`read`] asks the API server for the node's pods, their claims and volumes, as [`objects`].
//! - [`decide`] says of each volume whether it is saved, by what the pod's annotations [`wish`](wishes), and why not (`format::round`).
//!   A claim that pods of several nodes have mounted is saved by the one that [`elect`] names.
//! - [`place`] says where the kubelet has mounted it; [`look`] looks there.
//! - [`hooks`] reads the pods' commands, [`group`] says which volumes are read between them, [`thaw`] in which order everything happens,
//!   and [`owed`] is the record of what must still be run, whatever becomes of this process.
//! - [`record`] is what a round leaves behind, and tells the next one which claims are missing.
//!
//! Chains are named after claims in `format::claim`. Only [`api`] and [`look`] do I/O.

pub mod api;
pub mod decide;
pub mod elect;
pub mod group;
pub mod hooks;
pub mod look;
pub mod objects;
pub mod owed;
pub mod place;
pub mod plugins;
pub mod read;
pub mod record;
pub mod thaw;
pub mod wishes;

#[cfg(test)]
mod testing;
