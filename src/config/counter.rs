//! `sumd counter`.

use clap::{Args, Subcommand};

use super::server::ServerOptions;
use super::values;

/// Commands about counters.
#[derive(Clone, Debug, Subcommand)]
pub enum CounterCommand {
    /// Add to a counter, and print its new value
    Inc(IncOptions),
    /// Print the values of counters
    Get(CounterOptions),
    /// Print counters and their values, ordered by name
    List(ListOptions),
    /// Print the exact sum over counters
    Sum(ListOptions),
    /// Print counters, then their changes until interrupted
    Watch(WatchOptions),
    /// Set a counter, and print its earlier value
    Set(SetOptions),
    /// Delete a counter, and print its earlier value
    Rm(RmOptions),
}

/// The id of a change, with which it is applied at most once.
#[derive(Args, Clone, Debug)]
pub struct IdOptions {
    /// Id of this change: repeated with the same id, it is applied only once [default: a new one]
    #[arg(long, value_name = "ID", value_parser = values::non_empty)]
    pub request_id: Option<String>,
}

/// Options of `sumd counter inc`.
#[derive(Args, Clone, Debug)]
pub struct IncOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// The id of the change.
    #[command(flatten)]
    pub id: IdOptions,

    /// Counter to add to, such as acme/api-calls
    #[arg(value_name = "COUNTER")]
    pub counter: String,

    /// Number to add, from -2^63 to 2^63 - 1
    #[arg(
        value_name = "DELTA",
        default_value = "1",
        allow_negative_numbers = true
    )]
    pub delta: i64,

    /// Smallest value that the counter may have afterwards
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub min: Option<i64>,

    /// Largest value that the counter may have afterwards
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub max: Option<i64>,

    /// If the value would pass a limit, add as much as fits
    #[arg(long)]
    pub saturate: bool,
}

/// Options of `sumd counter set`.
#[derive(Args, Clone, Debug)]
pub struct SetOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// The id of the change.
    #[command(flatten)]
    pub id: IdOptions,

    /// Counter to set
    #[arg(value_name = "COUNTER")]
    pub counter: String,

    /// New value
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    pub value: i64,
}

/// Options of `sumd counter rm`.
#[derive(Args, Clone, Debug)]
pub struct RmOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// The id of the change.
    #[command(flatten)]
    pub id: IdOptions,

    /// Counter to delete
    #[arg(value_name = "COUNTER")]
    pub counter: String,
}

/// Options of `sumd counter get`.
#[derive(Args, Clone, Debug)]
pub struct CounterOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Counters to print
    #[arg(value_name = "COUNTER", required = true)]
    pub counters: Vec<String>,
}

/// Options of `sumd counter list` and `sumd counter sum`.
#[derive(Args, Clone, Debug)]
pub struct ListOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Prefix of the counters' names [default: all counters]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,
}

/// Options of `sumd counter watch`.
#[derive(Args, Clone, Debug)]
pub struct WatchOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Prefix of the counters' names [default: all counters]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,

    /// Print only changes after this revision
    #[arg(long, value_name = "REVISION", default_value = "0")]
    pub from_revision: i64,
}
