//! What is asked of a lane.

use std::hash::Hasher;
use std::sync::Arc;

use super::increment::{Limits, OnLimit};
use super::invalid::Invalid;
use super::name::{group, hash_name};
use super::slot::SlotId;
use super::time::Millis;

/// The longest id of a request or session, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// How far a client's clock may be ahead of a node's, and the clocks of nodes apart.
pub const MAX_SKEW: Millis = 60_000;

/// One operation, maybe with an id that makes it happen once.
#[derive(Debug)]
pub struct Request {
    /// Its id, if it has one. A [`Record`] has its session instead.
    pub id: Option<Id>,
    /// What to do.
    pub operation: Operation,
}

/// The id of a request, as a lane remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// Of the group and the id's text; two ids are the same where this is.
    pub digest: [u8; 16],
    /// Of the operation: the same id with another one is a mistake.
    pub contents: u64,
    /// When it was made, by the client's clock, where it tells.
    pub time: Option<Millis>,
}

/// What to do.
#[derive(Debug)]
pub enum Operation {
    /// Make one increment.
    Increment(Increments),
    /// Make all increments, or none.
    Batch(Increments),
    /// Set a counter to a value.
    Set(Arc<str>, i64),
    /// Delete a counter.
    Delete(Arc<str>),
    /// Apply a message of a session.
    Record(Record),
}

impl Operation {
    /// The group of the counters that it is about. A session has none.
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
    /// Whether this counter is one of those that it is about.
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

    /// It is a message of a session.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self, Self::Record(_))
    }

    /// How many increments it takes the time of.
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

/// A message of a session: each increment is made by itself.
#[derive(Debug)]
pub struct Record {
    /// Which session.
    pub session: SessionId,
    /// When it was begun, by the client's clock. For a part of a message the time of its [`LowerBound`].
    pub time: Millis,
    /// The message's number, from 1; 0 for one that only asks for what is acknowledged.
    pub sequence: u64,
    /// What the client has an acknowledgement of.
    pub acknowledged: u64,
    /// What it comes after.
    pub follows: Predecessor,
    /// Of the increments: a message that is sent again has the same.
    pub contents: u64,
    /// What to add.
    pub increments: Increments,
}

/// A bound on how long ago messages of a session may have been applied: no part of a message above `above` was applied, in
/// any lane, before `time`, by the time of day that nodes have.
///
/// A lane that knows nothing of a session may have forgotten it. It has not if the bound of a message is later than anything
/// that it has forgotten: then the message was never applied there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerBound {
    /// Of messages after this one.
    pub above: u64,
    /// The earliest time.
    pub time: Millis,
}

impl Record {
    /// The bound of the message, if it may be stored with the session.
    pub(super) fn lower_bound(&self) -> Option<LowerBound> {
        let Predecessor::InLane(part) = &self.follows else {
            return None;
        };
        part.above.map(|above| LowerBound {
            above,
            time: self.time,
        })
    }

    /// Which increment of the whole message this one is.
    pub(super) fn index(&self, index: u32) -> u32 {
        match &self.follows {
            Predecessor::TheOneBefore => index,
            Predecessor::InLane(part) => part.indices.get(index as usize).copied().unwrap_or(index),
        }
    }
}

/// What a message of a session comes after. It is applied on top of that, and on nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// The message with the number before its own: the whole session is in one lane.
    TheOneBefore,
    /// It is part of a message, whose other parts are for other lanes.
    InLane(Part),
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The session's message before it that has a part in this lane, if there is one since what is acknowledged.
    pub previous: Option<u64>,
    /// All messages up to this one are applied in all lanes, as the stream has found it when it began: of these it does not know
    /// which have a part in this lane.
    pub whole: u64,
    /// How many parts the message has.
    pub parts: u32,
    /// The message of its [`LowerBound`], if the bound is one that holds for the session: it is stored with it then.
    pub above: Option<u64>,
    /// Which increments of the message these are; none are named where they are all of them.
    pub indices: Vec<u32>,
}

impl Part {
    /// Takes these out of the message's increments, where each is of one part.
    pub fn take(&self, all: &mut Increments) -> Increments {
        if self.indices.is_empty() {
            return std::mem::take(all);
        }
        all.select(self.indices.iter().map(|index| *index as usize))
    }
}

/// Increments, their names beside each other in one text: a bulk message is two allocations.
#[derive(Debug, Default)]
pub struct Increments {
    names: String,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    hash: u64,
    delta: i64,
    /// Where the name ends in `names`; it begins where the one before ends.
    end: u32,
    /// Where the lane has found it in memory.
    at: Option<SlotId>,
    special: Option<Box<Special>>,
}

/// What few increments have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    Limits(Limits),
    /// It cannot be made, whatever the counter's value.
    Invalid(Invalid),
}

/// One increment, its name checked.
#[derive(Clone, Copy, Debug)]
pub struct Increment<'a> {
    /// The counter.
    pub name: &'a str,
    /// [`hash_name`] of it.
    pub hash: u64,
    /// How much.
    pub delta: i64,
    /// Within which limits.
    pub limits: Limits,
    /// Where the lane has found it in memory.
    pub(super) at: Option<SlotId>,
}

impl Increments {
    /// Room for so many increments, with names of so many bytes in all.
    #[must_use]
    pub fn with_capacity(increments: usize, name_bytes: usize) -> Self {
        Self {
            names: String::with_capacity(name_bytes),
            items: Vec::with_capacity(increments),
        }
    }

    /// One increment of a counter whose name was checked.
    #[must_use]
    pub fn one(name: String, delta: i64, limits: Limits) -> Self {
        let item = Item::new(&name, name.len(), delta, limits);
        Self {
            names: name,
            items: vec![item],
        }
    }

    /// Adds an increment of a counter whose name was checked.
    pub fn push(&mut self, name: &str, delta: i64, limits: Limits) {
        self.names.push_str(name);
        let item = Item::new(name, self.names.len(), delta, limits);
        self.items.push(item);
    }

    /// Adds an increment that fails.
    pub fn push_invalid(&mut self, delta: i64, invalid: Invalid) {
        self.items.push(Item {
            hash: 0,
            delta,
            end: end(self.names.len()),
            at: None,
            special: Some(Box::new(Special::Invalid(invalid))),
        });
    }

    /// Some of them, in this order, also those that fail.
    ///
    /// # Panics
    /// Where there is no such one.
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

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All, in their order.
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

    /// What they are known by: all of it, in their order.
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

    /// Notes where each counter is in memory; those that are nowhere are given to `missing`.
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
