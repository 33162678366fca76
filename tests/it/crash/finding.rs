//! Findings about servers, distinguished from runs that fail for other reasons.

use std::any::Any;
use std::fmt::Display;

const FOUND: &str = "found wrong: ";

/// Fails the run with a finding: a server has broken its contract.
pub fn found(what: impl Display) -> ! {
    panic!("{FOUND}{what}")
}

/// The finding in a panic, if it is one.
pub fn finding(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>()?.strip_prefix(FOUND)
}
