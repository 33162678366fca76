//! Exact sums of integers.

pub mod wire;
