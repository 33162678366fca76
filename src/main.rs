//! The `sumd` command: parse, start, exit code.

mod serve;
mod tools;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use sumd::client;
use sumd::config::{Command, Config, ServeOptions};
use sumd::store::Report;
use sumd::telemetry;
use tracing::error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A wrong command line: EX_USAGE of sysexits.h. Everything else that fails is 1.
const USAGE: u8 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) if error.use_stderr() => {
            eprintln!("{}", one_line(&error));
            return ExitCode::from(USAGE);
        }
        Err(help) => {
            // A reader that has seen enough, as `| head` has, is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match config.command {
        None => serve(config.serve).await,
        Some(Command::Serve(options)) => serve(*options).await,
        Some(Command::Add(options)) => report(client::add(options).await),
        Some(Command::Health(options)) => report(client::health(options).await),
        Some(Command::Counter(command)) => {
            let lines = client::counter(command).await;
            report(lines.map(|lines| lines.join("\n")))
        }
        Some(Command::Cluster(command)) => {
            let lines = client::cluster(command).await;
            report(lines.map(|lines| lines.join("\n")))
        }
        Some(Command::Backup(options)) => report(tools::backup(options).await),
        Some(Command::Restore(options)) => report(tools::restore(options).await),
        Some(Command::Check(options)) => check(tools::check(options).await),
        Some(Command::Move(options)) => report(tools::transfer(options).await),
        Some(Command::Reopen(options)) => report(tools::reopen(options).await),
    }
}

async fn serve(options: ServeOptions) -> ExitCode {
    if let Err(problem) = options.limits.check() {
        eprintln!("sumd: {problem}");
        return ExitCode::from(USAGE);
    }
    telemetry::init(&options.log);
    match serve::run(options).await {
        Ok(code) => code,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a client command's answer, or why there is none.
fn report<T: Display, E: Display>(answer: Result<T, E>) -> ExitCode {
    match answer {
        Ok(answer) => {
            let answer = answer.to_string();
            if !answer.is_empty() {
                // A reader that has gone, as in `| head -0`, is no failure.
                let _ = writeln!(io::stdout(), "{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sumd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(found: Result<Report, tools::Error>) -> ExitCode {
    match found {
        Ok(found) if !found.problems.is_empty() => {
            for problem in &found.problems {
                eprintln!("sumd: {problem}");
            }
            println!("{found}");
            ExitCode::FAILURE
        }
        found => report(found),
    }
}

/// What is wrong with the command line, without the usage that clap puts below it.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let problem = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<_> = problem
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    format!("sumd: {} (see sumd --help)", words.join(" "))
}
