#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // A refusal is a result like another.
    let _ = penstock_fuzz::age_header::age_header(input);
});
