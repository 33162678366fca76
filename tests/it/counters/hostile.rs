//! Hostile or broken clients: memory stays bounded, and other clients are served.

use prost::Message as _;
use sumd::proto::sum::v1::{
    Increment, RecordIncrementsRequest, SumCountersRequest, WatchCountersRequest,
};
use tokio_stream::iter;

use super::{Client, increment, request_as, try_increment};
use crate::support::process::Process;
use crate::support::{raw, soon};

async fn client(server: &Process) -> Client {
    let address = format!("http://{}", server.address);
    Client::connect(address).await.expect("it listens")
}

/// Sends messages that increment a thousand new counters each, as fast as the server accepts them.
pub async fn flood(client: &mut Client, number: u32, messages: u64) {
    let session_id = uuid::Uuid::now_v7().to_string();
    let messages = (1..=messages).map(move |sequence| RecordIncrementsRequest {
        session_id: session_id.clone(),
        session_time: None,
        sequence,
        // A client that does not wait has to stay within the window.
        acknowledged: 0,
        increments: (0..1000)
            .map(|i| Increment {
                counter: format!("flood/{number}/{sequence}/{i}"),
                delta: 1,
                ..Increment::default()
            })
            .collect(),
    });
    let answers = client.record_increments(iter(messages)).await;
    let mut answers = answers.expect("a stream").into_inner();
    while soon(answers.message()).await.expect("no error").is_some() {}
}

/// Counters that are not in memory are read from disk: any number of names costs only disk space.
#[tokio::test]
async fn endless_names_take_no_memory() {
    let flags = ["--counter-memory", "4MiB", "--id-memory", "4MiB"];
    let server = Process::serve(&flags).await;
    let mut client = client(&server).await;
    increment(&mut client, "others/a", 1).await;
    // By now, caches and queues have reached their size.
    flood(&mut client, 0, 50).await;
    let before = server.resident_bytes();
    for number in 1..5 {
        flood(&mut client, number, 50).await;
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "200,000 new names took {grown} bytes");

    let prefix = "flood/".to_owned();
    let sum = soon(client.sum_counters(SumCountersRequest { prefix })).await;
    assert_eq!(sum.expect("a sum").into_inner().count, 250_000);
    assert_eq!(increment(&mut client, "others/a", 1).await.value, 2);
}

/// Watchers that never read an answer.
async fn deaf_watchers(server: &Process, prefix: &str) -> (Vec<raw::Connection>, Vec<raw::Call>) {
    let request = WatchCountersRequest {
        prefix: prefix.into(),
        ..WatchCountersRequest::default()
    };
    let message = raw::framed(&request.encode_to_vec());
    let mut connections = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..4 {
        let mut connection = raw::Connection::open_deaf(&server.address).await;
        for _ in 0..50 {
            let mut call = connection
                .call_path("/sum.v1.CounterService/WatchCounters")
                .await;
            call.send(message.clone(), true);
            calls.push(call);
        }
        connections.push(connection);
    }
    (connections, calls)
}

/// Watchers that never read take no memory while everything that they watch changes again and again.
#[tokio::test]
async fn watchers_that_never_read_take_no_memory() {
    let server = Process::serve(&[]).await;
    let mut client = client(&server).await;
    for i in 0..1000 {
        increment(&mut client, &format!("watched/{i}"), 1).await;
    }
    let _deaf = deaf_watchers(&server, "watched/").await;
    increment(&mut client, "watched/0", 1).await;
    let before = server.resident_bytes();
    for i in 0..2000 {
        increment(&mut client, &format!("watched/{}", i % 1000), 1).await;
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "200 deaf watchers took {grown} bytes");
}

/// Watchers that never read do not keep copies of many simultaneous changes.
#[tokio::test]
async fn watchers_that_never_read_keep_no_changes() {
    let server = Process::serve(&[]).await;
    let mut client = client(&server).await;
    // By now, caches and queues have reached their size.
    flood(&mut client, 0, 50).await;
    let _deaf = deaf_watchers(&server, "flood/1/").await;
    increment(&mut client, "others/a", 1).await;
    let before = server.resident_bytes();
    flood(&mut client, 1, 50).await;
    // Each watcher has had its turn by now.
    for _ in 0..100 {
        increment(&mut client, "others/a", 1).await;
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "200 deaf watchers took {grown} bytes");
}

/// An id that is repeated by thousands of concurrent requests is counted once.
#[tokio::test]
async fn an_id_replayed_by_the_thousand_is_counted_once() {
    let server = Process::serve(&[]).await;
    let client = client(&server).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..3000 {
        let mut client = client.clone();
        asking.spawn(async move {
            let answer = try_increment(&mut client, request_as("one", "a", 7)).await;
            answer.expect("the first answer")
        });
    }
    let answers = soon(asking.join_all()).await;
    assert!(answers.iter().all(|answer| answer.value == 7));
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
}

/// When memory for ids is full, new ids are refused and none is forgotten; requests without ids are served.
#[tokio::test]
async fn full_memory_for_ids_refuses_and_forgets_nothing() {
    let server = Process::serve(&["--id-memory", "64KiB"]).await;
    let mut client = client(&server).await;
    let mut taken = 0;
    let status = loop {
        match try_increment(&mut client, request_as(&taken.to_string(), "a", 1)).await {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(
        super::refused(&status, tonic::Code::ResourceExhausted),
        "REQUEST_IDS_FULL"
    );
    assert!(tonic_types::StatusExt::get_details_retry_info(&status).is_some());
    for id in 0..taken {
        let again = try_increment(&mut client, request_as(&id.to_string(), "a", 1)).await;
        assert!(again.expect("it is remembered").replayed);
    }
    assert_eq!(increment(&mut client, "a", 1).await.value, taken + 1);
}
