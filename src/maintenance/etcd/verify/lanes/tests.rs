//! Consistent logs have no problems, and each kind of inconsistency is reported.

use super::*;
use crate::model::{CounterChange, group, pack};
use crate::proto::sumd::store::v1::SessionChange;
use crate::store::etcd::FORMAT;

const TIME: Millis = 1_700_000_000_000;
/// The revisions of etcd at which the pack and the head were last changed.
const PACKED: i64 = 20;
const AT: i64 = 30;

/// The name of a counter in a lane.
fn counter(layout: &Layout, lane: LaneNumber) -> String {
    named(layout, lane, "x")
}

fn named(layout: &Layout, lane: LaneNumber, rest: &str) -> String {
    let mut names = (0..).map(|at| format!("g{at}/{rest}"));
    let found = names.find(|name| layout.hasher.lane(group(name), 2) == lane);
    found.expect("one of them")
}

/// A change of that counter at position 2, encoded as in a batch.
fn change(layout: &Layout, lane: LaneNumber, value: Option<i64>) -> bytes::Bytes {
    change_of(&counter(layout, lane), value)
}

fn change_of(name: &str, value: Option<i64>) -> bytes::Bytes {
    let change = CounterChange {
        name: name.into(),
        value,
        place: 2,
        is_new: false,
    };
    let mut counters = Vec::new();
    CounterChange::put_all(&[change], &mut counters);
    counters.into()
}

/// The log of lane 0: two batches in a pack, the first of them folded into the rows, and one batch in the head.
struct Logged {
    layout: Layout,
    head: Head,
    pack: Pack,
    /// The batch number in the pack's key.
    first: u64,
}

impl Logged {
    fn new() -> Self {
        let layout = rows::tests::layout(FORMAT, 2);
        // The folded batch has changed another counter.
        let changed = |seq| match seq {
            1 => named(&layout, 0, "old"),
            _ => counter(&layout, 0),
        };
        let batch = |seq: u64| Batch {
            seq,
            time: TIME + seq.cast_signed(),
            places: 2,
            etcd_revision: 10 + seq.cast_signed(),
            ids: pack(&[(seq, 2)]).into(),
            counters: change_of(&changed(seq), Some(seq.cast_signed())),
            sessions: vec![SessionChange {
                id: format!("meter-{seq}"),
                ..SessionChange::default()
            }],
            ..Batch::default()
        };
        Self {
            pack: Pack {
                batches: vec![batch(1), batch(2)],
            },
            head: Head {
                seq: 3,
                time: TIME + 3,
                horizon: TIME + 3 + MAX_SKEW,
                session_horizon: TIME - 7,
                forget_before: 2,
                folded: 1,
                forgotten: layout.end(AT),
                log_from: 1,
                open_from: 3,
                batches: vec![Batch {
                    etcd_revision: 0,
                    ..batch(3)
                }],
            },
            layout,
            first: 1,
        }
    }

    fn found(&self) -> (Found, Vec<String>) {
        let row = |key: bytes::Bytes, value, mod_revision| KeyValue {
            key,
            value,
            mod_revision,
            ..KeyValue::default()
        };
        let mut problems = Vec::new();
        let mut lanes = Lanes::new(&self.layout);
        let key = self.layout.head(0);
        let sealed = self.layout.seal(&key, &self.head);
        lanes.head(&row(key, sealed, AT), &mut problems);
        let key = self.layout.pack(0, self.first);
        let sealed = self.layout.seal(&key, &self.pack);
        lanes.pack(&row(key, sealed, PACKED), &mut problems);
        (lanes.end(&mut problems), problems)
    }
}

/// The overlay has the changes that are not in the rows yet, and all remembered ids are found.
#[test]
fn a_log_tells_what_is_newer_than_the_rows() {
    let logged = Logged::new();
    let (found, problems) = logged.found();
    assert_eq!(problems, [""; 0]);
    let revision = |etcd| logged.layout.base(etcd, 0);
    let name = counter(&logged.layout, 0);
    let counters: Vec<_> = found.overlay.counters.into_iter().collect();
    assert_eq!(
        counters,
        [(name.as_str().into(), (Some(3), revision(AT) + 2))]
    );
    let sessions: Vec<_> = found.overlay.sessions.into_keys().collect();
    let named = |at: u64| (format!("meter-{at}"), 0);
    assert_eq!(sessions, [named(2), named(3)]);
    // The first batch is past the horizon.
    assert_eq!(found.ids, 2);
    let packs: Vec<_> = found
        .packs
        .iter()
        .map(|pack| (pack.base, pack.time))
        .collect();
    assert_eq!(packs, [(revision(12), TIME + 2), (revision(AT), TIME + 3)]);
    let mut answers: Vec<_> = found.answers.into_keys().collect();
    answers.sort_unstable();
    assert_eq!(answers, [revision(12) + 2, revision(AT) + 2]);
    assert_eq!(found.forgotten, logged.layout.end(AT));
    assert_eq!((found.time, found.horizon), (TIME + 3, TIME + 3 + MAX_SKEW));
    assert_eq!(found.session_horizon, TIME - 7);
}

/// A change to a consistent log.
type Change = fn(&mut Logged);

#[test]
fn a_log_that_does_not_fit_together_is_told_of() {
    let cases: [(&str, &[Change]); 9] = [
        (
            "its head contradicts itself",
            &[
                |log| log.head.folded = 4,
                |log| log.head.forget_before = 5,
                |log| log.head.horizon += 1,
                |log| log.head.log_from = 4,
                |log| log.head.open_from = 5,
                |log| log.head.forgotten += 1,
            ],
        ),
        ("pack 2 begins with another", &[|log| log.first = 2]),
        (
            "batch 2 is in a pack, but the head says that it is in none",
            &[|log| log.head.open_from = 2],
        ),
        (
            "a batch is missing before those of this row",
            &[
                |log| log.pack.batches[1].seq = 3,
                |log| log.head.batches[0].seq = 4,
            ],
        ),
        (
            "a batch has a revision or time that cannot follow the one before it",
            &[
                |log| log.pack.batches[1].time -= 2,
                |log| log.pack.batches[1].etcd_revision = 10,
                |log| log.pack.batches[1].etcd_revision = PACKED + 1,
            ],
        ),
        (
            "a batch has changed a counter of another lane, or one with an invalid name",
            &[|log| log.pack.batches[1].counters = change(&log.layout, 1, None)],
        ),
        (
            "a change has a position after the end of its batch",
            &[|log| {
                log.pack.batches[1].places = 0;
                log.pack.batches[1].ids = bytes::Bytes::new();
            }],
        ),
        (
            "a batch has a duplicate or misplaced id",
            &[
                |log| log.pack.batches[1].ids = pack(&[(2, 3)]).into(),
                |log| log.pack.batches[1].ids = pack(&[(2, 1), (2, 2)]).into(),
                |log| log.head.batches[0].ids = pack(&[(2, 1)]).into(),
            ],
        ),
        (
            "its log is from batch",
            &[
                |log| {
                    log.pack.batches.remove(0);
                    log.first = 2;
                    log.head.folded = 0;
                    log.head.forget_before = 1;
                },
                |log| {
                    log.head.batches.clear();
                    log.head.open_from = 4;
                },
            ],
        ),
    ];
    for (problem, changes) in cases {
        for (at, change) in changes.iter().enumerate() {
            let mut logged = Logged::new();
            change(&mut logged);
            let (_, problems) = logged.found();
            let is_told = problems.iter().any(|told| told.contains(problem));
            assert!(is_told, "{problem:?}, case {at}: {problems:?}");
        }
    }
}

/// Each number may be as large as its bound.
#[test]
fn a_log_at_its_bounds_is_well() {
    let changes: [Change; 4] = [
        |log| {
            log.head.folded = 3;
            log.head.forget_before = 4;
        },
        // Both batches have the same time.
        |log| log.pack.batches[1].time = log.pack.batches[0].time,
        // Both batches were in the same transaction.
        |log| {
            log.pack.batches[1].etcd_revision = log.pack.batches[0].etcd_revision;
            log.pack.batches[1].offset = 2;
        },
        // The first batch is no longer needed.
        |log| {
            log.pack.batches.remove(0);
            log.first = 2;
            log.head.log_from = 2;
        },
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut logged = Logged::new();
        change(&mut logged);
        let (_, problems) = logged.found();
        assert_eq!(problems, [""; 0], "case {at}");
    }
}
