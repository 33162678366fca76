//! Several nodes with one lane: a node that is behind is refused, catches up and decides again.

use super::histories::{Step, What, operation, step};
use super::*;

/// A store that keeps all batches, for nodes that are behind.
#[derive(Clone, Default)]
struct Shared {
    stored: Stored,
    log: Vec<Batch>,
}

struct Node {
    state: State,
    started: Millis,
}

impl Shared {
    fn commit(&mut self, commit: &Commit) -> Option<i64> {
        if commit.seq != self.stored.head.seq + 1 {
            return None;
        }
        let base = self.stored.commit(commit);
        let sessions = commit.changes.sessions.iter();
        let counters = commit.changes.counters.iter();
        self.log.push(Batch {
            head: self.stored.head,
            pack: Pack {
                seq: commit.seq,
                time: commit.time,
                stamp: commit.stamp,
                base,
                ids: commit.ids.clone(),
            },
            counters: counters.map(|c| (c.name.clone(), c.value)).collect(),
            sessions: sessions
                .map(|(id, change)| (id.clone(), change.after.clone()))
                .collect(),
        });
        Some(base)
    }
}

type Known = Result<(Effect, i64, bool), Rejection>;

impl Node {
    fn new(shared: &Shared, now: Millis) -> Self {
        Self {
            state: shared.stored.load(bounds()),
            started: now,
        }
    }

    /// Replays the batches of other nodes; `false` if there are none.
    fn catch_up(&mut self, shared: &Shared, now: Millis) -> bool {
        let seq = usize::try_from(self.state.head().seq).expect("few");
        for batch in &shared.log[seq..] {
            let taken = self.state.catch_up(batch.clone(), now - self.started);
            taken.expect("it follows");
        }
        seq < shared.log.len()
    }

    fn batch(
        &mut self,
        shared: &mut Shared,
        mut requests: Vec<Request>,
        now: Millis,
    ) -> Vec<Known> {
        loop {
            self.state.make_room();
            let mut missing = Vec::new();
            for request in &mut requests {
                self.state.locate(&mut request.operation, &mut missing);
            }
            for name in missing {
                let row = shared.stored.counters.get(&name);
                self.state.load(name, row.and_then(|(value, _)| *value));
            }
            self.state.begin(now, now - self.started);
            let outcomes: Vec<_> = requests.iter().map(|r| self.state.apply(r)).collect();
            let base = if let Some(commit) = self.state.commit() {
                let Some(base) = shared.commit(&commit) else {
                    self.state.undo(&commit);
                    assert!(self.catch_up(shared, now), "it was refused for a reason");
                    continue;
                };
                self.state.committed(&commit, base);
                base
            } else {
                if self.catch_up(shared, now) {
                    continue;
                }
                self.state.head().revision
            };
            let known = |outcome: Decision| {
                outcome.map(|answer| (answer.done.clone(), answer.revision(base), answer.replayed))
            };
            return outcomes.into_iter().map(known).collect();
        }
    }
}

#[derive(Clone, Debug)]
enum Ask {
    Operation(Option<u8>, What),
    /// A message of a session, new or resent.
    Message(u64),
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        4 => step().prop_filter_map("an operation", |step| match step {
            Step::Ask { id, what } => Some(Ask::Operation(id, what)),
            _ => None,
        }),
        1 => (1u64..6).prop_map(Ask::Message),
    ]
}

fn request(ask: &Ask) -> Request {
    match ask {
        Ask::Operation(None, what) => Request {
            id: None,
            operation: operation(what),
        },
        Ask::Operation(Some(id), what) => named(&id.to_string(), None, operation(what)),
        Ask::Message(sequence) => message(*sequence, 0, &[("g/0", 1), ("g/1", 2)], START),
    }
}

/// A node whose clock is behind may commit to a lane: the lane's time and horizons do not go back.
#[test]
fn a_batch_of_a_clock_that_is_behind_takes_nothing_back() {
    let mut shared = Shared::default();
    let mut ahead = Node::new(&shared, START);
    let add = vec![request(&Ask::Operation(None, What::Add(0, 1, None, false)))];
    ahead.batch(&mut shared, add, START + 20 * HORIZON);
    let before = ahead.state.head();
    // A batch that does not continue from the time of the previous one.
    let mut batch = shared.log.pop().expect("one");
    batch.head.seq += 1;
    batch.head.time = before.time - 1;
    batch.head.horizon = before.horizon - 1;
    batch.head.session_horizon = before.session_horizon - 1;
    batch.pack.ids = [].into();
    batch.counters.clear();
    ahead.state.catch_up(batch, 0).expect("it follows");
    let after = ahead.state.head();
    assert_eq!(
        (after.seq, after.time, after.horizon, after.session_horizon),
        (
            before.seq + 1,
            before.time,
            before.horizon,
            before.session_horizon
        )
    );
}

proptest! {
    /// Whichever nodes execute the batches of a lane, each is answered as if there were one node.
    #[test]
    fn nodes_answer_as_one(
        batches in prop::collection::vec((0usize..3, prop::collection::vec(ask(), 1..5)), 1..30),
    ) {
        let mut shared = Shared::default();
        let mut nodes: Vec<_> = (0..3).map(|_| Node::new(&shared, START)).collect();
        let mut alone = Shared::default();
        let mut only = Node::new(&alone, START);
        for (at, asks) in &batches {
            let requests = || asks.iter().map(request).collect::<Vec<_>>();
            let answers = nodes[*at].batch(&mut shared, requests(), START);
            let expected = only.batch(&mut alone, requests(), START);
            prop_assert_eq!(answers, expected);
            prop_assert_eq!(&shared.stored.counters, &alone.stored.counters);
        }
        // A node that starts later knows the same.
        let mut last = Node::new(&shared, START);
        let all: Vec<_> = (0..6).map(|id| Ask::Operation(Some(id), What::Set(0, 1))).collect();
        let requests = || all.iter().map(request).collect::<Vec<_>>();
        prop_assert_eq!(last.batch(&mut shared, requests(), START), only.batch(&mut alone, requests(), START));
        prop_assert_eq!(last.state.id_bytes(), only.state.id_bytes());
    }
}

fn part(sequence: u64, acknowledged: u64, previous: Option<u64>, parts: u32) -> Request {
    let Request { id, mut operation } = message(sequence, acknowledged, &[("g/0", 1)], START);
    if let Operation::Record(record) = &mut operation {
        record.follows = Predecessor::InLane(Part {
            previous,
            parts,
            above: Some(0),
            whole: 0,
            indices: Vec::new(),
        });
    }
    Request { id, operation }
}

/// A part is only applied on top of its predecessor, or of confirmed messages.
#[test]
fn parts_are_neither_skipped_nor_repeated() {
    let mut lane = Lane::new(bounds());
    let overtaken = |result: Known| {
        assert!(
            matches!(result, Err(Rejection::Overtaken { .. })),
            "{result:?}"
        );
    };
    lane.one(part(2, 0, None, 1)).expect("the first here");
    overtaken(lane.one(part(9, 0, Some(5), 1)));
    lane.one(part(5, 0, Some(2), 1)).expect("the next");
    lane.one(part(9, 0, Some(5), 1)).expect("now it follows");
    let again = lane.one(part(5, 0, Some(2), 1)).expect("the same answer");
    assert!(again.2, "it is replayed");
    overtaken(lane.one(part(12, 4, None, 1)));
    // No part of a confirmed message can be in flight.
    lane.one(part(12, 9, None, 1))
        .expect("it follows what is acknowledged");
    lane.one(part(30, 20, Some(15), 1)).expect("this too");
    assert_eq!(lane.value("g/0"), 5);
    let refused = lane.one(part(15, 3, Some(12), 1));
    assert!(
        matches!(refused, Err(Rejection::Acknowledged { .. })),
        "{refused:?}"
    );
}

/// Messages of a session are acknowledged only if every lane has applied its parts.
#[test]
fn sessions_are_put_together_from_their_lanes() {
    let mut lanes = [Lane::new(bounds()), Lane::new(bounds())];
    let merged = |lanes: &[Lane]| {
        let rows = lanes
            .iter()
            .filter_map(|lane| lane.stored.sessions.get("meter-7"));
        let rows: Vec<_> = rows
            .map(|row| Session::decode(row).expect("a session"))
            .collect();
        Session::merge(&rows).0
    };
    assert_eq!(merged(&lanes), 0);
    lanes[0].one(part(1, 0, None, 1)).expect("all of it");
    lanes[0].one(part(2, 0, Some(1), 2)).expect("half of it");
    assert_eq!(merged(&lanes), 1);
    lanes[0].one(part(3, 0, Some(2), 1)).expect("behind a gap");
    assert_eq!(merged(&lanes), 1);
    lanes[1].one(part(2, 0, None, 2)).expect("the other half");
    assert_eq!(merged(&lanes), 3);
    lanes[1]
        .one(part(4, 3, None, 1))
        .expect("it is acknowledged");
    assert_eq!(merged(&lanes), 4);
}
