//! Overwrites what functions leave on the stack: keys, and the last bytes of what they read. A thread keeps its stack while it waits, and
//! when it ends the C library keeps it for the next one (docs/decisions/0084).

use zeroize::Zeroize as _;

/// Bytes of stack that one call of a library may have used.
const CALL: usize = 8 << 10;

/// Bytes of stack that a thread's work may have used, in the parts where it had something of the source.
const THREAD: usize = 64 << 10;

/// After a call, in the function that made it.
pub fn call() {
    overwrite::<{ CALL / size_of::<u128>() }>();
}

/// After a thread's work, in the function that began it.
pub fn thread() {
    overwrite::<{ THREAD / size_of::<u128>() }>();
}

/// In words as long as the processor can write at once: each is written on its own.
#[inline(never)]
fn overwrite<const WORDS: usize>() {
    let mut used = [0_u128; WORDS];
    used.zeroize();
    std::hint::black_box(&used);
}
