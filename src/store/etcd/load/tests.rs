//! A lane that is read as a whole, and what is read of it later.

use futures_util::FutureExt as _;

use super::*;
use crate::etcd::put;
use crate::model::SessionChange;
use crate::notice::tests::logged;
use crate::proto::etcd::etcdserverpb::request_op::Request;
use crate::store::etcd::kv::tests::model::Model;
use crate::store::etcd::log::tests::{ATTEMPT, commit};
use crate::store::etcd::log::{Landed, tests as logs};
use crate::store::etcd::sessions::tests::session;

/// Places of other lanes before a batch.
const OFFSET: u32 = 5;

/// Rows that are read one by one.
fn layout() -> Layout {
    let mut layout = logs::layout();
    layout.tuning.open_bytes = 100;
    layout.tuning.packs_page = 1;
    layout.tuning.recent_bytes = usize::MAX;
    layout
}

/// Commits the next batch of a lane, with changes of sessions.
fn land(kv: &Model, log: &mut Log, sessions: Vec<(SessionId, SessionChange)>) -> i64 {
    let mut next = commit(log.head().seq + 1);
    next.changes.sessions = sessions;
    let plan = log.plan(&next, ATTEMPT, true);
    let mut operations = Vec::new();
    plan.write(&layout(), OFFSET, &mut operations);
    let etcd_revision = kv.write(operations);
    let landed = Landed {
        etcd_revision,
        offset: OFFSET,
        is_contended: false,
    };
    log.landed(plan, &next.changes, landed);
    // It has one place.
    layout().base(etcd_revision, OFFSET) + 1
}

async fn loaded(kv: &Model) -> (Log, Loaded) {
    let loaded = load(kv, &layout(), 0).await;
    loaded.expect("it is whole")
}

/// However many pages a lane's rows are, all of it is read, and its last revision is that of its last batch.
#[tokio::test]
async fn a_lane_is_read_to_its_end() {
    let kv = Model::default();
    let mut log = Log::empty(layout(), 0);
    let mut revision = 0;
    for _ in 0..20 {
        revision = land(&kv, &mut log, Vec::new());
    }
    assert!(kv.keys(&layout().packs(0)).len() > 5);
    let (_, loaded) = loaded(&kv).await;
    assert_eq!((loaded.head.seq, loaded.head.revision), (20, revision));
}

/// A node that is behind takes in the batches that it lacks, each with its revision, in packs or not; unless they are so many packs
/// that the lane is rather read anew.
#[tokio::test]
async fn a_lane_is_read_on_from_where_it_is_known() {
    let kv = Model::default();
    let mut log = Log::empty(layout(), 0);
    for _ in 0..5 {
        land(&kv, &mut log, Vec::new());
    }
    let (known, _) = loaded(&kv).await;
    assert!(matches!(
        after(&kv, &layout(), &known).await,
        Ok(Found::Nothing)
    ));
    let packs = kv.keys(&layout().packs(0)).len();
    let revisions = [(); 7].map(|()| land(&kv, &mut log, Vec::new()));
    let packs = kv.keys(&layout().packs(0)).len() - packs;

    let mut layout = layout();
    layout.tuning.packs_behind = packs - 1;
    let found = after(&kv, &layout, &known).await;
    assert!(matches!(found, Ok(Found::TooMany)));
    layout.tuning.packs_behind = packs;
    let Ok(Found::Batches(batches, newer)) = after(&kv, &layout, &known).await else {
        panic!("they are there");
    };
    let heads = batches.iter().map(|batch| batch.head);
    let told: Vec<_> = heads.map(|head| (head.seq, head.revision)).collect();
    let expected: Vec<_> = (6..).zip(revisions).collect();
    assert_eq!(told, expected);
    let known = known.and(newer).expect("it is whole");
    assert_eq!(known.head(), log.head());
}

/// Additions of batches to a session are applied to its known state: that of the log, if the session has no newer row, or that of
/// its row at the time. A session that a batch has as a whole needs neither.
#[tokio::test]
async fn what_is_added_to_sessions_is_put_on_what_is_known() {
    let kv = Model::default();
    let layout = layout();
    let [first, second, third] = [&[1][..], &[1, 2], &[1, 2, 3]].map(|known| session(0, known));
    let other = session(4, &[7]);
    let change = |id: &str, before: Option<&Arc<Session>>, after: &Arc<Session>| {
        let change = SessionChange {
            before: before.cloned(),
            after: Some(after.clone()),
        };
        (SessionId::from(id), change)
    };
    for id in ["in-log", "in-row"] {
        let state = first.encode().into();
        let key = layout.session(0, id);
        let row = layout.seal(&key, &stored::Session { state });
        kv.write(vec![put(key, row)]);
    }
    let mut log = Log::empty(layout.clone(), 0);
    let before = ["in-log", "told"].map(|id| change(id, Some(&first), &second));
    land(&kv, &mut log, before.into());
    let mut known = Log::empty(layout.clone(), 0);
    for id in ["in-log", "told"] {
        known.set_session(id.into(), Some(second.clone()));
    }
    let head = kv::read(&kv, vec![get(layout.head(0))]).await;
    let head = head.expect("it is there").ranges[0].kvs[0].clone();
    let stored: stored::Head = layout.open(&head).expect("it is whole");
    known
        .set_head(stored, head.mod_revision)
        .expect("it is whole");

    let changes = vec![
        change("in-log", Some(&second), &third),
        change("in-row", Some(&first), &second),
        change("told", None, &other),
    ];
    land(&kv, &mut log, changes);
    kv.requests();
    let found = after(&kv, &layout, &known).await;
    let Ok(Found::Batches(batches, _)) = found else {
        panic!("they are there");
    };
    let told = batches.last().expect("one").sessions.iter();
    let told = told.map(|(id, session)| (&**id, session.clone()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("in-log", Some(third)),
            ("in-row", Some(second)),
            ("told", Some(other))
        ]
    );
    let read = kv.requests().pop().expect("rows were read").success;
    let Some(Request::RequestRange(row)) = &read[0].request else {
        panic!("a row was read");
    };
    assert_eq!((read.len(), &row.key), (1, &layout.session(0, "in-row")));
    assert!(row.revision > 0, "rows may be newer by now");
}

/// The operator is told of a damaged session when its lane is loaded.
#[tokio::test]
async fn a_damaged_session_is_told_of() {
    let kv = Model::default();
    land(&kv, &mut Log::empty(layout(), 0), Vec::new());
    kv.write(vec![put(layout().session(0, "meter-7"), "damage")]);
    let told = logged(|| {
        let loaded = loaded(&kv).now_or_never().expect("it is answered at once");
        assert!(loaded.1.sessions[0].1.is_damaged());
    });
    assert!(told.contains("/sumd/sessions/0000/meter-7"), "{told}");
}
