//! Refusals, as nodes tell each other.

use tonic::Status;

use super::error::{self, Kind};
use super::peers::Forwarded;
use crate::cluster::Rejection;
use crate::lane::LaneError;
use crate::model::{Failure, Refusal, Refused};
use crate::proto::sumd::cluster::v1::{
    Failure as ProtoFailure, Full, Plain, Times, failure::Limit, refusal::Why,
};

/// The rejection of a request that a lane has not carried out.
pub(super) fn of_lane(error: LaneError, kind: Kind) -> Rejection {
    Rejection {
        why: why(&error),
        status: error::lane_error(error, kind),
    }
}

/// The rejection of a request that fails by a limit; `status` has it in gRPC's terms.
pub(super) fn of_failure(failure: &Failure, status: Status) -> Rejection {
    let (value, delta, limit) = match failure.refusal {
        Refusal::Min { value, delta, min } => (value, delta, Some(Limit::Min(min))),
        Refusal::Max { value, delta, max } => (value, delta, Some(Limit::Max(max))),
        Refusal::OutOfRange { value, delta } => (value, delta, None),
        // Such an increment never comes to a lane by itself. Its sender finds the same.
        Refusal::Invalid(_) => return Rejection::declined(status.message().to_owned()),
    };
    let failure = ProtoFailure {
        index: failure.index,
        value,
        delta,
        limit,
    };
    Rejection {
        why: Why::Failure(failure),
        status,
    }
}

fn why(error: &LaneError) -> Why {
    let plain = |plain: Plain| Why::Plain(plain.into());
    match error {
        LaneError::Refused(refused) => match *refused {
            Refused::IdReused => plain(Plain::IdReused),
            Refused::TooOld { time, horizon, now } => Why::TooOld(Times {
                time,
                bound: horizon,
                now,
            }),
            Refused::FromFuture { time, now } => Why::FromFuture(Times {
                time,
                bound: now,
                now: None,
            }),
            Refused::Full {
                max_bytes,
                retry_in,
            } => Why::Full(Full {
                max_bytes,
                retry_in_ms: retry_in,
            }),
            Refused::Gap { expected } => Why::Gap(expected),
            Refused::Acknowledged { acknowledged } => Why::Acknowledged(acknowledged),
            Refused::BeyondWindow { acknowledged } => Why::BeyondWindow(acknowledged),
            Refused::Overtaken { applied } => Why::Overtaken(applied),
            Refused::SessionLost { acknowledged } => Why::SessionLost(acknowledged),
            Refused::FailuresUnacknowledged { failures } => {
                Why::FailuresUnacknowledged(failures as u64)
            }
            Refused::SessionDamaged => plain(Plain::SessionDamaged),
        },
        LaneError::Unknown(_) => plain(Plain::Unknown),
        LaneError::Unavailable(_) | LaneError::Moved | LaneError::Closed => plain(Plain::Declined),
        LaneError::Overloaded => plain(Plain::Overloaded),
    }
}

impl From<Why> for Forwarded {
    fn from(why: Why) -> Self {
        Self::Refused(LaneError::Refused(match why {
            Why::Plain(number) => match Plain::try_from(number) {
                Ok(Plain::IdReused) => Refused::IdReused,
                Ok(Plain::SessionDamaged) => Refused::SessionDamaged,
                Ok(Plain::Overloaded) => return Self::Refused(LaneError::Overloaded),
                Ok(Plain::Declined | Plain::UnknownKind) => return Self::NotSent,
                Ok(Plain::Unknown | Plain::Unspecified) | Err(_) => return Self::InDoubt,
            },
            Why::Failure(failure) => return Self::Failed(read_failure(&failure)),
            Why::TooOld(Times { time, bound, now }) => Refused::TooOld {
                time,
                horizon: bound,
                now,
            },
            Why::FromFuture(Times { time, bound, .. }) => Refused::FromFuture { time, now: bound },
            Why::Full(full) => Refused::Full {
                max_bytes: full.max_bytes,
                retry_in: full.retry_in_ms,
            },
            Why::Gap(expected) => Refused::Gap { expected },
            Why::Acknowledged(acknowledged) => Refused::Acknowledged { acknowledged },
            Why::BeyondWindow(acknowledged) => Refused::BeyondWindow { acknowledged },
            Why::Overtaken(applied) => Refused::Overtaken { applied },
            Why::SessionLost(acknowledged) => Refused::SessionLost { acknowledged },
            Why::FailuresUnacknowledged(failures) => Refused::FailuresUnacknowledged {
                failures: usize::try_from(failures).unwrap_or(usize::MAX),
            },
        }))
    }
}

fn read_failure(failure: &ProtoFailure) -> Failure {
    let (value, delta) = (failure.value, failure.delta);
    let refusal = match failure.limit {
        Some(Limit::Min(min)) => Refusal::Min { value, delta, min },
        Some(Limit::Max(max)) => Refusal::Max { value, delta, max },
        None => Refusal::OutOfRange { value, delta },
    };
    Failure {
        index: failure.index,
        refusal,
    }
}

#[cfg(test)]
mod tests;
