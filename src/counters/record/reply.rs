//! The answers on a bulk stream.

use crate::lane::Decided;
use crate::model::{Effect, FailedIncrement};
use crate::proto::sum::v1::IncrementFailure;

/// An answer on a bulk stream.
#[derive(Debug, Default)]
pub struct RecordReply {
    /// All messages up to this one are durable.
    pub acknowledged: u64,
    /// The revision of the last acknowledged message, if this answer acknowledges any.
    pub revision: i64,
    /// The failed increments of acknowledged messages.
    pub failures: Vec<RecordFailure>,
}

/// A failed increment of a message.
#[derive(Debug)]
pub enum RecordFailure {
    /// The failure, decided by a lane of this node.
    Here {
        /// The number of the message.
        sequence: u64,
        /// The failure.
        failure: FailedIncrement,
    },
    /// The failure as another node has sent it: in the form of the public contract, with its error.
    Elsewhere(IncrementFailure),
}

impl RecordReply {
    /// The answer of a lane to a message, or to a part of one.
    pub(super) fn of(decided: Decided) -> Self {
        let Effect::Recorded {
            acknowledged,
            failures: failed,
        } = decided.answer.done
        else {
            unreachable!("{:?} is not an answer to a message", decided.answer.done);
        };
        Self {
            acknowledged,
            revision: decided.revision,
            failures: failures(&failed),
        }
    }

    /// Adds another answer.
    pub(super) fn add(&mut self, acknowledged: u64, revision: i64, failures: Vec<RecordFailure>) {
        self.acknowledged = self.acknowledged.max(acknowledged);
        // An answer that acknowledges nothing has no position in the order.
        if acknowledged > 0 {
            self.revision = self.revision.max(revision);
        }
        self.failures.extend(failures);
    }
}

impl RecordFailure {
    /// The position of the increment: the number of its message, and its index there.
    pub(super) fn position(&self) -> (u64, u32) {
        match self {
            Self::Here { sequence, failure } => (*sequence, failure.index),
            Self::Elsewhere(failure) => (failure.sequence, failure.index),
        }
    }
}

/// The failures that a lane of this node has decided.
pub(super) fn failures(failures: &[(u64, FailedIncrement)]) -> Vec<RecordFailure> {
    let failure = |&(sequence, failure)| RecordFailure::Here { sequence, failure };
    failures.iter().map(failure).collect()
}
