//! The command line and its environment.

mod cluster;
mod counter;
mod memory;
mod server;
mod store;
mod values;

pub use cluster::{ClusterCommand, NodeOptions, StatusOptions};
pub use counter::{
    CounterCommand, CounterOptions, IdOptions, IncOptions, ListOptions, RmOptions, SetOptions,
    WatchOptions,
};
pub use server::ServerOptions;
pub use store::{
    EtcdLayout, EtcdOptions, MemoryOptions, MoveOptions, NewStoreOptions, StoreAddress,
    StoreOptions,
};

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::server::{Limits, ListenOptions};
use crate::telemetry::LogOptions;

/// Adds numbers for other programs, exactly, over gRPC.
///
/// Without a command it serves on 127.0.0.1:8080:
///
///   sumd
///   sumd serve --listen 0.0.0.0:8080 --listen unix:/run/sumd.sock
///   sumd add 1 2 3
///   sumd counter inc acme/api-calls 5
///   sumd move --from sqlite:sumd-data/sumd.db --to etcd://host1:2379
///   grpcurl -plaintext -d '{"values": [1, 2, 3]}' localhost:8080 sum.v1.SumService/Add
///
/// Every option of serve can also come from the environment, as shown with it.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct Config {
    /// What to do; to serve is the default.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The options of the default command.
    #[command(flatten)]
    pub serve: ServeOptions,

    /// The options on the command line, by their names in this program. The environment may well have others, for other commands.
    #[arg(skip)]
    given: Vec<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT, then drain; a second signal stops at once (the default command)
    Serve(Box<ServeOptions>),
    /// Ask a server for the sum of some integers
    Add(AddOptions),
    /// Read and change counters of a server
    #[command(subcommand)]
    Counter(CounterCommand),
    /// Ask a server about the nodes of its cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Copy the counters, as they are now, to a new file; servers may be using them
    Backup(BackupOptions),
    /// Make the counters of a backup; there must be none yet
    Restore(RestoreOptions),
    /// Look for damage in the counters; servers may be using them. Times that are later than now, by which a clock was wrong,
    /// are noted on standard error, and are no damage: the exit code is 0
    Check(StoreOptions),
    /// Move the counters, with all that is remembered, from a file to etcd or back. Nobody may be serving them; if it
    /// was interrupted, run it again. What they were moved from can be checked and backed up, and is not served any more; nor
    /// is it moved again once the move is complete
    Move(MoveOptions),
    /// Take back what a clock that was ahead has done to counters that nobody serves, or to a backup of them
    ///
    /// An id, or a session, with a time is refused if it may have been forgotten: if its time is not after the horizon, which
    /// moves with what is forgotten, and never back. So a server whose clock was ahead can leave a horizon behind that refuses
    /// all ids for years. sumd check tells if there is one. This takes every time in FILE that is later than now, by the clock
    /// of this machine, back to now: see to it that this clock is right.
    ///
    /// Its consequence: an id or a session with a time between now and the horizon as it was is taken for a new one. If it was
    /// counted before, and forgotten, it counts a second time if it comes again. Such ids were made by clients whose clocks were
    /// ahead as well.
    ///
    /// Counters on etcd are mended by way of a backup: stop all nodes, sumd backup, sumd reset-horizon on the backup, and sumd
    /// restore with another --etcd-prefix, which the nodes are then started with.
    ResetHorizon(ResetOptions),
    /// Undo a move from etcd that was broken off: the counters in etcd are served again, as they were when it began. It is refused
    /// if the move is complete, whatever has become of the file since, and if the file is there
    Reopen(ReopenOptions),
    /// Ask a server whether it is serving: exit code 0 if it is, 1 if not
    Health(HealthOptions),
}

impl Config {
    /// Takes the command line of this process, and its environment.
    ///
    /// # Errors
    /// Returns what is wrong with it, or the help that was asked for.
    pub fn of_process() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        Ok(Self {
            given: given(&matches),
            ..Self::from_arg_matches(&matches)?
        })
    }

    /// Checks options against each other.
    ///
    /// # Errors
    /// Returns what is wrong if options do not go together.
    pub fn check(&self) -> Result<(), String> {
        let store = match &self.command {
            None => {
                self.serve.check()?;
                &self.serve.store.store
            }
            Some(Command::Serve(options)) => {
                options.check()?;
                &options.store.store
            }
            Some(Command::Backup(options)) => &options.store,
            Some(Command::Restore(options)) => &options.store.store,
            Some(Command::Check(options)) => options,
            Some(Command::Reopen(options)) => &options.store,
            Some(Command::Move(options)) => return options.check(&self.given),
            Some(
                Command::Add(_)
                | Command::Counter(_)
                | Command::Cluster(_)
                | Command::ResetHorizon(_)
                | Command::Health(_),
            ) => return Ok(()),
        };
        store.check(&self.given)
    }

    /// The variables of the environment that look like options of sumd and are none: mostly misspelt ones.
    #[must_use]
    pub fn unknown_variables() -> Vec<String> {
        fn known(command: &clap::Command, name: &str) -> bool {
            let mut variables = command.get_arguments().filter_map(clap::Arg::get_env);
            variables.any(|variable| variable == name)
                || command
                    .get_subcommands()
                    .any(|command| known(command, name))
        }
        let command = Self::command();
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let mut unknown: Vec<_> = names
            .filter(|name| name.starts_with("SUMD_") && name != store::ETCD_PASSWORD)
            .filter(|name| !known(&command, name))
            .collect();
        unknown.sort();
        unknown
    }
}

/// The options on a command line, those of its command included.
fn given(matches: &ArgMatches) -> Vec<String> {
    let of = |matches: &ArgMatches| {
        let ids = matches.ids().map(clap::Id::as_str);
        let is_given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
        ids.filter(is_given).map(str::to_owned).collect::<Vec<_>>()
    };
    let command = matches.subcommand().map(|(_, command)| of(command));
    [of(matches), command.unwrap_or_default()].concat()
}

impl ServeOptions {
    fn check(&self) -> Result<(), String> {
        self.limits.check()?;
        // It tells a node of a cluster, which must not begin with counters of its own because --store was forgotten.
        if self.node.advertise.is_some() && matches!(self.store.address(), StoreAddress::Sqlite(_))
        {
            return Err(
                "--advertise is for a node of a cluster, which has --store etcd://HOST:PORT"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// What `sumd serve` takes.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// The addresses to listen on.
    #[command(flatten)]
    pub listen: ListenOptions,

    /// Threads that serve [default: one for each core]
    #[arg(long, env = "SUMD_WORKERS", value_name = "N", value_parser = values::workers)]
    pub workers: Option<NonZeroUsize>,

    /// Where counters are.
    #[command(flatten)]
    pub store: NewStoreOptions,

    /// What this node tells of itself.
    #[command(flatten)]
    pub node: NodeOptions,

    /// What is remembered.
    #[command(flatten)]
    pub memory: MemoryOptions,

    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,

    /// The bounds.
    #[command(flatten)]
    pub limits: Limits,
}

/// What `sumd add` takes.
#[derive(Args, Clone, Debug)]
pub struct AddOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// The integers to add, each from -2^63 to 2^63 - 1
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    pub values: Vec<i64>,
}

/// What `sumd health` takes.
#[derive(Args, Clone, Debug)]
pub struct HealthOptions {
    /// Which server.
    #[command(flatten)]
    pub server: ServerOptions,

    /// The service to ask for, such as sum.v1.SumService [default: the server as a whole]
    #[arg(value_name = "SERVICE", default_value = "", hide_default_value = true)]
    pub service: String,
}

/// What `sumd backup` takes.
#[derive(Args, Clone, Debug)]
pub struct BackupOptions {
    /// The file to make
    #[arg(value_name = "FILE")]
    pub to: PathBuf,

    /// Which counters.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// What `sumd restore` takes.
#[derive(Args, Clone, Debug)]
pub struct RestoreOptions {
    /// The backup
    #[arg(value_name = "FILE")]
    pub from: PathBuf,

    /// Where to.
    #[command(flatten)]
    pub store: NewStoreOptions,
}

/// What `sumd reopen` takes.
#[derive(Args, Clone, Debug)]
pub struct ReopenOptions {
    /// Which counters.
    #[command(flatten)]
    pub store: StoreOptions,

    /// Open the counters although the move is complete, or the file is there. All that was counted in the file is not in them;
    /// and if anybody serves the file, now or later, the two count apart, and a request that is sent to both is counted on both
    #[arg(long)]
    pub force: bool,
}

/// What `sumd reset-horizon` takes.
#[derive(Args, Clone, Debug)]
pub struct ResetOptions {
    /// The database, such as sumd-data/sumd.db, or a backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Config::command().debug_assert();
    }
}
