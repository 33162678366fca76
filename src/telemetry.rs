//! Logs, on standard error. Values that users send are never logged at info or above.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::grpc::authority;

/// How to log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogOptions {
    /// What the log looks like; auto is text on a terminal and JSON, one object a line, elsewhere
    #[arg(
        long,
        env = "SUMD_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug or trace, also by part, as in info,sumd::server=debug
    #[arg(long, env = "SUMD_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = parse_level)]
    pub log_level: String,
}

/// What a log looks like.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn parse_level(level: &str) -> Result<String, ParseError> {
    EnvFilter::builder().parse(level)?;
    Ok(level.to_owned())
}

/// Starts logging, panics included: they are logged where they happen, in the log's own format.
pub fn init(options: &LogOptions) {
    let json = match options.log_format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let log = fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let log = if json {
        log.json().flatten_event(true).boxed()
    } else {
        log.with_target(false).boxed()
    };
    tracing_subscriber::registry()
        .with(log.with_filter(EnvFilter::new(&options.log_level)))
        .with(authority::layer())
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("");
        tracing::error!(location, message, "panic");
    }));
}
