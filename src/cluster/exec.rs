//! Commands in containers.

use std::fmt;

/// A command to run in a container. Nothing is its input.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
    /// A program and its arguments; no shell.
    pub command: &'a [String],
}

/// Debug output must not show the arguments, which may be passwords.
impl fmt::Debug for Exec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, pod, container, command } = self;
        let program = command.first().map(String::as_str).unwrap_or_default();
        write!(f, "{program} in {namespace}/{pod}, container {container}")
    }
}

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Executed {
    /// Why it did not succeed, as the server says: `command terminated with exit code 1`. `None` for the exit code 0.
    pub failure: Option<String>,
    /// The end of what it wrote, to standard output and standard error, at most [`MAX_OUTPUT`].
    pub output: String,
}

/// How much of a command's output is kept, here and in the manifest of a backup. docs/pod-volumes.md names it.
pub const MAX_OUTPUT: usize = 1 << 10;
