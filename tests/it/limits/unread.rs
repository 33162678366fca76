//! Answers whose client does not read them.

use sumd::proto::sum::v1::IncrementCounterRequest;
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use tonic::Code;

use crate::support::raw::{self, Connection, framed};
use crate::support::{TestServer, reason, soon};

/// A caller that does not read its answers delays neither its deadline nor the release of its place among the calls in
/// flight.
#[tokio::test]
async fn readers_that_do_not_read() {
    let server = TestServer::start(&["--max-calls", "1", "--stream-idle-timeout", "100ms"]).await;
    for (method, end) in [("AddEach", false), ("Add", true)] {
        for headers in [&[("grpc-timeout", "50m")][..], &[]] {
            let mut deaf = Connection::open_deaf(&server.address).await;
            let mut call = deaf.call_with(method, headers).await;
            call.send(raw::values(&[1]), end);
            let (response, _request) = call.begin().await;
            let mut body = response.into_body();
            let reset = soon(body.data()).await.expect("an end").unwrap_err();
            assert_eq!(reset.reason(), Some(h2::Reason::CANCEL), "{method}");
            server.assert_well().await;
        }
    }
}

/// A single answer counts as a call in flight until its client has room for it, whether or not HTTP/2 could send its
/// beginning.
#[tokio::test]
async fn answers_are_in_flight() {
    let server = TestServer::start(&["--max-calls", "1"]).await;
    let mut counters = CounterServiceClient::new(server.channel().await);
    for i in 0..20 {
        let counter = format!("acme/{}/{i}", "x".repeat(100));
        let increment = IncrementCounterRequest {
            counter,
            delta: 1,
            ..IncrementCounterRequest::default()
        };
        soon(counters.increment_counter(increment)).await.unwrap();
    }
    let mut other = server.raw().await;
    for window in [0, 1, 1500] {
        let mut narrow = Connection::open_narrow(&server.address, window).await;
        let mut call = narrow
            .call_path("/sum.v1.CounterService/ListCounters")
            .await;
        call.send(framed(&[]), true);
        let (response, request) = call.begin().await;
        let refused = other.exchange("Add", raw::values(&[1])).await.status;
        assert_eq!(refused.code(), Code::Unavailable, "{window}");
        assert_eq!(reason(&refused).0, "OVERLOADED");
        drop((response, request, narrow));
        let free = async {
            while other.exchange("Add", raw::values(&[1])).await.status.code() != Code::Ok {}
        };
        soon(free).await;
    }
    // With room for it, it is sent, and counts no longer, although nobody has read it.
    let mut wide = Connection::open_narrow(&server.address, 65_535).await;
    let mut call = wide.call_path("/sum.v1.CounterService/ListCounters").await;
    call.send(framed(&[]), true);
    let _unread = call.begin().await;
    let answer = other.exchange("Add", raw::values(&[1])).await;
    assert_eq!(answer.status.code(), Code::Ok);
}
