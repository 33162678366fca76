//! `sumd cluster`, and how a node takes part in one.

use clap::{Args, Subcommand};

use super::server::ServerOptions;
use super::values;

/// What to ask about nodes.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Print all nodes, as one of them knows them
    Status(StatusOptions),
}

/// What `sumd cluster status` takes.
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,
}

/// What a node tells of itself, where it is one of several.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters on etcd")]
pub struct NodeOptions {
    /// Where other nodes and clients reach this one: host:port [default: the first --listen, or the host's name]
    #[arg(long, env = "SUMD_ADVERTISE", value_name = "ADDRESS", value_parser = values::reachable)]
    pub advertise: Option<String>,

    /// This node's name, which no other node has: while one lives, a second one at another address is refused. After a restart the
    /// name is had again, at another address some seconds after the node has died [default: the host's name]
    #[arg(long, env = "SUMD_NODE_ID", value_name = "NAME", value_parser = values::name)]
    pub node_id: Option<String>,
}
