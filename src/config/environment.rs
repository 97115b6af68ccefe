//! Input of the configuration besides its file: variables, the host's name, the number of cores.
//!
//! A trait, so that tests pass a map and never change the process's environment.

use std::collections::BTreeMap;

pub trait Environment {
    /// The variable's value; `None` if it is not set or not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;

    /// The node's name, if the file has none.
    fn host_name(&self) -> Option<String>;

    /// The number of compression threads if the file has 0. At least 1.
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
        // In a pod this is the pod's name, so the manifests set NODE_NAME.
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
