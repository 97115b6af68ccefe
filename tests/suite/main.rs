//! One binary for every integration test: linking the SDK once is most of a test binary's cost.
//!
//! A test whose server or tool is missing fails; nothing here passes because its environment was not there.
#![allow(clippy::unwrap_used, reason = "clippy's own exception for tests does not see the helpers beside them")]

mod aws_client;
mod conformance;
mod corpus;
mod daemon;
mod daemon_site;
mod ec2_client;
mod end_to_end;
mod fake_ec2;
mod imports;
mod page;
mod retention;
mod servers;
mod snapshots;
mod tar;
mod watched;
