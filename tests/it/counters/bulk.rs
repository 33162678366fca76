//! `RecordIncrements`: sessions.

use std::time::SystemTime;

use sumd::proto::sum::v1::{Increment, OnLimit, RecordIncrementsRequest};
use tonic::Code;

use super::{get, refused, serve};
use crate::support::bulk::Stream;
use crate::support::{reason, soon};

fn message(sequence: u64, acknowledged: u64, deltas: &[i64]) -> RecordIncrementsRequest {
    RecordIncrementsRequest {
        session_id: "meter-7".into(),
        session_time: Some(SystemTime::now().into()),
        sequence,
        acknowledged,
        increments: deltas
            .iter()
            .map(|delta| Increment {
                counter: "acme/bulk".into(),
                delta: *delta,
                ..Increment::default()
            })
            .collect(),
    }
}

#[tokio::test]
async fn messages_are_acknowledged_and_counted_once() {
    let (_server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    for sequence in 1..=200 {
        stream.send(message(sequence, 0, &[1; 10])).await;
    }
    assert_eq!(stream.acknowledged(200).await.expect("all"), []);
    stream.end().await.expect("a clean end");
    let counter = get(&mut client, "acme/bulk").await;
    assert_eq!(counter.value, 2000);
    assert_eq!(stream.revision, counter.revision);

    // Another stream, of a client that has seen no answer.
    let mut stream = Stream::open(&mut client).await;
    for sequence in 1..=201 {
        stream.send(message(sequence, 0, &[1; 10])).await;
    }
    stream.acknowledged(201).await.expect("all");
    stream.end().await.expect("a clean end");
    assert_eq!(get(&mut client, "acme/bulk").await.value, 2010);
}

#[tokio::test]
async fn a_stream_begins_with_what_is_acknowledged() {
    let (_server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    stream.send(message(0, 0, &[])).await;
    let first = soon(stream.answers.message()).await.expect("no error");
    assert_eq!(first.expect("an answer").acknowledged, 0);
    stream.send(message(1, 0, &[i64::MAX, 1])).await;
    let failures = stream.acknowledged(1).await.expect("applied");
    assert_eq!(failures, [(1, 1, Code::OutOfRange as i32)]);
    stream.end().await.expect("a clean end");

    // The failure is reported until the client declares that it knows it.
    for (known, failures) in [
        (0, vec![(1, 1, Code::OutOfRange as i32)]),
        (1, vec![]),
        (0, vec![]),
    ] {
        let mut stream = Stream::open(&mut client).await;
        stream.send(message(0, known, &[])).await;
        assert_eq!(stream.acknowledged(1).await.expect("known"), failures);
        stream.end().await.expect("a clean end");
    }
}

#[tokio::test]
async fn increments_fail_one_by_one() {
    let (_server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    let mut mixed = message(1, 0, &[1, 1, 1, 1, 1, 1]);
    mixed.increments[1].counter = "a//b".into();
    mixed.increments[2].max = Some(1);
    mixed.increments[3].on_limit = 7;
    mixed.increments[4].min = Some(2);
    mixed.increments[4].max = Some(1);
    mixed.increments[5].max = Some(1);
    mixed.increments[5].on_limit = OnLimit::Saturate.into();
    stream.send(mixed).await;
    let failures = stream.acknowledged(1).await.expect("applied");
    let (invalid, limit) = (
        Code::InvalidArgument as i32,
        Code::FailedPrecondition as i32,
    );
    assert_eq!(
        failures,
        [
            (1, 1, invalid),
            (1, 2, limit),
            (1, 3, invalid),
            (1, 4, invalid)
        ]
    );
    assert_eq!(get(&mut client, "acme/bulk").await.value, 1);
}

/// Each mistake ends the stream with its own error, and acknowledged messages stay counted.
#[tokio::test]
async fn mistakes_end_the_stream() {
    let (_server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    stream.send(message(1, 0, &[1])).await;
    stream.send(message(2, 1, &[1])).await;
    stream.acknowledged(2).await.expect("both");

    let other_session = RecordIncrementsRequest {
        session_id: "other".into(),
        ..message(3, 2, &[1])
    };
    let no_time = RecordIncrementsRequest {
        session_time: None,
        ..message(3, 2, &[1])
    };
    let old = RecordIncrementsRequest {
        session_id: "old".into(),
        session_time: Some(std::time::UNIX_EPOCH.into()),
        ..message(1, 0, &[1])
    };
    let mistakes = [
        (
            vec![message(2, 1, &[2])],
            Code::AlreadyExists,
            "SEQUENCE_REUSED",
        ),
        (
            vec![message(4, 2, &[1])],
            Code::FailedPrecondition,
            "SEQUENCE_GAP",
        ),
        (
            vec![message(1, 1, &[1])],
            Code::FailedPrecondition,
            "SEQUENCE_ACKNOWLEDGED",
        ),
        (
            vec![message(4, 3, &[1])],
            Code::FailedPrecondition,
            "SESSION_LOST",
        ),
        (vec![old], Code::FailedPrecondition, "SESSION_TOO_OLD"),
        (
            vec![message(300, 2, &[1])],
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (
            vec![message(0, 2, &[1])],
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (
            vec![message(3, 2, &[1; 1001])],
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
        (vec![no_time], Code::InvalidArgument, "INVALID_ARGUMENT"),
        (
            vec![message(0, 2, &[]), other_session],
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        ),
    ];
    for (messages, code, expected) in mistakes {
        let mut stream = Stream::open(&mut client).await;
        for message in messages {
            stream.send(message).await;
        }
        let status = stream.end().await.expect_err(expected);
        assert_eq!(refused(&status, code), expected, "{status:?}");
    }
    assert_eq!(get(&mut client, "acme/bulk").await.value, 2);
}

/// A message may have the maximum number of increments, and messages may be ahead of the client's acknowledgements by
/// the whole window.
#[tokio::test]
async fn messages_may_be_as_large_and_as_far_ahead_as_is_said() {
    let (_server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    stream.send(message(1, 0, &[1; 1000])).await;
    for sequence in 2..=256 {
        stream.send(message(sequence, 0, &[1])).await;
    }
    assert_eq!(stream.acknowledged(256).await.expect("all"), []);
    stream.end().await.expect("a clean end");
    assert_eq!(get(&mut client, "acme/bulk").await.value, 1255);

    let mut stream = Stream::open(&mut client).await;
    stream.send(message(257, 0, &[1])).await;
    let status = stream.end().await.expect_err("it is too far ahead");
    assert_eq!(refused(&status, Code::InvalidArgument), "INVALID_ARGUMENT");
}

/// A cancelled stream has applied a prefix of its messages; if the next stream repeats all of them, each counts once.
#[tokio::test]
async fn a_cancelled_stream_has_applied_a_prefix() {
    let (_server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    for sequence in 1..=50 {
        stream.send(message(sequence, 0, &[1])).await;
    }
    stream.acknowledged(1).await.expect("the first");
    drop(stream);

    let mut stream = Stream::open(&mut client).await;
    for sequence in 1..=50 {
        stream.send(message(sequence, 0, &[1])).await;
    }
    stream.acknowledged(50).await.expect("all");
    assert_eq!(get(&mut client, "acme/bulk").await.value, 50);
}

/// A draining server accepts no more messages, acknowledges those it has, and ends the stream with the reason.
#[tokio::test]
async fn draining_ends_a_stream_behind_its_acknowledgements() {
    let (mut server, mut client) = serve().await;
    let mut stream = Stream::open(&mut client).await;
    stream.send(message(1, 0, &[1])).await;
    stream.acknowledged(1).await.expect("applied");
    server.stop();
    let status = stream.end_by_server().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status).0, "SHUTTING_DOWN");
    server.ended().await;
}
