//! Answers on bulk streams, in the form of the public contract.

use super::errors::failure;
use crate::counters::{RecordFailure, RecordReply};
use crate::model::SESSION_WINDOW;
use crate::proto::sum::v1::{IncrementFailure, RecordIncrementsResponse};
use crate::status;

/// The answer as a message.
pub(super) fn response(reply: RecordReply) -> RecordIncrementsResponse {
    RecordIncrementsResponse {
        acknowledged: reply.acknowledged,
        revision: reply.revision,
        failures: reply.failures.into_iter().map(to_proto).collect(),
        window: u32::try_from(SESSION_WINDOW).unwrap_or(u32::MAX),
    }
}

fn to_proto(failed: RecordFailure) -> IncrementFailure {
    match failed {
        RecordFailure::Here {
            sequence,
            failure: failed,
        } => IncrementFailure {
            sequence,
            index: failed.index,
            error: Some(status::to_proto(&failure(&failed, None, false))),
        },
        RecordFailure::Elsewhere(failure) => failure,
    }
}
