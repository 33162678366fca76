//! What a lane keeps in its store.

use std::sync::Arc;

use super::request::{Millis, SessionId};

/// Where a lane is: the last batch that was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its number, from 1; 0 before the first.
    pub seq: u64,
    /// The revision of the last operation.
    pub revision: i64,
    /// The lane's time, which never runs backwards.
    pub time: Millis,
    /// Request ids of times up to this may be forgotten: those that are not remembered are refused. It only grows.
    pub horizon: Millis,
    /// The same for sessions.
    pub session_horizon: Millis,
}

/// The request ids of one committed batch, with what they were answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The batch.
    pub seq: u64,
    /// Its time.
    pub time: Millis,
    /// The revision before its first operation.
    pub base: i64,
    /// Entries, one behind the other.
    pub ids: Arc<[u8]>,
}

/// A batch, to be committed as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its number: that of the head that it is made on, plus 1.
    pub seq: u64,
    /// The lane's time.
    pub time: Millis,
    /// As in [`Head`].
    pub horizon: Millis,
    /// As in [`Head`].
    pub session_horizon: Millis,
    /// How many places in the order it takes.
    pub places: u32,
    /// The ids of its requests, as in [`Pack`].
    pub ids: Arc<[u8]>,
    /// The packs of batches before this one are forgotten.
    pub forget_before: u64,
    /// What changes.
    pub changes: Changes,
}

/// The rows that a batch changes, each row once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Counters, in the order of their names.
    pub counters: Arc<[CounterChange]>,
    /// Sessions, encoded; `None` to forget one.
    pub sessions: Vec<(SessionId, Option<Vec<u8>>)>,
}

/// A counter as a batch leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterChange {
    /// Its name.
    pub name: Arc<str>,
    /// Its value; `None` where it is deleted.
    pub value: Option<i64>,
    /// The place in the batch, from 1, of the last operation on it.
    pub place: u32,
    /// It was not there before this batch.
    pub is_new: bool,
}
