//! The state of a lane, and the one function that decides every operation.

mod batch;
mod record;

use std::sync::Arc;

use super::answer::{Answer, Decision, Effect, FailedIncrement, Position, Rejection};
use super::codec::Corrupt;
use super::commit::{Head, Pack};
use super::counters::Counters;
use super::dedup::{DedupLog, ImportedIds};
use super::hasher::KeyedHasher;
use super::increment::Applied;
use super::name::hash_name;
use super::request::{Id, Increment, Increments, MAX_SKEW, Operation, Record, Request, SessionId};
use super::session::Session;
use super::sessions::Sessions;
use super::slot::SlotId;
use super::time::Millis;

/// Minimum retry delay of a refusal for lack of memory; never zero.
const MIN_RETRY: Millis = 1;
/// Maximum retry delay of such a refusal: the server may have been given more memory by then.
const MAX_RETRY: Millis = 3_600_000;
/// Maximum size of a counter's change in the log, beside its name.
const ROW_BYTES: usize = 24;

/// The memory of a lane, and how long it has to remember.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes for request ids and sessions.
    pub id_bytes: usize,
    /// Bytes for counters.
    pub counter_bytes: usize,
    /// How long ids are remembered.
    pub id_horizon: Millis,
    /// How long unused sessions are remembered.
    pub session_horizon: Millis,
}

/// The state of a lane: the part of its stored data that is in memory, and the open batch.
///
/// ```text
/// make_room; begin; per chunk: locate, load missing counters, apply each; commit; once stored: committed
/// ```
///
/// If another node has committed meanwhile: undo, catch_up with its batches, and all of it again.
pub struct State {
    head: Head,
    counters: Counters,
    ids: DedupLog,
    /// The ids that another store remembered before the data were moved, until they may be forgotten.
    before: Option<Arc<ImportedIds>>,
    sessions: Sessions,
    /// Computes the former lanes of moved sessions.
    hasher: Option<KeyedHasher>,
    bounds: Bounds,
    /// Wall-clock time, as this node believes it.
    now: Millis,
    /// The lane's age: that of its head, and the time since the head was committed or learned of. From batch to batch
    /// it never decreases, and never grows by more than the time between them.
    age: Millis,
    /// The lane's age when it was loaded.
    loaded: Millis,
    /// The time since the lane was loaded that `age` includes, by a monotonic clock.
    counted: Millis,
    /// Bytes that other lanes of this node take of the same memory for ids and sessions.
    taken_elsewhere: usize,
    /// The last position of the open batch.
    places: u32,
    /// Whether packs were forgotten, and the store has to know.
    forgot: bool,
}

impl State {
    /// Builds the state from stored rows.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if a row cannot be decoded.
    pub fn new(
        bounds: Bounds,
        head: Head,
        packs: Vec<Pack>,
        sessions: Vec<(SessionId, Arc<Session>)>,
    ) -> Result<Self, Corrupt> {
        // The last batches may be of a version that did not store ages.
        let ages = packs.iter().map(|pack| pack.stamp.age);
        let age = ages.chain([head.age]).flatten().max().unwrap_or(0);
        let packs = packs.into_iter().map(|pack| {
            let made_at = pack.stamp.age.unwrap_or(age);
            (pack, made_at)
        });
        let mut state = Self {
            head,
            counters: Counters::new(),
            ids: DedupLog::new(packs.collect())?,
            before: None,
            sessions: Sessions::default(),
            hasher: None,
            bounds,
            now: head.time,
            age,
            loaded: age,
            counted: 0,
            taken_elsewhere: 0,
            places: 0,
            forgot: false,
        };
        for (id, session) in sessions {
            state.sessions.load(id, session, age);
        }
        Ok(state)
    }

    /// Adds the data that were moved here: the hasher of both stores, and the ids that the other one remembered.
    #[must_use]
    pub fn moved_here(mut self, hasher: KeyedHasher, before: Option<Arc<ImportedIds>>) -> Self {
        self.hasher = Some(hasher);
        self.before = before;
        self
    }

    /// The last committed batch.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Changes the limits on memory, between batches: how much other lanes take for ids, and how much they leave for
    /// counters.
    pub fn share(&mut self, id_bytes_elsewhere: usize, counter_bytes: usize) {
        self.taken_elsewhere = id_bytes_elsewhere;
        self.bounds.counter_bytes = counter_bytes;
    }

    /// Locates the counters that an operation needs. Those not in memory are appended to `missing`, to be loaded.
    pub fn locate(&self, operation: &mut Operation, missing: &mut Vec<Arc<str>>) {
        match operation {
            Operation::Increment(increments)
            | Operation::Batch(increments)
            | Operation::Record(Record { increments, .. }) => {
                increments.locate(|hash, name| self.counters.find(hash, name), missing);
            }
            Operation::Set(name, _) | Operation::Delete(name) => {
                if self.counters.find(hash_name(name), name).is_none() {
                    missing.push(name.clone());
                }
            }
        }
    }

    /// Loads the stored value of a missing counter.
    pub fn load(&mut self, name: Arc<str>, value: Option<i64>) {
        self.counters.load(name, value);
    }

    /// Decides one operation, on top of all before it. The answer may be sent once the batch is committed, or at once
    /// if the batch changes nothing ([`State::commit`]).
    ///
    /// # Errors
    /// Returns [`Rejection`] if the request is refused. Nothing is changed then.
    ///
    /// # Panics
    /// Panics if a counter that the operation needs was not loaded.
    pub fn apply(&mut self, request: &Request) -> Decision {
        if let Operation::Record(record) = &request.operation {
            return self.record(record);
        }
        if let Some(id) = &request.id {
            if let Some(outcome) = self.remembered(id) {
                return outcome;
            }
            self.check_time(id.time, self.horizon())?;
            self.check_room(self.bounds.id_bytes)?;
        }
        let place = self.places + 1;
        let done = match &request.operation {
            Operation::Increment(increments) => self.increment_all(increments, place, |all| {
                Effect::Incremented(*all.first().expect("one increment has one result"))
            }),
            Operation::Batch(increments) => {
                self.increment_all(increments, place, |all| Effect::Batch(all.into()))
            }
            Operation::Set(name, value) => self.replace(name, Some(*value), place),
            Operation::Delete(name) => self.replace(name, None, place),
            Operation::Record(_) => unreachable!("they went another way above"),
        };
        let failed = matches!(done, Effect::Failed(_));
        if request.id.is_some() || !failed {
            self.places = place;
        }
        if let Some(id) = &request.id {
            self.ids.remember(id, place, &done);
        }
        Ok(Answer {
            done,
            place: Position::InBatch(place),
            replayed: false,
        })
    }

    /// The remembered decision on an id, if any. No counter is needed for it.
    #[must_use]
    pub fn remembered(&self, id: &Id) -> Option<Decision> {
        let elsewhere = || self.before.as_ref()?.find(id);
        let known = self.ids.find(id).or_else(elsewhere)?;
        let same = known.contents == id.contents;
        Some(same.then_some(known.answer).ok_or(Rejection::IdReused))
    }

    fn increment_all(
        &mut self,
        increments: &Increments,
        place: u32,
        done: impl FnOnce(&[Applied]) -> Effect,
    ) -> Effect {
        if increments.len() == 1 {
            let only = increments.iter().next().expect("there is one");
            return match self.increment(only, place) {
                Ok(added) => done(&[added]),
                Err(refusal) => Effect::Failed(FailedIncrement { index: 0, refusal }),
            };
        }
        // No counter is changed before all increments are decided.
        let mut values: Vec<(SlotId, i64)> = Vec::with_capacity(increments.len());
        let mut results = Vec::with_capacity(increments.len());
        for (index, increment) in (0..).zip(increments.iter()) {
            let decided = increment
                .map_err(super::LimitError::Invalid)
                .and_then(|increment| {
                    let at = self.at(&increment);
                    let before = values.iter().rev().find(|(other, _)| *other == at);
                    let value = before.map_or_else(|| self.value(at), |(_, value)| *value);
                    let added = increment.limits.add(value, increment.delta)?;
                    values.push((at, added.value));
                    Ok(added)
                });
            match decided {
                Ok(added) => results.push(added),
                Err(refusal) => return Effect::Failed(FailedIncrement { index, refusal }),
            }
        }
        for (at, value) in values {
            self.counters.set(at, Some(value), place);
        }
        done(&results)
    }

    fn increment(
        &mut self,
        increment: Result<Increment<'_>, super::Invalid>,
        place: u32,
    ) -> Result<Applied, super::LimitError> {
        let increment = increment.map_err(super::LimitError::Invalid)?;
        let at = self.at(&increment);
        let added = increment.limits.add(self.value(at), increment.delta)?;
        self.counters.set(at, Some(added.value), place);
        Ok(added)
    }

    fn replace(&mut self, name: &str, value: Option<i64>, place: u32) -> Effect {
        let at = self.find(hash_name(name), name);
        let before = self.counters.value(at);
        if before.is_some() || value.is_some() {
            self.counters.set(at, value, place);
        }
        Effect::Replaced(before.unwrap_or(0))
    }

    fn at(&self, increment: &Increment<'_>) -> SlotId {
        let found = || self.find(increment.hash, increment.name);
        increment.at.unwrap_or_else(found)
    }

    fn find(&self, hash: u64, name: &str) -> SlotId {
        let at = self.counters.find(hash, name);
        at.expect("what is missing is loaded before it is needed")
    }

    fn value(&self, at: SlotId) -> i64 {
        self.counters.value(at).unwrap_or(0)
    }

    /// Ids with times up to this are refused. Those up to the head's horizon may have been forgotten. Later ones are
    /// refused by the clock, for as long as it says so: the limit must not depend on which other requests were counted.
    fn horizon(&self) -> Millis {
        self.head.horizon.max(self.now - self.bounds.id_horizon)
    }

    /// The corresponding horizon of sessions.
    fn session_horizon(&self) -> Millis {
        let by_the_clock = self.now - self.bounds.session_horizon;
        self.head.session_horizon.max(by_the_clock)
    }

    /// Refuses times that may be forgotten already, and times that would later move the horizon into the future.
    fn check_time(&self, time: Option<Millis>, horizon: Millis) -> Result<(), Rejection> {
        let now = self.now;
        match time {
            Some(time) if time <= horizon => Err(Rejection::TooOld {
                time,
                horizon,
                now: Some(now),
            }),
            Some(time) if time > now + MAX_SKEW => Err(Rejection::FromFuture { time, now }),
            _ => Ok(()),
        }
    }

    fn check_room(&self, max: usize) -> Result<(), Rejection> {
        if self.id_bytes() + self.taken_elsewhere < max {
            return Ok(());
        }
        Err(Rejection::Full {
            max_bytes: max as u64,
            retry_in: self.room_in().clamp(MIN_RETRY, MAX_RETRY),
        })
    }

    /// Time until something is forgotten.
    fn room_in(&self) -> Millis {
        // If nothing is remembered yet, this batch takes all the memory.
        let first = self
            .forgets_at()
            .unwrap_or(self.age + MAX_SKEW + self.bounds.id_horizon);
        first - self.age
    }

    /// The lane's age at which something is forgotten: the oldest ids or the first session, whichever comes first.
    fn forgets_at(&self) -> Option<Millis> {
        let remembered = self.bounds.id_horizon + MAX_SKEW;
        let ids = self.ids.oldest_age().map(|made_at| made_at + remembered);
        let remembered = self.bounds.session_horizon + MAX_SKEW;
        let sessions = self.sessions.forgotten_at(remembered);
        ids.into_iter().chain(sessions).min()
    }

    /// Time from the start of the last batch until an empty batch is due to forget something; `None` if nothing is
    /// remembered.
    #[must_use]
    pub fn due_in(&self) -> Option<Millis> {
        self.forgets_at().map(|at| (at - self.age).max(0))
    }

    /// Bytes that request ids and sessions take.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.ids.bytes() + self.sessions.bytes()
    }

    /// Bytes that counters take.
    #[must_use]
    pub fn counter_bytes(&self) -> usize {
        self.counters.bytes()
    }

    /// Number of rows that the open batch changes so far.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.counters.changes() + self.sessions.changes()
    }

    /// Approximate bytes that these rows and the ids take when stored.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = ROW_BYTES * self.counters.changes() + self.counters.changed_bytes();
        rows + self.ids.open_bytes() + self.sessions.changed_bytes()
    }

    /// Evicts counters that were not recently used, down to the memory limit. Must not be called between the load of an
    /// operation's counters and its application.
    pub fn make_room(&mut self) {
        self.counters.evict(self.bounds.counter_bytes);
    }
}

impl Answer {
    /// The answer's revision, if its batch is committed on `base`.
    #[must_use]
    pub fn revision(&self, base: i64) -> i64 {
        match self.place {
            Position::InBatch(place) => base + i64::from(place),
            Position::Revision(revision) => revision,
        }
    }
}
