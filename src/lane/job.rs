//! A request in the queue of its lane.

use tokio::time::Instant;

use super::completions::ReplyTo;
use super::error::{Decided, LaneError, Result};
use crate::model::{Rejection, Request};
use crate::store::StoreError;

/// Something to do, and who is told.
pub(super) struct Job {
    /// In a box, since it is moved several times, and goes back to the thread that made it.
    pub(super) request: Box<Request>,
    pub(super) reply_to: ReplyTo,
    pub(super) completion_queue: usize,
    /// How much of the lanes' room it takes.
    pub(super) weight: usize,
    /// It is refused if another node owns the lane.
    pub(super) if_owner: bool,
    /// It is a part that has overtaken the one before it, since then.
    pub(super) parked_since: Option<Instant>,
    /// It was in a batch that may have been stored, and nobody can tell any more.
    pub(super) in_doubt: bool,
}

impl Job {
    /// The answer that its caller gets. Once it is in doubt, nothing but a decision that holds for it whenever it was made ends that.
    pub(super) fn told(&self, answer: Result<Decided>) -> Result<Decided> {
        match answer {
            Ok(_) | Err(LaneError::Unknown(_) | LaneError::Refused(Rejection::IdReused)) => answer,
            Err(_) if self.in_doubt => Err(LaneError::Unknown(StoreError::Lost)),
            Err(_) => answer,
        }
    }
}
