//! The session of a bulk client.

use std::collections::{BTreeMap, VecDeque};

use super::answer::Failure;
use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::moved::Moved;
use super::request::Millis;

/// How many messages a client may be ahead of what it knows acknowledged. Some 24 bytes are kept for each.
pub const SESSION_WINDOW: u64 = 256;

/// What a session takes in memory beside its id, messages and failures.
const SESSION_BYTES: usize = 256;
const FAILURE_BYTES: usize = size_of::<(u64, Failure)>();
/// Failures of a session that are kept for a client that does not say it knows them; a message adds a thousand at most.
pub const MAX_FAILURES: usize = 4000;
/// How a session is stored that was not moved, which older versions read, too; and how one that was. The first format had
/// messages without a gap, and no parts.
const FORMAT: u8 = 2;
const FORMAT_WITHOUT_PARTS: u8 = 1;
const FORMAT_MOVED: u8 = 3;

/// A session as it is stored: that of a client, or what it has in one of several lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The lane's time at the last message.
    pub(super) used: Millis,
    /// The last message that was applied.
    pub(super) applied: u64,
    /// The last message that the client has said it knows acknowledged.
    pub(super) acknowledged: u64,
    /// The messages after that which were applied. Of those that were applied before a move not all may be known.
    pub(super) messages: VecDeque<Message>,
    /// Their failures, each with its message's sequence.
    pub(super) failures: VecDeque<(u64, Failure)>,
    /// What was applied elsewhere, where it was moved.
    pub(super) moved: Option<Box<Moved>>,
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
    /// The contents of a message that was applied and is not known to be acknowledged.
    pub(super) fn contents(&self, sequence: u64) -> Option<u64> {
        let by_sequence = |message: &Message| message.sequence;
        let found = self.messages.binary_search_by_key(&sequence, by_sequence);
        found.ok().map(|at| self.messages[at].contents)
    }

    pub(super) fn failures(&self, of: impl Fn(u64) -> bool) -> Vec<(u64, Failure)> {
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
    pub(super) fn is_same(&self, sequence: u64, contents: u64, of_whole: bool) -> bool {
        let is_moved = sequence <= self.moved_up_to();
        match self.contents(sequence) {
            // What is known of it is its contents as a whole.
            Some(known) if of_whole || !is_moved => known == contents,
            _ => is_moved,
        }
    }

    /// A message is applied.
    pub(super) fn advance(&mut self, message: Message, failures: &[(u64, Failure)], now: Millis) {
        self.used = now;
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
            applied: self.applied,
            acknowledged: self.acknowledged,
            messages: self.messages.range(first..).copied().collect(),
            failures: self.failures(|at| at > known).into(),
            moved: None,
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
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let format = self.moved.as_ref().map_or(FORMAT, |_| FORMAT_MOVED);
        let mut out = vec![format];
        put_i64(&mut out, self.used);
        put_u64(&mut out, self.applied);
        put_u64(&mut out, self.acknowledged);
        if let Some(moved) = &self.moved {
            moved.put(&mut out);
        }
        put_u64(&mut out, self.messages.len() as u64);
        let mut before = 0;
        for message in &self.messages {
            put_u64(&mut out, message.sequence - before);
            put_u64(&mut out, message.parts.into());
            out.extend_from_slice(&message.contents.to_le_bytes());
            before = message.sequence;
        }
        for (sequence, failure) in &self.failures {
            put_u64(&mut out, *sequence);
            failure.put(&mut out);
        }
        out
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
        if format == FORMAT_MOVED {
            session.moved = Some(Box::new(Moved::read(&mut reader)?));
        }
        let count = match format {
            FORMAT | FORMAT_MOVED => Some(reader.u64()?),
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
        while !reader.is_empty() {
            let sequence = reader.u64()?;
            session
                .failures
                .push_back((sequence, Failure::read(&mut reader)?));
        }
        Ok(session)
    }

    /// When a session was used last, if nothing of it is missing: all that any lane has applied, the others have, too.
    #[must_use]
    pub fn last_used(lanes: &[Self], applied: u64) -> Option<Millis> {
        let is_whole = lanes.iter().all(|lane| lane.applied <= applied);
        let used = lanes.iter().map(|lane| lane.used).max();
        used.filter(|_| is_whole)
    }

    /// What all lanes together know of a session of which each has its own part: the last message up to which all are
    /// applied, and the failures of those that the client has not acknowledged.
    #[must_use]
    pub fn merge(lanes: &[Self]) -> (u64, Vec<(u64, Failure)>) {
        let told = lanes.iter().map(|lane| lane.acknowledged).max();
        let told = told.unwrap_or(0);
        let moved = lanes.iter().map(Self::moved_up_to).max();
        let mut applied = told.max(moved.unwrap_or(0));
        let first = told + 1;
        let mut parts: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
        for message in lanes.iter().flat_map(|lane| &lane.messages) {
            let (_, found) = parts.entry(message.sequence).or_insert((message.parts, 0));
            *found += 1;
        }
        let after = applied + 1;
        for (sequence, (parts, found)) in parts.range(after..) {
            if *sequence != applied + 1 || found < parts {
                break;
            }
            applied = *sequence;
        }
        let failures = lanes.iter().flat_map(|lane| &lane.failures);
        let mut failures: Vec<_> = failures
            .filter(|(at, _)| (first..=applied).contains(at))
            .copied()
            .collect();
        failures.sort_unstable_by_key(|(at, failure)| (*at, failure.index));
        (applied, failures)
    }
}
