//! Sessions that were moved to another store, which has other lanes.
//!
//! Between stores a session is merged: all messages up to some number are applied, and parts of later ones. A store of
//! one lane keeps it like that. In a store of several lanes, the session's home lane keeps the merged messages, and
//! each lane the parts that it applied itself.

use std::collections::BTreeMap;

use crate::model::answer::FailedIncrement;
use crate::model::codec::{Corrupt, Reader, put_i64, put_u64};
use crate::model::hasher::KeyedHasher;
use crate::model::name::group;
use crate::model::request::{Increment, SessionId};
use crate::model::session::{Message, Session};
use crate::model::time::Millis;

/// Memory of a part beside its failures.
const PART_BYTES: usize = size_of::<ImportedPart>();
const FAILURE_BYTES: usize = size_of::<FailedIncrement>();

/// The messages of a session that were applied in another store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedSession {
    /// All messages up to this one were applied.
    pub(in crate::model) up_to: u64,
    /// The time of the move. No lane here applied anything of the session before it.
    pub(in crate::model) time: Millis,
    /// Number of lanes of the other store.
    pub(in crate::model) lanes: u32,
    /// The applied parts of later messages, in the order of messages and lanes.
    pub(in crate::model) parts: Vec<ImportedPart>,
}

/// A part of a message that was applied in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::model) struct ImportedPart {
    /// The message's number, the part's contents, and the number of the message's parts.
    pub(in crate::model) message: Message,
    /// The part's lane in the other store.
    pub(in crate::model) lane: u32,
    /// The increments that failed, with their indices in the message.
    pub(in crate::model) failures: Vec<FailedIncrement>,
}

impl ImportedSession {
    /// Drops the parts of messages up to `up_to`.
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

/// The parts of a message that lanes of another store have applied. The rest of it is to be applied in one lane.
#[derive(Default)]
pub(in crate::model) struct AppliedMessage {
    lanes: u32,
    of_it: Vec<u32>,
    pub(in crate::model) failures: Vec<(u64, FailedIncrement)>,
}

impl AppliedMessage {
    /// Whether an increment of the message was applied, or failed. One without a valid name is in the session's home
    /// lane.
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

    /// When the session was moved here, if it was. No lane here applied anything of it before that.
    #[must_use]
    pub fn moved_at(&self) -> Option<Millis> {
        self.moved.as_ref().map(|moved| moved.time)
    }

    /// Number of lanes of the other store, if it has left messages that are only partially applied.
    #[must_use]
    pub fn partially_applied(&self) -> Option<u32> {
        let moved = self.moved.as_ref();
        moved
            .filter(|moved| !moved.parts.is_empty())
            .map(|moved| moved.lanes)
    }

    /// The parts of a message that were applied before the move.
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

    /// The failures of a message that was applied before the session was moved here; `None` if it was a different one.
    /// A message whose contents are not known any more is taken for the same.
    #[must_use]
    pub fn moved_message(
        &self,
        sequence: u64,
        contents: u64,
    ) -> Option<Vec<(u64, FailedIncrement)>> {
        let same = self.is_same(sequence, contents);
        same.then(|| self.failures(|at| at == sequence))
    }

    /// Merges the rows of a session in a store of `lanes` lanes, each with the number of its lane. `time` is that of
    /// the move.
    #[must_use]
    pub fn merge_shards(of: &[(u32, Self)], lanes: u32, time: Millis) -> Self {
        let rows: Vec<_> = of.iter().map(|(_, row)| row.clone()).collect();
        let (applied, failures) = Self::merge(&rows);
        let acknowledged = rows.iter().map(|row| row.acknowledged).max();
        let acknowledged = acknowledged.unwrap_or(0);
        let messages = rows.iter().flat_map(|row| &row.messages);
        // The digest of all contents is known only for a message in one lane.
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

    /// Splits a merged session into the rows of a store of `lanes` lanes, for a move at `time`. If it has parts, the
    /// lanes must be those that the parts were in.
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
            // No part here was applied before the move, as its bound says.
            row.used = time;
        }
        rows.into_iter().collect()
    }

    /// The bytes of a merged session that a move must not change: without times and the number of lanes.
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
mod tests;
