//! The `sumd` command: parse, start, exit code.
//!
//! Nothing here panics because of an output that cannot be written: standard error is best effort, and an answer that is
//! lost on standard output is a failure.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod app;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use sumd::cli::{self, ClientError, store};
use sumd::config::{Command, Config, ServeOptions};
use sumd::maintenance::Report;
use sumd::telemetry;
use tokio::runtime;
use tracing::error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A wrong command line: EX_USAGE of sysexits.h. Everything else that fails is 1.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // A look-up of a host name cannot be stopped, and is not waited for.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    let config = match Config::of_process() {
        Ok(config) => config,
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
    // Its last lines are written when this returns.
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

/// Prints a command's answer, or why there is none.
fn report<T: Display, E: Display>(answer: Result<T, E>) -> ExitCode {
    match answer {
        Ok(answer) => print(&answer.to_string(), ExitCode::SUCCESS),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints what was found in data. A note is no damage.
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

/// Prints an answer, if there is one, and gives `code` unless that fails.
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

/// The end of a command that could not go on printing. A reader that has seen enough, as `| head` has, is no failure.
fn unprinted(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    complain(&format!("cannot write to standard output: {error}"));
    ExitCode::FAILURE
}

/// Says what is wrong with the command line.
fn refuse(problem: &str) -> ExitCode {
    complain(&format!("{problem} (see sumd --help)"));
    ExitCode::from(USAGE)
}

/// Says what is wrong, on standard error. The exit code says so, too, if nobody can be told.
fn complain(problem: &impl Display) {
    let _ = io::stderr().write_all(format!("sumd: {problem}\n").as_bytes());
}

/// What is wrong with the command line, without the usage that clap puts below it.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let problem = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<_> = problem
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    words.join(" ")
}
