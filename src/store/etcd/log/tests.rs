//! The rows that are written for the next batch.

use super::checkpoint::MIN_FOLD_BYTES;
use super::*;
use crate::model::Stamp;
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::store::etcd::tuning::Tuning;
use crate::store::etcd::{FORMAT, rows};
use crate::store::memtable::Lookup;

const OPEN_BYTES: usize = 1000;
const START: i64 = 1_700_000_000_000;
const ATTEMPT: Bytes = Bytes::from_static(&[7; 16]);

pub fn layout() -> Layout {
    let mut layout = rows::tests::layout(FORMAT, 1);
    layout.tuning = Tuning {
        open_bytes: OPEN_BYTES,
        recent_bytes: 4096,
        kept_packs: 1,
        pruned_packs: 2,
        ..Tuning::default()
    };
    layout
}

/// The plan of a lane's first batch.
pub fn plan() -> WritePlan {
    Log::empty(layout(), 0).plan(&commit(1), ATTEMPT, true)
}

/// The lane's head as a plan leaves it.
pub fn head(plan: &WritePlan) -> &Head {
    &plan.head
}

/// A batch that changes a counter of its own.
fn commit(seq: u64) -> Commit {
    let time = START + i64::try_from(seq).expect("few");
    let change = CounterChange {
        name: format!("group/{seq}").into(),
        value: Some(1),
        place: 1,
        is_new: true,
    };
    Commit {
        seq,
        time,
        stamp: Stamp::of_time(time),
        horizon: time - 2,
        session_horizon: time - 3,
        places: 1,
        ids: [].into(),
        forget_before: seq,
        deletions_up_to: 0,
        changes: Changes {
            counters: [change].into(),
            sessions: Vec::new(),
        },
    }
}

fn bytes(batches: &[Batch]) -> usize {
    batches.iter().map(prost::Message::encoded_len).sum()
}

/// The range of packs that an operation deletes.
fn deletes(operation: &RequestOp) -> Option<&DeleteRangeRequest> {
    match operation.request.as_ref()? {
        Request::RequestDeleteRange(range) if range.key.starts_with(b"/sumd/log/pack/") => {
            Some(range)
        }
        _ => None,
    }
}

/// The head's row holds batches up to a bound; the batch that would exceed it goes into a pack with them. A plan counts
/// its operations exactly, with those of checkpoint and pruning: otherwise a transaction might be more than etcd
/// accepts.
#[test]
fn batches_are_written_in_packs_that_are_as_large_as_the_head_may_be() {
    let layout = layout();
    let mut log = Log::empty(layout.clone(), 0);
    let (mut packs, mut most, mut first) = (0, 0, 1);
    let (mut there, mut deleted) = (VecDeque::new(), 0);
    for seq in 1..=400 {
        let commit = commit(seq);
        let plan = log.plan(&commit, ATTEMPT, true);
        let mut written = Vec::new();
        plan.write(&layout, 0, &mut written);
        assert_eq!(plan.operations(), written.len());
        let size: usize = written.iter().map(prost::Message::encoded_len).sum();
        // The difference is keys and framing.
        assert!(plan.bytes.abs_diff(size) < 400, "{} of {size}", plan.bytes);
        most = most.max(written.len());
        for range in written.iter().filter_map(deletes) {
            // Several at once, none of them needed, and never the last one.
            let key = range.key.clone();
            assert_eq!(key, layout.pack(0, there[0]));
            let count = there
                .iter()
                .position(|first| layout.pack(0, *first) == range.range_end);
            let count = count.expect("one is left");
            assert!(count >= layout.tuning.pruned_packs, "{count}");
            let needed = plan.head.forget_before.min(plan.head.folded + 1);
            assert!(there[count] <= needed, "{} of {needed}", there[count]);
            there.drain(..count);
            deleted += count;
        }
        let head = &plan.head;
        assert_eq!(
            (head.seq, head.time, head.horizon, head.session_horizon),
            (seq, commit.time, commit.horizon, commit.session_horizon)
        );
        assert!(bytes(&head.batches) <= OPEN_BYTES);
        if let Some(pack) = &plan.pack {
            assert!(bytes(&pack.batches) > OPEN_BYTES, "{packs}");
            assert_eq!((plan.first, plan.head.open_from), (first, seq + 1));
            there.push_back(first);
            first = seq + 1;
            packs += 1;
        }
        let at = Landed {
            etcd_revision: i64::try_from(seq).expect("few") + 1,
            offset: 0,
            is_contended: false,
        };
        log.landed(plan, &commit.changes, at);
    }
    assert!(packs > 10 && most > 4, "{packs} packs, {most} operations");
    assert!(deleted > 4, "{deleted} of {packs} packs are deleted");
}

/// Changes that the rows have already are not kept in memory again.
#[test]
fn changes_that_are_folded_are_not_taken_in() {
    let layout = layout();
    let mut log = Log::empty(layout.clone(), 0);
    log.set_folded(2);
    let batch = |seq| to_batch(&commit(seq), ATTEMPT, &layout);
    let pack = Pack {
        batches: (1..=4).map(batch).collect(),
    };
    log.add_pack(&pack, 5).expect("it is whole");
    let runs = log.memtable.view(0).runs;
    let is_there = |seq| Lookup::new(&runs).find(&format!("group/{seq}")).is_some();
    assert_eq!([1, 2, 3, 4].map(is_there), [false, false, true, true]);
}

/// After a batch that was too large, half as many bytes of rows go along with the next one, down to a bound. The first
/// row always goes along.
#[test]
fn less_is_folded_after_a_batch_that_was_too_much() {
    let mut log = Log::empty(layout(), 0);
    let mut before = log.fold_bytes;
    assert!(before > 4 * MIN_FOLD_BYTES);
    while before > MIN_FOLD_BYTES {
        log.fold_less();
        assert_eq!(log.fold_bytes, (before / 2).max(MIN_FOLD_BYTES));
        before = log.fold_bytes;
    }
    log.fold_less();
    assert_eq!(log.fold_bytes, MIN_FOLD_BYTES);
}
