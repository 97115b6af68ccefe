//! The real binary, in an environment of its own: nothing that a developer's shell exports decides anything.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A configuration, and the variables the binary is started with.
#[derive(Debug, Clone)]
pub(crate) struct Penstock {
    config: PathBuf,
    variables: Vec<(String, String)>,
}

impl Penstock {
    pub(crate) fn new(folder: &Path, config: &str) -> Self {
        let path = folder.join("penstock.toml");
        fs::write(&path, config).unwrap();
        // No instance metadata unless a test says where: asking for it takes seconds where there is none.
        Self { config: path, variables: vec![("AWS_EC2_METADATA_DISABLED".into(), "true".into())] }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// With `--output json`: the exit code and the one document.
    pub(crate) fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[&["--output", "json"][..], arguments].concat());
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), value)
    }

    /// Runs a block of the docs, which call the binary by its name, and returns what it printed.
    pub(crate) fn shell(&self, folder: &Path, block: &str) -> String {
        let command = self.command(&[]);
        let words = [command.get_program()].into_iter().chain(command.get_args()).map(|word| word.to_str().unwrap());
        let script = folder.join("bin/penstock");
        fs::create_dir_all(script.parent().unwrap()).unwrap();
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.collect::<Vec<_>>().join(" "))).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", script.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euxo", "pipefail", "-c", block]).env_clear().env("PATH", path);
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{block}\n{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where success is meant.
    pub(crate) fn good(&self, arguments: &[&str]) -> Value {
        let (code, value) = self.json(arguments);
        assert_eq!(code, 0, "{arguments:?}: {value:#}");
        value
    }
}
