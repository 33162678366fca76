//! See `sumd::fuzzing::parts`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::parts(bytes));
