//! A session that was moved to another store, which has other lanes.
//!
//! Between stores a session is a whole: what was applied of it up to some message, and parts of messages after that. A store of
//! one lane has it like that. In one of several lanes the session's own lane has the whole, and each lane the parts that it
//! applied itself.

use std::collections::BTreeMap;

use crate::model::answer::FailedIncrement;
use crate::model::codec::{Corrupt, Reader, put_i64, put_u64};
use crate::model::hasher::KeyedHasher;
use crate::model::name::group;
use crate::model::request::{Increment, SessionId};
use crate::model::session::{Message, Session};
use crate::model::time::Millis;

/// What a part takes in memory beside its failures.
const PART_BYTES: usize = size_of::<ImportedPart>();
const FAILURE_BYTES: usize = size_of::<FailedIncrement>();

/// What was applied of a session elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedSession {
    /// All messages up to this one.
    pub(in crate::model) up_to: u64,
    /// The time of the move: no lane here has applied anything of the session before it.
    pub(in crate::model) time: Millis,
    /// How many lanes there were.
    pub(in crate::model) lanes: u32,
    /// Of later messages what is not applied as a whole, in the order of messages and lanes.
    pub(in crate::model) parts: Vec<ImportedPart>,
}

/// A part of a message that was applied in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct ImportedPart {
    /// Which message, the part's contents, and how many parts the message has.
    pub(in crate::model) message: Message,
    /// Which lane.
    pub(in crate::model) lane: u32,
    /// What failed, each with which increment of the message it is.
    pub(in crate::model) failures: Vec<FailedIncrement>,
}

impl ImportedSession {
    /// Forgets the parts of messages up to one.
    pub(in crate::model) fn drop_parts(&mut self, up_to: u64) {
        self.parts.retain(|part| part.message.sequence > up_to);
    }

    pub(in crate::model) fn bytes(&self) -> usize {
        let parts = self.parts.iter();
        let parts = parts.map(|part| PART_BYTES + FAILURE_BYTES * part.failures.len());
        size_of::<Self>() + parts.sum::<usize>()
    }

    pub(in crate::model) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.up_to);
        put_i64(out, self.time);
        put_u64(out, self.lanes.into());
        put_u64(out, self.parts.len() as u64);
        for part in &self.parts {
            put_u64(out, part.message.sequence);
            put_u64(out, part.message.parts.into());
            out.extend_from_slice(&part.message.contents.to_le_bytes());
            put_u64(out, part.lane.into());
            put_u64(out, part.failures.len() as u64);
            part.failures.iter().for_each(|failure| failure.put(out));
        }
    }

    pub(in crate::model) fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        let mut moved = Self {
            up_to: reader.u64()?,
            time: reader.i64()?,
            lanes: reader.u32()?,
            parts: Vec::new(),
        };
        for _ in 0..reader.u64()? {
            let (sequence, parts) = (reader.u64()?, reader.u32()?);
            let contents = u64::from_le_bytes(reader.bytes()?);
            let lane = reader.u32()?;
            let failures = (0..reader.u64()?).map(|_| FailedIncrement::read(reader));
            moved.parts.push(ImportedPart {
                message: Message {
                    sequence,
                    contents,
                    parts,
                },
                lane,
                failures: failures.collect::<Result<_, _>>()?,
            });
        }
        Ok(moved)
    }
}

/// What is applied already of a message that is to be applied in one lane: what others had of it elsewhere.
#[derive(Default)]
pub(in crate::model) struct AppliedMessage {
    lanes: u32,
    of_it: Vec<u32>,
    pub(in crate::model) failures: Vec<(u64, FailedIncrement)>,
}

impl AppliedMessage {
    /// An increment of the message is applied, or failed; where it names no counter, in the session's own lane.
    pub(in crate::model) fn has(
        &self,
        hasher: Option<KeyedHasher>,
        session: &str,
        increment: Option<&Increment<'_>>,
    ) -> bool {
        if self.of_it.is_empty() {
            return false;
        }
        let hasher = hasher.expect("a session that was moved comes with what tells its lanes");
        let of = increment.map_or(session, |increment| group(increment.name));
        self.of_it.contains(&hasher.lane(of, self.lanes))
    }
}

impl Session {
    /// All messages up to this one were applied before the session was moved here.
    #[must_use]
    pub fn moved_up_to(&self) -> u64 {
        self.moved.as_ref().map_or(0, |moved| moved.up_to)
    }

    /// When it was moved here, if it was: no lane has applied anything of it before.
    #[must_use]
    pub fn moved_at(&self) -> Option<Millis> {
        self.moved.as_ref().map(|moved| moved.time)
    }

    /// Parts of messages are applied whose other parts are not: how many lanes those were.
    #[must_use]
    pub fn partially_applied(&self) -> Option<u32> {
        let moved = self.moved.as_ref();
        moved
            .filter(|moved| !moved.parts.is_empty())
            .map(|moved| moved.lanes)
    }

    /// What is applied already of a message.
    pub(in crate::model) fn done(&self, sequence: u64) -> AppliedMessage {
        let Some(moved) = self.moved.as_ref() else {
            return AppliedMessage::default();
        };
        let of_it = moved.parts.iter();
        let of_it = of_it.filter(|part| part.message.sequence == sequence);
        let mut done = AppliedMessage {
            lanes: moved.lanes,
            ..AppliedMessage::default()
        };
        for part in of_it {
            done.of_it.push(part.lane);
            let failures = part.failures.iter();
            done.failures
                .extend(failures.map(|failure| (sequence, *failure)));
        }
        done
    }

    /// A message that was applied before the session was moved here may be this one, and what failed of it; `None` where it
    /// is another.
    #[must_use]
    pub fn moved_message(
        &self,
        sequence: u64,
        contents: u64,
    ) -> Option<Vec<(u64, FailedIncrement)>> {
        let same = self.is_same(sequence, contents);
        same.then(|| self.failures(|at| at == sequence))
    }

    /// The whole of what so many lanes have of a session, each with its number.
    #[must_use]
    pub fn merge_shards(of: &[(u32, Self)], lanes: u32, time: Millis) -> Self {
        let rows: Vec<_> = of.iter().map(|(_, row)| row.clone()).collect();
        let (applied, failures) = Self::merge(&rows);
        let acknowledged = rows.iter().map(|row| row.acknowledged).max();
        let acknowledged = acknowledged.unwrap_or(0);
        let messages = rows.iter().flat_map(|row| &row.messages);
        // Of one that is in one lane the contents are known as a whole.
        let whole = messages.filter(|message| {
            message.parts == 1 && (acknowledged + 1..=applied).contains(&message.sequence)
        });
        let mut whole: Vec<_> = whole.copied().collect();
        whole.sort_unstable();
        let mut parts = Vec::new();
        for (lane, row) in of {
            let later = row.messages.iter();
            for message in later.filter(|message| message.sequence > applied) {
                let failures = row.failures(|at| at == message.sequence);
                parts.push(ImportedPart {
                    message: *message,
                    lane: *lane,
                    failures: failures.into_iter().map(|(_, failure)| failure).collect(),
                });
            }
        }
        parts.sort_unstable_by_key(|part| (part.message.sequence, part.lane));
        Self {
            used: rows.iter().map(|row| row.used).max().unwrap_or(0),
            applied,
            acknowledged,
            messages: whole.into(),
            failures: failures.into(),
            moved: Some(Box::new(ImportedSession {
                up_to: applied,
                time,
                lanes,
                parts,
            })),
            ..Self::default()
        }
    }

    /// What each of so many lanes has of a session that is moved there at a time, given its whole. These are the lanes that
    /// its parts were in, where there are any.
    #[must_use]
    pub fn split_by_lane(
        &self,
        id: &SessionId,
        hasher: KeyedHasher,
        lanes: u32,
        time: Millis,
    ) -> Vec<(u32, Self)> {
        let home = Self {
            used: self.used,
            applied: 0,
            acknowledged: self.acknowledged,
            messages: self.messages.clone(),
            failures: self.failures.clone(),
            moved: Some(Box::new(ImportedSession {
                up_to: self.applied,
                time,
                ..ImportedSession::default()
            })),
            ..Self::default()
        };
        let mut rows = BTreeMap::from([(hasher.lane(id, lanes), home)]);
        let parts = self.moved.iter().flat_map(|moved| &moved.parts);
        for part in parts {
            let row = rows.entry(part.lane).or_insert_with(|| Self {
                acknowledged: self.acknowledged,
                ..Self::default()
            });
            let sequence = part.message.sequence;
            let failures = part.failures.iter().map(|failure| (sequence, *failure));
            let failures: Vec<_> = failures.collect();
            row.advance(part.message, &failures);
            // No part is taken for one that was applied before the move.
            row.used = time;
        }
        rows.into_iter().collect()
    }

    /// What has to be the same of a session's whole in two stores.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        let parts = self.moved.iter().flat_map(|moved| moved.parts.clone());
        let fingerprint = Self {
            used: 0,
            age: None,
            lower_bound: None,
            moved: Some(Box::new(ImportedSession {
                parts: parts.collect(),
                ..ImportedSession::default()
            })),
            ..self.clone()
        };
        fingerprint.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64, parts: u32) -> Message {
        Message {
            sequence,
            contents: sequence * 10,
            parts,
        }
    }

    /// What several lanes have of a session is the same whole after it was spread over the same lanes again, and what is
    /// torn of it is in the lanes that it was in.
    #[test]
    fn a_session_that_is_gathered_and_spread_is_the_same() {
        let hasher = KeyedHasher::new([3; 16]);
        let id: SessionId = "meter-7".into();
        let failure = FailedIncrement {
            index: 3,
            refusal: crate::model::LimitError::OutOfRange { value: 1, delta: 2 },
        };
        let mut one = Session::default();
        one.advance(message(3, 1), &[(3, failure)]);
        one.advance(message(4, 2), &[]);
        one.advance(message(6, 2), &[(6, failure)]);
        one.used = 60;
        one.acknowledge(2);
        let mut other = Session::default();
        other.advance(message(4, 2), &[]);
        other.used = 55;
        let home = hasher.lane(&id, 256);
        for lanes in [
            [(home, one.clone()), (9, other.clone())],
            [(9, one), (home, other)],
        ] {
            let whole = Session::merge_shards(&lanes, 256, 100);
            assert_eq!((whole.applied, whole.acknowledged, whole.used), (4, 2, 60));
            assert_eq!(whole.partially_applied(), Some(256));
            assert_eq!(Session::decode(&whole.encode()), Ok(whole.clone()));
            assert_eq!(whole.moved_message(3, 30), Some(vec![(3, failure)]));
            assert_eq!(whole.moved_message(3, 31), None, "other contents");
            assert_eq!(whole.moved_message(4, 77), Some(vec![]), "unknown contents");
            assert_eq!(whole.moved_message(5, 50), None);

            let rows_of_lanes = whole.split_by_lane(&id, hasher, 256, 200);
            for (_, row) in &rows_of_lanes {
                assert_eq!(Session::decode(&row.encode()).as_ref(), Ok(row));
                assert_eq!(row.acknowledged, 2, "each lane knows what the client knows");
            }
            let again = Session::merge_shards(&rows_of_lanes, 256, 300);
            assert_eq!(again.fingerprint(), whole.fingerprint());
            let rows: Vec<_> = rows_of_lanes.iter().map(|(_, row)| row.clone()).collect();
            assert_eq!(Session::merge(&rows), (4, vec![(3, failure)]));
            let at = rows_of_lanes.iter().filter_map(|(_, row)| row.moved_at());
            assert_eq!(
                at.collect::<Vec<_>>(),
                [200],
                "the session's own lane tells"
            );
        }
    }

    /// Stores have each their own clocks and ages; all else has to be the same on both sides of a move.
    #[test]
    fn the_essence_of_a_session_is_all_but_its_times() {
        let mut session = Session::default();
        session.advance(message(1, 1), &[]);
        let mut later = session.clone();
        later.use_at(1000, 7);
        later.keep_bound(Some(super::super::LowerBound { above: 0, time: 99 }));
        assert_eq!(later.fingerprint(), session.fingerprint());
        let mut further = session.clone();
        further.advance(message(2, 1), &[]);
        assert_ne!(further.fingerprint(), session.fingerprint());
    }

    /// Parts of messages that are applied as a whole are not needed any more, and give back what they take.
    #[test]
    fn parts_are_forgotten_with_their_messages() {
        let failure = FailedIncrement {
            index: 3,
            refusal: crate::model::LimitError::OutOfRange { value: 1, delta: 2 },
        };
        let part = |sequence, failures| ImportedPart {
            message: message(sequence, 2),
            lane: 0,
            failures: vec![failure; failures],
        };
        let mut moved = ImportedSession {
            parts: vec![part(1, 0), part(2, 3), part(3, 1)],
            ..ImportedSession::default()
        };
        let empty = size_of::<ImportedSession>();
        assert_eq!(moved.bytes(), empty + 3 * PART_BYTES + 4 * FAILURE_BYTES);
        moved.drop_parts(2);
        let left: Vec<_> = moved
            .parts
            .iter()
            .map(|part| part.message.sequence)
            .collect();
        assert_eq!(left, [3]);
        assert_eq!(moved.bytes(), empty + PART_BYTES + FAILURE_BYTES);
    }

    /// Of messages that the client knows acknowledged nothing is kept, whichever lane it has told.
    #[test]
    fn what_is_acknowledged_in_one_lane_is_so_in_all() {
        let refusal = crate::model::LimitError::OutOfRange { value: 1, delta: 2 };
        let failure = FailedIncrement { index: 0, refusal };
        let mut one = Session::default();
        for sequence in 3..=4 {
            one.advance(message(sequence, 1), &[(sequence, failure)]);
        }
        let mut told = Session::default();
        told.acknowledge(3);
        let whole = Session::merge_shards(&[(0, one), (1, told)], 4, 100);
        assert_eq!((whole.applied, whole.acknowledged), (4, 3));
        assert_eq!(whole.messages, [message(4, 1)]);
        assert_eq!(whole.failures, [(4, failure)]);
    }

    /// A session that waits for nothing is after a move as old as it was, and has nothing in any lane but its own.
    #[test]
    fn a_move_is_no_use_of_a_session() {
        let hasher = KeyedHasher::new([3; 16]);
        let id: SessionId = "meter-7".into();
        let mut session = Session::default();
        session.advance(message(1, 1), &[]);
        session.used = 60;
        let whole = Session::merge_shards(&[(2, session)], 4, 100);
        let rows = whole.split_by_lane(&id, hasher, 256, 200);
        let used: Vec<_> = rows.iter().map(|(lane, row)| (*lane, row.used())).collect();
        assert_eq!(used, [(hasher.lane(&id, 256), 60)]);
    }

    /// What is torn of a session has to be the same on both sides of a move, wherever and whenever that goes.
    #[test]
    fn the_fingerprint_of_a_session_has_what_is_torn() {
        let torn = |sequence, lane, lanes, time| {
            let mut row = Session::default();
            row.advance(message(sequence, 2), &[]);
            Session::merge_shards(&[(lane, row)], lanes, time).fingerprint()
        };
        let one = torn(6, 9, 256, 100);
        assert_eq!(torn(6, 9, 128, 200), one);
        assert_ne!(torn(6, 8, 256, 100), one);
        assert_ne!(torn(7, 9, 256, 100), one);
        assert_ne!(Session::default().fingerprint(), one);
    }
}
