//! Counts of calls, each with a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tonic::Status;
use tracing::warn;

use crate::notice::Rarely;
use crate::status::{Outcome, Reason};

/// Retry delay of a refused call: some round trips, and no more than calls in flight take to end.
const OVERLOAD_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The calls in flight, counted up to a limit.
#[derive(Debug)]
pub struct Calls {
    max: u32,
    in_flight: AtomicU32,
}

/// A call in flight.
#[derive(Debug)]
pub struct Permit(Arc<Calls>);

/// The permits of a call: as one of the server's, and as one of its connection's watches.
pub(super) type Permits = [Option<Permit>; 2];

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Calls {
    /// A limit of `max` calls in flight.
    #[must_use]
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self {
            max,
            in_flight: AtomicU32::new(0),
        })
    }

    /// Admits one more call if the limit allows it.
    fn enter(self: &Arc<Self>) -> Option<Permit> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (before < self.max).then_some(permit)
    }

    /// Admits one more call of the server.
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

    /// Admits one more watch of a connection.
    pub(super) fn admit_watch(self: &Arc<Self>) -> Result<Permit, Status> {
        self.enter().ok_or_else(|| {
            let message = format!(
                "this connection has {} watches, which is the limit: its other streams (--max-concurrent-streams) are \
                 reserved for calls that end. Watch several counters or a prefix in one call, or open another \
                 connection",
                self.max
            );
            let error = Reason::TooManyWatches.error(message);
            error.with("max_watches", self.max).into()
        })
    }
}

pub(super) fn overloaded(message: String) -> Status {
    Reason::Overloaded
        .error(message)
        .outcome(Outcome::NotApplied)
        .retry_in(OVERLOAD_RETRY_DELAY)
        .into()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// A permit is released when it is dropped, and a refused call holds none.
    #[test]
    fn permits_are_given_back() {
        let calls = Calls::new(2);
        let (first, _second) = (calls.admit().unwrap(), calls.admit().unwrap());
        assert_eq!(calls.admit().unwrap_err().code(), Code::Unavailable);
        assert_eq!(calls.admit().unwrap_err().code(), Code::Unavailable);
        drop(first);
        let _third = calls.admit().unwrap();
        assert!(calls.admit().is_err());
    }
}
