//! The errors of counters as gRPC statuses: the table at the head of `counter.proto`.

mod times;

use std::time::Duration;

use tonic::Status;
use tracing::warn;

use super::convert::invalid_field;
use crate::lane::LaneError;
use crate::model::{FailedIncrement, LimitError, Millis, Rejection, SESSION_WINDOW};
use crate::notice::Rarely;
use crate::status::{self, Outcome, Reason, RichError};
use crate::store::{StoreError, damaged_counter};
use times::{from_future, too_old};

/// Retry delay after a failure of the store or of a node: a restart takes at least this long.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Retry delay of a busy lane: the time of some commits.
const OVERLOAD_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The kind of request that was refused. Each has error messages of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Session,
}

/// The status of a request that failed.
pub(super) fn of_request(error: LaneError) -> Status {
    lane_error(error, Kind::Request)
}

/// The status of a request or message that failed and has no other copy.
pub(super) fn lane_error(error: LaneError, kind: Kind) -> Status {
    let outcome = error.outcome();
    lane_error_with(error, kind, outcome)
}

/// The status of the last copy of a request, if an earlier copy may have been applied.
pub(super) fn of_copy(error: LaneError) -> Status {
    lane_error_with(error, Kind::Request, Outcome::Unknown)
}

/// The status of a stream after one part of a message failed. Parts in other lanes may have been applied.
pub(super) fn of_part(error: LaneError) -> Status {
    lane_error_with(error, Kind::Session, Outcome::Unknown)
}

fn lane_error_with(error: LaneError, kind: Kind, outcome: Outcome) -> Status {
    let (reason, problem, delay) = match error {
        LaneError::Refused(refused) => return refusal(&refused, kind, outcome).into(),
        LaneError::Unknown(error) | LaneError::Unavailable(error) => {
            return store_failed(&error, outcome);
        }
        // Only requests that may be forwarded get this error, and they are then executed elsewhere.
        LaneError::NotOwner => return store_failed(&StoreError::Conflict, outcome),
        LaneError::Overloaded => (
            Reason::Overloaded,
            "too many increments wait",
            OVERLOAD_RETRY_DELAY,
        ),
        LaneError::Closed => (
            Reason::ShuttingDown,
            "the server is shutting down",
            RESTART_DELAY,
        ),
    };
    let message = format!("{problem}; {}", told_to_retry(outcome));
    let error = reason.error(message).outcome(outcome);
    error.retry_in(delay).into()
}

/// The status of a request whose answer from another node is lost, and that this node could not settle.
pub(super) fn answer_lost(node: &str, here: Option<&str>) -> Status {
    let here = here.map(|problem| format!("; this node could not settle it: {problem}"));
    let message = format!(
        "node {node:?} may have applied the request, and its answer is lost: only a retry with the same request_id is safe{}",
        here.unwrap_or_default()
    );
    let error = Reason::AnswerLost.error(message);
    error.retry_in(RESTART_DELAY).into()
}

/// The status of a resent message that the client confirmed meanwhile.
pub(super) fn acknowledged_meanwhile() -> Status {
    let message = "a message that was sent again was acknowledged meanwhile";
    let error = Reason::MessageOvertaken
        .error(message)
        .outcome(Outcome::Unknown);
    error.retry_in(Duration::from_millis(1)).into()
}

/// Logs a bug of this program, and makes its status.
pub(super) fn fault(problem: &dyn std::fmt::Display) -> Status {
    tracing::error!("{problem}");
    status::panicked()
}

fn told(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplied => "nothing was changed",
        Outcome::Unknown => "some of it may have been applied",
    }
}

/// The text of [`told`] for a transient error, with advice on retries.
fn told_to_retry(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplied => "nothing was changed: retry",
        Outcome::Unknown => {
            "some of it may have been applied: retry with the same request_id, or go on with the same session; without one a \
             retry may count it twice"
        }
    }
}

/// The status of a failed read.
pub(super) fn read_error(error: &StoreError) -> Status {
    static NOTICE: Rarely = Rarely::new();
    match error {
        StoreError::Damaged { problem, .. } => damaged_counter(problem),
        _ if !NOTICE.is_due() => {}
        StoreError::Failed(_) => tracing::error!("reads are refused: {error}"),
        _ => warn!("reads are refused: {error}"),
    }
    store_failed(error, Outcome::NotApplied)
}

/// The status of a stream whose session cannot be read. Its earlier messages may have been applied.
pub(super) fn session_read_error(error: &StoreError) -> Status {
    store_failed(error, Outcome::Unknown)
}

fn store_failed(error: &StoreError, outcome: Outcome) -> Status {
    // The details are for the operator. The log has the failure of a lane once.
    tracing::debug!("{error}");
    let (reason, message) = match error {
        StoreError::Unavailable(_) | StoreError::Conflict | StoreError::Lost => (
            Reason::StoreUnavailable,
            format!(
                "the store cannot be reached just now; {}",
                told_to_retry(outcome)
            ),
        ),
        StoreError::Full(problem) => (
            Reason::StoreFull,
            format!(
                "{problem}: {}. Once there is room, send it again",
                told(outcome)
            ),
        ),
        StoreError::Damaged { counter, problem } => {
            return damaged(counter.as_deref(), problem, outcome);
        }
        StoreError::Failed(_) => (
            Reason::StoreFailed,
            format!(
                "the store has failed, and the server's log says why; {}",
                told_to_retry(outcome)
            ),
        ),
    };
    let error = reason.error(message).outcome(outcome);
    error.retry_in(RESTART_DELAY).into()
}

/// The status of a counter whose row is damaged, so that nothing is added to it.
fn damaged(counter: Option<&str>, problem: &str, outcome: Outcome) -> Status {
    let message = format!(
        "{problem}; {}. `sumd check` lists all damage, and `sumd restore` makes a database of a backup",
        told(outcome)
    );
    let error = Reason::CounterDamaged.error(message).outcome(outcome);
    error.with_some("counter", counter).into()
}

/// The status of a failed increment. `counter` is not known for an increment of a session.
pub(super) fn failure(failure: &FailedIncrement, counter: Option<&str>, index: bool) -> Status {
    let what = counter.map_or_else(
        || "the counter".to_owned(),
        |name| format!("counter {}", status::quoted(name)),
    );
    let change = |value: i64, delta: i64| {
        let after = i128::from(value) + i128::from(delta);
        format!("{what} is {value}, and adding {delta} would make it {after},")
    };
    let (error, value, delta) = match failure.refusal {
        LimitError::Min { value, delta, min } => {
            let change = change(value, delta);
            let message = format!("{change} below min, which is {min}; nothing was added");
            let error = Reason::LimitReached.error(message).with("min", min);
            (error, value, delta)
        }
        LimitError::Max { value, delta, max } => {
            let change = change(value, delta);
            let message = format!("{change} above max, which is {max}; nothing was added");
            let error = Reason::LimitReached.error(message).with("max", max);
            (error, value, delta)
        }
        LimitError::OutOfRange { value, delta } => {
            let (min, max) = (i64::MIN, i64::MAX);
            let change = change(value, delta);
            let message = format!("{change} outside int64 ({min} to {max}); nothing was added");
            let error = Reason::CounterOutOfRange.error(message);
            (error.with("min", min).with("max", max), value, delta)
        }
        LimitError::Invalid(invalid) => {
            let (field, problem) = invalid_field(invalid);
            return status::invalid_argument(vec![(field.to_owned(), problem)]);
        }
    };
    let error = error.with("value", value).with("delta", delta);
    let error = error.with_some("counter", counter);
    error
        .with_some("index", index.then_some(failure.index))
        .into()
}

fn refusal(refused: &Rejection, kind: Kind, outcome: Outcome) -> RichError {
    let error = match refused {
        Rejection::IdReused if kind == Kind::Session => Reason::SequenceReused.error(
            "this message of the session was sent before with other increments, which stay; it was not applied: resend a message \
             unchanged, and give new increments a new sequence",
        ),
        Rejection::IdReused => Reason::RequestIdReused.error(
            "this request_id was used before, for a request with other contents (its method, counters, amounts or limits), and \
             nothing was changed by this one: send the same contents for the first answer, or another request_id",
        ),
        Rejection::TooOld { time, horizon, now } => too_old(kind, *time, *horizon, *now),
        Rejection::FromFuture { time, now } => from_future(kind, *time, *now, outcome),
        Rejection::Full {
            max_bytes,
            retry_in,
        } => full(*max_bytes, *retry_in, kind, outcome),
        Rejection::Gap { expected } => Reason::SequenceGap
            .error(format!(
                "the next message of this session is {expected}, and this one was not applied: resend from there"
            ))
            .with("expected", expected),
        Rejection::Acknowledged { acknowledged } => Reason::SequenceAcknowledged
            .error(format!(
                "the client has said that it knows messages up to {acknowledged} acknowledged, and this one was not applied \
                 again: go on with the message after them"
            ))
            .with("acknowledged", acknowledged),
        // This is found before the message is split.
        Rejection::BeyondWindow { acknowledged } => {
            let problem = format!(
                "it is more than {SESSION_WINDOW} after acknowledged, which is {acknowledged}"
            );
            return Reason::InvalidArgument
                .error(format!("sequence: {problem}"))
                .violation("sequence", problem)
                .with("acknowledged", acknowledged);
        }
        Rejection::Overtaken { applied } => Reason::MessageOvertaken
            .error(format!(
                "a message before this one is on its way; here {applied} was the last"
            ))
            .retry_in(OVERLOAD_RETRY_DELAY),
        Rejection::SessionLost { acknowledged } => Reason::SessionLost
            .error(format!(
                "the client knows more messages acknowledged than the server, which knows those up to {acknowledged}: a \
                 backup was restored, or this is not the id that the session was begun with. If the id is right, the \
                 messages after {acknowledged} are not counted: open a stream that says acknowledged {acknowledged}, and \
                 send them again"
            ))
            .with("acknowledged", acknowledged),
        Rejection::FailuresUnacknowledged { failures } => Reason::FailuresUnacknowledged
            .error(format!(
                "{failures} increments failed that the client has not said it knows of, and this message was not applied: say \
                 with `acknowledged` which messages' failures have come, and send it again"
            ))
            .with("failures", failures),
        // The message may have been applied when it was sent before: the row that would say so is damaged.
        Rejection::SessionDamaged => return Reason::SessionDamaged.error(
            "the stored row of this session is damaged, so that nobody can tell which of its messages are applied: this one may \
             be, if it was sent before. A retry does not help. `sumd check` lists all damage. Restore a backup (`sumd restore`) \
             and send again what its session lacks; or compare the counters with what was sent, and send what is missing in a \
             new session",
        ),
    };
    error.outcome(outcome)
}

fn full(max_bytes: u64, retry_in: Millis, kind: Kind, outcome: Outcome) -> RichError {
    let (reason, flag) = match kind {
        Kind::Request => (Reason::RequestIdsFull, "--id-horizon"),
        Kind::Session => (Reason::SessionsFull, "--session-horizon"),
    };
    let message = format!(
        "there is no room to remember more: {max_bytes} bytes are in use (--id-memory); {}. Send it again when the oldest are \
         forgotten ({flag})",
        told(outcome)
    );
    let error = reason.error(message).with("max_bytes", max_bytes);
    error.retry_in(Duration::from_millis(retry_in.unsigned_abs()))
}

#[cfg(test)]
mod tests;
