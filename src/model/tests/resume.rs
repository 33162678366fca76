//! Sessions of several lanes that forget independently: a message counts once in each lane, however late it is resent.

use std::collections::BTreeSet;

use super::*;

const LANES: usize = 3;

/// A client of a session, its streams, and the lanes. The messages of a stream reach the lanes in order, or not at all.
struct World {
    lanes: Vec<Lane>,
    begun: Millis,
    /// The lanes that each message has a part in, from the first message.
    messages: Vec<BTreeSet<usize>>,
    acknowledged: u64,
    stream: Option<Stream>,
    /// The applied parts, as message and lane.
    applied: BTreeSet<(u64, usize)>,
}

struct Stream {
    resumed: Resumed,
    /// The last message that it has received.
    last: u64,
}

impl World {
    fn new() -> Self {
        let bounds = Bounds {
            session_horizon: HORIZON,
            ..bounds()
        };
        Self {
            lanes: (0..LANES).map(|_| Lane::new(bounds)).collect(),
            begun: START,
            messages: Vec::new(),
            acknowledged: 0,
            stream: None,
            applied: BTreeSet::new(),
        }
    }

    fn now(&self) -> Millis {
        self.lanes[0].now
    }

    fn wait(&mut self, time: Millis) {
        for lane in &mut self.lanes {
            lane.now += time;
            // Other clients keep the lane in use.
            lane.one(named(&lane.now.to_string(), None, add("other/0", 1)))
                .expect("counted");
        }
    }

    fn rows(&self) -> Vec<Session> {
        let rows = self.lanes.iter();
        let rows = rows.filter_map(|lane| lane.stored.sessions.get("meter-7"));
        rows.map(|row| Session::decode(row).expect("a session"))
            .collect()
    }

    /// The current state of the session.
    fn look(&self) -> Resumed {
        let horizon = self
            .lanes
            .iter()
            .map(|lane| lane.stored.head.session_horizon);
        let horizon = horizon.max().expect("some");
        let resumed = Resumed::new(&self.rows(), self.begun, self.now(), horizon, HORIZON);
        resumed.expect("its time is not ahead")
    }

    /// Begins another stream.
    fn resume(&mut self) {
        let resumed = self.look();
        if self.acknowledged <= resumed.applied {
            self.acknowledged = resumed.applied;
            let last = resumed.applied;
            self.stream = Some(Stream { resumed, last });
        }
    }

    /// Sends a message, new or resent, to those of its lanes that it reaches. Returns their answers.
    fn send(&mut self, sequence: u64, reaches: impl Fn(usize) -> bool) -> Vec<Known> {
        let now = self.now();
        let is_old = |stream: &Stream| stream.resumed.is_old(now, HORIZON);
        if self.stream.as_ref().is_some_and(is_old) {
            let resumed = self.look();
            self.stream.as_mut().expect("there is one").resumed = resumed;
        }
        let Some(stream) = &mut self.stream else {
            return Vec::new();
        };
        assert!(sequence <= stream.last + 1, "in order");
        let is_first = sequence > stream.last;
        let bound = stream.resumed.bound(sequence, is_first, now);
        stream.last = stream.last.max(sequence);
        let of_it = self.messages[usize::try_from(sequence - 1).expect("few")].clone();
        let mut answers = Vec::new();
        for &lane in of_it.iter().filter(|lane| reaches(**lane)) {
            let before = self.acknowledged + 1..sequence;
            let has_part = |at: &u64| {
                let at = usize::try_from(at - 1).expect("few");
                self.messages[at].contains(&lane)
            };
            let previous = before.rev().find(has_part);
            let mut request = message(sequence, self.acknowledged, &[("g/0", 1)], bound.time);
            if let Operation::Record(record) = &mut request.operation {
                record.follows = Predecessor::InLane(Part {
                    previous,
                    parts: u32::try_from(of_it.len()).expect("few"),
                    above: Some(bound.above),
                    whole: 0,
                    indices: Vec::new(),
                });
            }
            let answer = self.lanes[lane].one(request);
            if matches!(answer, Ok((_, _, false))) {
                let is_new = self.applied.insert((sequence, lane));
                assert!(is_new, "message {sequence} is counted twice in lane {lane}");
            }
            answers.push(answer);
        }
        answers
    }

    fn check(&self) {
        for (at, lane) in self.lanes.iter().enumerate() {
            let here = self.applied.iter().filter(|(_, lane)| *lane == at).count();
            assert_eq!(lane.value("g/0"), i64::try_from(here).expect("few"));
        }
    }
}

type Known = Result<(Effect, i64, bool), Rejection>;

#[derive(Clone, Debug)]
enum Step {
    /// A new message for these lanes, and the bits of those that it reaches.
    New(BTreeSet<usize>, u8),
    /// A resent message, counted back from the last one, and the bits of the lanes that it reaches.
    Again(u64, u8),
    Resume,
    /// The client learns which messages are applied.
    Acknowledge,
    Wait(Millis),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let lanes = prop::collection::btree_set(0..LANES, 1..=LANES);
    prop_oneof![
        5 => (lanes, any::<u8>()).prop_map(|(lanes, reaches)| Step::New(lanes, reaches)),
        5 => (0u64..4, any::<u8>()).prop_map(|(behind, reaches)| Step::Again(behind, reaches)),
        3 => Just(Step::Resume),
        1 => Just(Step::Acknowledge),
        2 => (0..HORIZON).prop_map(Step::Wait),
        1 => (HORIZON..3 * HORIZON).prop_map(Step::Wait),
        1 => (0..LANES).prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    /// Lanes forget the session independently. No part is applied twice, whichever parts get through, whenever streams
    /// break, and however late a message is resent.
    #[test]
    fn parts_count_once_although_lanes_forget(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        world.resume();
        for step in steps {
            match step {
                Step::New(lanes, reaches) => {
                    let last = world.stream.as_ref().map_or(u64::MAX, |stream| stream.last);
                    let sequence = world.messages.len() as u64 + 1;
                    if last + 1 == sequence && sequence <= world.acknowledged + 200 {
                        world.messages.push(lanes);
                        world.send(sequence, |lane| reaches & (1 << lane) != 0);
                    }
                }
                Step::Again(behind, reaches) => {
                    let last = world.stream.as_ref().map_or(0, |stream| stream.last);
                    let next = last + 1;
                    // The next message, or one that the stream has received already.
                    let sequence = if behind == 0 { next } else { (last + 1).saturating_sub(behind) };
                    let is_one = sequence > world.acknowledged && sequence <= world.messages.len() as u64;
                    if is_one {
                        world.send(sequence, |lane| reaches & (1 << lane) != 0);
                    }
                }
                Step::Resume => world.resume(),
                Step::Acknowledge => {
                    let applied = Session::merge(&world.rows()).0;
                    world.acknowledged = world.acknowledged.max(applied);
                }
                Step::Wait(time) => world.wait(time),
                Step::Restart(lane) => world.lanes[lane].restart(),
            }
            world.check();
        }
    }
}

/// A part is refused if its lane has forgotten the session, even if another lane has used it meanwhile.
#[test]
fn a_part_is_not_counted_again_when_its_lane_has_forgotten() {
    let mut world = World::new();
    world.messages = vec![[0].into(), [1].into()];
    world.resume();
    // Message 1 does not get through, message 2 does; the stream breaks.
    world.send(1, |_| false);
    world.send(2, |_| true);
    // Another stream gets message 1 through, and breaks before message 2 is sent again.
    world.wait(HORIZON * 9 / 10);
    world.resume();
    world.send(1, |_| true);
    // The second lane forgets the session, which it used only at the beginning.
    world.wait(HORIZON * 2 / 10 + SKEW);
    assert!(world.lanes[1].stored.sessions.is_empty());
    world.resume();
    assert_eq!(world.acknowledged, 1);
    let again = world.send(2, |_| true);
    assert!(
        matches!(again[..], [Err(Rejection::TooOld { .. })]),
        "{again:?}"
    );
    world.check();
}

/// A session in use goes on for many horizons, on one stream and on successive ones, even in a lane that it reaches
/// late or seldom.
#[test]
fn a_session_that_is_used_goes_on() {
    for streams in [1, 3, 30] {
        let mut world = World::new();
        world.resume();
        for round in 0..30 {
            for of in 0..20u64 {
                let sequence = world.messages.len() as u64 + 1;
                let lane = usize::from(round % 10 == 9 && of == 7);
                world.messages.push([lane].into());
                let answers = world.send(sequence, |_| true);
                assert!(matches!(answers[..], [Ok(_)]), "{sequence}: {answers:?}");
                world.acknowledged = sequence;
            }
            world.wait(HORIZON / 2);
            if round % (30 / streams) == 0 {
                world.resume();
            }
        }
        world.check();
        assert_eq!(world.applied.len(), 600);
    }
}

/// The window is a limit of the row, whoever sends: a row with more messages could not be decoded.
#[test]
fn no_more_messages_than_a_window_are_taken() {
    let mut lane = Lane::new(bounds());
    let mut send = |sequence: u64, acknowledged| {
        let mut request = message(sequence, acknowledged, &[("g/0", 1)], START);
        if let Operation::Record(record) = &mut request.operation {
            record.follows = Predecessor::InLane(Part {
                previous: sequence
                    .checked_sub(1)
                    .filter(|before| *before > acknowledged),
                parts: 1,
                above: None,
                whole: 0,
                indices: Vec::new(),
            });
        }
        let answer = lane.one(request);
        let row = lane.stored.sessions.get("meter-7");
        let row = row.map(|row| Session::decode(row).map(|_| ()));
        assert!(row.is_none_or(|row| row.is_ok()), "it can be read back");
        answer
    };
    for sequence in 1..=SESSION_WINDOW {
        send(sequence, 0).expect("within the window");
    }
    let refused = send(SESSION_WINDOW + 1, 0);
    assert_eq!(refused, Err(Rejection::BeyondWindow { acknowledged: 0 }));
    send(SESSION_WINDOW + 1, 1).expect("within it again");
}
