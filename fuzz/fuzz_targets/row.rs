//! See `sumd::fuzzing::row`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::row(bytes));
