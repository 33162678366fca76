//! Refusals that need an operator's action are logged, and rarely, however many there are.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{IncrementCounterRequest, WatchCountersRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::NOW;
use crate::support::process::Process;
use crate::support::{reason, soon, uuid_v7};

type Client = CounterServiceClient<Channel>;

async fn connect(server: &Process) -> Client {
    let client = Client::connect(format!("http://{}", server.address)).await;
    client.expect("it listens")
}

async fn increment(client: &mut Client, request_id: String) -> Result<(), Status> {
    let request = IncrementCounterRequest {
        counter: "a".to_owned(),
        delta: 1,
        request_id,
        ..IncrementCounterRequest::default()
    };
    soon(client.increment_counter(request)).await.map(drop)
}

/// The only line in the rest of the log whose message begins with `message`.
async fn only(server: &mut Process, message: &str) -> Value {
    server.signal("TERM");
    let rest = server.rest_of_log().await;
    let begins = |line: &&Value| {
        let told = line["message"].as_str();
        told.is_some_and(|told| told.starts_with(message))
    };
    let found: Vec<_> = rest.iter().filter(begins).collect();
    let [line] = found[..] else {
        panic!("{message:?} is logged {} times: {rest:?}", found.len());
    };
    assert_eq!(line["level"], "WARN", "{line}");
    line.clone()
}

/// An id whose time a clock makes too new or too old is refused with both times, the bound, and the two clocks that may
/// be wrong. The log reports it to the operator once.
#[tokio::test]
async fn ids_that_a_wrong_clock_refuses_are_told_and_logged() {
    let hours = Duration::from_hours(2);
    for (time, why, bound, logged) in [
        (
            SystemTime::now() + hours,
            "REQUEST_FROM_FUTURE",
            "now",
            "refusing ids as from the future, one of 1h 59m ",
        ),
        (
            SystemTime::now() - hours,
            "REQUEST_TOO_OLD",
            "horizon",
            "refusing ids as too old, one of 2h",
        ),
    ] {
        let mut server = Process::serve(&[NOW]).await;
        let mut client = connect(&server).await;
        for _ in 0..3 {
            let refused = increment(&mut client, uuid_v7(time)).await;
            let status = refused.expect_err("the clocks differ by two hours");
            assert_eq!(reason(&status).0, why);
            let info = status.get_details_error_info().expect("an ErrorInfo");
            let message = status.message();
            for name in ["time", "now", bound] {
                let told = &info.metadata[name];
                assert!(message.contains(&**told), "{name} is {told}: {message}");
            }
            for remedy in ["the client's", "or the server's"] {
                assert!(message.contains(remedy), "{message}");
            }
        }
        let line = only(&mut server, logged).await;
        assert!(line["now"].as_str().is_some(), "{line}");
    }
}

/// Full memory for ids is logged with its flag.
#[tokio::test]
async fn ids_that_there_is_no_memory_for_are_logged() {
    let mut server = Process::serve(&["--id-memory=64KiB", NOW]).await;
    let mut client = connect(&server).await;
    let mut refused = 0;
    for number in 0.. {
        assert!(number < 10_000, "64 KiB are full");
        if let Err(status) = increment(&mut client, format!("id-{number}")).await {
            assert_eq!(reason(&status).0, "REQUEST_IDS_FULL");
            refused += 1;
        }
        if refused == 3 {
            break;
        }
    }
    let line = only(&mut server, "refusing new ids").await;
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("--id-memory"), "{line}");
}

/// Calls over the limit are logged, too.
#[tokio::test]
async fn calls_beyond_the_limit_are_logged() {
    let mut server = Process::serve(&["--max-calls=1", NOW]).await;
    let mut client = connect(&server).await;
    let watch = soon(client.watch_counters(WatchCountersRequest::default())).await;
    let mut watch = watch.expect("it is the first call").into_inner();
    soon(watch.message()).await.expect("the state");
    for _ in 0..3 {
        let refused = increment(&mut client, String::new()).await;
        let status = refused.expect_err("there is one call already");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let line = only(&mut server, "refusing calls (--max-calls)").await;
    assert_eq!(line["max"], 1, "{line}");
}
