//! The errors of counters as gRPC statuses: the table at the head of `counter.proto`. No other place makes a status of
//! such an error.

mod times;

use std::time::Duration;

use tonic::Status;

use crate::counters::{Error, Kind, LaneFailure, invalid_field};
use crate::lane::LaneError;
use crate::model::{FailedIncrement, LimitError, MAX_FAILURES, Millis, Rejection, SESSION_WINDOW};
use crate::status::{self, Outcome, Reason, RichError};
use crate::store::StoreError;
use times::{from_future, too_old};

/// Retry delay after a failure of the store or of a node: a restart takes at least this long.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Retry delay of a busy lane: the time of some commits.
const OVERLOAD_RETRY_DELAY: Duration = Duration::from_millis(100);

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(violations) => status::invalid_argument(violations),
            Error::Malformed(problem) => status::malformed(&problem),
            Error::Failed {
                failure,
                counter,
                is_of_batch,
            } => self::failure(&failure, counter.as_deref(), is_of_batch),
            Error::Lane(failure) => lane_error(&failure),
            Error::AnswerLost { node, here } => answer_lost(&node, here.map(|here| (*here).into())),
            Error::Store { error, outcome } => store_failed(&error, outcome),
            Error::ConfirmedMeanwhile => confirmed_meanwhile(),
            Error::Draining => draining(),
            Error::Bug => status::panicked(),
        }
    }
}

fn lane_error(failure: &LaneFailure) -> Status {
    let (kind, outcome) = (failure.kind(), failure.outcome());
    let (reason, problem, delay) = match failure.error() {
        LaneError::Refused(refused) => return refusal(refused, kind, outcome).into(),
        LaneError::Unknown(error) | LaneError::Unavailable(error) => {
            return store_failed(error, outcome);
        }
        // Only requests that may be forwarded get this error, and they are then executed elsewhere.
        LaneError::NotOwner => return store_failed(&StoreError::Conflict, outcome),
        LaneError::Overloaded => (
            Reason::Overloaded,
            "too many increments are pending",
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
fn answer_lost(node: &str, here: Option<Status>) -> Status {
    let here = here.map(|here| {
        let problem = here.message();
        format!("; this node could not determine the outcome: {problem}")
    });
    let message = format!(
        "node {node:?} may have applied the request, but its answer is lost: only a retry with the same request_id is \
         safe{}",
        here.unwrap_or_default()
    );
    let error = Reason::AnswerLost.error(message);
    error.retry_in(RESTART_DELAY).into()
}

/// The status of a resent message that the client confirmed meanwhile.
fn confirmed_meanwhile() -> Status {
    let message = "a resent message was acknowledged in the meantime: open another stream, and continue after the \
                   message that its first response acknowledges";
    let error = Reason::MessageOvertaken
        .error(message)
        .outcome(Outcome::Unknown);
    error.retry_in(Duration::from_millis(1)).into()
}

/// The status of a stream that ends because the server does.
fn draining() -> Status {
    Reason::ShuttingDown
        .error("the server is shutting down; acknowledged messages are applied, and later ones may be: resume the \
                session")
        .outcome(Outcome::Unknown)
        .retry_in(Duration::from_millis(1))
        .into()
}

fn told(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplied => "nothing was changed",
        Outcome::Unknown => "part of it may have been applied",
    }
}

/// The text of [`told`] for a transient error, with advice on retries.
fn told_to_retry(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplied => "nothing was changed: retry",
        Outcome::Unknown => {
            "part of it may have been applied: retry with the same request_id, or resume the same session; without \
             either, a retry may count it twice"
        }
    }
}

fn store_failed(error: &StoreError, outcome: Outcome) -> Status {
    // The details are for the operator. The log has the failure of a lane once.
    tracing::debug!("{error}");
    let (reason, message) = match error {
        StoreError::Unavailable(_) | StoreError::Conflict | StoreError::Lost => (
            Reason::StoreUnavailable,
            format!(
                "the store cannot be reached now; {}",
                told_to_retry(outcome)
            ),
        ),
        StoreError::Full(problem) => (
            Reason::StoreFull,
            format!("{problem}: {}. Retry once there is room", told(outcome)),
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
        "{problem}; {}. `sumd check` lists all damage, and `sumd restore` makes a database from a backup",
        told(outcome)
    );
    let error = Reason::CounterDamaged.error(message).outcome(outcome);
    error.with_some("counter", counter).into()
}

/// The status of a failed increment. `counter` is not known for an increment of a session. In a batch, the index of the
/// increment matters.
pub(super) fn failure(
    failure: &FailedIncrement,
    counter: Option<&str>,
    is_of_batch: bool,
) -> Status {
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
        .with_some("index", is_of_batch.then_some(failure.index))
        .into()
}

fn refusal(refused: &Rejection, kind: Kind, outcome: Outcome) -> RichError {
    let effect = told(outcome);
    let error = match refused {
        Rejection::IdReused if kind == Kind::Session => Reason::SequenceReused.error(format!(
            "this message of the session was sent before with other increments, and those stay; {effect}: resend \
             messages unchanged, and give new increments a new sequence"
        )),
        Rejection::IdReused => Reason::RequestIdReused.error(
            "this request_id was used before for a request with other contents (method, counters, amounts or limits), \
             and nothing was changed by this one: send the same contents to get the first answer, or use another \
             request_id",
        ),
        Rejection::TooOld { time, horizon, now } => too_old(kind, *time, *horizon, *now, outcome),
        Rejection::FromFuture { time, now } => from_future(kind, *time, *now, outcome),
        Rejection::Full {
            max_bytes,
            retry_in,
        } => full(*max_bytes, *retry_in, kind, outcome),
        Rejection::Gap { expected } => Reason::SequenceGap
            .error(format!(
                "the next message of this session is {expected}; {effect}: resend from there"
            ))
            .with("expected", expected),
        Rejection::Acknowledged { acknowledged } => Reason::SequenceAcknowledged
            .error(format!(
                "the client has confirmed the acknowledgement of all messages up to {acknowledged}, so this one was \
                 not applied again: continue with the message after {acknowledged}"
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
                "an earlier message has not arrived: the last one here is {applied}; {effect}: open another stream, \
                 and continue after the message that its first response acknowledges"
            ))
            .retry_in(OVERLOAD_RETRY_DELAY),
        Rejection::SessionLost { acknowledged } => Reason::SessionLost
            .error(format!(
                "the client sent a higher acknowledged than the server knows, which is {acknowledged}: a backup was \
                 restored, or the session began with another id. If the id is right, the messages after {acknowledged} \
                 are not counted: open a stream with acknowledged {acknowledged}, and send them again"
            ))
            .with("acknowledged", acknowledged),
        Rejection::FailuresUnacknowledged { failures } => Reason::FailuresUnacknowledged
            .error(format!(
                "the session has {failures} failures that the client has not confirmed, over the limit of \
                 {MAX_FAILURES}; {effect}: raise `acknowledged` to the last message whose failures were received, and \
                 send this message again"
            ))
            .with("failures", failures),
        // The message may have been applied when it was sent before: the row that would say so is damaged.
        Rejection::SessionDamaged => return Reason::SessionDamaged.error(
            "the stored row of this session is damaged, so it is unknown which of its messages are applied: this one \
             may be, if it was sent before. A retry does not help. `sumd check` lists all damage. Restore a backup \
             (`sumd restore`) and resend the messages that its session lacks; or compare the counters with the \
             increments that were sent, and send the missing ones in a new session",
        ),
    };
    error.outcome(outcome)
}

fn full(max_bytes: u64, retry_in: Millis, kind: Kind, outcome: Outcome) -> RichError {
    let (reason, what, flag) = match kind {
        Kind::Request => (Reason::RequestIdsFull, "ids", "--id-horizon"),
        Kind::Session => (
            Reason::SessionsFull,
            "sessions and their failures",
            "--session-horizon",
        ),
    };
    let message = format!(
        "the memory for {what} is full: it is limited to {max_bytes} bytes (--id-memory); {}. Retry once the oldest \
         are forgotten ({flag})",
        told(outcome)
    );
    let error = reason.error(message).with("max_bytes", max_bytes);
    error.retry_in(Duration::from_millis(retry_in.unsigned_abs()))
}

#[cfg(test)]
mod tests;
