//! `penstock completions` and `penstock man`, from the same description as `--help`.

use std::path::Path;

use clap::CommandFactory as _;

use super::Failure;
use super::args::Cli;
use super::output::Done;

pub(super) fn completions(shell: clap_complete::Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "penstock", &mut script);
    Done::text(String::from_utf8_lossy(&script).into_owned())
}

/// One page for the program and one for each command, in section 1.
pub(super) fn man(folder: &Path) -> Result<Done, Failure> {
    let failed = |error| Failure::local(&format!("write the man pages to {}", folder.display()), &error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    Ok(Done::new(format!("wrote the man pages to {}\n", folder.display()), serde_json::json!({ "folder": folder })))
}
