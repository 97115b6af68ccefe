//! What the configuration takes from outside its file: variables, the host's name, the number of cores.
//!
//! Passed in as a value so that tests pass a map and never touch the process.

use std::collections::BTreeMap;

pub trait Environment {
    /// The variable's value; `None` when it is not set (or is not UTF-8: the file could not hold it either).
    fn variable(&self, name: &str) -> Option<String>;

    /// Names the node where the file does not.
    fn host_name(&self) -> Option<String>;

    /// How many threads compress where the file says 0. At least 1.
    fn cores(&self) -> usize;
}

/// The process's own environment and host.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Environment for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn host_name(&self) -> Option<String> {
        // The kernel's own answer; in a pod that is the pod's name, which is why the manifests set NODE_NAME.
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| self.variable("HOSTNAME"))
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}

/// A map as the environment: `HOSTNAME` is the host's name, and there is one core.
impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn host_name(&self) -> Option<String> {
        self.variable("HOSTNAME")
    }

    fn cores(&self) -> usize {
        1
    }
}
