//! Imports: a partition of a queue, whose offsets make the sequences of a session.

use std::time::SystemTime;

use prost_types::Timestamp;
use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest};
use tonic::{Code, Status};

use super::metering::forgotten_up_to;
use super::{DAY, HOUR, Server, ago, not_applied};
use crate::counters::Client;
use crate::support::bulk::Stream;
use crate::support::process::run;
use crate::support::reason;

const ORDERS: &str = "shop/2025/orders";
/// The offset that the session begins with.
const FIRST: u64 = 4711;

/// The notes of a consumer, and all that outlives it.
#[derive(Clone)]
struct Notes {
    session_id: String,
    session_time: Timestamp,
    first: u64,
    /// The next offset: all before it are acknowledged.
    committed: u64,
}

impl Notes {
    fn new(first: u64, begun: SystemTime) -> Self {
        Self {
            session_id: format!("orders/0@{first}"),
            session_time: begun.into(),
            first,
            committed: first,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.committed - self.first
    }

    /// Sequence 0: how far is the server?
    fn question(&self) -> RecordIncrementsRequest {
        RecordIncrementsRequest {
            session_id: self.session_id.clone(),
            session_time: Some(self.session_time),
            sequence: 0,
            acknowledged: self.acknowledged(),
            increments: Vec::new(),
        }
    }

    /// The message of an offset. Of every four records one counts nothing, and of every seven offsets one has no record.
    fn message(&self, offset: u64) -> RecordIncrementsRequest {
        let is_order = !offset.is_multiple_of(4) && !offset.is_multiple_of(7);
        let order = is_order.then(|| increment(ORDERS));
        RecordIncrementsRequest {
            sequence: offset - self.first + 1,
            increments: order.into_iter().collect(),
            ..self.question()
        }
    }

    /// Opens a stream; gives it with the offset to go on at.
    async fn resume(&self, client: &mut Client) -> Result<(Stream, u64), Status> {
        let mut stream = Stream::open(client).await;
        stream.send(self.question()).await;
        let answer = stream.answers.message().await?.expect("an answer");
        Ok((stream, self.first + answer.acknowledged))
    }

    /// Counts what is before an offset, and commits that.
    async fn consume(&mut self, client: &mut Client, end: u64) -> Result<(), Status> {
        let (mut stream, next) = self.resume(client).await?;
        for offset in next..end {
            stream.send(self.message(offset)).await;
        }
        if next < end {
            stream.acknowledged(end - self.first).await?;
        }
        self.committed = end.max(next);
        stream.end().await
    }
}

fn increment(counter: &str) -> Increment {
    Increment {
        counter: counter.into(),
        delta: 1,
        ..Increment::default()
    }
}

/// The orders between the first offset and another one.
fn orders(end: u64) -> i64 {
    let notes = Notes::new(FIRST, SystemTime::now());
    let messages = (FIRST..end).map(|offset| notes.message(offset).increments.len());
    i64::try_from(messages.sum::<usize>()).expect("few")
}

/// Consumers and servers die at any moment. The next consumer has nothing but the notes.
#[tokio::test]
async fn each_record_counts_once() {
    let mut server = Server::start(&[]).await;
    let mut notes = Notes::new(FIRST, SystemTime::now());
    for round in 1..=4 {
        let end = FIRST + 100 * round;
        // One that dies before it has committed, and one that dies with the server.
        let mut dying = notes.clone();
        dying
            .consume(&mut server.client, end - 50)
            .await
            .expect("counted");
        let (stream, next) = notes.resume(&mut server.client).await.expect("resumed");
        assert_eq!(next, end - 50, "all that was acknowledged");
        for offset in next..end {
            stream.send(notes.message(offset)).await;
        }
        server = server.crash().await;
        notes
            .consume(&mut server.client, end)
            .await
            .expect("counted");
        assert_eq!(server.value(ORDERS).await, orders(end));
        assert_eq!(notes.committed, end);
    }
}

/// During a rebalance two consumers have the same partition: they send the same messages.
#[tokio::test]
async fn two_consumers_of_a_partition_do_no_harm() {
    let mut server = Server::start(&[]).await;
    let notes = Notes::new(FIRST, SystemTime::now());
    let (mut slow, _) = notes.resume(&mut server.client).await.expect("resumed");
    let (mut quick, _) = notes.resume(&mut server.client).await.expect("resumed");
    for offset in FIRST..FIRST + 20 {
        quick.send(notes.message(offset)).await;
        slow.send(notes.message(offset)).await;
    }
    quick.acknowledged(20).await.expect("counted");
    slow.acknowledged(20).await.expect("counted");
    assert_eq!(server.value(ORDERS).await, orders(FIRST + 20));

    // The quick one commits, and goes on; the slow one is where it was.
    let mut committed = notes.clone();
    committed.committed = FIRST + 20;
    quick.send(committed.message(FIRST + 20)).await;
    quick.acknowledged(21).await.expect("counted");
    slow.send(notes.message(FIRST + 19)).await;
    let ended = slow.end_by_server().await;
    assert_eq!(not_applied(&ended), "SEQUENCE_ACKNOWLEDGED");
    let (_, next) = notes.resume(&mut server.client).await.expect("resumed");
    assert_eq!(next, FIRST + 21);
    assert_eq!(server.value(ORDERS).await, orders(FIRST + 21));
}

/// Refused increments are told until the client says that it knows of them; the others of the message count.
#[tokio::test]
async fn failures_are_told_until_they_are_known() {
    let mut server = Server::start(&[]).await;
    let mut notes = Notes::new(FIRST, SystemTime::now());
    let mut mixed = notes.message(FIRST);
    mixed.increments = vec![increment("shop//orders"), increment(ORDERS)];
    let mut stream = Stream::open(&mut server.client).await;
    stream.send(mixed).await;
    let failed = [(1, 0, Code::InvalidArgument as i32)];
    assert_eq!(stream.acknowledged(1).await.expect("counted"), failed);
    assert_eq!(server.value(ORDERS).await, 1);

    // The consumer dies before it has stored them; the next one stores them, and commits.
    let mut server = server.crash().await;
    for known in [false, true] {
        notes.committed += u64::from(known);
        let mut stream = Stream::open(&mut server.client).await;
        stream.send(notes.question()).await;
        let told = stream.acknowledged(1).await.expect("counted");
        assert_eq!(told.is_empty(), known);
        stream.end().await.expect("a clean end");
    }
}

/// A consumer that makes other increments of a record is told so, and changes nothing.
#[tokio::test]
async fn a_record_that_gives_other_increments_is_refused() {
    let mut server = Server::start(&[]).await;
    let notes = Notes::new(FIRST, SystemTime::now());
    let mut stream = Stream::open(&mut server.client).await;
    stream.send(notes.message(FIRST)).await;
    stream.acknowledged(1).await.expect("counted");
    let mut other = notes.message(FIRST);
    other.increments.push(increment("shop/2025/returns"));
    stream.send(other).await;
    let ended = stream.end_by_server().await;
    assert_eq!(not_applied(&ended), "SEQUENCE_REUSED");
    assert_eq!(server.sum("shop/").await, orders(FIRST + 1));
}

/// After the restore of a backup the messages that it lacks are sent again, from where the server says.
#[tokio::test]
async fn a_restored_backup_is_filled_up_again() {
    let mut server = Server::start(&[]).await;
    let mut notes = Notes::new(FIRST, SystemTime::now());
    let path = |name: &str| {
        let path = server.data.path().join(name);
        path.into_os_string().into_string().expect("text")
    };
    let (backup, folder) = (path("backup.db"), path(""));
    notes
        .consume(&mut server.client, FIRST + 30)
        .await
        .expect("counted");
    let made = run(&["backup", &backup, "--data-dir", &folder]).await;
    assert!(made.status.success(), "{made:?}");
    notes
        .consume(&mut server.client, FIRST + 50)
        .await
        .expect("counted");

    let data = tempfile::tempdir().expect("a folder");
    let folder = data.path().to_str().expect("a path");
    let made = run(&["restore", &backup, "--data-dir", folder]).await;
    assert!(made.status.success(), "{made:?}");
    let mut server = Server::start_on(data, &[]).await;
    let lost = notes.consume(&mut server.client, FIRST + 60).await;
    let (reason, metadata) = reason(&lost.expect_err("it is not so far"));
    assert_eq!(reason, "SESSION_LOST");
    assert_eq!(metadata["acknowledged"], "30");
    assert_eq!(server.value(ORDERS).await, orders(FIRST + 30));

    notes.committed = FIRST + 30;
    notes
        .consume(&mut server.client, FIRST + 60)
        .await
        .expect("counted");
    assert_eq!(server.value(ORDERS).await, orders(FIRST + 60));
}

/// A session that may have been forgotten is refused, and another one begins at the next offset. Its time is that of its
/// begin: the time of its data is too old.
#[tokio::test]
async fn a_session_that_is_too_old_is_followed_by_another() {
    let data = forgotten_up_to(ago(HOUR)).await;
    let mut server = Server::start_on(data, &[]).await;
    let mut old = Notes::new(FIRST, ago(2 * HOUR));
    old.committed = FIRST + 20;
    let refused = old.consume(&mut server.client, FIRST + 40).await;
    let refused = refused.expect_err("forgotten");
    assert_eq!(not_applied(&refused), "SESSION_TOO_OLD");
    let mut next = Notes::new(old.committed, SystemTime::now());
    next.consume(&mut server.client, FIRST + 40)
        .await
        .expect("counted");
    let counted = orders(FIRST + 40) - orders(FIRST + 20);
    assert_eq!(server.value(ORDERS).await, counted);

    let mut server = Server::start(&[]).await;
    let mut history = Notes::new(FIRST, ago(2 * DAY));
    let refused = history.consume(&mut server.client, FIRST + 1).await;
    let refused = refused.expect_err("of the day before yesterday");
    assert_eq!(not_applied(&refused), "SESSION_TOO_OLD");
    let mut server = server.restart(&["--session-horizon", "8days"]).await;
    let begun = history.consume(&mut server.client, FIRST + 1).await;
    begun.expect("begun within the horizon");
}
