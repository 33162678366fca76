//! See `sumd::fuzzing::frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::frames(bytes));
