//! The server that a command asks.

use clap::Args;

use super::values;
use crate::server::Address;

/// Which server a client command asks.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// The server: host:port or unix:/path. Of several nodes, all: host:port,host:port,... Another one is asked where one
    /// cannot be reached
    #[arg(
        long,
        env = "SUMD_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080",
        value_delimiter = ','
    )]
    pub address: Vec<Address>,

    /// How long to wait for the answer
    #[arg(long, env = "SUMD_TIMEOUT", value_name = "TIME", default_value = "5s",
          value_parser = values::timeout)]
    pub timeout: std::time::Duration,
}
