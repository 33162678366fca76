//! The accounting of memory, and the hint when there will be more.

use super::*;

/// If one batch takes all memory, the hint is the time until that batch is forgotten.
#[test]
fn room_is_told_where_one_batch_takes_it_all() {
    let mut lane = Lane::new(Bounds {
        id_bytes: 4096,
        ..bounds()
    });
    let ids = (0..1000).map(|id| named(&id.to_string(), None, add("g/0", 1)));
    let answers = lane.batch(ids.collect());
    let full = answers.into_iter().find_map(|answer| match answer {
        Err(Refused::Full { retry_in, .. }) => Some(retry_in),
        _ => None,
    });
    assert_eq!(full, Some(HORIZON + SKEW));
    lane.now += HORIZON + SKEW + 1;
    let next = lane.one(named("next", None, add("g/0", 1)));
    next.expect("there is room again");
}

/// A session counts for at least as much memory as its encoded bytes, also if most of it was applied elsewhere.
#[test]
fn a_session_is_counted_with_all_that_it_has() {
    let mut row = Lane::new(bounds());
    let follows = |previous| {
        Follows::InLane(Part {
            previous,
            // The other part never came.
            parts: 2,
            above: None,
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
            contents: digests().message(&increments),
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
    let whole = Session::gather(&[(1, row)], 4, START);
    let encoded = whole.encode().len();
    assert!(encoded > 8 * 1024, "{encoded}");
    assert!(whole.bytes() >= encoded, "{} for {encoded}", whole.bytes());
}

/// Sessions that are due all at once are forgotten in as many batches as fit into a store. Those that are still there need no
/// horizon, and those that are forgotten are never begun again.
#[test]
fn many_sessions_are_forgotten_a_batch_at_a_time() {
    const SESSIONS: usize = 5_000;
    // The smallest batch that a store takes.
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
        // Nothing more comes with a batch that is begun again.
        lane.state.begin(lane.now, lane.ticks() - lane.started);
        assert!(lane.state.bytes() < MOST / 2, "{}", lane.state.bytes());
        let commit = lane.state.commit().expect("something is due");
        if batches == 1 {
            // It was not stored, and is due again at the next look.
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
            // It is remembered, or forgotten with this batch.
            match lane.one(message_of(&left, 1, 0, &[("g/0", 1)], begun)) {
                Ok((_, _, replayed)) => assert!(replayed),
                Err(refused) => assert!(matches!(refused, Refused::TooOld { .. })),
            }
        }
        assert!(batches < 10, "it goes on and on");
    }
    assert_eq!(lane.state.due_in(), None);
    let again = lane.one(message_of(&id(0), 1, 0, &[("g/0", 1)], begun));
    assert!(matches!(again, Err(Refused::TooOld { .. })), "{again:?}");
    assert_eq!(lane.value("g/0"), 5_000);
}
