//! Sessions imported from another store, and sessions whose client has confirmed more than is applied.

use super::super::error::Error;
use super::RecordStream;
use super::reassembly::{CompletedMessage, SessionReassembler};
use super::reply::failures;
use crate::lane::LaneError;
use crate::model::{Increments, KeyedHasher, Predecessor, Rejection, Session};
use crate::store::SessionRows;

/// An imported session, as its home lane has it.
pub(super) struct ImportedParts {
    session: Session,
    /// All imported messages are at or before this revision.
    revision: i64,
}

impl ImportedParts {
    /// Returns the imported session, if a row says that the session was moved here.
    pub(super) fn of(found: &SessionRows) -> Option<Self> {
        let mut rows = found.lanes.iter();
        let session = rows.find(|row| row.moved_at().is_some())?.clone();
        Some(Self {
            session,
            revision: found.revision,
        })
    }
}

/// Answers a message that was applied before the session was moved: no lane has a part of it. Returns the messages that
/// this completes; `None` if the message is to be applied.
pub(super) fn replay(
    moved: Option<&ImportedParts>,
    parts: &mut SessionReassembler,
    sequence: u64,
    hasher: KeyedHasher,
    increments: &Increments,
) -> Option<Result<Vec<CompletedMessage>, Error>> {
    let ImportedParts { session, revision } =
        moved.filter(|moved| sequence <= moved.session.moved_up_to())?;
    Some(
        match session.moved_message(sequence, hasher.message(increments)) {
            Some(failed) => Ok(parts.known(sequence, *revision, failures(&failed))),
            None => Err(Error::of_session(LaneError::Refused(Rejection::IdReused))),
        },
    )
}

impl RecordStream {
    /// Refuses a session whose client has confirmed more than is applied, for example after an older backup was
    /// restored. If no lane knows the session, its home lane says whether it is too old.
    pub(super) async fn refuse_lost(
        &mut self,
        found: &SessionRows,
        acknowledged: u64,
        applied: u64,
    ) -> Result<(), Error> {
        if !found.lanes.is_empty() {
            let acknowledged = applied;
            let lost = LaneError::Refused(Rejection::SessionLost { acknowledged });
            return Err(Error::of_session(lost));
        }
        let none = Increments::default();
        let question = self.record(0, acknowledged, Predecessor::TheOneBefore, none);
        let (session, _) = self.session.as_ref().expect("the first message has set it");
        let lanes = self.service.store().lanes();
        let home = self.service.hasher.lane(session, lanes);
        let refused = self.service.lanes.execute(home, question).await;
        refused.map_err(Error::of_session)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limits, SessionId};

    /// A message that was applied before its session was moved is answered and goes to no lane: most lanes do not know
    /// it.
    #[test]
    fn a_message_from_before_a_move_is_answered() {
        let hasher = KeyedHasher::new([7; 16]);
        let one = |delta| Increments::one("a/1".to_owned(), delta, Limits::default());
        // Messages 2 and 3 are applied, and 1 is acknowledged.
        let mut row = vec![2, 6, 3, 1, 2];
        for step in [2, 1] {
            row.extend([step, 1]);
            row.extend(hasher.message(&one(5)).to_le_bytes());
        }
        let whole = Session::decode(&row).expect("a session");
        let id = SessionId::from("meter-7");
        let moved = whole.split_by_lane(&id, hasher, 4, 1000);
        let mut found = SessionRows {
            lanes: vec![Session::default()],
            revision: 40,
            horizon: 0,
        };
        assert!(ImportedParts::of(&found).is_none());
        found.lanes.extend(moved.into_iter().map(|(_, row)| row));
        let moved = ImportedParts::of(&found);
        let mut parts = SessionReassembler::new(hasher, 4, &id, 1);
        let mut told = |sequence, delta| {
            let told = replay(moved.as_ref(), &mut parts, sequence, hasher, &one(delta))?;
            let told =
                told.map(|whole| whole.iter().map(|of| (of.sequence, of.revision)).collect());
            Some(told.map_err(|_| "another message"))
        };
        assert_eq!(told(2, 5), Some(Ok(vec![(2, 40)])));
        assert_eq!(told(3, 6), Some(Err("another message")));
        assert_eq!(told(3, 5), Some(Ok(vec![(3, 40)])));
        assert_eq!(told(4, 5), None);
    }
}
