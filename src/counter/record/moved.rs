//! Messages that were applied before their session was moved to these lanes, none of which has a part of them.

use crate::lane::LaneError;
use crate::model::{Digests, Failure, Increments, Millis, Refused, Session};
use crate::store::SessionRows;

/// A session that was moved, as its own lane has it.
pub(super) struct Moved {
    session: Session,
    revision: i64,
}

impl Moved {
    /// What the rows of a session tell of a move.
    pub(super) fn of(found: &SessionRows) -> Option<Self> {
        let mut rows = found.lanes.iter();
        let session = rows.find(|row| row.moved_at().is_some())?.clone();
        Some(Self {
            session,
            revision: found.revision,
        })
    }

    /// When that was.
    pub(super) fn at(&self) -> Millis {
        self.session.moved_at().unwrap_or_default()
    }

    /// Everything that was moved is of this revision or before it.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    /// What failed of a message that was applied before the move; `None` where it was not.
    pub(super) fn replay(
        &self,
        sequence: u64,
        digests: Digests,
        increments: &Increments,
    ) -> Option<Result<Vec<(u64, Failure)>, LaneError>> {
        if sequence > self.session.moved_up_to() {
            return None;
        }
        let known = self
            .session
            .moved_message(sequence, digests.message(increments));
        Some(known.ok_or(LaneError::Refused(Refused::IdReused)))
    }
}
