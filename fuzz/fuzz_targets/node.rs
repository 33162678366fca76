//! See `sumd::fuzzing::node`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::node(bytes));
