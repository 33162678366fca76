//! `sumd cluster`.

use clap::{Args, Subcommand};

use super::ServerOptions;

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
