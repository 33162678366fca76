//! The rules against a model that is as simple as it can be: maps, and nothing bounded but what is tested.

mod bounded;
mod damaged;
mod lost;
mod moved;
mod nodes;
mod resume;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::codec::{Reader, put_i64, put_u64};
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

/// What a store keeps, which is what a new life of the lane begins with.
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

/// What was added to a session makes of its earlier state the later one, and nothing of that.
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

/// A lane over such a store.
struct Lane {
    stored: Stored,
    state: State,
    bounds: Bounds,
    now: Millis,
    /// By how much the clock was set back, which the one that only ticks was not.
    stepped: Millis,
    /// When this life began, by the one that only ticks.
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

    /// The time by a clock that is never set, and ticks through restarts.
    fn ticks(&self) -> Millis {
        self.now + self.stepped
    }

    /// Sets the clock forward, or back.
    fn set_clock(&mut self, by: Millis) {
        self.now += by;
        self.stepped -= by;
    }

    /// Carries out a batch, as a lane's task does.
    fn batch(&mut self, mut requests: Vec<Request>) -> Vec<Result<(Done, i64, bool), Refused>> {
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
        let known = |outcome: Outcome| {
            outcome.map(|answer| (answer.done.clone(), answer.revision(base), answer.replayed))
        };
        outcomes.into_iter().map(known).collect()
    }

    fn one(&mut self, request: Request) -> Result<(Done, i64, bool), Refused> {
        self.batch(vec![request]).remove(0)
    }

    fn value(&self, name: &str) -> i64 {
        let row = self.stored.counters.get(name);
        row.and_then(|(value, _)| *value).unwrap_or(0)
    }
}

fn digests() -> Digests {
    Digests::new(*b"a key of a store")
}

fn named(id: &str, time: Option<Millis>, operation: Operation) -> Request {
    Request {
        id: Some(digests().id(id, time, &operation)),
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
            follows: Follows::TheOneBefore,
            contents: digests().message(&increments),
            increments,
        }),
    }
}

fn value(done: &Done) -> i64 {
    match done {
        Done::Incremented(added) => added.value,
        other => panic!("{other:?} is no increment"),
    }
}

proptest! {
    #[test]
    fn increments_are_exact_and_bounded(
        value: i64,
        delta: i64,
        min: Option<i64>,
        max: Option<i64>,
        near in -3i64..3,
        saturate: bool,
    ) {
        let on_limit = if saturate { OnLimit::Saturate } else { OnLimit::Reject };
        // Values and limits that are close to each other are where it matters.
        for (min, max) in [(min, max), (min.map(|_| value.saturating_add(near)), max)] {
            if min.zip(max).is_some_and(|(min, max)| min > max) {
                continue;
            }
            let limits = Limits { min, max, on_limit };
            let (low, high) = (min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX));
            let after = i128::from(value) + i128::from(delta);
            // Only what leads further towards a limit can pass it: a value beyond one may come back, by any step.
            let fits = match delta.signum() {
                1 => after <= i128::from(high),
                -1 => after >= i128::from(low),
                _ => true,
            };
            match limits.add(value, delta) {
                Ok(added) => {
                    prop_assert_eq!(
                        i128::from(value) + i128::from(added.applied),
                        i128::from(added.value)
                    );
                    if fits {
                        prop_assert_eq!(added.applied, delta);
                    } else {
                        prop_assert!(saturate);
                        // A part of the delta, which ends at the limit or is none at all.
                        let part = added.applied;
                        prop_assert!(part == 0 || (part > 0) == (delta > 0));
                        prop_assert!(part.unsigned_abs() < delta.unsigned_abs());
                        let limit = if delta > 0 { high } else { low };
                        prop_assert!(part == 0 || added.value == limit);
                        // And if it is none, the limit was reached before.
                        let reached = if delta > 0 { value >= high } else { value <= low };
                        prop_assert!(part != 0 || reached);
                    }
                }
                Err(refusal) => {
                    prop_assert!(!fits && !saturate);
                    match refusal {
                        Refusal::Min { min: limit, .. } => prop_assert!(Some(limit) == min && after < limit.into()),
                        Refusal::Max { max: limit, .. } => prop_assert!(Some(limit) == max && after > limit.into()),
                        Refusal::OutOfRange { .. } => prop_assert!(i64::try_from(after).is_err()),
                        Refusal::Invalid(_) => prop_assert!(false, "it was valid"),
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_are_read_back(unsigned: u64, signed: i64) {
        let mut bytes = Vec::new();
        put_u64(&mut bytes, unsigned);
        put_i64(&mut bytes, signed);
        let mut reader = Reader(&bytes);
        prop_assert_eq!(reader.u64().unwrap(), unsigned);
        prop_assert_eq!(reader.i64().unwrap(), signed);
        prop_assert!(reader.is_empty());
    }
}

/// A refund of what is over a limit that was lowered is made, in parts and as a whole; it stops at the other limit.
#[test]
fn what_leads_back_towards_a_limit_is_made() {
    for on_limit in [OnLimit::Reject, OnLimit::Saturate] {
        let limits = Limits {
            min: Some(0),
            max: Some(400),
            on_limit,
        };
        for (value, delta, after) in [(500, -1, 499), (500, -100, 400), (500, -500, 0)] {
            let added = limits.add(value, delta).expect("it leads back");
            assert_eq!((added.value, added.applied), (after, delta));
        }
        for (value, delta, after) in [(-7, 1, -6), (-7, 407, 400), (500, 0, 500)] {
            let added = limits.add(value, delta).expect("it leads back");
            assert_eq!((added.value, added.applied), (after, delta));
        }
    }
    let reject = Limits {
        min: Some(0),
        max: Some(400),
        on_limit: OnLimit::Reject,
    };
    assert!(matches!(reject.add(500, 1), Err(Refusal::Max { .. })));
    assert!(matches!(reject.add(500, -501), Err(Refusal::Min { .. })));
    assert!(matches!(reject.add(-7, -1), Err(Refusal::Min { .. })));
    let saturate = Limits {
        on_limit: OnLimit::Saturate,
        ..reject
    };
    let applied = |value, delta| saturate.add(value, delta).expect("a part").applied;
    assert_eq!((applied(500, 1), applied(500, -501)), (0, -500));
    assert_eq!((applied(-7, -1), applied(-7, 408)), (0, 407));
}

/// A step of a history: what a client sends, or what happens to the server.
#[derive(Clone, Debug)]
enum Step {
    /// A new operation or a repeated one (ids are few), in a batch with its neighbours.
    Ask { id: Option<u8>, what: What },
    /// The batch ends.
    Commit,
    /// The process dies, and what was in the batch with it.
    Crash,
    /// Time passes.
    Wait(Millis),
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Add(u8, i64, Option<i64>, bool),
    AddBoth(i64, i64),
    Set(u8, i64),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let delta = prop_oneof![-5i64..5, Just(i64::MAX), Just(i64::MIN)];
    let max = prop::option::of(-2i64..8);
    let what = prop_oneof![
        4 => (0u8..3, delta.clone(), max, any::<bool>()).prop_map(|(n, d, m, s)| What::Add(n, d, m, s)),
        2 => (delta.clone(), delta).prop_map(|(a, b)| What::AddBoth(a, b)),
        1 => (0u8..3, -5i64..5).prop_map(|(name, value)| What::Set(name, value)),
        1 => (0u8..3).prop_map(What::Delete),
    ];
    prop_oneof![
        12 => (prop::option::of(0u8..6), what).prop_map(|(id, what)| Step::Ask { id, what }),
        4 => Just(Step::Commit),
        1 => Just(Step::Crash),
        1 => (0i64..HORIZON).prop_map(Step::Wait),
    ]
}

fn operation(what: &What) -> Operation {
    let name = |n: u8| format!("g/{n}");
    match what {
        What::Add(n, delta, max, saturate) => {
            let on_limit = if *saturate {
                OnLimit::Saturate
            } else {
                OnLimit::Reject
            };
            let limits = Limits {
                min: None,
                max: *max,
                on_limit,
            };
            Operation::Increment(Increments::one(name(*n), *delta, limits))
        }
        What::AddBoth(a, b) => {
            let mut increments = Increments::default();
            increments.push("g/0", *a, Limits::default());
            increments.push("g/1", *b, Limits::default());
            // The first again, on top of itself.
            increments.push("g/0", 1, Limits::default());
            Operation::Batch(increments)
        }
        What::Set(n, value) => Operation::Set(name(*n).into(), *value),
        What::Delete(n) => Operation::Delete(name(*n).into()),
    }
}

/// The simple model: what an operation does to a map, with its answer.
fn simply(counters: &mut BTreeMap<String, i64>, what: &What) -> Done {
    let mut increment = |n: u8, delta: i64, limits: Limits, index: u32| {
        let value = counters.entry(format!("g/{n}")).or_insert(0);
        let added = limits.add(*value, delta);
        let added = added.map_err(|refusal| Done::Failed(Failure { index, refusal }))?;
        *value = added.value;
        Ok(added)
    };
    match what {
        What::Add(n, delta, max, saturate) => {
            let on_limit = if *saturate {
                OnLimit::Saturate
            } else {
                OnLimit::Reject
            };
            let limits = Limits {
                min: None,
                max: *max,
                on_limit,
            };
            increment(*n, *delta, limits, 0).map_or_else(|failed| failed, Done::Incremented)
        }
        What::AddBoth(a, b) => {
            let before = counters.clone();
            let steps = [(0, *a), (1, *b), (0, 1)];
            let mut increment = |n: u8, delta: i64, index: u32| {
                let value = counters.entry(format!("g/{n}")).or_insert(0);
                let added = Limits::default().add(*value, delta);
                let added = added.map_err(|refusal| Done::Failed(Failure { index, refusal }))?;
                *value = added.value;
                Ok(added)
            };
            let all: Result<Vec<_>, Done> = (0..)
                .zip(steps)
                .map(|(index, (n, delta))| increment(n, delta, index))
                .collect();
            match all {
                Ok(all) => Done::Batch(all.into()),
                Err(failed) => {
                    *counters = before;
                    failed
                }
            }
        }
        What::Set(n, value) => {
            let before = counters.insert(format!("g/{n}"), *value);
            Done::Replaced(before.unwrap_or(0))
        }
        What::Delete(n) => Done::Replaced(counters.remove(&format!("g/{n}")).unwrap_or(0)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Any interleaving of operations, repetitions, batches, crashes and time: every answer is the simple model's,
    /// a repeated id gets its first answer as long as ids are remembered, and revisions grow with every batch.
    #[test]
    fn histories_are_those_of_the_simple_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut lane = Lane::new(bounds());
        let mut counters = BTreeMap::new();
        let mut remembered: HashMap<u8, (What, Done, i64, Millis)> = HashMap::new();
        // The lane's age, and the time up to which it has counted: what has passed since the last batch before a crash is not known.
        let (mut age, mut counted) = (0, lane.now);
        let mut stored_age = 0;
        let mut waiting: Vec<(Option<u8>, What)> = Vec::new();
        let mut last_revision = 0;
        for step in steps.iter().chain([&Step::Commit]) {
            match step {
                Step::Ask { id, what } => waiting.push((*id, what.clone())),
                Step::Crash => {
                    waiting.clear();
                    lane.restart();
                    (age, counted) = (stored_age, lane.now);
                }
                Step::Wait(time) => lane.now += time,
                Step::Commit => {
                    let requests: Vec<_> = waiting
                        .iter()
                        .map(|(id, what)| match id {
                            Some(id) => named(&id.to_string(), None, operation(what)),
                            None => Request { id: None, operation: operation(what) },
                        })
                        .collect();
                    age += lane.now - counted;
                    counted = lane.now;
                    remembered.retain(|_, (.., made_at)| *made_at > age - HORIZON - SKEW);
                    let seq = lane.stored.head.seq;
                    let before = last_revision;
                    for (outcome, (id, what)) in lane.batch(requests).into_iter().zip(waiting.drain(..)) {
                        let first = id.and_then(|id| remembered.get(&id));
                        match (outcome, first) {
                            (Ok((done, revision, replayed)), Some((_, first, at, ..))) => {
                                prop_assert!(replayed);
                                prop_assert_eq!(&done, first);
                                prop_assert_eq!(revision, *at);
                            }
                            (Err(Refused::IdReused), Some((first, ..))) => prop_assert_ne!(first, &what),
                            (Ok((done, revision, replayed)), None) => {
                                prop_assert!(!replayed);
                                prop_assert_eq!(&done, &simply(&mut counters, &what));
                                if !matches!(done, Done::Failed(_)) {
                                    prop_assert!(revision > before.max(last_revision));
                                    last_revision = revision;
                                }
                                if let Some(id) = id {
                                    remembered.insert(id, (what, done, revision, age));
                                }
                            }
                            (outcome, first) => prop_assert!(false, "{outcome:?}, {first:?}"),
                        }
                    }
                    if lane.stored.head.seq > seq {
                        stored_age = age;
                    }
                }
            }
        }
        for name in ["g/0", "g/1", "g/2"] {
            prop_assert_eq!(lane.value(name), counters.get(name).copied().unwrap_or(0));
        }
        prop_assert_eq!(lane.state.id_bytes(), lane.stored.load(bounds()).id_bytes());
    }

    /// A client that resends from its last acknowledgement after every break, over a server that crashes: every message
    /// counts once, whatever was lost.
    #[test]
    fn sessions_count_each_message_once(
        breaks in prop::collection::vec((1usize..6, any::<bool>(), any::<bool>()), 1..30),
    ) {
        let mut lane = Lane::new(bounds());
        let time = lane.now;
        let (mut acknowledged, mut sent) = (0u64, 0u64);
        let contents = |sequence: u64| [("g/0", i64::try_from(sequence).unwrap())];
        for (count, crash, answers_lost) in breaks {
            let messages: Vec<_> = (acknowledged + 1..=acknowledged + count as u64)
                .map(|sequence| message(sequence, acknowledged, &contents(sequence), time))
                .collect();
            sent = sent.max(acknowledged + count as u64);
            if crash {
                lane.restart();
            }
            for answer in lane.batch(messages) {
                match answer {
                    Ok((Done::Recorded { acknowledged: now, failures }, ..)) => {
                        prop_assert!(failures.is_empty());
                        if !answers_lost {
                            acknowledged = acknowledged.max(now);
                        }
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let applied = i64::try_from(sent).unwrap();
            prop_assert_eq!(lane.value("g/0"), applied * (applied + 1) / 2);
        }
    }
}

/// What a client asks once more, or what becomes of clocks and the server.
#[derive(Clone, Debug)]
enum Turn {
    /// To count what has an id, which has its time or not.
    Ask { id: u8, with_time: bool },
    /// To count the first message of a session.
    Begin { session: u8 },
    /// Time passes.
    Wait(Millis),
    /// The clock of the server, and that of clients beside it, are this far ahead of the time.
    Clock(Millis),
    /// The server is started again.
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    let ahead = prop_oneof![
        2 => Just(0),
        2 => -SKEW..SKEW,
        2 => -2 * HORIZON..2 * HORIZON,
        1 => -2 * DAY..2 * DAY,
        1 => prop_oneof![Just(-400 * DAY), Just(400 * DAY)],
    ];
    prop_oneof![
        8 => (0u8..4, any::<bool>()).prop_map(|(id, with_time)| Turn::Ask { id, with_time }),
        2 => (0u8..3).prop_map(|session| Turn::Begin { session }),
        4 => (0..HORIZON).prop_map(Turn::Wait),
        2 => (HORIZON - SKEW..HORIZON + 2 * SKEW).prop_map(Turn::Wait),
        1 => (0..5 * HORIZON).prop_map(Turn::Wait),
        2 => ahead.prop_map(Turn::Clock),
        1 => Just(Turn::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    /// However clocks jump, forward and back, while the server runs and while it does not: what has a time is counted once
    /// and never again, and an id without one is remembered for the horizon, through any number of lives.
    #[test]
    fn clocks_that_jump_count_nothing_twice(turns in prop::collection::vec(turn(), 1..100)) {
        let mut lane = Lane::new(Bounds { session_horizon: HORIZON, ..bounds() });
        let mut counted = 0;
        // When each was made, by a clock that is right for some, and beside the server's for others.
        let mut made: HashMap<String, Millis> = HashMap::new();
        let mut once: HashMap<String, Millis> = HashMap::new();
        for turn in turns {
            let (name, request, with_time) = match turn {
                Turn::Ask { id, with_time } => {
                    let name = format!("{id} {with_time}");
                    let clock = if id % 2 == 0 { lane.ticks() } else { lane.now };
                    let time = *made.entry(name.clone()).or_insert(clock);
                    let request = named(&name, with_time.then_some(time), add("g/0", 1));
                    (name, request, with_time)
                }
                Turn::Begin { session } => {
                    let name = format!("session {session}");
                    let clock = if session == 0 { lane.ticks() } else { lane.now };
                    let time = *made.entry(name.clone()).or_insert(clock);
                    let request = message_of(&name, 1, 0, &[("g/0", 1)], time);
                    (name, request, true)
                }
                Turn::Wait(time) => {
                    lane.now += time;
                    continue;
                }
                Turn::Clock(ahead) => {
                    lane.set_clock(ahead + lane.ticks() - lane.now);
                    continue;
                }
                Turn::Restart => {
                    lane.restart();
                    continue;
                }
            };
            let horizon = lane.stored.head.horizon;
            match lane.one(request) {
                Ok((_, _, false)) => {
                    counted += 1;
                    if let Some(before) = once.insert(name, lane.ticks()) {
                        prop_assert!(!with_time, "counted twice");
                        prop_assert!(lane.ticks() - before >= HORIZON, "forgotten early");
                    }
                }
                Ok((_, _, true)) => prop_assert!(once.contains_key(&name) || !with_time),
                Err(Refused::TooOld { .. } | Refused::FromFuture { .. }) => prop_assert!(with_time),
                Err(other) => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(lane.stored.head.horizon >= horizon);
            prop_assert_eq!(lane.value("g/0"), counted);
        }
    }
}

#[test]
fn ids_older_than_the_horizon_are_refused_and_never_counted_again() {
    let mut lane = Lane::new(bounds());
    let time = lane.now;
    let ask = |lane: &mut Lane| lane.one(named("a", Some(time), add("g/0", 1)));
    assert_eq!(value(&ask(&mut lane).unwrap().0), 1);

    lane.now += HORIZON - 1;
    assert!(ask(&mut lane).unwrap().2, "still remembered");
    lane.now += SKEW + 2;
    lane.one(named("b", None, add("g/0", 1))).unwrap();
    let refused = ask(&mut lane).unwrap_err();
    assert!(matches!(refused, Refused::TooOld { .. }), "{refused:?}");
    // A clock that goes back, and a restart, bring nothing back.
    lane.now = time;
    lane.restart();
    assert!(matches!(ask(&mut lane), Err(Refused::TooOld { .. })));
    assert_eq!(lane.value("g/0"), 2);
}

/// A clock that is set forward makes nothing old that is not.
#[test]
fn an_id_without_a_time_outlives_a_step_of_the_clock() {
    let mut lane = Lane::new(bounds());
    let ask = |lane: &mut Lane| lane.one(named("a", None, add("g/0", 1))).unwrap();
    ask(&mut lane);
    lane.set_clock(3 * HORIZON);
    lane.one(named("b", None, add("g/1", 1))).unwrap();
    assert!(ask(&mut lane).2, "it is remembered");
    lane.now += HORIZON + SKEW;
    lane.one(named("c", None, add("g/1", 1))).unwrap();
    assert!(!ask(&mut lane).2, "as long as it was promised");
}

/// A clock that was wrong makes ids of the right time too old only for as long as it is wrong: what was not forgotten under it
/// moves no horizon, although batches were made, and another life has begun.
#[test]
fn a_clock_that_was_ahead_does_no_lasting_harm() {
    let mut lane = Lane::new(bounds());
    let ask = |lane: &mut Lane, time: Millis| {
        let id = format!("{time} {}", lane.now);
        lane.one(named(&id, Some(time), add("g/0", 1)))
    };
    lane.set_clock(3650 * DAY);
    lane.one(named("without", None, add("g/0", 1))).unwrap();
    let right = lane.ticks();
    let refused = ask(&mut lane, right);
    assert!(
        matches!(refused, Err(Refused::TooOld { .. })),
        "{refused:?}"
    );
    for _ in 0..30 {
        lane.now += HORIZON / 10;
        lane.one(named(&lane.now.to_string(), None, add("g/0", 1)))
            .unwrap();
    }
    lane.restart();
    lane.set_clock(-3650 * DAY);
    let now = lane.now;
    assert_eq!(value(&ask(&mut lane, now).unwrap().0), 32);
    lane.one(message_of("s", 1, 0, &[("g/0", 1)], now)).unwrap();
    // And what was counted under it is forgotten in its time.
    lane.now += HORIZON + SKEW;
    lane.one(named("later", None, add("g/0", 1))).unwrap();
    assert_eq!(lane.stored.packs.len(), 1);
}

/// The clock is set forward by less than a day, one batch is committed, and the lane is loaded again: as another node does, or a
/// restart.
#[test]
fn an_id_without_a_time_outlives_a_step_and_a_restart() {
    let mut lane = Lane::new(bounds());
    let ask = |lane: &mut Lane| lane.one(named("a", None, add("g/0", 1))).unwrap();
    ask(&mut lane);
    lane.set_clock(2 * HORIZON);
    lane.one(named("b", None, add("g/1", 1))).unwrap();
    lane.now += 1000;
    lane.restart();
    lane.now += 1000;
    assert!(ask(&mut lane).2, "counted twice within 2 s");
    assert_eq!(lane.value("g/0"), 1);
}

/// An idle lane says when something is to be forgotten, and a batch of nothing then gives the memory back.
#[test]
fn an_idle_lane_gives_its_memory_back() {
    let mut lane = Lane::new(bounds());
    assert_eq!(lane.state.due_in(), None);
    lane.one(named("a", Some(START), add("g/0", 1))).unwrap();
    lane.one(message(1, 0, &[("g/0", 1)], START)).unwrap();
    let mut looks = 0;
    while let Some(due) = lane.state.due_in() {
        lane.now += due;
        lane.batch(Vec::new());
        looks += 1;
        assert!(looks < 5, "it is due again and again");
    }
    assert_eq!(lane.state.id_bytes(), 0);
    assert!(lane.stored.packs.is_empty() && lane.stored.sessions.is_empty());
    assert_eq!(lane.stored.head.horizon, START);
    let again = lane.one(message(1, 0, &[("g/0", 1)], START));
    assert!(matches!(again, Err(Refused::TooOld { .. })), "{again:?}");
}

/// Nor does a restart make anything old, by whatever clock: how long it took is not known.
#[test]
fn an_id_without_a_time_outlives_a_restart() {
    let mut lane = Lane::new(bounds());
    let ask = |lane: &mut Lane| lane.one(named("a", None, add("g/0", 1))).unwrap();
    ask(&mut lane);
    lane.set_clock(365 * DAY);
    lane.now += HORIZON / 2;
    lane.restart();
    assert!(ask(&mut lane).2, "it is remembered");
    lane.now += HORIZON + SKEW - 1;
    assert!(
        ask(&mut lane).2,
        "for the horizon, and as long as its commit may have taken"
    );
    lane.now += 1;
    assert!(!ask(&mut lane).2, "and no longer");
}

/// A client whose clock is ahead must not outlive what is remembered of it.
#[test]
fn an_id_from_the_future_is_remembered_until_it_is_too_old() {
    let mut lane = Lane::new(bounds());
    let start = lane.now;
    let far = lane.one(named("far", Some(start + SKEW + 1), add("g/0", 1)));
    assert!(matches!(far, Err(Refused::FromFuture { .. })));
    let ask = |lane: &mut Lane| lane.one(named("near", Some(start + SKEW), add("g/0", 1)));
    ask(&mut lane).unwrap();
    for _ in 0..40 {
        lane.now += HORIZON / 20;
        match ask(&mut lane) {
            Ok((_, _, replayed)) => assert!(replayed),
            Err(refused) => assert!(matches!(refused, Refused::TooOld { .. })),
        }
        lane.one(named(&lane.now.to_string(), None, add("g/1", 1)))
            .unwrap();
    }
    assert_eq!(lane.value("g/0"), 1);
}

/// Forgetting ids gives back exactly the memory that they took.
#[test]
fn what_is_forgotten_takes_no_memory() {
    let mut lane = Lane::new(bounds());
    for i in 0..20 {
        lane.now += HORIZON / 10;
        lane.one(named(&i.to_string(), None, add("g/0", 1)))
            .unwrap();
    }
    assert!(lane.stored.packs.len() < 20, "some were forgotten");
    assert_eq!(lane.state.id_bytes(), lane.stored.load(bounds()).id_bytes());
}

#[test]
fn memory_for_ids_is_bounded_and_comes_back() {
    let mut lane = Lane::new(bounds());
    let mut taken = 0;
    let retry_in = loop {
        match lane.one(named(&taken.to_string(), None, add("g/0", 1))) {
            Ok(_) => taken += 1,
            Err(Refused::Full { retry_in, .. }) => break retry_in,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(lane.state.id_bytes() < (1 << 20) + 200);
    assert!(
        taken > (1 << 20) / 150,
        "an id alone in its batch takes up to 150 bytes: {taken}"
    );
    assert!(
        lane.one(named("0", None, add("g/0", 1))).unwrap().2,
        "none is forgotten"
    );
    lane.one(Request {
        id: None,
        operation: add("g/0", 1),
    })
    .expect("no id, no memory");
    lane.now += retry_in + 1;
    let next = lane.one(named("next", None, add("g/0", 1)));
    assert_eq!(value(&next.expect("there is room again").0), taken + 2);
}

/// Asks for sessions, a second apart, until there is no room for another; tells how many there are and when to retry.
fn fill_with_sessions(lane: &mut Lane) -> (Millis, Millis) {
    for taken in 0.. {
        lane.now += 1000;
        let first = message_of(&taken.to_string(), 1, 0, &[("g/0", 1)], lane.now);
        match lane.one(first) {
            Ok(_) => {}
            Err(Refused::Full { retry_in, .. }) => return (taken, retry_in),
            Err(other) => panic!("{other:?}"),
        }
    }
    unreachable!("memory is bounded")
}

/// Where memory is all sessions, it comes back when the first of them is forgotten: ids have nothing to do with it.
#[test]
fn memory_full_of_sessions_comes_back_when_one_is_forgotten() {
    let mut lane = Lane::new(Bounds {
        id_bytes: 1 << 16,
        session_horizon: 3 * HORIZON,
        ..bounds()
    });
    let begun = lane.now + 1000;
    let (taken, retry_in) = fill_with_sessions(&mut lane);
    assert_eq!(lane.now + retry_in, begun + 3 * HORIZON + SKEW);

    // What is used goes on being remembered.
    let goes_on = message_of("0", 2, 1, &[("g/0", 1)], begun);
    lane.now += SKEW;
    lane.one(goes_on).expect("it is known");
    lane.now += SKEW;
    let next = |lane: &mut Lane| lane.one(message_of("next", 1, 0, &[("g/0", 1)], lane.now));
    let Err(Refused::Full { retry_in, .. }) = next(&mut lane) else {
        panic!("there is no room yet");
    };
    assert_eq!(lane.now + retry_in, begun + 1000 + 3 * HORIZON + SKEW);
    lane.now += retry_in;
    next(&mut lane).expect("there is room again");
    assert_eq!(lane.value("g/0"), taken + 2);
}

/// Ids that are forgotten sooner than any session make room for sessions, too; and nobody is sent away for days.
#[test]
fn a_retry_is_told_for_what_is_forgotten_first() {
    let bounds = Bounds {
        id_bytes: 1 << 16,
        session_horizon: 100 * HORIZON,
        ..bounds()
    };
    let mut lane = Lane::new(bounds);
    let (_, retry_in) = fill_with_sessions(&mut lane);
    assert_eq!(retry_in, 3_600_000, "an hour, although it takes far longer");

    let mut lane = Lane::new(bounds);
    lane.one(named("a", None, add("g/0", 1))).expect("room");
    let asked = lane.now;
    let (_, retry_in) = fill_with_sessions(&mut lane);
    assert_eq!(lane.now + retry_in, asked + HORIZON + SKEW);

    // No time of day has it last any shorter.
    lane.set_clock(retry_in);
    let refused = lane.one(named("b", None, add("g/0", 1)));
    let Err(Refused::Full { retry_in, .. }) = refused else {
        panic!("it is not forgotten yet: {refused:?}");
    };
    assert_eq!(retry_in, HORIZON + SKEW - (lane.ticks() - asked));
}

#[test]
fn memory_for_counters_is_bounded() {
    let mut lane = Lane::new(bounds());
    for i in 0..1000 {
        let request = Request {
            id: None,
            operation: add(&format!("g/{i}"), i),
        };
        lane.one(request).unwrap();
    }
    lane.state.make_room();
    assert!(lane.state.counter_bytes() <= 1 << 10);
    for i in 0..1000 {
        let request = Request {
            id: None,
            operation: add(&format!("g/{i}"), 1),
        };
        assert_eq!(value(&lane.one(request).unwrap().0), i + 1);
    }
}

#[test]
fn a_message_is_applied_on_top_of_the_one_before_it_only() {
    let mut lane = Lane::new(bounds());
    let time = lane.now;
    let mut ask = |sequence, acknowledged, delta| {
        lane.one(message(sequence, acknowledged, &[("g/0", delta)], time))
            .map(|(done, _, replayed)| (done, replayed))
    };
    assert_eq!(ask(2, 0, 1).unwrap_err(), Refused::Gap { expected: 1 });
    assert_eq!(
        ask(1, 1, 1).unwrap_err(),
        Refused::SessionLost { acknowledged: 0 }
    );
    assert!(!ask(1, 0, 1).unwrap().1);
    assert!(ask(1, 0, 1).unwrap().1, "a repeat");
    assert_eq!(ask(1, 0, 2).unwrap_err(), Refused::IdReused);
    assert!(!ask(2, 1, 1).unwrap().1);
    let known = Refused::Acknowledged { acknowledged: 1 };
    assert_eq!(ask(1, 0, 1).unwrap_err(), known);
    assert_eq!(ask(4, 1, 1).unwrap_err(), Refused::Gap { expected: 3 });
    assert_eq!(lane.value("g/0"), 2);
}

/// Failures are answered again until the client says that it knows them, also by a lane that has restarted.
#[test]
fn failures_of_a_session_are_kept_until_they_are_known() {
    let mut lane = Lane::new(bounds());
    let time = lane.now;
    let deltas = [("g/0", i64::MAX), ("g/0", 1), ("g/1", 1)];
    let (first, ..) = lane.one(message(1, 0, &deltas, time)).unwrap();
    let refusal = Refusal::OutOfRange {
        value: i64::MAX,
        delta: 1,
    };
    let failures = vec![(1, Failure { index: 1, refusal })];
    assert_eq!(
        first,
        Done::Recorded {
            acknowledged: 1,
            failures
        }
    );
    assert_eq!(lane.value("g/1"), 1, "the others are applied");
    lane.restart();
    let ask_only = |lane: &mut Lane, known| lane.one(message(0, known, &[], time)).unwrap().0;
    assert_eq!(ask_only(&mut lane, 0), first);
    let none = Done::Recorded {
        acknowledged: 1,
        failures: vec![],
    };
    assert_eq!(ask_only(&mut lane, 1), none);
}

#[test]
fn sessions_are_forgotten_and_never_begun_again() {
    let mut lane = Lane::new(bounds());
    let time = lane.now;
    lane.one(message(1, 0, &[("g/0", 1)], time)).unwrap();
    lane.now += bounds().session_horizon + SKEW + 1;
    lane.one(Request {
        id: None,
        operation: add("g/1", 1),
    })
    .unwrap();
    assert!(lane.stored.sessions.is_empty());
    let again = lane.one(message(1, 0, &[("g/0", 1)], time));
    assert!(matches!(again, Err(Refused::TooOld { .. })), "{again:?}");
    assert_eq!(lane.value("g/0"), 1);
}

/// The same of a client whose clock is ahead, and of a server whose clock is set back meanwhile.
#[test]
fn a_session_is_remembered_until_it_is_too_old() {
    for set_back in [0, 5 * SKEW] {
        let mut lane = Lane::new(Bounds {
            session_horizon: HORIZON,
            ..bounds()
        });
        let time = lane.now + SKEW;
        let send = |lane: &mut Lane, n| lane.one(message(n, 0, &[("g/0", 1)], time));
        send(&mut lane, 1).unwrap();
        lane.set_clock(-set_back);
        send(&mut lane, 2).unwrap();
        for _ in 0..60 {
            lane.now += HORIZON / 20;
            match send(&mut lane, 1) {
                Ok((_, _, replayed)) => assert!(replayed),
                Err(refused) => assert!(matches!(refused, Refused::TooOld { .. })),
            }
        }
        assert_eq!(lane.value("g/0"), 2);
        assert!(lane.stored.sessions.is_empty());
    }
}

#[test]
fn names_are_paths() {
    for name in [
        "a",
        "a/b",
        "acme/2026-11/api calls",
        "ü/ß",
        &"x".repeat(256),
    ] {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    let too_long = NameError::TooLong {
        bytes: 257,
        max: 256,
    };
    for (name, error) in [
        ("", NameError::Empty),
        ("/", NameError::EmptySegment { at: 0 }),
        ("/a", NameError::EmptySegment { at: 0 }),
        ("a/", NameError::EmptySegment { at: 2 }),
        ("a//b", NameError::EmptySegment { at: 2 }),
        ("a\nb", NameError::Control { at: 1 }),
        ("é\u{85}", NameError::Control { at: 2 }),
        ("a\u{7f}", NameError::Control { at: 1 }),
        (&"x".repeat(257), too_long),
    ] {
        assert_eq!(check_name(name), Err(error), "{name:?}");
    }
    assert_eq!(group("acme/a/b"), "acme");
    assert_eq!(group("acme"), "acme");
}
