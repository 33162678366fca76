//! Messages of sessions.

use super::State;
use crate::model::answer::{Answer, Decision, Effect, FailedIncrement, Position, Rejection};
use crate::model::request::{MAX_SKEW, Predecessor, Record};
use crate::model::session::imported::AppliedMessage;
use crate::model::session::{Message, SESSION_WINDOW, Session};

impl State {
    /// Decides a message of a session. It is only applied on top of its predecessor.
    pub(super) fn record(&mut self, record: &Record) -> Decision {
        let unknown = Session::default();
        let session = self.sessions.get(&record.session);
        if session.is_some_and(Session::is_damaged) {
            return Err(Rejection::SessionDamaged);
        }
        let is_new = session.is_none();
        self.check_begun(record, session)?;
        let session = session.unwrap_or(&unknown);
        let applied = session.applied;
        if record.follows == Predecessor::TheOneBefore && record.acknowledged > applied {
            return Err(Rejection::SessionLost {
                acknowledged: applied,
            });
        }
        let acknowledged = session.acknowledged.max(record.acknowledged);
        if record.sequence == 0 {
            let failures = session.failures(|at| at > acknowledged);
            if acknowledged > session.acknowledged {
                let (now, age) = (self.now, self.age);
                self.sessions.change(&record.session, |session| {
                    session.acknowledge(acknowledged);
                    session.use_at(now, age);
                });
            }
            return Ok(self.recorded(applied, failures, true));
        }
        if record.sequence <= acknowledged {
            return Err(Rejection::Acknowledged { acknowledged });
        }
        // A session's row holds one window, whatever the sender of the message allows.
        if record.sequence - acknowledged > SESSION_WINDOW {
            return Err(Rejection::BeyondWindow { acknowledged });
        }
        if session.is_applied(record.sequence) {
            return if session.is_same(record.sequence, record.contents) {
                let failures = session.failures(|at| at == record.sequence);
                Ok(self.recorded(record.sequence, failures, true))
            } else {
                Err(Rejection::IdReused)
            };
        }
        let parts = match &record.follows {
            Predecessor::TheOneBefore if record.sequence != applied + 1 => {
                return Err(Rejection::Gap {
                    expected: applied + 1,
                });
            }
            Predecessor::TheOneBefore => 1,
            Predecessor::InLane(part) => {
                // A client may confirm acknowledgements late.
                let whole = acknowledged.max(part.whole);
                let follows = match part.previous {
                    Some(previous) if previous > whole => applied == previous,
                    // All messages that were applied here so far are applied in all lanes.
                    _ => applied <= whole,
                };
                if !follows {
                    return Err(Rejection::Overtaken { applied });
                }
                part.parts
            }
        };
        if let Some(failures) = session.too_many_failures(acknowledged) {
            return Err(Rejection::FailuresUnacknowledged { failures });
        }
        // When the memory is full, known sessions may go on in a quarter more, but new ones may not begin.
        let max = self.bounds.id_bytes;
        self.check_room(if is_new { max } else { max + max / 4 })?;
        // Parts of the message may have been applied before the session was moved here.
        let done = match record.follows {
            Predecessor::TheOneBefore => session.done(record.sequence),
            Predecessor::InLane(_) => AppliedMessage::default(),
        };
        let hasher = self.hasher;
        self.places += 1;
        let mut failures = Vec::new();
        for (index, increment) in (0..).zip(record.increments.iter()) {
            if done.has(hasher, &record.session, increment.as_ref().ok()) {
                continue;
            }
            if let Err(refusal) = self.increment(increment, self.places) {
                let index = record.index(index);
                failures.push((record.sequence, FailedIncrement { index, refusal }));
            }
        }
        if !done.failures.is_empty() {
            failures.extend(done.failures);
            failures.sort_unstable_by_key(|(_, failure)| failure.index);
        }
        let (now, age) = (self.now, self.age);
        let message = Message {
            sequence: record.sequence,
            contents: record.contents,
            parts,
        };
        self.sessions.change(&record.session, |session| {
            session.acknowledge(acknowledged);
            session.advance(message, &failures);
            session.use_at(now, age);
            session.keep_bound(record.lower_bound());
        });
        Ok(self.recorded(record.sequence, failures, false))
    }

    /// Refuses a message whose session may have been forgotten: in this lane, or for a part in any lane.
    fn check_begun(&self, record: &Record, session: Option<&Session>) -> Result<(), Rejection> {
        let horizon = self.session_horizon();
        if record.follows == Predecessor::TheOneBefore {
            return match session {
                Some(_) => Ok(()),
                None => self.check_time(Some(record.time), horizon),
            };
        }
        // A session beyond its horizon counts as forgotten: other lanes may have forgotten it already, and would refuse
        // their parts.
        let used_at = session.and_then(|session| session.age);
        if used_at.is_some_and(|age| age > self.age - self.bounds.session_horizon) {
            return Ok(());
        }
        // The time of a part is a lower bound, and any earlier time is one, too. So a fast clock of the sending node is
        // no reason to refuse the part.
        let time = record.time.min(self.now + MAX_SKEW);
        self.check_time(Some(time), horizon)
    }

    fn recorded(
        &self,
        acknowledged: u64,
        failures: Vec<(u64, FailedIncrement)>,
        replayed: bool,
    ) -> Answer {
        Answer {
            done: Effect::Recorded {
                acknowledged,
                failures,
            },
            // After everything that is applied so far, including this message.
            place: Position::InBatch(self.places),
            replayed,
        }
    }
}
