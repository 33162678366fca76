//! Damaged rows of sessions.

use bytes::Bytes;
use sumd::etcd::get;
use sumd::model::{Id, Rejection, Resumed, Session, SessionId};
use sumd::proto::etcd::etcdserverpb::response_op::Response;

use super::*;

/// Rows of sessions are folded with the next batch.
fn sizes() -> Tuning {
    Tuning {
        recent_sessions: 0,
        ..Tuning::default()
    }
}

fn key(session: &str) -> String {
    format!("{}/sessions/{:04x}/{session}", rows::PREFIX, lane())
}

/// The stored row of a session.
fn row(world: &World, session: &str) -> Option<Bytes> {
    let request = TxnRequest {
        success: vec![get(key(session)).into()],
        ..TxnRequest::default()
    };
    let answer = world.lock().etcd.txn(&request).expect("it fits");
    let found = answer.responses.into_iter().next()?.response;
    let Some(Response::ResponseRange(found)) = found else {
        panic!("{found:?} is no row");
    };
    Some(found.kvs.into_iter().next()?.value)
}

/// Damages the rows of the session "bad" in an answer.
pub(super) fn spoil(answer: &mut TxnResponse) {
    for response in &mut answer.responses {
        let Some(Response::ResponseRange(found)) = &mut response.response else {
            continue;
        };
        let bad = key("bad");
        let rows = found.kvs.iter_mut().filter(|row| row.key == bad);
        rows.for_each(|row| row.value = Bytes::from_static(b"no row"));
    }
}

fn damage(world: &World, session: &str) {
    let request = TxnRequest {
        success: vec![put(key(session), "no row")],
        ..TxnRequest::default()
    };
    world.lock().etcd.txn(&request).expect("it fits");
}

async fn say(running: &LaneRuntime, session: &str, sequence: u64) -> Result<u64, LaneError> {
    let said = running
        .lanes
        .execute(lane(), message(session, sequence, one()));
    match said.await?.answer.done {
        Effect::Recorded { acknowledged, .. } => Ok(acknowledged),
        other => panic!("{other:?}"),
    }
}

async fn counted(running: &LaneRuntime) -> i64 {
    let counted = running.lanes.execute(lane(), plain()).await;
    value(&counted.expect("it counts"))
}

fn is_damaged<T>(said: &Result<T, LaneError>) -> bool {
    matches!(said, Err(LaneError::Refused(Rejection::SessionDamaged)))
}

/// Data with two sessions, whose rows are folded, and of which that of "bad" is then damaged; and the node that still
/// has the session in memory. Three increments are counted.
async fn data() -> (World, LaneRuntime) {
    let world = world(LANES);
    let node = open(Switch::new(&world), sizes()).await;
    for session in ["bad", "well"] {
        say(&node, session, 1).await.expect("it counts");
    }
    // The fold is completed by a batch.
    assert_eq!(counted(&node).await, 3);
    assert!(row(&world, "bad").is_some() && row(&world, "well").is_some());
    damage(&world, "bad");
    (world, node)
}

/// A damaged row of a session is an error for messages of that session, on each node that takes over the lane, and for
/// no other call. The row stays as it is, however many rows are folded.
#[test]
fn a_damaged_session_is_an_error_and_no_other_is() {
    paused_runtime().block_on(async {
        let (world, first) = data().await;
        drop(first);
        for (at, node) in (0..).zip(["b", "c"]) {
            let b = open(Switch::new(&world), sizes()).await;
            for sequence in [1, 2] {
                let said = say(&b, "bad", sequence).await;
                assert!(is_damaged(&said), "{node}: {said:?}");
            }
            let said = say(&b, "well", 2 + at).await;
            assert!(matches!(said, Ok(2..)), "{node}: {said:?}");
            say(&b, node, 1).await.expect("a new one");
            for _ in 0..5 {
                counted(&b).await;
            }
            assert!(row(&world, node).is_some(), "rows are brought up to date");
            assert_eq!(row(&world, "bad").as_deref(), Some(&b"no row"[..]));
        }
        let store = store(Switch::new(&world)).await;
        let resumed = async |id: &str| {
            let found = store.session(id.into()).await.expect("it is read");
            let (now, remembered) = (BEGAN, 86_400_000);
            Resumed::new(&found.lanes, BEGAN, now, found.horizon, remembered)
        };
        let refused = resumed("bad").await.expect_err("a row is damaged");
        assert_eq!(refused, Rejection::SessionDamaged);
        assert_eq!(resumed("well").await.expect("it is well").applied, 3);
        assert_eq!(resumed("none").await.expect("it is new").applied, 0);
    });
}

/// A node that has the session in memory continues it. A node that does not finds it damaged once it reads the row,
/// until the row is written again with the whole session.
#[test]
fn a_damaged_session_is_well_again_if_a_node_has_all_of_it() {
    paused_runtime().block_on(async {
        let (world, a) = data().await;
        let b = open(Switch::new(&world), Tuning::default()).await;
        assert!(is_damaged(&say(&b, "bad", 2).await));
        assert_eq!(say(&a, "bad", 2).await.expect("it has it"), 2);
        // The changes of the other node are on top of a row that cannot be read.
        let said = say(&b, "bad", 3).await;
        assert!(is_damaged(&said), "{said:?}");
        counted(&a).await;
        assert_ne!(row(&world, "bad").as_deref(), Some(&b"no row"[..]));
        let c = open(Switch::new(&world), sizes()).await;
        assert_eq!(say(&c, "bad", 2).await.expect("it is known"), 2);
        assert_eq!(say(&c, "bad", 3).await.expect("it goes on"), 3);
        assert_eq!(counted(&c).await, 3 + 1 + 1 + 1 + 1);
    });
}

/// A row may be damaged on one member of etcd only. If a node that has read it there folds the log, the log's part of
/// the session is in no row. The session is damaged for all nodes then, and none of its messages counts again.
#[test]
fn damage_that_one_member_has_is_for_good_once_the_log_is_folded() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let a = open(Switch::new(&world), sizes()).await;
        say(&a, "bad", 1).await.expect("it counts");
        assert_eq!(counted(&a).await, 2);
        let old = row(&world, "bad");
        assert!(old.is_some(), "the row is up to date");
        drop(a);
        let a = open(Switch::new(&world), Tuning::default()).await;
        for sequence in [2, 3] {
            say(&a, "bad", sequence).await.expect("it counts");
        }
        assert_eq!(row(&world, "bad"), old, "these are in the log alone");
        drop(a);
        let kv = Switch::new(&world);
        kv.bad_member.store(true, Ordering::Relaxed);
        let b = open(kv.clone(), sizes()).await;
        assert!(is_damaged(&say(&b, "bad", 2).await));
        say(&b, "well", 1).await.expect("it counts");
        for _ in 0..5 {
            counted(&b).await;
        }
        assert!(row(&world, "well").is_some(), "the log is folded");
        kv.bad_member.store(false, Ordering::Relaxed);
        let c = open(Switch::new(&world), sizes()).await;
        for node in [&b, &c] {
            for sequence in 1..5 {
                let said = say(node, "bad", sequence).await;
                assert!(is_damaged(&said), "message {sequence}: {said:?}");
            }
        }
        assert_eq!(counted(&c).await, 2 + 2 + 1 + 5 + 1);
        let store = store(Switch::new(&world)).await;
        let found = store.session("bad".into()).await.expect("it is read");
        assert!(found.lanes.iter().any(Session::is_damaged));
    });
}

/// A request with a remembered id gets its first answer, even if the rows of its counters are damaged.
#[test]
fn a_remembered_answer_needs_no_row() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let name = "na/damaged";
        let request = |digest| Request {
            id: Some(Id {
                digest: [digest; 16],
                contents: 7,
                time: Some(BEGAN),
            }),
            ..increment(name)
        };
        let a = open(Switch::new(&world), sizes()).await;
        let first = a.lanes.execute(lane(), request(1)).await;
        let first = first.expect("it counts");
        say(&a, "s", 1).await.expect("it counts");
        counted(&a).await;
        drop(a);
        let key = format!("{}/counters/{name}", rows::PREFIX);
        let request_of_etcd = TxnRequest {
            success: vec![put(key, "no row")],
            ..TxnRequest::default()
        };
        world.lock().etcd.txn(&request_of_etcd).expect("it fits");
        let b = open(Switch::new(&world), sizes()).await;
        let said = [1, 2, 1].map(|digest| b.lanes.execute(lane(), request(digest)));
        let [again, new, third] = futures_util::future::join_all(said)
            .await
            .try_into()
            .expect("three");
        for again in [again, third] {
            let again = again.expect("it is remembered");
            assert_eq!((value(&again), again.revision), (1, first.revision));
            assert!(again.answer.replayed);
        }
        let damage = matches!(new, Err(LaneError::Unavailable(StoreError::Damaged { .. })));
        assert!(damage, "{new:?}");
        counted(&b).await;
    });
}

/// A damaged session is forgotten a whole horizon after it was found, and its messages do not count again even then.
#[test]
fn a_damaged_session_is_forgotten_long_after_it_was_found() {
    paused_runtime().block_on(async {
        let (world, first) = data().await;
        drop(first);
        let b = open(Switch::new(&world), sizes()).await;
        counted(&b).await;
        for _ in 0..23 {
            sleep(Duration::from_hours(1)).await;
            assert!(is_damaged(&say(&b, "bad", 2).await));
        }
        assert!(row(&world, "bad").is_some());
        sleep(Duration::from_mins(63)).await;
        for _ in 0..5 {
            counted(&b).await;
        }
        assert_eq!(row(&world, "bad"), None);
        for node in [b, open(Switch::new(&world), sizes()).await] {
            let said = say(&node, "bad", 2).await;
            let is_too_old = matches!(said, Err(LaneError::Refused(Rejection::TooOld { .. })));
            assert!(is_too_old, "{said:?}");
        }
    });
}

/// A session that is wholly in the log does not need its row.
#[test]
fn a_row_is_of_no_matter_if_the_log_has_the_session() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let a = open(Switch::new(&world), Tuning::default()).await;
        say(&a, "bad", 1).await.expect("it counts");
        assert_eq!(row(&world, "bad"), None, "it is not up to date");
        damage(&world, "bad");
        drop(a);
        let b = open(Switch::new(&world), Tuning::default()).await;
        assert_eq!(say(&b, "bad", 1).await.expect("it is known"), 1);
        assert_eq!(say(&b, "bad", 2).await.expect("it goes on"), 2);
        let store = store(Switch::new(&world)).await;
        let id = SessionId::from("bad");
        let found = store.session(id).await.expect("it is read").lanes;
        assert_eq!(Session::merge(&found).0, 2);
    });
}

/// A row with a damaged key may be of any session, so no session of its lane is served.
#[test]
fn a_session_with_a_damaged_key_ends_its_lane() {
    paused_runtime().block_on(async {
        let (world, a) = data().await;
        drop(a);
        // One bit of the id is different.
        let other = put(key("welm"), row(&world, "well").expect("it is there"));
        let request = TxnRequest {
            success: vec![other],
            ..TxnRequest::default()
        };
        world.lock().etcd.txn(&request).expect("it fits");
        let mut b = open(Switch::new(&world), sizes()).await;
        let said = say(&b, "well", 1).await;
        assert!(matches!(said, Err(LaneError::Unknown(_))), "{said:?}");
        let ended = timeout(FOR_EVER, b.failure()).await.expect("it ends");
        let ended = ended.to_string();
        for part in [&*key("welm"), "`sumd check`", "`sumd restore`"] {
            assert!(ended.contains(part), "{part}: {ended}");
        }
    });
}
