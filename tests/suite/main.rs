//! One binary for every integration test: linking the SDK once is most of a test binary's cost.
//!
//! A test whose server or tool is missing fails; nothing here passes because its environment was not there.
#![allow(clippy::unwrap_used, reason = "clippy's own exception for tests does not see the helpers beside them")]

mod archives;
mod aws_client;
mod base_credentials;
mod binary;
mod classes;
mod cluster_backup;
mod cluster_drill;
mod cluster_objects;
mod cluster_restore;
mod conformance;
mod conformance_versions;
mod corpus;
mod crash;
mod daemon;
mod daemon_callers;
mod daemon_site;
mod daemon_trouble;
mod dying;
mod ec2_client;
mod end_to_end;
mod fake_ec2;
mod fake_kubernetes;
mod faults;
mod file_list;
mod frozen;
mod imports;
mod incremental;
mod kubernetes;
mod layouts;
mod listings;
mod lock_upkeep;
mod locking_s3;
mod memory;
mod model;
mod moto;
mod odd_files;
mod page;
mod ransomware;
mod restoring;
mod retention;
mod servers;
mod sessions;
mod snapshots;
mod sources;
mod stores;
mod tar;
mod trust;
mod uploads;
mod validate_locks;
mod watched;
mod wire;
