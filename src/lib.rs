//! Penstock: the backup data path for Kubernetes clusters on AWS.
//!
//! Data flows one way, **source → chunk → frame → part → store**, and a backup is committed by its manifest. Imports
//! go only downward in this list, and within the ground; `tests/suite/imports.rs` reads the list and checks the rule:
//!
//! 1. [`cli`]: arguments in, exit code out.
//! 2. [`daemon`]: when things run.
//! 3. The commands' work: [`job`], [`restore`], [`reinstate`], [`verify`], [`validate`], [`prune`], [`undelete`], [`hold`],
//!    [`stats`], [`find`]; [`policy`]: its permissions.
//! 4. [`inventory`]: the API objects in a cluster's backup, which a restore into a cluster reads.
//! 5. [`object_lock`]: keeps locked what backups need.
//! 6. Shared by them: [`download`], from stored chunks back to plain bytes, [`catalog`] and [`retention`].
//! 7. The engine: [`stream`] and [`upload`]; [`snapshot`] for EBS volumes.
//! 8. The [`source`]s that it reads, which know neither stream nor upload.
//! 9. [`claims`]: the volumes of the pods on a node.
//! 10. [`resources`]: the API objects of a Kubernetes cluster, which one of the sources reads.
//! 11. [`location`]: one opened location, which all of the above use.
//! 12. [`retry`]: repeats failed requests; [`state`]: records that outlive the process; [`process`]: what all work shares.
//! 13. The ports: [`store`], [`disks`], [`cluster`], and [`site`] for identity, trust and permissions.
//! 14. The adapters: [`aws`], the only module that names an `aws_*` crate, and [`kube`], the only one that names a `kube` crate;
//!     `cli` plugs them into the ports.
//! 15. The ground: [`tar`], [`age`], [`config`], [`mod@format`], [`error`], [`metrics`], [`budget`], [`limits`],
//!     [`checksum`], [`scrub`], [`clock`], [`backoff`], [`network`], [`nearest`], [`pattern`].

pub mod age;
pub mod aws;
pub mod backoff;
pub mod budget;
pub mod catalog;
pub mod checksum;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod disks;
pub mod download;
pub mod error;
pub mod find;
pub mod format;
pub mod hold;
pub mod inventory;
pub mod job;
pub mod kube;
pub mod limits;
pub mod location;
pub mod metrics;
pub mod nearest;
pub mod network;
pub mod object_lock;
pub mod pattern;
pub mod policy;
pub mod process;
pub mod prune;
pub mod reinstate;
pub mod resources;
pub mod restore;
pub mod retention;
pub mod retry;
pub mod scrub;
pub mod site;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod stats;
pub mod store;
pub mod stream;
pub mod tar;
pub mod undelete;
pub mod upload;
pub mod validate;
pub mod verify;
