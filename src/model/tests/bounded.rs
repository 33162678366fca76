//! Memory accounting, and the retry delay when memory is full.

use super::*;

/// If one batch takes all memory, the retry delay is the time until that batch is forgotten.
#[test]
fn room_is_told_where_one_batch_takes_it_all() {
    let mut lane = Lane::new(Bounds {
        id_bytes: 4096,
        ..bounds()
    });
    let ids = (0..1000).map(|id| named(&id.to_string(), None, add("g/0", 1)));
    let answers = lane.batch(ids.collect());
    let full = answers.into_iter().find_map(|answer| match answer {
        Err(Rejection::Full { retry_in, .. }) => Some(retry_in),
        _ => None,
    });
    assert_eq!(full, Some(HORIZON + SKEW));
    lane.now += HORIZON + SKEW + 1;
    let next = lane.one(named("next", None, add("g/0", 1)));
    next.expect("there is room again");
}

/// A batch counts the rows that it changes, with their names.
#[test]
fn a_batch_weighs_its_rows() {
    let weigh = |count| {
        let mut state = Stored::default().load(bounds());
        state.begin(START, 0);
        for at in 0..count {
            let mut operation = add(&format!("group/{at:020}"), 1);
            let mut missing = Vec::new();
            state.locate(&mut operation, &mut missing);
            for name in missing {
                state.load(name, None);
            }
            let request = Request {
                id: None,
                operation,
            };
            state.apply(&request).expect("it is applied");
        }
        state.bytes()
    };
    assert!(weigh(1) >= 26);
    assert_eq!(weigh(50), 50 * weigh(1));
}

/// A deletion may be forgotten once it is as old as the horizon of ids.
#[test]
fn deletions_are_known_for_as_long_as_ids() {
    let mut state = Stored::default().load(bounds());
    state.load("g/0".into(), Some(7));
    state.begin(START, 3 * HORIZON);
    let operation = Operation::Delete("g/0".into());
    let request = Request {
        id: None,
        operation,
    };
    state.apply(&request).expect("it is deleted");
    let commit = state.commit().expect("something is changed");
    assert_eq!(commit.deletions_up_to, 2 * HORIZON);
}

/// Counters count with their names, and are evicted down to the bound.
#[test]
fn counters_are_let_go_of_down_to_a_bound() {
    const MOST: usize = 64 << 10;
    let mut lane = Lane::new(Bounds {
        counter_bytes: MOST,
        ..bounds()
    });
    let mut make = |name: String| {
        let operation = add(&name, 1);
        lane.one(Request {
            id: None,
            operation,
        })
        .expect("there is room");
        lane.state.counter_bytes()
    };
    for at in 1..=100 {
        assert!(make(format!("g/{at:0250}")) >= 252 * at, "{at}");
    }
    for at in 0..2000 {
        make(format!("h/{at}"));
    }
    lane.state.make_room();
    let left = lane.state.counter_bytes();
    assert!(left <= MOST && left > MOST / 2, "{left}");
}

/// When there is no memory for new sessions, known ones go on in a quarter more.
#[test]
fn known_sessions_go_on_a_while_without_room() {
    const MOST: u64 = 8192;
    const MORE: u64 = MOST + MOST / 4;
    let mut lane = Lane::new(Bounds {
        id_bytes: 8192,
        ..bounds()
    });
    lane.one(message(1, 0, &[("g/0", 1)], START))
        .expect("there is room");
    let mut number = 0;
    let full = loop {
        number += 1;
        match lane.one(named(&format!("{number:0100}"), None, add("g/0", 1))) {
            Ok(_) => {}
            Err(refused) => break refused,
        }
    };
    assert!(
        matches!(
            full,
            Rejection::Full {
                max_bytes: MOST,
                ..
            }
        ),
        "{full:?}"
    );
    let mut sequence = 1;
    let full = loop {
        sequence += 1;
        // Failures take memory.
        match lane.one(message(sequence, 0, &[("g/0", i64::MAX); 8], START)) {
            Ok(_) => {}
            Err(refused) => break refused,
        }
    };
    assert!(sequence > 2, "it went on");
    assert!(
        matches!(
            full,
            Rejection::Full {
                max_bytes: MORE,
                ..
            }
        ),
        "{full:?}"
    );
}

/// A client that does not confirm failures is stopped at a bound, and goes on once it confirms them.
#[test]
fn failures_that_nobody_acknowledges_are_bounded() {
    let mut lane = Lane::new(bounds());
    let failing = vec![("g/0", i64::MAX); MAX_FAILURES + 2];
    lane.one(message(1, 0, &failing, START)).expect("in order");
    let refused = lane.one(message(2, 0, &[("g/1", 1)], START));
    let failures = MAX_FAILURES + 1;
    assert_eq!(refused, Err(Rejection::FailuresUnacknowledged { failures }));
    assert_eq!(lane.value("g/1"), 0);
    let known = lane.one(message(2, 1, &[("g/1", 1)], START));
    known.expect("it may go on");
    // Exactly the maximum is allowed.
    let failing = vec![("g/0", i64::MAX); MAX_FAILURES];
    lane.one(message(3, 1, &failing, START)).expect("in order");
    let last = lane.one(message(4, 1, &[("g/1", 1)], START));
    last.expect("there is room for more");
}

/// A session counts for at least as much memory as its encoded bytes, even if most of it was applied in another store.
#[test]
fn a_session_is_counted_with_all_that_it_has() {
    let mut row = Lane::new(bounds());
    let follows = |previous| {
        Predecessor::InLane(Part {
            previous,
            // The other part never arrives.
            parts: 2,
            above: None,
            whole: 0,
            indices: vec![0, 2],
        })
    };
    let mut previous = None;
    for sequence in 1..=SESSION_WINDOW {
        let mut increments = Increments::default();
        increments.push("g/0", i64::MAX, Limits::default());
        increments.push("g/0", i64::MAX, Limits::default());
        let record = Record {
            session: "meter-7".into(),
            time: START,
            sequence,
            acknowledged: 0,
            follows: follows(previous.replace(sequence)),
            contents: hasher().message(&increments),
            increments,
        };
        let operation = Operation::Record(record);
        row.one(Request {
            id: None,
            operation,
        })
        .expect("in order");
    }
    let row = &row.stored.sessions[&SessionId::from("meter-7")];
    let row = Session::decode(row).expect("what was stored");
    let whole = Session::merge_shards(&[(1, row)], 4, START);
    let encoded = whole.encode().len();
    assert!(encoded > 8 * 1024, "{encoded}");
    assert!(whole.bytes() >= encoded, "{} for {encoded}", whole.bytes());
}

/// Sessions that are due together are forgotten in several batches, each of which fits into a store. The remaining ones
/// are still known, and forgotten ones never begin again.
#[test]
fn many_sessions_are_forgotten_a_batch_at_a_time() {
    const SESSIONS: usize = 5_000;
    // The smallest batch limit of a store.
    const MOST: usize = 768 << 10;
    let mut lane = Lane::new(Bounds {
        id_bytes: 64 << 20,
        ..bounds()
    });
    let begun = lane.now;
    let id = |at: usize| format!("{at:0128}");
    for first in (0..SESSIONS).step_by(500) {
        let some = (first..first + 500).map(|at| message_of(&id(at), 1, 0, &[("g/0", 1)], begun));
        for answer in lane.batch(some.collect()) {
            answer.expect("there is room");
        }
        lane.now += 1;
    }
    lane.now += bounds().session_horizon + SKEW;
    let mut batches = 0;
    while !lane.stored.sessions.is_empty() {
        lane.state.begin(lane.now, lane.ticks() - lane.started);
        // A batch that begins again forgets no more.
        lane.state.begin(lane.now, lane.ticks() - lane.started);
        assert!(lane.state.bytes() < MOST / 2, "{}", lane.state.bytes());
        let commit = lane.state.commit().expect("something is due");
        if batches == 1 {
            // The batch is not stored, and is due again at the next sweep.
            lane.state.undo(&commit);
            lane.now += lane.state.due_in().expect("more is due");
            batches += 1;
            continue;
        }
        let horizon = commit.session_horizon;
        let mut forgotten = 0;
        for (session, change) in &commit.changes.sessions {
            assert!(change.after.is_none());
            let row = Session::decode(&lane.stored.sessions[session]).expect("what was stored");
            assert!(row.used <= horizon, "{} after {horizon}", row.used);
            forgotten += 1;
        }
        assert!((1..SESSIONS / 2).contains(&forgotten), "{forgotten}");
        let base = lane.stored.commit(&commit);
        lane.state.committed(&commit, base);
        batches += 1;
        if let Some(left) = lane.stored.sessions.keys().next().cloned() {
            assert_eq!(lane.state.due_in(), Some(0), "the rest is due");
            // It is remembered, or is forgotten with this batch.
            match lane.one(message_of(&left, 1, 0, &[("g/0", 1)], begun)) {
                Ok((_, _, replayed)) => assert!(replayed),
                Err(refused) => assert!(matches!(refused, Rejection::TooOld { .. })),
            }
        }
        assert!(batches < 10, "it goes on and on");
    }
    assert_eq!(lane.state.due_in(), None);
    let again = lane.one(message_of(&id(0), 1, 0, &[("g/0", 1)], begun));
    assert!(matches!(again, Err(Rejection::TooOld { .. })), "{again:?}");
    assert_eq!(lane.value("g/0"), 5_000);
}

/// An idle lane says when something is due, and an empty batch then frees the memory.
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
    assert!(matches!(again, Err(Rejection::TooOld { .. })), "{again:?}");
}

/// Forgetting ids frees exactly the memory that they took.
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
            Err(Rejection::Full { retry_in, .. }) => break retry_in,
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

/// Begins sessions, a second apart, until the memory is full. Returns their number and the retry delay.
fn fill_with_sessions(lane: &mut Lane) -> (Millis, Millis) {
    for taken in 0.. {
        lane.now += 1000;
        let first = message_of(&taken.to_string(), 1, 0, &[("g/0", 1)], lane.now);
        match lane.one(first) {
            Ok(_) => {}
            Err(Rejection::Full { retry_in, .. }) => return (taken, retry_in),
            Err(other) => panic!("{other:?}"),
        }
    }
    unreachable!("memory is bounded")
}

/// If sessions take all memory, the retry delay is the time until the first one is forgotten; ids do not matter.
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

    // A session in use stays remembered.
    let goes_on = message_of("0", 2, 1, &[("g/0", 1)], begun);
    lane.now += SKEW;
    lane.one(goes_on).expect("it is known");
    lane.now += SKEW;
    let next = |lane: &mut Lane| lane.one(message_of("next", 1, 0, &[("g/0", 1)], lane.now));
    let Err(Rejection::Full { retry_in, .. }) = next(&mut lane) else {
        panic!("there is no room yet");
    };
    assert_eq!(lane.now + retry_in, begun + 1000 + 3 * HORIZON + SKEW);
    lane.now += retry_in;
    next(&mut lane).expect("there is room again");
    assert_eq!(lane.value("g/0"), taken + 2);
}

/// Ids that are forgotten before any session make room for sessions, too. No retry delay is longer than an hour.
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

    // Setting the wall clock does not shorten it.
    lane.set_clock(retry_in);
    let refused = lane.one(named("b", None, add("g/0", 1)));
    let Err(Rejection::Full { retry_in, .. }) = refused else {
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
