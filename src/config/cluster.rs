//! `sumd cluster`, and the options of a node of a cluster.

use clap::{Args, Subcommand};

use super::server::ServerOptions;
use super::values;

/// Commands about the nodes of a cluster.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Print all nodes, as the asked server sees them
    Status(StatusOptions),
}

/// Options of `sumd cluster status`.
#[derive(Args, Clone, Debug)]
pub struct StatusOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,
}

/// The identity of a node in a cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Counters on etcd")]
pub struct NodeOptions {
    /// Address at which other nodes and clients reach this one: host:port [default: the first host:port of --listen,
    /// with the host's name in place of 0.0.0.0 or [::]]
    #[arg(long, env = "SUMD_ADVERTISE", value_name = "ADDRESS", value_parser = values::reachable)]
    pub advertise: Option<String>,

    /// Name of this node, unique among the nodes [default: the host's name]
    ///
    /// While a node with this name is alive, a second one at another address is refused. A restarted node gets its name
    /// back; at another address that takes some seconds after the earlier node has died.
    #[arg(long, env = "SUMD_NODE_ID", value_name = "NAME", value_parser = values::name)]
    pub node_id: Option<String>,
}
