//! Wall clocks that are wrong, are set, or jump.

use super::*;

/// A request of a client, maybe a repeated one, or an event of clocks and the server.
#[derive(Clone, Debug)]
enum Turn {
    /// Counts under an id, with or without a time.
    Ask { id: u8, with_time: bool },
    /// Counts the first message of a session.
    Begin { session: u8 },
    /// Time passes.
    Wait(Millis),
    /// The clocks of the server, and of clients beside it, are now this far ahead of the true time.
    Clock(Millis),
    /// The server restarts.
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

    /// Clocks jump forward and back, while the server runs and while it does not. A request with a time counts only
    /// once, and an id without one is remembered for the horizon, through any number of restarts.
    #[test]
    fn clocks_that_jump_count_nothing_twice(turns in prop::collection::vec(turn(), 1..100)) {
        let mut lane = Lane::new(Bounds { session_horizon: HORIZON, ..bounds() });
        let mut counted = 0;
        // The times at which ids were made: by a correct clock for some, and by the server's for others.
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
                Err(Rejection::TooOld { .. } | Rejection::FromFuture { .. }) => prop_assert!(with_time),
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
    assert!(matches!(refused, Rejection::TooOld { .. }), "{refused:?}");
    // Neither a clock that is set back nor a restart brings the id back.
    lane.now = time;
    lane.restart();
    assert!(matches!(ask(&mut lane), Err(Rejection::TooOld { .. })));
    assert_eq!(lane.value("g/0"), 2);
}

/// A clock that is set forward ages no id.
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

/// A clock that is ahead makes ids of the true time too old only while it is ahead. Ids that are not forgotten
/// meanwhile move no horizon, even after more batches and a restart.
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
        matches!(refused, Err(Rejection::TooOld { .. })),
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
    // The ids that were counted meanwhile are forgotten when they are due.
    lane.now += HORIZON + SKEW;
    lane.one(named("later", None, add("g/0", 1))).unwrap();
    assert_eq!(lane.stored.packs.len(), 1);
}

/// An id without a time is remembered although the clock is set forward by less than a day, one batch is committed, and
/// the lane is loaded again, as on another node or after a restart.
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

/// A restart ages no id, by any clock, since nobody knows how long it took.
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

/// An id from a client whose clock is ahead is remembered until it is too old.
#[test]
fn an_id_from_the_future_is_remembered_until_it_is_too_old() {
    let mut lane = Lane::new(bounds());
    let start = lane.now;
    let far = lane.one(named("far", Some(start + SKEW + 1), add("g/0", 1)));
    assert!(matches!(far, Err(Rejection::FromFuture { .. })));
    let ask = |lane: &mut Lane| lane.one(named("near", Some(start + SKEW), add("g/0", 1)));
    ask(&mut lane).unwrap();
    for _ in 0..40 {
        lane.now += HORIZON / 20;
        match ask(&mut lane) {
            Ok((_, _, replayed)) => assert!(replayed),
            Err(refused) => assert!(matches!(refused, Rejection::TooOld { .. })),
        }
        lane.one(named(&lane.now.to_string(), None, add("g/1", 1)))
            .unwrap();
    }
    assert_eq!(lane.value("g/0"), 1);
}
