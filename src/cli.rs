//! The commands besides `serve`: clients of a server, and maintenance of a store.

mod client;
mod cluster;
mod counter;
pub mod store;
mod sum;

pub use client::{ClientError, print};
pub use cluster::cluster;
pub use counter::counter;
pub use sum::{add, health};
