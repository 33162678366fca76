//! The session of a bulk client.

pub(super) mod imported;

use std::collections::VecDeque;

use super::answer::FailedIncrement;
use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::extras;
use super::request::LowerBound;
use super::time::Millis;
use imported::ImportedSession;

/// How many messages a client may be ahead of the last one that it has confirmed. Each takes some 24 bytes.
pub const SESSION_WINDOW: u64 = 256;

/// Memory of a session beside its id, messages and failures.
const SESSION_BYTES: usize = 256;
const FAILURE_BYTES: usize = size_of::<(u64, FailedIncrement)>();
/// Maximum number of unconfirmed failures with which a session takes another message; a message adds at most a
/// thousand.
pub const MAX_FAILURES: usize = 4000;
/// The current format. The first had messages without a gap, and no parts. All formats before this one ended with their
/// failures, so no field could follow; the third was for moved sessions.
const FORMAT: u8 = 4;
const FORMAT_WITHOUT_PARTS: u8 = 1;
const FORMAT_WITHOUT_EXTRAS: u8 = 2;
const FORMAT_MOVED: u8 = 3;

/// Tags of the fields behind a session.
const AGE: u64 = 1;
const LOWER_BOUND: u64 = 3;

/// A session as it is stored: the whole of it, or its share in one of several lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Wall-clock time of the last message.
    pub(super) used: Millis,
    /// The lane's age at the last message; `None` if another store, or a version without ages, has stored the session.
    pub(super) age: Option<Millis>,
    /// The latest bound that is known.
    pub(super) lower_bound: Option<LowerBound>,
    /// The last message that was applied.
    pub(super) applied: u64,
    /// The last message whose acknowledgement the client has confirmed.
    pub(super) acknowledged: u64,
    /// The applied messages after that one. Some of those applied before a move may be missing.
    pub(super) messages: VecDeque<Message>,
    /// Their failures, each with its message's sequence.
    pub(super) failures: VecDeque<(u64, FailedIncrement)>,
    /// The messages that were applied in another store, if the session was moved.
    pub(super) moved: Option<Box<ImportedSession>>,
    /// The row is damaged. It is not known which messages are applied, so no more are applied.
    pub(super) is_damaged: bool,
}

/// An applied message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) sequence: u64,
    pub(super) contents: u64,
    /// Number of lanes that have a part of it.
    pub(super) parts: u32,
}

impl Session {
    /// A session whose row is damaged. `last` is the time of the last batch in the data, and so the latest possible
    /// use. The session is remembered for a horizon after it was found, so that no resent message is taken for new.
    #[must_use]
    pub fn damaged(last: Millis) -> Self {
        Self {
            used: last,
            is_damaged: true,
            ..Self::default()
        }
    }

    /// Whether its row is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// The contents of an applied message that is not confirmed.
    pub(super) fn contents(&self, sequence: u64) -> Option<u64> {
        let by_sequence = |message: &Message| message.sequence;
        let found = self.messages.binary_search_by_key(&sequence, by_sequence);
        found.ok().map(|at| self.messages[at].contents)
    }

    pub(super) fn failures(&self, of: impl Fn(u64) -> bool) -> Vec<(u64, FailedIncrement)> {
        let failures = self.failures.iter();
        failures.filter(|(at, _)| of(*at)).copied().collect()
    }

    /// Number of unconfirmed failures, if there are more than [`MAX_FAILURES`].
    pub(super) fn too_many_failures(&self, acknowledged: u64) -> Option<usize> {
        let failures = self.failures.iter();
        let left = failures.filter(|(at, _)| *at > acknowledged).count();
        (left > MAX_FAILURES).then_some(left)
    }

    /// Whether a message is applied.
    pub(super) fn is_applied(&self, sequence: u64) -> bool {
        sequence <= self.applied.max(self.moved_up_to())
    }

    /// Whether an applied message had these contents, as far as is known.
    pub(super) fn is_same(&self, sequence: u64, contents: u64) -> bool {
        match self.contents(sequence) {
            Some(known) => known == contents,
            None => sequence <= self.moved_up_to(),
        }
    }

    /// Records a use of the session.
    pub(super) fn use_at(&mut self, now: Millis, age: Millis) {
        self.used = self.used.max(now);
        self.age = Some(age);
    }

    /// Wall-clock time of the last message.
    #[must_use]
    pub fn used(&self) -> Millis {
        self.used
    }

    /// Lowers wall-clock times after `now` to `now`, because a clock was ahead. Returns whether there were any.
    pub fn take_back(&mut self, now: Millis) -> bool {
        let bound = self.lower_bound.as_mut().map(|bound| &mut bound.time);
        let moved = self.moved.as_mut().map(|moved| &mut moved.time);
        let times = [&mut self.used].into_iter().chain(bound).chain(moved);
        let late = times.filter(|time| **time > now).map(|time| *time = now);
        late.count() > 0
    }

    /// Keeps the later of the known bound and this one.
    pub(super) fn keep_bound(&mut self, bound: Option<LowerBound>) {
        let known = self.lower_bound.into_iter().chain(bound);
        self.lower_bound = known.max_by_key(|bound| bound.time);
    }

    /// Records an applied message.
    pub(super) fn advance(&mut self, message: Message, failures: &[(u64, FailedIncrement)]) {
        self.applied = message.sequence;
        self.messages.push_back(message);
        self.failures.extend(failures);
        if let Some(moved) = &mut self.moved {
            moved.drop_parts(message.sequence);
        }
    }

    /// Drops the messages that the client has confirmed, with their failures.
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

    /// The additions since an earlier state, for [`Session::add`]; `None` if more than that has changed.
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

    /// Applies the additions to an earlier state. Known messages are not added again, so this may also be a later
    /// state.
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
    /// Panics if the session is damaged: it must not be stored as an intact one.
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

    /// The bytes to store while some nodes may not know the current format: without ages and bounds.
    ///
    /// # Panics
    /// Panics if the session is damaged, as [`Session::encode`] does.
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

    /// Decodes a session.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if the bytes are not a session.
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
            _ => return Err(Corrupt("a session has an unknown format")),
        };
        let Some(count @ ..=SESSION_WINDOW) = count else {
            return Err(Corrupt("a session has impossible message counts"));
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
                return Err(Corrupt("the messages of a session are out of order"));
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
            // In earlier formats, failures go on to the end.
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
