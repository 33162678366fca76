//! Sessions of one lane.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A client resends from its last acknowledgement after every break, and the server crashes. Every message counts
    /// once, whatever was lost.
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
                    Ok((Effect::Recorded { acknowledged: now, failures }, ..)) => {
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

#[test]
fn a_message_is_applied_on_top_of_the_one_before_it_only() {
    let mut lane = Lane::new(bounds());
    let time = lane.now;
    let mut ask = |sequence, acknowledged, delta| {
        lane.one(message(sequence, acknowledged, &[("g/0", delta)], time))
            .map(|(done, _, replayed)| (done, replayed))
    };
    assert_eq!(ask(2, 0, 1).unwrap_err(), Rejection::Gap { expected: 1 });
    assert_eq!(
        ask(1, 1, 1).unwrap_err(),
        Rejection::SessionLost { acknowledged: 0 }
    );
    assert!(!ask(1, 0, 1).unwrap().1);
    assert!(ask(1, 0, 1).unwrap().1, "a repeat");
    assert_eq!(ask(1, 0, 2).unwrap_err(), Rejection::IdReused);
    assert!(!ask(2, 1, 1).unwrap().1);
    let known = Rejection::Acknowledged { acknowledged: 1 };
    assert_eq!(ask(1, 0, 1).unwrap_err(), known);
    assert_eq!(ask(4, 1, 1).unwrap_err(), Rejection::Gap { expected: 3 });
    assert_eq!(lane.value("g/0"), 2);
}

/// Failures are answered again until the client confirms them, even after a restart of the lane.
#[test]
fn failures_of_a_session_are_kept_until_they_are_known() {
    let mut lane = Lane::new(bounds());
    let time = lane.now;
    let deltas = [("g/0", i64::MAX), ("g/0", 1), ("g/1", 1)];
    let (first, ..) = lane.one(message(1, 0, &deltas, time)).unwrap();
    let refusal = LimitError::OutOfRange {
        value: i64::MAX,
        delta: 1,
    };
    let failures = vec![(1, FailedIncrement { index: 1, refusal })];
    assert_eq!(
        first,
        Effect::Recorded {
            acknowledged: 1,
            failures
        }
    );
    assert_eq!(lane.value("g/1"), 1, "the others are applied");
    lane.restart();
    let ask_only = |lane: &mut Lane, known| lane.one(message(0, known, &[], time)).unwrap().0;
    assert_eq!(ask_only(&mut lane, 0), first);
    let none = Effect::Recorded {
        acknowledged: 1,
        failures: vec![],
    };
    assert_eq!(ask_only(&mut lane, 1), none);
}

/// Only the clock decides whether a session is too old to begin, if nothing newer was forgotten.
#[test]
fn a_session_begins_within_the_horizon() {
    let mut lane = Lane::new(bounds());
    let horizon = lane.now - bounds().session_horizon;
    let refused = lane.one(message(1, 0, &[("g/0", 1)], horizon));
    assert!(
        matches!(refused, Err(Rejection::TooOld { horizon: at, .. }) if at == horizon),
        "{refused:?}"
    );
    let begun = lane.one(message(1, 0, &[("g/0", 1)], horizon + 1));
    begun.expect("it is within the horizon");
    assert_eq!(lane.value("g/0"), 1);
}

/// A whole message has its session's time, which must not be ahead of the clock. The time of a part is only a lower
/// bound, so a fast clock of the sending node is no reason to refuse the part.
#[test]
fn a_part_is_not_refused_for_a_clock_that_is_ahead() {
    let mut lane = Lane::new(bounds());
    let time = lane.now + 10 * SKEW;
    let mut request = message(1, 0, &[("g/0", 1)], time);
    let refused = lane.one(message(1, 0, &[("g/0", 1)], time));
    assert!(
        matches!(refused, Err(Rejection::FromFuture { .. })),
        "{refused:?}"
    );
    if let Operation::Record(record) = &mut request.operation {
        record.follows = Predecessor::InLane(Part {
            previous: None,
            parts: 1,
            above: None,
            whole: 0,
            indices: Vec::new(),
        });
    }
    lane.one(request).expect("it is of no time before");
    assert_eq!(lane.value("g/0"), 1);
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
    assert!(matches!(again, Err(Rejection::TooOld { .. })), "{again:?}");
    assert_eq!(lane.value("g/0"), 1);
}

/// A session is remembered until it is too old, even if its client's clock is ahead, or the server's is set back.
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
                Err(refused) => assert!(matches!(refused, Rejection::TooOld { .. })),
            }
        }
        assert_eq!(lane.value("g/0"), 2);
        assert!(lane.stored.sessions.is_empty());
    }
}

/// Times that are ahead are lowered to the given time, and no others.
#[test]
fn times_that_are_ahead_are_taken_back() {
    let mut session = Session::default();
    session.use_at(10, 3);
    session.keep_bound(Some(LowerBound { above: 0, time: 8 }));
    assert!(!session.take_back(10), "none is ahead");
    assert_eq!(session.used(), 10);
    assert!(session.take_back(9));
    assert_eq!(session.used(), 9);
    assert!(session.take_back(7));
    assert_eq!(session.used(), 7);
    assert!(!session.take_back(7), "none is left");
}

/// A resent message is known for a session's horizon and as long as clocks may be apart.
#[test]
fn a_session_is_remembered_for_its_horizon() {
    let mut lane = Lane::new(bounds());
    lane.one(message(1, 0, &[("g/0", 1)], START)).expect("new");
    lane.now += bounds().session_horizon + SKEW - 1;
    let (_, _, replayed) = lane
        .one(message(1, 0, &[("g/0", 1)], START))
        .expect("it is known");
    assert!(replayed);
}

/// A query without a new confirmation changes nothing, and begins no session.
#[test]
fn asking_changes_nothing() {
    let mut lane = Lane::new(bounds());
    let ask = |lane: &mut Lane, known| {
        lane.now += 1000;
        let (done, ..) = lane.one(message(0, known, &[], START)).expect("asked");
        (done, lane.stored.head.seq)
    };
    let acknowledged = |acknowledged| Effect::Recorded {
        acknowledged,
        failures: vec![],
    };
    assert_eq!(ask(&mut lane, 0), (acknowledged(0), 0));
    assert!(lane.stored.sessions.is_empty());
    lane.one(message(1, 0, &[("g/0", 1)], START)).expect("new");
    let row = lane.stored.sessions.clone();
    assert_eq!(ask(&mut lane, 0), (acknowledged(1), 1));
    assert_eq!(lane.stored.sessions, row, "it is no use of the session");
    assert_eq!(ask(&mut lane, 1), (acknowledged(1), 2));
    assert_ne!(lane.stored.sessions, row, "it is told something new");
    assert_eq!(ask(&mut lane, 1), (acknowledged(1), 2));
}

/// A part of a message, with the time of its bound.
fn part(sequence: u64, acknowledged: u64, previous: Option<u64>, time: Millis) -> Request {
    let mut request = message(sequence, acknowledged, &[("g/0", 1)], time);
    if let Operation::Record(record) = &mut request.operation {
        record.follows = Predecessor::InLane(Part {
            previous,
            parts: 1,
            above: None,
            whole: 0,
            indices: Vec::new(),
        });
    }
    request
}

/// A part of a known session needs no bound until the session was unused for its horizon. Other lanes may then have
/// forgotten it.
#[test]
fn a_session_that_is_used_in_a_lane_needs_no_bound() {
    let mut lane = Lane::new(bounds());
    let horizon = bounds().session_horizon;
    let old = START - 1;
    lane.one(part(1, 0, None, START)).expect("a new one");
    lane.now += horizon - 1;
    lane.one(part(2, 0, Some(1), old)).expect("it is known");
    lane.now += horizon;
    let after = lane.one(part(3, 0, Some(2), old));
    assert!(matches!(after, Err(Rejection::TooOld { .. })), "{after:?}");
    let bound = lane.now;
    lane.one(part(3, 0, Some(2), bound))
        .expect("it was not applied before");
    assert_eq!(lane.value("g/0"), 3);
}

/// A part is taken for new if its bound is a millisecond later than anything that the lane has forgotten.
#[test]
fn a_bound_after_what_is_forgotten_will_do() {
    for (horizon, is_new) in [(START - 1, true), (START, false)] {
        let mut lane = Lane::new(bounds());
        lane.stored.head.session_horizon = horizon;
        lane.restart();
        let said = lane.one(part(1, 0, None, START));
        assert_eq!(said.is_ok(), is_new, "{said:?}");
    }
}

/// A part need not follow one that is known to be applied in all lanes, since its lane may have forgotten it. It must
/// follow any other.
#[test]
fn a_part_follows_what_may_not_be_applied() {
    let mut lane = Lane::new(bounds());
    let overtaken = lane.one(part(4, 2, Some(3), START));
    assert_eq!(overtaken, Err(Rejection::Overtaken { applied: 0 }));
    lane.one(part(4, 3, Some(3), START))
        .expect("message 3 is acknowledged");
    let overtaken = lane.one(part(6, 3, Some(5), START));
    assert_eq!(overtaken, Err(Rejection::Overtaken { applied: 4 }));
    lane.one(part(6, 3, Some(4), START)).expect("in order");
}
