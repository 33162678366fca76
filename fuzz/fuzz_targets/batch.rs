//! See `sumd::fuzzing::batch`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::batch(bytes));
