//! The session of a bulk client.

pub(super) mod imported;

use std::collections::VecDeque;

use super::answer::FailedIncrement;
use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::extras;
use super::request::LowerBound;
use super::time::Millis;
use imported::ImportedSession;

/// How many messages a client may be ahead of what it knows acknowledged. Some 24 bytes are kept for each.
pub const SESSION_WINDOW: u64 = 256;

/// What a session takes in memory beside its id, messages and failures.
const SESSION_BYTES: usize = 256;
const FAILURE_BYTES: usize = size_of::<(u64, FailedIncrement)>();
/// Failures of a session that are kept for a client that does not say it knows them; a message adds a thousand at most.
pub const MAX_FAILURES: usize = 4000;
/// The format that is written. The first had messages without a gap, and no parts; those before this one ended with their
/// failures, and so had no room for anything else, and the third was that of sessions which were moved.
const FORMAT: u8 = 4;
const FORMAT_WITHOUT_PARTS: u8 = 1;
const FORMAT_WITHOUT_EXTRAS: u8 = 2;
const FORMAT_MOVED: u8 = 3;

/// Fields behind a session.
const AGE: u64 = 1;
const LOWER_BOUND: u64 = 3;

/// A session as it is stored: that of a client, or what it has in one of several lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The time of day at the last message.
    pub(super) used: Millis,
    /// The lane's age at the last message; `None` if a version has stored it that did not know ages, or another store.
    pub(super) age: Option<Millis>,
    /// The latest bound that is known for it.
    pub(super) lower_bound: Option<LowerBound>,
    /// The last message that was applied.
    pub(super) applied: u64,
    /// The last message that the client has said it knows acknowledged.
    pub(super) acknowledged: u64,
    /// The messages after that which were applied. Of those that were applied before a move not all may be known.
    pub(super) messages: VecDeque<Message>,
    /// Their failures, each with its message's sequence.
    pub(super) failures: VecDeque<(u64, FailedIncrement)>,
    /// What was applied elsewhere, where it was moved.
    pub(super) moved: Option<Box<ImportedSession>>,
    /// Its row is not what was written: which messages are applied cannot be told, so that none is applied any more.
    pub(super) is_damaged: bool,
}

/// A message that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) contents: u64,
    /// How many lanes have a part of it.
    pub(super) parts: u32,
}

impl Session {
    /// A session whose row is damaged, in data whose last batch is of the time `last`: it was used then at the latest. So it is
    /// forgotten only once it was not used for long after it was found, and no later copy of a message is taken for a new one.
    #[must_use]
    pub fn damaged(last: Millis) -> Self {
        Self {
            used: last,
            is_damaged: true,
            ..Self::default()
        }
    }

    /// Its row is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// The contents of a message that was applied and is not known to be acknowledged.
    pub(super) fn contents(&self, sequence: u64) -> Option<u64> {
        let by_sequence = |message: &Message| message.sequence;
        let found = self.messages.binary_search_by_key(&sequence, by_sequence);
        found.ok().map(|at| self.messages[at].contents)
    }

    pub(super) fn failures(&self, of: impl Fn(u64) -> bool) -> Vec<(u64, FailedIncrement)> {
        let failures = self.failures.iter();
        failures.filter(|(at, _)| of(*at)).copied().collect()
    }

    /// How many failures there are where there is no room for more.
    pub(super) fn too_many_failures(&self, acknowledged: u64) -> Option<usize> {
        let failures = self.failures.iter();
        let left = failures.filter(|(at, _)| *at > acknowledged).count();
        (left > MAX_FAILURES).then_some(left)
    }

    /// A message was applied before.
    pub(super) fn is_applied(&self, sequence: u64) -> bool {
        sequence <= self.applied.max(self.moved_up_to())
    }

    /// A message that was applied before is this one, as far as can be told.
    pub(super) fn is_same(&self, sequence: u64, contents: u64) -> bool {
        match self.contents(sequence) {
            Some(known) => known == contents,
            None => sequence <= self.moved_up_to(),
        }
    }

    /// It is used.
    pub(super) fn use_at(&mut self, now: Millis, age: Millis) {
        self.used = self.used.max(now);
        self.age = Some(age);
    }

    /// The time of day at the last message.
    #[must_use]
    pub fn used(&self) -> Millis {
        self.used
    }

    /// Takes a time of day that is later than `now` back to that: a clock was wrong. Says if there was any.
    pub fn take_back(&mut self, now: Millis) -> bool {
        let bound = self.lower_bound.as_mut().map(|bound| &mut bound.time);
        let moved = self.moved.as_mut().map(|moved| &mut moved.time);
        let times = [&mut self.used].into_iter().chain(bound).chain(moved);
        let late = times.filter(|time| **time > now).map(|time| *time = now);
        late.count() > 0
    }

    /// Takes in a bound: the latest is of use.
    pub(super) fn keep_bound(&mut self, bound: Option<LowerBound>) {
        let known = self.lower_bound.into_iter().chain(bound);
        self.lower_bound = known.max_by_key(|bound| bound.time);
    }

    /// A message is applied.
    pub(super) fn advance(&mut self, message: Message, failures: &[(u64, FailedIncrement)]) {
        self.applied = message.sequence;
        self.messages.push_back(message);
        self.failures.extend(failures);
        if let Some(moved) = &mut self.moved {
            moved.drop_parts(message.sequence);
        }
    }

    /// The client knows of these messages and their failures.
    pub(super) fn acknowledge(&mut self, acknowledged: u64) {
        self.acknowledged = self.acknowledged.max(acknowledged);
        let known = self.acknowledged;
        while self
            .messages
            .front()
            .is_some_and(|message| message.sequence <= known)
        {
            self.messages.pop_front();
        }
        while self.failures.front().is_some_and(|(at, _)| *at <= known) {
            self.failures.pop_front();
        }
    }

    /// What was added to it since an earlier state, if that is all that has changed: [`Session::add`] takes it.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let known = earlier.applied.max(earlier.moved_up_to());
        let first = self
            .messages
            .partition_point(|message| message.sequence <= known);
        let only_added = self.moved == earlier.moved;
        only_added.then(|| Self {
            used: self.used,
            age: self.age,
            lower_bound: self.lower_bound,
            applied: self.applied,
            acknowledged: self.acknowledged,
            messages: self.messages.range(first..).copied().collect(),
            failures: self.failures(|at| at > known).into(),
            ..Self::default()
        })
    }

    /// Adds what was added to an earlier state. What is known already of it is not added again: this may be a later state, too.
    pub fn add(&mut self, later: &Self) {
        let known = self.applied.max(self.moved_up_to());
        let messages = later.messages.iter();
        self.messages
            .extend(messages.filter(|message| message.sequence > known));
        self.failures.extend(later.failures(|at| at > known));
        self.applied = self.applied.max(later.applied);
        self.used = self.used.max(later.used);
        self.age = later.age;
        self.keep_bound(later.lower_bound);
        self.acknowledge(later.acknowledged);
        if let Some(moved) = &mut self.moved {
            moved.drop_parts(self.applied);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        SESSION_BYTES
            + size_of::<Message>() * self.messages.len()
            + FAILURE_BYTES * self.failures.len()
            + self.moved.as_ref().map_or(0, |moved| moved.bytes())
    }

    /// The bytes to store.
    ///
    /// # Panics
    /// Panics if it is damaged: it must not be stored as a session that is well.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        self.put_counts(&mut out);
        out.push(self.moved.is_some().into());
        self.put_messages(&mut out);
        put_u64(&mut out, self.failures.len() as u64);
        self.put_failures(&mut out);
        let mut number = Vec::new();
        if let Some(age) = self.age {
            put_i64(&mut number, age);
            extras::put(&mut out, AGE, &number);
        }
        if let Some(bound) = self.lower_bound {
            number.clear();
            put_u64(&mut number, bound.above);
            put_i64(&mut number, bound.time);
            extras::put(&mut out, LOWER_BOUND, &number);
        }
        out
    }

    /// The bytes to store while there may be nodes that do not know the format above: without ages and bounds.
    ///
    /// # Panics
    /// As [`Session::encode`].
    #[must_use]
    pub fn encode_without_extras(&self) -> Vec<u8> {
        let moved = self.moved.as_ref();
        let mut out = vec![moved.map_or(FORMAT_WITHOUT_EXTRAS, |_| FORMAT_MOVED)];
        self.put_counts(&mut out);
        self.put_messages(&mut out);
        self.put_failures(&mut out);
        out
    }

    fn put_counts(&self, out: &mut Vec<u8>) {
        assert!(!self.is_damaged, "a damaged session is not stored");
        put_i64(out, self.used);
        put_u64(out, self.applied);
        put_u64(out, self.acknowledged);
    }

    fn put_messages(&self, out: &mut Vec<u8>) {
        if let Some(moved) = &self.moved {
            moved.put(out);
        }
        put_u64(out, self.messages.len() as u64);
        let mut before = 0;
        for message in &self.messages {
            put_u64(out, message.sequence - before);
            put_u64(out, message.parts.into());
            out.extend_from_slice(&message.contents.to_le_bytes());
            before = message.sequence;
        }
    }

    fn put_failures(&self, out: &mut Vec<u8>) {
        for (sequence, failure) in &self.failures {
            put_u64(out, *sequence);
            failure.put(out);
        }
    }

    /// A session from its bytes.
    ///
    /// # Errors
    /// Where they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader(bytes);
        let format = reader.u8()?;
        let mut session = Self {
            used: reader.i64()?,
            applied: reader.u64()?,
            acknowledged: reader.u64()?,
            ..Self::default()
        };
        let is_moved = match format {
            FORMAT => reader.u8()? != 0,
            FORMAT_MOVED => true,
            _ => false,
        };
        if is_moved {
            session.moved = Some(Box::new(ImportedSession::read(&mut reader)?));
        }
        let count = match format {
            FORMAT | FORMAT_WITHOUT_EXTRAS | FORMAT_MOVED => Some(reader.u64()?),
            FORMAT_WITHOUT_PARTS => session.applied.checked_sub(session.acknowledged),
            _ => return Err(Corrupt("a session of an unknown format")),
        };
        let Some(count @ ..=SESSION_WINDOW) = count else {
            return Err(Corrupt("a session that is ahead of itself"));
        };
        let mut before = match format {
            FORMAT_WITHOUT_PARTS => session.acknowledged,
            _ => 0,
        };
        for _ in 0..count {
            let (step, parts) = match format {
                FORMAT_WITHOUT_PARTS => (1, 1),
                _ => (reader.u64()?, reader.u32()?),
            };
            let after = before.checked_add(step);
            let Some(sequence) = after.filter(|at| step > 0 && session.is_applied(*at)) else {
                return Err(Corrupt("a session whose messages are out of order"));
            };
            session.messages.push_back(Message {
                sequence,
                contents: u64::from_le_bytes(reader.bytes()?),
                parts,
            });
            before = sequence;
        }
        let mut failures = match format {
            FORMAT => reader.u64()?,
            // They go on to the end.
            _ => u64::MAX,
        };
        while failures > 0 && (format == FORMAT || !reader.is_empty()) {
            let sequence = reader.u64()?;
            let failure = FailedIncrement::read(&mut reader)?;
            session.failures.push_back((sequence, failure));
            failures -= 1;
        }
        session.read_extras(reader.0)?;
        Ok(session)
    }

    fn read_extras(&mut self, bytes: &[u8]) -> Result<(), Corrupt> {
        extras::read(bytes, |tag, value| {
            match tag {
                AGE => self.age = Some(value.i64()?),
                LOWER_BOUND => {
                    self.lower_bound = Some(LowerBound {
                        above: value.u64()?,
                        time: value.i64()?,
                    });
                }
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests;
