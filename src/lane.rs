//! The lanes: each collects a batch of requests, decides it, stores it, and completes the requests.
//!
//! This is group commit. While one batch is being stored, the next one fills: an idle lane answers at the speed of one
//! commit, and a busy one spreads a commit over thousands of operations.

mod clock;
mod completions;
mod error;
mod handle;
mod job;
mod memory_budget;
mod refusals;
mod reorder;
mod runtime;
mod shared;
#[cfg(test)]
mod tests;
mod worker;

pub use clock::Clock;
pub use error::{Decided, LaneError, Result, StartError};
pub use handle::Lanes;
pub use runtime::LaneRuntime;
