//! What holds for every call, whatever its method: there are not too many of them, it ends at its
//! deadline and at the server's shutdown, and a panic stays inside it.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tracing::{error, warn};

use crate::notice::Rarely;
use crate::status::{self, Outcome, Reason};

/// How long a caller that was refused is told to wait: some round trips, and no more than it takes for
/// calls in flight to end.
const OVERLOAD_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Another server answers at once.
const SHUTDOWN_RETRY_DELAY: Duration = Duration::from_millis(1);

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Counts the calls in flight.
#[derive(Debug)]
pub(super) struct Calls {
    max: u32,
    in_flight: AtomicU32,
}

/// A call in flight.
#[derive(Debug)]
pub(super) struct Permit(Arc<Calls>);

/// The permits that a call holds until its response has ended: its place among the server's calls, and among its connection's
/// watches.
pub(super) type Permits = [Option<Permit>; 2];

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    pub(super) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            max,
            in_flight: AtomicU32::new(0),
        })
    }

    /// Lets one more call in, if there is room.
    fn enter(self: &Arc<Self>) -> Option<Permit> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (before < self.max).then_some(permit)
    }

    /// Lets one more call of the server in.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Permit, Status> {
        self.enter().ok_or_else(|| {
            static NOTICE: Rarely = Rarely::new();
            if NOTICE.is_due() {
                warn!(max = self.max, "refusing calls (--max-calls)");
            }
            overloaded(format!(
                "{} calls are in flight, which is the limit (--max-calls)",
                self.max
            ))
        })
    }

    /// Lets one more watch of a connection in.
    pub(super) fn admit_watch(self: &Arc<Self>) -> Result<Permit, Status> {
        self.enter().ok_or_else(|| {
            let message = format!(
                "this connection has {} watches, and the rest of its calls (--max-concurrent-streams) is kept for those that \
                 end: watch several counters or a prefix in one call, or open another connection",
                self.max
            );
            let error = Reason::TooManyWatches.error(message);
            error.with("max_watches", self.max).into()
        })
    }
}

/// Refuses a call of a connection that has room for health checks alone.
pub(super) fn too_many_connections(max: u32) -> Status {
    overloaded(format!(
        "{max} connections are open, which is the limit (--max-connections); this one is for health checks"
    ))
}

fn overloaded(message: String) -> Status {
    Reason::Overloaded
        .error(message)
        .outcome(Outcome::NotApplied)
        .retry_in(OVERLOAD_RETRY_DELAY)
        .into()
}

/// When a call has to end, beside its own end.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub(super) deadline: Option<Instant>,
    pub(super) shutdown: &'a CancellationToken,
}

impl Bounds<'_> {
    /// Runs a handler within the bounds.
    pub(super) async fn run<T>(&self, handler: impl Future<Output = T>) -> Result<T, Status> {
        tokio::select! {
            biased;
            result = AssertUnwindSafe(handler).catch_unwind() => result.map_err(|_| panicked()),
            () = until(self.deadline) => Err(deadline_exceeded()),
            () = self.shutdown.cancelled() => Err(shutting_down()),
        }
    }

    /// The same bounds for a response that goes on after its handler has returned.
    pub(super) fn watch(self) -> Watch {
        Watch {
            deadline: self.deadline.map(|at| Box::pin(sleep_until(at))),
            shutdown: Box::pin(self.shutdown.clone().cancelled_owned()),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits for the first of a call's bounds.
pub(super) struct Watch {
    deadline: Option<Pin<Box<Sleep>>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watch {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(deadline_exceeded());
        }
        self.shutdown.as_mut().poll(cx).map(|()| shutting_down())
    }
}

/// The panic hook has logged where.
pub(super) fn panicked() -> Status {
    error!("a call has panicked");
    status::panicked()
}

fn deadline_exceeded() -> Status {
    let message = "the deadline of the call has passed";
    Reason::DeadlineExceeded.error(message).into()
}

fn shutting_down() -> Status {
    Reason::ShuttingDown
        .error("the server is shutting down; answers received so far are valid")
        .outcome(Outcome::Unknown)
        .retry_in(SHUTDOWN_RETRY_DELAY)
        .into()
}

/// The time that a caller allows for a call.
///
/// `grpc-timeout: TimeoutValue TimeoutUnit`, at most eight digits and one of H, M, S, m, u, n:
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    parse_timeout(value.as_bytes()).map(Some).ok_or_else(|| {
        let value = status::quoted(value);
        let message = format!(
            "grpc-timeout is {value}; it takes up to 8 digits and a unit of H, M, S, m, u or n"
        );
        Reason::InvalidTimeout.error(message).into()
    })
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_hours(number)),
        b'M' => Some(Duration::from_mins(number)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
