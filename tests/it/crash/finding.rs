//! What is found wrong with servers, told apart from a run that does not come to its end for other reasons.

use std::any::Any;
use std::fmt::Display;

const FOUND: &str = "found wrong: ";

/// Fails the run: servers did what none may do.
pub fn found(what: impl Display) -> ! {
    panic!("{FOUND}{what}")
}

/// What a run has failed with, if something was found.
pub fn finding(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>()?.strip_prefix(FOUND)
}
