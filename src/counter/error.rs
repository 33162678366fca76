//! What can go wrong with a counter, in gRPC's terms: the table at the head of `counter.proto`.

mod times;

use std::time::Duration;

use tonic::{Code, Status};
use tracing::warn;

use super::convert::invalid_field;
use crate::lane::LaneError;
use crate::model::{Failure, Millis, Refusal, Refused, SESSION_WINDOW};
use crate::notice::Rarely;
use crate::status::{self, not_applied, unknown};
use crate::store::{Effect, StoreError, damaged_counter};
use times::{from_future, too_old};

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

/// A message, or a question, that has no answer. It is about the only copy of it.
pub(super) fn lane_error(error: LaneError, kind: Kind) -> Status {
    let effect = error.effect();
    lane_error_with(error, kind, effect)
}

/// That of the last copy of a request, of which an earlier one may have been applied.
pub(super) fn of_copy(error: LaneError) -> Status {
    lane_error_with(error, Kind::Request, Effect::Unknown)
}

/// An error of a stream whose messages have parts in several lanes. It is of one part, and others may have been applied.
pub(super) fn of_part(error: LaneError) -> Status {
    lane_error_with(error, Kind::Session, Effect::Unknown)
}

fn lane_error_with(error: LaneError, kind: Kind, effect: Effect) -> Status {
    match error {
        LaneError::Refused(refused) => refusal(&refused, kind, effect),
        LaneError::Unknown(error) | LaneError::Unavailable(error) => store_failed(&error, effect),
        // Only requests that may move are told so, and those are carried out elsewhere then.
        LaneError::Moved => store_failed(&StoreError::Moved, effect),
        LaneError::Overloaded => status::retriable(
            Code::Unavailable,
            format!("too many increments wait; {}", told_to_retry(effect)),
            "OVERLOADED",
            &[outcome(effect)],
            OVERLOAD_RETRY_DELAY,
        ),
        LaneError::Closed => status::retriable(
            Code::Unavailable,
            format!("the server is shutting down; {}", told_to_retry(effect)),
            "SHUTTING_DOWN",
            &[outcome(effect)],
            RESTART_DELAY,
        ),
    }
}

/// A request that was handed to another node, whose answer is lost, and that could not be settled here.
pub(super) fn answer_lost(node: &str, here: Option<&str>) -> Status {
    let here = here.map(|problem| format!("; this node could not settle it: {problem}"));
    let message = format!(
        "node {node:?} may have applied the request, and its answer is lost: only a retry with the same request_id is safe{}",
        here.unwrap_or_default()
    );
    status::retriable(
        Code::Unavailable,
        message,
        "ANSWER_LOST",
        &[unknown()],
        RESTART_DELAY,
    )
}

/// A message that was sent again was acknowledged meanwhile.
pub(super) fn acknowledged_meanwhile() -> Status {
    message_overtaken(
        "a message that was sent again was acknowledged meanwhile".to_owned(),
        Effect::Unknown,
        Duration::from_millis(1),
    )
}

fn message_overtaken(message: String, effect: Effect, delay: Duration) -> Status {
    status::retriable(
        Code::Unavailable,
        message,
        "MESSAGE_OVERTAKEN",
        &[outcome(effect)],
        delay,
    )
}

/// A fault of this program.
pub(super) fn fault(problem: &dyn std::fmt::Display) -> Status {
    tracing::error!("{problem}");
    status::with_reason(
        Code::Internal,
        "the server failed on this call; its log says where",
        "PANIC",
        &[unknown()],
    )
}

fn told(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "nothing was changed",
        Effect::Unknown => "some of it may have been applied",
    }
}

/// The same, of an error that passes.
fn told_to_retry(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "nothing was changed: retry",
        Effect::Unknown => {
            "some of it may have been applied: retry with the same request_id, or go on with the same session; without one a \
             retry may count it twice"
        }
    }
}

fn outcome(effect: Effect) -> (&'static str, String) {
    match effect {
        Effect::None => not_applied(),
        Effect::Unknown => unknown(),
    }
}

/// A read that failed.
pub(super) fn read_error(error: &StoreError) -> Status {
    static NOTICE: Rarely = Rarely::new();
    match error {
        StoreError::Damaged { problem, .. } => damaged_counter(problem),
        _ if !NOTICE.is_due() => {}
        StoreError::Failed(_) => tracing::error!("reads are refused: {error}"),
        _ => warn!("reads are refused: {error}"),
    }
    store_failed(error, Effect::None)
}

/// A stream of a session that cannot read it. Messages that it has taken before may have been applied.
pub(super) fn session_read_error(error: &StoreError) -> Status {
    store_failed(error, Effect::Unknown)
}

fn store_failed(error: &StoreError, effect: Effect) -> Status {
    // What failed is for the operator. Of a lane that failed the log says it once.
    tracing::debug!("{error}");
    let (code, reason, message) = match error {
        StoreError::Unavailable(_) | StoreError::Moved | StoreError::Lost => (
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            format!(
                "the store cannot be reached just now; {}",
                told_to_retry(effect)
            ),
        ),
        StoreError::Full(problem) => (
            Code::ResourceExhausted,
            "STORE_FULL",
            format!(
                "{problem}: {}. Once there is room, send it again",
                told(effect)
            ),
        ),
        StoreError::Damaged { counter, problem } => {
            return damaged(counter.as_deref(), problem, effect);
        }
        StoreError::Failed(_) => (
            Code::Unavailable,
            "STORE_FAILED",
            format!(
                "the store has failed, and the server's log says why; {}",
                told_to_retry(effect)
            ),
        ),
    };
    status::retriable(code, message, reason, &[outcome(effect)], RESTART_DELAY)
}

/// A counter whose row is not what was written, so that nothing is counted on top of it.
fn damaged(counter: Option<&str>, problem: &str, effect: Effect) -> Status {
    let message = format!(
        "{problem}; {}. `sumd check` lists all damage, and `sumd restore` makes a database of a backup",
        told(effect)
    );
    let mut metadata = vec![outcome(effect)];
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

fn refusal(refused: &Refused, kind: Kind, effect: Effect) -> Status {
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
        Refused::TooOld { time, horizon, now } => return too_old(kind, (*time, *horizon, *now), effect),
        Refused::FromFuture { time, now } => return from_future(kind, *time, *now, effect),
        Refused::Full {
            max_bytes,
            retry_in,
        } => return full(*max_bytes, *retry_in, kind, effect),
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
            let message =
                format!("a message before this one is on its way; here {applied} was the last");
            return message_overtaken(message, effect, OVERLOAD_RETRY_DELAY);
        }
        Refused::SessionLost { acknowledged } => (
            Code::FailedPrecondition,
            "SESSION_LOST",
            format!(
                "the client knows more messages acknowledged than the server, which knows those up to {acknowledged}: a \
                 backup was restored, or this is not the id that the session was begun with. If the id is right, the \
                 messages after {acknowledged} are not counted: open a stream that says acknowledged {acknowledged}, and \
                 send them again"
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
        Refused::SessionDamaged => return session_damaged(),
    };
    metadata.push(outcome(effect));
    status::with_reason(code, message, reason, &metadata)
}

/// The message may have been applied when it was sent before: the row that would tell is damaged.
fn session_damaged() -> Status {
    status::with_reason(
        Code::DataLoss,
        "the stored row of this session is damaged, so that nobody can tell which of its messages are applied: this one may be, \
         if it was sent before. A retry does not help. `sumd check` lists all damage. Restore a backup (`sumd restore`) and send \
         again what its session lacks; or compare the counters with what was sent, and send what is missing in a new session",
        "SESSION_DAMAGED",
        &[unknown()],
    )
}

fn full(max_bytes: u64, retry_in: Millis, kind: Kind, effect: Effect) -> Status {
    status::retriable(
        Code::ResourceExhausted,
        format!(
            "there is no room to remember more: {max_bytes} bytes are in use (--id-memory); {}. Send it again when the oldest \
             are forgotten ({})",
            told(effect),
            of_kind(kind, "--id-horizon", "--session-horizon")
        ),
        of_kind(kind, "REQUEST_IDS_FULL", "SESSIONS_FULL"),
        &[("max_bytes", max_bytes.to_string()), outcome(effect)],
        Duration::from_millis(retry_in.unsigned_abs()),
    )
}

fn of_kind(kind: Kind, request: &'static str, session: &'static str) -> &'static str {
    match kind {
        Kind::Request => request,
        Kind::Session => session,
    }
}

#[cfg(test)]
mod tests;
