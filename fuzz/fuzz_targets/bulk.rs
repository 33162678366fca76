//! See `sumd::fuzzing::bulk`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::bulk(bytes));
