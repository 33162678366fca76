//! Operations on all data of a store, apart from serving it: backup, restore, check and move.

mod dump;
mod etcd;
mod report;
pub mod sqlite;
pub mod transfer;

pub use dump::Tally;
pub use report::{Report, Times, ToolError};
