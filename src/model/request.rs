//! Requests to a lane.

use std::hash::Hasher;
use std::sync::Arc;

use super::increment::{Limits, OnLimit};
use super::invalid::Invalid;
use super::name::{group, hash_name};
use super::slot::SlotId;
use super::time::Millis;

/// Maximum length of a request's or session's id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// How far a client's clock may be ahead of a node's, and how far the clocks of nodes may be apart.
pub const MAX_SKEW: Millis = 60_000;

/// One operation, with an optional id that makes it happen only once.
#[derive(Debug)]
pub struct Request {
    /// The request's id, if any. A [`Record`] has its session instead.
    pub id: Option<Id>,
    /// The operation.
    pub operation: Operation,
}

/// The id of a request, as a lane remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// Digest of the group and the id's text. Two ids are the same if their digests are.
    pub digest: [u8; 16],
    /// Digest of the operation. The same id with a different operation is a mistake.
    pub contents: u64,
    /// When the id was made, by the client's clock, if known.
    pub time: Option<Millis>,
}

/// An operation on counters.
#[derive(Debug)]
pub enum Operation {
    /// Applies one increment.
    Increment(Increments),
    /// Applies all increments, or none.
    Batch(Increments),
    /// Sets a counter to a value.
    Set(Arc<str>, i64),
    /// Deletes a counter.
    Delete(Arc<str>),
    /// Applies a message of a session.
    Record(Record),
}

impl Operation {
    /// The group of the operation's counters; empty for a message of a session.
    #[must_use]
    pub fn group(&self) -> &str {
        match self {
            Self::Increment(increments) | Self::Batch(increments) => {
                let first = increments.iter().flatten().next();
                first.map_or("", |first| group(first.name))
            }
            Self::Set(name, _) | Self::Delete(name) => group(name),
            Self::Record(_) => "",
        }
    }
}

impl Operation {
    /// Whether the operation names this counter.
    #[must_use]
    pub fn names(&self, counter: &str) -> bool {
        match self {
            Self::Increment(increments)
            | Self::Batch(increments)
            | Self::Record(Record { increments, .. }) => {
                let mut all = increments.iter().flatten();
                all.any(|increment| increment.name == counter)
            }
            Self::Set(name, _) | Self::Delete(name) => **name == *counter,
        }
    }

    /// Whether this is a message of a session.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self, Self::Record(_))
    }

    /// The cost of the operation, in increments.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Record(record) => record.increments.len(),
            Self::Increment(increments) | Self::Batch(increments) => increments.len(),
            Self::Set(..) | Self::Delete(_) => 1,
        }
    }
}

/// A session's id.
pub type SessionId = Arc<str>;

/// A message of a session. Each of its increments succeeds or fails independently.
#[derive(Debug)]
pub struct Record {
    /// The session's id.
    pub session: SessionId,
    /// When the session began, by the client's clock. For a part of a message: the time of its [`LowerBound`].
    pub time: Millis,
    /// The message's number, from 1; 0 for a query of the acknowledged messages.
    pub sequence: u64,
    /// The last message whose acknowledgement the client confirms.
    pub acknowledged: u64,
    /// The message's predecessor.
    pub follows: Predecessor,
    /// Digest of the increments. A message that is resent has the same.
    pub contents: u64,
    /// The increments.
    pub increments: Increments,
}

/// A lower bound on when messages of a session were applied: before `time`, by the wall clocks of nodes, no lane
/// applied any part of a message above `above`.
///
/// A lane that does not know a session may have forgotten it. If the bound of a message is later than anything that the
/// lane has forgotten, the message was never applied there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerBound {
    /// The bound is for messages after this one.
    pub above: u64,
    /// The earliest time at which they may have been applied.
    pub time: Millis,
}

impl Record {
    /// The message's bound, if it may be stored with the session.
    pub(super) fn lower_bound(&self) -> Option<LowerBound> {
        let Predecessor::InLane(part) = &self.follows else {
            return None;
        };
        part.above.map(|above| LowerBound {
            above,
            time: self.time,
        })
    }

    /// Maps the index of an increment here to its index in the whole message.
    pub(super) fn index(&self, index: u32) -> u32 {
        match &self.follows {
            Predecessor::TheOneBefore => index,
            Predecessor::InLane(part) => part.indices.get(index as usize).copied().unwrap_or(index),
        }
    }
}

/// The predecessor of a session's message. The message is only applied on top of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// The message with the preceding number: the whole session is in one lane.
    TheOneBefore,
    /// The session's previous message in this lane: the session spans several lanes.
    InLane(Part),
}

/// The part of a message that is for one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The session's previous message with a part in this lane, if there is one after the confirmed messages.
    pub previous: Option<u64>,
    /// All messages up to this one were applied in all lanes when the stream began. The stream does not know which of
    /// them have a part in this lane.
    pub whole: u64,
    /// Number of parts of the message.
    pub parts: u32,
    /// [`LowerBound::above`] of the part, if the bound holds for the session. It is then stored with the session.
    pub above: Option<u64>,
    /// Indices of the part's increments in the message; empty if the part has all of them.
    pub indices: Vec<u32>,
}

impl Part {
    /// Takes the part's increments out of those of the message. Each increment belongs to one part.
    pub fn take(&self, all: &mut Increments) -> Increments {
        if self.indices.is_empty() {
            return std::mem::take(all);
        }
        all.select(self.indices.iter().map(|index| *index as usize))
    }
}

/// Increments, with their names concatenated in one string: a bulk message is two allocations.
#[derive(Debug, Default)]
pub struct Increments {
    names: String,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    hash: u64,
    delta: i64,
    /// End of the name in `names`. It begins at the end of the previous one.
    end: u32,
    /// The counter in memory, once the lane has located it.
    at: Option<SlotId>,
    special: Option<Box<Special>>,
}

/// Fields that few increments have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    Limits(Limits),
    /// The increment fails, whatever the counter's value.
    Invalid(Invalid),
}

/// One increment, with a valid name.
#[derive(Clone, Copy, Debug)]
pub struct Increment<'a> {
    /// The counter's name.
    pub name: &'a str,
    /// [`hash_name`] of the name.
    pub hash: u64,
    /// The amount to add.
    pub delta: i64,
    /// Limits on the result.
    pub limits: Limits,
    /// The counter in memory, once the lane has located it.
    pub(super) at: Option<SlotId>,
}

impl Increments {
    /// An empty list with capacity for `increments` increments, and for `name_bytes` bytes of names in total.
    #[must_use]
    pub fn with_capacity(increments: usize, name_bytes: usize) -> Self {
        Self {
            names: String::with_capacity(name_bytes),
            items: Vec::with_capacity(increments),
        }
    }

    /// A single increment. The name must be valid.
    #[must_use]
    pub fn one(name: String, delta: i64, limits: Limits) -> Self {
        let item = Item::new(&name, name.len(), delta, limits);
        Self {
            names: name,
            items: vec![item],
        }
    }

    /// Appends an increment. The name must be valid.
    pub fn push(&mut self, name: &str, delta: i64, limits: Limits) {
        self.names.push_str(name);
        let item = Item::new(name, self.names.len(), delta, limits);
        self.items.push(item);
    }

    /// Appends a malformed increment, which fails.
    pub fn push_invalid(&mut self, delta: i64, invalid: Invalid) {
        self.items.push(Item {
            hash: 0,
            delta,
            end: end(self.names.len()),
            at: None,
            special: Some(Box::new(Special::Invalid(invalid))),
        });
    }

    /// Copies the increments at `indices`, in this order, including malformed ones.
    ///
    /// # Panics
    /// Panics if an index is out of bounds.
    #[must_use]
    pub fn select(&self, indices: impl Iterator<Item = usize> + Clone) -> Self {
        let start = |index: usize| {
            index
                .checked_sub(1)
                .map_or(0, |before| self.items[before].end)
        };
        let name =
            |index: usize| &self.names[start(index) as usize..self.items[index].end as usize];
        let bytes = indices.clone().map(|index| name(index).len()).sum();
        let mut selected = Self::with_capacity(indices.clone().count(), bytes);
        for index in indices {
            selected.names.push_str(name(index));
            let item = &self.items[index];
            selected.items.push(Item {
                end: end(selected.names.len()),
                special: item.special.clone(),
                ..*item
            });
        }
        selected
    }

    /// Number of increments, including malformed ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no increments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All increments in order; a malformed one is an `Err`.
    pub fn iter(&self) -> impl Iterator<Item = Result<Increment<'_>, Invalid>> {
        let mut start = 0;
        self.items.iter().map(move |item| {
            let name = &self.names[start..item.end as usize];
            start = item.end as usize;
            let limits = match item.special.as_deref() {
                None => Limits::default(),
                Some(Special::Limits(limits)) => *limits,
                Some(Special::Invalid(invalid)) => return Err(*invalid),
            };
            Ok(Increment {
                name,
                hash: item.hash,
                delta: item.delta,
                limits,
                at: item.at,
            })
        })
    }

    /// Feeds the contents to a digest, in order: names, deltas, limits, and whether an increment is malformed.
    pub(super) fn write_to(&self, hasher: &mut impl Hasher) {
        hasher.write(self.names.as_bytes());
        for item in &self.items {
            hasher.write_u64(item.delta.cast_unsigned());
            match item.special.as_deref() {
                None => hasher.write_u32(item.end),
                Some(special) => {
                    hasher.write_u32(item.end | 1 << 31);
                    special.write_to(hasher);
                }
            }
        }
    }

    /// Records the slot of each counter. Names that are not in memory are appended to `missing`.
    pub(super) fn locate(
        &mut self,
        find: impl Fn(u64, &str) -> Option<SlotId>,
        missing: &mut Vec<Arc<str>>,
    ) {
        let mut start = 0;
        for item in &mut self.items {
            let name = &self.names[start..item.end as usize];
            start = item.end as usize;
            if matches!(item.special.as_deref(), Some(Special::Invalid(_))) {
                continue;
            }
            item.at = find(item.hash, name);
            if item.at.is_none() {
                missing.push(name.into());
            }
        }
    }
}

impl Special {
    fn write_to(&self, hasher: &mut impl Hasher) {
        match self {
            Self::Limits(limits) => {
                for limit in [limits.min, limits.max] {
                    hasher.write_u8(limit.is_some().into());
                    hasher.write_i64(limit.unwrap_or(0));
                }
                hasher.write_u8((limits.on_limit == OnLimit::Saturate).into());
            }
            Self::Invalid(_) => hasher.write_u8(2),
        }
    }
}

impl Item {
    fn new(name: &str, end_of_name: usize, delta: i64, limits: Limits) -> Self {
        let limited = limits != Limits::default();
        Self {
            hash: hash_name(name),
            delta,
            end: end(end_of_name),
            at: None,
            special: limited.then(|| Box::new(Special::Limits(limits))),
        }
    }
}

pub(super) fn end(at: usize) -> u32 {
    u32::try_from(at).expect("messages are far below 4 GiB")
}

#[cfg(test)]
mod tests;
