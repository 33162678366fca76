//! Calls of client commands: bounded in time, repeated over several servers, with one-line errors.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt as _;

use crate::config::ServerOptions;
use crate::server::Address;

/// Interval of keepalive pings, and how long their answers may take.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two rounds over several servers.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The reason why a command has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The server cannot be reached.
    Connect(Address, tonic::transport::Error),
    /// The server did not answer in time.
    Timeout(Address, Duration),
    /// The server answered with an error.
    Refused(Status),
    /// The server answered that it is not serving.
    NotServing(ServingStatus),
    /// A change may have been applied, or may still be. Has the request id to repeat it with.
    InDoubt(Box<ClientError>, String),
    /// A watch ended. All changes up to this revision were printed.
    WatchEnded(Box<ClientError>, i64),
    /// The answer cannot be printed.
    Output(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(address, error) => {
                // The outer errors only say that there is an inner one.
                let mut cause: &dyn Error = error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                write!(f, "cannot connect to {address}: {cause}")
            }
            Self::Timeout(address, timeout) => {
                write!(f, "no answer from {address} within {timeout:?}")
            }
            Self::Refused(status) => refusal(f, status),
            Self::NotServing(status) => f.write_str(status.as_str_name()),
            Self::InDoubt(error, id) => write!(
                f,
                "{error}; the change may have been made: run the same command with --request-id {id}, which makes it \
                 only once"
            ),
            Self::WatchEnded(error, revision) => {
                write!(f, "{error}; to resume, use --from-revision {revision}")
            }
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

/// Writes a status with its details: the reason, whether a change was applied, and when to retry.
fn refusal(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    write!(f, "{:?}: {}", status.code(), status.message())?;
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        write!(f, " ({}", info.reason)?;
        if let Some(outcome) = info.metadata.get("outcome") {
            write!(f, ", {outcome}")?;
        }
        f.write_str(")")?;
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        write!(f, "; retry in {delay:?}")?;
    }
    Ok(())
}

impl ClientError {
    /// Whether a requested change may have been applied, or may still be.
    fn is_in_doubt(&self) -> bool {
        match self {
            Self::Timeout(..) => true,
            Self::Refused(status) => {
                let info = status.get_details_error_info();
                let outcome = info.and_then(|info| info.metadata.get("outcome").cloned());
                outcome.is_none_or(|outcome| outcome != "NOT_APPLIED")
            }
            _ => false,
        }
    }
}

/// Writes to standard output and flushes it.
///
/// # Errors
/// Returns an error if standard output cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Connects and calls `ask`, both within the time limit.
pub(super) async fn in_time<T>(
    server: &ServerOptions,
    ask: impl AsyncFn(Channel) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    attempts(server, ask).await.0
}

/// Like [`in_time`], for a change with a request id. If any attempt may have been carried out, the error names the id,
/// even if a later attempt got a definite answer.
pub(super) async fn change<T>(
    server: &ServerOptions,
    request_id: &str,
    ask: impl AsyncFn(Channel) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let (answer, in_doubt) = attempts(server, ask).await;
    answer.map_err(|error| {
        if in_doubt {
            ClientError::InDoubt(Box::new(error), request_id.to_owned())
        } else {
            error
        }
    })
}

/// Calls `ask` on each server in turn, in rounds, until one has a final answer or the time is up. Repeating is safe
/// because changes have an id. Also returns whether a failed attempt may have been carried out.
async fn attempts<T>(
    ServerOptions { address, timeout }: &ServerOptions,
    ask: impl AsyncFn(Channel) -> Result<T, ClientError>,
) -> (Result<T, ClientError>, bool) {
    let end = Instant::now() + *timeout;
    let count = u32::try_from(address.len()).unwrap_or(u32::MAX).max(1);
    let mut in_doubt = false;
    loop {
        for address in address {
            let attempt = end.min(Instant::now() + *timeout / count);
            let answer = timeout_at(attempt, async {
                let channel = connect(address).await;
                ask(channel.map_err(|error| ClientError::Connect(address.clone(), error))?).await
            });
            let late = |_| Err(ClientError::Timeout(address.clone(), *timeout));
            let answer = answer.await.unwrap_or_else(late);
            in_doubt |= answer.as_ref().err().is_some_and(ClientError::is_in_doubt);
            let is_final = match &answer {
                Err(ClientError::Refused(status)) => status.code() != Code::Unavailable,
                Err(ClientError::Connect(..) | ClientError::Timeout(..)) => false,
                _ => true,
            };
            if is_final || count == 1 || Instant::now() >= end {
                return (answer, in_doubt);
            }
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn connect(address: &Address) -> Result<Channel, tonic::transport::Error> {
    let uri = match address {
        Address::Tcp(address) => format!("http://{address}"),
        Address::Unix(path) => format!("unix:{}", path.display()),
    };
    // A watch has no deadline: without pings, it would wait forever for a machine that is gone.
    let endpoint = Endpoint::from_shared(uri)?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint.connect().await
}
