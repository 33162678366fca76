//! What can go wrong with a counter, in gRPC's terms: the table at the head of `counter.proto`.

use std::time::Duration;

use tonic::{Code, Status};

use super::convert::invalid_field;
use crate::lane::LaneError;
use crate::model::{Failure, Millis, Refusal, Refused};
use crate::status::{self, not_applied, unknown};
use crate::store::StoreError;

/// How long a server whose store has failed takes to be back, at the least.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Some commits.
const OVERLOAD_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Which kind of request was refused: they say it in words of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Session,
}

/// A request that has no answer.
pub(super) fn of_request(error: LaneError) -> Status {
    lane_error(error, Kind::Request)
}

pub(super) fn lane_error(error: LaneError, kind: Kind) -> Status {
    match error {
        LaneError::Refused(refused) => refusal(&refused, kind),
        LaneError::Unknown(error) => store_failed(&error, unknown()),
        LaneError::Unavailable(error) => store_failed(&error, not_applied()),
        LaneError::Moved => status::retriable(
            Code::Unavailable,
            "another node carries it out best",
            "LANE_MOVED",
            &[not_applied()],
            Duration::from_millis(1),
        ),
        LaneError::Overloaded => status::retriable(
            Code::Unavailable,
            "too many increments wait, and nothing was changed",
            "OVERLOADED",
            &[not_applied()],
            OVERLOAD_RETRY_DELAY,
        ),
        LaneError::Closed => status::retriable(
            Code::Unavailable,
            "the server is shutting down, and nothing was changed",
            "SHUTTING_DOWN",
            &[not_applied()],
            RESTART_DELAY,
        ),
    }
}

/// A read that failed.
pub(super) fn read_error(error: &StoreError) -> Status {
    match error {
        StoreError::Failed(_) | StoreError::Damaged { .. } => tracing::error!("{error}"),
        StoreError::Unavailable(_) | StoreError::Full(_) | StoreError::Moved | StoreError::Lost => {
            tracing::warn!("{error}");
        }
    }
    store_failed(error, not_applied())
}

fn store_failed(error: &StoreError, outcome: (&'static str, String)) -> Status {
    // What failed is for the operator. Of a lane that failed the log says it once.
    tracing::debug!("{error}");
    let (code, reason, message) = match error {
        StoreError::Unavailable(_) | StoreError::Moved | StoreError::Lost => (
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            "the store cannot be reached just now",
        ),
        StoreError::Full(_) => (
            Code::ResourceExhausted,
            "STORE_FULL",
            "the server's disk is full, and nothing was changed: once there is room, send it again",
        ),
        StoreError::Damaged { counter, problem } => {
            return damaged(counter.as_deref(), problem, outcome);
        }
        StoreError::Failed(_) => (
            Code::Unavailable,
            "STORE_FAILED",
            "the store has failed; the server's log says why",
        ),
    };
    status::retriable(code, message, reason, &[outcome], RESTART_DELAY)
}

/// A counter whose row is not what was written, so that nothing is counted on top of it.
fn damaged(counter: Option<&str>, problem: &str, outcome: (&'static str, String)) -> Status {
    let message = format!(
        "{problem}, and nothing was changed: `sumd check` lists all damage, and `sumd restore` makes a database of a backup"
    );
    let mut metadata = vec![outcome];
    metadata.extend(counter.map(|counter| ("counter", counter.to_owned())));
    status::with_reason(Code::DataLoss, message, "COUNTER_DAMAGED", &metadata)
}

/// An increment that was not made. `counter` is not known of one that failed in a session.
pub(super) fn failure(failure: &Failure, counter: Option<&str>, index: bool) -> Status {
    let mut metadata = vec![not_applied()];
    metadata.extend(counter.map(|counter| ("counter", counter.to_owned())));
    if index {
        metadata.push(("index", failure.index.to_string()));
    }
    let what = counter.map_or_else(
        || "the counter".to_owned(),
        |name| format!("counter {name:?}"),
    );
    let mut values = |value: i64, delta: i64| {
        metadata.push(("value", value.to_string()));
        metadata.push(("delta", delta.to_string()));
        format!("{what} is {value}, and {delta} more would be")
    };
    match failure.refusal {
        Refusal::Min { value, delta, min } => {
            let message = format!("{} below min, which is {min}", values(value, delta));
            metadata.push(("min", min.to_string()));
            let code = Code::FailedPrecondition;
            status::with_reason(code, message, "LIMIT_REACHED", &metadata)
        }
        Refusal::Max { value, delta, max } => {
            let message = format!("{} above max, which is {max}", values(value, delta));
            metadata.push(("max", max.to_string()));
            let code = Code::FailedPrecondition;
            status::with_reason(code, message, "LIMIT_REACHED", &metadata)
        }
        Refusal::OutOfRange { value, delta } => {
            let message = format!(
                "{} outside int64 ({} to {})",
                values(value, delta),
                i64::MIN,
                i64::MAX
            );
            metadata.push(("min", i64::MIN.to_string()));
            metadata.push(("max", i64::MAX.to_string()));
            status::with_reason(Code::OutOfRange, message, "COUNTER_OUT_OF_RANGE", &metadata)
        }
        Refusal::Invalid(invalid) => {
            let (field, problem) = invalid_field(invalid);
            status::invalid_argument(vec![(field.to_owned(), problem)])
        }
    }
}

fn refusal(refused: &Refused, kind: Kind) -> Status {
    let (code, reason, message, mut metadata) = match refused {
        Refused::IdReused if kind == Kind::Session => (
            Code::AlreadyExists,
            "SEQUENCE_REUSED",
            "this message was sent before, with other contents".to_owned(),
            vec![],
        ),
        Refused::IdReused => (
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            "this request_id was used before, for a request with other contents".to_owned(),
            vec![],
        ),
        Refused::TooOld { time, horizon } => (
            Code::FailedPrecondition,
            of_kind(kind, "REQUEST_TOO_OLD", "SESSION_TOO_OLD"),
            format!(
                "its time is {}, and what is from before {} may be forgotten",
                rfc3339(*time),
                rfc3339(*horizon)
            ),
            vec![("time", rfc3339(*time)), ("horizon", rfc3339(*horizon))],
        ),
        Refused::FromFuture { time, now } => (
            Code::FailedPrecondition,
            of_kind(kind, "REQUEST_FROM_FUTURE", "SESSION_FROM_FUTURE"),
            format!(
                "its time is {}, more than a minute after the server's, which is {}",
                rfc3339(*time),
                rfc3339(*now)
            ),
            vec![("time", rfc3339(*time)), ("now", rfc3339(*now))],
        ),
        Refused::Full {
            max_bytes,
            retry_in,
        } => return full(*max_bytes, *retry_in, kind),
        Refused::Gap { expected } => (
            Code::FailedPrecondition,
            "SEQUENCE_GAP",
            format!("the next message of this session is {expected}"),
            vec![("expected", expected.to_string())],
        ),
        Refused::Acknowledged { acknowledged } => (
            Code::FailedPrecondition,
            "SEQUENCE_ACKNOWLEDGED",
            format!(
                "messages up to {acknowledged} were acknowledged, as the client has said itself"
            ),
            vec![("acknowledged", acknowledged.to_string())],
        ),
        Refused::Overtaken { applied } => {
            return status::retriable(
                Code::Unavailable,
                format!("a message before this one is on its way; here {applied} was the last"),
                "MESSAGE_OVERTAKEN",
                &[not_applied()],
                OVERLOAD_RETRY_DELAY,
            );
        }
        Refused::SessionLost { acknowledged } => (
            Code::FailedPrecondition,
            "SESSION_LOST",
            format!("only messages up to {acknowledged} are known here"),
            vec![("acknowledged", acknowledged.to_string())],
        ),
        Refused::FailuresUnacknowledged { failures } => (
            Code::ResourceExhausted,
            "FAILURES_UNACKNOWLEDGED",
            format!("{failures} increments failed that the client has not said it knows of"),
            vec![("failures", failures.to_string())],
        ),
    };
    metadata.push(not_applied());
    status::with_reason(code, message, reason, &metadata)
}

fn full(max_bytes: u64, retry_in: Millis, kind: Kind) -> Status {
    status::retriable(
        Code::ResourceExhausted,
        format!("there is no room to remember more: {max_bytes} bytes are in use (--id-memory)"),
        of_kind(kind, "REQUEST_IDS_FULL", "SESSIONS_FULL"),
        &[("max_bytes", max_bytes.to_string()), not_applied()],
        Duration::from_millis(retry_in.unsigned_abs()),
    )
}

fn of_kind(kind: Kind, request: &'static str, session: &'static str) -> &'static str {
    match kind {
        Kind::Request => request,
        Kind::Session => session,
    }
}

fn rfc3339(time: Millis) -> String {
    let (seconds, nanos) = (time.div_euclid(1000), time.rem_euclid(1000) * 1_000_000);
    let nanos = i32::try_from(nanos).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos }.to_string()
}
