//! A request in the queue of its lane.

use tokio::time::Instant;

use super::completions::ReplyTo;
use super::error::{Decided, LaneError, Result};
use crate::model::{Rejection, Request};
use crate::store::StoreError;

/// A request, and the recipient of its answer.
pub(super) struct Job {
    /// Boxed, because it is moved several times, and goes back to the thread that made it.
    pub(super) request: Box<Request>,
    pub(super) reply_to: ReplyTo,
    pub(super) completion_queue: usize,
    /// Number of capacity permits that it holds.
    pub(super) weight: usize,
    /// Whether it is refused if another node owns the lane.
    pub(super) if_owner: bool,
    /// When it was first parked, if it is a part that has overtaken its predecessor.
    pub(super) parked_since: Option<Instant>,
    /// Whether it was in a batch that may have been stored, and whose outcome cannot be determined any more.
    pub(super) in_doubt: bool,
}

impl Job {
    /// The answer for the caller. Once the job is in doubt, the only way out is a decision that holds whenever it was
    /// made.
    pub(super) fn told(&self, answer: Result<Decided>) -> Result<Decided> {
        match answer {
            Ok(_) | Err(LaneError::Unknown(_) | LaneError::Refused(Rejection::IdReused)) => answer,
            Err(_) if self.in_doubt => Err(LaneError::Unknown(StoreError::Lost)),
            Err(_) => answer,
        }
    }
}
