//! Histories of operations, against the simple model.

use super::*;

/// A step of a history: a request of a client, or an event of the server.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A new or a repeated operation (ids are few), in a batch with its neighbours.
    Ask { id: Option<u8>, what: What },
    /// The batch ends.
    Commit,
    /// The process dies, and the open batch with it.
    Crash,
    /// Time passes.
    Wait(Millis),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Add(u8, i64, Option<i64>, bool),
    AddBoth(i64, i64),
    Set(u8, i64),
    Delete(u8),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
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

pub(super) fn operation(what: &What) -> Operation {
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
            // The first counter again, on top of its own increment.
            increments.push("g/0", 1, Limits::default());
            Operation::Batch(increments)
        }
        What::Set(n, value) => Operation::Set(name(*n).into(), *value),
        What::Delete(n) => Operation::Delete(name(*n).into()),
    }
}

/// The simple model: applies an operation to a map, and returns its answer.
fn simply(counters: &mut BTreeMap<String, i64>, what: &What) -> Effect {
    let mut increment = |n: u8, delta: i64, limits: Limits, index: u32| {
        let value = counters.entry(format!("g/{n}")).or_insert(0);
        let added = limits.add(*value, delta);
        let added = added.map_err(|refusal| Effect::Failed(FailedIncrement { index, refusal }))?;
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
            increment(*n, *delta, limits, 0).map_or_else(|failed| failed, Effect::Incremented)
        }
        What::AddBoth(a, b) => {
            let before = counters.clone();
            let steps = [(0, *a), (1, *b), (0, 1)];
            let mut increment = |n: u8, delta: i64, index: u32| {
                let value = counters.entry(format!("g/{n}")).or_insert(0);
                let added = Limits::default().add(*value, delta);
                let added =
                    added.map_err(|refusal| Effect::Failed(FailedIncrement { index, refusal }))?;
                *value = added.value;
                Ok(added)
            };
            let all: Result<Vec<_>, Effect> = (0..)
                .zip(steps)
                .map(|(index, (n, delta))| increment(n, delta, index))
                .collect();
            match all {
                Ok(all) => Effect::Batch(all.into()),
                Err(failed) => {
                    *counters = before;
                    failed
                }
            }
        }
        What::Set(n, value) => {
            let before = counters.insert(format!("g/{n}"), *value);
            Effect::Replaced(before.unwrap_or(0))
        }
        What::Delete(n) => Effect::Replaced(counters.remove(&format!("g/{n}")).unwrap_or(0)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// In any interleaving of operations, repeats, batches, crashes and time, every answer is the simple model's. A
    /// repeated id gets its first answer while ids are remembered, and revisions grow with every operation.
    #[test]
    fn histories_are_those_of_the_simple_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut lane = Lane::new(bounds());
        let mut counters = BTreeMap::new();
        let mut remembered: HashMap<u8, (What, Effect, i64, Millis)> = HashMap::new();
        // The lane's age, and the time that it includes. After a crash, the time since the last batch is not known.
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
                            (Err(Rejection::IdReused), Some((first, ..))) => prop_assert_ne!(first, &what),
                            (Ok((done, revision, replayed)), None) => {
                                prop_assert!(!replayed);
                                prop_assert_eq!(&done, &simply(&mut counters, &what));
                                if !matches!(done, Effect::Failed(_)) {
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
}

/// An id is refused for any other operation, even if only the limits differ.
#[test]
fn an_id_is_of_one_operation_within_its_limits() {
    let operations = || {
        let limits = [
            (None, None, OnLimit::Reject),
            (None, None, OnLimit::Saturate),
            (None, Some(9), OnLimit::Reject),
            (None, Some(9), OnLimit::Saturate),
            (None, Some(8), OnLimit::Reject),
            (Some(-9), None, OnLimit::Reject),
            (Some(-9), Some(9), OnLimit::Reject),
            (Some(0), None, OnLimit::Reject),
            (None, Some(0), OnLimit::Reject),
        ];
        let increments = limits.map(|(min, max, on_limit)| {
            let limits = Limits { min, max, on_limit };
            Operation::Increment(Increments::one("g/0".into(), 1, limits))
        });
        let one = Increments::one("g/0".into(), 1, Limits::default());
        let others = [
            Operation::Batch(one),
            Operation::Set("g/0".into(), 1),
            Operation::Delete("g/0".into()),
        ];
        increments.into_iter().chain(others)
    };
    for (at, first) in operations().enumerate() {
        let mut lane = Lane::new(bounds());
        let (done, revision, _) = lane.one(named("a", None, first)).expect("it is new");
        for (other, operation) in operations().enumerate() {
            let again = lane.one(named("a", None, operation));
            let expected = if other == at {
                Ok((done.clone(), revision, true))
            } else {
                Err(Rejection::IdReused)
            };
            assert_eq!(again, expected, "{other} after {at}");
        }
    }
}
