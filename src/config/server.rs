//! The server that a client command asks.

use clap::Args;

use super::values;
use crate::server::Address;

/// The server that a client command asks, and how long it waits.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// Server to ask: host:port or unix:/path; of a cluster, all nodes: host:port,host:port,...
    ///
    /// If a node is unavailable, the next is asked.
    #[arg(
        long,
        env = "SUMD_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        value_delimiter = ','
    )]
    pub address: Vec<Address>,

    /// Maximum time to wait for the answer
    #[arg(long, env = "SUMD_TIMEOUT", value_name = "TIME", default_value = "5s",
          value_parser = values::timeout())]
    pub timeout: std::time::Duration,
}
