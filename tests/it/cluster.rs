//! Nodes of a cluster: membership on real etcd, and forwarding between nodes.

mod bulk;
mod clocks;
mod doubt;
mod forward;
mod full;
mod hand_back;
mod local;
mod members;
mod nodes;
mod pins;
pub mod process;
mod service;
mod sessions;
mod stale;
mod together;
mod upgrade;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use sumd::cluster::{ClockState, Executor, IncomingCalls, Node, PROTOCOL};
use sumd::counters::Counters;
use sumd::server::Services;
use tokio::time::Instant;

use crate::support::TestServer;

/// A deadline for operations that must succeed, even on a busy machine.
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

/// A server whose calls from other nodes an executor gets.
async fn serve_peers(executor: impl Executor + 'static) -> TestServer {
    let peers = Some(IncomingCalls::new(Arc::new(executor)));
    TestServer::start_with(&[], |services| Services { peers, ..services }).await
}

/// A server of counters.
async fn serve_counters(counters: Counters) -> TestServer {
    TestServer::start_with(&[], |services| Services {
        counters,
        ..services
    })
    .await
}
