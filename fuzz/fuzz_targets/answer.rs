//! See `sumd::fuzzing::answer`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sumd::fuzzing::answer(bytes));
