//! The answer of a lane to a request: a decision, or the reason that there is none.

use std::{fmt, io};

use crate::model::{Answer, Corrupt, Outcome, Rejection};
use crate::store::{LaneNumber, StoreError};

/// The decision on a request, with its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The answer.
    pub answer: Answer,
    /// Its place in the order.
    pub revision: i64,
    /// Which lane has decided.
    pub lane: LaneNumber,
}

/// Why there is no answer.
///
/// Each is of this request alone. If it is one copy of an operation, another one may have been carried out.
#[derive(Clone, Debug)]
pub enum LaneError {
    /// It was not carried out.
    Refused(Rejection),
    /// It may have been carried out, or not: the store failed under it.
    Unknown(StoreError),
    /// It was not carried out, for the store cannot be reached.
    Unavailable(StoreError),
    /// It was not carried out, for another node commits to the lane, and does so best.
    NotOwner,
    /// It was not carried out, for too much waits.
    Overloaded,
    /// It was not carried out, for the lane has ended.
    Closed,
}

impl LaneError {
    /// Whether the request may have been carried out, or may yet be.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            // The row would tell if it was applied when it was sent before.
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

/// Why lanes cannot begin, or have ended.
#[derive(Debug)]
pub enum StartError {
    /// The store has failed.
    Store(StoreError),
    /// The rows are not what was written.
    Corrupt(Corrupt),
    /// No thread can be had, or it has died.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Corrupt(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "the lanes' thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The failure that callers of a lane see once it has ended.
pub(super) fn ended_by(what: &str) -> StoreError {
    StoreError::Failed(format!("its lane {what}").into())
}
