//! The copies of one operation that nodes hand to each other, and what is known of them together.
//!
//! An operation may be sent to another node, sent there again, and carried out here. All of its copies have the same id, so at
//! most one of them is applied. But whether one is, a copy whose answer is lost leaves open, and no later error settles it: a
//! lane that refuses the last copy for want of memory says nothing of the first. Only a decision does that is committed and
//! remembered with the id, for it is the decision on every copy.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use super::error;
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
    /// This node: its caller has sent none. It goes with the copies for other nodes, since their answers may be lost.
    Own {
        /// How long it is certainly remembered.
        age: Duration,
        /// The id, and until when copies with it may be sent.
        made: Option<(String, Instant)>,
    },
    /// Nobody, for other nodes have no memory for those that nodes make.
    None,
}

/// An operation of which a copy may have been applied, or may yet be. Nothing makes that undone: there is no way from here to
/// an error that says NOT_APPLIED, but by a decision that holds for all copies.
#[derive(Debug)]
pub(super) struct InDoubt {
    /// The node whose answer is lost.
    node: String,
}

impl Copies {
    /// None so far, of an operation with this id. If that is empty, the node makes one, which is remembered for `own_id_age`;
    /// `None` if other nodes have no memory for it.
    pub(super) fn new(id: &str, own_id_age: Option<Duration>) -> Self {
        let id = match own_id_age {
            _ if !id.is_empty() => Id::Callers,
            None => Id::None,
            Some(age) => Id::Own { age, made: None },
        };
        Self { id, doubt: None }
    }

    /// Gives the next copy its id. Says whether that is one of this node's own making.
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

    /// The answer of a node to a copy that it was handed is lost.
    ///
    /// # Errors
    /// Returns the caller's error if there must be no other copy: without an id each is applied.
    pub(super) fn doubt(&mut self, node: &str) -> Result<(), Status> {
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

    /// Another node has no memory for an id that this node has made; no copy is in doubt. From now on there is none.
    pub(super) fn give_up_own_id(&mut self, refused: &Rejection) -> bool {
        let is_full = matches!(refused, Rejection::Full { .. });
        let gives_up = is_full && self.doubt.is_none() && matches!(self.id, Id::Own { .. });
        if gives_up {
            self.id = Id::None;
        }
        gives_up
    }

    /// The caller's error, the last copy having this one.
    pub(super) fn error(&self, error: LaneError) -> Status {
        match &self.doubt {
            None => error::of_request(error),
            Some(doubt) => doubt.error(error),
        }
    }

    /// The caller's error, the last copy not being a valid request.
    pub(super) fn invalid(&self, invalid: Status) -> Status {
        match &self.doubt {
            None => invalid,
            // Another version may have taken it.
            Some(doubt) => doubt.lost(Some(&invalid)),
        }
    }
}

impl InDoubt {
    fn error(&self, error: LaneError) -> Status {
        if is_decision(&error) {
            return error::of_request(error);
        }
        self.lost(Some(&error::of_copy(error)))
    }

    /// The caller's error; what this node has found is beside it.
    fn lost(&self, here: Option<&Status>) -> Status {
        error::answer_lost(&self.node, here.map(Status::message))
    }
}

/// Whether an error is the decision on every copy of the operation, wherever it may be.
fn is_decision(error: &LaneError) -> bool {
    let LaneError::Refused(refused) = error else {
        return false;
    };
    match refused {
        // The id is remembered for another operation, so no copy of this one was applied, nor will be.
        Rejection::IdReused => true,
        // An earlier copy may have been applied, and forgotten since.
        Rejection::TooOld { .. }
        // A copy may come to a node whose clock is ahead, or come later.
        | Rejection::FromFuture { .. }
        // A copy may find memory.
        | Rejection::Full { .. }
        // Of messages of sessions, which have no ids.
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
