//! Votes, of which a person has one; and views, of which there are many.

use std::time::SystemTime;

use sumd::proto::sum::v1::{Increment, IncrementCounterRequest, RecordIncrementsRequest};
use uuid::Uuid;

use super::{DAY, MINUTE, Server, ago, batch, request};
use crate::support::bulk::Stream;
use crate::support::soon;

fn vote(option: &str, voter: &str, opened: SystemTime) -> IncrementCounterRequest {
    request(&format!("ballot-7/{option}"), 1, voter, opened)
}

#[tokio::test]
async fn a_person_has_one_vote() {
    let mut server = Server::start(&[]).await;
    let opened = ago(MINUTE);
    assert_eq!(
        server.counted(&vote("yes", "ann", opened)).await,
        (1, false)
    );
    assert_eq!(
        server.counted(&vote("yes", "bob", opened)).await,
        (2, false)
    );
    let mut server = server.crash().await;
    assert_eq!(server.counted(&vote("yes", "ann", opened)).await, (1, true));
    let other = vote("no", "ann", opened);
    assert_eq!(server.refused(&other).await, "REQUEST_ID_REUSED");
    assert_eq!(server.value("ballot-7/yes").await, 2);
    assert_eq!(server.value("ballot-7/no").await, 0);

    // Another ballot is another group.
    let elsewhere = request("ballot-8/no", 1, "ann", opened);
    assert_eq!(server.counted(&elsewhere).await, (1, false));
}

/// Once it is older than ids are remembered, nobody can vote, so that nobody can vote twice.
#[tokio::test]
async fn a_ballot_ends_with_the_horizon() {
    let mut server = Server::start(&[]).await;
    let opened = ago(11 * MINUTE);
    for voter in ["ann", "bob"] {
        let late = vote("yes", voter, opened);
        assert_eq!(server.refused(&late).await, "REQUEST_TOO_OLD");
    }
    let mut server = Server::start(&["--id-horizon", "8days"]).await;
    let opened = ago(7 * DAY);
    assert_eq!(
        server.counted(&vote("yes", "ann", opened)).await,
        (1, false)
    );
    assert_eq!(server.counted(&vote("yes", "ann", opened)).await, (1, true));
}

#[tokio::test]
async fn a_vote_is_changed_by_a_batch() {
    let mut server = Server::start(&[]).await;
    let opened = ago(MINUTE);
    server.counted(&vote("yes", "ann", opened)).await;
    let change = batch("ann/2", opened, &[("ballot-7/yes", -1), ("ballot-7/no", 1)]);
    for replayed in [false, true] {
        let answer = soon(server.client.batch_increment_counters(change.clone())).await;
        assert_eq!(answer.expect("changed").get_ref().replayed, replayed);
    }
    assert_eq!(server.value("ballot-7/yes").await, 0);
    assert_eq!(server.value("ballot-7/no").await, 1);
}

/// A second's views, by page.
fn views(session: &str, sequence: u64, pages: &[(&str, i64)]) -> RecordIncrementsRequest {
    let increments = pages.iter().map(|(page, views)| Increment {
        counter: format!("site/views/{page}"),
        delta: *views,
        ..Increment::default()
    });
    RecordIncrementsRequest {
        session_id: session.to_owned(),
        sequence,
        increments: increments.collect(),
        ..RecordIncrementsRequest::default()
    }
}

/// Messages whose acknowledgement was lost with the server are repeated, unchanged, and count once. Another life of the
/// process has another session.
#[tokio::test]
async fn views_count_once() {
    let mut server = Server::start(&[]).await;
    let session = Uuid::now_v7().to_string();
    let seconds = [
        views(&session, 1, &[("home", 40), ("help", 2)]),
        views(&session, 2, &[("home", 50)]),
    ];
    let mut stream = Stream::open(&mut server.client).await;
    for second in &seconds {
        stream.send(second.clone()).await;
    }
    assert_eq!(stream.acknowledged(1).await.expect("counted"), []);

    let mut server = server.crash().await;
    let mut stream = Stream::open(&mut server.client).await;
    for second in &seconds {
        stream.send(second.clone()).await;
    }
    stream.acknowledged(2).await.expect("counted");
    assert_eq!(server.value("site/views/home").await, 90);

    let session = Uuid::now_v7().to_string();
    let mut stream = Stream::open(&mut server.client).await;
    stream.send(views(&session, 1, &[("home", 1)])).await;
    stream.acknowledged(1).await.expect("counted");
    assert_eq!(server.value("site/views/home").await, 91);
    assert_eq!(server.value("site/views/help").await, 2);
}
