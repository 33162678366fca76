//! What can go wrong with a counter, in gRPC's terms: the table at the head of `counter.proto`.

use std::time::Duration;

use tonic::{Code, Status};

use super::convert::invalid_field;
use crate::lane::LaneError;
use crate::model::{Failure, Millis, Refusal, Refused, SESSION_WINDOW};
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
        |name| format!("counter {}", status::quoted(name)),
    );
    let mut change = |value: i64, delta: i64| {
        metadata.push(("value", value.to_string()));
        metadata.push(("delta", delta.to_string()));
        let after = i128::from(value) + i128::from(delta);
        format!("{what} is {value}, and adding {delta} would make it {after},")
    };
    match failure.refusal {
        Refusal::Min { value, delta, min } => {
            let message = format!(
                "{} below min, which is {min}; nothing was added",
                change(value, delta)
            );
            metadata.push(("min", min.to_string()));
            let code = Code::FailedPrecondition;
            status::with_reason(code, message, "LIMIT_REACHED", &metadata)
        }
        Refusal::Max { value, delta, max } => {
            let message = format!(
                "{} above max, which is {max}; nothing was added",
                change(value, delta)
            );
            metadata.push(("max", max.to_string()));
            let code = Code::FailedPrecondition;
            status::with_reason(code, message, "LIMIT_REACHED", &metadata)
        }
        Refusal::OutOfRange { value, delta } => {
            let message = format!(
                "{} outside int64 ({} to {}); nothing was added",
                change(value, delta),
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
            "this message of the session was sent before with other increments, which stay; it was not applied: resend a message \
             unchanged, and give new increments a new sequence"
                .to_owned(),
            vec![],
        ),
        Refused::IdReused => (
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            "this request_id was used before, for a request with other contents (its method, counters, amounts or limits), and \
             nothing was changed by this one: send the same contents for the first answer, or another request_id"
                .to_owned(),
            vec![],
        ),
        Refused::TooOld { time, horizon } => (
            Code::FailedPrecondition,
            of_kind(kind, "REQUEST_TOO_OLD", "SESSION_TOO_OLD"),
            too_old(kind, &rfc3339(*time), &rfc3339(*horizon)),
            vec![("time", rfc3339(*time)), ("horizon", rfc3339(*horizon))],
        ),
        Refused::FromFuture { time, now } => (
            Code::FailedPrecondition,
            of_kind(kind, "REQUEST_FROM_FUTURE", "SESSION_FROM_FUTURE"),
            format!(
                "the {} is of {}, by the clock of the client, and the clock of the server says {}, over a minute before that: \
                 mend the clock that is wrong, and send it again; nothing was changed",
                of_kind(kind, "request", "session"),
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
            format!(
                "the next message of this session is {expected}, and this one was not applied: resend from there"
            ),
            vec![("expected", expected.to_string())],
        ),
        Refused::Acknowledged { acknowledged } => (
            Code::FailedPrecondition,
            "SEQUENCE_ACKNOWLEDGED",
            format!(
                "the client has said that it knows messages up to {acknowledged} acknowledged, and this one was not applied \
                 again: go on with the message after them"
            ),
            vec![("acknowledged", acknowledged.to_string())],
        ),
        Refused::BeyondWindow { acknowledged } => (
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            format!(
                "sequence: it is more than {SESSION_WINDOW} after acknowledged, which is {acknowledged}"
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
            format!(
                "the client knows more messages acknowledged than the server, which knows those up to {acknowledged}, as \
                 after the restore of a backup. The messages after that are not counted: open a stream that says \
                 acknowledged {acknowledged}, and send them again"
            ),
            vec![("acknowledged", acknowledged.to_string())],
        ),
        Refused::FailuresUnacknowledged { failures } => (
            Code::ResourceExhausted,
            "FAILURES_UNACKNOWLEDGED",
            format!(
                "{failures} increments failed that the client has not said it knows of, and this message was not applied: say \
                 with `acknowledged` which messages' failures have come, and send it again"
            ),
            vec![("failures", failures.to_string())],
        ),
    };
    metadata.push(not_applied());
    status::with_reason(code, message, reason, &metadata)
}

fn full(max_bytes: u64, retry_in: Millis, kind: Kind) -> Status {
    status::retriable(
        Code::ResourceExhausted,
        format!(
            "there is no room to remember more: {max_bytes} bytes are in use (--id-memory), and nothing was changed; send it \
             again when the oldest are forgotten ({})",
            of_kind(kind, "--id-horizon", "--session-horizon")
        ),
        of_kind(kind, "REQUEST_IDS_FULL", "SESSIONS_FULL"),
        &[("max_bytes", max_bytes.to_string()), not_applied()],
        Duration::from_millis(retry_in.unsigned_abs()),
    )
}

fn too_old(kind: Kind, time: &str, horizon: &str) -> String {
    match kind {
        Kind::Request => format!(
            "the request is of {time}, by its request_id (a UUIDv7) or its request_time, and ids from before {horizon} may be \
             forgotten (--id-horizon). Whether it was counted before cannot be told; it was not now. For data that come so \
             late, raise --id-horizon, or send them in a session (RecordIncrements)"
        ),
        Kind::Session => format!(
            "the session is not known here and is of {time}, by its session_id (a UUIDv7) or its session_time; sessions that \
             were last used before {horizon} may be forgotten (--session-horizon). Whether messages were counted before cannot \
             be told; this one was not now. What is new is for a session that begins now, with an id of its own"
        ),
    }
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
