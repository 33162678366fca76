//! Work on all of a store's data, beside its use: backup, restore, check and move.

mod dump;
mod etcd;
mod report;
pub mod sqlite;
pub mod transfer;

pub use dump::Tally;
pub use report::{Report, Times, ToolError};
