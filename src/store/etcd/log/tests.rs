//! The rows that are written for the next batch.

use super::checkpoint::MIN_FOLD_BYTES;
use super::*;
use crate::model::Stamp;
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::proto::etcd::mvccpb::KeyValue;
use crate::store::etcd::tuning::Tuning;
use crate::store::etcd::{FORMAT, rows};
use crate::store::memtable::Lookup;

const OPEN_BYTES: usize = 1000;
const START: i64 = 1_700_000_000_000;
pub const ATTEMPT: Bytes = Bytes::from_static(&[7; 16]);

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
pub fn commit(seq: u64) -> Commit {
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

/// Packs are deleted up to the first one with a batch that is needed, even if that is its last one, and never one by one.
#[test]
fn a_pack_with_a_batch_that_is_needed_is_kept() {
    let mut log = Log::empty(layout(), 0);
    log.packs = [(1, 3), (4, 6), (7, 9), (10, 12)].into();
    let pruned = |needed| {
        let mut operations = Vec::new();
        let pruned = log.prune(needed, &mut operations);
        let ranges: Vec<_> = operations.iter().filter_map(deletes).collect();
        let ends = ranges.iter().map(|range| range.range_end.clone());
        (pruned, ends.collect::<Vec<_>>())
    };
    assert_eq!(pruned(6), (0, vec![]), "one is too few");
    assert_eq!(pruned(7), (2, vec![log.layout.pack(0, 7)]));
    assert_eq!(pruned(9), (2, vec![log.layout.pack(0, 7)]));
    assert_eq!(pruned(10), (3, vec![log.layout.pack(0, 10)]));
    // Some are kept for whoever does not know what became of a batch.
    assert_eq!(pruned(99), (3, vec![log.layout.pack(0, 10)]));
}

/// A batch has the same revisions wherever it is stored: its row tells how many places of other lanes come before its own, and once
/// the row is written again, the revision of etcd that the batch was committed at.
#[test]
fn a_batch_keeps_its_revisions() {
    let layout = layout();
    let plan = plan();
    let mut written = Vec::new();
    plan.write(&layout, 7, &mut written);
    let head = written.iter().find_map(|operation| {
        let Some(Request::RequestPut(put)) = operation.request.as_ref() else {
            return None;
        };
        let row = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            ..KeyValue::default()
        };
        layout.open::<Head>(&row).ok()
    });
    let mut head = head.expect("it is written with the batch");
    assert_eq!(head.batches[0].offset, 7);

    let mut older = to_batch(&commit(1), ATTEMPT, &layout);
    older.etcd_revision = 5;
    head.batches[0].seq = 2;
    head.batches.insert(0, older);
    let mut log = Log::empty(layout, 0);
    log.set_head(head, 9).expect("it is whole");
    let committed = |batch: &Batch| batch.etcd_revision;
    let committed: Vec<_> = log.head.batches.iter().map(committed).collect();
    assert_eq!(committed, [5, 9]);
}

/// Another node has folded: nothing that this node has begun to fold is left, and no pack is there twice.
#[test]
fn a_log_that_another_node_has_folded_is_begun_anew() {
    let layout = layout();
    let mut log = Log::empty(layout.clone(), 0);
    let pack = |seqs: std::ops::RangeInclusive<u64>| Pack {
        batches: seqs
            .map(|seq| to_batch(&commit(seq), ATTEMPT, &layout))
            .collect(),
    };
    for seqs in [1..=3, 4..=6] {
        log.add_pack(&pack(seqs), 5).expect("it is whole");
    }
    let mut head = Head {
        seq: 6,
        log_from: 1,
        open_from: 7,
        ..Head::default()
    };
    log.set_head(head.clone(), 5).expect("it is whole");
    log.set_session("meter-7".into(), None);
    log.begin_fold();
    log.set_session("meter-8".into(), None);

    (head.seq, head.open_from, head.folded, head.log_from) = (9, 10, 5, 4);
    let newer = Newer {
        head,
        row_revision: 8,
        packs: vec![(pack(4..=6), 5), (pack(7..=9), 8)],
        sessions: vec![("meter-9".into(), None)],
        from: Some(4),
    };
    let log = log.and(newer).expect("it is whole");
    assert_eq!(log.packs, [(1, 3), (4, 6), (7, 9)]);
    assert!(log.checkpointing.is_none());
    let ids: Vec<_> = log.sessions.keys().map(|id| &**id).collect();
    assert_eq!(ids, ["meter-9"]);
    let runs = log.memtable.view(0).runs;
    let is_there = |seq| Lookup::new(&runs).find(&format!("group/{seq}")).is_some();
    assert_eq!([5, 6, 9].map(is_there), [false, true, true]);
}

/// A session that batches have changed is known as the last of them has left it, although its row is being brought up to date.
#[test]
fn a_session_is_known_while_it_is_folded() {
    let session = |at| Some(Arc::new(model::Session::damaged(at)));
    let used = |log: &Log, id: &str| log.session(id).map(|session| session.used());
    let mut log = Log::empty(layout(), 0);
    log.set_session("a".into(), session(1));
    log.set_session("b".into(), session(2));
    log.begin_fold();
    assert_eq!(used(&log, "a"), Some(1));
    log.set_session("a".into(), session(3));
    log.set_session("b".into(), None);
    assert_eq!([used(&log, "a"), used(&log, "b")], [Some(3), None]);
}
