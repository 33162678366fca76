//! The command line and its environment variables.

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
pub use memory::MemoryOptions;
pub use server::ServerOptions;
pub use store::{
    EtcdLayout, EtcdOptions, MoveOptions, NewStoreOptions, StoreAddress, StoreOptions,
};

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::server::{Limits, ListenOptions};
use crate::telemetry::LogOptions;

/// Adds numbers for other programs, exactly, over gRPC.
///
/// Without a command, it serves on 127.0.0.1:8080:
///
///   sumd
///   sumd serve --listen 0.0.0.0:8080 --listen unix:/run/sumd.sock
///   sumd add 1 2 3
///   sumd counter inc acme/api-calls 5
///   sumd move --from sqlite:sumd-data/sumd.db --to etcd://host1:2379
///   grpcurl -plaintext -d '{"values": [1, 2, 3]}' localhost:8080 sum.v1.SumService/Add
///
/// Every option of serve can also be set by the environment variable that is shown with it.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct Config {
    /// The command to run; serve is the default.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Options of the default command.
    #[command(flatten)]
    pub serve: ServeOptions,

    /// Ids of the options on the command line. Those from the environment are left out, because they may be meant for
    /// other commands.
    #[arg(skip)]
    given: Vec<String>,
}

/// The commands of `sumd`.
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
    /// Back up the counters to a new file, as they are now; servers may be using them
    Backup(BackupOptions),
    /// Restore a backup to a store that has no counters yet
    Restore(RestoreOptions),
    /// Check the counters for damage; servers may be using them
    ///
    /// Times that are later than now mean that a clock was wrong. They are reported on standard error, but are no
    /// damage: the exit code is 0.
    Check(StoreOptions),
    /// Move the counters, and everything remembered with them, from a file to etcd or back
    ///
    /// No server may be using them. If the move is interrupted, run it again. The source can be checked and backed up
    /// afterwards, but is not served any more. Nor is it moved again once the move is complete.
    Move(MoveOptions),
    /// Set times that a fast clock left in the future back to now, in a backup or in counters that are not served
    ///
    /// A request id or session with a time is refused if that time is not after the horizon, because it may have been
    /// forgotten. The horizon moves forward as ids and sessions are forgotten, and never back. So a server whose clock
    /// was ahead can leave a horizon behind that refuses all ids for years; sumd check reports it. This command sets
    /// every time in FILE that is later than now, by the clock of this machine, to now: make sure that this clock is
    /// right.
    ///
    /// As a consequence, an id or a session with a time between now and the earlier horizon is taken for a new one. If
    /// it was counted before and then forgotten, it is counted a second time if it comes again. Such ids were made by
    /// clients whose clocks were ahead as well.
    ///
    /// To repair counters on etcd, use a backup: stop all nodes, run sumd backup, then sumd reset-horizon on the
    /// backup, then sumd restore with another --etcd-prefix, and start the nodes with that prefix.
    ResetHorizon(ResetOptions),
    /// Undo an interrupted move from etcd: the counters in etcd are served again
    ///
    /// The counters are as they were when the move began. The command is refused if the move is complete, whatever has
    /// become of its file since, or if the file exists.
    Reopen(ReopenOptions),
    /// Ask a server whether it is serving: exit code 0 if it is, 1 if not
    Health(HealthOptions),
}

impl Config {
    /// Parses the command line and the environment of this process.
    ///
    /// # Errors
    /// Returns an error if either is invalid, or if help or the version was requested.
    pub fn of_process() -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches()?;
        Ok(Self {
            given: given(&matches),
            ..Self::from_arg_matches(&matches)?
        })
    }

    /// Checks that the options agree with each other.
    ///
    /// # Errors
    /// Returns a description of the problem if they do not.
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

    /// Environment variables that look like options of sumd but are none, such as misspelt ones.
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

/// Ids of the options on a command line, including those of the command.
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
        // --advertise marks a node of a cluster. It must not begin counters of its own because --store was forgotten.
        if self.node.advertise.is_some() && matches!(self.store.address(), StoreAddress::Sqlite(_))
        {
            return Err(
                "--advertise needs --store etcd://HOST:PORT: it is for the nodes of a cluster"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Options of `sumd serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// The addresses to listen on.
    #[command(flatten)]
    pub listen: ListenOptions,

    /// Number of worker threads [default: one per core]
    #[arg(long, env = "SUMD_WORKERS", value_name = "N", value_parser = values::workers())]
    pub workers: Option<NonZeroUsize>,

    /// The store of the counters.
    #[command(flatten)]
    pub store: NewStoreOptions,

    /// The identity of this node in a cluster.
    #[command(flatten)]
    pub node: NodeOptions,

    /// Bounds of memory, and how long ids and sessions are kept.
    #[command(flatten)]
    pub memory: MemoryOptions,

    /// Format and levels of the log.
    #[command(flatten)]
    pub log: LogOptions,

    /// Limits of calls, connections and messages.
    #[command(flatten)]
    pub limits: Limits,
}

/// Options of `sumd add`.
#[derive(Args, Clone, Debug)]
pub struct AddOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Integers to add, each from -2^63 to 2^63 - 1
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    pub values: Vec<i64>,
}

/// Options of `sumd health`.
#[derive(Args, Clone, Debug)]
pub struct HealthOptions {
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerOptions,

    /// Service to ask for, such as sum.v1.SumService [default: the server as a whole]
    #[arg(value_name = "SERVICE", default_value = "", hide_default_value = true)]
    pub service: String,
}

/// Options of `sumd backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupOptions {
    /// File to create
    #[arg(value_name = "FILE")]
    pub to: PathBuf,

    /// The counters to back up.
    #[command(flatten)]
    pub store: StoreOptions,
}

/// Options of `sumd restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreOptions {
    /// Backup to restore
    #[arg(value_name = "FILE")]
    pub from: PathBuf,

    /// The store to restore to.
    #[command(flatten)]
    pub store: NewStoreOptions,
}

/// Options of `sumd reopen`.
#[derive(Args, Clone, Debug)]
pub struct ReopenOptions {
    /// The counters to reopen.
    #[command(flatten)]
    pub store: StoreOptions,

    /// Reopen the counters even if the move is complete or its file exists
    ///
    /// Increments that were counted in the file are missing from the reopened counters. If the file is served now or
    /// later, the two count separately, and a request that is sent to both is counted in both.
    #[arg(long)]
    pub force: bool,
}

/// Options of `sumd reset-horizon`.
#[derive(Args, Clone, Debug)]
pub struct ResetOptions {
    /// Database, such as sumd-data/sumd.db, or backup to change
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::builder::Str;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Config::command().debug_assert();
    }

    /// The names of all options with a number, time or size, and the commands that have them.
    fn measures(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, String)>) {
        let path = [path, &[command.get_name().to_owned()]].concat();
        for option in command.get_arguments() {
            let values = option.get_value_names().unwrap_or_default();
            let is_measure = |value: &Str| ["N", "SIZE", "TIME", "MODE"].contains(&value.as_str());
            if values.iter().any(is_measure) {
                let option = option.get_long().expect("it is no argument");
                found.push((path.clone(), format!("--{option}")));
            }
        }
        for command in command.get_subcommands() {
            measures(command, &path, found);
        }
    }

    /// An option with a number, time or size has a range, which its help and its error name.
    #[test]
    fn ranges_are_named() {
        let mut found = Vec::new();
        let mut root = Config::command();
        root.build();
        measures(&root, &[], &mut found);
        assert!(found.len() > 30, "{found:?}");
        for (path, option) in found {
            let mut command = &mut root;
            for name in &path[1..] {
                command = command.find_subcommand_mut(name).expect("a command");
            }
            let help = command.render_long_help().to_string();
            let (_, own) = help.split_once(&format!("{option} <")).expect("its help");
            let own = own.split("\n      --").next().unwrap_or_default();
            let range = own.split_once("[possible values: ");
            let (range, _) = range
                .and_then(|(_, rest)| rest.split_once(']'))
                .expect(&option);
            let (min, max) = range.split_once("..").expect("a range");
            let given = path.iter().chain([&option]).map(String::as_str);
            let error = Config::try_parse_from(given.chain(["?"])).expect_err("no value");
            let error = error.to_string();
            assert!(error.contains(&format!(" from {min} to {max}")), "{error}");
        }
    }
}
