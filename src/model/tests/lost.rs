//! Batches that are lost after they were decided, or whose answers are lost.

use super::*;

/// The fate of a batch.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is stored and answered.
    Answered,
    /// It is stored, and the answers are lost.
    Unheard,
    /// It is stored, and the process dies before it gets to know.
    Stored,
    /// The process dies before it is stored.
    Lost,
    /// The store refuses it, and the process goes on.
    Undone,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Answered),
        Just(Fate::Unheard),
        Just(Fate::Stored),
        Just(Fate::Lost),
        Just(Fate::Undone),
    ]
}

impl Lane {
    /// Decides a batch that ends before it is answered.
    fn interrupted(&mut self, requests: Vec<Request>, fate: Fate) {
        let (state, stored) = (&mut self.state, &mut self.stored);
        state.make_room();
        let mut missing = Vec::new();
        let mut requests = requests;
        for request in &mut requests {
            state.locate(&mut request.operation, &mut missing);
        }
        for name in missing {
            let row = stored.counters.get(&name);
            state.load(name, row.and_then(|(value, _)| *value));
        }
        state.begin(self.now, self.now + self.stepped - self.started);
        for request in &requests {
            let _ = state.apply(request);
        }
        let commit = state.commit();
        match (fate, commit) {
            (Fate::Stored, Some(commit)) => drop(stored.commit(&commit)),
            (Fate::Undone, Some(commit)) => return state.undo(&commit),
            _ => {}
        }
        self.restart();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// A client resends from its last acknowledgement after every break, and the server loses batches. Every message
    /// counts once, in order, and none is skipped.
    #[test]
    fn messages_count_once_whatever_becomes_of_their_batches(
        breaks in prop::collection::vec((1usize..6, fate()), 1..40),
    ) {
        let mut lane = Lane::new(bounds());
        let time = lane.now;
        let (mut acknowledged, mut stored) = (0u64, 0u64);
        for (count, fate) in breaks {
            let last = acknowledged + count as u64;
            let contents = |sequence: u64| [("g/0", i64::try_from(sequence).unwrap())];
            let messages: Vec<_> = (acknowledged + 1..=last)
                .map(|sequence| message(sequence, acknowledged, &contents(sequence), time))
                .collect();
            match fate {
                Fate::Answered | Fate::Unheard => {
                    stored = stored.max(last);
                    for answer in lane.batch(messages) {
                        let (done, ..) = answer.expect("it is in order");
                        let Effect::Recorded { acknowledged: now, failures } = done else {
                            panic!("{done:?} is no answer to a message");
                        };
                        prop_assert!(failures.is_empty());
                        if matches!(fate, Fate::Answered) {
                            acknowledged = acknowledged.max(now);
                        }
                    }
                }
                Fate::Stored | Fate::Lost | Fate::Undone => {
                    if matches!(fate, Fate::Stored) {
                        stored = stored.max(last);
                    }
                    lane.interrupted(messages, fate);
                }
            }
            let applied = i64::try_from(stored).unwrap();
            prop_assert_eq!(lane.value("g/0"), applied * (applied + 1) / 2);
        }
    }
}
