//! The answer of a lane to a request: a decision, or the reason that there is none.

use std::io;

use crate::model::{Answer, Corrupt, Outcome, Rejection};
use crate::store::{LaneNumber, StoreError};

/// The decision on a request, with its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The answer.
    pub answer: Answer,
    /// The answer's position in the order.
    pub revision: i64,
    /// The lane that has decided.
    pub lane: LaneNumber,
}

/// The reason that there is no answer.
///
/// It concerns this request alone: another copy of the same operation may have been executed.
#[derive(Clone, Debug)]
pub enum LaneError {
    /// The request was not executed, because it is refused.
    Refused(Rejection),
    /// The request may have been executed or not, because the store failed.
    Unknown(StoreError),
    /// The request was not executed, because the store cannot be reached, is full, or has a damaged row.
    Unavailable(StoreError),
    /// The request was not executed, because another node owns the lane.
    NotOwner,
    /// The request was not executed, because too many increments are pending.
    Overloaded,
    /// The request was not executed, because the lane has ended.
    Closed,
}

impl LaneError {
    /// Whether the request may have been executed, or may still be.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            // The damaged row does not tell whether an earlier copy of the request was applied.
            Self::Unknown(_) | Self::Refused(Rejection::SessionDamaged) => Outcome::Unknown,
            Self::Refused(_)
            | Self::Unavailable(_)
            | Self::NotOwner
            | Self::Overloaded
            | Self::Closed => Outcome::NotApplied,
        }
    }
}

/// The answer to a request.
pub type Result<T> = std::result::Result<T, LaneError>;

/// The reason that lanes cannot begin, or have ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store has failed.
    #[error(transparent)]
    Store(StoreError),
    /// A stored row is corrupt.
    #[error(transparent)]
    Corrupt(Corrupt),
    /// The runtime or the thread of the lanes cannot be made.
    #[error("cannot start the lanes' thread: {0}")]
    Thread(io::Error),
}

/// The failure that callers of an ended lane see.
pub(super) fn ended_by(what: &str) -> StoreError {
    StoreError::Failed(format!("its lane {what}").into())
}
