//! The errors of counters. They know nothing of gRPC: `api` has their sentences, and maps each to a status.

use prost::DecodeError;
use tracing::warn;

use crate::lane::LaneError;
use crate::model::{FailedIncrement, Outcome};
use crate::notice::Rarely;
use crate::store::{StoreError, damaged_counter};

/// The kind of request that was refused. Each has error messages of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request for one operation, which may have an id.
    Request,
    /// A message of a bulk session.
    Session,
}

/// The reason why a call has no answer, or why a stream ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Fields of the request are invalid. Each field is named with its problem.
    #[error("the request is invalid: {0:?}")]
    Invalid(Vec<(String, String)>),
    /// A message of a bulk stream cannot be decoded.
    #[error("the message is malformed: {0}")]
    Malformed(DecodeError),
    /// An increment would pass a limit.
    #[error("the increment failed: {failure:?}")]
    Failed {
        /// The failure.
        failure: FailedIncrement,
        /// The counter, if it is known.
        counter: Option<String>,
        /// Whether the request has several increments, so that the index of the failed one matters.
        is_of_batch: bool,
    },
    /// A lane has not executed a request, or its outcome is unknown.
    #[error("the lane has no answer: {0:?}")]
    Lane(LaneFailure),
    /// The answer of another node is lost, and this node could not settle the outcome.
    #[error("the answer of node {node:?} is lost")]
    AnswerLost {
        /// The node that may have applied the operation.
        node: String,
        /// The problem found on this node, if it was asked.
        here: Option<Box<Error>>,
    },
    /// The store cannot be read.
    #[error("the store cannot be read: {error}")]
    Store {
        /// The reason.
        error: StoreError,
        /// The outcome of the call's earlier messages.
        outcome: Outcome,
    },
    /// The client of a bulk stream confirmed a message that it had resent, before its lanes answered.
    #[error("a resent message was confirmed in the meantime")]
    ConfirmedMeanwhile,
    /// The server is shutting down, and takes no more messages of a bulk stream.
    #[error("the stream is drained")]
    Draining,
    /// This program has a bug, which is in its log.
    #[error("a bug")]
    Bug,
}

/// The failure of a request in a lane. Only the functions of [`Error`] make one, each with the outcome of its case: that
/// of an operation in doubt is never NOT_APPLIED.
#[derive(Clone, Debug)]
pub struct LaneFailure {
    error: LaneError,
    kind: Kind,
    outcome: Outcome,
}

impl LaneFailure {
    /// The reason.
    #[must_use]
    pub fn error(&self) -> &LaneError {
        &self.error
    }

    /// The kind of the request.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The outcome of the whole operation, of which the request may be a copy or a part.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the request is the whole operation, so that the outcome is that of the lane alone.
    pub(super) fn is_whole(&self) -> bool {
        self.outcome == self.error.outcome()
    }
}

impl Error {
    /// The error of a request that failed and has no other copy.
    pub(crate) fn of_request(error: LaneError) -> Self {
        Self::of_lane(error, Kind::Request)
    }

    /// The error of a session's message that failed and has no other copy or part.
    pub(crate) fn of_session(error: LaneError) -> Self {
        Self::of_lane(error, Kind::Session)
    }

    fn of_lane(error: LaneError, kind: Kind) -> Self {
        let outcome = error.outcome();
        Self::Lane(LaneFailure {
            error,
            kind,
            outcome,
        })
    }

    /// The error of the last copy of a request, if an earlier copy may have been applied.
    pub(super) fn of_copy(error: LaneError) -> Self {
        Self::Lane(LaneFailure {
            error,
            kind: Kind::Request,
            outcome: Outcome::Unknown,
        })
    }

    /// The error of a stream after one part of a message failed. Parts in other lanes may have been applied.
    pub(crate) fn of_part(error: LaneError) -> Self {
        Self::Lane(LaneFailure {
            error,
            kind: Kind::Session,
            outcome: Outcome::Unknown,
        })
    }

    /// Logs a failed read, and makes its error.
    pub(super) fn of_read(error: StoreError) -> Self {
        static NOTICE: Rarely = Rarely::new();
        match &error {
            StoreError::Damaged { problem, .. } => damaged_counter(problem),
            _ if !NOTICE.is_due() => {}
            StoreError::Failed(_) => tracing::error!("reads are refused: {error}"),
            _ => warn!("reads are refused: {error}"),
        }
        Self::Store {
            error,
            outcome: Outcome::NotApplied,
        }
    }

    /// The error of a stream whose session cannot be read. Its earlier messages may have been applied.
    pub(super) fn of_session_read(error: StoreError) -> Self {
        Self::Store {
            error,
            outcome: Outcome::Unknown,
        }
    }

    /// Logs a bug of this program, and makes its error.
    pub(super) fn bug(problem: &dyn std::fmt::Display) -> Self {
        tracing::error!("{problem}");
        Self::Bug
    }
}
