//! Overwrites what functions leave on the stack: keys, and the last bytes of what they read. A thread keeps its stack while it waits, and
//! when it ends the C library keeps it for the next one (docs/decisions/0084).

use zeroize::Zeroize as _;

/// Stack that one call of a library may have used: 8 KiB, in words as long as the processor can write at once.
const CALL: usize = 512;

/// Stack that a thread's work may have used, in the parts where it had something of the source: 64 KiB, in such words.
const THREAD: usize = 4096;

/// After a call, in the function that made it.
pub fn call() {
    overwrite::<CALL>();
}

/// After a thread's work, in the function that began it.
pub fn thread() {
    overwrite::<THREAD>();
}

#[inline(never)]
fn overwrite<const WORDS: usize>() {
    let mut used = [0_u128; WORDS];
    used.zeroize();
    std::hint::black_box(&used);
}
