//! Ids and sessions that were moved to another store.

use super::*;
use crate::model::session::Message;

const LANES: u32 = 4;

/// A lane of the other store, with the counters of these lanes and the ids that they remembered.
fn arrived(from: &[&Lane], before: Option<Arc<ImportedIds>>) -> Lane {
    let mut lane = Lane::new(bounds());
    let heads = from.iter().map(|lane| lane.stored.head);
    lane.stored.head = Head {
        seq: 1,
        ..heads.max_by_key(|head| head.time).expect("one")
    };
    for other in from {
        lane.stored.counters.extend(other.stored.counters.clone());
        lane.now = lane.now.max(other.now);
    }
    lane.restart();
    let state = lane.stored.load(bounds());
    lane.state = state.moved_here(hasher(), before);
    lane
}

/// Ids from another store get their first answers in every lane, until they are too old to count again.
#[test]
fn ids_from_elsewhere_are_known_until_they_are_too_old() {
    let mut old = Lane::new(bounds());
    let first = old.one(named("one", None, add("a/x", 5))).expect("done");
    let timed = named("two", Some(START), add("a/x", 1));
    old.one(timed).expect("done");
    let before = ImportedIds::new(old.stored.packs.clone()).expect("what was stored");
    let before = Arc::new(before);
    let mut lanes = [0; 3].map(|_| arrived(&[&old], Some(before.clone())));
    drop(before);
    for lane in &mut lanes {
        let again = lane.one(named("one", None, add("a/x", 5)));
        assert_eq!(again, Ok((first.0.clone(), first.1, true)));
        let other = lane.one(named("one", None, add("a/x", 6)));
        assert_eq!(other, Err(Rejection::IdReused));
        assert_eq!(lane.value("a/x"), 6);
    }
    let lane = &mut lanes[0];
    // By the wall clock it may be forgotten, but the clock was set, and less time has passed.
    lane.set_clock(HORIZON + 2 * SKEW);
    let again = lane.one(named("one", None, add("a/x", 5)));
    assert!(again.expect("it is known").2);
    lane.now += HORIZON + SKEW;
    let new = lane.one(named("one", None, add("a/x", 5))).expect("done");
    assert_eq!((value(&new.0), new.2), (11, false), "it is forgotten");
    // Even if the clock is set back.
    for now in [lane.now, START] {
        lane.set_clock(now - lane.now);
        let refused = lane.one(named("two", Some(START), add("a/x", 1)));
        assert!(
            matches!(refused, Err(Rejection::TooOld { .. })),
            "{refused:?}"
        );
    }
}

/// After a restart, a lane knows the ids from another store for a whole horizon again: its age does not tell how long
/// ago they came.
#[test]
fn ids_from_elsewhere_are_known_after_a_restart() {
    let mut old = Lane::new(bounds());
    let first = old.one(named("one", None, add("a/x", 5))).expect("done");
    let before = ImportedIds::new(old.stored.packs.clone()).expect("what was stored");
    let before = Arc::new(before);
    let mut lane = arrived(&[&old], Some(before.clone()));
    lane.now += HORIZON / 2;
    let operation = add("a/y", 1);
    lane.one(Request {
        id: None,
        operation,
    })
    .expect("done");
    lane.restart();
    lane.state = lane
        .stored
        .load(bounds())
        .moved_here(hasher(), Some(before));
    lane.now += HORIZON - SKEW;
    let again = lane.one(named("one", None, add("a/x", 5)));
    assert_eq!(again, Ok((first.0, first.1, true)));
}

type Messages = Vec<Vec<(u8, i8)>>;

fn increments<'a>(message: impl IntoIterator<Item = &'a (u8, i8)>) -> Increments {
    let mut increments = Increments::default();
    for (group, delta) in message {
        increments.push(&format!("{group}/x"), (*delta).into(), Limits::default());
    }
    increments
}

fn record(sequence: u64, follows: Predecessor, increments: Increments) -> Request {
    Request {
        id: None,
        operation: Operation::Record(Record {
            session: "meter-7".into(),
            time: START,
            sequence,
            acknowledged: 0,
            follows,
            contents: hasher().message(&increments),
            increments,
        }),
    }
}

/// The parts of the messages for one lane, each with its message's number.
fn parts(messages: &Messages, lane: u32) -> Vec<(u64, Request)> {
    let of = |group: u8| hasher().lane(&group.to_string(), LANES);
    let mut previous = None;
    let mut parts = Vec::new();
    for (sequence, message) in (1..).zip(messages) {
        let mut lanes: Vec<_> = message.iter().map(|(group, _)| of(*group)).collect();
        let here = message.iter().filter(|(group, _)| of(*group) == lane);
        let indices = (0..).zip(&lanes).filter(|(_, of)| **of == lane);
        let indices: Vec<u32> = indices.map(|(index, _)| index).collect();
        let increments = increments(here);
        if increments.is_empty() {
            continue;
        }
        lanes.sort_unstable();
        lanes.dedup();
        let part = Part {
            previous: previous.replace(sequence),
            parts: u32::try_from(lanes.len()).expect("few"),
            above: None,
            whole: 0,
            indices: if lanes.len() == 1 {
                Vec::new()
            } else {
                indices
            },
        };
        parts.push((
            sequence,
            record(sequence, Predecessor::InLane(part), increments),
        ));
    }
    parts
}

proptest! {
    /// However far each lane has come with a session, it goes on after a move to one lane, or to several. Each message
    /// is applied once, and none is skipped.
    #[test]
    fn a_torn_session_is_completed(
        messages in prop::collection::vec(prop::collection::vec((0..8_u8, any::<i8>()), 1..6), 1..8),
        reached in prop::collection::vec(0..8_usize, LANES as usize),
    ) {
        let id: SessionId = "meter-7".into();
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for (group, delta) in messages.iter().flatten() {
            *expected.entry(format!("{group}/x")).or_default() += i64::from(*delta);
        }
        let mut lanes: Vec<Lane> = (0..LANES).map(|_| Lane::new(bounds())).collect();
        for ((number, lane), reached) in (0..).zip(&mut lanes).zip(reached) {
            for (_, part) in parts(&messages, number).into_iter().take(reached) {
                lane.one(part).expect("in order");
            }
        }
        let row = |(number, lane): (u32, &Lane)| {
            let row = lane.stored.sessions.get(&id)?;
            Some((number, Session::decode(row).expect("what was stored")))
        };
        let rows: Vec<_> = (0..).zip(&lanes).filter_map(row).collect();
        let whole = Session::merge_shards(&rows, LANES, START);

        // In one lane, with a client that confirms nothing.
        let all: Vec<_> = lanes.iter().collect();
        let mut one = arrived(&all, None);
        one.stored.sessions.insert(id.clone(), whole.encode());
        one.state = one.stored.load(bounds()).moved_here(hasher(), None);
        for (sequence, message) in (1..).zip(&messages) {
            let request = record(sequence, Predecessor::TheOneBefore, increments(message));
            prop_assert!(one.one(request).is_ok());
        }
        // In several lanes again. Messages that are applied as a whole are answered before they reach the lanes.
        let mut spread: Vec<_> = lanes.iter().map(|lane| arrived(&[lane], None)).collect();
        for (number, row) in whole.split_by_lane(&id, hasher(), LANES, START) {
            let lane = &mut spread[number as usize];
            lane.stored.sessions.insert(id.clone(), row.encode());
            lane.state = lane.stored.load(bounds()).moved_here(hasher(), None);
        }
        let moved = whole.moved_up_to();
        for (number, lane) in (0..).zip(&mut spread) {
            for (sequence, mut part) in parts(&messages, number) {
                if sequence <= moved {
                    continue;
                }
                // A stream does not know the messages that it never received.
                if let Operation::Record(Record { follows: Predecessor::InLane(part), .. }) = &mut part.operation {
                    part.previous = part.previous.filter(|previous| *previous > moved);
                }
                prop_assert!(lane.one(part).is_ok());
            }
        }
        let found = |lanes: &[Lane]| -> BTreeMap<String, i64> {
            let names = lanes.iter().flat_map(|lane| lane.stored.counters.keys());
            let value = |name: &Arc<str>| lanes.iter().map(|lane| lane.value(name)).sum();
            names.map(|name| (name.to_string(), value(name))).collect()
        };
        prop_assert_eq!(&found(&[one]), &expected);
        prop_assert_eq!(&found(&spread), &expected);
    }
}

/// A message that is completed after a move is answered with all its failures in order, including those from before.
#[test]
fn failures_from_elsewhere_are_answered() {
    let lane_of = |group: &str| hasher().lane(group, LANES);
    let here = "here";
    let there = ["a", "b", "c", "d", "e", "f", "g"];
    let there = there
        .into_iter()
        .find(|group| lane_of(group) != lane_of(here));
    let there = there.expect("not all are in one lane");
    let mut increments = Increments::default();
    for (group, delta) in [(there, 1), (here, i64::MAX), (here, 1), (there, 1)] {
        increments.push(&format!("{group}/x"), delta, Limits::default());
    }
    let failed = |index, value| {
        let refusal = LimitError::OutOfRange { value, delta: 1 };
        (1, FailedIncrement { index, refusal })
    };
    let mut row = Session::default();
    let part = Message {
        sequence: 1,
        contents: 7,
        parts: 2,
    };
    row.advance(part, &[failed(0, 5), failed(3, 5)]);
    let whole = Session::merge_shards(&[(lane_of(there), row)], LANES, START);
    let mut lane = Lane::new(bounds());
    let id = SessionId::from("meter-7");
    lane.stored.sessions.insert(id, whole.encode());
    lane.state = lane.stored.load(bounds()).moved_here(hasher(), None);
    let (done, ..) = lane
        .one(record(1, Predecessor::TheOneBefore, increments))
        .expect("in order");
    let expected = Effect::Recorded {
        acknowledged: 1,
        failures: vec![failed(0, 5), failed(2, i64::MAX), failed(3, 5)],
    };
    assert_eq!(done, expected);
    assert_eq!(lane.value(&format!("{there}/x")), 0, "it was tried there");
}
