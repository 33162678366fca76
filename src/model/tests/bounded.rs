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
