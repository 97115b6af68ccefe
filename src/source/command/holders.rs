//! Names the other processes that have a pipe open, for a message.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::fstat;

/// The most processes that a message names.
const NAMED: usize = 3;

/// `process 4711 (sleep)`, or no number if `/proc` does not show the process. Searches all processes whose descriptors it may
/// read.
pub(super) fn of(pipe: impl AsFd) -> String {
    let found = fstat(pipe).map(|stat| find(&format!("pipe:[{}]", stat.st_ino))).unwrap_or_default();
    if found.is_empty() { "a process that it started".to_owned() } else { format!("process {}", found.join(", ")) }
}

fn find(pipe: &str) -> Vec<String> {
    let own = std::process::id();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |id: &u32| *id != own && has_open(&Path::new("/proc").join(id.to_string()).join("fd"), pipe);
    ids.filter(holds).take(NAMED).map(described).collect()
}

fn has_open(descriptors: &Path, pipe: &str) -> bool {
    let open = std::fs::read_dir(descriptors).into_iter().flatten().flatten();
    open.filter_map(|entry| entry.path().read_link().ok()).any(|target| target == Path::new(pipe))
}

fn described(id: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{id}/comm")) {
        Ok(name) => format!("{id} ({})", name.trim_end().escape_debug()),
        Err(_) => id.to_string(),
    }
}
