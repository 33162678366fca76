//! See `sumd::fuzzing::session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::session(bytes));
