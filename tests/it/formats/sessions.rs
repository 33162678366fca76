//! Sessions of a version that treated each form of a UUIDv7 as an id of its own.

use std::sync::Arc;
use std::time::SystemTime;

use sumd::model::{Changes, Commit, SessionChange, SessionId, Stamp};
use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest};
use sumd::store::Store;
use sumd::store::etcd::{EtcdStore, Tuning};
use sumd::store::sqlite::SqliteStore;
use tonic::Status;

use super::{BEGUN, Client, Location, SUMD, stop};
use crate::support::{soon, uuid_v7};

/// Sends one message on a stream of its own. Returns the acknowledged number.
async fn record(client: &mut Client, session: &str, sequence: u64) -> Result<u64, Status> {
    let increment = Increment {
        counter: "acme/bulk".into(),
        delta: 1,
        ..Increment::default()
    };
    let message = RecordIncrementsRequest {
        session_id: session.into(),
        sequence,
        acknowledged: sequence - 1,
        increments: vec![increment],
        ..RecordIncrementsRequest::default()
    };
    let answers = client.record_increments(tokio_stream::once(message));
    let mut answers = soon(answers).await?.into_inner();
    let mut acknowledged = 0;
    while let Some(answer) = soon(answers.message()).await? {
        acknowledged = answer.acknowledged.max(acknowledged);
    }
    Ok(acknowledged)
}

/// Stores a session under another id, in each lane that has a part of it.
async fn rename(store: &dyn Store, from: &str, to: &str) {
    for lane in 0..store.lanes() {
        let loaded = soon(store.load(lane)).await.expect("it is well");
        let head = loaded.head;
        let mut sessions = loaded.sessions.into_iter();
        let Some((_, session)) = sessions.find(|(id, _)| **id == *from) else {
            continue;
        };
        let change = |id: &str, before, after| -> (SessionId, _) {
            (id.into(), SessionChange { before, after })
        };
        let batch = Commit {
            seq: head.seq + 1,
            time: head.time,
            stamp: Stamp {
                age: head.age,
                newest: None,
            },
            horizon: head.horizon,
            session_horizon: head.session_horizon,
            places: 0,
            ids: [].into(),
            forget_before: 0,
            deletions_up_to: 0,
            changes: Changes {
                sessions: vec![
                    change(from, Some(session.clone()), None),
                    change(to, None, Some(session)),
                ],
                ..Changes::default()
            },
        };
        let stored = soon(store.commit(lane, Arc::new(batch))).await;
        stored.expect("stored");
    }
}

/// A session resumes under the form by which it was stored, and a message that it contains is not counted again.
async fn goes_on(name: &str) {
    let place = Location::new(name).await;
    let canonical = uuid_v7(SystemTime::UNIX_EPOCH + BEGUN);
    let stored = canonical.to_uppercase();
    let (server, mut client) = place.serve(SUMD, &place.store()).await;
    let acknowledged = record(&mut client, &canonical, 1).await;
    assert_eq!(acknowledged.expect("it counts"), 1);
    stop(server).await;
    if let Some(etcd) = &place.etcd {
        let store = EtcdStore::over(etcd.client(), "/sumd", 128, Tuning::default()).await;
        rename(&store.expect("it is there"), &canonical, &stored).await;
    } else {
        let store = SqliteStore::open(place.file("sumd.db").as_ref(), 1 << 20);
        rename(&store.expect("it is there"), &canonical, &stored).await;
    }

    let (server, mut client) = place.serve(SUMD, &place.store()).await;
    for sequence in [1, 2] {
        let acknowledged = record(&mut client, &stored, sequence).await;
        assert_eq!(acknowledged.expect("it goes on"), sequence);
    }
    let counters = super::scenario::list(&mut client).await;
    assert_eq!(counters["acme/bulk"], 2);
    stop(server).await;
}

#[tokio::test]
async fn a_session_in_a_database_goes_on_under_its_form() {
    goes_on("sqlite").await;
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn a_session_in_etcd_goes_on_under_its_form() {
    goes_on("etcd").await;
}
