//! Refusals as nodes send them to each other.

use bytes::Bytes;

use super::error::Error;
use crate::lane::LaneError;
use crate::model::{FailedIncrement, LimitError, Rejection};
use crate::proto::sumd::cluster::v1::{
    Failure as ProtoFailure, Full, Plain, Times, failure::Limit, refusal::Why,
};

/// The outcome of a call to another node.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// The call was executed. The response is encoded.
    Answered(Bytes),
    /// The call failed by a limit, and the failure is committed.
    Failed(FailedIncrement),
    /// The call was not executed, because of its contents or an overload: another node would not do better.
    Refused(LaneError),
    /// The call was not executed, and never will be by that node.
    NotSent,
    /// The call may have been executed, or may still be.
    InDoubt,
}

/// The refusal of a call, for the node that has sent it; `None` if the call is not a valid request, so that its sender
/// finds the same error itself.
pub(crate) fn why(error: &Error) -> Option<Why> {
    Some(match error {
        Error::Lane(failure) if failure.is_whole() => of_lane(failure.error()),
        Error::Failed { failure, .. } => Why::Failure(of_failure(failure)?),
        Error::Invalid(_) => return None,
        // Of an operation with other copies or parts, the lane's error tells nothing.
        Error::Lane(_)
        | Error::Malformed(_)
        | Error::AnswerLost { .. }
        | Error::Store { .. }
        | Error::ConfirmedMeanwhile
        | Error::Draining
        | Error::Bug => Why::Plain(Plain::Unknown.into()),
    })
}

/// A failed increment; `None` if it is invalid, which only a session's message can bring to a lane.
fn of_failure(failure: &FailedIncrement) -> Option<ProtoFailure> {
    let (value, delta, limit) = match failure.refusal {
        LimitError::Min { value, delta, min } => (value, delta, Some(Limit::Min(min))),
        LimitError::Max { value, delta, max } => (value, delta, Some(Limit::Max(max))),
        LimitError::OutOfRange { value, delta } => (value, delta, None),
        LimitError::Invalid(_) => return None,
    };
    Some(ProtoFailure {
        index: failure.index,
        value,
        delta,
        limit,
    })
}

fn of_lane(error: &LaneError) -> Why {
    let plain = |plain: Plain| Why::Plain(plain.into());
    match error {
        LaneError::Refused(refused) => match *refused {
            Rejection::IdReused => plain(Plain::IdReused),
            Rejection::TooOld { time, horizon, now } => Why::TooOld(Times {
                time,
                bound: horizon,
                now,
            }),
            Rejection::FromFuture { time, now } => Why::FromFuture(Times {
                time,
                bound: now,
                now: None,
            }),
            Rejection::Full {
                max_bytes,
                retry_in,
            } => Why::Full(Full {
                max_bytes,
                retry_in_ms: retry_in,
            }),
            Rejection::Gap { expected } => Why::Gap(expected),
            Rejection::Acknowledged { acknowledged } => Why::Acknowledged(acknowledged),
            Rejection::BeyondWindow { acknowledged } => Why::BeyondWindow(acknowledged),
            Rejection::Overtaken { applied } => Why::Overtaken(applied),
            Rejection::SessionLost { acknowledged } => Why::SessionLost(acknowledged),
            Rejection::FailuresUnacknowledged { failures } => {
                Why::FailuresUnacknowledged(failures as u64)
            }
            Rejection::SessionDamaged => plain(Plain::SessionDamaged),
        },
        LaneError::Unknown(_) => plain(Plain::Unknown),
        LaneError::Unavailable(_) | LaneError::NotOwner | LaneError::Closed => {
            plain(Plain::Declined)
        }
        LaneError::Overloaded => plain(Plain::Overloaded),
    }
}

impl From<Why> for Forwarded {
    fn from(why: Why) -> Self {
        Self::Refused(LaneError::Refused(match why {
            Why::Plain(number) => match Plain::try_from(number) {
                Ok(Plain::IdReused) => Rejection::IdReused,
                Ok(Plain::SessionDamaged) => Rejection::SessionDamaged,
                Ok(Plain::Overloaded) => return Self::Refused(LaneError::Overloaded),
                Ok(Plain::Declined | Plain::UnknownKind) => return Self::NotSent,
                Ok(Plain::Unknown | Plain::Unspecified) | Err(_) => return Self::InDoubt,
            },
            Why::Failure(failure) => return Self::Failed(read_failure(&failure)),
            Why::TooOld(Times { time, bound, now }) => Rejection::TooOld {
                time,
                horizon: bound,
                now,
            },
            Why::FromFuture(Times { time, bound, .. }) => {
                Rejection::FromFuture { time, now: bound }
            }
            Why::Full(full) => Rejection::Full {
                max_bytes: full.max_bytes,
                retry_in: full.retry_in_ms,
            },
            Why::Gap(expected) => Rejection::Gap { expected },
            Why::Acknowledged(acknowledged) => Rejection::Acknowledged { acknowledged },
            Why::BeyondWindow(acknowledged) => Rejection::BeyondWindow { acknowledged },
            Why::Overtaken(applied) => Rejection::Overtaken { applied },
            Why::SessionLost(acknowledged) => Rejection::SessionLost { acknowledged },
            Why::FailuresUnacknowledged(failures) => Rejection::FailuresUnacknowledged {
                failures: usize::try_from(failures).unwrap_or(usize::MAX),
            },
        }))
    }
}

fn read_failure(failure: &ProtoFailure) -> FailedIncrement {
    let (value, delta) = (failure.value, failure.delta);
    let refusal = match failure.limit {
        Some(Limit::Min(min)) => LimitError::Min { value, delta, min },
        Some(Limit::Max(max)) => LimitError::Max { value, delta, max },
        None => LimitError::OutOfRange { value, delta },
    };
    FailedIncrement {
        index: failure.index,
        refusal,
    }
}

#[cfg(test)]
mod tests;
