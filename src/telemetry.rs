//! Logs to standard error. Values that users send are never logged at level info or above.
//!
//! Architecture invariant: a log that cannot be written neither stops nor delays anything else. Lines go through a
//! bounded [`Queue`] to a thread of their own.

mod queue;

use std::io::{self, IsTerminal as _};
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use queue::Queue;

/// The target of lines that are logged at every level: the reason why the process has failed or panicked.
pub const FAILURE: &str = "sumd::failure";

/// Capacity of the queue to the writing thread: enough for a burst at debug level, and little compared with a server's
/// memory.
const QUEUE_BYTES: usize = 1 << 20;
/// Maximum time that the exit waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time that a panic waits for them; it may be about to abort the process.
const PANIC_FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// Format and levels of the log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs")]
pub struct LogOptions {
    /// Format of the log; auto is text on a terminal, and elsewhere JSON with one object per line
    #[arg(
        long,
        env = "SUMD_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    pub log_format: LogFormat,

    /// Levels to log: off, error, warn, info, debug or trace; also by module, as in warn,sumd::lane=debug
    ///
    /// Modules without a level of their own have the one that is given without a module, or else info.
    #[arg(long, env = "SUMD_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = parse_levels)]
    pub log_level: Targets,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text, for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Parses levels strictly. Otherwise an unknown level would be taken for a module, and would turn off all others.
fn parse_levels(text: &str) -> Result<Targets, String> {
    let mut levels = Targets::new().with_default(LevelFilter::INFO);
    for item in text.split(',') {
        levels = match item.split_once('=') {
            None => levels.with_default(parse_level(item)?),
            Some((part, level)) if is_part(part) => levels.with_target(part, parse_level(level)?),
            Some((part, _)) => {
                return Err(format!("expected a part like sumd::lane, not {part:?}"));
            }
        };
    }
    Ok(levels)
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    let level = Some(text).filter(|text| !text.is_empty());
    level.and_then(|text| text.parse().ok()).ok_or_else(|| {
        format!("expected off, error, warn, info, debug or trace, also by part, as in warn,sumd::lane=debug, not {text:?}")
    })
}

fn is_part(text: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c == '_' || c.is_alphanumeric());
    text.split("::").all(is_name)
}

/// The running log. Dropping it waits for the last lines, for a bounded time.
pub struct Log(Arc<Queue>);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

/// Starts logging. Panics are logged too, when they happen, in the format of the log.
///
/// # Errors
/// Returns an error if the thread cannot be started.
pub fn init(options: &LogOptions) -> io::Result<Log> {
    let is_terminal = io::stderr().is_terminal();
    let json = match options.log_format {
        LogFormat::Auto => !is_terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let queue = Arc::new(Queue::new(QUEUE_BYTES));
    let lines = queue.clone();
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || lines.write_to(io::stderr(), |dropped| drop_notice(json, dropped)))?;

    let levels = options.log_level.clone();
    let filter = levels.with_target(FAILURE, LevelFilter::ERROR);
    // A formatting error would be reported on standard error, which may be the output that cannot be written.
    let lines = fmt::layer()
        .with_ansi(is_terminal)
        .with_writer(queue.clone())
        .log_internal_errors(false);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();

    let lines = queue.clone();
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or_default();
        tracing::error!(target: FAILURE, location = place, "panic: {message}");
        lines.flush(PANIC_FLUSH_TIMEOUT);
    }));
    Ok(Log(queue))
}

/// The line that reports dropped lines, in the format of the log. The writing thread makes it, so no level filters it.
fn drop_notice(json: bool, lines: u64) -> String {
    let time = humantime::format_rfc3339_micros(SystemTime::now());
    let message = "lines of this log were dropped";
    if json {
        format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{message}\",\"lines\":{lines},\"target\":\"{}\"}}\n",
            module_path!()
        )
    } else {
        format!("{time}  WARN {message} lines={lines}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn levels_are_by_part_with_the_rest_at_info() {
        let shows = |levels: &str, part, level| {
            parse_levels(levels)
                .expect(levels)
                .would_enable(part, &level)
        };
        assert!(shows("info", "sumd::server", Level::INFO));
        assert!(!shows("info", "sumd::server", Level::DEBUG));
        assert!(shows(
            "WARN,sumd::server=debug",
            "sumd::server::connection",
            Level::DEBUG
        ));
        assert!(!shows("WARN,sumd::server=debug", "sumd::lane", Level::INFO));
        assert!(shows("sumd::server=debug", "sumd::lane", Level::INFO));
        assert!(!shows("off", "sumd::lane", Level::ERROR));
    }

    #[test]
    fn what_is_no_level_is_refused() {
        for levels in [
            "",
            "warning",
            "sumd",
            "info,",
            "a=b=c",
            "=info",
            "sumd::=info",
            "sumd=",
            "sumd=loud",
            "6",
            "info;debug",
        ] {
            assert!(parse_levels(levels).is_err(), "{levels:?}");
        }
    }

    #[test]
    fn a_drop_notice_is_a_line_of_its_format() {
        let notice: serde_json::Value = serde_json::from_str(&drop_notice(true, 7)).expect("JSON");
        assert_eq!(notice["lines"], 7);
        assert!(drop_notice(false, 7).ends_with("lines=7\n"));
    }
}
