//! Metering: events that are late, and events that come again.

use std::sync::Arc;
use std::time::SystemTime;

use sumd::model::{Changes, Commit, Millis, Stamp};
use sumd::store::Store as _;
use sumd::store::sqlite::SqliteStore;
use tempfile::TempDir;

use super::{DAY, HOUR, MINUTE, Server, ago, request};
use crate::support::{reason, soon, uuid_v7};

const NOVEMBER: &str = "acme/2026-11/api-calls";
const DECEMBER: &str = "acme/2026-12/api-calls";

/// Data in which ids and sessions were forgotten that had times up to a moment.
pub(super) async fn forgotten_up_to(time: SystemTime) -> TempDir {
    let data = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&data.path().join("sumd.db"), 1 << 20).expect("a new database");
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since_1970.expect("after 1970").as_millis();
    let time = Millis::try_from(millis).expect("a time");
    let batch = Commit {
        seq: 1,
        time,
        stamp: Stamp {
            age: Some(0),
            newest: None,
        },
        horizon: time,
        session_horizon: time,
        places: 0,
        ids: [].into(),
        forget_before: 0,
        deletions_up_to: 0,
        changes: Changes::default(),
    };
    soon(store.commit(0, Arc::new(batch)))
        .await
        .expect("stored");
    data
}

#[tokio::test]
async fn a_repeated_event_counts_once() {
    let mut server = Server::start(&[]).await;
    let event = request(DECEMBER, 120, "event-81", ago(MINUTE));
    assert_eq!(server.counted(&event).await, (120, false));
    assert_eq!(server.counted(&event).await, (120, true));
    let other = request(DECEMBER, 1, "event-82", ago(MINUTE));
    assert_eq!(server.counted(&other).await, (121, false));

    let mut server = server.crash().await;
    assert_eq!(server.counted(&event).await, (120, true));
    assert_eq!(server.value(DECEMBER).await, 121);

    // Other contents, which is another period's counter as well.
    for changed in [
        request(DECEMBER, 121, "event-81", ago(MINUTE)),
        request(NOVEMBER, 120, "event-81", ago(MINUTE)),
    ] {
        assert_eq!(server.refused(&changed).await, "REQUEST_ID_REUSED");
    }
    // The id is that of this group alone.
    let elsewhere = request("other/2026-12/api-calls", 5, "event-81", ago(MINUTE));
    assert_eq!(server.counted(&elsewhere).await, (5, false));
}

/// Events that carry their own time are refused once they are late, whatever is sent beside them.
#[tokio::test]
async fn a_late_event_with_its_own_time_is_refused() {
    let mut server = Server::start(&[]).await;
    let made = ago(2 * HOUR);
    let uuid = uuid_v7(made);
    for late in [
        request(NOVEMBER, 7, "event-80", made),
        request(NOVEMBER, 7, &uuid, made),
        // The time in a UUIDv7 is the one that counts.
        request(NOVEMBER, 7, &uuid, SystemTime::now()),
    ] {
        assert_eq!(server.refused(&late).await, "REQUEST_TOO_OLD");
    }
    assert_eq!(server.value(NOVEMBER).await, 0);
}

/// Events that have the time of their arrival count however old they are, in their own period, and once. So does a refused
/// event that was never sent before.
#[tokio::test]
async fn a_late_event_counts_by_the_time_of_its_arrival() {
    let mut server = Server::start(&[]).await;
    let made = ago(30 * DAY);
    let prefixed = format!("event-{}", uuid_v7(made));
    let arrived = SystemTime::now();
    for (id, value) in [("event-80", 7), (&prefixed, 14)] {
        let refused = request(NOVEMBER, 7, id, made);
        assert_eq!(server.refused(&refused).await, "REQUEST_TOO_OLD");
        let late = request(NOVEMBER, 7, id, arrived);
        assert_eq!(server.counted(&late).await, (value, false));
        server = server.crash().await;
        assert_eq!(server.counted(&late).await, (value, true));
    }
    assert_eq!(server.value(NOVEMBER).await, 14);
}

/// Ids that are as old as any that was forgotten stay refused, however long ids are remembered from now on.
#[tokio::test]
async fn a_larger_horizon_helps_ids_that_are_newer_than_what_was_forgotten() {
    let half_an_hour = request(NOVEMBER, 1, "event-1", ago(HOUR / 2));
    let two_hours = request(NOVEMBER, 1, "event-2", ago(2 * HOUR));

    let data = forgotten_up_to(ago(HOUR)).await;
    let mut server = Server::start_on(data, &[]).await;
    assert_eq!(server.refused(&half_an_hour).await, "REQUEST_TOO_OLD");

    let mut server = server.restart(&["--id-horizon", "72h"]).await;
    assert_eq!(server.counted(&half_an_hour).await, (1, false));
    let refused = server.increment(&two_hours).await.expect_err("too old");
    let (reason, metadata) = reason(&refused);
    assert_eq!(reason, "REQUEST_TOO_OLD");
    assert!(metadata["time"] < metadata["horizon"], "{metadata:?}");

    // If no id was forgotten, the new horizon applies in full.
    let mut server = Server::start(&["--id-horizon", "72h"]).await;
    assert_eq!(server.counted(&two_hours).await, (1, false));
}

/// A bill is the sum over a period. What comes later is the difference.
#[tokio::test]
async fn late_events_are_billed_as_a_difference() {
    let mut server = Server::start(&[]).await;
    let now = SystemTime::now();
    server
        .counted(&request(NOVEMBER, 120, "event-1", now))
        .await;
    let logins = request("acme/2026-11/logins", 3, "event-2", now);
    server.counted(&logins).await;
    server.counted(&request(DECEMBER, 9, "event-3", now)).await;
    let billed = server.sum("acme/2026-11/").await;
    assert_eq!(billed, 123);
    server.counted(&request(NOVEMBER, 7, "event-80", now)).await;
    assert_eq!(server.sum("acme/2026-11/").await - billed, 7);
}

/// A device whose clock is ahead needs the time of its events' arrival.
#[tokio::test]
async fn an_id_from_the_future_is_refused() {
    let mut server = Server::start(&[]).await;
    let ahead = SystemTime::now() + 2 * MINUTE;
    let event = request(DECEMBER, 1, "event-1", ahead);
    assert_eq!(server.refused(&event).await, "REQUEST_FROM_FUTURE");
    let arrived = request(DECEMBER, 1, "event-1", SystemTime::now());
    assert_eq!(server.counted(&arrived).await, (1, false));
}
