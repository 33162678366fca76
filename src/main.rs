//! The `sumd` command: parses the command line, runs the command, and returns its exit code.
//!
//! An output that cannot be written never causes a panic: lines on standard error may be lost, and a lost answer on
//! standard output is a failure.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod app;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;
use sumd::cli::{self, ClientError, store};
use sumd::config::{Command, Config, ServeOptions};
use sumd::maintenance::Report;
use sumd::telemetry;
use tokio::runtime;
use tracing::error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a wrong command line: EX_USAGE of sysexits.h. Every other failure exits with 1.
const USAGE: u8 = 64;
/// Exit code for a command whose own command is missing, which prints its help: clap's convention.
const NO_SUBCOMMAND: u8 = 2;

fn main() -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // A host name lookup cannot be stopped, so the runtime does not wait for it.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    let config = match Config::of_process() {
        Ok(config) => config,
        Err(help) if help.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // If it cannot be written, the exit code still reports the problem.
            let _ = help.print();
            return ExitCode::from(NO_SUBCOMMAND);
        }
        Err(error) if error.use_stderr() => return refuse(&one_line(&error)),
        Err(help) => {
            let printed = help.print().and_then(|()| io::stdout().flush());
            return printed.map_or_else(|error| unprinted(&error), |()| ExitCode::SUCCESS);
        }
    };
    if let Err(problem) = config.check() {
        return refuse(&problem);
    }
    match config.command {
        None => serve(config.serve).await,
        Some(Command::Serve(options)) => serve(*options).await,
        Some(Command::Add(options)) => report(cli::add(options).await),
        Some(Command::Health(options)) => report(cli::health(options).await),
        Some(Command::Counter(command)) => match cli::counter(command).await {
            Err(ClientError::Output(error)) => unprinted(&error),
            lines => report(lines.map(|lines| lines.join("\n"))),
        },
        Some(Command::Cluster(command)) => {
            let lines = cli::cluster(command).await;
            report(lines.map(|lines| lines.join("\n")))
        }
        Some(Command::Backup(options)) => check(store::backup(options).await),
        Some(Command::Restore(options)) => check(store::restore(options).await),
        Some(Command::Check(options)) => check(store::check(options).await),
        Some(Command::Move(options)) => report(store::transfer(options).await),
        Some(Command::ResetHorizon(options)) => report(store::reset_horizon(&options)),
        Some(Command::Reopen(options)) => report(store::reopen(options).await),
    }
}

async fn serve(options: ServeOptions) -> ExitCode {
    // Dropping it, when this function returns, writes the last lines.
    let _log = match telemetry::init(&options.log) {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("cannot start the log's thread: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match app::run(options).await {
        Ok(code) => code,
        Err(error) => {
            error!(target: telemetry::FAILURE, "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the answer of a command, or its error.
fn report<T: Display, E: Display>(answer: Result<T, E>) -> ExitCode {
    match answer {
        Ok(answer) => print(&answer.to_string(), ExitCode::SUCCESS),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints the findings of a check. Notes are no damage and do not change the exit code.
fn check(found: Result<Report, store::Error>) -> ExitCode {
    if let Ok(found) = &found {
        for note in found.times.notes(store::now()) {
            complain(&format!("note: {note}"));
        }
    }
    match found {
        Ok(found) if !found.problems.is_empty() => {
            for problem in &found.problems {
                complain(problem);
            }
            print(&found.to_string(), ExitCode::FAILURE)
        }
        found => report(found),
    }
}

/// Prints an answer, unless it is empty, and returns `code` unless printing fails.
fn print(answer: &str, code: ExitCode) -> ExitCode {
    if answer.is_empty() {
        return code;
    }
    match cli::print(&format!("{answer}\n")) {
        Ok(()) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(error) => {
            complain(&format!(
                "the command was carried out, but its answer cannot be written to standard output: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

/// The exit code of a command whose output could not be written. A closed pipe is no failure: the reader, such as `|
/// head`, has enough.
fn unprinted(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    complain(&format!("cannot write to standard output: {error}"));
    ExitCode::FAILURE
}

/// Reports a wrong command line.
fn refuse(problem: &str) -> ExitCode {
    complain(&format!("{problem} (see sumd --help)"));
    ExitCode::from(USAGE)
}

/// Writes a problem to standard error. If that fails, the exit code still reports it.
fn complain(problem: &impl Display) {
    let _ = io::stderr().write_all(format!("sumd: {problem}\n").as_bytes());
}

/// The problem with the command line, without the usage that clap appends.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let problem = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<_> = problem
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    words.join(" ")
}
