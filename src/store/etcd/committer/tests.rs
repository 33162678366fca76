//! The grouping of batches, and the outcomes of batches that cannot be sent or looked up.

use super::super::log::tests::{head, layout, plan};
use super::*;
use crate::proto::etcd::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseOp,
};
use crate::proto::etcd::mvccpb::KeyValue;
use crate::proto::sumd::store::v1::Head;
use crate::store::etcd::kv::tests::Flaky;

fn attempt() -> (CommitAttempt, oneshot::Receiver<Answer>) {
    CommitAttempt::new(plan())
}

fn refused(refusal: Refusal) -> Error {
    Error::new(Outcome::Definite(refusal), "as a test has it".to_owned())
}

/// A batch that certainly was not sent is retried for a while, and then refused. A batch with a copy in doubt is sent
/// until its outcome is known.
#[tokio::test(start_paused = true)]
async fn batches_that_cannot_be_sent_are_refused_after_a_while() {
    let error = refused(Refusal::NotConnected);
    let (attempt_now, mut answer) = attempt();
    let left = failed(vec![attempt_now], &error).await;
    assert_eq!(left.len(), 1, "it is tried again");
    assert_eq!(left[0].tries, 1, "the next copy is waited for longer");
    tokio::time::advance(PATIENCE).await;
    assert!(failed(left, &error).await.is_empty());
    let told = answer.try_recv().expect("it is told");
    assert!(matches!(
        told,
        Err(Failure::Store(StoreError::Unavailable(_)))
    ));

    let (mut doubtful, _answer) = attempt();
    doubtful.in_doubt = true;
    tokio::time::advance(PATIENCE * 2).await;
    assert_eq!(failed(vec![doubtful], &error).await.len(), 1);
}

/// Batches that are too large together are sent alone. One that is too large alone is refused, and its outcome is
/// unknown if a copy is in doubt.
#[tokio::test]
async fn a_batch_that_is_too_large_is_refused_alone() {
    let error = refused(Refusal::TooLarge);
    let ((first, mut answer), (second, _other)) = (attempt(), attempt());
    let mut left = failed(vec![first, second], &error).await;
    assert!(left.len() == 2 && left.iter().all(|attempt| attempt.alone));
    left.truncate(1);
    assert!(failed(left, &error).await.is_empty());
    let told = answer.try_recv().expect("it is told");
    assert!(matches!(told, Err(Failure::TooLarge(_))));

    let (mut doubtful, mut answer) = attempt();
    doubtful.in_doubt = true;
    assert!(failed(vec![doubtful], &error).await.is_empty());
    let told = answer.try_recv().expect("it is told");
    assert!(matches!(told, Err(Failure::Store(StoreError::Lost))));
}

/// A full etcd is logged once, however often it refuses, and once more when it has room again.
#[test]
fn a_full_etcd_is_told_of_once() {
    let room = Room::default();
    let told = [false, true, true, true, false, false, true].map(|full| room.note(full));
    assert_eq!(told, [false, true, false, false, true, false, true]);
}

/// A transaction to an etcd that cannot be reached.
fn flight() -> Flight<Flaky> {
    let away = Outcome::Definite(Refusal::NotConnected);
    Flight {
        kv: Flaky::new(u32::MAX, Some(away)),
        layout: layout(),
        room: Room::default(),
    }
}

/// If the head of a lane has moved and the log cannot be read, the batch is in doubt until it can.
#[tokio::test(start_paused = true)]
async fn a_batch_that_cannot_be_looked_for_is_in_doubt() {
    let flight = flight();
    let (mut attempt, mut answer) = attempt();
    let key = flight.layout.head(attempt.plan.lane);
    let moved_on = Head {
        open_from: 100,
        ..Head::default()
    };
    let head = KeyValue {
        value: flight.layout.seal(&key, &moved_on),
        key,
        ..KeyValue::default()
    };
    for tries in 1..4 {
        let left = flight.settle(attempt, Some(&head)).await;
        attempt = left.expect("nobody knows yet");
        assert!(attempt.in_doubt);
        assert_eq!(attempt.tries, tries);
    }
    assert!(answer.try_recv().is_err(), "nothing is told");
}

/// Batches share a transaction in their order, as long as etcd accepts it; one that is too large goes alone.
#[test]
fn batches_go_together_as_long_as_they_fit() {
    let operations = plan().operations();
    let groups = |max_operations: usize, change: &dyn Fn(usize, &mut CommitAttempt)| {
        let mut waiting = VecDeque::new();
        for at in 0..6 {
            let mut attempt = attempt().0;
            attempt.plan.bytes = 100;
            attempt.plan.places = 1;
            change(at, &mut attempt);
            waiting.push_back(attempt);
        }
        let mut sizes = Vec::new();
        while !waiting.is_empty() {
            sizes.push(take_group(&mut waiting, max_operations).len());
        }
        sizes
    };
    let many = 128;
    assert_eq!(groups(many, &|_, _| ()), [6]);
    let alone = |at, attempt: &mut CommitAttempt| attempt.alone = at == 2;
    assert_eq!(groups(many, &alone), [2, 1, 3]);
    // Each batch is one outer operation; only its own operations are nested in it.
    assert_eq!(groups(operations + 2, &|_, _| ()), [2, 2, 2]);
    assert_eq!(groups(operations + 3, &|_, _| ()), [3, 3]);
    assert_eq!(groups(1, &|_, _| ()), [1; 6]);
    let of_bytes = |bytes| move |_, attempt: &mut CommitAttempt| attempt.plan.bytes = bytes;
    assert_eq!(groups(many, &of_bytes(MAX_BYTES / 3)), [3, 3]);
    assert_eq!(groups(many, &of_bytes(MAX_BYTES / 3 + 1)), [2, 2, 2]);
    assert_eq!(groups(many, &of_bytes(MAX_BYTES + 1)), [1; 6]);
    let of_places = |places| move |_, attempt: &mut CommitAttempt| attempt.plan.places = places;
    assert_eq!(groups(many, &of_places(MAX_PLACES / 3)), [3, 3]);
    assert_eq!(groups(many, &of_places(MAX_PLACES / 3 + 1)), [2, 2, 2]);
    let mut waiting: VecDeque<_> = (0..MAX_OPERATIONS).map(|_| attempt().0).collect();
    let group = take_group(&mut waiting, usize::MAX);
    assert_eq!(group.len(), MAX_OPERATIONS / operations);
}

/// The places of the batches in one transaction follow one another: each batch has revisions of its own.
#[test]
fn batches_of_one_transaction_share_no_revision() {
    let attempts = [3, 5, 7].map(|places| {
        let mut attempt = attempt().0;
        attempt.plan.places = places;
        attempt
    });
    let (_, offsets) = flight().request(&attempts);
    assert_eq!(offsets, [0, 3, 8]);
}

/// A node leaves a key while it waits for its turn. A batch that lands deletes the key; a copy that comes later looks for it.
#[test]
fn a_node_that_waits_for_its_turn_is_noticed() {
    let deleted = |deleted| {
        Response::ResponseDeleteRange(DeleteRangeResponse {
            deleted,
            ..DeleteRangeResponse::default()
        })
    };
    let found = |keys| {
        Response::ResponseRange(RangeResponse {
            kvs: vec![KeyValue::default(); keys],
            ..RangeResponse::default()
        })
    };
    let put = Response::ResponsePut(PutResponse::default());
    for (last, waits) in [
        (deleted(1), true),
        (deleted(0), false),
        (found(1), true),
        (found(0), false),
        (put, false),
    ] {
        // The answers before the last one tell nothing of other nodes.
        let responses = [found(1), last.clone()].map(|response| ResponseOp {
            response: Some(response),
        });
        let lane = TxnResponse {
            responses: responses.into(),
            ..TxnResponse::default()
        };
        assert_eq!(is_contended(&lane), waits, "{last:?}");
    }
}

/// The meta row has changed since the transaction was made, so the transaction did nothing. One batch has a head that
/// has moved: another copy may have stored it, and it is looked up. The other one's head has not moved. It has not
/// landed, and is refused because the meta row cannot be read.
#[tokio::test(start_paused = true)]
async fn a_batch_that_an_earlier_copy_has_stored_is_found() {
    let flight = flight();
    for (mod_revision, has_landed) in [(50, true), (0, false)] {
        let (mut attempt, mut answer) = attempt();
        attempt.in_doubt = true;
        let key = flight.layout.head(attempt.plan.lane);
        let head = KeyValue {
            value: flight.layout.seal(&key, head(&attempt.plan)),
            key,
            mod_revision,
            ..KeyValue::default()
        };
        let range = RangeResponse {
            kvs: if has_landed { vec![head] } else { Vec::new() },
            ..RangeResponse::default()
        };
        let refused = TxnResponse {
            succeeded: false,
            responses: vec![ResponseOp {
                response: Some(Response::ResponseRange(range)),
            }],
            ..TxnResponse::default()
        };
        let left = flight.answered(vec![attempt], &[0], refused).await;
        assert!(left.is_empty());
        let told = answer.try_recv().expect("it is told");
        match told {
            Ok((_, landed)) => assert!(has_landed && landed.etcd_revision == 50),
            // The meta row cannot be read, and nothing has landed.
            Err(Failure::Store(StoreError::Unavailable(_))) => assert!(!has_landed),
            Err(other) => panic!("{other:?}"),
        }
    }
}
