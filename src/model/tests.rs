//! The rules against the simplest possible model: maps, and no bounds but those under test.

mod bounded;
mod clocks;
mod damaged;
mod histories;
mod lost;
mod moved;
mod names;
mod nodes;
mod numbers;
mod resume;
mod sessions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::session::Session;
use super::*;

const HORIZON: Millis = 600_000;
const SKEW: Millis = 60_000;
const START: Millis = 1_700_000_000_000;
const DAY: Millis = 24 * 3_600_000;

fn bounds() -> Bounds {
    Bounds {
        id_bytes: 1 << 20,
        counter_bytes: 1 << 10,
        id_horizon: HORIZON,
        session_horizon: 10 * HORIZON,
    }
}

/// The contents of a store, from which a restarted lane begins.
#[derive(Clone, Default)]
struct Stored {
    head: Head,
    packs: Vec<Pack>,
    counters: BTreeMap<Arc<str>, (Option<i64>, i64)>,
    sessions: HashMap<SessionId, Vec<u8>>,
}

impl Stored {
    fn commit(&mut self, commit: &Commit) -> i64 {
        assert_eq!(commit.seq, self.head.seq + 1);
        let base = self.head.revision;
        self.head = Head {
            seq: commit.seq,
            revision: base + i64::from(commit.places),
            time: commit.time,
            age: commit.stamp.age,
            horizon: commit.horizon,
            session_horizon: commit.session_horizon,
        };
        for change in &*commit.changes.counters {
            let revision = base + i64::from(change.place);
            self.counters
                .insert(change.name.clone(), (change.value, revision));
        }
        for (id, change) in &commit.changes.sessions {
            check_added(change);
            match &change.after {
                Some(session) => self.sessions.insert(id.clone(), session.encode()),
                None => self.sessions.remove(id),
            };
        }
        self.packs.retain(|pack| pack.seq >= commit.forget_before);
        if !commit.ids.is_empty() {
            self.packs.push(Pack {
                seq: commit.seq,
                time: commit.time,
                stamp: commit.stamp,
                base,
                ids: commit.ids.clone(),
            });
        }
        base
    }

    fn load(&self, bounds: Bounds) -> State {
        let decode = |(id, bytes): (&SessionId, &Vec<u8>)| {
            let session = if bytes == damaged::ROW {
                Session::damaged(self.head.time)
            } else {
                Session::decode(bytes).expect("what was encoded")
            };
            (id.clone(), Arc::new(session))
        };
        let sessions = self.sessions.iter().map(decode).collect();
        State::new(bounds, self.head, self.packs.clone(), sessions).expect("what was stored")
    }
}

/// The additions to a session turn its earlier state into the later one, and leave the later one as it is.
fn check_added(change: &SessionChange) {
    let (Some(before), Some(after)) = (&change.before, &change.after) else {
        return;
    };
    let Some(added) = after.since(before) else {
        return;
    };
    let added = Session::decode(&added.encode()).expect("what was encoded");
    let mut again = Session::clone(before);
    for _ in 0..2 {
        again.add(&added);
        assert_eq!(again, **after);
    }
}

/// A lane over a [`Stored`].
struct Lane {
    stored: Stored,
    state: State,
    bounds: Bounds,
    now: Millis,
    /// By how much the wall clock was set back, compared with the monotonic one.
    stepped: Millis,
    /// The last start, by the monotonic clock.
    started: Millis,
}

impl Lane {
    fn new(bounds: Bounds) -> Self {
        let stored = Stored::default();
        Self {
            state: stored.load(bounds),
            stored,
            bounds,
            now: START,
            stepped: 0,
            started: START,
        }
    }

    fn restart(&mut self) {
        self.state = self.stored.load(self.bounds);
        self.started = self.ticks();
    }

    /// The monotonic time, which goes on through restarts.
    fn ticks(&self) -> Millis {
        self.now + self.stepped
    }

    /// Sets the wall clock forward, or back.
    fn set_clock(&mut self, by: Millis) {
        self.now += by;
        self.stepped -= by;
    }

    /// Executes a batch as a lane's worker does.
    fn batch(&mut self, mut requests: Vec<Request>) -> Vec<Result<(Effect, i64, bool), Rejection>> {
        self.state.make_room();
        let mut missing = Vec::new();
        for request in &mut requests {
            self.state.locate(&mut request.operation, &mut missing);
        }
        for name in missing {
            let value = self
                .stored
                .counters
                .get(&name)
                .and_then(|(value, _)| *value);
            self.state.load(name, value);
        }
        self.state.begin(self.now, self.ticks() - self.started);
        let outcomes: Vec<_> = requests.iter().map(|r| self.state.apply(r)).collect();
        let (rows, bytes) = (self.state.changes(), self.state.bytes());
        let base = match self.state.commit() {
            Some(commit) => {
                let names = commit.changes.counters.iter().map(|c| c.name.len());
                let sessions = commit.changes.sessions.iter().map(|(id, change)| {
                    id.len()
                        + change
                            .after
                            .as_ref()
                            .map_or(0, |after| after.encode().len())
                });
                let stored = names.sum::<usize>() + commit.ids.len() + sessions.sum::<usize>();
                assert!(bytes >= stored, "{bytes} for {stored}");
                assert_eq!(
                    rows,
                    commit.changes.counters.len() + commit.changes.sessions.len()
                );
                let base = self.stored.commit(&commit);
                self.state.committed(&commit, base);
                base
            }
            None => self.state.head().revision,
        };
        let known = |outcome: Decision| {
            outcome.map(|answer| (answer.done.clone(), answer.revision(base), answer.replayed))
        };
        outcomes.into_iter().map(known).collect()
    }

    fn one(&mut self, request: Request) -> Result<(Effect, i64, bool), Rejection> {
        self.batch(vec![request]).remove(0)
    }

    fn value(&self, name: &str) -> i64 {
        let row = self.stored.counters.get(name);
        row.and_then(|(value, _)| *value).unwrap_or(0)
    }
}

fn hasher() -> KeyedHasher {
    KeyedHasher::new(*b"a key of a store")
}

fn named(id: &str, time: Option<Millis>, operation: Operation) -> Request {
    Request {
        id: Some(hasher().id(id, time, &operation)),
        operation,
    }
}

fn add(name: &str, delta: i64) -> Operation {
    Operation::Increment(Increments::one(name.into(), delta, Limits::default()))
}

fn message(sequence: u64, acknowledged: u64, deltas: &[(&str, i64)], time: Millis) -> Request {
    message_of("meter-7", sequence, acknowledged, deltas, time)
}

fn message_of(
    session: &str,
    sequence: u64,
    acknowledged: u64,
    deltas: &[(&str, i64)],
    time: Millis,
) -> Request {
    let mut increments = Increments::default();
    for (name, delta) in deltas {
        increments.push(name, *delta, Limits::default());
    }
    Request {
        id: None,
        operation: Operation::Record(Record {
            session: session.into(),
            time,
            sequence,
            acknowledged,
            follows: Predecessor::TheOneBefore,
            contents: hasher().message(&increments),
            increments,
        }),
    }
}

fn value(done: &Effect) -> i64 {
    match done {
        Effect::Incremented(added) => added.value,
        other => panic!("{other:?} is no increment"),
    }
}
