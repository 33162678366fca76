//! The copies of an operation that are sent to several nodes, and the knowledge of their common outcome.
//!
//! An operation may be forwarded to another node, resent to it, and executed here. If it has an id, all copies have the
//! same one, so at most one of them is applied. A copy without an answer leaves open whether it was applied, and a
//! later error does not settle that: a lane that refuses the last copy for lack of memory says nothing of the first.
//! Only a committed decision that is remembered with the id settles it, because it is the decision on every copy.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::error::Error;
use crate::lane::LaneError;
use crate::model::Rejection;

/// The copies of one operation.
pub(super) struct Copies {
    id: Id,
    doubt: Option<InDoubt>,
}

/// The maker of an operation's id.
enum Id {
    /// Its caller.
    Callers,
    /// This node, because the caller sent no id. Copies for other nodes carry it, because their answers may be lost.
    Own {
        /// Minimum time for which the id is remembered.
        age: Duration,
        /// The id, and the time until which copies with it may be sent.
        made: Option<(String, Instant)>,
    },
    /// Nobody, because the owner of the lane has no memory for ids made by other nodes.
    None,
}

/// The state of an operation with a copy that may have been applied, or may still be. It can only become an error with
/// the outcome NOT_APPLIED by a decision on all copies.
#[derive(Debug)]
pub(super) struct InDoubt {
    /// The node whose answer is lost.
    node: String,
}

impl Copies {
    /// No copies yet, of an operation with this id. If `id` is empty, this node makes one, which is remembered for
    /// `own_id_age`; that is `None` if the owner of the lane has no memory for it.
    pub(super) fn new(id: &str, own_id_age: Option<Duration>) -> Self {
        let id = match own_id_age {
            _ if !id.is_empty() => Id::Callers,
            None => Id::None,
            Some(age) => Id::Own { age, made: None },
        };
        Self { id, doubt: None }
    }

    /// Sets the id of the next copy. Returns whether this node has made it.
    pub(super) fn mark(&mut self, id: &mut String, is_handed_on: bool) -> bool {
        match &mut self.id {
            Id::Callers => false,
            Id::Own { age, made } if is_handed_on || self.doubt.is_some() => {
                let new = || (Uuid::new_v4().simple().to_string(), Instant::now() + *age);
                let (own, _) = made.get_or_insert_with(new);
                id.clone_from(own);
                true
            }
            Id::Own { .. } | Id::None => {
                id.clear();
                false
            }
        }
    }

    /// Records that a node's answer to a copy is lost.
    ///
    /// # Errors
    /// Returns the caller's error if no other copy may be sent: without a remembered id, each copy would be applied.
    pub(super) fn doubt(&mut self, node: &str) -> Result<(), Error> {
        let doubt = self.doubt.insert(InDoubt {
            node: node.to_owned(),
        });
        match &self.id {
            Id::Callers => Ok(()),
            Id::Own {
                made: Some((_, until)),
                ..
            } if Instant::now() < *until => Ok(()),
            Id::Own { .. } | Id::None => Err(doubt.lost(None)),
        }
    }

    /// Gives up this node's own id if another node has refused it for lack of memory and no copy is in doubt. Later
    /// copies then have no id. Returns whether it did so.
    pub(super) fn give_up_own_id(&mut self, refused: &Rejection) -> bool {
        let is_full = matches!(refused, Rejection::Full { .. });
        let gives_up = is_full && self.doubt.is_none() && matches!(self.id, Id::Own { .. });
        if gives_up {
            self.id = Id::None;
        }
        gives_up
    }

    /// The caller's error if the last copy failed with this error.
    pub(super) fn error(&self, error: LaneError) -> Error {
        match &self.doubt {
            None => Error::of_request(error),
            Some(doubt) => doubt.error(error),
        }
    }

    /// The caller's error if the last copy was not a valid request.
    pub(super) fn invalid(&self, invalid: Error) -> Error {
        match &self.doubt {
            None => invalid,
            // A node of another version may have accepted an earlier copy.
            Some(doubt) => doubt.lost(Some(invalid)),
        }
    }
}

impl InDoubt {
    fn error(&self, error: LaneError) -> Error {
        if is_decision(&error) {
            return Error::of_request(error);
        }
        self.lost(Some(Error::of_copy(error)))
    }

    /// The caller's error, with the problem found on this node.
    fn lost(&self, here: Option<Error>) -> Error {
        Error::AnswerLost {
            node: self.node.clone(),
            here: here.map(Box::new),
        }
    }
}

/// Whether an error is the decision on every copy of the operation.
fn is_decision(error: &LaneError) -> bool {
    let LaneError::Refused(refused) = error else {
        return false;
    };
    match refused {
        // The id is remembered for another operation, so no copy of this one was or will be applied.
        Rejection::IdReused => true,
        // An earlier copy may have been applied, and forgotten since.
        Rejection::TooOld { .. }
        // Another copy may arrive later, or at a node whose clock is ahead.
        | Rejection::FromFuture { .. }
        // Another copy may find memory.
        | Rejection::Full { .. }
        // These refuse messages of sessions, which have no ids.
        | Rejection::Gap { .. }
        | Rejection::Acknowledged { .. }
        | Rejection::BeyondWindow { .. }
        | Rejection::Overtaken { .. }
        | Rejection::SessionLost { .. }
        | Rejection::SessionDamaged
        | Rejection::FailuresUnacknowledged { .. } => false,
    }
}

#[cfg(test)]
mod tests;
