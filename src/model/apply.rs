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

/// Who is refused for lack of room is told to come back after so long at the least, lest the answer be "at once";
const MIN_RETRY: Millis = 1;
/// and at the most, for the server may have been given more room by then.
const MAX_RETRY: Millis = 3_600_000;
/// What a counter's change takes in the log beside its name, at the most.
const ROW_BYTES: usize = 24;

/// What a lane may keep, and for how long it must.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Memory for request ids and sessions.
    pub id_bytes: usize,
    /// Memory for counters.
    pub counter_bytes: usize,
    /// How long ids are remembered.
    pub id_horizon: Millis,
    /// How long sessions are remembered that are not used.
    pub session_horizon: Millis,
}

/// The state of a lane: what its store has, as far as it is in memory, and the batch that is being made.
///
/// ```text
/// make_room; begin; some at a time: locate, load what is missing, apply each; commit; and once that is stored, committed
/// ```
///
/// Where another node has committed meanwhile: undo; catch_up with what it has committed; and all of it again.
pub struct State {
    head: Head,
    counters: Counters,
    ids: DedupLog,
    /// What was remembered elsewhere, where the data were moved, until it may be forgotten.
    before: Option<Arc<ImportedIds>>,
    sessions: Sessions,
    /// Tells the lanes of sessions that were moved.
    hasher: Option<KeyedHasher>,
    bounds: Bounds,
    /// The time of day that this node believes.
    now: Millis,
    /// The lane's age: that of its head, and the time that has passed since the head was made or learned of. The age of each
    /// batch is that of the one before it or later, and never further from it than they are apart.
    age: Millis,
    /// The lane's age when it was loaded.
    loaded: Millis,
    /// The time since it was loaded up to which `age` has counted, by a clock that only ticks.
    counted: Millis,
    /// Memory for request ids and sessions that other lanes of this node take, of the same room.
    taken_elsewhere: usize,
    /// The last place of the batch that was given away.
    places: u32,
    /// Packs were forgotten, and the store is to be told.
    forgot: bool,
}

impl State {
    /// The state that the stored rows make.
    ///
    /// # Errors
    /// Where a row is not what was written.
    pub fn new(
        bounds: Bounds,
        head: Head,
        packs: Vec<Pack>,
        sessions: Vec<(SessionId, Arc<Session>)>,
    ) -> Result<Self, Corrupt> {
        // A version that did not store it may have made the last batches.
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

    /// The same with what was moved here from another store: what makes the digests in both, and the ids that were remembered
    /// there.
    #[must_use]
    pub fn moved_here(mut self, hasher: KeyedHasher, before: Option<Arc<ImportedIds>>) -> Self {
        self.hasher = Some(hasher);
        self.before = before;
        self
    }

    /// The last batch that was committed.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Changes what may be kept, between batches: other lanes take so much of the room for ids, and leave so much for counters.
    pub fn share(&mut self, id_bytes_elsewhere: usize, counter_bytes: usize) {
        self.taken_elsewhere = id_bytes_elsewhere;
        self.bounds.counter_bytes = counter_bytes;
    }

    /// Looks for the counters that an operation needs; those that are not in memory are to be loaded.
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

    /// Takes in what the store has under a name that was missing.
    pub fn load(&mut self, name: Arc<str>, value: Option<i64>) {
        self.counters.load(name, value);
    }

    /// Decides one operation, after all before it. The answer may be given to the caller once this batch is
    /// committed, or at once where it changes nothing ([`State::commit`]).
    ///
    /// # Errors
    /// Where the request is refused: nothing is changed then.
    ///
    /// # Panics
    /// Where a counter that it needs was not loaded.
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

    /// The outcome of the request with an id, if it is remembered. No counter is needed to tell it.
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
        // Nothing is changed before all is decided.
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

    /// Ids of times up to this are refused. Those up to the head's horizon may have been forgotten; the others are refused so
    /// that what is too old does not depend on what else was counted, and only for as long as the clock says so.
    fn horizon(&self) -> Millis {
        self.head.horizon.max(self.now - self.bounds.id_horizon)
    }

    /// The same of sessions.
    fn session_horizon(&self) -> Millis {
        let by_the_clock = self.now - self.bounds.session_horizon;
        self.head.session_horizon.max(by_the_clock)
    }

    /// Refuses what may be forgotten already, and what would take the horizon along into the future.
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

    /// How long it takes until something is forgotten.
    fn room_in(&self) -> Millis {
        // If there is nothing yet it is all of this batch.
        let first = self
            .forgets_at()
            .unwrap_or(self.age + MAX_SKEW + self.bounds.id_horizon);
        first - self.age
    }

    /// The age of the lane at which something is forgotten: the oldest ids, or a session, whichever is first.
    fn forgets_at(&self) -> Option<Millis> {
        let remembered = self.bounds.id_horizon + MAX_SKEW;
        let ids = self.ids.oldest_age().map(|made_at| made_at + remembered);
        let remembered = self.bounds.session_horizon + MAX_SKEW;
        let sessions = self.sessions.forgotten_at(remembered);
        ids.into_iter().chain(sessions).min()
    }

    /// How long after the last batch was begun a batch is due although nobody asks for one, if at all: something is to be
    /// forgotten then.
    #[must_use]
    pub fn due_in(&self) -> Option<Millis> {
        self.forgets_at().map(|at| (at - self.age).max(0))
    }

    /// Memory that request ids and sessions take.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        self.ids.bytes() + self.sessions.bytes()
    }

    /// Memory that counters take.
    #[must_use]
    pub fn counter_bytes(&self) -> usize {
        self.counters.bytes()
    }

    /// How many rows the batch changes so far.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.counters.changes() + self.sessions.changes()
    }

    /// How many bytes these, and the ids, take when they are stored, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = ROW_BYTES * self.counters.changes() + self.counters.changed_bytes();
        rows + self.ids.open_bytes() + self.sessions.changed_bytes()
    }

    /// Lets go of counters that were not used for the longest, where there are too many in memory. Not to be called
    /// between loading what an operation needs and applying it.
    pub fn make_room(&mut self) {
        self.counters.evict(self.bounds.counter_bytes);
    }
}

impl Answer {
    /// The revision, the batch being committed on `base`.
    #[must_use]
    pub fn revision(&self, base: i64) -> i64 {
        match self.place {
            Position::InBatch(place) => base + i64::from(place),
            Position::Revision(revision) => revision,
        }
    }
}
