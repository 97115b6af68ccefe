//! The `penstock` program.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Zeroes what is freed: what was backed up or encrypted is not in this process's memory afterwards (docs/decisions/0084).
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    penstock::cli::main()
}
