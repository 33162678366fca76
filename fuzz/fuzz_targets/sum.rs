//! See `sumd::fuzzing::sum`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::sum(bytes));
