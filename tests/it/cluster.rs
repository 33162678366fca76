//! Nodes of a cluster: who is there, as real etcd tells it, and what they hand on to each other.

mod bulk;
mod clocks;
mod doubt;
mod forward;
mod full;
mod hand_back;
mod local;
mod members;
mod nodes;
pub mod process;
mod service;
mod sessions;
mod stale;
mod together;
mod upgrade;
mod watches;

use std::time::Duration;

use sumd::cluster::{ClockState, Node, PROTOCOL};
use tokio::time::Instant;

/// For what has to succeed, however busy the machine is.
fn in_time() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn node(id: &str, address: &str) -> Node {
    Node {
        id: id.to_owned(),
        address: address.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        started: std::time::SystemTime::now().into(),
        draining: false,
        clock: ClockState::Agrees,
    }
}
