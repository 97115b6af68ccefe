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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const MARK: [u8; 32] = [0xa7; 32];

    #[inline(never)]
    fn leave() {
        let mut used = [0_u8; 6 << 10];
        used.fill(black_box(MARK[0]));
        black_box(&used);
    }

    /// How many marks the 8 KiB of stack below an address have.
    fn marks_below(address: u64) -> usize {
        let mut stack = vec![0; 8 << 10];
        File::open("/proc/self/mem").unwrap().read_exact_at(&mut stack, address - (8 << 10)).unwrap();
        memchr::memmem::find_iter(&stack, &MARK).count()
    }

    /// The reading leaves some of the stack as it was, so that without a scrub marks are found.
    #[test]
    fn what_a_call_left_on_the_stack_is_overwritten() {
        for scrub in [call, thread] {
            let here = black_box(0_u8);
            let address = (&raw const here).addr() as u64;
            leave();
            let left = marks_below(address);
            leave();
            scrub();
            assert_eq!((left > 20, marks_below(address)), (true, 0), "{left}");
        }
    }
}
