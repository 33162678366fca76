//! `sumd counter`.

use clap::{Args, Subcommand};

use super::server::ServerOptions;
use super::values;

/// What to do with counters.
#[derive(Clone, Debug, Subcommand)]
pub enum CounterCommand {
    /// Add to a counter; prints its value
    Inc(IncOptions),
    /// Print the values of counters
    Get(CounterOptions),
    /// Print counters and their values, in the order of their names
    List(ListOptions),
    /// Print the exact sum over counters
    Sum(ListOptions),
    /// Print counters and then their changes, until interrupted
    Watch(WatchOptions),
    /// Set a counter; prints its value before
    Set(SetOptions),
    /// Delete a counter; prints its value before
    Rm(RmOptions),
}

/// An id for a change that is to happen once.
#[derive(Args, Clone, Debug)]
pub struct IdOptions {
    /// An id for this change: with the same id it happens once, however often it is asked for
    /// [default: a new one]
    #[arg(long, value_name = "ID", value_parser = values::non_empty)]
    pub request_id: Option<String>,
}

/// What `sumd counter inc` takes.
#[derive(Args, Clone, Debug)]
pub struct IncOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Its id.
    #[command(flatten)]
    pub id: IdOptions,

    /// The counter, such as acme/api-calls
    #[arg(value_name = "COUNTER")]
    pub counter: String,

    /// What to add, from -2^63 to 2^63 - 1
    #[arg(
        value_name = "DELTA",
        default_value = "1",
        allow_negative_numbers = true
    )]
    pub delta: i64,

    /// The least value that the counter may have afterwards
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub min: Option<i64>,

    /// The largest value that the counter may have afterwards
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    pub max: Option<i64>,

    /// Add as much as fits, where the value would pass a limit
    #[arg(long)]
    pub saturate: bool,
}

/// What `sumd counter set` takes.
#[derive(Args, Clone, Debug)]
pub struct SetOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Its id.
    #[command(flatten)]
    pub id: IdOptions,

    /// The counter
    #[arg(value_name = "COUNTER")]
    pub counter: String,

    /// Its new value
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    pub value: i64,
}

/// What `sumd counter rm` takes.
#[derive(Args, Clone, Debug)]
pub struct RmOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Its id.
    #[command(flatten)]
    pub id: IdOptions,

    /// The counter
    #[arg(value_name = "COUNTER")]
    pub counter: String,
}

/// What `sumd counter get` takes.
#[derive(Args, Clone, Debug)]
pub struct CounterOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// The counters
    #[arg(value_name = "COUNTER", required = true)]
    pub counters: Vec<String>,
}

/// What `sumd counter list` and `sum` take.
#[derive(Args, Clone, Debug)]
pub struct ListOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// What their names begin with [default: all counters]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,
}

/// What `sumd counter watch` takes.
#[derive(Args, Clone, Debug)]
pub struct WatchOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// What their names begin with [default: all counters]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub prefix: String,

    /// Only what has changed after this revision
    #[arg(long, value_name = "REVISION", default_value = "0")]
    pub from_revision: i64,
}
